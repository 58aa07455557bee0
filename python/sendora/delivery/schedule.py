"""Scheduled sends become queued ones when they are due (B096).

Eats: rows of `sends` that are scheduled and due, rows of `schedules` whose occurrence is; `wake.schedule` says that the
next due time may be sooner.
Gives: the same sends, queued, and `wake.plan`; each schedule's next occurrence, scheduled.
Bounded by: 100 sends or schedules a transaction.
Acks when: the status is committed.
If it dies: what is due stays due, and the next scheduler starts it.

It wakes at the next due time; 30 s is only the safety poll (C91). Whether a send is due is PostgreSQL's to say, and
the row is its own occurrence: any number of schedulers with any clocks start it once (F-S1, F-S2). A send that was due
while nobody looked is started late, and its lifetime, counted from the due time, decides who still gets it (F-S3).
"""

import asyncio
from contextlib import suppress
from typing import Final

from sendora.delivery import series, store
from sendora.delivery.submit import WAKE_PLAN, WAKE_SCHEDULE
from sendora.kernel.errors import Unavailable
from sendora.kernel.life import Kernel, Service
from sendora.kernel.pg import is_away

POLL_S: Final = 30.0

AWAY_S: Final = 1.0
"""How soon to look again when PostgreSQL is away: sends may be due."""

TAKEN_S: Final = 0.1
"""How soon to look again at what is due and in another scheduler's hands."""

CLAIMS_MAX: Final = 100
"""Sends that are started in one transaction."""


def scheduler(kernel: Kernel) -> Service:
    return Scheduler(kernel)


class Scheduler:
    name = "schedule"

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._woken = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        end = self._kernel.bus.on_wake(WAKE_SCHEDULE, lambda subject: self._woken.set())
        stopping = asyncio.ensure_future(self._watch(stop))
        try:
            while not stop.is_set():
                self._woken.clear()
                wait_s = await self._once()
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._woken.wait()
        finally:
            stopping.cancel()
            end()

    async def _watch(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._woken.set()

    async def _once(self) -> float:
        """Start what is due; seconds until the next look."""
        try:
            await start_due(self._kernel)
            next_s = await store.next_scheduled_s(self._kernel.db)
        except Exception as error:
            if not is_away(error):
                raise
            self._kernel.log.warning("schedule.away", error=repr(error))
            return AWAY_S
        if next_s is None:
            return POLL_S
        return min(next_s, POLL_S) if next_s > 0 else TAKEN_S


async def start_due(kernel: Kernel) -> int:
    """Every send that is due is queued; how many. Schedules go on first: which occurrence is to start depends on it."""
    await series.advance(kernel)
    started = 0
    while True:
        # The audience is that of the due time. Without the log the position of the call must do: the send goes out.
        log_position = 0
        with suppress(Unavailable):
            log_position = await kernel.bus.head()
        claimed = await store.claim_scheduled(kernel.db, CLAIMS_MAX, log_position)
        started += claimed
        if claimed:
            await kernel.bus.wake(WAKE_PLAN)
        if claimed < CLAIMS_MAX:
            return started
