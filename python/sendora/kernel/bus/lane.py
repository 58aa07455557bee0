"""Group commit: one publish under way, and everybody else gathers for the next.

There is no timer: an idle lane publishes at once, a busy one in groups that grow with the load. What waits is bounded,
and beyond the bound a request is refused at once: a queue in memory promises nothing and dies with its process (F-N1,
F-N2).
"""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Awaitable, Callable
from secrets import token_bytes
from typing import Final

import msgspec
import structlog

from sendora import _core
from sendora.kernel import config
from sendora.kernel.bus.position import Position
from sendora.kernel.errors import Unavailable
from sendora.kernel.metrics import Metrics

WAITING_EVENTS_MAX: Final = 200_000
WAITING_BYTES_MAX: Final = 64 * 1024 * 1024
"""What may wait for a lane: some seconds of a full lane."""

log: Final = structlog.get_logger(__name__)

Commit = Callable[[str, bytes, str], Awaitable[Position]]
"""Publishes (subject, payload, message id) until it is on disk; raises Unavailable."""


class _Waiting(msgspec.Struct):
    """One request's records, and who waits for them."""

    record: bytes
    n: int
    position: asyncio.Future[Position]


class Lane:
    """The writer of one subject of the log."""

    def __init__(self, subject: str, commit: Commit, settings: config.Nats, metrics: Metrics) -> None:
        self._commit = commit
        self._subject = subject
        self._name = subject.rpartition(".")[2]
        self._events_max = settings.frame_events_max
        self._bytes_max = settings.frame_bytes_max
        self._metrics = metrics
        self._waiting: deque[_Waiting] = deque()
        self._events = 0
        self._bytes = 0
        self._closed = False
        self._draining: asyncio.Task[None] | None = None

    async def append(self, record: bytes, n: int) -> Position:
        if self._closed or self._events + n > WAITING_EVENTS_MAX or self._bytes + len(record) > WAITING_BYTES_MAX:
            self._metrics.count("log_refused", reason="full")
            raise Unavailable(message="The log is behind.")
        waiting = _Waiting(record, n, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._events += n
        self._bytes += len(record)
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain(), name=f"lane {self._subject}")
        return await waiting.position

    async def close(self) -> None:
        self._closed = True
        if self._draining is not None:
            await self._draining

    async def _drain(self) -> None:
        try:
            while self._waiting:
                group = self._gather()
                try:
                    position = await self._publish(group)
                except Exception as error:
                    for one in group:
                        # An exception of its own for each: a raised one carries the traceback of whoever awaited it.
                        if not one.position.done():
                            one.position.set_exception(_refusal(error))
                else:
                    for one in group:
                        if not one.position.done():
                            one.position.set_result(position)
        finally:
            self._draining = None

    def _gather(self) -> list[_Waiting]:
        """As many of the waiting as one frame holds, in their order, and at least one."""
        group: list[_Waiting] = []
        events = size = 0
        while self._waiting:
            one = self._waiting[0]
            if group and (events + one.n > self._events_max or size + len(one.record) > self._bytes_max):
                break
            group.append(self._waiting.popleft())
            events += one.n
            size += len(one.record)
        self._events -= events
        self._bytes -= size
        self._metrics.gauge("log_buffered_bytes", self._bytes, lane=self._name)
        self._metrics.observe("log_frame_events", events, lane=self._name)
        return group

    async def _publish(self, group: list[_Waiting]) -> Position:
        frame = _core.frame([one.record for one in group])
        self._metrics.observe("log_frame_bytes", len(frame), lane=self._name)
        # The random half keeps two equal requests apart: both were accepted, so both must be in the log.
        msg_id = hashlib.blake2b(frame, digest_size=16, key=token_bytes(16)).hexdigest()
        began = time.perf_counter()
        position = await self._commit(self._subject, frame, msg_id)
        self._metrics.observe("log_publish_seconds", time.perf_counter() - began, lane=self._name)
        self._metrics.count("log_publishes", lane=self._name)
        return position


def _refusal(error: Exception) -> Exception:
    if isinstance(error, Unavailable):
        return Unavailable(message=error.message)
    log.error("group_commit_failed", exc_info=error)
    return Unavailable(message="The log does not answer.")
