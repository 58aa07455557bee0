"""What the clock makes a room do: each job in one process of the cluster at a time, under the lease `job.<name>`.

A job is idempotent and looks for its own work, so a run too many is harmless and a run too few is made up by the next
one; the lease only keeps schedulers from doing the same at once. Wait, lease and run are bounded by `every_s`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from sendora.kernel.errors import Unavailable
from sendora.kernel.ids import new_id
from sendora.kernel.life import Kernel
from sendora.kernel.module import Job
from sendora.kernel.pg import Lease, is_away

AFTER_FAILURE_S: Final = 5.0
"""Soon enough that a short outage does not cost a whole period, late enough not to beat on a server that comes back."""


class JobRunner:
    """Runs one job every `every_s` seconds, counted from the end of the last run."""

    def __init__(self, kernel: Kernel, job: Job) -> None:
        self.name = f"job.{job.name}"
        self._kernel = kernel
        self._job = job
        self._lease = Lease(kernel.db, self.name, str(new_id()), seconds=max(job.every_s, 10.0))

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            wait_s = self._job.every_s
            try:
                # The lease is kept until the period has passed: that is what makes the job run once in it.
                if await self._lease.acquire() is not None:
                    await self._job.run(self._kernel)
                    self._count("ok")
            except Exception as error:
                away = is_away(error) or isinstance(error, Unavailable)
                if not away:
                    self._kernel.log.exception("job failed", job=self._job.name)
                self._count("away" if away else "failed")
                wait_s = min(wait_s, AFTER_FAILURE_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), wait_s)
        with suppress(Exception):
            await self._lease.release()

    def _count(self, result: str) -> None:
        self._kernel.metrics.count("jobs", job=self._job.name, result=result)
