"""The quarantine: what is shown of an address that a provider calls dead, and what brings it back."""

from datetime import UTC, datetime
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from sendora.kernel.errors import ValidationFailed
from sendora.kernel.wire import Wire, WireIn

Provider = Literal["apns", "fcm", "webpush"]

HELD: Final = "held"
"""The reason of an address that the guard keeps active, whatever its provider says."""

GRACE_DAYS: Final = 30
"""B088."""

TOKENS_MAX: Final = 1_000

REASON: Final = Meta(min_length=1, max_length=64)
Instant = Annotated[str, Meta(max_length=64)]


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which addresses; without anything, all of the project's."""

    provider: Provider | None = None
    reason: str | None = None
    since: datetime | None = None


class RestoreIn(WireIn, frozen=True, kw_only=True):
    """Body of `POST /push/tokens/restore`: ids, or a filter with at least one field."""

    token_ids: Annotated[tuple[UUID, ...], Meta(min_length=1, max_length=TOKENS_MAX)] | None = None
    provider: Provider | None = None
    reason: Annotated[str, REASON] | None = None
    since: Instant | None = None


class Quarantined(Wire, frozen=True, kw_only=True):
    """An address, and the evidence against it."""

    id: UUID
    user_id: str | None
    platform: str
    reason: str
    """The provider's code that retired it; `held` for one that the guard keeps active."""
    code: str | None
    """The provider's code in either case; null for one that was held before codes were kept."""
    lane: str | None
    """Who said it: apns, apns:sandbox, fcm, webpush."""
    send_id: UUID | None
    """The send that it was said of."""
    said_at: str | None
    retired_at: str
    """When it was retired or held."""
    deleted_after: str | None
    """The end of the grace period (B088); null for one that is held, which nobody deletes."""


class Restored(Wire, frozen=True, kw_only=True):
    restored: int
    has_more: bool
    """There may be more than one request restores: ask again."""


def since_of(text: str | None) -> datetime | None:
    """An ISO 8601 instant with its offset, in UTC; raises ValidationFailed."""
    if text is None:
        return None
    try:
        said: datetime = msgspec.convert(text, Annotated[datetime, Meta(tz=True)])
        return said.astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        raise ValidationFailed({"since": ["Not an ISO 8601 instant with its offset"]}) from None


def filter_of(given: RestoreIn) -> Filter:
    """Raises ValidationFailed when it is not clear what is to be restored."""
    wanted = Filter(provider=given.provider, reason=given.reason, since=since_of(given.since))
    if given.token_ids is None and wanted == Filter():
        raise ValidationFailed({"tokenIds": ["Give tokenIds, or a filter: provider, reason, since"]})
    if given.token_ids is not None and wanted != Filter():
        raise ValidationFailed({"tokenIds": ["Give either tokenIds or a filter"]})
    return wanted
