"""Chunks of the shards that this worker holds, taken in order of urgency and fairness.

Eats: rows of `chunks` that are due, of sends that run, of shards held by lease; `wake.<shard>` only saves the wait.
Gives: outcomes in `deliveries`, follow-up chunks, closed chunks (all through ledger.py).
Bounded by: the windows (recipients on the wire without a recorded outcome: 2,000 bulk, 256 now), and twice as many that
are fetched and decided ahead of them, or one chunk of each tenant; 64 chunks of each class, and 64 more of tenants that
have none in flight.
Acks when: a chunk closes in the transaction that records its last outcome.
If it dies: its leases end within 10 s and another worker goes on at the marks; what was on the wire is `unknown` by
name.
"""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from secrets import token_hex
from typing import Final

import msgspec

from sendora.delivery import shards as leases
from sendora.delivery import store
from sendora.delivery.caps import CapsBook
from sendora.delivery.channel import Channel, Sending
from sendora.delivery.failpoint import Crash
from sendora.delivery.fair import Turns, Window
from sendora.delivery.flight import Desk, Flight
from sendora.delivery.lanes import Lanes
from sendora.delivery.ledger import Ledger
from sendora.delivery.phases import SHARDS, Chunk, Class, Send
from sendora.delivery.shards import Shards
from sendora.kernel.ids import OrgId, SendId
from sendora.kernel.life import Kernel, Service
from sendora.kernel.pg import is_away

POLL_S: Final = 1.0
"""A lost wake costs this much."""

FLIGHTS_MAX: Final = 64
"""Chunks of one class at a time: one of each shard for a small broadcast."""

AHEAD: Final = 2
"""Recipients in flights, in windows: while one window is on the wire the next is being decided."""

FIRST_MAX: Final = FLIGHTS_MAX
"""Beyond those, so many may be in flight that are their tenant's only one."""

TENANT_PART: Final = 0.75
"""Of the flights, and of the recipients in them, one tenant may have so much: its slow provider leaves the others a
way. Who has no chunk in flight may have one beyond both bounds: two tenants with slow providers fill them."""

SUSPECT_CLAIMS: Final = 2
"""Chunks that were taken up so often without an outcome fly one at a time: when a worker dies again and again, the
chunk that kills it is found, and those that flew beside it are not parked with it."""

PER_TENANT: Final = 2 * FLIGHTS_MAX
"""Candidates that are read of each tenant and class: more than can be in flight,
so that something new is among them."""

FETCHES: Final[dict[Class, int]] = {"now": 2, "bulk": 4}
"""Flights that read from PostgreSQL at the same time; they share the pool with everybody in the process. A
transactional one does not wait behind what a broadcast reads."""

SENDING_S: Final = 5.0
"""How long an opened send is kept: a changed policy or credential acts after this at the latest."""

CLASSES: Final[tuple[Class, ...]] = ("now", "bulk")


def dispatcher(kernel: Kernel, channels: Mapping[str, Channel], lanes: Lanes, shards: str | None = None) -> Service:
    """`shards` overrides settings.dispatch.shards. The lanes stay open; whoever made them closes them."""
    return Dispatcher(kernel, channels, lanes, shards)


