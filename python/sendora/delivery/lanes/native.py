"""The native implementation of the seam: connections live in Rust (`rust/lanes`), and outcomes come back in batches.

The event loop is woken once for many replies, by a file descriptor. What Rust asks right before each request, whether
the gate is open, it cannot ask here: it is told until when the gate stays open, again and again, and that it is closed
as soon as this is seen.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from sendora import _core
from sendora.delivery import failpoint
from sendora.delivery.fair import Window
from sendora.delivery.lanes.quota import Quotas
from sendora.delivery.lanes.seam import (
    ANSWER_S,
    BREAKER_FAILURES,
    BREAKER_S,
    CALL_S,
    CONNECT_S,
    IDLE_S,
    LANES_MAX,
    PROMISED,
    SLICE,
    UNAUTHORIZED,
    Gate,
    Place,
    marks,
    promised,
)
from sendora.delivery.lanes.standing import Standing
from sendora.delivery.phases import BLOCKED, CHUNK_SIZE, Call, Chunk, Class, Outcome, Reply
from sendora.kernel.clock import millis
from sendora.kernel.errors import Unavailable
from sendora.kernel.metrics import SECONDS

if TYPE_CHECKING:
    from sendora.delivery.channel import Sending
    from sendora.kernel.life import Kernel

STREAMS: Final = 500
"""Requests at a time on one connection, if the provider allows them: with two connections a round trip of 50 ms still
lets 20,000 a second through."""

SHIPMENT_SLICE: Final = CHUNK_SIZE
"""Recipients of a shipment that one move of the mark covers at most: there is no object for each, so all may be one."""

GATHER_S: Final = 0.004
"""Outcomes of broadcasts gather for so long before they are taken: a batch of a hundred costs as much as one of one."""

LOOK_S: Final = 0.1
"""How often the gates are asked whether they are still open."""


class NativeLanes:
    """Lanes in Rust; here are what they promise, who waits for replies, and what the replies say."""

    def __init__(
        self,
        kernel: "Kernel",
        *,
        call_s: float = CALL_S,
        breaker_s: float = BREAKER_S,
        streams: int = STREAMS,
        lanes_max: int = LANES_MAX,
    ) -> None:
        self._kernel = kernel
        limits = {
            "connections": kernel.settings.dispatch.connections,
            "streams": streams,
            "threads": kernel.settings.dispatch.threads,
            "connectS": CONNECT_S,
            "answerS": ANSWER_S,
            "callS": call_s,
            "breakerFailures": BREAKER_FAILURES,
            "breakerS": breaker_s,
            "lanesMax": lanes_max,
            "idleS": IDLE_S,
            "seconds": SECONDS,
        }
        self.core = _core.Lanes(msgspec.json.encode(limits | kernel.outbound.native()).decode())
        self._quotas = Quotas(kernel)
        self._ids = itertools.count(1)
        self._ways: dict[int, _Way | _Voyage] = {}
        self._windows: dict[str, dict[Class, Window]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._look: asyncio.TimerHandle | None = None
        self._gathering: asyncio.TimerHandle | None = None
        self._standing = Standing(kernel.metrics, self.core.standing, lambda: bool(self._ways))

    def held_s(self, lane: str) -> float:
        return self.core.held_s(lane)

    async def run(self, sending: "Sending", calls: Sequence[Call], chunk: Chunk, gate: Gate) -> None:
        self._listen()
        way = _Way(self._kernel, sending, chunk, gate)
        number = next(self._ids)
        way.batch = self.core.batch(number, chunk.class_, chunk.org.bytes)
        self._ways[number] = way
        names = {call.lane for call in calls}
        identities = {call.lane: call.identity for call in calls if call.identity is not None}
        try:
            for name, identity in identities.items():
                self.core.identify(name, identity.certificate.encode(), identity.key.encode())
            done = 0
            # Once all of its lanes are held, the rest of the chunk waits as it is.
            while done < len(calls) and not way.failed and not all(self.held_s(name) for name in names):
                places = await promised(
                    calls[done : done + SLICE], chunk, self._window_of(chunk.class_), self._quotas, gate
                )
                admitted = 0
                try:
                    admitted = await gate.admit(len(places), marks(calls, done)) if places else 0
                finally:
                    for place in places[admitted:]:
                        place.give_back()
                if not admitted:
                    break
                way.send(calls[done : done + admitted], places)
                done += admitted
            await way.ended()
        finally:
            del self._ways[number]
            way.leave()
        if way.failed:
            raise way.failed[0]

    async def carry(
        self, shipment: _core.Shipment, chunk: Chunk, gate: Gate, take: Callable[[], Sequence[tuple[str, int]]]
    ) -> None:
        """Send a shipment as far as the gate lets it; returns when each that left has ended. `take` is called when some
        have, and says how many by lane."""
        self._listen()
        voyage = _Voyage(shipment, chunk, gate, take)
        self._ways[shipment.number] = voyage
        voyage.ask()
        try:
            while shipment.waiting() and voyage.failed is None and self.held_shipment_s(shipment) is None:
                granted = await self._granted(shipment, chunk)
                admitted, allowed = 0, dict[str, int]()
                try:
                    fits = shipment.fit({name: n for name, (_, n) in granted.items()})
                    allowed = await self._quotas.take(shipment.lanes(fits), chunk.class_, gate)
                    fits = shipment.fit(allowed)
                    admitted = await gate.admit(fits, shipment.mark) if fits else 0
                finally:
                    used = dict(shipment.lanes(admitted))
                    voyage.place(granted, used)
                    for name, n in allowed.items():
                        self._quotas.give(name, n - used.get(name, 0))
                if not admitted:
                    break
                voyage.out += admitted
                shipment.admit(admitted)
            await voyage.ended()
        finally:
            del self._ways[shipment.number]
            voyage.leave()
        if voyage.failed is not None:
            raise voyage.failed

    def held_shipment_s(self, shipment: _core.Shipment) -> float | None:
        """For how long no lane of those who wait is tried; None when one is open, or nobody waits."""
        held = [self.core.held_s(name) for name, _ in shipment.lanes(shipment.waiting())]
        return min(held) if held and all(held) else None

    async def _granted(self, shipment: _core.Shipment, chunk: Chunk) -> dict[str, tuple[Window | None, int]]:
        """Places by lane for some of those who are next; only for the first lane is waited (`seam.promised`)."""
        granted: dict[str, tuple[Window | None, int]] = {}
        for name, want in shipment.lanes(SHIPMENT_SLICE):
            window = await self._window_of(chunk.class_)(name)
            if window is None:
                granted[name] = None, want
            else:
                granted[name] = window, window.take_now(want) if granted else await window.take(chunk.org, want)
        return granted

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        self.core.drain_all()
        await asyncio.get_running_loop().run_in_executor(None, self.core.close)
        self._hear()
        self._standing.close()
        for timer in (self._look, self._gathering):
            if timer is not None:
                timer.cancel()
        self._look = self._gathering = None
        if self._loop is not None:
            self._loop.remove_reader(self.core.fileno())
            self._loop = None

    def _window_of(self, class_: Class) -> "Callable[[str], Awaitable[Window | None]]":
        async def window_of(name: str) -> Window | None:
            if self.core.held_s(name):
                return None  # Whoever goes there is answered at once.
            windows = self._windows.get(name)
            if windows is None:
                self._forget()
                windows = self._windows[name] = {one: Window(self._size(name, one)) for one in ("now", "bulk")}
            return windows[class_]

        return window_of

    def _size(self, name: str, class_: Class) -> int:
        """At most half of the worker's window, however many requests the lane could have: the rest is for others."""
        dispatch = self._kernel.settings.dispatch
        whole = dispatch.window_bulk if class_ == "bulk" else dispatch.window_now
        return min(PROMISED * self.core.limit(name), max(whole // 2, 1))

    def _forget(self) -> None:
        """Windows of lanes that nobody uses."""
        if len(self._windows) >= LANES_MAX:
            for name in [name for name, of in self._windows.items() if not any(window.taken for window in of.values())]:
                del self._windows[name]

    def _listen(self) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self.core.fileno(), self._rung)
        if self._look is None:
            self._look = self._loop.call_later(LOOK_S, self._ask)
        self._standing.watch()

    def _ask(self) -> None:
        self._look = None
        for way in self._ways.values():
            way.ask()
        if self._ways and self._loop is not None:
            self._look = self._loop.call_later(LOOK_S, self._ask)

    def _rung(self) -> None:
        """What somebody waits for is taken at once; broadcasts gather, and the bell is left alone meanwhile."""
        if self._loop is None or any(way.urgent for way in self._ways.values()):
            self._hear()
            return
        self._loop.remove_reader(self.core.fileno())
        self._gathering = self._loop.call_later(GATHER_S, self._gathered)

    def _gathered(self) -> None:
        self._gathering = None
        self._hear()
        if self._loop is not None:
            self._loop.add_reader(self.core.fileno(), self._rung)

    def _hear(self) -> None:
        shipments: dict[int, _Voyage] = {}
        for number, replies in self.core.drain():
            way = self._ways.get(number)
            if isinstance(way, _Voyage):
                shipments[number] = way  # Once, however often it was rung for.
            elif way is not None:
                way.take(replies)
        for voyage in shipments.values():
            voyage.land()
        for name, windows in self._windows.items():
            for class_, window in windows.items():
                size = self._size(name, class_)
                if window.size != size:
                    window.resize(size)
        counts, seconds = self.core.stats()
        for provider, status, n in counts:
            self._kernel.metrics.count("lane_requests", n, provider=provider, status=status)
        for provider, buckets, total in seconds:
            self._kernel.metrics.observe_many("lane_seconds", buckets, total, provider=provider)


class _Voyage:
    """A shipment between here and its outcomes: how many of it are out, by batches."""

    def __init__(
        self,
        shipment: _core.Shipment,
        chunk: Chunk,
        gate: Gate,
        take: Callable[[], Sequence[tuple[str, int]]],
    ) -> None:
        self.urgent = chunk.class_ == "now"
        self.out = 0
        self.failed: Exception | None = None
        self._shipment = shipment
        self._gate = gate
        self._take = take
        self._places: dict[str, tuple[Window, int]] = {}
        """Promised to those who are out, by lane."""
        self._changed = asyncio.Event()

    def ask(self) -> None:
        self._shipment.deadline(self._gate.open_s())

    def land(self) -> None:
        try:
            for name, n in self._take():
                self.out -= n
                self._give(name, n)
        except Exception as error:
            # Nobody is told what became of them; the mark knows who they are.
            self.failed = error
        self._changed.set()

    def place(self, granted: Mapping[str, tuple[Window | None, int]], used: Mapping[str, int]) -> None:
        """Keep the places that were used, give back the others."""
        for name, (window, n) in granted.items():
            if window is not None:
                kept = min(used.get(name, 0), n)
                window.give(n - kept)
                self._places[name] = window, self._places.get(name, (window, 0))[1] + kept

    def _give(self, name: str, n: int) -> None:
        if name in self._places:  # Who went to a lane that was held had none.
            window, kept = self._places[name]
            given = min(n, kept)
            self._places[name] = window, kept - given
            window.give(given)

    async def ended(self) -> None:
        while self.out > 0 and self.failed is None:
            self._changed.clear()
            await self._changed.wait()

    def leave(self) -> None:
        """Nothing more of it leaves."""
        self._shipment.deadline(0.0)
        for window, n in self._places.values():
            window.give(n)
        self._places.clear()


class _Way:
    """One chunk's calls between here and their outcomes."""

    batch: _core.LaneBatch

    def __init__(self, kernel: "Kernel", sending: "Sending", chunk: Chunk, gate: Gate) -> None:
        self.urgent = chunk.class_ == "now"
        self._kernel = kernel
        self._sending = sending
        self._chunk = chunk
        self._gate = gate
        self._calls: dict[int, Call] = {}
        """Those without an outcome."""
        self._places: dict[int, Place] = {}
        self._renewed: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self.failed: list[Exception] = []

    def send(self, calls: Sequence[Call], places: Sequence[Place]) -> None:
        for call, place in zip(calls, places, strict=False):
            self._calls[call.position] = call
            self._places[call.position] = place
        self._submit(calls)

    def ask(self) -> None:
        self.batch.deadline(self._gate.open_s())

    def take(self, replies: Sequence[tuple[int, Any, int, dict[str, str], bytes, str]]) -> None:
        outcomes: list[Outcome] = []
        for position, fate, status, headers, body, detail in replies:
            call = self._calls[position]
            reply = Reply(position=position, fate=fate, status=status, headers=headers, body=body, detail=detail)
            if detail.startswith(BLOCKED):
                self._kernel.outbound.refused(detail.removeprefix(BLOCKED).strip())
            if fate != "unsent":
                failpoint.hit("dispatch.after_write")
            if status in UNAUTHORIZED and position not in self._renewed:
                task = asyncio.get_running_loop().create_task(self._again(call, reply))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                outcomes += self._read(call, reply)
        self._record(outcomes)

    async def ended(self) -> None:
        while self._calls:
            self._changed.clear()
            await self._changed.wait()

    def leave(self) -> None:
        """Whatever has no outcome by now gets none; nothing more of it leaves."""
        self.batch.stop()
        for task in self._tasks:
            task.cancel()
        for place in self._places.values():
            place.give()
        self._places.clear()

    def _submit(self, calls: Sequence[Call]) -> None:
        self.ask()
        self.batch.submit(
            [(call.position, call.lane, call.url, list(call.headers.items()), call.body) for call in calls]
        )

    async def _again(self, call: Call, reply: Reply) -> None:
        try:
            fresh = None
            with suppress(Unavailable):  # Then the refusal stands, and the channel defers it.
                fresh = await self._gate.again(call, reply)
            if fresh is None:
                self._record(self._read(call, reply))
                return
            # In place: the first request was refused, so this one is no repetition.
            self._calls[call.position] = fresh
            self._renewed.add(call.position)
            self._submit([fresh])
        except Exception as error:
            self.failed.append(error)
            self._end(call.position)

    def _read(self, call: Call, reply: Reply) -> list[Outcome]:
        try:
            failpoint.hit("dispatch.after_answer")
            return [self._sending.read(call, reply, self._chunk, millis(self._kernel.clock.now()))]
        except Exception as error:
            # An answer that cannot be read must not take with it the requests that are on the wire beside it.
            self.failed.append(error)
            return []
        finally:
            self._end(call.position)

    def _record(self, outcomes: Sequence[Outcome]) -> None:
        if outcomes:
            try:
                self._gate.done(outcomes)
            except Exception as error:
                self.failed.append(error)

    def _end(self, position: int) -> None:
        self._calls.pop(position, None)
        place = self._places.pop(position, None)
        if place is not None:
            place.give()
        self._changed.set()
