"""The plain implementation of the seam, over httpx; the other one's oracle.

What it reports errs to one side only: `unsent` is proved (the connection never stood, or the request was never handed
to it); anything that broke later is `unknown`, because bytes may have left (reliability.md 2.1). httpcore itself
repeats a request that a GOAWAY's last stream id proves unread; a REFUSED_STREAM looks like any other reset to it and is
`unknown` here.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import httpx
import msgspec

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
    marks,
    promised,
    provider_of,
)
from sendora.delivery.lanes.standing import Standing
from sendora.delivery.phases import BLOCKED, Call, Chunk, Class, Identity, Reply
from sendora.kernel.clock import millis
from sendora.kernel.errors import Unavailable
from sendora.kernel.outbound import BlockedAddress, open_connections, read_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sendora.delivery.channel import Sending
    from sendora.kernel.life import Kernel

STREAMS: Final = 100
"""Requests at a time on one connection: httpcore's own ceiling, below what providers announce."""

WEB_PUSH: Final = "webpush"
"""Lanes of this provider are one origin each: they share a client, whose pool holds a connection for each origin and
closes idle ones."""


class PlainLanes:
    """Lanes over httpx: one task for each request, a few connections for each lane."""

    def __init__(
        self,
        kernel: "Kernel",
        clock: Callable[[], float] = time.monotonic,
        call_s: float = CALL_S,
        lanes_max: int = LANES_MAX,
    ) -> None:
        self._kernel = kernel
        self._clock = clock
        self._call_s = call_s
        self._lanes_max = lanes_max
        self._quotas = Quotas(kernel)
        self._lanes: dict[str, _Lane] = {}
        self._web: httpx.AsyncClient | None = None
        self._standing = Standing(kernel.metrics, self._stand, lambda: any(lane.busy for lane in self._lanes.values()))

    def held_s(self, lane: str) -> float:
        found = self._lanes.get(lane)
        return max(found.closed_until - self._clock(), 0.0) if found is not None else 0.0

    async def run(self, sending: "Sending", calls: Sequence[Call], chunk: Chunk, gate: Gate) -> None:
        self._standing.watch()
        failed: list[Exception] = []
        identities = {call.lane: call.identity for call in calls}
        async with asyncio.TaskGroup() as tasks:
            done = 0
            # Once all of its lanes are held, the rest of the chunk waits as it is.
            while done < len(calls) and not failed and not all(self.held_s(name) for name in identities):
                places = await promised(
                    calls[done : done + SLICE],
                    chunk,
                    lambda name: self._window(name, identities.get(name), chunk.class_),
                    self._quotas,
                    gate,
                )
                admitted = 0
                try:
                    admitted = await gate.admit(len(places), marks(calls, done)) if places else 0
                finally:
                    for place in places[admitted:]:
                        place.give_back()
                if not admitted:
                    break
                for call, place in zip(calls[done : done + admitted], places, strict=False):
                    task = tasks.create_task(self._one(sending, call, chunk, gate, failed))
                    task.add_done_callback(place.give)
                done += admitted
        if failed:
            raise failed[0]

    async def _window(self, name: str, identity: Identity | None, class_: Class) -> Window | None:
        lane = await self._lane(name, identity)
        if lane is None or lane.closed_until > self._clock():
            return None  # Whoever goes there is answered at once.
        return lane.promised[class_]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        lanes, self._lanes = self._lanes, {}
        for lane in lanes.values():
            await lane.close()
        if self._web is not None:
            await self._web.aclose()
            self._web = None
        self._standing.close()

    def _stand(self) -> Iterator[tuple[str, int, bool]]:
        now = self._clock()
        for name, lane in self._lanes.items():
            yield provider_of(name), lane.open_connections(), lane.closed_until > now
        if self._web is not None:
            yield WEB_PUSH, open_connections(self._web), False

    async def _one(self, sending: "Sending", call: Call, chunk: Chunk, gate: Gate, failed: list[Exception]) -> None:
        reply = await self._send(call, chunk.class_, gate)
        try:
            if reply.status in UNAUTHORIZED:
                with suppress(Unavailable):  # Then the refusal stands, and the channel defers it.
                    fresh = await gate.again(call, reply)
                    if fresh is not None:
                        # In place: the first request was refused, so this one is no repetition.
                        call, reply = fresh, await self._send(fresh, chunk.class_, gate)
            failpoint.hit("dispatch.after_answer")
            gate.done([sending.read(call, reply, chunk, millis(self._kernel.clock.now()))])
        except Exception as error:
            # An answer that cannot be read must not take with it the requests that are on the wire beside it.
            failed.append(error)

    async def _send(self, call: Call, class_: Class, gate: Gate) -> Reply:
        lane = await self._lane(call.lane, call.identity)
        if lane is None:
            return Reply(position=call.position, fate="unsent", detail="lanes_busy")
        async with lane.slot(class_):
            if lane.closed_until > self._clock():
                return Reply(position=call.position, fate="unsent", detail="breaker")
            if not gate.open():
                return Reply(position=call.position, fate="unsent", detail="closed")
            started = self._clock()
            reply = await _exchange(lane, call, self._call_s)
            lane.learn(reply, self._clock())
        provider = provider_of(call.lane)
        self._kernel.metrics.count("lane_requests", provider=provider, status=reply.status)
        self._kernel.metrics.observe("lane_seconds", self._clock() - started, provider=provider)
        return reply

    async def _lane(self, name: str, identity: Identity | None) -> "_Lane | None":
        now = self._clock()
        lane = self._lanes.get(name)
        if lane is None:
            await self._make_room(now)
            if len(self._lanes) >= self._lanes_max:
                return None
            lane = self._lanes.get(name)  # Somebody else may have made it while room was made.
        if lane is None:
            if provider_of(name) == WEB_PUSH:
                self._web = self._web or self._kernel.outbound.client()
                lane = _Lane(None, [_Connection(self._web)], 1, now)
            else:
                known_by = None if identity is None else (identity.certificate, identity.key)
                make = partial(self._kernel.outbound.client, identity=known_by)
                lane = _Lane(make, [], self._kernel.settings.dispatch.connections, now)
            self._lanes[name] = lane
        lane.used_at = now
        return lane

    async def _make_room(self, now: float) -> None:
        """Close what is idle, and when all places are taken whichever idle lane was used longest ago."""
        idle = sorted((lane.used_at, name) for name, lane in self._lanes.items() if not lane.busy)
        leave = [name for used_at, name in idle if now - used_at > IDLE_S]
        if not leave and len(self._lanes) >= self._lanes_max:
            leave = [name for _, name in idle[:1]]
        for lane in [self._lanes.pop(name) for name in leave]:
            await lane.close()


