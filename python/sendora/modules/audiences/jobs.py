"""What the clock makes this room do."""

from typing import Final

from sendora.kernel.life import Kernel
from sendora.kernel.module import Job
from sendora.modules.audiences import contacts

ROWS_MAX: Final = 5_000
"""Rows of one DELETE: a transaction of some milliseconds."""


async def sweep(kernel: Kernel) -> None:
    """Contacts of lists that were deleted. From the tombstone on nobody finds them, and a list may be long."""
    while await contacts.sweep(kernel.db, ROWS_MAX) == ROWS_MAX:
        pass


JOBS: Final = (Job(name="audiences.sweep", every_s=600.0, run=sweep),)
