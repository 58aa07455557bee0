"""When a send goes out: `schedule` of `POST /push/send`, and the series that a rule makes of it."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from sendora.delivery.recurrence import (
    AHEAD_MAX,
    EARLIEST,
    RECIPIENT,
    Calendar,
    Occurrence,
    RuleError,
    first_ahead,
    instant,
    zone_of,
)
from sendora.kernel.wire import Wire, WireIn
from sendora.modules.push.model.content import FieldErrors
from sendora.modules.push.model.tokens import zones

_LOCAL: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2})?", re.ASCII)

ScheduleStatus = Literal["active", "ended", "cancelled"]


class ScheduleIn(WireIn, frozen=True, kw_only=True):
    """`schedule`, instead of `scheduledFor`: a local time, and in whose zone; `rrule` or `cron` let it come again."""

    at: Annotated[str, Meta(max_length=19)] | None = None
    """2026-12-01T09:00 or with seconds. With `cron` it may be left out, and means from now on."""
    zone: Annotated[str, Meta(min_length=1, max_length=64)]
    rrule: Annotated[str, Meta(min_length=1, max_length=500)] | None = None
    cron: Annotated[str, Meta(min_length=1, max_length=100)] | None = None


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """A `schedule` that was understood."""

    first: Occurrence
    own_zone: bool
    calendar: Calendar | None
    """None: it does not come again."""


class ScheduleShown(Wire, frozen=True, kw_only=True):
    id: UUID
    status: str
    at: str
    """Local."""
    zone: str
    rrule: str | None
    cron: str | None
    next_at: str | None
    """When the occurrence ahead is due, null when the schedule is over. In the recipients' own zones: for the first."""
    next_send_id: UUID | None
    upcoming: Sequence[str]
    """The occurrence ahead and the four after it. In the recipients' own zones: when each is due for the first."""
    skipped: int
    """Occurrences that were due while nobody looked, and a later one with them."""
    title: str | None
    body: str | None
    audience_id: UUID | None
    exclude_audience_ids: list[UUID]
    template_id: UUID | None
    ab_test_id: UUID | None
    created_at: str
    ended_at: str | None


class ScheduleCancelled(Wire, frozen=True, kw_only=True):
    id: UUID
    status: str


def due_of(given: ScheduleIn, now: datetime) -> Due | FieldErrors:
    """When it is due, or what is wrong with it. Finding that a rule has no occurrence may take half a second."""
    errors: FieldErrors = {}
    own_zone = given.zone == RECIPIENT
    if not own_zone and given.zone not in zones():
        errors["schedule.zone"] = [f"Neither an IANA time zone nor {RECIPIENT!r}"]
    if given.rrule is not None and given.cron is not None:
        errors["schedule.cron"] = ["Give rrule or cron"]
    zone = EARLIEST if own_zone else zone_of(given.zone)
    at = _local(given, now.astimezone(zone).replace(microsecond=0, tzinfo=None))
    if at is None:
        errors["schedule.at"] = ["Needs a local time without a zone, 2026-12-01T09:00"]
    elif abs(at - now.astimezone(UTC).replace(tzinfo=None)) > AHEAD_MAX:
        errors["schedule.at"] = [f"At most {AHEAD_MAX.days} days away"]
    if errors or at is None:
        return errors
    if given.rrule is None and given.cron is None:
        return Due(first=Occurrence(at, instant(at, zone)), own_zone=own_zone, calendar=None)
    calendar = Calendar(starts_at=at, zone=given.zone, rrule=given.rrule, cron=given.cron)
    try:
        return Due(first=first_ahead(calendar, now), own_zone=own_zone, calendar=calendar)
    except RuleError as error:
        return {"schedule.rrule" if given.cron is None else "schedule.cron": [str(error)]}


def _local(given: ScheduleIn, now: datetime) -> datetime | None:
    if given.at is None:
        return now if given.cron is not None else None
    try:
        return datetime.fromisoformat(given.at) if _LOCAL.fullmatch(given.at) else None
    except ValueError:
        return None