class _Lane:
    """Connections of one lane, how many requests may be on them, and whether it answers at all."""

    def __init__(
        self,
        make: Callable[[], httpx.AsyncClient] | None,
        clients: "list[_Connection]",
        connections: int,
        now: float,
    ) -> None:
        self._make = make
        """None: the clients belong to somebody else, who closes them."""
        self._clients = clients
        self._connections = connections
        self._failures = 0
        self._limit = 1  # APNs takes one request until a credential has proved itself; others lose one round trip.
        self._running = 0
        self._waiting: dict[Class, deque[asyncio.Future[None]]] = {"now": deque(), "bulk": deque()}
        self.promised: dict[Class, Window] = {"now": Window(PROMISED), "bulk": Window(PROMISED)}
        """Calls that were admitted for this lane and have not ended. Each class has its own, so that a broadcast does
        not take the places of what somebody waits for."""
        self.closed_until = 0.0
        self.used_at = now

    @property
    def busy(self) -> bool:
        return bool(
            self._running or any(self._waiting.values()) or any(window.taken for window in self.promised.values())
        )

    @asynccontextmanager
    async def slot(self, class_: Class) -> "AsyncIterator[None]":
        """A place on the lane; transactional requests go before broadcasts that wait."""
        await self._enter(class_)
        try:
            yield
        finally:
            self._running -= 1
            self._admit()

    @asynccontextmanager
    async def connection(self) -> "AsyncIterator[httpx.AsyncClient]":
        """The least loaded, another one when all are full."""
        chosen = min(self._clients, key=lambda client: client.running, default=None)
        full = chosen is None or chosen.running >= STREAMS
        if self._make is not None and full and len(self._clients) < self._connections:
            chosen = _Connection(self._make())
            self._clients.append(chosen)
        if chosen is None:
            raise RuntimeError("a lane without a connection")
        chosen.running += 1
        try:
            yield chosen.client
        finally:
            chosen.running -= 1

    def open_connections(self) -> int:
        """Of its own."""
        return sum(open_connections(one.client) for one in self._clients) if self._make is not None else 0

    def learn(self, reply: Reply, now: float) -> None:
        if reply.detail.startswith(BLOCKED):
            return  # Nobody was asked, so nobody failed.
        if reply.fate == "answered":
            self._failures = 0
            if reply.status < 500 and reply.status not in _UNPROVEN:
                self._set_limit(self._connections * STREAMS)
            return
        self._failures += 1
        if self._failures >= BREAKER_FAILURES:
            # Half open afterwards: one request at a time, and one more failure closes it again.
            self._failures = BREAKER_FAILURES - 1
            self._set_limit(1)
            self.closed_until = now + BREAKER_S

    def _set_limit(self, limit: int) -> None:
        if limit != self._limit:
            self._limit = limit
            for window in self.promised.values():
                window.resize(PROMISED * limit)
            self._admit()

    async def close(self) -> None:
        if self._make is not None:
            for connection in self._clients:
                await connection.client.aclose()

    async def _enter(self, class_: Class) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[class_].append(future)
        self._admit()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._running -= 1
                self._admit()
            raise

    def _admit(self) -> None:
        for line in self._waiting.values():
            while line and self._running < self._limit:
                future = line.popleft()
                if not future.done():
                    self._running += 1
                    future.set_result(None)


