"""What the clock makes this room do."""

from typing import Final

import asyncpg

from sendora.kernel import bus, pg
from sendora.kernel.life import Kernel
from sendora.kernel.module import Job
from sendora.modules.events import store
from sendora.modules.events.model import BAD_ROWS_KEPT_DAYS, WAKE_CUTS

ROWS_MAX: Final = 5_000
"""Rows of one DELETE: a transaction of some milliseconds."""

AHEAD_MONTHS: Final = 2
"""This month's partition and the next one's: the first event of a month finds its place made, in every time zone."""

SKIPS_KEPT_S: Final = bus.KEEP_S + 3_600
"""Longer than the frame itself, which came before."""

LOCK_TIMEOUT: Final = "2s"
"""How long a roll-up waits for readers at its end. Whoever comes meanwhile waits behind it, so it gives up soon."""


async def forget_bad_rows(kernel: Kernel) -> None:
    """Bad rows hold people's data that no erasure can find, so they do not stay (design 6)."""
    while await store.forget_bad(kernel.db, BAD_ROWS_KEPT_DAYS, ROWS_MAX) == ROWS_MAX:
        pass


async def make_partitions(kernel: Kernel) -> None:
    """The storer makes what is missing as well, but then its batch waits for it."""
    month = pg.month_of(kernel.clock.now())
    for ahead in range(AHEAD_MONTHS):
        await pg.partition(kernel.db, "events", month + ahead)


async def forget_skips(kernel: Kernel) -> None:
    while await store.forget_skips(kernel.db, SKIPS_KEPT_S, ROWS_MAX) == ROWS_MAX:
        pass


async def roll_up_old_months(kernel: Kernel) -> None:
    """Months that have had their time become days, and their partition goes in the same transaction."""
    first_kept = pg.month_of(kernel.clock.now()) - kernel.settings.events.kept_months
    rolled_up = 0
    for month in await pg.months(kernel.db, "events"):
        if month < first_kept:
            rolled_up += await _roll_up(kernel, month)
    if rolled_up:
        await kernel.bus.wake(WAKE_CUTS)


async def _roll_up(kernel: Kernel, month: int) -> bool:
    """False when others were at the partition, or at the table, for too long: the next run tries again."""
    try:
        async with kernel.db.transaction() as connection:
            await pg.begin_drop(connection, "events", month, LOCK_TIMEOUT)
            await store.roll_up(connection, *pg.key_range(month))
            await pg.drop_partition(connection, "events", month)
    except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
        kernel.log.warning("roll_up_waits", month=month, error=repr(error))
        return False
    kernel.db.partitions.discard(("events", month))
    kernel.log.info("rolled_up", month=month)
    return True


JOBS: Final = (
    Job(name="events.bad_rows", every_s=3_600, run=forget_bad_rows),
    Job(name="events.skips", every_s=3_600, run=forget_skips),
    Job(name="events.roll_up", every_s=3_600, run=roll_up_old_months),
    Job(name="events.partitions", every_s=6 * 3_600, run=make_partitions),
)
