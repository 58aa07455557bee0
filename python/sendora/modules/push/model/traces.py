"""What is told of one recipient."""

from typing import Any, Final
from uuid import UUID

from sendora.kernel.wire import Wire

OPEN: Final = "open"


class Attempt(Wire, frozen=True, kw_only=True):
    """One try: by quiet hours, by a lane, by a provider."""

    attempt: int
    at: str | None
    lane: str | None
    """Who was asked: `apns`, `apns:sandbox`, `fcm` or `webpush`, and under which app's credential if it has its own, as
    in `apns/drivers`; null when nobody was."""
    status: str
    """What the ledger says of it: `accepted`, `rejected`, `suppressed`, `expired`, `unknown`, or `deferred`: it went
    on."""
    reason: str | None
    """In the provider's own words where it gave one."""
    provider_id: str | None
    repeated: bool
    waited_ms: int | None
    """Since the try before."""


class Trace(Wire, frozen=True, kw_only=True):
    """Why a recipient is where it is."""

    recipient_id: UUID
    user_id: str | None
    state: str
    reason: str | None
    variant: str | None
    as_of: str
    """The instant that the steps are about: when the outcome was recorded, or now."""
    reproduced: bool | None
    """Whether the steps, taken again on what is known now, end as the ledger says; null while it is open."""
    steps: list[dict[str, Any]]
    """In their order, each with `step` and `passed`: `target`, `address`, `active`, `ownership`, `lateness`,
    `quietHours`, `variant`, `locale`, `frequencyCap`; the first that was not passed is the last."""
    attempts: list[Attempt]
