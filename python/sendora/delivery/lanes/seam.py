"""What a lane asks of whoever owns a chunk, and what both kinds of lanes have in common."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from sendora.delivery.phases import Call, Chunk, Outcome, Reply

if TYPE_CHECKING:
    from sendora.delivery.channel import Sending

SLICE: Final = 256
"""Recipients that one move of the mark covers at most: a chunk starts before the window has room for all of it."""

PROMISED: Final = 2
"""Calls that may be admitted for a lane, in calls that may be on it: while some are on the wire the next are marked."""

CONNECT_S: Final = 5.0
ANSWER_S: Final = 10.0
"""A provider that is silent for so long has an `unknown` call (F-V6)."""

BREAKER_FAILURES: Final = 10
"""Calls in a row without any answer; a few are one bad token or one lost connection."""

BREAKER_S: Final = 5.0
"""How long a lane that does not answer is left alone; then one request tries it."""

LANES_MAX: Final = 256
"""Web Push has as many origins as browsers have vendors; clients can make up more."""

IDLE_S: Final = 300.0
"""A lane that nobody used in so long gives its connections back."""

UNAUTHORIZED: Final = frozenset({401, 403})
"""Answers that may say that a credential has expired."""


class Gate(Protocol):
    """Whoever owns the chunk, and where its outcomes go."""

    async def admit(self, want: int, mark: Callable[[int], int]) -> int:
        """Wait until some of the next `want` recipients may leave: there is room in the window and the chunk's mark is
        past them; `mark(n)` is where it must stand for n of them. 0: none any more, the worker drains or has lost the
        shard."""

    def open_s(self) -> float:
        """For how long requests may leave from now on: the lease lasts, the worker does not drain, the send's time is
        not over. 0: none may."""

    def open(self) -> bool:
        """Asked right before each request."""

    async def again(self, call: Call, reply: Reply) -> Call | None:
        """The same call under a fresh credential, when the answer says that the old one has expired."""

    def done(self, outcomes: Sequence[Outcome]) -> None:
        """Outcomes of some that were admitted."""


class Lanes(Protocol):
    def held_s(self, lane: str) -> float:
        """Seconds for which the lane is not tried, 0 when it is open."""

    async def run(self, sending: "Sending", calls: Sequence[Call], chunk: Chunk, gate: Gate) -> None:
        """Send the calls, in order of position, as far as the gate lets them; returns when each that left has its
        outcome."""

    async def close(self) -> None: ...


def provider(lane: str) -> str:
    """A label with few values: what stands before the colon of a lane's name."""
    return lane.partition(":")[0]
