"""Live Activities over HTTP: Growth and up, each of them (B042, C17)."""

from uuid import UUID

from sendora.kernel.clock import iso
from sendora.kernel.errors import Conflict, NotFound, PreconditionFailed
from sendora.kernel.http import Paged, Principal, delete, get, patch, post
from sendora.kernel.ids import parse_id
from sendora.kernel.life import Kernel
from sendora.kernel.wire import Page
from sendora.modules.live_activities import service
from sendora.modules.live_activities.model import (
    Activity,
    ActivityShown,
    Ended,
    EndIn,
    Registered,
    Started,
    StarterIn,
    StarterRegistered,
    StartIn,
    StartTokenIn,
    Status,
    Updated,
    UpdateIn,
)


@post(
    "/push/live-activities/start-token",
    scope=None,
    tier="growth",
    public_key=True,
    status=201,
    operation="registerLiveActivity",
    summary="Register the token of an activity",
)
async def register(kernel: Kernel, principal: Principal, data: StartTokenIn) -> Registered:
    """The app has started an activity, or its token has changed (B129, B256). The same `userId`, `activityType` and
    `externalId` are the same activity until it is over; the newest token counts."""
    return await service.register(kernel, principal, data)


@post(
    "/push/live-activities/push-to-start-token",
    scope=None,
    tier="growth",
    public_key=True,
    operation="registerPushToStart",
    summary="Register a token that activities can be started with",
)
async def register_starter(kernel: Kernel, principal: Principal, data: StarterIn) -> StarterRegistered:
    """iOS 17.2 and later. By user, device and activity type: a newer token replaces the older one."""
    return await service.register_starter(kernel, principal, data)


@get(
    "/push/live-activities",
    scope="live_activities:read",
    tier="growth",
    operation="listLiveActivities",
    summary="List activities",
)
async def list_activities(
    kernel: Kernel, principal: Principal, page: Page, user_id: str | None = None, status: Status = "active"
) -> Paged[ActivityShown]:
    """Those that live, the newest first, unless `status` asks for others (B132). What is over is kept for 30 days."""
    found = await service.listed(kernel, principal, status, user_id, page)
    return Paged([shown(one) for one in found.rows], page.pagination(found.total))


@post(
    "/push/live-activities",
    scope="push:send",
    tier="growth",
    limited=False,
    idempotent=True,
    raises=(PreconditionFailed,),
    operation="startLiveActivity",
    summary="Start an activity on people's devices",
)
async def start(kernel: Kernel, principal: Principal, data: StartIn) -> Started:
    """Through their push-to-start tokens. `id` is the send's: what became of each is told by
    `/push/sends/{id}/reconciliation`; people without a token are `unreachable` there. The activity is `starting` until
    its device has told the update token, and updates wait for that."""
    return await service.start(kernel, principal, data)


@patch(
    "/push/live-activities/{activity_id}/update",
    scope="push:send",
    tier="growth",
    idempotent=True,
    raises=(Conflict,),
    operation="updateLiveActivity",
    summary="Show a new state",
)
async def update(kernel: Kernel, principal: Principal, activity_id: str, data: UpdateIn) -> Updated:
    """B130. The latest state wins: what comes up after a newer one was delivered is dropped. With an `alert` it goes
    out as priority 10; without one too, twelve times an hour, and as priority 5 beyond."""
    return await service.update(kernel, principal, _id(activity_id), data)


@delete(
    "/push/live-activities/{activity_id}",
    scope="push:send",
    tier="growth",
    idempotent=True,
    operation="endLiveActivity",
    summary="End an activity",
)
async def end(kernel: Kernel, principal: Principal, activity_id: str, data: EndIn | None = None) -> Ended:
    """B132. With a last state, if there is one; without a `dismissalDate` iOS leaves it on the Lock Screen for up to
    four hours. One that is over already stays as it is."""
    return await service.end(kernel, principal, _id(activity_id), data or EndIn())


def shown(activity: Activity) -> ActivityShown:
    return ActivityShown(
        id=activity.id,
        user_id=activity.user_id,
        activity_type=activity.activity_type,
        external_id=activity.external_id,
        platform=activity.platform,
        environment=activity.environment,
        status=activity.status,
        reason=activity.reason,
        content_state=activity.content_state,
        timestamp=activity.stamp,
        created_at=iso(activity.created_at),
        started_at=None if activity.started_at is None else iso(activity.started_at),
        updated_at=iso(activity.updated_at),
        ended_at=None if activity.ended_at is None else iso(activity.ended_at),
    )


def _id(text: str) -> UUID:
    parsed = parse_id(text)
    if parsed is None:
        raise NotFound("Live activity")
    return parsed


ROUTES = (register, register_starter, list_activities, start, update, end)
