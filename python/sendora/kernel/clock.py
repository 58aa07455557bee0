"""Time, as an argument.

Whatever asks for the time gets a `Clock`; tests hand in a `FixedClock` and move it. Instants are aware and in UTC
inside, milliseconds since 1970 at the border to the library, RFC 3339 with milliseconds and Z on the wire. What must
agree between processes (leases, due chunks) uses PostgreSQL's clock instead.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""Whatever a client says of an earlier time is a mistake, and the first years of all can be stored nowhere."""

_MILLISECOND: Final = timedelta(milliseconds=1)


class Clock(Protocol):
    def now(self) -> datetime:
        """The time of day, aware, in UTC."""

    def monotonic(self) -> float:
        """Seconds that never run backwards: for deadlines."""


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class FixedClock:
    """A clock that stands still until it is told to advance; both readings move together."""

    def __init__(self, at: datetime) -> None:
        if at.tzinfo is None:
            raise ValueError("a clock needs an aware instant")
        self._now = at.astimezone(UTC)
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError("time does not run backwards")
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds


def millis(at: datetime) -> int:
    """Whole milliseconds since 1970, rounded down; in integers, so that no instant is off by a float's error."""
    return (at - EPOCH) // _MILLISECOND


def from_millis(at_ms: int) -> datetime:
    return EPOCH + at_ms * _MILLISECOND


def iso(at: datetime) -> str:
    """RFC 3339 in UTC with milliseconds: 2026-11-20T08:30:00.000Z."""
    there = at if at.tzinfo is UTC else at.astimezone(UTC)
    return there.isoformat(timespec="milliseconds")[:-6] + "Z"
