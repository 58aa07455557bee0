"""When a local time is, and when it comes again. Pure arithmetic: no clock, no IO.

**A local time in a zone** (RFC 5545, 3.3.5). One that clocks pass over in spring is read with the offset that held
before the gap: 02:30 is an hour after 01:30, whatever the clocks then show. One that they show twice in autumn is the
first of the two.

**A local time in each recipient's own zone.** Nobody's clock is further ahead than 14 hours (Pacific/Kiritimati), so
that is when such a send is due and planned, and each recipient is due when their own clock shows the time.

**A rule** (RFC 5545 RRULE, or cron) makes local times; each is read in the zone as above, so what comes daily at 09:00
stays at 09:00 through the year. Of two that fall on one instant (02:30 and 03:30 in the night of a gap) there is one.
"""

import re
from calendar import monthrange
from collections.abc import Iterator
from datetime import MAXYEAR, UTC, datetime, timedelta, timezone, tzinfo
from itertools import islice
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim, CronSimError
from dateutil.rrule import rrulestr

RECIPIENT: Final = "recipient"
"""Instead of a zone's name: each recipient's own."""

EARLIEST: Final = timezone(timedelta(hours=14))

GAP_MIN: Final = timedelta(minutes=5)
"""Between two occurrences. What people should hear more often than that is a transactional send."""

GAP_MAX: Final = timedelta(days=8 * 366)
"""Every 29 February comes at least so often. The library walks from day to day, and from a rule's last occurrence to
the year 9999: what comes more rarely would hold up the schedules of others each time."""

LOOKED_AT: Final = 1_000
LOOKED_MAX: Final = 10 * GAP_MAX
"""How many occurrences are looked at before a rule is taken, and how far. It has the same times on each of its days, so
its closest two are among them (there are 288 in a day)."""

AHEAD_MAX: Final = timedelta(days=366)
"""How far the first occurrence may lie ahead, and the start of a rule behind."""

COUNT_MAX: Final = LOOKED_AT
COUNTED_MAX: Final = timedelta(days=3_660)
"""A rule with COUNT is counted from its start each time."""

INTERVAL_MAX: Final = 1_000

CYCLE: Final = timedelta(days=146_097)
"""After 400 years the Gregorian calendar comes again, weekdays included. The library looks for an occurrence until the
year 9999, which takes seconds where there is none (every 30 February); asked as late as can be it gives up soon, once,
when the rule is checked."""

SEARCHED_MIN: Final = 100
"""Years that it looks at all the same."""

TIMES_MAX: Final = 24
"""Times of a day, where the rule's period is a month or a year: two periods are walked through each time."""

PERIODS: Final = {"WEEKLY": timedelta(weeks=1), "DAILY": timedelta(days=1), "HOURLY": timedelta(hours=1)}
MONTHS: Final = {"YEARLY": 12, "MONTHLY": 1}
FREQUENCIES: Final = (*MONTHS, *PERIODS)

NUMBERS: Final[dict[str, tuple[int, int]]] = {
    "INTERVAL": (1, INTERVAL_MAX),
    "COUNT": (1, COUNT_MAX),
    "BYMONTH": (1, 12),
    "BYMONTHDAY": (-31, 31),
    "BYYEARDAY": (-366, 366),
    "BYWEEKNO": (-53, 53),
    "BYSETPOS": (-366, 366),
    "BYHOUR": (0, 23),
    "BYMINUTE": (0, 59),
}
ALONE: Final = frozenset({"INTERVAL", "COUNT"})
ZERO: Final = frozenset({"BYHOUR", "BYMINUTE"})
"""Where 0 counts; elsewhere it means nothing."""

_DAY: Final = re.compile(r"([+-]?\d{1,2})?(?:MO|TU|WE|TH|FR|SA|SU)", re.ASCII)
_UNTIL: Final = re.compile(r"\d{8}(?:T\d{6}Z?)?", re.ASCII)
_NUMBER: Final = re.compile(r"[+-]?\d{1,4}", re.ASCII)


class RuleError(ValueError):
    """What is wrong with a rule, as a sentence for whoever wrote it."""


class Occurrence(NamedTuple):
    local: datetime
    """As clocks show it, without a zone."""
    at: datetime
    """When it is due; in the recipients' own zones, when it is due for the first of them."""


