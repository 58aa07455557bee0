"""Live Activities as a channel of delivery: calls beside push's, on the same lanes.

A send of this channel is a push in everything but whom it is for, what it says, and when it is too late to say it:
credentials, provider tokens, hosts, halts, and what an answer means are push's. Its recipients are activities. The
ledger names nobody: whose an activity is, its row knows, and frequency caps count people's messages, not updates.

Order: devices show the newest timestamp and nothing older, so an update that comes up after a newer one was taken is
not sent any more (`superseded`). What is on the wire at the same time is left to the device, which goes by the same
timestamps.
"""

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from sendora import _core
from sendora.delivery.channel import Connection, Ready
from sendora.delivery.phases import Call, Chunk, Outcome, Send, Targets
from sendora.kernel.clock import millis
from sendora.kernel.life import Kernel
from sendora.kernel.wire import encode
from sendora.modules import push
from sendora.modules.live_activities import payload, store
from sendora.modules.live_activities.model import Content, Said, Target
from sendora.modules.live_activities.store import Standing

NAME: Final = "live_activities"

SUPERSEDED: Final = "superseded"
"""Something newer of this activity was taken by the provider, or may have been."""

ALREADY_STARTED: Final = "already_started"
"""A start that comes up late: the device has told its token, or somebody has ended the activity."""

FORGOTTEN: Final = "token_removed"
"""Erased in between; the library says the same of an address that is gone."""

AWAITED: Final = "token_awaited"
"""An update of an activity that was started by push waits for the device's first word."""

AWAITED_S: Final = 5.0
AWAITED_MAX_S: Final = 60.0
"""It is looked at again after a quarter of its age: soon at first, and at most seventy times, because an activity that
nobody hears of is given up after that many minutes (START_WAIT)."""


class LiveChannel:
    """The door of this room to delivery."""

    name = NAME

    async def recipients(self, kernel: Kernel, connection: Connection, send: Send, ready: Ready) -> Targets:
        """The activities that were named at the call, without those erased since."""
        target = msgspec.convert(send.target, Target)
        await store.plan(connection, send.org, send.project, target.activities)
        return Targets(unreachable=target.unreachable, as_of=None, complete=True)

    async def open(self, kernel: Kernel, send: Send) -> "LiveSending":
        content = msgspec.convert(send.content, Content)
        if content.activity is not None and content.stamp is not None:
            return LiveSending(
                kernel, send, await store.find_said(kernel.db, send.org, content.activity, content.stamp)
            )
        return LiveSending(kernel, send, await store.find_start(kernel.db, send.org, send.id))


class LiveSending(push.PushSending):
    """A send on its way."""

    def __init__(self, kernel: Kernel, send: Send, said: Said | None) -> None:
        """`said`: None when it was erased."""
        composed = push.compose(
            push.Content(silent=True), None, None, send=send.id, expires_at=send.expires_at, urgent=True
        )
        super().__init__(kernel, send, composed, _core.Note(encode(_note(send))), False, known=False)
        self._said = said
        self._standing: dict[UUID, Standing] = {}
        """Of activities whose requests are being built."""

    @property
    def ships(self) -> bool:
        return False

    async def rows(self, connection: Connection, chunk: Chunk) -> bytes:
        return await store.rows(connection, self._send.project, chunk, starts=self._starts)

    async def build(self, decided: _core.Decided, chunk: Chunk) -> tuple[Sequence[Call], Sequence[Outcome]]:
        activities = [UUID(bytes=row[1]) for row in decided.sends()]
        if activities and self._said is not None:
            self._standing |= await store.standing(self._kernel.db, self._send.org, activities, self._said.stamp)
        try:
            return await super().build(decided, chunk)
        finally:
            for activity in activities:
                self._standing.pop(activity, None)

    @property
    def _starts(self) -> bool:
        return self._said is not None and self._said.event == "start"

    def _native(
        self, parts: push.Parts, address: push.Address, credential: push.Credential, token: str, now_s: int
    ) -> push.Posted | Outcome | str:
        standing = self._standing.get(address.recipient)
        if self._said is None or standing is None:
            return push.outcome(address, "suppressed", FORGOTTEN)
        if self._starts and standing.status != "starting":
            return push.outcome(address, "suppressed", ALREADY_STARTED)
        if standing.superseded:
            return push.outcome(address, "suppressed", SUPERSEDED)
        if standing.awaited and not self._starts:
            return self._waiting(address, AWAITED, self._awaited_s(now_s))
        built = super()._native(parts, address, credential, token, now_s)
        if isinstance(built, push.Posted) and built.transport == "apns":
            # An activity's token belongs to where it was started: it is not looked for in the other environment.
            return msgspec.structs.replace(built, headers=payload.headers(self._said, built.headers), elsewhere=False)
        return built

    def _apns_payload(self, parts: push.Parts, address: push.Address) -> bytes:
        return payload.apns(self._there(), self._send.id, address.recipient)

    def _fcm_message(self, parts: push.Parts, address: push.Address) -> dict[str, Any]:
        standing = self._standing[address.recipient]
        named = payload.Named(id=standing.id, activity_type=standing.activity_type, external_id=standing.external_id)
        return payload.fcm(self._there(), self._send.id, named)

    def _there(self) -> Said:
        if self._said is None:
            raise LookupError("nothing is built of what was erased")
        return self._said

    def _awaited_s(self, now_s: int) -> float:
        age_s = now_s - millis(self._send.created_at) / 1_000
        return min(max(AWAITED_S, age_s * push.AGE_PART), AWAITED_MAX_S)


def _note(send: Send) -> dict[str, Any]:
    """What the library decides by: whether the activity is there, and the send's time. No quiet hours, no caps: it is
    something that the person follows right now."""
    return {
        "sendId": str(send.id),
        "title": "",
        "body": " ",
        "raw": False,
        "plannedAt": millis(send.created_at),
        "expiresAt": millis(send.expires_at),
        "policy": {"defer": False, "bypass": True},
    }
