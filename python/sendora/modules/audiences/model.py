"""Audiences: a name and a rule (B071-B079, C72). What a rule may be is the library's to say; here it is only asked."""

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

Name = Annotated[str, Meta(min_length=1, max_length=200)]
EXCLUDED_MAX: Final = 20
"""Audiences left out of a preview: together with its rules they must still be one rule."""

Description = Annotated[str, Meta(max_length=2_000)]


class AudienceIn(WireIn, frozen=True, kw_only=True):
    """Body of `POST /audiences`."""

    name: Name
    rules: dict[str, Any]
    description: Description | None = None
    type: Literal["rules"] = "rules"
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
    rules: dict[str, Any]
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

    user_id: Annotated[str, Meta(min_length=1, max_length=256)]
    """External id or profile id (C70)."""
    rules: dict[str, Any] | None = None
    audience_id: UUID | None = None
    project_id: UUID | None = None


class AudienceShown(Wire, frozen=True, kw_only=True):
    id: UUID
    project_id: UUID
    name: str
    description: str | None
    rules: dict[str, Any]
    estimated_size: int | None
    """Null when nobody counted in time, and in lists."""
    evaluated_at: str | None
    """The instant as of which was counted."""
    created_at: str
    updated_at: str


class AudienceDeleted(Wire, frozen=True, kw_only=True):
    id: UUID
    deleted: bool


class Membership(Wire, frozen=True, kw_only=True):
    """An audience that a person is in."""

    id: UUID
    name: str


class Members(msgspec.Struct, frozen=True, kw_only=True):
    """Who is in an audience, by shard of the dispatch cluster. Nobody, when there is no split."""

    as_of: datetime
    split: _core.Split | None

    def of(self, shard: int) -> bytes | None:
        """pgcopy of their external ids; None for nobody at all."""
        return None if self.split is None else self.split.of(shard)


class Leaf(Wire, frozen=True, kw_only=True):
    """A step of the funnel: how many people hold this leaf whatever the others say, and how many are not ruled out by
    it and those before it."""

    path: str
    alone: int
    remaining: int


class Addresses(Wire, frozen=True, kw_only=True):
    """Active devices."""

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
    alone will change it."""
    as_of: str


class Counted(Wire, frozen=True, kw_only=True):
    count: int
    as_of: str


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
