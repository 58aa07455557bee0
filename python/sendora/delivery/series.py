"""Sends that come again: a schedule is a rule, each occurrence a send of its own.

There is one occurrence ahead at any time: a row of `sends` like any other, scheduled, listed, cancelled by itself. When
it is due its schedule goes on to the next, in one transaction and under the schedule's lock, and only then may it
start.

An occurrence's id is made of its schedule and its time, and the id's own time is that of the occurrence before it:
about when its row is made, never ahead of the clock. So whoever makes it makes the same one (F-S2).

Occurrences that were due while nobody looked are not made up for: the latest one is started, as late as it is, and its
lifetime, counted from when it was due, decides who still gets it; the ones before it are skipped and counted (F-S3).
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from hashlib import sha256
from itertools import islice
from typing import Any, Final
from uuid import UUID

import msgspec
from asyncpg import Record

from sendora.delivery import store
from sendora.delivery.phases import Send, Submission
from sendora.delivery.recurrence import RECIPIENT, Calendar, Occurrence, RuleError
from sendora.delivery.submit import WAKE_ACCOUNT, WAKE_PLAN, WAKE_SCHEDULE
from sendora.kernel.clock import millis
from sendora.kernel.errors import Conflict, NotFound, Unavailable
from sendora.kernel.ids import TIME_SHIFT, OrgId, ProjectId, ScheduleId, SendId, id_millis, new_id
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Connection
from sendora.kernel.wire import Listed, Page

ADVANCE_MAX: Final = 100
"""Schedules that go on in one transaction."""

ACTIVE_MAX: Final = 1_000
"""Schedules of one project and channel that go on at the same time."""

UPCOMING: Final = 5
"""Occurrences of one schedule that are told ahead."""

SKIPPED: Final = "Nobody looked when it was due, and a later occurrence of its schedule was due as well."


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `schedules`."""

    org: OrgId
    id: ScheduleId
    project: ProjectId
    channel: str
    status: str
    """active | ended (no occurrence is left, or nobody whom it is for) | cancelled"""
    asked: Submission
    """What every occurrence submits."""
    calendar: Calendar
    next: Occurrence
    """The one ahead, or the last one."""
    next_send: SendId
    skipped: int
    created_at: datetime
    ended_at: datetime | None

    def upcoming(self) -> Sequence[Occurrence]:
        """The occurrence ahead and those after it; none when the schedule is over."""
        if self.status != "active":
            return []
        return [self.next, *islice(self.calendar.after(self.next.local), UPCOMING - 1)]


async def begin(kernel: Kernel, asked: Submission, calendar: Calendar, first: Occurrence) -> Send:
    """Commit a schedule and its first occurrence; answers with that send."""
    log_position = await kernel.bus.head()
    schedule = ScheduleId(new_id())
    occurrence = occurrence_id(schedule, id_millis(schedule), first)
    async with kernel.db.transaction() as connection:
        row = await connection.fetchrow(
            store.SQL.insert_schedule,
            asked.org,
            schedule,
            asked.project,
            asked.channel,
            msgspec.to_builtins(asked),
            calendar.starts_at,
            calendar.zone,
            calendar.rrule,
            calendar.cron,
            first.local,
            first.at,
            occurrence,
        )
        send = await _occur(connection, _schedule(row), occurrence, first, log_position)
    await kernel.bus.wake(WAKE_SCHEDULE)
    await kernel.bus.wake(WAKE_ACCOUNT)
    return send


async def is_full(kernel: Kernel, org: OrgId, project: ProjectId, channel: str) -> bool:
    """Whether the project has as many active schedules as it may have."""
    active: int = await kernel.db.fetchval(store.SQL.count_schedules, org, project, channel, "active")
    return active >= ACTIVE_MAX


async def find(kernel: Kernel, org: OrgId, schedule: ScheduleId, *, project: ProjectId, channel: str) -> Schedule:
    """Raises NotFound for one that is missing or belongs to another project (C03)."""
    row = await kernel.db.fetchrow(store.SQL.find_schedule, org, schedule, project, channel)
    if row is None:
        raise NotFound("Schedule")
    return _schedule(row)


async def list_schedules(
    kernel: Kernel, org: OrgId, project: ProjectId, channel: str, *, page: Page, status: str | None = None
) -> Listed[Schedule]:
    """The newest first."""
    key = (org, project, channel, status)
    total: int = await kernel.db.fetchval(store.SQL.count_schedules, *key)
    rows = await kernel.db.fetch(store.SQL.list_schedules, *key, page.size, page.offset)
    return Listed([_schedule(row) for row in rows], total)


