"""The life of a process: what it opens, the services it runs, and how it ends.

A `Kernel` is everything that a room may reach: it is opened in one place, passed on as an argument, and closed in the
reverse order. A process that starts beside its servers waits for them a while, so that the order of starting does not
matter.

A service is a loop with a name. One that raises is started again after a pause that doubles; the others go on. SIGTERM
or SIGINT sets one event: each service stops taking new work, finishes what it holds, and returns. What is still running
after the drain is cancelled; what that means for a message is the business of its stage ("if it dies").
"""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol, TypeVar, cast

from nats.js import JetStreamContext
from structlog.typing import FilteringBoundLogger

from sendora import _core
from sendora.kernel import logs
from sendora.kernel.bus import Bus, BusRefused
from sendora.kernel.bus import is_away as nats_is_away
from sendora.kernel.clock import Clock, SystemClock
from sendora.kernel.config import Settings
from sendora.kernel.errors import Unavailable
from sendora.kernel.fence import Fence, Register
from sendora.kernel.kv import Kv
from sendora.kernel.limits import Limiter
from sendora.kernel.metrics import Metrics
from sendora.kernel.outbound import Outbound
from sendora.kernel.pg import Database, MigrationError, is_away
from sendora.kernel.vault import Vault

OPEN_WITHIN_S: Final = 30.0
"""How long a process waits at its start for a server; then it ends, and whoever started it sees why."""

OPEN_POLL_S: Final = 0.25

DRAIN_S: Final = 15.0
"""Longer than any request or flush takes; shorter than the grace period after which an orchestrator kills (30 s)."""

BACKOFF_FIRST_S: Final = 0.2
BACKOFF_MAX_S: Final = 30.0
STEADY_S: Final = 60.0
"""A service that ran this long has recovered: its next failure starts the pauses from the beginning."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """Everything that a room may reach."""

    settings: Settings
    clock: Clock
    db: Database
    bus: Bus
    kv: Kv
    limiter: Limiter
    vault: Vault
    outbound: Outbound
    fence: Fence
    metrics: Metrics
    log: FilteringBoundLogger


class Service(Protocol):
    """A loop with a name. It returns soon after `stop` is set."""

    @property
    def name(self) -> str: ...

    async def run(self, stop: asyncio.Event) -> None: ...


@asynccontextmanager
async def open_kernel(settings: Settings, clock: Clock | None = None, *, bus: bool = True) -> AsyncIterator[Kernel]:
    """Open everything, and close it at the end. `bus=False` for commands that only need the database."""
    log = logs.configure(settings.log)
    clock = clock or SystemClock()
    metrics = Metrics()
    metrics.gauge("build_info", 1, version=_version(), digest=_core.DIGEST)
    async with AsyncExitStack() as stack:
        db = await _patiently(log, "postgres", lambda: Database.open(settings.postgres))
        stack.push_async_callback(db.close)
        vault = Vault(db, settings.vault)
        kv = await Kv.open(settings.redis)
        stack.push_async_callback(kv.close)
        opened = cast(Bus, _NoBus())
        if bus:
            opened = await _patiently(log, "nats", lambda: Bus.open(settings.nats, metrics))
            stack.push_async_callback(opened.close)
        stream = opened.stream if bus else cast(JetStreamContext, opened)
        outbound = Outbound(settings, metrics)
        stack.push_async_callback(outbound.close)
        yield Kernel(
            settings=settings,
            clock=clock,
            db=db,
            bus=opened,
            kv=kv,
            limiter=Limiter(kv, clock, metrics),
            vault=vault,
            outbound=outbound,
            fence=Fence(Register(db, stream, settings.nats.replicas), metrics, log),
            metrics=metrics,
            log=log,
        )


async def run_services(kernel: Kernel, services: Sequence[Service]) -> None:
    """Run until SIGTERM or SIGINT, or until every service has returned; then drain. A second signal cuts the drain."""
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    hurried = asyncio.Event()

    def on_signal() -> None:
        (hurried if asked.is_set() else asked).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        async with running(kernel, services, hurried) as tasks:
            # A service that died of what is not an Exception takes the process with it.
            await _first(asked.wait(), _all(tasks, asyncio.FIRST_EXCEPTION))
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@asynccontextmanager
async def running(
    kernel: Kernel, services: Sequence[Service], hurried: asyncio.Event | None = None
) -> AsyncIterator[list[asyncio.Task[None]]]:
    """The same inside of a program that has its own signals (the HTTP server): services run while the block does."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(_keep_running(kernel, service, stop), name=service.name) for service in services]
    try:
        yield tasks
    finally:
        stop.set()
        await _drain(kernel, tasks, hurried or asyncio.Event())
    for task in tasks:
        # Not an Exception (those were handled), so it is meant for the process.
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def _keep_running(kernel: Kernel, service: Service, stop: asyncio.Event) -> None:
    pause_s = BACKOFF_FIRST_S
    while not stop.is_set():
        began = kernel.clock.monotonic()
        try:
            await service.run(stop)
        except Exception as error:
            kernel.metrics.count("service_restarts", service=service.name)
            if kernel.clock.monotonic() - began > STEADY_S:
                pause_s = BACKOFF_FIRST_S
            # A server that is away is told in a line; anything else is a fault of ours and shows where.
            trace = not _may_come_back(error)
            kernel.log.error("service failed", service=service.name, error=repr(error), exc_info=trace)
            # Chance spreads the processes that lost the same server at the same moment.
            await _first(stop.wait(), asyncio.sleep(pause_s * random.uniform(0.5, 1.0)))
            pause_s = min(BACKOFF_MAX_S, pause_s * 2)
        else:
            return


