"""Marks and outcomes, in one transaction: the only truth about who was sent what.

Before the bytes of recipients below a position may leave, the chunk's mark is moved past it here; their outcomes
follow by COPY, 25 ms or 1,000 rows later at the most. Both travel in the same transactions (a group commit: while one
is being written the next gathers), so marks and outcomes of all chunks of a worker cost a few dozen fsyncs a second.
What a chunk does not finish goes on as a chunk that is committed with it, and a chunk closes with its last outcome: at
no instant is a recipient in neither place.

A mark is also where a pause or a stop takes hold: it is not moved for a send that does not run, so beyond those who
are on the wire nobody leaves once the status is committed.

Every transaction begins by holding the leases of its shards. A shard whose epoch has moved on is dropped from it, with
everything that its chunks wanted to say: the new owner has already read what is there.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import asyncpg
import msgspec

from sendora._core import OutcomeBatch, copy_outcomes
from sendora.delivery import failpoint, store
from sendora.delivery.phases import CHUNK_SIZE, Chunk, Outcome
from sendora.delivery.shards import Shards
from sendora.delivery.submit import WAKE_ACCOUNT
from sendora.kernel.clock import from_millis, millis
from sendora.kernel.ids import OrgId, SendId, id_millis
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Connection, copy_in, is_away, month_of, partition

RETRY_S: Final = 0.2
"""Between two tries of a transaction, while the leases last."""

PROGRESS: Final = 100
"""Claims that are taken back when a chunk has brought outcomes: it did not kill its worker."""

COLUMNS: Final = (
    "org_id", "send_id", "shard", "seq", "position", "recipient", "user_id", "state", "reason", "variant",
    "provider", "provider_id", "attempt", "repeated", "at",
)  # fmt: skip


class ShardLost(Exception):
    """Somebody else owns the shard: whatever its chunks were doing here ends."""


class SendAtRest(Exception):
    """The send was paused or stopped: nobody else of the chunk leaves."""


class Entry(msgspec.Struct):
    """What one chunk wants written."""

    chunk: Chunk
    epoch: int
    started: int = 0
    closed: bool = False
    wait_s: float | None = None
    unclaim: int = 0
    outcomes: list[OutcomeBatch] = msgspec.field(default_factory=list)
    futures: list[asyncio.Future[None]] = msgspec.field(default_factory=list)
    marking: list[asyncio.Future[None]] = msgspec.field(default_factory=list)
    """Of those who want somebody to leave; a send at rest refuses them alone."""

    @property
    def send(self) -> tuple[OrgId, SendId]:
        return self.chunk.org, self.chunk.send

    @property
    def rows(self) -> int:
        return sum(len(batch) for batch in self.outcomes)


_Group = tuple[OrgId, SendId, int, str, int, bool, int, datetime | None, int]
"""(org, send, shard, class, attempt, repeated, due in ms, due in their own zone, first attempt): recipients who go on
together."""

ID_BYTES: Final = 16


def batched(chunk: Chunk, outcomes: Sequence[Outcome]) -> OutcomeBatch:
    """Settled outcomes of the plain lane in the form that the library's own have."""
    return OutcomeBatch(
        chunk.org.bytes,
        chunk.send.bytes,
        chunk.shard,
        chunk.seq,
        chunk.attempt,
        [
            (
                outcome.position,
                outcome.recipient.bytes,
                _text(outcome.user_id),
                _text(outcome.variant),
                outcome.provider,
                (
                    outcome.state,
                    _text(outcome.reason),
                    _text(outcome.provider_id),
                    None if outcome.due_at is None else millis(outcome.due_at),
                    outcome.repeated,
                    outcome.counted,
                ),
            )
            for outcome in outcomes
        ],
    )


