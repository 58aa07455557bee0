"""How many people of an A/B test did what, counted for whoever asks.

Eats: the ledger's rows of a test's sends, opens and receipts; asked by `GET /push/ab-tests/{id}/stats` and by the job
that completes tests.
Gives: the count, kept in the test's own row with the instant that it is as of.
Bounded by: COUNTS_MAX counts of a process at a time, COUNT_MAX_S each. A count walks over everybody who was sent to,
milliseconds for most tests and ten seconds for a million people. So it is made once for all who ask meanwhile, here and
in other processes, and one that took long is shown again until it is REUSE times as old: however often one looks, a
test costs PostgreSQL at most a thirtieth of its time.
Acks when: the count is committed. Who asks waits for WAIT_S, and then sees the last count, or that there is none yet.
If it dies: the row has the last count, and whoever asks next makes one.
"""

import asyncio
from typing import Final
from weakref import WeakKeyDictionary

from sendora.kernel.ids import OrgId, ProjectId, TestId
from sendora.kernel.life import Kernel
from sendora.modules.push.model import readout
from sendora.modules.push.model.readout import Counted
from sendora.modules.push.store import content as store

QUICK_S: Final = 0.5
"""What is counted so fast is counted for each who asks."""

REUSE: Final = 30.0
WAIT_S: Final = 10.0
COUNTS_MAX: Final = 2
COUNT_MAX_S: Final = 600.0
"""Some fifty million people."""


class _Counting:
    """Of one process."""

    def __init__(self) -> None:
        self.running: dict[TestId, asyncio.Task[Counted]] = {}
        self.places = asyncio.Semaphore(COUNTS_MAX)


_processes: WeakKeyDictionary[object, _Counting] = WeakKeyDictionary()


async def of_test(kernel: Kernel, org: OrgId, project: ProjectId, test: TestId) -> Counted:
    """Without an instant while the first count is being made. A cancelled caller leaves the count to others."""
    last = await store.last_tallies(kernel.db, org, project, test)
    if last is not None and _serves(last):
        return last
    counting = _processes.setdefault(kernel.db, _Counting())
    task = counting.running.get(test)
    if task is None:
        task = counting.running[test] = asyncio.create_task(_count(kernel, counting, org, project, test))
        task.add_done_callback(lambda task: _ended(counting, test, task))
    done, _ = await asyncio.wait({task}, timeout=WAIT_S)
    if done:
        return task.result()
    return last or Counted(tallies={}, as_of=None)


async def _count(kernel: Kernel, counting: _Counting, org: OrgId, project: ProjectId, test: TestId) -> Counted:
    async with counting.places, kernel.db.transaction() as connection:
        since = await store.begin_tally(connection, test, COUNT_MAX_S)
        last = await store.last_tallies(connection, org, project, test)
        if last is not None and _serves(last):
            return last  # Somebody else has counted while we waited for the lock.
        return await store.tally_test(connection, org, project, test, readout.FOLLOW_UP, since, COUNT_MAX_S)


def _serves(last: Counted) -> bool:
    """Whether it is shown again instead of being counted anew."""
    return last.took_s > QUICK_S and last.age_s < last.took_s * REUSE


def _ended(counting: _Counting, test: TestId, task: asyncio.Task[Counted]) -> None:
    del counting.running[test]
    if not task.cancelled():
        task.exception()  # Heard, though nobody may have waited for it.
