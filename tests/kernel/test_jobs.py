"""What the clock makes a room do: once in the cluster, again after a failure, and counted."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from tests.conftest import eventually

from sendora.kernel import jobs
from sendora.kernel.errors import Unavailable
from sendora.kernel.ids import new_id
from sendora.kernel.jobs import JobRunner
from sendora.kernel.life import Kernel
from sendora.kernel.metrics import Metrics
from sendora.kernel.module import Job


@asynccontextmanager
async def running(runners: Sequence[JobRunner]) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for runner in runners:
            group.create_task(runner.run(stop))
        yield
        stop.set()


async def test_one_of_two_schedulers_runs_it(kernel: Kernel) -> None:
    """Idempotent or not, a job is not done by everybody at once: the other waits for the lease."""
    ran = 0

    async def work(_: Kernel) -> None:
        nonlocal ran
        ran += 1

    ours = dataclasses.replace(kernel, metrics=Metrics())
    job = Job(name=f"test.{new_id().hex}", every_s=60.0, run=work)
    async with running([JobRunner(ours, job), JobRunner(ours, job)]):
        await eventually(lambda: ran == 1)
    assert ran == 1
    assert ours.metrics.value("jobs", job=job.name, result="ok") == 1


@pytest.mark.parametrize(("error", "result"), [(Unavailable(), "away"), (ValueError("broken"), "failed")])
async def test_after_a_failure_it_is_soon_tried_again(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, error: Exception, result: str
) -> None:
    monkeypatch.setattr(jobs, "AFTER_FAILURE_S", 0.01)
    errors = [error]

    async def work(_: Kernel) -> None:
        if errors:
            raise errors.pop()

    ours = dataclasses.replace(kernel, metrics=Metrics())
    job = Job(name=f"test.{new_id().hex}", every_s=60.0, run=work)
    async with running([JobRunner(ours, job)]):
        await eventually(lambda: ours.metrics.value("jobs", job=job.name, result="ok") == 1)
    assert ours.metrics.value("jobs", job=job.name, result=result) == 1