class Ledger:
    """A worker's writer. One transaction at a time, on one connection of the pool."""

    def __init__(self, kernel: Kernel, shards: Shards, *, flush_s: float, flush_rows: int) -> None:
        self._kernel = kernel
        self._shards = shards
        self._flush_s = flush_s
        self._flush_rows = flush_rows
        self._pending: dict[tuple[store.ChunkKey, int], Entry] = {}
        self._refused: set[tuple[store.ChunkKey, int]] = set()
        """Chunks in flight of which outcomes are missing because PostgreSQL refused them: they are not to be closed."""
        self._rows = 0
        self._some = asyncio.Event()
        self._now = asyncio.Event()

    async def mark(self, chunk: Chunk, epoch: int, upto: int) -> None:
        """Return when the mark is committed: then the bytes of positions below `upto` may leave. Raises ShardLost, and
        SendAtRest when nobody of the send is to leave."""
        entry = self._entry(chunk, epoch)
        entry.started = max(entry.started, upto)
        self._now.set()
        await self._future(entry.marking)

    def record(self, chunk: Chunk, epoch: int, outcomes: OutcomeBatch, *, closed: bool) -> asyncio.Future[None]:
        """Take outcomes; done when they are committed, ShardLost when they never will be."""
        entry = self._entry(chunk, epoch)
        if len(outcomes):
            entry.outcomes.append(outcomes)
        entry.closed = entry.closed or closed
        self._rows += len(outcomes)
        if self._rows >= self._flush_rows:
            self._now.set()
        return self._future(entry.futures)

    def put_back(self, chunk: Chunk, epoch: int, wait_s: float, *, blame: bool) -> asyncio.Future[None]:
        """The rest of the chunk waits in the queue. `blame`: the take counts towards parking it."""
        entry = self._entry(chunk, epoch)
        entry.wait_s = wait_s
        entry.unclaim = 0 if blame else 1
        self._now.set()
        return self._future(entry.futures)

    async def run(self, stop: asyncio.Event) -> None:
        """Flush until stopped and empty."""
        try:
            while True:
                if not self._pending:
                    if stop.is_set():
                        return
                    await _first(self._some, stop, within_s=None)
                    continue
                await _first(self._now, stop, within_s=self._flush_s)
                await self._flush()
        finally:
            for entry in self._pending.values():
                _fail(entry, ShardLost("the ledger has ended"))
            self._pending.clear()

    def _entry(self, chunk: Chunk, epoch: int) -> Entry:
        key = _key(chunk, epoch)
        entry = self._pending.get(key)
        if entry is None:
            entry = self._pending[key] = Entry(chunk, epoch)
            self._some.set()
        return entry

    def _future(self, waiting: list[asyncio.Future[None]]) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Not everybody waits for every outcome; a loss that nobody asked about is no news.
        future.add_done_callback(_seen)
        waiting.append(future)
        return future

    async def _flush(self) -> None:
        batch = list(self._pending.values())
        for key in self._refused & self._pending.keys():
            self._pending[key].closed = False
            if self._pending[key].wait_s is not None:  # The last word of its flight.
                self._refused.discard(key)
        self._pending = {}
        self._rows = 0
        self._some.clear()
        self._now.clear()
        try:
            await self._write(batch)
        except BaseException:
            for entry in batch:
                _fail(entry, ShardLost("the ledger has ended"))
            raise

    async def _write(self, batch: list[Entry]) -> None:
        """Write until it is written or the leases are over. A batch that PostgreSQL refuses is written chunk by chunk,
        so that one bad outcome does not take the others' with it."""
        again = False
        while batch:
            batch = self._still_mine(batch)
            if not batch:
                return
            try:
                await self._transaction(batch, again)
            except Exception as error:
                if is_away(error) or isinstance(error, _CONFLICTS):
                    self._kernel.log.warning("ledger.away", error=repr(error), chunks=len(batch))
                    again = True
                    await asyncio.sleep(RETRY_S)
                elif len(batch) == 1:
                    (entry,) = batch
                    self._kernel.log.error("ledger.refused", error=repr(error), send=str(entry.chunk.send))
                    _fail(entry, error)
                    if entry.wait_s is None:
                        self._refused.add(_key(entry.chunk, entry.epoch))
                        return
                    if not entry.outcomes:
                        return
                    # The outcomes are what was refused; that the rest waits is sound.
                    batch = [Entry(entry.chunk, entry.epoch, started=entry.started, wait_s=entry.wait_s)]
                    again = False
                else:
                    for entry in batch:
                        await self._write([entry])
                    return
            else:
                return

    def _still_mine(self, batch: list[Entry]) -> list[Entry]:
        mine = []
        for entry in batch:
            if self._shards.is_mine(entry.chunk.shard, entry.epoch):
                mine.append(entry)
            else:
                _fail(entry, ShardLost(entry.chunk.shard))
        return mine

    async def _transaction(self, batch: list[Entry], again: bool) -> None:
        started = self._kernel.clock.monotonic()
        for send in {entry.chunk.send for entry in batch}:
            await make_partition(self._kernel, send)
        epochs = {entry.chunk.shard: entry.epoch for entry in batch}
        async with self._kernel.db.transaction() as connection:
            held = await store.held_shards(connection, self._shards.holder, epochs)
            kept = [entry for entry in batch if entry.chunk.shard in held and entry.epoch == epochs[entry.chunk.shard]]
            resting = await _at_rest(connection, kept)
            # The last try may have been committed although its answer was lost: it was one transaction, so one row
            # tells. Marks, closings and puttings back may be written twice.
            if kept and not (again and await _is_written(connection, kept)):
                await self._rows_in(connection, kept)
                await self._follow_up(connection, kept)
            if kept:
                await self._marks(connection, kept, resting)
            failpoint.hit("ledger.before_commit")
        failpoint.hit("ledger.after_commit")
        self._kernel.metrics.observe("dispatch_flush_rows", sum(entry.rows for entry in kept))
        self._kernel.metrics.observe("dispatch_flush_seconds", self._kernel.clock.monotonic() - started)
        if kept:
            # Before the futures, and so before the bytes: a chunk may go on for long after it was taken up.
            self._kernel.fence.note(max(entry.chunk.send for entry in kept))
        for entry in kept:
            if entry.send in resting:
                _refuse(entry.marking, SendAtRest(entry.chunk.send))
            for future in (*entry.futures, *entry.marking):
                if not future.done():
                    future.set_result(None)
        for entry in batch:
            _fail(entry, ShardLost(entry.chunk.shard))
        if len(held) < len(epochs):
            self._kernel.metrics.count("dispatch_lease_lost")
            self._shards.drop(set(epochs) - held)
        if any(entry.closed for entry in kept):
            await self._kernel.bus.wake(WAKE_ACCOUNT)

    async def _rows_in(self, connection: Connection, batch: list[Entry]) -> None:
        batches = [outcomes for entry in batch for outcomes in entry.outcomes]
        if batches:
            at_us = int(self._kernel.clock.now().timestamp() * 1_000_000)
            await copy_in(connection, "deliveries", COLUMNS, copy_outcomes(batches, at_us))

    async def _follow_up(self, connection: Connection, batch: list[Entry]) -> None:
        """What is not finished goes on as a chunk of the same send and shard."""
        groups: dict[_Group, list[bytes]] = defaultdict(list)
        for entry in batch:
            chunk = entry.chunk
            for outcomes in entry.outcomes:
                for attempt, repeated, due_ms, ids in outcomes.follow_up():
                    times = attempt, repeated, due_ms, chunk.own_at, chunk.first_attempt
                    groups[chunk.org, chunk.send, chunk.shard, chunk.class_, *times].append(ids)
        if not groups:
            return
        pieces = [
            (group, ids[low : low + CHUNK_SIZE * ID_BYTES])
            for group, ids in ((group, b"".join(parts)) for group, parts in groups.items())
            for low in range(0, len(ids), CHUNK_SIZE * ID_BYTES)
        ]
        needed: dict[tuple[OrgId, SendId, int], int] = defaultdict(int)
        for (org, send, shard, *_), _ids in pieces:
            needed[org, send, shard] += 1
        numbered = await connection.fetch(
            store.SQL.take_numbers,
            [org for org, _, _ in needed],
            [send for _, send, _ in needed],
            [shard for _, _, shard in needed],
            list(needed.values()),
        )
        next_seq = {(row["org_id"], row["send_id"], row["shard"]): row["first"] for row in numbered}
        rows: list[tuple[Any, ...]] = []
        for (org, send, shard, class_, attempt, repeated, due_ms, own_at, first), ids in pieces:
            seq = next_seq[org, send, shard]
            next_seq[org, send, shard] = seq + 1
            rows.append((org, send, shard, seq, class_, attempt, repeated, ids, from_millis(due_ms), own_at, first))
        await connection.executemany(store.SQL.insert_chunk, rows)

    async def _marks(self, connection: Connection, batch: list[Entry], resting: set[tuple[OrgId, SendId]]) -> None:
        await connection.execute(
            store.SQL.move_marks,
            [entry.chunk.org for entry in batch],
            [entry.chunk.send for entry in batch],
            [entry.chunk.shard for entry in batch],
            [entry.chunk.seq for entry in batch],
            [0 if entry.send in resting else entry.started for entry in batch],
            [entry.closed for entry in batch],
            [entry.wait_s for entry in batch],
            [PROGRESS if entry.outcomes else entry.unclaim for entry in batch],
        )