class Calendar(msgspec.Struct, frozen=True, kw_only=True):
    """A rule and the zone in which its local times are read."""

    starts_at: datetime
    """DTSTART: local, to the second. It is an occurrence only if the rule says so."""
    zone: str
    """An IANA name, or RECIPIENT."""
    rrule: str | None = None
    cron: str | None = None
    """One of the two. Of cron's times none lies before `starts_at`."""

    def instant(self, local: datetime) -> datetime:
        return instant(local, EARLIEST if self.zone == RECIPIENT else zone_of(self.zone))

    def locals_after(self, local: datetime | None = None, *, endless: bool = False) -> Iterator[datetime]:
        """The rule's local times behind this one (all if it is None). `endless`: whatever UNTIL says."""
        if self.rrule is not None:
            return _by_rrule(self.rrule, self.starts_at, local, self.zone, endless=endless)
        return _by_cron(self.cron or "", self.starts_at, local)

    def after(self, local: datetime | None = None) -> Iterator[Occurrence]:
        """The occurrences behind this local time (all of them if it is None), in order; each later than the one before.
        Raises RuleError for a rule that is none."""
        last = None if local is None else self.instant(local)
        for next_local in self.locals_after(local):
            try:
                at = self.instant(next_local)
            except OverflowError:  # The year 9999 is over.
                return
            if last is None or at > last:
                last = at
                yield Occurrence(next_local, at)


