"""The native lanes: HTTP/2 in the library, on threads of its own.

One wake-up brings everything that has ended since the last, of all chunks. A chunk travels in one of two forms: as a
`_core.Shipment`, of which Python sees batches of outcomes and nothing else, or as calls that a channel has built.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

import certifi

from sendora import _core
from sendora.delivery import failpoint
from sendora.delivery.lanes.seam import (
    ANSWER_S,
    BREAKER_FAILURES,
    BREAKER_S,
    CONNECT_S,
    IDLE_S,
    LANES_MAX,
    UNAUTHORIZED,
    Gate,
)
from sendora.delivery.phases import CHUNK_SIZE, Call, Chunk, Reply
from sendora.kernel.clock import millis
from sendora.kernel.errors import Unavailable
from sendora.kernel.outbound import BLOCKED, PORTS, exempt
from sendora.kernel.wire import encode

if TYPE_CHECKING:
    from sendora.delivery.channel import Sending
    from sendora.kernel.life import Kernel

SLICE: Final = CHUNK_SIZE
"""Recipients that one move of the mark covers at most. There is no object for each, so a whole chunk may be one."""

PING_S: Final = 20.0
"""A connection on which nothing came in for so long is asked whether it lives; proxies cut silent ones after a
minute."""

GATHER_S: Final = 0.004
"""Outcomes of broadcasts gather for so long before they are taken: a batch of a hundred costs as much as one of one."""

GATE_S: Final = 0.2
"""How often the gates are asked for how long they are open; a drain acts within this."""


class _Load(Protocol):
    """What `_core.Calls` and `_core.Shipment` have in common."""

    @property
    def number(self) -> int: ...
    def waiting(self) -> int: ...
    def reserve(self, want: int) -> int: ...
    def admit(self, n: int) -> None: ...
    def held_s(self) -> float | None: ...
    def open_for(self, seconds: float) -> None: ...


class _Voyage:
    """A load on its way: how many of it are out, and what to do when some have ended."""

    def __init__(self, load: _Load, chunk: Chunk, gate: Gate, take: Callable[[], int]) -> None:
        self.load = load
        self.gate = gate
        self.urgent = chunk.class_ == "now"
        self.out = 0
        self.failed: Exception | None = None
        self.landed = asyncio.Event()
        self._take = take

    def land(self) -> None:
        try:
            self.out -= self._take()
        except Exception as error:
            # Nobody waits for outcomes that cannot be told; the mark knows whose they are.
            self.failed = error
        if self.out <= 0 or self.failed is not None:
            self.landed.set()


class NativeLanes:
    """Lanes over `_core.Lanes`; to be entered in the loop that uses them."""

    def __init__(self, kernel: "Kernel") -> None:
        settings = kernel.settings
        self.core = _core.Lanes(
            encode(
                {
                    "threads": settings.dispatch.threads,
                    "connections": settings.dispatch.connections,
                    "lanesMax": LANES_MAX,
                    "connectMs": round(CONNECT_S * 1_000),
                    "answerMs": round(ANSWER_S * 1_000),
                    "breakerFailures": BREAKER_FAILURES,
                    "breakerMs": round(BREAKER_S * 1_000),
                    "idleMs": round(IDLE_S * 1_000),
                    "pingMs": round(PING_S * 1_000),
                    "authorities": authorities(settings.outbound.ca_file),
                    "blocked": [str(network) for network in BLOCKED],
                    "ports": sorted(PORTS),
                    "exempt": sorted(exempt(settings.outbound.allow)),
                }
            )
        )
        self._kernel = kernel
        self._voyages: dict[int, _Voyage] = {}
        self._moved = asyncio.Event()
        self._gathering: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gates: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.core.fileno(), self._rung)
        self._ask_gates()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._loop is None:
            return
        self._loop.remove_reader(self.core.fileno())
        for timer in (self._gathering, self._gates):
            if timer is not None:
                timer.cancel()
        self._loop = None
        await asyncio.to_thread(self.core.close)

    def held_s(self, lane: str) -> float:
        return self.core.held_s(lane)

    async def run(self, sending: "Sending", calls: Sequence[Call], chunk: Chunk, gate: Gate) -> None:
        now = list(calls)
        load = _core.Calls(self.core, [_built(call) for call in calls], chunk.class_, chunk.org.bytes)
        renewing: dict[int, asyncio.Task[None]] = {}

        async def renew(item: int, reply: Reply) -> None:
            with suppress(Unavailable):  # Then the refusal stands, and the channel defers it.
                fresh = await gate.again(now[item], reply)
                if fresh is not None:
                    # In place: the first request was refused, so this one is no repetition.
                    now[item] = fresh
                    load.again(item, _built(fresh))
                    return
            tell(item, reply)
            voyage.out -= 1
            voyage.land()

        def tell(item: int, reply: Reply) -> None:
            gate.done([sending.read(now[item], reply, chunk, millis(self._kernel.clock.now()))])

        def take() -> int:
            ended = 0
            failed: Exception | None = None
            for item, fate, status, headers, body, detail in load.take():
                reply = Reply(
                    position=now[item].position,
                    fate=fate,  # type: ignore[arg-type]  # the library knows the same words
                    status=status,
                    headers=headers,
                    body=body,
                    detail=detail,
                )
                if status in UNAUTHORIZED and item not in renewing:
                    renewing[item] = asyncio.ensure_future(renew(item, reply))
                    continue
                failpoint.hit("dispatch.after_answer")
                ended += 1
                try:
                    tell(item, reply)
                except Exception as error:
                    # An answer that cannot be read must not take with it those that came beside it.
                    failed = error
            if failed is not None:
                unreadable.append(failed)
            return ended

        unreadable: list[Exception] = []
        with self._voyage(load, chunk, gate, take) as voyage:
            await self._sail(voyage, lambda n: now[len(now) - load.waiting() + n - 1].position + 1)
            await asyncio.gather(*renewing.values())
        if unreadable:
            raise unreadable[0]

    async def carry(self, shipment: _core.Shipment, chunk: Chunk, gate: Gate, take: Callable[[], int]) -> None:
        """Send a shipment as far as the gate lets it. `take` is called when some of it has ended and says how many of
        those that were admitted; returns when all of them have."""
        with self._voyage(shipment, chunk, gate, take) as voyage:
            await self._sail(voyage, shipment.mark)

    @contextmanager
    def _voyage(self, load: _Load, chunk: Chunk, gate: Gate, take: Callable[[], int]) -> Iterator[_Voyage]:
        voyage = self._voyages[load.number] = _Voyage(load, chunk, gate, take)
        load.open_for(gate.open_s())
        try:
            yield voyage
        finally:
            load.open_for(0.0)
            del self._voyages[load.number]

    async def _sail(self, voyage: _Voyage, mark: Callable[[int], int]) -> None:
        load = voyage.load
        while load.waiting() and voyage.failed is None:
            places = load.reserve(SLICE)
            if not places:
                # Once all of its lanes are held, the rest of the chunk waits as it is.
                if load.held_s() is not None:
                    break
                self._moved.clear()
                await self._moved.wait()
                continue
            admitted = 0
            try:
                admitted = await voyage.gate.admit(places, mark)
            finally:
                voyage.out += admitted
                voyage.landed.clear()
                load.admit(admitted)
            if not admitted:
                break
        if voyage.out > 0:
            await voyage.landed.wait()
        if voyage.failed is not None:
            raise voyage.failed

    def _rung(self) -> None:
        """Something has ended. What somebody waits for is taken at once."""
        if self._gathering is not None or self._loop is None:
            return
        urgent = any(voyage.urgent for voyage in self._voyages.values())
        self._gathering = self._loop.call_later(0.0 if urgent else GATHER_S, self._land)
        if not urgent:
            # The bell stays rung until it was heard; without this the loop would turn and turn.
            self._loop.remove_reader(self.core.fileno())

    def _land(self) -> None:
        self._gathering = None
        if self._loop is None:
            return
        for number in self.core.heard():
            voyage = self._voyages.get(number)
            if voyage is not None:  # Else its flight has been given up, and the mark knows whose outcomes those are.
                voyage.land()
        self._moved.set()
        self._loop.add_reader(self.core.fileno(), self._rung)

    def _ask_gates(self) -> None:
        for voyage in self._voyages.values():
            voyage.load.open_for(voyage.gate.open_s())
        # A lane that was held may be open again, and nothing else would say so.
        self._moved.set()
        for asked, status, n in self.core.counts():
            self._kernel.metrics.count("lane_requests", n, provider=asked, status=status)
        if self._loop is not None:
            self._gates = self._loop.call_later(GATE_S, self._ask_gates)


def _built(call: Call) -> tuple[str, str, list[tuple[str, str]], bytes]:
    return call.lane, call.url, list(call.headers.items()), call.body


def authorities(ca_file: str | None) -> str:
    """The certificates that `kernel.outbound` trusts, as PEM: the system's, certifi's, and the operator's own."""
    files = [certifi.where(), ssl.get_default_verify_paths().cafile, ca_file]
    return "\n".join(
        Path(file).read_text() for file in dict.fromkeys(files) if file is not None and Path(file).is_file()
    )
