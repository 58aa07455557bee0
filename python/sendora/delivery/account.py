"""Outcomes become counters and events, and sends whose every recipient has ended are closed.

Eats: rows of `chunks` that are closed and not accounted, and of `send_news`; `wake.account` only saves the wait.
Gives: `send_counts`; on the stream LIFECYCLE one message for each chunk on `lifecycle.<channel>.outcomes`, and for each
send `lifecycle.<channel>.send_requested`, `.scheduled`, `.cancelled` and `.closed`; the closed status.
Bounded by: 50 chunks or 200 news a transaction.
Acks when: `accounted` is committed, or the news is gone, after the log has the message. The status is committed after
its message as well.
If it dies: the chunk is taken up again and its message published again under the same Nats-Msg-Id; whoever reads it
goes by (send, shard, seq), because an outcome stands in one chunk. A send is asked for, scheduled and cancelled once.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from asyncpg import Record

from sendora import _core
from sendora.delivery import store
from sendora.delivery.channel import Channel
from sendora.delivery.state import FINAL_STATES, closing_step
from sendora.delivery.submit import WAKE_ACCOUNT
from sendora.kernel import bus
from sendora.kernel.clock import millis
from sendora.kernel.errors import Unavailable
from sendora.kernel.ids import OrgId, SendId
from sendora.kernel.life import Kernel, Service
from sendora.kernel.pg import Connection, copy_out, is_away
from sendora.kernel.wire import Wire

POLL_S: Final = 1.0
"""A lost wake costs this much."""

CHUNKS_MAX: Final = 50
"""Chunks of one transaction: 50,000 outcomes in memory, 10 MB of messages."""

NEWS_MAX: Final = 200
"""News of one transaction; each is a small message."""

EPOCH: Final = date(1970, 1, 1)

CLOSES_MAX: Final = 100
"""Sends that are closed between two looks at the chunks."""


class Ended(Wire, frozen=True, kw_only=True):
    """How one recipient ended. The library writes these messages (`_core.Ended`) and reads them in bulk
    (`_core.address_health`); this is their shape, for whoever wants a single one."""

    recipient: UUID
    user_id: str | None
    state: str
    reason: str | None
    variant: str | None
    provider: str | None
    provider_id: str | None
    attempt: int
    repeated: bool
    at: datetime


class Outcomes(Wire, frozen=True, kw_only=True):
    """The message `lifecycle.<channel>.outcomes`: what one chunk has brought to an end."""

    org: UUID
    project: UUID
    send: UUID
    shard: int
    seq: int
    outcomes: list[Ended]


class News(Wire, frozen=True, kw_only=True):
    """The messages `lifecycle.<channel>.send_requested`, `.scheduled` and `.cancelled`."""

    org: UUID
    project: UUID
    send: UUID
    class_: str = msgspec.field(name="class")
    token_count: int | None
    """As far as it was known when this was told."""
    scheduled_for: datetime | None
    at: datetime


class Closed(Wire, frozen=True, kw_only=True):
    """The message `lifecycle.<channel>.closed`. A send that was opened again closes again."""

    org: UUID
    project: UUID
    send: UUID
    status: str
    targeted: int
    accepted: int
    rejected: int
    suppressed: int
    expired: int
    unknown: int
    unreachable: int
    error: str | None


def accountant(kernel: Kernel, channels: Mapping[str, Channel]) -> Service:
    return Accountant(kernel, channels)


class Accountant:
    """Tells of the channels that this process knows, so that an older version leaves a new channel to the newer one."""

    name = "account"

    def __init__(self, kernel: Kernel, channels: Collection[str]) -> None:
        self._kernel = kernel
        self._channels = channels
        self._woken = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        end = self._kernel.bus.on_wake(WAKE_ACCOUNT, lambda subject: self._woken.set())
        stopping = asyncio.ensure_future(self._watch(stop))
        try:
            while not stop.is_set():
                self._woken.clear()
                if not await self._once():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(POLL_S):
                            await self._woken.wait()
        finally:
            stopping.cancel()
            end()

    async def _watch(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._woken.set()

    async def _once(self) -> bool:
        """Whether there may be more to do at once."""
        try:
            told = await tell_news(self._kernel, self._channels)
            accounted = await account_chunks(self._kernel, self._channels)
            await close_sends(self._kernel, self._channels)
        except Exception as error:
            if not (isinstance(error, Unavailable) or is_away(error) or bus.is_away(error)):
                raise
            self._kernel.log.warning("account.waits", error=repr(error))
            return False
        return accounted == CHUNKS_MAX or told == NEWS_MAX


async def tell_news(kernel: Kernel, channels: Collection[str]) -> int:
    """Tell what callers have done with sends, the oldest first; how much there was."""
    async with kernel.db.transaction() as connection:
        rows = await connection.fetch(store.SQL.news, NEWS_MAX, list(channels))
        if not rows:
            return 0
        await asyncio.gather(*(_tell_news(kernel, row) for row in rows))
        await connection.execute(
            store.SQL.drop_news, *[[row[name] for row in rows] for name in ("org_id", "send_id", "event")]
        )
    return len(rows)


async def account_chunks(kernel: Kernel, channels: Collection[str]) -> int:
    """Tell and count what the oldest closed chunks have brought; how many chunks."""
    async with kernel.db.transaction() as connection:
        chunks = await connection.fetch(store.SQL.chunks_to_account, CHUNKS_MAX, list(channels))
        if not chunks:
            return 0
        keys: list[list[Any]] = [[chunk[name] for chunk in chunks] for name in ("org_id", "send_id", "shard", "seq")]
        ended = await _ended(connection, chunks, keys)
        # Told before it is committed: what is told twice is recognised, what is never told is lost.
        await asyncio.gather(*(_tell(kernel, chunks[place], message) for place, message in ended.messages()))
        counted = ended.counts()
        if counted:
            orgs, sends, days, *rest = zip(*counted, strict=True)
            await connection.execute(
                store.SQL.count_outcomes,
                [UUID(bytes=org) for org in orgs],
                [UUID(bytes=send) for send in sends],
                [EPOCH + timedelta(days=day) for day in days],
                *rest,
            )
        await connection.execute(store.SQL.set_accounted, *keys)
    return len(chunks)


async def close_sends(kernel: Kernel, channels: Collection[str]) -> int:
    """Close whatever is planned, recorded and accounted to the end; how many sends."""
    rows = await kernel.db.fetch(store.SQL.sends_to_close, CLOSES_MAX, list(channels))
    return sum([await close_send(kernel, row["org_id"], row["id"]) for row in rows])


async def close_send(kernel: Kernel, org: OrgId, send: SendId) -> bool:
    """Close a send if its every recipient has ended (C96); False when somebody is still open, or it is closed."""
    async with kernel.db.transaction() as connection:
        row = await connection.fetchrow(store.SQL.lock_to_close, org, send)
        if row is None:
            return False
        rows = await connection.fetch(store.SQL.reconcile, org, send)
        ended = dict.fromkeys(FINAL_STATES, 0)
        for counted in rows:
            if counted["state"] is not None:
                ended[counted["state"]] += counted["n"]
        targeted: int = rows[0]["targeted"]
        step = _step(row, ended, targeted)
        closed = await store.step_send(connection, org, send, step, closes=True)
        if closed is None:
            return False
        message = Closed(
            org=org,
            project=closed.project,
            send=send,
            status=closed.status,
            targeted=targeted,
            **ended,
            unreachable=closed.unreachable,
            error=closed.error,
        )
        again = "" if closed.retried_at is None else f".{millis(closed.retried_at)}"
        await kernel.bus.publish(
            f"lifecycle.{closed.channel}.closed", msgspec.json.encode(message), f"{send}.closed{again}"
        )
    kernel.metrics.count("sends", channel=closed.channel, status=closed.status)
    return True


def _step(row: Record, ended: Mapping[str, int], targeted: int) -> str:
    if row["error"] is not None and not ended["accepted"]:
        return "close_failed"
    return closing_step(ended["accepted"], ended["rejected"], ended["expired"], ended["unknown"], targeted)


async def _ended(connection: Connection, chunks: Sequence[Record], keys: Sequence[Sequence[Any]]) -> _core.Ended:
    """Rows in, messages and counters out: none of them is an object here."""
    rows: list[bytes] = []
    await copy_out(connection, store.SQL.outcomes_of, *keys, sink=rows.append)
    named = [
        (chunk["org_id"].bytes, chunk["project_id"].bytes, chunk["send_id"].bytes, chunk["shard"], chunk["seq"])
        for chunk in chunks
    ]
    return await asyncio.to_thread(_core.Ended, named, b"".join(rows))


async def _tell_news(kernel: Kernel, row: Record) -> None:
    message = News(
        org=row["org_id"],
        project=row["project_id"],
        send=row["send_id"],
        class_=row["class"],
        token_count=row["token_count"],
        scheduled_for=row["scheduled_for"],
        at=row["at"],
    )
    await kernel.bus.publish(
        f"lifecycle.{row['channel']}.{row['event']}", msgspec.json.encode(message), f"{row['send_id']}.{row['event']}"
    )


async def _tell(kernel: Kernel, chunk: Record, message: bytes) -> None:
    await kernel.bus.publish(
        f"lifecycle.{chunk['channel']}.outcomes", message, f"{chunk['send_id']}.{chunk['shard']}.{chunk['seq']}"
    )