_UNPROVEN: Final = frozenset({401, 403, 429})
"""Answers after which a lane is not known to accept our credential."""


class _Connection(msgspec.Struct):
    client: httpx.AsyncClient
    running: int = 0


async def _exchange(lane: _Lane, call: Call, call_s: float) -> Reply:
    """One request. `unsent` is proved; whatever breaks after the connection stood is `unknown`."""
    response: httpx.Response | None = None
    body = b""
    extensions: dict[str, Any] = {}
    if failpoint.armed("dispatch.after_write"):
        extensions["trace"] = _trace
    try:
        async with asyncio.timeout(call_s), lane.connection() as client:
            request = client.stream(
                "POST", call.url, headers=call.headers, content=call.body, timeout=_TIMEOUT, extensions=extensions
            )
            async with request as response:
                body = await read_body(response)
    except BlockedAddress as error:
        return Reply(position=call.position, fate="unsent", detail=f"{BLOCKED} {error.reason}")
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol) as error:
        return Reply(position=call.position, fate="unsent", detail=type(error).__name__)
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, TimeoutError) as error:
        if response is None:
            return Reply(position=call.position, fate="unknown", detail=type(error).__name__)
        # The verdict is in the status; what was to follow explains it at best.
    if response is None:
        raise RuntimeError("a request without an answer and without an error")
    return Reply(
        position=call.position,
        fate="answered",
        status=response.status_code,
        headers=dict(response.headers),
        body=body,
    )


_TIMEOUT: Final = httpx.Timeout(ANSWER_S, connect=CONNECT_S, pool=CONNECT_S)


async def _trace(event: str, info: dict[str, Any]) -> None:
    if event.endswith("send_request_body.complete"):
        failpoint.hit("dispatch.after_write")
