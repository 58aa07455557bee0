"""An HTTP/1.1 load generator that costs little: prepared bytes out, status lines counted in.

Nothing of an answer is parsed but its status and its length, so the generator takes a few microseconds a request and
leaves the machine to the server. Closed loop: each connection has one request in flight; with a rate, requests also
wait for their turn. It runs in a process of its own, so that its time never counts as the server's.
"""

import asyncio
import multiprocessing
import re
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final, cast

import msgspec

LENGTH: Final = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


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
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = LENGTH.search(self._buffer, 0, end)
        size = end + 4 + (int(length[1]) if length else 0)
        if len(self._buffer) < size:
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


def _process(
    results: "multiprocessing.Queue[bytes]",
    host: str,
    port: int,
    requests: list[bytes],
    seconds: float,
    connections: int,
    rate: float | None,
) -> None:
    import uvloop

    results.put(msgspec.msgpack.encode(uvloop.run(_drive(host, port, requests, seconds, connections, rate))))


def drive(
    host: str, port: int, requests: Sequence[bytes], *, seconds: float, connections: int, rate: float | None = None
) -> Result:
    """Send the prepared requests in turn for `seconds` over `connections` connections, from another process; at most
    `rate` a second."""
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[bytes] = context.Queue()
    arguments = (results, host, port, list(requests), seconds, connections, rate)
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
