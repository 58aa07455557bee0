"""Services: restarted when they fail, drained when the process is told to end."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from tests.conftest import eventually

from sendora.kernel import life
from sendora.kernel.config import ConfigError, Settings
from sendora.kernel.life import Kernel, open_kernel, run_services, running


class Loop:
    """A service made of a function."""

    def __init__(self, name: str, body: Callable[[asyncio.Event], Awaitable[None]]) -> None:
        self.name = name
        self._body = body

    async def run(self, stop: asyncio.Event) -> None:
        await self._body(stop)


async def test_a_kernel_opens_everything(kernel: Kernel, settings: Settings) -> None:
    assert kernel.settings is settings
    assert await kernel.db.fetchval("SELECT 1") == 1
    assert b"sendora_build_info" in kernel.metrics.text()


async def test_without_the_log_the_log_is_not_missed_until_it_is_used(settings: Settings) -> None:
    async with open_kernel(settings, bus=False) as kernel:
        assert await kernel.db.fetchval("SELECT 1") == 1
        with pytest.raises(RuntimeError, match="opened without the log"):
            kernel.bus.head  # noqa: B018


async def test_no_kernel_without_a_master_key(settings: Settings) -> None:
    without = msgspec.structs.replace(settings, vault=msgspec.structs.replace(settings.vault, key=""))
    with pytest.raises(ConfigError, match="SENDORA_VAULT__KEY"):
        async with open_kernel(without, bus=False):
            pass


async def test_a_failed_service_starts_again_and_the_others_go_on(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "BACKOFF_FIRST_S", 0.001)
    tries: list[int] = []
    steady = asyncio.Event()

    async def shaky(stop: asyncio.Event) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("not yet")
        await stop.wait()

    async def calm(stop: asyncio.Event) -> None:
        steady.set()
        await stop.wait()

    before = kernel.metrics.value("service_restarts", service="shaky")
    async with running(kernel, [Loop("shaky", shaky), Loop("calm", calm)]) as tasks:
        await eventually(lambda: len(tries) == 3)
        assert steady.is_set()
        assert not any(task.done() for task in tasks)
    assert kernel.metrics.value("service_restarts", service="shaky") == before + 2
    assert all(task.done() and not task.cancelled() for task in tasks)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_services_finish_what_they_hold(kernel: Kernel, number: signal.Signals) -> None:
    finished: list[str] = []

    async def service(stop: asyncio.Event) -> None:
        os.kill(os.getpid(), number)
        await stop.wait()
        await kernel.db.fetchval("SELECT pg_sleep(0.02)")
        finished.append("drained")

    await asyncio.wait_for(run_services(kernel, [Loop("slow", service)]), 10)
    assert finished == ["drained"]


async def test_what_does_not_end_is_cut_off(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "DRAIN_S", 0.05)
    ended: list[str] = []

    async def stubborn(stop: asyncio.Event) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cut")

    await asyncio.wait_for(run_services(kernel, [Loop("stubborn", stubborn)]), 10)
    assert ended == ["cut"]


async def test_a_second_signal_cuts_the_drain(kernel: Kernel) -> None:
    async def stubborn(stop: asyncio.Event) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    await asyncio.wait_for(run_services(kernel, [Loop("stubborn", stubborn)]), 10)


async def test_services_that_are_done_end_the_process(kernel: Kernel) -> None:
    async def short(stop: asyncio.Event) -> None:
        return

    await asyncio.wait_for(run_services(kernel, [Loop("short", short)]), 10)


async def test_what_is_no_exception_ends_the_process_at_once(kernel: Kernel) -> None:
    class Crash(BaseException):
        pass

    async def dying(stop: asyncio.Event) -> None:
        raise Crash

    async def other(stop: asyncio.Event) -> None:
        await stop.wait()

    with pytest.raises(Crash):
        await asyncio.wait_for(run_services(kernel, [Loop("dying", dying), Loop("other", other)]), 10)
