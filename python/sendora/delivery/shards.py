"""Which worker owns which of the 64 virtual shards: leases with epochs, by PostgreSQL's clock.

A lease lasts 10 s and is renewed every 3 s, so a dead worker's shards are taken over within 13 s. Taking one raises
its epoch; every write of outcomes and marks is guarded by the epoch, so a worker that lost a shard without noticing
(stopped, cut off) writes nothing. PostgreSQL cannot guard the providers, so the holder also keeps a deadline on a
clock that goes on while the machine sleeps, and asks it before each request (F-D4).

With `auto`, workers announce themselves and each takes a fair share; who holds more than its share lets go of the rest
once its chunks in flight are recorded. A fixed range such as `0-15` takes what it names and nothing else; the workers
of a cluster are all of one kind.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import msgspec

from sendora.delivery import failpoint, store
from sendora.delivery.phases import SHARDS
from sendora.kernel.life import Kernel

LEASE_S: Final = 10.0
RENEW_S: Final = 3.0
"""Two renewals may fail before the lease ends."""

SAFETY_S: Final = 1.0
"""Our deadline comes before PostgreSQL's: the two clocks run at nearly, not exactly, one speed."""

ALIVE_S: Final = 10.0
"""Who has not been seen for so long gets no share."""

WAKE_SHARDS: Final = "wake.shards"
"""Somebody came, left, or let go of shards."""


