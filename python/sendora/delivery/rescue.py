"""The safety poll: what waits although it is due is told of again, and counted.

Eats: sends, chunks and closed chunks that should have been taken up 15 s ago.
Gives: the wakes that they have lost, and a warning with their number.
Bounded by: one wake for each stage and each of the 64 shards.
Acks when: never; it only looks.
If it dies: another process looks 30 s later.

Every stage of this floor polls by itself, so nothing here is needed for a send to go out. It is for what a stage
cannot see: wakes that all of its processes lost, and shards with due chunks that nobody holds, which only an operator
can help.
"""

import asyncio
from contextlib import suppress
from typing import Final

from sendora.delivery import store
from sendora.delivery.shards import WAKE_SHARDS
from sendora.delivery.submit import WAKE_ACCOUNT, WAKE_PLAN, WAKE_SCHEDULE
from sendora.kernel.life import Kernel, Service
from sendora.kernel.pg import is_away

POLL_S: Final = 30.0

LATE_S: Final = 15.0
"""What was due so long ago has lost its wake: longer than a lease, which is how long a death may take."""


def rescuer(kernel: Kernel) -> Service:
    return Rescuer(kernel)


class Rescuer:
    name = "rescue"

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await rescue(self._kernel)
            except Exception as error:
                if not is_away(error):
                    raise
                self._kernel.log.warning("rescue.away", error=repr(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await stop.wait()


async def rescue(kernel: Kernel) -> list[str]:
    """Wake for everything that is late; the wakes that were sent."""
    wakes: list[str] = []
    late = await kernel.db.fetchrow(store.SQL.overdue, LATE_S)
    if late is not None:
        wakes += [WAKE_SCHEDULE] * bool(late["scheduled"])
        wakes += [WAKE_PLAN] * bool(late["plans"])
        wakes += [WAKE_ACCOUNT] * bool(late["accounts"])
    shards = await kernel.db.fetch(store.SQL.overdue_shards, LATE_S)
    if shards:
        wakes += [WAKE_SHARDS, *(f"wake.{row['shard']}" for row in shards)]
    for subject in wakes:
        await kernel.bus.wake(subject)
    if wakes:
        kernel.log.warning("rescue.late", wakes=len(wakes), chunks=sum(row["chunks"] for row in shards))
    await kernel.db.execute(store.SQL.forget_dispatchers)
    return wakes
