"""What this room says on the stream LIFECYCLE, and what it reads there.

Written by hot routes: `opens`, `receipts`. Told to rooms above: `token_invalidated`, `opened`, `clicked`, `delivered`.
Each message stands for a batch of one project. What all of them mean as events of the catalogue: catalogue.py.
"""

from typing import Final
from uuid import UUID

from sendora.kernel.wire import Wire

OUTCOMES: Final = "lifecycle.push.outcomes"
"""Delivery's: how recipients ended."""

OPENS: Final = "lifecycle.push.opens"
RECEIPTS: Final = "lifecycle.push.receipts"
INVALIDATED: Final = "lifecycle.push.token_invalidated"
OPENED: Final = "lifecycle.push.opened"
CLICKED: Final = "lifecycle.push.clicked"
DELIVERED: Final = "lifecycle.push.delivered"


class OpenSaid(Wire, frozen=True, kw_only=True):
    """A device says that something was opened; nobody has looked yet whether that can be."""

    org: UUID
    project: UUID
    send: UUID
    recipient: UUID
    at: str
    action: str | None


class OpensSaid(Wire, frozen=True, kw_only=True):
    opens: list[OpenSaid]


class Opened(Wire, frozen=True, kw_only=True):
    send: UUID
    recipient: UUID | None
    user_id: str | None = None
    """Whose device it is now: what a workflow begins with (B105)."""
    at: str
    click_action: str | None


class OpenedMany(Wire, frozen=True, kw_only=True):
    """`push.opened` and `push.clicked` (B104, B105)."""

    org: UUID
    project: UUID
    opens: list[Opened]


class ReceiptSaid(Wire, frozen=True, kw_only=True):
    """A device says that a message has arrived; nobody has looked yet whether that can be."""

    org: UUID
    project: UUID
    send: UUID
    recipient: UUID
    at: str


class ReceiptsSaid(Wire, frozen=True, kw_only=True):
    receipts: list[ReceiptSaid]


class Delivered(Wire, frozen=True, kw_only=True):
    send: UUID
    recipient: UUID | None
    user_id: str | None
    at: str


class DeliveredMany(Wire, frozen=True, kw_only=True):
    """`push.delivered` (C93)."""

    org: UUID
    project: UUID
    receipts: list[Delivered]


class Invalidated(Wire, frozen=True, kw_only=True):
    """`push.token_invalidated` (B087)."""

    org: UUID
    project: UUID
    token_id: UUID
    user_id: str | None
    platform: str
    reason: str
    at: str
