"""How the lanes of a worker stand, told to the metrics: connections and circuits change without anybody's call."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from sendora.kernel.metrics import Metrics

TELL_S: Final = 1.0
"""How often it is told while there is something to tell: finer than anybody reads metrics."""


class Standing:
    """Tells until nobody sends and nothing is open or held any more; `watch` begins anew."""

    def __init__(
        self,
        metrics: Metrics,
        lanes: Callable[[], Iterable[tuple[str, int, bool]]],
        busy: Callable[[], bool],
    ) -> None:
        """`lanes`: (provider, open connections, held) of each; `busy`: somebody sends."""
        self._metrics = metrics
        self._lanes = lanes
        self._busy = busy
        self._told: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TELL_S, self._again)

    def close(self) -> None:
        """Told once more, when the lanes have ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._tell()

    def _again(self) -> None:
        self._timer = None
        if self._tell() or self._busy():
            self.watch()

    def _tell(self) -> bool:
        """Whether there was something."""
        open_, held = Counter[str](), Counter[str]()
        for provider, connections, is_held in self._lanes():
            open_[provider] += connections
            held[provider] += is_held
        # A provider without a lane has nothing open, and its last value must not outlive it.
        for provider in self._told | open_.keys():
            self._metrics.gauge("lane_connections", open_[provider], provider=provider)
            self._metrics.gauge("lane_open_breakers", held[provider], provider=provider)
        self._told = set(open_)
        return any(open_.values()) or any(held.values())
