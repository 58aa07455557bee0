"""An HTTP/1.1 load generator that costs little: prepared bytes out, status lines counted in.

Nothing of an answer is parsed but its status and its length, so the generator takes a few microseconds a request and
leaves the machine to the server. Closed loop: each connection has one request in flight; with a rate, requests also
wait for their turn. Open loop: requests fall due by the clock, and a latency counts from there. It runs in a process of
its own, so that its time never counts as the server's.
"""

import asyncio
import multiprocessing
import re
import time
from collections import Counter, deque
from collections.abc import Sequence
from itertools import cycle
from typing import Final, cast

import msgspec

LENGTH: Final = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)

TICK_S: Final = 0.0005
"""How often the open loop looks what is due; it is part of every latency, and small beside an fsync's round."""


class Result(msgspec.Struct, frozen=True):
    requests: int
    seconds: float
    statuses: dict[str, int]
    latencies_ms: list[float]

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class _Connection(asyncio.Protocol):
    """One keep-alive connection; sends the next prepared request as soon as an answer is complete."""

    def __init__(self, run: "_Run") -> None:
        self._run = run
        self._buffer = b""
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class is none of asyncio's
        self._next()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        size = _complete(self._buffer)
        if size is None:
            return
        self._run.answered(self._buffer[9:12].decode(), time.perf_counter() - self._sent_at)
        self._buffer = self._buffer[size:]
        wait_s = self._run.turn_s()
        if wait_s > 0:
            asyncio.get_running_loop().call_later(wait_s, self._next)
        else:
            self._next()

    def connection_lost(self, error: Exception | None) -> None:
        self._run.lost()

    def _next(self) -> None:
        request = self._run.request()
        if self._transport is None:
            return
        if request is None:
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)


class _Run:
    def __init__(self, requests: Sequence[bytes], seconds: float, connections: int, rate: float | None) -> None:
        self._requests = requests
        self._rate = rate
        self._began = time.perf_counter()
        self._until = time.perf_counter() + seconds
        self._open = connections
        self._number = 0
        self.statuses: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def request(self) -> bytes | None:
        if time.perf_counter() >= self._until:
            return None
        self._number += 1
        return self._requests[self._number % len(self._requests)]

    def turn_s(self) -> float:
        """Seconds until the next request's turn; none without a rate, or when we are behind it."""
        if self._rate is None:
            return 0.0
        return self._began + self._number / self._rate - time.perf_counter()

    def answered(self, status: str, seconds: float) -> None:
        self.statuses[status] += 1
        self.latencies.append(seconds * 1_000)

    def lost(self) -> None:
        self._open -= 1
        if self._open == 0 and not self.done.done():
            self.done.set_result(None)


async def _drive(
    host: str, port: int, requests: Sequence[bytes], seconds: float, connections: int, rate: float | None
) -> Result:
    run = _Run(requests, seconds, connections, rate)
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: _Connection(run), host, port)
    await asyncio.wait_for(run.done, seconds + 30)
    return Result(sum(run.statuses.values()), time.perf_counter() - began, dict(run.statuses), run.latencies)


class _OpenConnection(asyncio.Protocol):
    """A keep-alive connection of the open loop: says when it is free, and sends what it is handed."""

    def __init__(self, loop: "_OpenLoop") -> None:
        self._loop = loop
        self._buffer = b""
        self._due_at = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes, due_at: float) -> None:
        if self._transport is None:
            raise RuntimeError("sent before the connection was made")
        self._due_at = due_at
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        size = _complete(self._buffer)
        if size is None:
            return
        status, self._buffer = self._buffer[9:12].decode(), self._buffer[size:]
        self._loop.answered(self, status, time.perf_counter() - self._due_at)

    def connection_lost(self, error: Exception | None) -> None:
        self._loop.lost()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class _OpenLoop:
    """Requests fall due by the clock, whatever became of those before. One that finds no free connection waits for it,
    and its latency counts from when it was due: a server that stalls cannot hide behind a generator that stalls too."""

    def __init__(self, requests: Sequence[bytes], seconds: float, rate: float) -> None:
        self._requests = cycle(requests)
        self._rate = rate
        self._total = int(seconds * rate)
        self._began = time.perf_counter()
        self._due: deque[float] = deque()
        self._number = 0
        self._open = 0
        self.free: list[_OpenConnection] = []
        self.statuses: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(self) -> None:
        self._open = len(self.free)
        self._began = time.perf_counter()
        self._tick()

    def answered(self, connection: _OpenConnection, status: str, seconds: float) -> None:
        self.statuses[status] += 1
        self.latencies.append(seconds * 1_000)
        self.free.append(connection)
        self._hand_out()
        if len(self.latencies) == self._total and not self.done.done():
            self.done.set_result(None)

    def lost(self) -> None:
        self._open -= 1
        if not self.done.done():
            self.done.set_exception(ConnectionError("the server closed a connection"))

    def _tick(self) -> None:
        now = time.perf_counter()
        while self._number < self._total and (due_at := self._began + self._number / self._rate) <= now:
            self._due.append(due_at)
            self._number += 1
        self._hand_out()
        if self._number < self._total:
            asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _hand_out(self) -> None:
        while self._due and self.free:
            self.free.pop().send(next(self._requests), self._due.popleft())


async def _drive_open(
    host: str, port: int, requests: Sequence[bytes], seconds: float, connections: int, rate: float
) -> Result:
    run = _OpenLoop(requests, seconds, rate)
    loop = asyncio.get_running_loop()
    made = [(await loop.create_connection(lambda: _OpenConnection(run), host, port))[1] for _ in range(connections)]
    run.free.extend(made)
    began = time.perf_counter()
    run.begin()
    await asyncio.wait_for(run.done, seconds + 30)
    took = time.perf_counter() - began
    for connection in made:
        connection.close()
    return Result(sum(run.statuses.values()), took, dict(run.statuses), run.latencies)


def _complete(buffer: bytes) -> int | None:
    """The bytes of the answer that the buffer begins with; None while it is not whole."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    length = LENGTH.search(buffer, 0, end)
    size = end + 4 + (int(length[1]) if length else 0)
    return size if len(buffer) >= size else None


def _process(
    results: "multiprocessing.Queue[bytes]",
    host: str,
    port: int,
    requests: list[bytes],
    seconds: float,
    connections: int,
    rate: float | None,
    open_loop: bool,
) -> None:
    import uvloop

    if open_loop and rate is not None:
        run = _drive_open(host, port, requests, seconds, connections, rate)
    else:
        run = _drive(host, port, requests, seconds, connections, rate)
    results.put(msgspec.msgpack.encode(uvloop.run(run)))


def drive(
    host: str,
    port: int,
    requests: Sequence[bytes],
    *,
    seconds: float,
    connections: int,
    rate: float | None = None,
    open_loop: bool = False,
) -> Result:
    """Send the prepared requests in turn for `seconds` over `connections` connections, from another process; at most
    `rate` a second. `open_loop`: exactly `rate`, with latencies from when each request was due."""
    if open_loop and rate is None:
        raise ValueError("an open loop needs a rate")
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[bytes] = context.Queue()
    arguments = (results, host, port, list(requests), seconds, connections, rate, open_loop)
    process = context.Process(target=_process, args=arguments)
    process.start()
    try:
        return msgspec.msgpack.decode(results.get(timeout=seconds + 60), type=Result)
    finally:
        process.join(10)


def post(path: str, key: str, body: bytes) -> bytes:
    """A prepared request."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-api-key: {key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
