"""Audiences: a name and a rule (B071-B079, C72). What a rule may be is the library's to say; here it is only asked."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from sendora import _core
from sendora.kernel.errors import ValidationFailed
from sendora.kernel.ids import AudienceId, OrgId, ProjectId
from sendora.kernel.wire import UNSET, UnsetType, Wire, WireIn

Name = Annotated[str, Meta(min_length=1, max_length=200)]
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


class Question(Wire, frozen=True, kw_only=True):
    """`ask.audiences.evaluate`."""

    org: UUID
    project: UUID
    rules: dict[str, Any]


class Counted(Wire, frozen=True, kw_only=True):
    """The answer to it."""

    count: int
    as_of: str


def compiled(rules: dict[str, Any]) -> _core.Rule:
    """The rule, or ValidationFailed with the place in it that is wrong, such as `rules.all.0.op`."""
    try:
        return _core.Rule(msgspec.json.encode(rules))
    except ValueError as error:
        path, message = error.args if len(error.args) == 2 else ("", str(error))
        raise ValidationFailed({f"rules.{path}" if path else "rules": [message]}) from None