class Dispatcher:
    """A dispatch worker. `spec` as in settings.dispatch.shards."""

    name = "dispatch"

    def __init__(
        self,
        kernel: Kernel,
        channels: Mapping[str, Channel],
        lanes: Lanes,
        spec: str | None = None,
        *,
        holder: str | None = None,
        clock: Callable[[], float] = leases.elapsed,
    ) -> None:
        settings = kernel.settings.dispatch
        self.holder = holder or f"{socket.gethostname()}.{os.getpid()}.{token_hex(4)}"
        self._kernel = kernel
        self._clock = clock
        self._woken = asyncio.Event()
        self._tick = asyncio.Event()
        self._stop = asyncio.Event()
        self._flights: dict[store.ChunkKey, Flight] = {}
        self._tasks: dict[store.ChunkKey, asyncio.Task[None]] = {}
        self._pool: dict[Class, dict[OrgId, deque[store.Due]]] = {"now": {}, "bulk": {}}
        self._stale = True
        self._turns: dict[Class, Turns] = {"now": Turns(), "bulk": Turns()}
        self.windows: dict[Class, Window] = {
            "now": Window(settings.window_now),
            "bulk": Window(settings.window_bulk),
        }
        self.shards = Shards(
            kernel,
            self.holder,
            leases.parse(spec or settings.shards),
            busy=self._busy,
            taken=self._taken,
            lost=self._lost,
            clock=clock,
        )
        self._ledger = Ledger(kernel, self.shards, flush_s=settings.flush_ms / 1_000, flush_rows=settings.flush_rows)
        self._caps = CapsBook(kernel, clock)
        desk = Desk(
            kernel=kernel,
            shards=self.shards,
            ledger=self._ledger,
            lanes=lanes,
            sendings=_Sendings(kernel, channels, clock),
            caps=self._caps,
            windows=self.windows,
            fetching=asyncio.Semaphore(FETCHES["bulk"]),
            draining=self._stop,
        )
        self._desks: dict[Class, Desk] = {
            "now": msgspec.structs.replace(desk, fetching=asyncio.Semaphore(FETCHES["now"])),
            "bulk": desk,
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until stopped, then drain: no new chunks, no new requests, wait for those on the wire, record,
        release."""
        finished = asyncio.Event()
        end = self._kernel.bus.on_wake("wake.*", self._heard)
        try:
            async with asyncio.TaskGroup() as group:
                ledger = group.create_task(self._ledger.run(finished))
                keeper = group.create_task(leases.keep(self.shards, self._tick, finished, self._away))
                await self._serve(stop, group)
                self._stop.set()
                self.shards.close()
                self._tick.set()
                await asyncio.gather(*self._tasks.values(), return_exceptions=True)
                finished.set()
                self._tick.set()
                await asyncio.gather(ledger, keeper)
                await self.shards.release()
        except BaseExceptionGroup as group_error:
            if group_error.subgroup(Crash) is not None:
                raise Crash(self.holder) from None
            raise
        finally:
            end()

    # -- the queue

    async def _serve(self, stop: asyncio.Event, group: asyncio.TaskGroup) -> None:
        stopping = group.create_task(self._watch(stop))
        while not stop.is_set():
            self._woken.clear()
            taken = 0
            try:
                taken = await self._take(group)
            except Exception as error:
                self._away(error)
            if not taken:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._woken.wait()
                self._stale = True
                self._caps.forget_idle()
        stopping.cancel()

    async def _watch(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._stop.set()
        self._woken.set()

    async def _take(self, group: asyncio.TaskGroup) -> int:
        """Claim what there is room for; how many chunks."""
        if all(self._load(class_).full for class_ in CLASSES):
            return 0
        if self._stale or not any(self._pool.values()):
            await self._refill()
        wanted: list[tuple[store.Due, int]] = []
        for class_ in CLASSES:
            wanted += self._choose(class_, suspect=any(_is_suspect(due) for due, _ in wanted))
        if not wanted:
            return 0
        claims = await store.claim_chunks(
            self._kernel.db, self.holder, [due for due, _ in wanted], [epoch for _, epoch in wanted]
        )
        if claims:
            self._kernel.fence.note(max(claim.chunk.send for claim in claims))
        epochs = {due.key: epoch for due, epoch in wanted}
        for claim in claims:
            chunk = claim.chunk
            key = chunk.org, chunk.send, chunk.shard, chunk.seq
            flight = self._flights[key] = Flight(self._desks[chunk.class_], claim, epochs[key])
            task = self._tasks[key] = group.create_task(self._fly(key, flight))
            # A task that is cancelled before its first step never gets to its own `finally`.
            task.add_done_callback(lambda _, key=key: self._landed(key))  # type: ignore[misc]
        return len(claims)

    async def _refill(self) -> None:
        """Read the queue anew; what is in flight stands there too and is left out."""
        serving = self.shards.serving()
        self._pool = {"now": {}, "bulk": {}}
        self._stale = False
        if not serving:
            return
        for due in await store.due_chunks(self._kernel.db, serving, PER_TENANT):
            if due.key not in self._flights:
                self._pool[due.class_].setdefault(due.org, deque()).append(due)

    def _choose(self, class_: Class, *, suspect: bool) -> list[tuple[store.Due, int]]:
        """The next chunks of a class: the tenant that was served least, then what is due longest. `suspect`: one is
        chosen already."""
        chosen: list[tuple[store.Due, int]] = []
        pool = self._pool[class_]
        load = self._load(class_)
        suspect = suspect or any(flight.claims > SUSPECT_CLAIMS for flight in self._flights.values())
        while pool and not load.full:
            waiting = [org for org in pool if load.has_room(org)]
            if not waiting:
                break
            org = self._turns[class_].pick(waiting)
            due = pool[org].popleft()
            if not pool[org]:
                del pool[org]
            epoch = self.shards.epoch(due.shard)
            if epoch is None or due.key in self._flights or (suspect and _is_suspect(due)):
                continue
            suspect = suspect or _is_suspect(due)
            self._turns[class_].charge(org, due.size)
            load.add(org, due.size)
            chosen.append((due, epoch))
        return chosen

    def _load(self, class_: Class) -> "_Load":
        load = _Load(AHEAD * self.windows[class_].size)
        for flight in self._flights.values():
            if flight.chunk.class_ == class_:
                load.add(flight.chunk.org, flight.chunk.size)
        return load

    async def _fly(self, key: store.ChunkKey, flight: Flight) -> None:
        await flight.run()

    def _landed(self, key: store.ChunkKey) -> None:
        flight = self._flights.pop(key, None)
        self._tasks.pop(key, None)
        if flight is not None and not self._busy(flight.chunk.shard):
            self._tick_if_leaving(flight.chunk.shard)
        for class_ in CLASSES:
            self._kernel.metrics.gauge("dispatch_in_flight", self.windows[class_].taken, **{"class": class_})
        self._woken.set()

    # -- shards come and go

    def _busy(self, shard: int) -> bool:
        return any(flight.chunk.shard == shard for flight in self._flights.values())

    def _tick_if_leaving(self, shard: int) -> None:
        if self.shards.is_leaving(shard):
            self._tick.set()

    def _taken(self, shards: list[int]) -> None:
        self._kernel.metrics.count("lease_changes", len(shards), kind="shard", change="taken")
        self._kernel.metrics.gauge("leases_held", len(self.shards.held()), kind="shard")
        self._stale = True
        self._woken.set()

    def _lost(self, shards: list[int]) -> None:
        """Whatever is in the air for them ends now; nothing of it can be recorded."""
        self._kernel.metrics.count("lease_changes", len(shards), kind="shard", change="lost")
        self._kernel.metrics.gauge("leases_held", len(self.shards.held()), kind="shard")
        gone = set(shards)
        self._caps.drop(gone)
        for key, task in list(self._tasks.items()):
            if key[2] in gone:
                task.cancel()

    def _heard(self, subject: str) -> None:
        what = subject.partition(".")[2]
        if subject == leases.WAKE_SHARDS:
            self._tick.set()
        elif what.isascii() and what.isdigit() and int(what) < SHARDS and self.shards.epoch(int(what)) is not None:
            self._stale = True
            self._woken.set()

    def _away(self, error: Exception) -> None:
        if is_away(error):
            self._kernel.log.warning("dispatch.away", error=repr(error))
        else:
            self._kernel.log.error("dispatch.failed", exc_info=error)


def _is_suspect(due: store.Due) -> bool:
    return due.claims >= SUSPECT_CLAIMS


class _Load:
    """What is in flight of one class, and of each tenant."""

    def __init__(self, recipients_max: int) -> None:
        self._max = recipients_max
        self._flights = 0
        self._recipients = 0
        self._by_tenant: dict[OrgId, tuple[int, int]] = {}

    @property
    def full(self) -> bool:
        return self._flights >= FLIGHTS_MAX + FIRST_MAX

    def add(self, org: OrgId, size: int) -> None:
        flights, recipients = self._by_tenant.get(org, (0, 0))
        self._by_tenant[org] = flights + 1, recipients + size
        self._flights += 1
        self._recipients += size

    def has_room(self, org: OrgId) -> bool:
        flights, recipients = self._by_tenant.get(org, (0, 0))
        if not flights:
            return True
        return (
            self._flights < FLIGHTS_MAX
            and self._recipients < self._max
            and recipients < self._max * TENANT_PART
            and flights < FLIGHTS_MAX * TENANT_PART
        )


class _Opened(msgspec.Struct, frozen=True):
    send: Send
    sending: Sending
    until: float


_Key = tuple[SendId, datetime | None]
"""A send, as it is due for the recipients of a chunk: its time is theirs."""


def _key(chunk: Chunk) -> _Key:
    return chunk.send, chunk.own_at


class _Sendings:
    """Sends that chunks are in flight of, opened by their channels and kept for a few seconds."""

    def __init__(self, kernel: Kernel, channels: Mapping[str, Channel], clock: Callable[[], float]) -> None:
        self._kernel = kernel
        self._channels = channels
        self._clock = clock
        self._opened: dict[_Key, _Opened] = {}
        self._opening: dict[_Key, asyncio.Lock] = {}

    async def get(self, chunk: Chunk, retried_at: datetime | None) -> tuple[Send, Sending] | None:
        lock = self._opening.setdefault(_key(chunk), asyncio.Lock())
        async with lock:
            found = self._opened.get(_key(chunk))
            if found is None or found.until < self._clock() or found.send.retried_at != retried_at:
                found = await self._open(chunk)
        self._forget()
        return None if found is None else (found.send, found.sending)

    async def _open(self, chunk: Chunk) -> _Opened | None:
        send = await store.find_send(self._kernel.db, chunk.org, chunk.send)
        channel = self._channels.get(send.channel) if send is not None else None
        if send is None or channel is None:
            return None
        send = send.as_due(chunk.own_at)
        sending = await channel.open(self._kernel, send)
        opened = self._opened[_key(chunk)] = _Opened(send, sending, self._clock() + SENDING_S)
        return opened

    def _forget(self) -> None:
        now = self._clock()
        self._opened = {key: opened for key, opened in self._opened.items() if opened.until >= now}
        self._opening = {key: lock for key, lock in self._opening.items() if lock.locked() or key in self._opened}
