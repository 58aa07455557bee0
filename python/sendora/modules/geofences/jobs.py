"""What the clock makes this room do."""

from typing import Final

from sendora.kernel.life import Kernel
from sendora.kernel.module import Job
from sendora.modules.geofences import store
from sendora.modules.geofences.model import first_day

ROWS_MAX: Final = 5_000
"""Rows of one DELETE: a transaction of some milliseconds."""


async def forget_days(kernel: Kernel) -> None:
    """Days that no window reaches any more."""
    before = first_day(kernel.clock.now())
    while await store.forget_days(kernel.db, before, ROWS_MAX) == ROWS_MAX:
        pass


JOBS: Final = (Job(name="geofences.days", every_s=3_600, run=forget_days),)
