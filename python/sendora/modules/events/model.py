"""What ingest takes and answers (B046, C27, C28, C94).

The request structs are for the document alone: bodies are checked by the library in one pass, byte by byte, and never
become objects here. What the library refuses becomes a Problem in `refuse`.
"""

from typing import Any, Final, Protocol
from uuid import UUID

import msgspec

from sendora.kernel.errors import PayloadTooLarge, Problem, ValidationFailed
from sendora.kernel.wire import UNSET, UnsetType, Wire

BAD_ROWS_KEPT_DAYS: Final = 30
"""Design 6: what cannot be rewritten on an erasure is short-lived and says so."""

WAKE_CUTS: Final = "wake.cuts"
"""Events of some project were taken away, and `event_cuts` has risen."""

TOO_LARGE: Final = "PAYLOAD_TOO_LARGE"
"""The code that the library gives an event over 256 KB (C14)."""


class EventIn(Wire, frozen=True, kw_only=True):
    """One event. At most 256 KB, 100 properties, 1,000 items in a property's array (B035)."""

    event_type: str
    module: str
    """Free-form, at most 64 characters (B046, B047)."""
    properties: dict[str, Any] | UnsetType = UNSET
    event_id: str | UnsetType = UNSET
    """1 to 64 printable characters. With the same timestamp it makes a retry harmless."""
    user_id: str | UnsetType = UNSET
    anonymous_id: str | UnsetType = UNSET
    device_id: str | UnsetType = UNSET
    session_id: str | UnsetType = UNSET
    timestamp: str | UnsetType = UNSET
    """RFC 3339, from 2000 up to a day ahead; the time of receipt unless given."""
    environment: str | UnsetType = UNSET
    """Taken and ignored: an event has the environment of the key that brings it (B008)."""
    project_id: UUID | UnsetType = UNSET
    org_id: UUID | UnsetType = UNSET


class EventsIn(Wire, frozen=True, kw_only=True):
    events: list[EventIn]


class IdentifyIn(Wire, frozen=True, kw_only=True):
    """Who somebody is (B058, B060). `traits` are merged, `anonymousId` is taken over by `userId` (C69)."""

    user_id: str
    email: str | UnsetType = UNSET
    traits: dict[str, Any] | UnsetType = UNSET
    anonymous_id: str | UnsetType = UNSET
    locale: str | UnsetType = UNSET
    timezone: str | UnsetType = UNSET
    event_id: str | UnsetType = UNSET
    timestamp: str | UnsetType = UNSET
    project_id: UUID | UnsetType = UNSET
    org_id: UUID | UnsetType = UNSET


class Tracked(Wire, frozen=True, kw_only=True):
    """The answer to one event."""

    id: str
    event_type: str
    environment: str
    received_at: str


class ItemErrors(Wire, frozen=True, kw_only=True):
    index: int
    field_errors: dict[str, list[str]]
    code: str | UnsetType = UNSET


class Batched(Wire, frozen=True, kw_only=True):
    """The answer to a list: a bad item never fails its neighbours (C94)."""

    accepted: int
    rejected: int
    errors: list[ItemErrors]


class BatchedRaw(Wire, frozen=True, kw_only=True):
    """`Batched` as it is written: the library hands the errors over as JSON."""

    accepted: int
    rejected: int
    errors: msgspec.Raw


class Identified(Wire, frozen=True, kw_only=True):
    """Traits are visible when the log has passed: `GET /profiles/{id}?after=<X-Sendora-Position>`."""

    id: UUID
    external_id: str


class Accounting(Wire, frozen=True, kw_only=True):
    """accepted = stored + duplicate + bad, always, as of the position."""

    project_id: UUID
    accepted: int
    stored: int
    duplicate: int
    bad: int
    position: str


class Judged(Protocol):
    """What is read of `_core.Checked`."""

    @property
    def single(self) -> bool: ...
    @property
    def malformed(self) -> tuple[str, str] | None: ...
    @property
    def too_large(self) -> str | None: ...
    @property
    def accepted(self) -> int: ...
    @property
    def rejected(self) -> int: ...
    @property
    def errors(self) -> bytes: ...


def refusal(judged: Judged) -> Problem | None:
    """Why the request as a whole is refused; None when something of it was accepted.

    A list of only bad items is one bad request (C94), its fields named as in the body: `events.0.module`. When bytes
    are all that is wrong it is 413 (C14).
    """
    if judged.too_large is not None:
        return PayloadTooLarge(judged.too_large)
    if judged.malformed is not None:
        field, message = judged.malformed
        return ValidationFailed({field or "body": [message]})
    if judged.accepted:
        return None
    items = msgspec.json.decode(judged.errors, type=list[ItemErrors])
    if not items:
        return ValidationFailed({"events": ["At least one event is required."]})
    if all(item.code == TOO_LARGE for item in items):
        return PayloadTooLarge("An event may have 256 KB.")
    return ValidationFailed(
        {
            field if judged.single else ".".join(filter(None, ("events", str(item.index), field))): messages
            for item in items
            for field, messages in item.field_errors.items()
        }
    )