async def make_partition(kernel: Kernel, send: SendId) -> None:
    """What must be there before a row of this send is written."""
    await partition(kernel.db, "deliveries", month_of(from_millis(id_millis(send))))


def _key(chunk: Chunk, epoch: int) -> tuple[store.ChunkKey, int]:
    return (chunk.org, chunk.send, chunk.shard, chunk.seq), epoch


_CONFLICTS: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError)


async def _at_rest(connection: Connection, batch: list[Entry]) -> set[tuple[OrgId, SendId]]:
    """Sends of the batch for which somebody wants to leave and nobody may."""
    sends = {entry.send for entry in batch if entry.marking}
    if not sends:
        return set()
    rows = await connection.fetch(store.SQL.sends_at_rest, [org for org, _ in sends], [send for _, send in sends])
    return {(row["org_id"], row["send_id"]) for row in rows}


async def _is_written(connection: Connection, batch: list[Entry]) -> bool:
    for entry in batch:
        for outcomes in entry.outcomes:
            chunk = entry.chunk
            found: bool = await connection.fetchval(
                store.SQL.has_outcome, chunk.org, chunk.send, chunk.shard, chunk.seq, outcomes.first_position()
            )
            return found
    return False


def _text(value: str | None) -> str | None:
    """Without lone surrogates, which no UTF-8 holds. What else PostgreSQL cannot store the library takes out."""
    return value if value is None or value.isascii() else value.encode("utf-8", "replace").decode()


def _fail(entry: Entry, error: Exception) -> None:
    _refuse([*entry.futures, *entry.marking], error)


def _refuse(futures: Sequence[asyncio.Future[None]], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)


def _seen(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()


async def _first(*events: asyncio.Event, within_s: float | None) -> None:
    """Return when one of them is set, or the time is over."""
    if any(event.is_set() for event in events):
        return
    waits: list[asyncio.Task[Any]] = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
