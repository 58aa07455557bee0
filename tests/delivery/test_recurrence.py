"""When a local time is, in every zone, and when it comes again."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from dateutil.rrule import rrulestr
from hypothesis import given
from hypothesis import strategies as st

from sendora.delivery.recurrence import (
    COUNT_MAX,
    EARLIEST,
    GAP_MIN,
    RECIPIENT,
    Calendar,
    Occurrence,
    RuleError,
    first_ahead,
    instant,
    zone_of,
)

YEARS = (2026, 2027)
MINUTE = timedelta(minutes=1)
NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)

local = datetime.fromisoformat

START = local("2026-11-01T09:30")


def offset(zone: ZoneInfo, at: datetime) -> timedelta:
    """Asked of the instant, where nothing is ambiguous."""
    found = at.astimezone(zone).utcoffset()
    assert found is not None
    return found


def transitions(zone: ZoneInfo) -> list[datetime]:
    """The instants at which the offset changes: found by days, then by halves, to the second."""
    found = []
    day = datetime(YEARS[0], 1, 1, tzinfo=UTC)
    while day.year <= YEARS[-1]:
        low, high = day, day + timedelta(days=1)
        if offset(zone, low) != offset(zone, high):
            while high - low > timedelta(seconds=1):
                middle = low + (high - low) // 2
                middle = middle.replace(microsecond=0)
                low, high = (middle, high) if offset(zone, middle) == offset(zone, low) else (low, middle)
            found.append(high)
        day += timedelta(days=1)
    return found


def test_every_transition_of_every_zone() -> None:
    """RFC 5545, 3.3.5: in a gap the offset before it; of two readings the first, which has the offset before it too."""
    gaps = overlaps = 0
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        for change in transitions(zone):
            before, after = offset(zone, change - timedelta(seconds=1)), offset(zone, change)
            odd = [change + min(before, after), change + max(before, after)]  # Local times that are none, or two.
            first, end = (at.replace(tzinfo=None) for at in odd)
            gaps, overlaps = gaps + (after > before), overlaps + (after < before)
            clock = first - 2 * MINUTE
            while clock < end + 2 * MINUTE:
                expected = clock - (before if clock < end else after)
                at = instant(clock, zone)
                assert at == expected.replace(tzinfo=UTC), (name, clock)
                shown = at.astimezone(zone).replace(tzinfo=None)
                assert shown == (clock + (after - before) if first <= clock < end and after > before else clock)
                clock += timedelta(seconds=30 * 60) if first < clock < end - 31 * MINUTE else MINUTE
    assert gaps > 200 and overlaps > 200, (gaps, overlaps)


def test_nobodys_clock_is_further_ahead() -> None:
    """Whoever is in the plan of an own-zone send is not due before it."""
    at = datetime(YEARS[0], 1, 1, tzinfo=UTC)
    while at.year <= YEARS[-1]:
        for name in available_timezones():
            assert at.astimezone(ZoneInfo(name)).utcoffset() <= EARLIEST.utcoffset(None), name
        at += timedelta(days=14)


def test_a_zone_that_is_gone_is_utc() -> None:
    for name in ("Mars/Olympus", "", "../etc/passwd", "Europe", "\x00", "/etc/localtime"):
        assert zone_of(name) is UTC
    assert zone_of("Europe/Berlin") == ZoneInfo("Europe/Berlin")


FREQUENCIES = st.sampled_from(["YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY"])
PARTS = {
    "INTERVAL": st.integers(1, 5).map(str),
    "BYMONTH": st.lists(st.integers(1, 12), min_size=1, max_size=4).map(lambda ns: ",".join(map(str, ns))),
    "BYMONTHDAY": st.lists(st.sampled_from([1, 2, 15, 28, 29, 31, -1, -3]), min_size=1, max_size=3).map(
        lambda ns: ",".join(map(str, ns))
    ),
    "BYDAY": st.lists(st.sampled_from(["MO", "TU", "WE", "TH", "FR", "SA", "SU"]), min_size=1, max_size=3).map(
        ",".join
    ),
    "BYHOUR": st.lists(st.integers(0, 23), min_size=1, max_size=3).map(lambda ns: ",".join(map(str, ns))),
    "BYMINUTE": st.sampled_from(["0", "0,30", "7,21,45"]),
    "BYSETPOS": st.sampled_from(["1", "-1", "2", "1,-1"]),
    "WKST": st.sampled_from(["MO", "SU", "TH"]),
    "COUNT": st.integers(1, 40).map(str),
}
RULES = st.tuples(FREQUENCIES, st.fixed_dictionaries({}, optional=PARTS)).map(
    lambda drawn: ";".join([f"FREQ={drawn[0]}", *(f"{key}={value}" for key, value in drawn[1].items())])
)


@given(rule=RULES, days=st.integers(0, 2_000), seconds=st.integers(0, 86_399))
def test_a_rule_goes_on_as_it_began(rule: str, days: int, seconds: int) -> None:
    """Asked from any time on, without walking there from its start, a rule has the occurrences that it has from its
    start: those of the library, in the year that was meant."""
    calendar = Calendar(starts_at=START, zone="UTC", rrule=rule)
    after = START + timedelta(days=days, seconds=seconds)
    try:
        ours = [one.local for one in islice(calendar.after(after), 5)]
    except RuleError:
        with pytest.raises(ValueError, match="empty"):
            rrulestr(rule, dtstart=START)
        return
    if not ours:  # The library would look for more until the year 9999.
        assert "COUNT" in rule or "BYMONTHDAY" in rule or "BYSETPOS" in rule or "INTERVAL" in rule
        return
    assert ours == list(islice((one for one in rrulestr(rule, dtstart=START) if one > after), len(ours)))


@given(
    text=st.one_of(
        st.text(max_size=60),
        st.lists(
            st.sampled_from(
                [
                    "FREQ=DAILY",
                    "FREQ=HOURLY",
                    "FREQ=SECONDLY",
                    "INTERVAL=0",
                    "INTERVAL=7",
                    "COUNT=-1",
                    "BYHOUR=24",
                    "BYHOUR=1,",
                    "BYDAY=0MO",
                    "BYDAY=XX",
                    "BYMONTHDAY=0",
                    "BYSETPOS=400",
                    "BYEASTER=1",
                    "UNTIL=99991231T235959Z",
                    "UNTIL=2026",
                    "UNTIL=20269999",
                    "DTSTART=20260101",
                    "BYMINUTE=٣",
                    "WKST=1MO",
                    "RRULE:FREQ=YEARLY",
                    "FREQ=DAILY\nEXDATE:1",
                ]
            ),
            min_size=1,
            max_size=4,
        ).map(";".join),
    ),
    cron=st.booleans(),
)
def test_what_is_no_rule(text: str, cron: bool) -> None:
    """Whatever somebody writes, there is an occurrence or a sentence."""
    calendar = Calendar(starts_at=START, zone="Europe/Berlin", **{"cron" if cron else "rrule": text})
    try:
        found = first_ahead(calendar, NOW)
    except RuleError as error:
        assert str(error)
    else:
        assert NOW < found.at <= NOW + timedelta(days=366)


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ("FREQ=MINUTELY;INTERVAL=30", "FREQ"),
        ("FREQ=DAILY;BYSECOND=1", "BYSECOND"),
        ("FREQ=DAILY;FREQ=DAILY", "twice"),
        ("INTERVAL=2", "FREQ is missing"),
        ("FREQ=DAILY;COUNT=3;UNTIL=20270101", "exclude"),
        (f"FREQ=DAILY;COUNT={COUNT_MAX + 1}", "COUNT"),
        ("FREQ=DAILY;INTERVAL=0", "INTERVAL"),
        ("FREQ=DAILY;INTERVAL=1,2", "INTERVAL"),
        ("FREQ=WEEKLY;BYDAY=2MO", "BYDAY"),
        ("FREQ=HOURLY;BYMINUTE=0,4", "5 minutes apart"),
        ("FREQ=DAILY;BYHOUR=0,23;BYMINUTE=1,58", "5 minutes apart"),
        ("FREQ=DAILY;UNTIL=20261128", "no occurrence within"),
        ("FREQ=DAILY;COUNT=2", "no occurrence within"),
        ("FREQ=YEARLY;INTERVAL=3", "no occurrence within"),
        ("FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30", "no occurrence"),
        ("FREQ=DAILY;INTERVAL=997;BYMONTH=11;BYMONTHDAY=1", "8 years apart"),
        ("FREQ=DAILY;INTERVAL=997;BYMONTH=11;BYMONTHDAY=1;UNTIL=20270101", "8 years apart"),
        ("FREQ=YEARLY;INTERVAL=10;BYMONTH=11;BYMONTHDAY=1", "8 years apart"),
        ("FREQ=YEARLY;COUNT=20", "within 10 years"),
        ("FREQ=MONTHLY;BYHOUR=0,1,2,3,4;BYMINUTE=0,10,20,30,40", "24 times a day"),
        ("FREQ=HOURLY;INTERVAL=24;BYHOUR=3", "empty set"),
    ],
)
def test_rules_have_bounds(rule: str, sentence: str) -> None:
    with pytest.raises(RuleError, match=sentence):
        first_ahead(Calendar(starts_at=START, zone="UTC", rrule=rule), NOW)


@pytest.mark.parametrize(
    "cron", ["* * * * *", "*/4 * * * *", "0 9 * *", "0 0 9 * * *", "0 25 * * *", "@daily", "0 0 31 2 *"]
)
def test_cron_has_bounds(cron: str) -> None:
    with pytest.raises(RuleError):
        first_ahead(Calendar(starts_at=START, zone="UTC", cron=cron), NOW)


def locals_of(calendar: Calendar, n: int) -> list[str]:
    return [one.local.isoformat(timespec="minutes") for one in islice(calendar.after(), n)]


def test_cron() -> None:
    """Local times like any rule's; none before the start, which is one itself if the expression says so."""
    weekdays = Calendar(starts_at=local("2026-11-27T09:00"), zone="Europe/Berlin", cron="0 9 * * MON-FRI")
    assert locals_of(weekdays, 3) == ["2026-11-27T09:00", "2026-11-30T09:00", "2026-12-01T09:00"]
    first = first_ahead(weekdays, NOW)
    assert first == Occurrence(local("2026-11-30T09:00"), datetime(2026, 11, 30, 8, tzinfo=UTC))
    assert next(weekdays.after(first.local)).local == local("2026-12-01T09:00")


