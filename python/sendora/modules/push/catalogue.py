"""The push part of the catalogue of events (B160): what each message on LIFECYCLE means for whoever is told of events.

A message of the stream stands for many recipients, because a broadcast has a million; an event of the catalogue is
about one of them. Rooms above (webhooks, workflows) read the stream and ask here. An event's id is the same however
often its message comes and however it was batched, so that whoever acts on it acts once.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from sendora.delivery.account import News, Outcomes
from sendora.kernel.clock import iso
from sendora.kernel.wire import Wire
from sendora.modules.push.lifecycle import (
    CLICKED,
    DELIVERED,
    INVALIDATED,
    OPENED,
    OUTCOMES,
    Delivered,
    DeliveredMany,
    Invalidated,
    Opened,
    OpenedMany,
)

SEND_REQUESTED: Final = "lifecycle.push.send_requested"
SCHEDULED: Final = "lifecycle.push.scheduled"
CANCELLED: Final = "lifecycle.push.cancelled"

BY_STATE: Final = {
    "accepted": "push.sent",
    "rejected": "push.failed",
    "expired": "push.failed",
    "unknown": "push.failed",
    "suppressed": "push.suppressed",
}
"""How a recipient's end is called there (C93: `sent` means that the provider took it)."""


class Event(Wire, frozen=True, kw_only=True):
    """One event of the catalogue."""

    id: str
    type: str
    """Such as `push.sent`."""
    org: UUID
    project: UUID
    user_id: str | None
    at: str
    properties: dict[str, Any]


def events_of(subject: str, data: bytes) -> list[Event]:
    """The events that a message of LIFECYCLE stands for; none where it is not about push, or not for others' ears."""
    read = _READERS.get(subject)
    return [] if read is None else read(subject, data)


def _news(subject: str, data: bytes) -> list[Event]:
    said = msgspec.json.decode(data, type=News)
    type_ = subject.removeprefix("lifecycle.")
    return [
        Event(
            id=f"{type_}.{said.send}",
            type=type_,
            org=said.org,
            project=said.project,
            user_id=None,
            at=iso(said.at),
            properties={
                "sendId": str(said.send),
                "class": said.class_,
                "tokenCount": said.token_count,
                "scheduledFor": _iso(said.scheduled_for),
            },
        )
    ]


def _outcomes(_: str, data: bytes) -> list[Event]:
    """A recipient that was tried anew after its end has another one, in another chunk."""
    said = msgspec.json.decode(data, type=Outcomes)
    return [
        Event(
            id=f"{BY_STATE[one.state]}.{said.send}.{one.recipient}.{said.seq}",
            type=BY_STATE[one.state],
            org=said.org,
            project=said.project,
            user_id=one.user_id,
            at=iso(one.at),
            properties={
                "sendId": str(said.send),
                "recipientId": str(one.recipient),
                "state": one.state,
                "reason": one.reason,
                "variant": one.variant,
                "providerId": one.provider_id,
                "attempt": one.attempt,
                "repeated": one.repeated,
            },
        )
        for one in said.outcomes
    ]


def _opens(subject: str, data: bytes) -> list[Event]:
    said = msgspec.json.decode(data, type=OpenedMany)
    return [_reported(subject, said, one, clickAction=one.click_action) for one in said.opens]


def _delivered(subject: str, data: bytes) -> list[Event]:
    said = msgspec.json.decode(data, type=DeliveredMany)
    return [_reported(subject, said, one) for one in said.receipts]


def _reported(subject: str, said: OpenedMany | DeliveredMany, one: Opened | Delivered, **more: str | None) -> Event:
    """What a device told of one recipient."""
    type_ = subject.removeprefix("lifecycle.")
    return Event(
        id=f"{type_}.{one.send}.{one.recipient}",
        type=type_,
        org=said.org,
        project=said.project,
        user_id=one.user_id,
        at=one.at,
        properties={"sendId": str(one.send), "recipientId": _text(one.recipient), **more},
    )


def _invalidated(subject: str, data: bytes) -> list[Event]:
    said = msgspec.json.decode(data, type=Invalidated)
    type_ = subject.removeprefix("lifecycle.")
    return [
        Event(
            id=f"{type_}.{said.token_id}.{said.at}",
            type=type_,
            org=said.org,
            project=said.project,
            user_id=said.user_id,
            at=said.at,
            properties={"tokenId": str(said.token_id), "platform": said.platform, "reason": said.reason},
        )
    ]


def _iso(at: datetime | None) -> str | None:
    return None if at is None else iso(at)


def _text(id_: UUID | None) -> str | None:
    return None if id_ is None else str(id_)


_READERS: Final[Mapping[str, Callable[[str, bytes], list[Event]]]] = {
    SEND_REQUESTED: _news,
    SCHEDULED: _news,
    CANCELLED: _news,
    OUTCOMES: _outcomes,
    OPENED: _opens,
    CLICKED: _opens,
    DELIVERED: _delivered,
    INVALIDATED: _invalidated,
}
