"""Group commit for the hot routes of this room: while one batch is under way, requests gather for the next.

No timer: a lone request goes at once, and under load a statement (or a publish) serves as many as arrived while the one
before it ran. One batch at a time, so that what a client said twice in a row is stored in that order.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from sendora.kernel.errors import Unavailable

T = TypeVar("T")
R = TypeVar("R")


class _Waiting(NamedTuple, Generic[T, R]):
    item: T
    answer: asyncio.Future[R]


class Gatherer(Generic[T, R]):
    """`work` takes a batch and gives an answer for each item, in order; what it raises is everybody's answer."""

    def __init__(
        self, work: Callable[[Sequence[T]], Awaitable[Sequence[R]]], *, batch_max: int, waiting_max: int
    ) -> None:
        self._work = work
        self._batch_max = batch_max
        self._waiting_max = waiting_max
        self._waiting: deque[_Waiting[T, R]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, item: T) -> R:
        """The answer for this item; Unavailable when too many wait already."""
        if len(self._waiting) >= self._waiting_max:
            raise Unavailable
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(item, answer))
        if self._worker is None:
            self._worker = asyncio.create_task(self._drain())
        return await answer

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._batch_max))]
                await self._commit([one for one in batch if not one.answer.done()])
        finally:
            self._worker = None

    async def _commit(self, batch: Sequence[_Waiting[T, R]]) -> None:
        """Without those whose callers have left meanwhile."""
        if not batch:
            return
        try:
            answers = await self._work([one.item for one in batch])
        except BaseException as error:
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(error if isinstance(error, Exception) else Unavailable())
            if not isinstance(error, Exception):
                raise
            return
        for one, said in zip(batch, answers, strict=True):
            if not one.answer.done():
                one.answer.set_result(said)
