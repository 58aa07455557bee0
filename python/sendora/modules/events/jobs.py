"""What the clock makes this room do."""

from typing import Final

from sendora.kernel import pg
from sendora.kernel.life import Kernel
from sendora.kernel.module import Job
from sendora.modules.events import store
from sendora.modules.events.model import BAD_ROWS_KEPT_DAYS

ROWS_MAX: Final = 5_000
"""Rows of one DELETE: a transaction of some milliseconds."""

AHEAD_MONTHS: Final = 2
"""This month's partition and the next one's: the first event of a month finds its place made, in every time zone."""


async def forget_bad_rows(kernel: Kernel) -> None:
    """Bad rows hold people's data that no erasure can find, so they do not stay (design 6)."""
    while await store.forget_bad(kernel.db, BAD_ROWS_KEPT_DAYS, ROWS_MAX) == ROWS_MAX:
        pass


async def make_partitions(kernel: Kernel) -> None:
    """The storer makes what is missing as well, but then its batch waits for it."""
    month = pg.month_of(kernel.clock.now())
    for ahead in range(AHEAD_MONTHS):
        await pg.partition(kernel.db, "events", month + ahead)


JOBS: Final = (
    Job(name="events.bad_rows", every_s=3_600, run=forget_bad_rows),
    Job(name="events.partitions", every_s=6 * 3_600, run=make_partitions),
)
