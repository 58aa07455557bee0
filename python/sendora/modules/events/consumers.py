"""The storer: from the log into `events`, each event once, and every one accounted for.

eats        frames of EVENTS, in the order of the log
gives       rows of `events`, `bad_rows` and `event_skips`, `event_counts`, `usage_months`; wake.events
bounded by  FRAMES_MAX frames a transaction
acks when   the rows, the counts and the lane's position are committed, all in one transaction
if it dies  nothing is stored, or all with the position: what is delivered again is seen to be old

COPY cannot skip duplicates, so one query asks which keys are there; a violation all the same sends the rows through a
temporary table. A row that Postgres refuses is found by halves and kept in `bad_rows` byte for byte; its neighbours are
stored. So accepted = stored + duplicate + bad (F-I5, F-I7, C94), whatever is delivered how often. An event of somebody
who was erased after it is met when the log is read again: it counts as a duplicate, of one that is there no more.
Whoever reads the log beside the storer and must count what it counts is told what it left out (`event_skips`).
What the system itself said (frames of events.system) is stored and accounted for like the rest, but is no part of
anybody's month (C30).
"""

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import asyncpg

from sendora._core import EventBatch
from sendora.kernel import bus, pg
from sendora.kernel.bus import Message
from sendora.kernel.ids import OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.kernel.module import Consumer
from sendora.kernel.pg import Connection
from sendora.kernel.pg.positions import advance_position, lock_position, unread
from sendora.modules import consent, orgs
from sendora.modules.events import store

STORER: Final = "events"

WAKE: Final = "wake.events"

FRAMES_MAX: Final = 8
"""At most 16,000 events or 8 MiB in one transaction: commits are shared, and what a crash repeats takes half a
second."""

REASON_MAX: Final = 500

REFUSED: Final = (
    asyncpg.DataError,  # class 22: a value that the type cannot hold
    asyncpg.IntegrityConstraintViolationError,  # class 23
    asyncpg.ProgramLimitExceededError,  # class 54: too long for an index
)
"""What speaks against a row. Anything else speaks against the server or us, and is tried again as it is."""


async def store_events(kernel: Kernel, messages: list[Message]) -> None:
    batch = await asyncio.to_thread(_batch, messages)
    for month in batch.months():
        # Committed on its own: another process's storer must not wait for this batch to find its partition.
        await pg.partition(kernel.db, "events", month)
    async with kernel.db.transaction() as connection:
        position = await lock_position(connection, STORER)
        fresh = unread(messages, position)
        if not fresh:
            return
        if len(fresh) < len(messages):
            # Some came a second time, after a crash or a late acknowledgement.
            batch = await asyncio.to_thread(_batch, fresh)
        if position == 0:
            # A log that begins again: what is known of its numbers belongs to the one before.
            await store.clear_skips(connection)
        counts = await _Storing(kernel, connection, fresh, batch).run()
        await advance_position(connection, STORER, fresh[-1].position)
    for _, project, accepted, stored, duplicate, bad in counts:
        label = str(UUID(bytes=project))
        kernel.metrics.count("events_accepted", accepted, project=label)
        kernel.metrics.count("events_stored", stored, project=label)
        kernel.metrics.count("events_duplicate", duplicate, project=label)
        kernel.metrics.count("events_bad", bad, project=label)
    await kernel.bus.wake(WAKE)


consumer: Final = Consumer(
    name=STORER, stream=bus.EVENTS, subject="events.*", handle=store_events, batch_max=FRAMES_MAX, single=True
)


def _batch(frames: Sequence[Message]) -> EventBatch:
    return EventBatch([frame.data for frame in frames])


