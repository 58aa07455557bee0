"""What a provider allows an account, shared by all workers: a token bucket in Redis for each of its lanes.

Google lets a Firebase project send 600,000 messages a minute and refuses what comes above. Who is about to leave is
counted first, so a worker waits instead of being refused. The bucket holds one second; the last tenth of it is left for
sends that somebody waits for. What was taken and not used is kept here and used next. Without Redis each worker goes on
alone at the full rate (`kernel/limits.py`); if that is too much, the lanes hear 429 and slow down.
"""

import asyncio
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from sendora.delivery.lanes.seam import LANES_MAX, Gate, provider_of
from sendora.delivery.phases import Class

if TYPE_CHECKING:
    from sendora.kernel.life import Kernel

PAUSE_S: Final = 0.05
"""Between two looks at an empty bucket, and the least that is worth a move of the mark: what it gains meanwhile."""

RESERVED: Final = 10
"""One part in so many is left for transactional sends."""


class Quotas:
    def __init__(self, kernel: "Kernel") -> None:
        self._limiter = kernel.limiter
        self._rates = {"fcm": kernel.settings.dispatch.fcm_per_minute / 60}
        self._kept: dict[str, int] = {}
        """Taken from the bucket and not used, by lane."""
        self._lines: dict[tuple[str, Class], asyncio.Lock] = {}

    async def take(self, wanted: Iterable[tuple[str, int]], class_: Class, gate: Gate) -> dict[str, int]:
        """How many may leave by each lane now. Only for the first lane is waited, until it is at least one or the gate
        is closed: whoever waited for the second would keep the first from others."""
        allowed: dict[str, int] = {}
        for name, want in wanted:
            rate = self._rates.get(provider_of(name), 0.0)
            if rate and want:
                allowed[name] = await self._some(name, want, class_, rate, gate if not allowed else None)
            else:
                allowed[name] = want
        return allowed

    def give(self, name: str, n: int) -> None:
        """So many did not leave after all."""
        if n and self._rates.get(provider_of(name)):
            self._kept[name] = self._kept.get(name, 0) + n

    async def _some(self, name: str, want: int, class_: Class, rate: float, gate: Gate | None) -> int:
        """Waits as long as the gate is open; without one not at all."""
        kept = self._kept.pop(name, 0)
        if kept >= want:
            self.give(name, kept - want)
            return want
        burst = math.ceil(rate)
        need = min(want - kept, max(int(rate * PAUSE_S), 1))
        spare = burst // RESERVED if class_ == "bulk" else 0
        if len(self._lines) > LANES_MAX:
            self._lines = {key: line for key, line in self._lines.items() if line.locked()}
        # One of a class asks, the others stand behind it.
        async with self._lines.setdefault((name, class_), asyncio.Lock()):
            while True:
                taken = await self._limiter.some(name, need, want - kept, rate, burst, spare=spare)
                if taken or kept or gate is None or not gate.open():
                    return kept + taken
                await asyncio.sleep(PAUSE_S)
