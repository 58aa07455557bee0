"""What the clock makes this room do: carry requests to their end.

eats        rows of `deletion_requests` that are open and due
gives       the person erased in every room; `completed`
bounded by  REQUESTS_MAX requests a run, one at a time; a request waits twice as long after each failure
acks when   each step of service.py is committed by itself
if it dies  the lease on the row ends within LEASE_S, and the next run goes on with the step that was not done
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from sendora.kernel import bus
from sendora.kernel.errors import Unavailable
from sendora.kernel.life import Kernel
from sendora.kernel.module import Job
from sendora.kernel.pg import is_away
from sendora.modules.consent import service, store
from sendora.modules.consent.model import Deletion

EVERY_S: Final = 2.0
"""One look at an index that is empty as a rule."""

LEASE_S: Final = 30.0
RENEW_S: Final = 10.0
"""Two renewals may fail before another process takes the request up; both may work on it, each step bears that."""

REQUESTS_MAX: Final = 1_000
"""Of one run, so that the job's own lease is renewed now and then."""

PAUSE_MAX_S: Final = 600.0
"""Between two tries of a request that fails."""


TOMBSTONES_KEPT_S: Final = bus.KEEP_S + 3_600
"""Whatever the log still holds, also when it was restored from a copy, is younger than this."""


async def erase_people(kernel: Kernel) -> None:
    for _ in range(REQUESTS_MAX):
        deletion = await store.claim(kernel.db, LEASE_S)
        if deletion is None:
            break
        await _go_on(kernel, deletion)
    kernel.metrics.gauge("deletions_open", await store.count_open(kernel.db))


async def forget_tombstones(kernel: Kernel) -> None:
    await store.forget_names(kernel.db, TOMBSTONES_KEPT_S)


async def _go_on(kernel: Kernel, deletion: Deletion) -> None:
    """One that fails does not hold up the others: it is tried again, later each time."""
    try:
        async with _kept(kernel, deletion):
            wait_s = await service.erase(kernel, deletion)
    except store.RunOver:
        return
    except Exception as error:
        away = isinstance(error, Unavailable) or is_away(error) or bus.is_away(error)
        kernel.log.warning("deletion_waits", request=str(deletion.id), error=repr(error), exc_info=not away)
        wait_s = min(2.0 ** min(deletion.tries, 10), PAUSE_MAX_S)
    if wait_s is not None:
        await _postpone(kernel, deletion, wait_s)


async def _postpone(kernel: Kernel, deletion: Deletion, seconds: float) -> None:
    try:
        await store.postpone(kernel.db, deletion, seconds)
    except store.RunOver:
        return


@asynccontextmanager
async def _kept(kernel: Kernel, deletion: Deletion) -> AsyncIterator[None]:
    """The request stays ours for as long as it is worked on."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await _postpone(kernel, deletion, LEASE_S)
            except Exception as error:
                if not is_away(error):
                    raise

    renewing = asyncio.create_task(renew(), name="consent.lease")
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)


JOBS: Final = (
    Job(name="consent.erase", every_s=EVERY_S, run=erase_people),
    Job(name="consent.tombstones", every_s=3_600, run=forget_tombstones),
)
