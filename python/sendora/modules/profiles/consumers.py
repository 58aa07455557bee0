"""The one writer of profiles: every change of a person, from the log.

eats        frames of EVENTS, in the order of the log
gives       rows of `profiles`; wake.profiles
bounded by  FRAMES_MAX frames a transaction; one row for each person and batch, however many events it had
acks when   the rows and the position are committed, in one transaction
if it dies  nothing is written, or all with the position: what is delivered again is seen to be old

One writer, so that identify, PATCH, DELETE and takeover cannot race: they happen in the order of the log. Whoever must
see a change waits for its position (`service.wait`). What people had said who were erased since is passed over when the
log is read again (`Bound.left`).
"""

import asyncio
from typing import Final

from sendora._core import ProfileBatch
from sendora.kernel import bus
from sendora.kernel.bus import Message
from sendora.kernel.life import Kernel
from sendora.kernel.module import Consumer
from sendora.kernel.pg import Connection
from sendora.kernel.pg.positions import advance_position, lock_position, unread
from sendora.modules.profiles import store
from sendora.modules.profiles.bound import Bound
from sendora.modules.profiles.model import takeovers

READER: Final = "profiles"

WAKE: Final = "wake.profiles"

FRAMES_MAX: Final = 8
"""As the storer's."""


async def write_profiles(kernel: Kernel, messages: list[Message]) -> None:
    async with kernel.db.transaction() as connection:
        position = await lock_position(connection, READER)
        fresh = unread(messages, position)
        if not fresh:
            return
        frames = [message.data for message in fresh]
        if Bound.left is not None:
            frames = list(await Bound.left(kernel, connection, fresh))
        people, data = await asyncio.to_thread(_digest, frames)
        written = await _write(kernel, connection, people, data) if people else 0
        await advance_position(connection, READER, fresh[-1].position)
    kernel.metrics.count("profiles_written", written)
    await kernel.bus.wake(WAKE)


consumer: Final = Consumer(
    name=READER, stream=bus.EVENTS, subject="events.*", handle=write_profiles, batch_max=FRAMES_MAX, single=True
)


def _digest(frames: list[bytes]) -> tuple[int, bytes]:
    batch = ProfileBatch(frames)
    return len(batch), batch.copy()


async def _write(kernel: Kernel, connection: Connection, people: int, data: bytes) -> int:
    await store.land(connection, data)
    written = await _upsert(kernel, connection, 1, people)
    wanted = await store.wanted_takeovers(connection)
    if wanted:
        roots = await store.roots(connection, [(*anonymous[:2], known) for anonymous, known in wanted])
        await store.take_over(connection, takeovers(wanted, roots))
    return written


async def _upsert(kernel: Kernel, connection: Connection, low: int, high: int) -> int:
    """Write the landed rows [low, high]. A row that Postgres refuses is found by halves and left out: its person stays
    as before, and what it said is an event, which the storer keeps or puts among the bad rows."""
    try:
        async with connection.transaction():
            return await store.upsert(connection, low, high)
    except store.REFUSED as error:
        if low == high:
            kernel.log.warning("profile_refused", error=repr(error))
            return 0
    middle = (low + high) // 2
    return await _upsert(kernel, connection, low, middle) + await _upsert(kernel, connection, middle + 1, high)
