"""Audiences: a name, and a rule (B071-B079, C72) or a list of contacts. What a rule may be is the library's to say;
here it is only asked."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from sendora import _core
from sendora.kernel.errors import ValidationFailed
from sendora.kernel.ids import AudienceId, OrgId, ProjectId
from sendora.kernel.wire import UNSET, UnsetType, Wire, WireIn

EXCLUDED_MAX: Final = 20
"""Audiences left out of a preview or a send: each may be an evaluation of its own."""

CONTACTS_MAX: Final = 1_000
"""Contacts added at a time."""

Kind = Literal["rules", "list"]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Description = Annotated[str, Meta(max_length=2_000)]
UserId = Annotated[str, Meta(min_length=1, max_length=256)]


class AudienceIn(WireIn, frozen=True, kw_only=True):
    """Body of `POST /audiences`."""

    name: Name
    rules: dict[str, Any] | None = None
    """Required, but for a list, which has none."""
    description: Description | None = None
    type: Kind = "rules"
    project_id: UUID | None = None


class AudiencePatch(WireIn, frozen=True, kw_only=True):
    """Body of `PATCH /audiences/{id}`: what is absent stays; `rules` replaces the whole tree (B078)."""

    name: Name | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    rules: dict[str, Any] | UnsetType = UNSET


class Audience(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `audiences`."""

    org: OrgId
    id: AudienceId
    project: ProjectId
    name: str
    description: str | None
    type: Kind
    rules: dict[str, Any] | None
    """None of a list."""
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None


class PreviewIn(WireIn, frozen=True, kw_only=True):
    """Body of `POST /audiences/preview`."""

    rules: dict[str, Any]
    exclude_audience_ids: Annotated[tuple[UUID, ...], Meta(max_length=EXCLUDED_MAX)] = ()
    project_id: UUID | None = None


class ExplainIn(WireIn, frozen=True, kw_only=True):
    """Body of `POST /audiences/explain`: exactly one of `rules` and `audienceId`."""

    user_id: UserId
    """External id or profile id (C70)."""
    rules: dict[str, Any] | None = None
    audience_id: UUID | None = None
    project_id: UUID | None = None


class ContactsIn(WireIn, frozen=True, kw_only=True):
    """Body of `POST /audiences/{id}/contacts`."""

    user_ids: Annotated[tuple[UserId, ...], Meta(min_length=1, max_length=CONTACTS_MAX)]


class Evaluated(Wire, frozen=True, kw_only=True):
    """How the last evaluations of an audience went, whoever asked for them: a size, or a send."""

    at: str | None
    """As of when the last one that came to an end counted; known to the minute."""
    age_seconds: int | None
    size: int | None
    """What it counted."""
    error: str | None
    """Why the last one came to nothing; null when it did not."""
    failed_at: str | None


class AudienceShown(Wire, frozen=True, kw_only=True):
    id: UUID
    project_id: UUID
    name: str
    description: str | None
    type: Kind
    rules: dict[str, Any] | None
    """Null of a contact list."""
    estimated_size: int | None
    """People, now; null when nobody counted in time."""
    estimated_at: str | None
    """The instant as of which was counted."""
    evaluation: Evaluated | None
    """Null before the first one."""
    created_at: str
    updated_at: str


class Contact(Wire, frozen=True, kw_only=True):
    """Somebody in a contact list, under the name that they had when they were added."""

    user_id: str
    added_at: str


class ContactsAdded(Wire, frozen=True, kw_only=True):
    """`added` + `already` + the number of `unknown` is the number of different ids that were given."""

    added: int
    already: int
    """In the list before, perhaps under another name that the person had; or given twice under two names."""
    unknown: tuple[str, ...]
    """Nobody has this external id."""


class ContactRemoved(Wire, frozen=True, kw_only=True):
    removed: bool


class AudienceDeleted(Wire, frozen=True, kw_only=True):
    id: UUID
    deleted: bool


class Membership(Wire, frozen=True, kw_only=True):
    """An audience that a person is in."""

    id: UUID
    name: str


class Leaf(Wire, frozen=True, kw_only=True):
    """A step of the funnel: how many people hold this leaf whatever the others say, and how many are not ruled out by
    it and those before it."""

    path: str
    alone: int
    remaining: int


class Addresses(Wire, frozen=True, kw_only=True):
    """Active devices, each once: somebody with three phones has three, a shared one is its last owner's."""

    ios: int = 0
    android: int = 0
    web: int = 0


class Preview(Wire, frozen=True, kw_only=True):
    count: int
    """People, exactly."""
    addresses: Addresses
    """Their active devices."""
    leaves: tuple[Leaf, ...]
    """The leaves of `rules` in the order in which they are written; exclusions are only in `count`."""
    as_of: str


class Explained(Wire, frozen=True, kw_only=True):
    member: bool
    tree: dict[str, Any]
    """The rule as written, each node with `truth`; a leaf with `observed` and `flipsAt`, the instant at which time
    alone will change it; one about events with `firstMatchAt`, the first event within its window that it counts. Of a
    contact list there is one leaf: `condition` is `{"list": id}`, `observed` is `{"addedAt": instant}`."""
    as_of: str


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """How many people, as of an instant."""

    count: int
    as_of: datetime


class Question(Wire, frozen=True, kw_only=True, tag="question"):
    """What is asked of an index, or of whoever evaluates rows."""

    org: UUID
    project: UUID
    rules: dict[str, Any]
    want: Literal["count", "preview", "members", "page"]
    as_of_ms: int
    after: int
    """The position of the log that an answer must not be behind of."""
    wait_s: float
    """How long an index may take to reach it."""
    excluded: tuple[dict[str, Any], ...] = ()
    """Whoever is in one of these is left out."""
    without: tuple[UUID, ...] = ()
    """So is whoever is in one of these contact lists; of a preview."""
    offset: int = 0
    size: int = 0
    """Of a page."""


class Fetch(Wire, frozen=True, kw_only=True, tag="fetch"):
    """The next piece of members that were too many for one answer."""

    ticket: UUID
    offset: int


class Reply(Wire, frozen=True, kw_only=True):
    """The answer to a Question. `ready` false: this index cannot tell, ask whoever evaluates rows."""

    ready: bool = True
    count: int = 0
    leaves: tuple[Leaf, ...] = ()
    addresses: Addresses = Addresses()
    names: tuple[str, ...] = ()
    ticket: UUID | None = None
    length: int = 0
    """Bytes behind the ticket."""


def compiled(rules: dict[str, Any]) -> _core.Rule:
    """The rule, or ValidationFailed with the place in it that is wrong, such as `rules.all.0.op`."""
    try:
        return _core.Rule(msgspec.json.encode(rules))
    except ValueError as error:
        path, message = error.args if len(error.args) == 2 else ("", str(error))
        raise ValidationFailed({f"rules.{path}" if path else "rules": [message]}) from None


def excluding(rules: dict[str, Any], excluded: Sequence[dict[str, Any]]) -> _core.Rule:
    """Whoever the rules say, but for whoever is in one of the others; ValidationFailed when that is no rule."""
    rule = compiled(rules)
    if not excluded:
        return rule
    try:
        return _core.Rule(msgspec.json.encode({"all": [rules, *({"not": other} for other in excluded)]}))
    except ValueError:
        raise ValidationFailed({"excludeAudienceIds": ["Too many conditions together with the rules"]}) from None