def elapsed() -> float:
    """Seconds on a clock that nobody sets and that goes on while the machine is suspended."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.clock_gettime(boottime) if boottime is not None else time.monotonic()


class Held(msgspec.Struct):
    """A shard that is ours until the deadline."""

    shard: int
    epoch: int
    deadline: float
    leaving: bool = False
    """No new chunks; it is released when those in flight are recorded."""


def parse(spec: str) -> frozenset[int] | None:
    """`auto` is None; `0-15,40` is a set. Raises ValueError."""
    if spec == "auto":
        return None
    shards: set[int] = set()
    for part in spec.split(","):
        low, dash, high = part.strip().partition("-")
        first, last = int(low), int(high if dash else low)
        if not 0 <= first <= last < SHARDS:
            raise ValueError(f"shards are 0 to {SHARDS - 1}, got {part!r}")
        shards.update(range(first, last + 1))
    return frozenset(shards)


def share(workers: int, rank: int) -> int:
    """How many shards the worker at this place (from 0) among so many should hold; the shares add up to all of them."""
    whole, rest = divmod(SHARDS, max(workers, 1))
    return whole + (1 if rank < rest else 0)


class Shards:
    """The shards that this worker holds."""

    def __init__(
        self,
        kernel: Kernel,
        holder: str,
        wanted: frozenset[int] | None,
        *,
        busy: Callable[[int], bool] = lambda shard: False,
        taken: Callable[[list[int]], None] = lambda shards: None,
        lost: Callable[[list[int]], None] = lambda shards: None,
        clock: Callable[[], float] = elapsed,
    ) -> None:
        self.holder = holder
        self._kernel = kernel
        self._wanted = wanted
        self._busy = busy
        self._taken = taken
        self._lost = lost
        self._clock = clock
        self._held: dict[int, Held] = {}
        self._closing = False

    def epoch(self, shard: int) -> int | None:
        """The epoch under which it is held; None when it is not, or when its deadline has passed."""
        held = self._held.get(shard)
        return held.epoch if held is not None and self._clock() < held.deadline else None

    def is_mine(self, shard: int, epoch: int) -> bool:
        """Asked before each request leaves."""
        held = self._held.get(shard)
        return held is not None and held.epoch == epoch and self._clock() < held.deadline

    def mine_for_s(self, shard: int, epoch: int) -> float:
        """For how many seconds from now on it is held under this epoch."""
        held = self._held.get(shard)
        return max(held.deadline - self._clock(), 0.0) if held is not None and held.epoch == epoch else 0.0

    def serving(self) -> list[int]:
        """The shards from which new chunks may be taken."""
        now = self._clock()
        return sorted(held.shard for held in self._held.values() if now < held.deadline and not held.leaving)

    def held(self) -> list[int]:
        return sorted(self._held)

    def is_leaving(self, shard: int) -> bool:
        held = self._held.get(shard)
        return held is not None and held.leaving

    def drop(self, shards: set[int]) -> None:
        """They were found to be somebody else's."""
        gone = [shard for shard in shards if self._held.pop(shard, None) is not None]
        if gone:
            self._lost(gone)

    async def tick(self) -> None:
        """Renew, let go, take: every 3 s, and when woken. Raises when PostgreSQL is away; what is held then stays held
        until its deadline."""
        self.drop({held.shard for held in self._held.values() if self._clock() >= held.deadline})
        await self._renew()
        target = await self._target()
        await self._let_go(target)
        await self._take(target)

    def close(self) -> None:
        """A drain begins: from the next tick on shards are let go as their chunks are recorded, and none is taken."""
        self._closing = True

    async def release(self) -> None:
        """At the end of a drain: whoever is left takes over at once."""
        epochs = {held.shard: held.epoch for held in self._held.values()}
        self._held.clear()
        self._closing = False
        await self._kernel.db.execute(store.SQL.leave, self.holder)
        await self._give_back(epochs)

    async def _renew(self) -> None:
        if not self._held:
            return
        asked = self._clock()
        mine = list(self._held.values())
        rows = await self._kernel.db.fetch(
            store.SQL.renew_shards, self.holder, [held.shard for held in mine], [held.epoch for held in mine], LEASE_S
        )
        kept = {row["shard"] for row in rows}
        self.drop({held.shard for held in mine} - kept)
        for held in mine:
            held.deadline = asked + LEASE_S - SAFETY_S

    async def _target(self) -> int:
        if self._closing:
            await self._kernel.db.execute(store.SQL.leave, self.holder)
            return 0
        if self._wanted is not None:
            return len(self._wanted)
        fresh = await self._kernel.db.fetchval(store.SQL.heartbeat, self.holder)
        row = await self._kernel.db.fetchrow(store.SQL.alive, self.holder, ALIVE_S)
        if fresh:
            await self._kernel.bus.wake(WAKE_SHARDS)
        return share(row["workers"], row["rank"]) if row is not None else SHARDS

    async def _let_go(self, target: int) -> None:
        # Those that have nothing in flight first: they move at once.
        surplus = sorted(self._held.values(), key=lambda held: (not held.leaving, self._busy(held.shard)))
        for place, held in enumerate(surplus):
            held.leaving = place < len(surplus) - target
        ready = {held.shard: held.epoch for held in surplus if held.leaving and not self._busy(held.shard)}
        if ready:
            for shard in ready:
                del self._held[shard]
            self._lost(list(ready))
            await self._give_back(ready)

    async def _take(self, target: int) -> None:
        missing = target - len(self._held)
        if missing <= 0:
            return
        wanted = [shard for shard in (self._wanted or range(SHARDS)) if shard not in self._held]
        asked = self._clock()
        rows = await self._kernel.db.fetch(store.SQL.take_shards, self.holder, wanted, missing, LEASE_S)
        for row in rows:
            self._held[row["shard"]] = Held(row["shard"], row["epoch"], asked + LEASE_S - SAFETY_S)
        if rows:
            failpoint.hit("shard.after_lease")
            self._taken([row["shard"] for row in rows])

    async def _give_back(self, epochs: dict[int, int]) -> None:
        if epochs:
            await self._kernel.db.execute(store.SQL.release_shards, self.holder, list(epochs), list(epochs.values()))
        await self._kernel.bus.wake(WAKE_SHARDS)


async def keep(shards: Shards, woken: asyncio.Event, stop: asyncio.Event, away: Callable[[Exception], None]) -> None:
    """Tick until stopped. An exception is told and the next tick is tried: the leases run out by themselves."""
    while not stop.is_set():
        woken.clear()
        try:
            await shards.tick()
        except Exception as error:
            away(error)
        try:
            async with asyncio.timeout(RENEW_S):
                await woken.wait()
        except TimeoutError:
            pass
