"""Registering, updating, ending and starting: each one transaction, and a send in it where something is to be said."""

from typing import Final
from uuid import UUID

import msgspec

from sendora.delivery import submit as delivery
from sendora.delivery.phases import Delivery, Send, Submission
from sendora.kernel.errors import Conflict, NotFound, PreconditionFailed, Unavailable, ValidationFailed
from sendora.kernel.http import Principal, take
from sendora.kernel.ids import OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Connection
from sendora.kernel.wire import Listed, Page
from sendora.modules import push
from sendora.modules.live_activities import payload, store
from sendora.modules.live_activities.channel import NAME
from sendora.modules.live_activities.model import (
    START_TTL,
    Activity,
    Content,
    Ended,
    EndIn,
    Registered,
    Said,
    Started,
    StarterIn,
    StarterRegistered,
    StartIn,
    StartTokenIn,
    Status,
    Target,
    Updated,
    UpdateIn,
    is_urgent,
    resolve,
    seconds,
    to_row,
    ttl_s,
)

ROUNDS_MAX: Final = 5
"""An activity that a start makes between our look and our insert is found in the next round."""

MOVED: Final = "token_moved"
"""`reason` of an activity whose token was registered for another one."""

API: Final = "api"
"""`reason` of one that was ended by DELETE."""

NOT_CONFIGURED: Final = "Starting by push needs an APNs credential: store one first."


async def register(kernel: Kernel, principal: Principal, said: StartTokenIn) -> Registered:
    """B129: the token of (userId, activityType, externalId); a newer one replaces it. Whoever registers a token has it,
    as with a device's (B082): the activity that had it before is invalidated."""
    said = msgspec.structs.replace(said, push_token=_token(said.push_token, said.platform, said.bundle_id))
    org, project = principal.org, principal.project
    for _ in range(ROUNDS_MAX):
        async with kernel.db.transaction() as connection:
            activity = await _register(connection, org, project, said)
        if activity is not None:
            return Registered(id=activity.id, status=activity.status)
    raise Unavailable


async def register_starter(kernel: Kernel, principal: Principal, said: StarterIn) -> StarterRegistered:
    said = msgspec.structs.replace(said, push_token=_token(said.push_token, said.platform, said.bundle_id))
    org, project = principal.org, principal.project
    async with kernel.db.transaction() as connection:
        person = await store.person(connection, org, project, said.user_id)
        await store.claim(connection, org, said.push_token)
        return StarterRegistered(id=await store.put_starter(connection, org, project, person, said))


async def update(kernel: Kernel, principal: Principal, id_: UUID, data: UpdateIn) -> Updated:
    """B130. What is answered is committed: the state, its place in the order, and the send that carries it."""
    found = await _find(kernel, principal, id_)
    said = Said(
        event="update",
        stamp=found.stamp,
        urgent=True,
        content_state=data.content_state,
        alert=data.alert,
        stale_s=seconds(data.stale_date),
        relevance=data.relevance_score,
    )
    _check_size(said, found)
    async with kernel.db.transaction() as connection:
        activity = await store.advance(connection, principal.org, principal.project, id_, data.content_state)
        if activity is not None:
            said, send = await _say(kernel, connection, activity, said)
    if activity is None:
        over = await _find(kernel, principal, id_)
        raise Conflict(f"An activity that is {over.status} takes no updates.", over.status)
    await delivery.wake(kernel, send)
    return Updated(
        id=id_,
        status=activity.status,
        content_state=data.content_state,
        send_id=send.id,
        timestamp=said.stamp,
        priority=10 if said.urgent else 5,
    )


async def end(kernel: Kernel, principal: Principal, id_: UUID, data: EndIn) -> Ended:
    """B132. One that is over stays as it is: asking twice ends it once."""
    found = await _find(kernel, principal, id_)
    _check_size(_final(found, data), found)
    async with kernel.db.transaction() as connection:
        ended = await finish(kernel, connection, principal.org, principal.project, id_, data)
    if ended is None:
        over = await _find(kernel, principal, id_)
        return Ended(id=id_, status=over.status, send_id=None)
    activity, send = ended
    await delivery.wake(kernel, send)
    return Ended(id=id_, status=activity.status, send_id=send.id)


async def finish(
    kernel: Kernel,
    connection: Connection,
    org: OrgId,
    project: ProjectId,
    id_: UUID,
    data: EndIn,
    *,
    over: Status = "ended",
    reason: str = API,
) -> tuple[Activity, Send] | None:
    """In the caller's transaction; None when it is over already. Without a state of its own the end repeats the last
    one, since the system shows what the end says."""
    activity = await store.advance(connection, org, project, id_, data.content_state, over=over, reason=reason)
    if activity is None:
        return None
    _, send = await _say(kernel, connection, activity, _final(activity, data))
    return activity, send