class _Storing:
    """One transaction's work, with what it has found out so far."""

    def __init__(self, kernel: Kernel, connection: Connection, frames: Sequence[Message], batch: EventBatch) -> None:
        self._kernel = kernel
        self._connection = connection
        self._frames = frames
        self._batch = batch
        self._keys = self._batch.keys()
        self._duplicates: list[int] = []
        self._bad: list[int] = []

    async def run(self) -> list[store.Count]:
        if len(self._batch):
            known = await store.known(self._connection, self._keys)
            self._duplicates = sorted({*known, *self._batch.repeats(), *await self._erased()})
            await self._copy(0, len(self._batch))
        if self._duplicates or self._bad:
            await store.add_skips(self._connection, self._skips())
        counts = self._batch.counts(sorted(self._duplicates), sorted(self._bad))
        if counts:
            month = orgs.month_of(self._kernel.clock.now())
            await store.add_counts(self._connection, month, counts, free=await self._free())
        return counts

    async def _erased(self) -> list[int]:
        """Ordinals of what people said who were erased afterwards."""
        tombstones = await consent.erased_behind(self._kernel, self._connection, self._frames[0].position)
        if tombstones is None:
            return []
        begins = [0, *self._batch.ends()]
        return [
            begin + ordinal
            for frame, begin in zip(self._frames, begins, strict=False)
            for ordinal in consent.strip(frame.data, frame.position, tombstones).gone
        ]

    async def _free(self) -> list[store.Count]:
        """The part of the counts that the system said itself (C30)."""
        system = [frame for frame in self._frames if frame.subject == bus.SYSTEM]
        if not system:
            return []
        ordinals: list[int] = []
        begin = 0
        for frame, end in zip(self._frames, self._batch.ends(), strict=True):
            if frame.subject == bus.SYSTEM:
                ordinals += range(begin, end)
            begin = end
        place = {ordinal: index for index, ordinal in enumerate(ordinals)}
        batch = await asyncio.to_thread(_batch, system)
        duplicate, bad = (
            [place[one] for one in sorted(ones) if one in place] for ones in (self._duplicates, self._bad)
        )
        return batch.counts(duplicate, bad)

    async def _copy(self, low: int, high: int) -> None:
        """Store the ordinals in [low, high); what is refused is found by halves."""
        data = await asyncio.to_thread(self._batch.copy, self._duplicates, low, high)
        try:
            async with self._connection.transaction():
                await store.copy(self._connection, data)
            return
        except asyncpg.UniqueViolationError:
            # Stored by somebody else since we asked, or the same key twice in a way that the library did not see.
            refused = await self._insert_new(data, low, high)
        except REFUSED as error:
            refused = error
        if refused is None:
            return
        if "no partition" in str(refused):
            # It was dropped behind our back; that is no fault of the row.
            self._kernel.db.partitions.clear()
            raise refused
        if high - low == 1:
            await self._set_aside(low, refused)
            return
        middle = (low + high) // 2
        await self._copy(low, middle)
        await self._copy(middle, high)

    async def _insert_new(self, data: bytes, low: int, high: int) -> Exception | None:
        """The way around COPY; the rows that turned out to be there already become duplicates."""
        try:
            async with self._connection.transaction():
                inserted = await store.insert_new(self._connection, data)
        except REFUSED as error:
            return error
        skipped = set(self._duplicates)
        for ordinal in range(low, high):
            key = self._keys[ordinal * store.KEY_BYTES : (ordinal + 1) * store.KEY_BYTES]
            if ordinal not in skipped and key not in inserted:
                self._duplicates.append(ordinal)
        self._duplicates.sort()
        return None

    async def _set_aside(self, ordinal: int, refused: Exception) -> None:
        org, project, record = self._batch.record(ordinal)
        state = getattr(refused, "sqlstate", None)
        await store.insert_bad(
            self._connection,
            OrgId(UUID(bytes=org)),
            ProjectId(UUID(bytes=project)),
            self._position_of(ordinal),
            record,
            f"{state}: {refused}"[:REASON_MAX],
        )
        self._bad.append(ordinal)
        self._kernel.log.warning("event_refused", org=UUID(bytes=org).hex, sqlstate=state)

    def _position_of(self, ordinal: int) -> int:
        """Which frame an event came in."""
        return self._frames[bisect_right(self._batch.ends(), ordinal)].position

    def _skips(self) -> list[tuple[int, list[int]]]:
        """What was left out of each frame, by its own ordinals."""
        left_out = sorted({*self._duplicates, *self._bad})
        skips: list[tuple[int, list[int]]] = []
        begin = 0
        for frame, end in zip(self._frames, self._batch.ends(), strict=True):
            ordinals = left_out[bisect_left(left_out, begin) : bisect_left(left_out, end)]
            if ordinals:
                skips.append((frame.position, [ordinal - begin for ordinal in ordinals]))
            begin = end
        return skips
