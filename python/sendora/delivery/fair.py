"""Whose turn it is, and how much may be on the wire.

`Turns` gives each tenant the same share of a resource while several want it: who has been served least is next. A
tenant that comes back starts where the others are, so idling saves up nothing. `Window` is the bound W on recipients
whose mark has moved and whose outcome is not recorded: what a crash can leave `unknown` at most (reliability.md 2.1).
It is granted in turns as well, so a tenant with a slow provider cannot hold all of it against the others for longer
than its own calls last.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from sendora.kernel.ids import OrgId

GRANT_MIN: Final = 32
"""A grant smaller than this is not worth its move of the mark, unless that is all that was asked for."""

TENANTS_MAX: Final = 1_024
"""Tenants that do not wait and are remembered: a worker's memory does not grow with the customers of a year."""


class Turns:
    """Start-time fair queueing: each tenant has a tag, the work it has been given; the smallest tag is next."""

    def __init__(self) -> None:
        self._tags: dict[OrgId, int] = {}
        self._known: set[OrgId] = set()
        self._now = 0

    def pick(self, waiting: Iterable[OrgId]) -> OrgId:
        """The next of those who wait (at least one); equal tags in the order given."""
        names = list(dict.fromkeys(waiting))
        for org in names:
            if org not in self._known:
                self._tags[org] = max(self._tags.get(org, 0), self._now)
        self._known = set(names)
        if len(self._tags) > TENANTS_MAX + len(names):
            self._forget()
        chosen = min(names, key=self._tags.__getitem__)
        self._now = max(self._now, self._tags[chosen])
        return chosen

    def _forget(self) -> None:
        """Who does not wait and lies behind would be lifted on return anyway; beyond that the smallest tags go."""
        idle = sorted((tag, org) for org, tag in self._tags.items() if org not in self._known)
        for tag, org in idle[: max(len(idle) - TENANTS_MAX // 2, 0)]:
            del self._tags[org]
            self._now = max(self._now, min(tag, min(self._tags[known] for known in self._known)))

    def charge(self, org: OrgId, amount: int) -> None:
        self._tags[org] = self._tags.get(org, self._now) + amount


class Window:
    """A semaphore of recipients: taken before a mark moves, given back when the outcomes are committed."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._turns = Turns()
        self._waiting: dict[OrgId, deque[tuple[int, asyncio.Future[int]]]] = {}

    @property
    def taken(self) -> int:
        return self.size - self._free

    def resize(self, size: int) -> None:
        """What is taken stays taken, be it more than the new size."""
        self._free += size - self.size
        self.size = size
        self._grant()

    def take_now(self, want: int) -> int:
        """As many as are free, without waiting and not before anybody who waits."""
        granted = 0 if self._waiting else max(min(want, self._free), 0)
        self._free -= granted
        return granted

    async def take(self, org: OrgId, want: int) -> int:
        """Wait for a part of `want`, at least one; how many were granted."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(org, deque()).append((want, future))
        self._grant()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give(future.result())
            raise

    @asynccontextmanager
    async def place(self, org: OrgId) -> AsyncIterator[None]:
        """One place while the block runs."""
        await self.take(org, 1)
        try:
            yield
        finally:
            self.give(1)

    def give(self, amount: int) -> None:
        self._free += amount
        if self._free > self.size:
            raise AssertionError("more was given back than taken")
        self._grant()

    def _grant(self) -> None:
        while self._free > 0 and self._waiting:
            org = self._turns.pick(self._waiting)
            line = self._waiting[org]
            while line and line[0][1].done():
                line.popleft()
            if not line:
                del self._waiting[org]
                continue
            want, future = line[0]
            if self._free < min(want, GRANT_MIN, self.size):
                return
            granted = min(want, self._free)
            line.popleft()
            if not line:
                del self._waiting[org]
            self._free -= granted
            self._turns.charge(org, granted)
            future.set_result(granted)
