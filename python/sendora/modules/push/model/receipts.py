"""Receipts of devices (C93), and the ids that payloads carry (C38)."""

from datetime import datetime, timedelta
from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from sendora.kernel.clock import EARLIEST
from sendora.kernel.errors import PayloadTooLarge, ValidationFailed
from sendora.kernel.ids import NIL, parse_id
from sendora.kernel.wire import UNSET, UnsetType, Wire, WireIn, decode
from sendora.modules.push.model.content import FieldErrors

DELIVERY_ID: Final = 64
"""Hexadecimal digits of a sendoraDeliveryId: the send's id, then the recipient's (C38)."""

RECEIPTS_MAX: Final = 1_000
"""C94."""

AHEAD_MAX: Final = timedelta(days=1)
"""A clock that is further off says nothing; the same bounds as for events."""

EventId = Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,64}$")]


class ReceiptIn(WireIn, frozen=True, kw_only=True):
    """One receipt of `POST /push/receipts`."""

    send_id: str
    """A send's id, or the sendoraDeliveryId."""
    delivery_id: str | None = None
    """The sendoraDeliveryId: says whose receipt it is."""
    delivered_at: Annotated[datetime, Meta(tz=True)] | None = None
    """When it was received, unless given."""
    event_id: EventId | None = None
    """Taken for the sake of clients that give every call one; a receipt is recognised by whose it is."""


class ReceiptsIn(WireIn, frozen=True, kw_only=True):
    receipts: list[ReceiptIn]


class Receipt(msgspec.Struct, frozen=True):
    """A receipt that has passed; NIL for a device that only knew the send."""

    send: UUID
    recipient: UUID
    at: datetime


class ItemErrors(Wire, frozen=True, kw_only=True):
    index: int
    field_errors: FieldErrors


class ReceiptsTaken(Wire, frozen=True, kw_only=True):
    """A bad item never fails its neighbours (C94)."""

    accepted: int
    rejected: int
    errors: list[ItemErrors]


class _Several(Wire, frozen=True):
    """To tell `{receipts: [...]}` from a receipt."""

    receipts: list[msgspec.Raw] | UnsetType = UNSET


def receipts_of(body: bytes, now: datetime) -> tuple[list[Receipt], list[ItemErrors]]:
    """What a body says; raises ValidationFailed when nothing of it is right, and PayloadTooLarge (C94)."""
    whole = decode(body, msgspec.Raw)
    single = False
    items: list[msgspec.Raw]
    if bytes(whole).lstrip()[:1] == b"[":
        items = msgspec.json.decode(whole, type=list[msgspec.Raw])
    else:
        several = decode(body, _Several)
        single = several.receipts is UNSET
        items = [whole] if several.receipts is UNSET else several.receipts
    if len(items) > RECEIPTS_MAX:
        raise PayloadTooLarge(f"At most {RECEIPTS_MAX} receipts a request.")
    if not items:
        raise ValidationFailed({"receipts": ["At least one receipt is required"]})
    passed: list[Receipt] = []
    refused: list[ItemErrors] = []
    for index, item in enumerate(items):
        try:
            passed.append(_receipt(decode(bytes(item), ReceiptIn), now))
        except ValidationFailed as error:
            refused.append(ItemErrors(index=index, field_errors=error.details["fieldErrors"]))
    if not passed:
        raise ValidationFailed(
            {
                field if single else f"receipts.{one.index}.{field}": messages
                for one in refused
                for field, messages in one.field_errors.items()
            }
        )
    return passed, refused


def addressed(text: str) -> tuple[UUID, UUID] | None:
    """(send, recipient) of a send's id or of a sendoraDeliveryId; None when it is neither."""
    send = parse_id(text)
    if send is not None:
        return send, NIL
    if len(text) == DELIVERY_ID and text.isascii():
        try:
            both = bytes.fromhex(text)
        except ValueError:
            return None
        if len(both) == DELIVERY_ID // 2:  # fromhex passes over spaces.
            return UUID(bytes=both[:16]), UUID(bytes=both[16:])
    return None


def _receipt(said: ReceiptIn, now: datetime) -> Receipt:
    errors: FieldErrors = {}
    found = addressed(said.send_id)
    if found is None:
        errors["sendId"] = ["Neither a send's id nor a sendoraDeliveryId"]
    if said.delivery_id is not None:
        named = addressed(said.delivery_id)
        if named is None or named[1] == NIL:
            errors["deliveryId"] = ["Not a sendoraDeliveryId"]
        elif found is not None and (named[0] != found[0] or found[1] not in (NIL, named[1])):
            errors["deliveryId"] = ["Is of another send"]
        else:
            found = named
    at = said.delivered_at or now
    if not EARLIEST <= at <= now + AHEAD_MAX:
        errors["deliveredAt"] = [f"Must lie between {EARLIEST.year} and a day ahead"]
    if errors or found is None:
        raise ValidationFailed(errors)
    return Receipt(*found, min(at, now))
