"""A request to be forgotten (B069, C71)."""

from datetime import datetime, timedelta
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from sendora.kernel.ids import OrgId, ProjectId
from sendora.kernel.wire import Wire, WireIn

Status = Literal["pending", "running", "completed"]

NAME_CHARS_MAX: Final = 256
"""As long as ingest takes a name."""


class AskDeletion(WireIn, frozen=True, kw_only=True):
    """Body of `POST /consent/deletion-request`."""

    user_id: Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX)]
    """The external id; whoever was taken over means the person they became (C69)."""
    scope: Literal["all"]


class DeletionRequest(Wire, frozen=True, kw_only=True):
    """A request as the API shows it: never the name."""

    id: UUID
    status: Status
    """`pending`: the log or the profile store is behind. `running`: from here on whoever comes by this name is somebody
    new. `completed`: no table holds the person any more, and no name is kept."""
    deleted: dict[str, int]
    """Rows by room, of all runs of this request; a room appears when it is through."""
    requested_at: datetime
    """When it was begun the last time."""
    completed_at: datetime | None
    log_until: datetime | None
    """Until when the log still holds what was said; null before the cut."""


class Deletion(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `deletion_requests`."""

    org: OrgId
    id: UUID
    project: ProjectId
    hash: bytes
    status: Status
    run: int
    sealed: bytes | None
    position: int | None
    cut_at: datetime | None
    again: bool
    done: tuple[str, ...]
    deleted: dict[str, int]
    requested_at: datetime
    completed_at: datetime | None
    tries: int


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """Where a deletion under way parts the person from whoever comes by the same name."""

    position: int
    at: datetime


def show(deletion: Deletion, log_keeps: timedelta) -> DeletionRequest:
    # The last that the log hears of the person is that the names go.
    heard_at = deletion.completed_at or deletion.cut_at
    return DeletionRequest(
        id=deletion.id,
        status=deletion.status,
        deleted=deletion.deleted,
        requested_at=deletion.requested_at,
        completed_at=deletion.completed_at,
        log_until=None if heard_at is None else heard_at + log_keeps,
    )