def test_until() -> None:
    """A day includes its hours; one in UTC is read in the zone, or where clocks are furthest ahead."""

    def last(until: str, zone: str = "America/New_York") -> str:
        rule = f"FREQ=DAILY;UNTIL={until}"
        *_, end = Calendar(starts_at=local("2026-11-01T20:00"), zone=zone, rrule=rule).after()
        return end.local.isoformat(timespec="minutes")

    assert last("20261103") == "2026-11-03T20:00"
    assert last("20261103T195959") == "2026-11-02T20:00"
    assert last("20261104T010000Z") == "2026-11-03T20:00"
    assert last("20261104T005959Z") == "2026-11-02T20:00"
    assert last("20261104T010000Z", RECIPIENT) == "2026-11-03T20:00"
    assert last("20261103T060000Z", RECIPIENT) == "2026-11-03T20:00"
    assert last("20261103T055959Z", RECIPIENT) == "2026-11-02T20:00"


def test_the_hour_stays_while_the_offset_changes() -> None:
    nine = Calendar(starts_at=local("2026-10-24T09:00"), zone="Europe/Berlin", rrule="FREQ=DAILY;COUNT=2")
    assert [one.at.hour for one in nine.after()] == [7, 8]


def test_one_instant_is_one_occurrence() -> None:
    """In the night of a gap 02:30 is read as 03:30 will be, and 03:00 has passed by then."""
    hourly = Calendar(
        starts_at=local("2026-03-29T01:00"), zone="Europe/Berlin", rrule="FREQ=HOURLY;BYMINUTE=0,30;COUNT=8"
    )
    found = list(hourly.after())
    assert [one.local.isoformat(timespec="minutes")[11:] for one in found] == [
        "01:00",
        "01:30",
        "02:00",
        "02:30",
        "04:00",
        "04:30",
    ]
    assert all(sooner.at < later.at for sooner, later in pairwise(found))
    # Also when it is asked in between.
    assert next(hourly.after(local("2026-03-29T02:30"))).local == local("2026-03-29T04:00")


@given(rule=RULES, zone=st.sampled_from(["Europe/Berlin", "Australia/Lord_Howe", "Africa/Casablanca", RECIPIENT]))
def test_occurrences_are_in_order_and_apart(rule: str, zone: str) -> None:
    calendar = Calendar(starts_at=START, zone=zone, rrule=rule)
    try:
        first = first_ahead(calendar, NOW)
    except RuleError:
        return
    found = [first, *islice(calendar.after(first.local), 20)]
    assert all(sooner.at < later.at for sooner, later in pairwise(found))
    assert all(later.local - sooner.local >= GAP_MIN for sooner, later in pairwise(found))
