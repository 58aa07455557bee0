"""Quiet hours (B108-B110, C46, F-S4) against `zoneinfo`, minute by minute, over gaps, folds and skipped days."""

import functools
import json
import uuid
import zoneinfo
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tests.core.copybytes import Json, Ms, stream

from sendora import _core

MINUTE = timedelta(minutes=1)
BEGIN, END = datetime(2000, 1, 1, tzinfo=UTC), datetime(2037, 12, 31, tzinfo=UTC)
JUMPY = [
    "Europe/Berlin", "America/New_York", "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca",
    "Antarctica/Troll", "America/Sao_Paulo", "Asia/Gaza", "Asia/Tehran", "America/Scoresbysund", "Europe/Dublin",
]  # fmt: skip
"""Gaps at midnight, at 00:01, of half an hour, of two hours, of a whole day; winter time as the exception."""

hours = st.integers(0, 23)
instants = st.datetimes(BEGIN.replace(tzinfo=None), END.replace(tzinfo=None), timezones=st.just(UTC))


def quiet_until(zone: str, start: int | None, end: int | None, now: datetime) -> datetime | None:
    """The oracle: the first whole minute at which the clock on the wall is outside the window."""
    if start is None or end is None or start == end:
        return None
    quiet = set(range(start, end)) if start < end else {*range(start, 24), *range(end)}
    wall = zoneinfo.ZoneInfo(zone)
    at = now
    while at.astimezone(wall).hour in quiet:
        at = at.replace(second=0, microsecond=0) + MINUTE
    return None if at == now else at


def ask(
    zone: str | None,
    start: int | None,
    end: int | None,
    now: datetime,
    *,
    defer: bool = True,
    default: str | None = None,
) -> tuple[str, str, int | None] | None:
    """What `decide` says of one recipient: None when it sends."""
    policy = {"quietStart": start, "quietEnd": end, "defer": defer, "defaultZone": default}
    spec = {"sendId": str(uuid.UUID(int=1)), "body": "b", "plannedAt": 0, "expiresAt": 2**52, "policy": policy}
    row = (
        0,
        uuid.UUID(int=2),
        "ios",
        "t",
        None,
        "production",
        None,
        "u",
        True,
        Ms(0),
        None,
        zone,
        Json("{}"),
        None,
        None,
        None,
    )
    decided = _core.Note(json.dumps(spec).encode()).decide(stream([row]), None, int(now.timestamp() * 1000))
    return next((stay[3:6] for stay in decided.stays()), None)


def compare(zone: str, start: int, end: int, now: datetime) -> None:
    now = now.replace(microsecond=now.microsecond // 1000 * 1000)
    until = quiet_until(zone, start, end, now)
    expected = None if until is None else ("deferred", "quiet_hours", int(until.timestamp() * 1000))
    assert ask(zone, start, end, now) == expected


@settings(max_examples=300)
@given(st.sampled_from(sorted(zoneinfo.available_timezones())), hours, hours, instants)
def test_every_zone(zone: str, start: int, end: int, now: datetime) -> None:
    compare(zone, start, end, now)


@functools.cache
def jumps(zone: str) -> list[datetime]:
    """The days on whose beginning the offset is another than a day later."""
    wall = zoneinfo.ZoneInfo(zone)
    days = [BEGIN + timedelta(days=i) for i in range((END - BEGIN).days)]
    offsets = [day.astimezone(wall).utcoffset() for day in days]
    return [day for day, before, after in zip(days, offsets, offsets[1:], strict=False) if before != after]


@settings(max_examples=300)
@given(st.sampled_from(JUMPY), hours, hours, st.integers(0, 2**31), st.integers(-24 * 60, 48 * 60))
def test_around_every_jump_of_the_clock(zone: str, start: int, end: int, which: int, minutes: int) -> None:
    compare(zone, start, end, jumps(zone)[which % len(jumps(zone))] + minutes * MINUTE)


@given(hours, hours, instants)
@example(22, 7, datetime(2026, 1, 1, 2, tzinfo=UTC))
def test_without_deferral_the_recipient_is_suppressed(start: int, end: int, now: datetime) -> None:
    """B109."""
    assume(quiet_until("UTC", start, end, now) is not None)
    assert ask("UTC", start, end, now, defer=False) == ("suppressed", "quiet_hours", None)


@pytest.mark.parametrize("zone", [None, "", "Nowhere/Town", "europe/berlin", "../UTC"])
def test_without_a_zone_the_orgs_default_counts(zone: str | None) -> None:
    """B110: no known zone skips quiet hours, unless the org has a default."""
    now = datetime(2026, 1, 1, 2, tzinfo=UTC)
    assert ask(zone, 22, 7, now) is None
    assert ask(zone, 22, 7, now, default="Nowhere/Town") is None
    assert ask(zone, 22, 7, now, default="UTC") == (
        "deferred",
        "quiet_hours",
        int(now.replace(hour=7).timestamp() * 1000),
    )
    assert ask("Asia/Tokyo", 22, 7, now, default="UTC") is None


@pytest.mark.parametrize(("start", "end"), [(None, 7), (22, None), (None, None), (5, 5)])
def test_one_bound_missing_or_both_equal_is_off(start: int | None, end: int | None) -> None:
    """C46."""
    assert ask("UTC", start, end, datetime(2026, 1, 1, 5, tzinfo=UTC)) is None