async def start(kernel: Kernel, principal: Principal, data: StartIn) -> Started:
    """At most one activity for each person, activityType and externalId: whoever has one, or had one, gets none. It
    goes to the person's device that registered last. 412 comes before anything is counted or written (B030)."""
    said = Said(
        event="start",
        stamp=0,
        urgent=True,
        content_state=data.content_state,
        alert=data.alert,
        stale_s=seconds(data.stale_date),
        attributes_type=data.activity_type,
        attributes=data.attributes,
    )
    payload.check_size(said, None)
    org, project = principal.org, principal.project
    if not await push.is_configured(kernel, org, project, "apns"):
        raise PreconditionFailed(NOT_CONFIGURED, "push_not_configured")
    await take(kernel, principal)
    async with kernel.db.transaction() as connection:
        said = msgspec.structs.replace(said, stamp=await store.second(connection))
        users = list(dict.fromkeys(data.user_ids))
        named = await store.startable(connection, org, project, users, data.activity_type, data.external_id)
        whom = [(one.person, one.starter) for one in named if one.starter is not None and not one.was_there]
        activities = await store.start(connection, org, project, data.activity_type, data.external_id, said, whom)
        unreachable = sum(one.starter is None and not one.was_there for one in named)
        send = await delivery.place(
            connection,
            _submission(
                org,
                project,
                Content(),
                Target(activities=activities, unreachable=unreachable),
                int(START_TTL.total_seconds()),
                "at_most_once",
            ),
        )
        if activities:
            await store.keep_start(connection, org, activities, send.id, said)
    await delivery.wake(kernel, send)
    return Started(id=send.id, status=send.status, token_count=len(activities))


async def listed(
    kernel: Kernel, principal: Principal, status: Status, user_id: str | None, page: Page
) -> Listed[Activity]:
    """A user's are those of everybody the user has taken over as well (C69)."""
    org, project = principal.org, principal.project
    users = None if user_id is None else (await store.person(kernel.db, org, project, user_id)).names
    return await store.listed(kernel.db, org, project, status, users, page)


async def _register(connection: Connection, org: OrgId, project: ProjectId, said: StartTokenIn) -> Activity | None:
    """None: look again, a start was faster."""
    person = await store.person(connection, org, project, said.user_id)
    key = "|".join((str(project), person.id, said.activity_type, said.external_id))
    await store.claim(connection, org, said.push_token, key)
    rows = await store.involved(connection, org, project, person.names, said)
    ours = [row for row in rows if _is_of(row, project, person, said)]
    verb, row = resolve(ours, said.push_token)
    if verb == "keep":
        return row
    await store.move_token(connection, org, said.push_token, None if row is None else row.id, MOVED)
    if row is None:
        return await store.begin(connection, org, project, person.id, said)
    return await store.register(connection, org, row.id, said, lives=verb != "attach")


def _is_of(row: Activity, project: ProjectId, person: store.Person, said: StartTokenIn) -> bool:
    same = (row.project, row.activity_type, row.external_id) == (project, said.activity_type, said.external_id)
    return same and row.user_id in person.names


async def _say(kernel: Kernel, connection: Connection, activity: Activity, said: Said) -> tuple[Said, Send]:
    """The row of an update or an end, and the send that refers to it. The activity has just been advanced."""
    urgent = is_urgent(said.alert, await store.urgent_lately(connection, activity))
    said = msgspec.structs.replace(said, stamp=activity.stamp, urgent=urgent)
    send = await delivery.place(
        connection,
        _submission(
            activity.org,
            activity.project,
            Content(activity=activity.id, stamp=said.stamp),
            Target(activities=[activity.id]),
            ttl_s(activity, said.event, kernel.clock.now()),
            "at_least_once",
        ),
    )
    await store.insert_update(connection, activity, send.id, said)
    return said, send


def _submission(
    org: OrgId, project: ProjectId, content: Content, target: Target, ttl_s: int, repeats: Delivery
) -> Submission:
    """Somebody waits for it, so it overtakes broadcasts. An update may come twice, its timestamp is the same; a start
    that came twice would be two activities."""
    return Submission(
        org=org,
        project=project,
        channel=NAME,
        class_="now",
        delivery=repeats,
        target=to_row(target),
        content=to_row(content),
        scheduled_for=None,
        ttl_s=ttl_s,
        token_count=len(target.activities),
    )


def _final(activity: Activity, data: EndIn) -> Said:
    return Said(
        event="end",
        stamp=activity.stamp,
        urgent=True,
        content_state=activity.content_state if data.content_state is None else data.content_state,
        dismiss_s=seconds(data.dismissal_date),
    )


async def _find(kernel: Kernel, principal: Principal, id_: UUID) -> Activity:
    found = await store.find(kernel.db, principal.org, principal.project, id_)
    if found is None:
        raise NotFound("Live activity")
    return found


def _check_size(said: Said, activity: Activity) -> None:
    named = payload.Named(id=activity.id, activity_type=activity.activity_type, external_id=activity.external_id)
    payload.check_size(said, named if activity.platform == "android" else None)


def _token(token: str, platform: str, bundle_id: str | None) -> str:
    """As it stands in the table; raises ValidationFailed for what no provider would take."""
    errors = push.address_errors("pushToken", token, platform)
    if bundle_id is not None and not push.BUNDLE_ID.fullmatch(bundle_id):
        errors["bundleId"] = ["Not a bundle id"]
    if errors:
        raise ValidationFailed(errors)
    return push.canonical(token) if platform == "ios" else token