async def _drain(kernel: Kernel, tasks: Sequence[asyncio.Task[None]], hurried: asyncio.Event) -> None:
    if not tasks:
        return
    cut = asyncio.create_task(hurried.wait())
    finished = asyncio.create_task(_all(tasks))
    await asyncio.wait((finished, cut), timeout=DRAIN_S, return_when=asyncio.FIRST_COMPLETED)
    cut.cancel()
    for task in tasks:
        if not task.done():
            kernel.log.warning("service cut off", service=task.get_name())
            task.cancel()
    await finished


async def _all(tasks: Sequence[asyncio.Task[None]], until: str = asyncio.ALL_COMPLETED) -> None:
    if tasks:
        await asyncio.wait(tasks, return_when=until)


async def _first(*waits: Awaitable[object]) -> None:
    """Return when one of them has come true, and drop the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _patiently(log: FilteringBoundLogger, server: str, open_: Callable[[], Awaitable[T]]) -> T:
    """Open a server that may still be starting."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + OPEN_WITHIN_S
    told = False
    while True:
        try:
            return await open_()
        except Exception as error:
            if not _may_come_back(error) or loop.time() > deadline:
                raise
            if not told:
                log.warning("waiting for a server", server=server, error=repr(error))
                told = True
        await asyncio.sleep(OPEN_POLL_S)


def trouble_of(error: BaseException) -> str | None:
    """One line for an operator whose servers are away or refused; None for anything else, which is a fault of ours."""
    if isinstance(error, BusRefused | MigrationError | Unavailable):
        return str(error)
    if is_away(error):
        return f"PostgreSQL does not answer ({error}); SENDORA_POSTGRES__URL says where it should be"
    return None


def _may_come_back(error: Exception) -> bool:
    return is_away(error) or nats_is_away(error) or isinstance(error, Unavailable)


class _NoBus:
    """Stands where the log would be, and says so when somebody reaches for it."""

    def __getattr__(self, name: str) -> NoReturn:
        raise RuntimeError(f"bus.{name}: this process was opened without the log")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("sendora")
    except PackageNotFoundError:
        return "source"