def zone_of(name: str) -> tzinfo:
    """A zone that is not known (any more) is UTC."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return UTC


def instant(local: datetime, zone: tzinfo) -> datetime:
    """When clocks in this zone show the local time; in a gap with the offset before it, of two the first."""
    return local.replace(tzinfo=zone, fold=0).astimezone(UTC)


def first_ahead(calendar: Calendar, now: datetime) -> Occurrence:
    """The first occurrence after `now`: what was before is not made up for. Raises RuleError."""
    _check_gaps(calendar)
    # A day earlier is earlier in every zone.
    behind = now.astimezone(UTC).replace(tzinfo=None) - timedelta(days=1)
    for occurrence in calendar.after(max(behind, calendar.starts_at) - timedelta(seconds=1)):
        if occurrence.at - now > AHEAD_MAX:
            break
        if occurrence.at > now:
            return occurrence
    raise RuleError(f"Has no occurrence within {AHEAD_MAX.days} days")


def _check_gaps(calendar: Calendar) -> None:
    counted = calendar.rrule is not None and "COUNT" in _parts(calendar.rrule)
    sooner, n = calendar.starts_at, 0  # Which need not be an occurrence.
    for n, local in enumerate(islice(calendar.locals_after(endless=True), LOOKED_AT), 1):
        if n > 1 and local - sooner < GAP_MIN:
            raise RuleError(f"Occurrences must be at least {GAP_MIN // timedelta(minutes=1)} minutes apart")
        if local - sooner > GAP_MAX:
            raise RuleError("Occurrences must be at most 8 years apart")
        if counted and local - calendar.starts_at > COUNTED_MAX:
            raise RuleError("COUNT must be reached within 10 years")
        sooner = local
        if local - calendar.starts_at > LOOKED_MAX:
            return
    if not n:
        raise RuleError("Has no occurrence")
    if not counted and n < LOOKED_AT:  # It has come to an end by itself.
        raise RuleError("Occurrences must be at most 8 years apart")


def _by_cron(text: str, start: datetime, after: datetime | None) -> Iterator[datetime]:
    if not text.isascii() or len(text.split()) != 5:
        raise RuleError("Needs five fields: minute, hour, day of month, month, day of week")
    try:
        return CronSim(text, max(start - timedelta(seconds=1), after or start - timedelta(seconds=1)))
    except CronSimError as error:
        raise RuleError(str(error)) from None


def _by_rrule(text: str, start: datetime, after: datetime | None, zone: str, *, endless: bool) -> Iterator[datetime]:
    parts = _parts(text)
    until = _until(parts.pop("UNTIL", None), zone)
    if endless:
        until = None
    jumped = start
    if after is not None and "COUNT" not in parts:
        jumped = _jumped(start, after, parts["FREQ"], int(parts.get("INTERVAL", 1)))
    shift = CYCLE * max((MAXYEAR - SEARCHED_MIN - jumped.year) // 400, 0)
    try:
        rule = rrulestr(";".join(f"{key}={value}" for key, value in parts.items()), dtstart=jumped + shift)
    except ValueError as error:
        raise RuleError(f"Is not a rule: {error}") from None
    return _unshifted(iter(rule), shift, after, until)


def _jumped(start: datetime, after: datetime, frequency: str, interval: int) -> datetime:
    """Whole intervals after the start, from where the rule goes on as it would have: the last but one before `after`,
    because a week may have begun before it, and in a month that has the start's day."""
    if frequency in PERIODS:
        span = PERIODS[frequency] * interval
        return start + span * max((after - start) // span - 1, 0)
    step = MONTHS[frequency] * interval
    months = (after.year - start.year) * 12 + after.month - start.month
    for n in range(months // step - 1, 0, -1):
        years, month = divmod(start.month - 1 + n * step, 12)
        if start.day <= monthrange(start.year + years, month + 1)[1]:
            return start.replace(year=start.year + years, month=month + 1)
    return start


def _unshifted(
    shifted: Iterator[datetime], shift: timedelta, after: datetime | None, until: datetime | None
) -> Iterator[datetime]:
    for one in shifted:
        local = one - shift
        if until is not None and local > until:
            return
        if after is None or local > after:
            yield local


def _parts(text: str) -> dict[str, str]:
    """The parts of an RRULE, each in its bounds."""
    parts: dict[str, str] = {}
    for part in text.strip().upper().removeprefix("RRULE:").split(";"):
        key, _, value = part.partition("=")
        if key in parts:
            raise RuleError(f"{key} stands there twice")
        _check_part(key, value)
        parts[key] = value
    frequency = parts.get("FREQ")
    if frequency is None:
        raise RuleError("FREQ is missing")
    if "COUNT" in parts and "UNTIL" in parts:
        raise RuleError("COUNT and UNTIL exclude each other")
    times = len(set(parts.get("BYHOUR", "").split(","))) * len(set(parts.get("BYMINUTE", "").split(",")))
    if frequency in MONTHS and times > TIMES_MAX:
        raise RuleError(f"At most {TIMES_MAX} times a day in a month or a year; FREQ=DAILY may have more")
    if any(character.isdigit() for character in parts.get("BYDAY", "")) and frequency not in ("MONTHLY", "YEARLY"):
        raise RuleError("BYDAY has numbers only in a month or a year")
    return parts


def _check_part(key: str, value: str) -> None:
    values = value.split(",")
    if key == "FREQ":
        right = value in FREQUENCIES
    elif key == "UNTIL":
        right = _UNTIL.fullmatch(value) is not None
    elif key in ("BYDAY", "WKST"):
        right = all(_DAY.fullmatch(one) for one in values) and (key == "BYDAY" or len(value) == 2)
    elif key in NUMBERS:
        low, high = NUMBERS[key]
        right = all(_NUMBER.fullmatch(one) and low <= int(one) <= high for one in values)
        right = right and (key in ZERO or all(int(one) for one in values)) and (key not in ALONE or len(values) == 1)
    else:
        raise RuleError(
            f"{key[:20]!r} is not a part of it" if key else "Parts are written KEY=VALUE, with ; between them"
        )
    if not right:
        allowed = ", ".join(FREQUENCIES) if key == "FREQ" else ""
        raise RuleError(f"{key} is out of bounds" + (f": one of {allowed}" if allowed else ""))


def _until(text: str | None, zone: str) -> datetime | None:
    """The last local time; a day includes all of its hours, and one in UTC is read in the zone."""
    if text is None:
        return None
    try:
        if len(text) == 8:
            return datetime.strptime(text + "235959", "%Y%m%d%H%M%S")  # noqa: DTZ007 - local by meaning
        read = datetime.strptime(text[:15], "%Y%m%dT%H%M%S")  # noqa: DTZ007
        if not text.endswith("Z"):
            return read
        there = EARLIEST if zone == RECIPIENT else zone_of(zone)
        return read.replace(tzinfo=UTC).astimezone(there).replace(tzinfo=None)
    except (ValueError, OverflowError):
        raise RuleError("UNTIL is not a time") from None
