"""What the clock makes this room do."""

from typing import Final

from sendora.kernel.life import Kernel
from sendora.kernel.module import Job
from sendora.modules import events, profiles
from sendora.modules.audiences import bound, contacts

ROWS_MAX: Final = 5_000
"""Rows of one DELETE: a transaction of some milliseconds."""


async def sweep(kernel: Kernel) -> None:
    """Contacts of lists that were deleted. From the tombstone on nobody finds them, and a list may be long."""
    while await contacts.sweep(kernel.db, ROWS_MAX) == ROWS_MAX:
        pass


async def classify(kernel: Kernel) -> None:
    """B064: sets the lifecycle stage of everybody in the orgs that asked for it. The log does not tell the indexes of
    it, so they are made anew; also where nothing has changed, because a run may have died before it came to that."""
    for org in await bound.opted_in(kernel):
        for project in await profiles.classify(kernel, org):
            await events.make_anew(kernel, org, project)


JOBS: Final = (
    Job(name="audiences.sweep", every_s=600.0, run=sweep),
    Job(name="audiences.lifecycle", every_s=86_400.0, run=classify),
)