async def end(kernel: Kernel, org: OrgId, schedule: ScheduleId, *, project: ProjectId, channel: str) -> Schedule:
    """Cancel a schedule and with it the occurrence ahead; those that have started go on. Raises NotFound, and Conflict
    for one that is over."""
    await find(kernel, org, schedule, project=project, channel=channel)
    async with kernel.db.transaction() as connection:
        row = await connection.fetchrow(store.SQL.end_schedule, org, schedule, "cancelled", 0)
        if row is not None:
            await store.cancel_send(connection, org, SendId(row["next_send"]))
    if row is not None:
        await kernel.bus.wake(WAKE_ACCOUNT)
    found = await find(kernel, org, schedule, project=project, channel=channel)
    if row is None:
        raise Conflict(f"A schedule that is {found.status} cannot be cancelled.", f"already_{found.status}")
    return found


async def advance(kernel: Kernel) -> int:
    """Every schedule whose occurrence is due goes on to the next one; how many."""
    gone = 0
    while True:
        log_position = 0
        with suppress(Unavailable):  # As for any send that is due: it goes out without the log.
            log_position = await kernel.bus.head()
        skipped = 0
        async with kernel.db.transaction() as connection:
            rows = await connection.fetch(store.SQL.due_schedules, ADVANCE_MAX)
            for row in rows:
                skipped += await _go_on(kernel, connection, _schedule(row), row["now"], log_position)
        gone += len(rows)
        if rows:
            await kernel.bus.wake(WAKE_ACCOUNT)
        if skipped:  # Then the latest of them is queued already.
            kernel.log.warning("schedule.skipped", occurrences=skipped)
            await kernel.bus.wake(WAKE_PLAN)
        if len(rows) < ADVANCE_MAX:
            return gone


async def _go_on(kernel: Kernel, connection: Connection, schedule: Schedule, now: datetime, log_position: int) -> int:
    """Make the occurrence after `now`, or end the schedule; how many were skipped."""
    try:
        # In a thread: after a long night of nobody looking there are thousands to pass over.
        before, latest, following, skipped = await asyncio.to_thread(_around, schedule, now)
    except RuleError as error:  # A version of the library reads it otherwise; it must not hold up the others.
        kernel.log.error("schedule.unreadable", schedule=str(schedule.id), error=str(error))
        before, latest, following, skipped = schedule.next, schedule.next, None, 0
    if skipped:
        await store.cancel_send(connection, schedule.org, schedule.next_send, error=SKIPPED)
        await _occur(connection, schedule, occurrence_id(schedule.id, millis(before.at), latest), latest, log_position)
    if following is None:
        await connection.execute(store.SQL.end_schedule, schedule.org, schedule.id, "ended", skipped)
        return skipped
    occurrence = occurrence_id(schedule.id, millis(latest.at), following)
    await _occur(connection, schedule, occurrence, following, log_position)
    await connection.execute(
        store.SQL.go_on, schedule.org, schedule.id, following.local, following.at, occurrence, skipped
    )
    return skipped


def _around(schedule: Schedule, now: datetime) -> tuple[Occurrence, Occurrence, Occurrence | None, int]:
    """The last occurrence that is due and the one before it, the first that is not, and how many more were due. Raises
    RuleError."""
    before, latest, skipped = schedule.next, schedule.next, 0
    for one in schedule.calendar.after(schedule.next.local):
        if one.at > now:
            return before, latest, one, skipped
        before, latest, skipped = latest, one, skipped + 1
    return before, latest, None, skipped


async def _occur(
    connection: Connection, schedule: Schedule, send: SendId, occurrence: Occurrence, log_position: int
) -> Send:
    asked = msgspec.structs.replace(
        schedule.asked,
        scheduled_for=occurrence.at,
        local_at=occurrence.local if schedule.calendar.zone == RECIPIENT else None,
        schedule_id=schedule.id,
    )
    return await store.insert_send(connection, schedule.org, send, asked, log_position)


def occurrence_id(schedule: ScheduleId, made_ms: int, occurrence: Occurrence) -> SendId:
    """A UUIDv7 of the time at which it is made, with the digest of schedule and occurrence in place of chance."""
    digest = sha256(schedule.bytes + millis(occurrence.at).to_bytes(8, "big", signed=True)).digest()
    chance = int.from_bytes(digest[:10], "big")
    return SendId(UUID(int=made_ms << TIME_SHIFT | chance & ~(0xF << 76 | 0x3 << 62) | 0x7 << 76 | 0x2 << 62))


def _schedule(row: Record | None) -> Schedule:
    if row is None:
        raise RuntimeError("RETURNING gave no row")
    asked: dict[str, Any] = row["asked"]
    return Schedule(
        org=row["org_id"],
        id=row["id"],
        project=row["project_id"],
        channel=row["channel"],
        status=row["status"],
        asked=msgspec.convert(asked, Submission),
        calendar=Calendar(starts_at=row["starts_at"], zone=row["zone"], rrule=row["rrule"], cron=row["cron"]),
        next=Occurrence(row["next_local"], row["next_at"]),
        next_send=row["next_send"],
        skipped=row["skipped"],
        created_at=row["created_at"],
        ended_at=row["ended_at"],
    )
