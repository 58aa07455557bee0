"""Time as an argument."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendora.kernel.clock import FixedClock, SystemClock, from_millis, iso, millis


@given(st.datetimes(datetime(1900, 1, 1), datetime(2300, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_milliseconds_round_down_and_come_back(at: datetime) -> None:
    back = from_millis(millis(at))
    assert timedelta(0) <= at - back < timedelta(milliseconds=1)
    assert millis(back) == millis(at)


def test_iso_is_utc_with_milliseconds() -> None:
    east = timezone(timedelta(hours=5, minutes=45))
    assert iso(datetime(2026, 1, 1, 5, 44, 59, 999_999, tzinfo=east)) == "2025-12-31T23:59:59.999Z"


def test_a_fixed_clock_moves_only_when_it_is_told() -> None:
    clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
    first = clock.monotonic()
    assert clock.now() == clock.now()
    clock.advance(1.5)
    assert clock.now() == datetime(2026, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    assert clock.monotonic() - first == 1.5
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="aware"):
        FixedClock(datetime(2026, 1, 1))  # noqa: DTZ001


def test_the_system_clock_is_aware() -> None:
    assert SystemClock().now().utcoffset() == timedelta(0)
