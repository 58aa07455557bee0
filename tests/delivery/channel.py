"""A channel as small as a channel can be, over `provider.Plain`: real rows, the library's decision, real requests."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
from tests.delivery.provider import EXPIRED_KEY, INACTIVE, Plain

from sendora import _core
from sendora.delivery.channel import Connection, Ready
from sendora.delivery.phases import Call, Chunk, Class, Outcome, Reply, Send, Targets
from sendora.kernel.clock import from_millis, millis
from sendora.kernel.errors import Unavailable
from sendora.kernel.ids import OrgId
from sendora.kernel.life import Kernel
from sendora.kernel.pg import copy_out

NAME = "loop"

ROWS = f"""
SELECT (r.n - 1)::smallint, r.id, 'ios'::text, r.id::text, NULL::jsonb, 'production'::text, NULL::text,
       CASE WHEN (s.content ->> 'person') IS NOT NULL THEN s.content ->> 'person' ELSE 'u-' || r.id END,
       get_byte(uuid_send(r.id), 15) <> {INACTIVE}, '2020-01-01'::timestamptz, NULL::text, NULL::text, '{{}}'::jsonb,
       NULL::text, now(), now()
  FROM chunks c JOIN sends s ON s.org_id = c.org_id AND s.id = c.send_id
 CROSS JOIN LATERAL unnest(c.recipients) WITH ORDINALITY AS r(id, n)
 WHERE c.org_id = $1::uuid AND c.send_id = $2::uuid AND c.shard = $3::smallint AND c.seq = $4::integer
   AND NOT EXISTS (SELECT FROM deliveries d WHERE d.org_id = c.org_id AND d.send_id = c.send_id AND d.shard = c.shard
                      AND d.seq = c.seq AND d.position = r.n - 1)
 ORDER BY r.n
"""

TARGETS = """
INSERT INTO plan_targets (shard, recipient, zone)
SELECT get_byte(uuid_send(id), 0) & 63, id, $2::jsonb ->> id::text FROM unnest($1::uuid[]) AS t(id)
"""


class LoopCall(Call, frozen=True, kw_only=True):
    recipient: UUID
    user_id: str | None
    variant: str | None


class LoopChannel:
    """`wrong` makes decisions fail, `away` makes credentials unavailable, `planned` counts evaluations."""

    name = NAME

    def __init__(self, provider: Plain) -> None:
        self.provider = provider
        self.planned = 0
        self.renewed = 0
        self.wrong = False
        self.away = False
        self.unreachable = 0
        self.key = "1"
        self.evaluating: asyncio.Semaphore | None = None
        """While it is there, each evaluation for one of `slow` takes one of it and gives none back."""
        self.reading: asyncio.Event | None = None
        """While it is there and not set, no chunk of `slow` is read."""
        self.slow: set[tuple[OrgId, Class]] = set()
        """Tenants, and which of their sends take long."""
        self.lanes: dict[OrgId, str] = {}
        """By tenant; `loop:1` unless it is named."""

    async def recipients(self, kernel: Kernel, connection: Connection, send: Send, ready: Ready) -> Targets:
        self.planned += 1
        if self.evaluating is not None and self.is_slow(send):
            await self.evaluating.acquire()
        named = [UUID(text) for text in send.target["recipients"]]
        await connection.execute(TARGETS, named, send.target.get("zones", {}))
        return Targets(unreachable=self.unreachable, as_of=kernel.clock.now(), complete=True)

    def is_slow(self, send: Send) -> bool:
        return (send.org, send.class_) in self.slow

    async def open(self, kernel: Kernel, send: Send) -> "LoopSending":
        return LoopSending(self, send)


class LoopSending:
    def __init__(self, channel: LoopChannel, send: Send) -> None:
        self._channel = channel
        self._send = send
        content: dict[str, Any] = send.content
        policy = {"defer": True, "bypass": False, **content.get("policy", {})}
        self.capped = "capDay" in policy
        self._note = _core.Note(
            msgspec.json.encode(
                {
                    "sendId": str(send.id),
                    "title": "t",
                    "body": "b",
                    "raw": False,
                    "plannedAt": millis(send.created_at + timedelta(seconds=60)),
                    "expiresAt": millis(send.expires_at),
                    "policy": policy,
                }
            )
        )

    async def rows(self, connection: Connection, chunk: Chunk) -> bytes:
        if self._channel.reading is not None and self._channel.is_slow(self._send):
            await self._channel.reading.wait()
        parts: list[bytes] = []
        await copy_out(connection, ROWS, chunk.org, chunk.send, chunk.shard, chunk.seq, sink=parts.append)
        return b"".join(parts)

    def decide(self, rows: bytes, caps: _core.Caps | None, now_ms: int) -> _core.Decided:
        if self._channel.wrong:
            raise ValueError("this chunk cannot be decided")
        return self._note.decide(rows, caps, now_ms)

    async def build(self, decided: _core.Decided, chunk: Chunk) -> tuple[Sequence[Call], Sequence[Outcome]]:
        if self._channel.away:
            raise Unavailable(message="no credential now")
        return [
            LoopCall(
                position=position,
                lane=self._channel.lanes.get(chunk.org, "loop:1"),
                url=f"{self._channel.provider.url}/send/{UUID(bytes=recipient)}",
                headers={"authorization": self._channel.key},
                body=b"{}",
                recipient=UUID(bytes=recipient),
                user_id=user_id,
                variant=variant,
            )
            for position, recipient, _, _, _, _, _, user_id, _, _, variant in decided.sends()
        ], []

    def read(self, call: Call, reply: Reply, chunk: Chunk, now_ms: int) -> Outcome:
        assert isinstance(call, LoopCall)
        said: dict[str, Any] = {"position": call.position, "recipient": call.recipient, "user_id": call.user_id}
        if reply.fate == "answered" and reply.status == 200:
            found = msgspec.json.decode(reply.body) if reply.body else {}
            return Outcome(**said, state="accepted", provider_id=found.get("id"))
        if reply.fate == "answered" and reply.status in (401, 410):
            return Outcome(**said, state="rejected", reason=f"http_{reply.status}")
        return Outcome(
            **said,
            state="deferred",
            reason="no_answer" if reply.fate == "unknown" else "busy",
            due_at=from_millis(now_ms),
            repeated=reply.fate == "unknown",
            counted=reply.fate != "unsent",
        )

    ships = False

    async def ship(self, lanes: Any, chunk: Chunk, rows: bytes, caps: _core.Caps | None, now_ms: int) -> Any:
        raise NotImplementedError

    async def renew_shipped(self, shipped: Any, lanes: Sequence[str]) -> None:
        raise NotImplementedError

    async def renew(self, call: Call, reply: Reply) -> bool:
        assert isinstance(call, LoopCall)
        if reply.status != 401 or call.recipient.bytes[15] != EXPIRED_KEY:
            return False
        if call.headers["authorization"] == self._channel.key:
            self._channel.renewed += 1
            self._channel.key = self._channel.provider.key
        return True
