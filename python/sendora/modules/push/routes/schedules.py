"""Schedules over HTTP: see the sends that come again, and end one. `POST /push/send` begins one."""

import asyncio

import msgspec

from sendora.delivery import series
from sendora.delivery.series import Schedule
from sendora.kernel.clock import iso
from sendora.kernel.errors import Conflict, NotFound
from sendora.kernel.http import Paged, Principal, delete, get
from sendora.kernel.ids import ScheduleId, parse_id
from sendora.kernel.life import Kernel
from sendora.kernel.wire import Page
from sendora.modules.push.channel import NAME
from sendora.modules.push.model.schedules import ScheduleCancelled, ScheduleShown, ScheduleStatus
from sendora.modules.push.model.sends import Content, Target


@get("/push/schedules", scope="push:read", operation="listSchedules", summary="List schedules")
async def list_schedules(
    kernel: Kernel, principal: Principal, page: Page, status: ScheduleStatus | None = None
) -> Paged[ScheduleShown]:
    """The newest first."""
    listed = await series.list_schedules(kernel, principal.org, principal.project, NAME, page=page, status=status)
    # In a thread, here and below: each rule is worked out.
    shown = await asyncio.to_thread(lambda: [_shown(schedule) for schedule in listed.rows])
    return Paged(shown, page.pagination(listed.total))


@get("/push/schedules/{schedule_id}", scope="push:read", operation="getSchedule", summary="Get a schedule")
async def get_schedule(kernel: Kernel, principal: Principal, schedule_id: str) -> ScheduleShown:
    """Its rule, the occurrence ahead, and the next few instants. Its sends carry its id as `scheduleId`."""
    found = await series.find(kernel, principal.org, _id(schedule_id), project=principal.project, channel=NAME)
    return await asyncio.to_thread(_shown, found)


@delete(
    "/push/schedules/{schedule_id}",
    scope="push:send",
    raises=(Conflict,),
    operation="cancelSchedule",
    summary="End a schedule",
)
async def cancel_schedule(kernel: Kernel, principal: Principal, schedule_id: str) -> ScheduleCancelled:
    """No occurrence comes any more, and the one ahead is cancelled; those that have started go on. 409 for a schedule
    that is over."""
    ended = await series.end(kernel, principal.org, _id(schedule_id), project=principal.project, channel=NAME)
    return ScheduleCancelled(id=ended.id, status=ended.status)


def _id(text: str) -> ScheduleId:
    parsed = parse_id(text)
    if parsed is None:
        raise NotFound("Schedule")
    return ScheduleId(parsed)


def _shown(schedule: Schedule) -> ScheduleShown:
    content = msgspec.convert(schedule.asked.content, Content)
    target = msgspec.convert(schedule.asked.target, Target)
    calendar = schedule.calendar
    upcoming = schedule.upcoming()
    return ScheduleShown(
        id=schedule.id,
        status=schedule.status,
        at=calendar.starts_at.isoformat(),
        zone=calendar.zone,
        rrule=calendar.rrule,
        cron=calendar.cron,
        next_at=iso(upcoming[0].at) if upcoming else None,
        next_send_id=schedule.next_send if upcoming else None,
        upcoming=[iso(occurrence.at) for occurrence in upcoming],
        skipped=schedule.skipped,
        title=content.title,
        body=content.body,
        audience_id=target.audience_id,
        exclude_audience_ids=target.exclude_audience_ids or [],
        template_id=content.template_id,
        ab_test_id=content.ab_test_id,
        created_at=iso(schedule.created_at),
        ended_at=None if schedule.ended_at is None else iso(schedule.ended_at),
    )


ROUTES = (list_schedules, get_schedule, cancel_schedule)
