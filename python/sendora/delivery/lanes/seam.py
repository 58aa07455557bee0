"""The seam to providers: a whole decided chunk crosses it, and outcomes come back.

A lane is (provider credential, environment), or the origin of a Web Push endpoint; its name comes with each call.
Lanes own connections and know nothing of chunks' history, leases or the ledger: before bytes leave they ask the
`Gate`, and it says how many recipients may go and whether the lease still lasts.

A lane promises places before the gate is asked: at most twice as many as it may have on the wire. So a provider that is
slow, silent, or that answers one request at a time holds a small part of the worker's window, and not what the
lanes of others could use.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from sendora.delivery.fair import Window
from sendora.delivery.phases import Call, Chunk, Outcome, Reply

if TYPE_CHECKING:
    from sendora.delivery.channel import Sending
    from sendora.delivery.lanes.quota import Quotas

SLICE: Final = 256
"""Recipients that one move of the mark covers at most: a chunk starts before the window has room for all of it."""

PROMISED: Final = 2
"""Calls that may be admitted for a lane, in calls that may be on it: while some are on the wire the next are marked."""

CONNECT_S: Final = 5.0
ANSWER_S: Final = 10.0
"""A provider that is silent for so long has an `unknown` call (F-V6)."""

CALL_S: Final = 12.0
"""From the first byte to the last, whatever drips in between; within the time that a draining process has."""

BREAKER_FAILURES: Final = 10
"""Calls in a row without any answer; a few are one bad token or one lost connection."""

BREAKER_S: Final = 5.0
"""How long a lane that does not answer is left alone; then one request tries it."""

LANES_MAX: Final = 256
"""Web Push has as many origins as browsers have vendors; clients can make up more."""

IDLE_S: Final = 300.0
"""A lane that nobody used in so long gives its connections back."""


UNAUTHORIZED: Final = frozenset({401, 403})
"""Answers that a fresh credential may change."""


class Gate(Protocol):
    """What a lane asks of whoever owns the chunk, and where its outcomes go."""

    async def admit(self, want: int, mark: Callable[[int], int]) -> int:
        """Wait until some of the next `want` recipients may leave: there is room in the window and the chunk's mark is
        past them; `mark(n)` is where it must stand for n of them. 0: none any more, the worker drains or has lost the
        shard."""

    def open(self) -> bool:
        """Asked right before each request: the lease lasts, and the worker does not drain."""

    def open_s(self) -> float:
        """For how many seconds `open` goes on to say yes as far as is known now; 0 when it says no. For lanes that
        cannot ask from where they are."""

    async def again(self, call: Call, reply: Reply) -> Call | None:
        """The same call under a fresh credential, when the answer says that the old one has expired."""

    def done(self, outcomes: Sequence[Outcome]) -> None: ...


class Lanes(Protocol):
    def held_s(self, lane: str) -> float:
        """Seconds for which the lane is not tried, 0 when it is open."""

    async def run(self, sending: "Sending", calls: Sequence[Call], chunk: Chunk, gate: Gate) -> None:
        """Send the calls, in order of position, as far as the gate lets them; returns when each that left has its
        outcome."""

    async def close(self) -> None: ...


def marks(calls: Sequence[Call], done: int) -> Callable[[int], int]:
    """Where the mark must stand for those that follow the first `done` calls."""
    return lambda n: calls[done + n - 1].position + 1


class Place:
    """One call's place on a lane, and its part of the quota; no window: on one that promises nothing."""

    def __init__(self, lane: str, window: Window | None, quotas: "Quotas") -> None:
        self._lane = lane
        self._window = window
        self._quotas = quotas

    def give(self, _: object = None) -> None:
        """The call has ended."""
        if self._window is not None:
            self._window.give(1)
            self._window = None

    def give_back(self) -> None:
        """The call does not leave."""
        self.give()
        self._quotas.give(self._lane, 1)


async def promised(
    calls: Sequence[Call],
    chunk: Chunk,
    window_of: Callable[[str], Awaitable[Window | None]],
    quotas: "Quotas",
    gate: Gate,
) -> list[Place]:
    """Places for some of the calls, counted from the first; none only when the gate was closed meanwhile. `window_of` a
    lane that answers at once, and so promises nothing, is None.

    Only for the first lane is waited: who held places of one lane and waited for another's would be waited for in a
    circle.
    """
    wanted = Counter(call.lane for call in calls)
    granted: dict[str, tuple[Window | None, int]] = {}
    allowed: dict[str, int] = {}
    used: Counter[str] = Counter()
    try:
        for name, want in wanted.items():  # In the order of the calls.
            window = await window_of(name)
            if window is None:
                granted[name] = None, want
                continue
            taken = await window.take(chunk.org, want) if not granted else window.take_now(want)
            granted[name] = window, taken
        allowed = await quotas.take([(name, n) for name, (_, n) in granted.items()], chunk.class_, gate)
        places: list[Place] = []
        for call in calls:
            if used[call.lane] == allowed[call.lane]:
                break
            used[call.lane] += 1
            places.append(Place(call.lane, granted[call.lane][0], quotas))
        return places
    finally:
        for name, (window, taken) in granted.items():
            if window is not None:
                window.give(taken - used[name])
        for name, n in allowed.items():
            quotas.give(name, n - used[name])


def provider_of(lane: str) -> str:
    """A label with few values: what stands before the colon of a lane's name."""
    return lane.partition(":")[0]
