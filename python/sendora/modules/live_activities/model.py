"""Live Activities (iOS) and Live Updates (Android): what may be said, and the rules that need nothing else. Pure.

An activity is `starting` (asked for by push, the device has not said anything yet), `active` (the device has told its
token), and then over: `ended` by the API, `expired` after its longest life, or `invalidated`, because its token is dead
or because the start never reached a device.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from sendora.kernel.clock import millis
from sendora.kernel.ids import OrgId, ProjectId
from sendora.kernel.wire import Wire, WireIn

Platform = Literal["ios", "android"]
Environment = Literal["production", "sandbox"]
Status = Literal["starting", "active", "ended", "expired", "invalidated"]
Event = Literal["start", "update", "end"]

LIVING: Final = ("starting", "active")

USERS_MAX: Final = 10_000
"""People of one start, as of a push that names people."""

TOKEN_MAX: Final = 2_000
"""PostgreSQL indexes at most 2,704 bytes of one."""

LIFE: Final = timedelta(hours=8)
"""Apple: after eight hours the system ends an activity by itself. Android has no such bound; ours is the same, so that
an update that nobody ended does not stand there for ever."""

LINGER: Final = timedelta(hours=4)
"""Apple: so long an activity that is over may stay on the Lock Screen."""

START_TTL: Final = timedelta(hours=1)
"""How long a start may wait for its device; what began an hour ago is no news."""

START_WAIT: Final = START_TTL + timedelta(minutes=10)
"""After this an activity that was started by push and of which no device has said anything has never begun."""

TTL_MIN_S: Final = 60
"""An update just before the end of a life still needs a moment to be planned and sent."""

URGENT_PER_HOUR: Final = 12
"""Updates without an alert that go out as priority 10, of each activity within an hour (one in five minutes); what
comes beyond goes as priority 5. Apple counts priority 10 against an allowance that it does not publish and throttles
whoever exceeds it; priority 5 is not counted (providers.md 1.8). An update with an alert is always priority 10, and
counts."""

HOUR_S: Final = 3_600

ANY_NUMBER: Final = 1.7976931348623157e308

Id = Annotated[str, Meta(min_length=1, max_length=256)]
Token = Annotated[str, Meta(min_length=1, max_length=TOKEN_MAX)]
Instant = Annotated[datetime, Meta(tz=True)]


class Alert(WireIn, frozen=True, kw_only=True):
    """What lights up the screen with an update."""

    title: Annotated[str, Meta(min_length=1, max_length=1_000)]
    body: Annotated[str, Meta(max_length=4_000)]


class StartTokenIn(WireIn, frozen=True, kw_only=True):
    """Body of `POST /push/live-activities/start-token` (B129, C41)."""

    user_id: Id
    activity_type: Id
    external_id: Id
    push_token: Token
    platform: Platform = "ios"
    environment: Environment | None = None
    bundle_id: Annotated[str, Meta(max_length=155)] | None = None


class StarterIn(WireIn, frozen=True, kw_only=True):
    """Body of `POST /push/live-activities/push-to-start-token`."""

    user_id: Id
    activity_type: Id
    push_token: Token
    device_id: Id | None = None
    platform: Literal["ios"] = "ios"
    environment: Environment | None = None
    bundle_id: Annotated[str, Meta(max_length=155)] | None = None


class UpdateIn(WireIn, frozen=True, kw_only=True):
    """Body of `PATCH /push/live-activities/{id}/update`."""

    content_state: dict[str, Any]
    alert: Alert | None = None
    stale_date: Instant | None = None
    relevance_score: Annotated[float, Meta(ge=-ANY_NUMBER, le=ANY_NUMBER)] | None = None
    """Higher wins the Dynamic Island; any number."""


class EndIn(WireIn, frozen=True, kw_only=True):
    """Body of `DELETE /push/live-activities/{id}`; all of it optional."""

    content_state: dict[str, Any] | None = None
    dismissal_date: Instant | None = None
    """When it leaves the Lock Screen: at once for a time that has passed, after four hours at the latest."""


class StartIn(WireIn, frozen=True, kw_only=True):
    """Body of `POST /push/live-activities`. The app finds its `externalId` again only if it stands in `attributes`: a
    payload's other parts are not shown to it."""

    user_ids: Annotated[list[Id], Meta(min_length=1, max_length=USERS_MAX)]
    activity_type: Id
    external_id: Id
    attributes: dict[str, Any]
    content_state: dict[str, Any]
    alert: Alert
    stale_date: Instant | None = None


class Said(Wire, frozen=True, kw_only=True):
    """What one payload says."""

    event: Event
    stamp: int
    """`timestamp`, in seconds since 1970: devices show the newest and nothing older (providers.md 1.8)."""
    urgent: bool
    content_state: dict[str, Any] | None = None
    alert: Alert | None = None
    stale_s: int | None = None
    dismiss_s: int | None = None
    relevance: float | None = None
    attributes_type: str | None = None
    attributes: dict[str, Any] | None = None


class Content(Wire, frozen=True, kw_only=True):
    """`sends.content`: which update it is. Neither for a start, which goes by the send's own id."""

    activity: UUID | None = None
    stamp: int | None = None


class Target(Wire, frozen=True, kw_only=True):
    """`sends.target`: activities, which name nobody, and how many people had no token to start one with."""

    activities: list[UUID]
    unreachable: int = 0


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `live_activities`."""

    org: OrgId
    id: UUID
    project: ProjectId
    user_id: str
    activity_type: str
    external_id: str
    platform: Platform
    token: str | None
    environment: Environment
    status: Status
    reason: str | None
    stamp: int
    content_state: dict[str, Any] | None
    start_send: UUID | None
    told: Status
    created_at: datetime
    started_at: datetime | None
    updated_at: datetime
    ended_at: datetime | None


class Registered(Wire, frozen=True, kw_only=True):
    """The answer to a registration. No more than this: public keys may ask."""

    id: UUID
    status: Status


class StarterRegistered(Wire, frozen=True, kw_only=True):
    id: UUID


class ActivityShown(Wire, frozen=True, kw_only=True):
    """An activity as the list shows it; never its token."""

    id: UUID
    user_id: str
    activity_type: str
    external_id: str
    platform: Platform
    environment: Environment
    status: Status
    reason: str | None
    content_state: dict[str, Any] | None
    timestamp: int
    created_at: str
    started_at: str | None
    updated_at: str
    ended_at: str | None


class Updated(Wire, frozen=True, kw_only=True):
    """The answer to an update. `sendId` leads to its reconciliation; `priority` is what it goes out with."""

    id: UUID
    status: Status
    content_state: dict[str, Any]
    send_id: UUID
    timestamp: int
    priority: int


class Ended(Wire, frozen=True, kw_only=True):
    """The answer to an end; `sendId` is null for an activity that was over already."""

    id: UUID
    status: Status
    send_id: UUID | None


class Started(Wire, frozen=True, kw_only=True):
    """The answer to a start: `id` is the send's."""

    id: UUID
    status: str
    token_count: int


Verb = Literal["rotate", "revive", "attach", "keep", "begin"]


def resolve(rows: Sequence[Activity], token: str) -> tuple[Verb, Activity | None]:
    """What a registration means, by all activities under its (userId, activityType, externalId) (B129).

    `rotate`: the one that lives gets this token, also when it was only starting. `revive`: its token was called dead
    and its device says that it is not. `attach`: it was ended before its device had said anything; now the end can
    reach it. `keep`: a late word of one that is over. `begin`: a new one.
    """
    newest_first = sorted(rows, key=lambda row: row.id, reverse=True)
    same = [row for row in newest_first if row.token == token]
    living = [row for row in newest_first if row.status in LIVING]
    for row in (*(one for one in same if one.status in LIVING), *living):
        return "rotate", row
    for row in same:
        return ("revive" if row.status == "invalidated" else "keep"), row
    for row in newest_first[:1]:
        if row.token is None and row.status in ("ended", "expired"):
            return "attach", row
    return "begin", None


def is_urgent(alert: Alert | None, urgent_lately: int) -> bool:
    """Priority 10 or 5; `urgent_lately`: how many of the activity's went out as 10 within the last hour."""
    return alert is not None or urgent_lately < URGENT_PER_HOUR


def seconds(at: datetime | None) -> int | None:
    """A date as Apple takes it: whole seconds since 1970. Any that can be written, also one that has no UTC."""
    return None if at is None else max(millis(at) // 1_000, 0)


def ttl_s(activity: Activity, event: Event, now: datetime) -> int:
    """Seconds for which a payload is still worth delivering: until the activity's life is over, and its end for as long
    as it may stay on the Lock Screen."""
    until = (activity.started_at or activity.created_at) + LIFE + (LINGER if event == "end" else timedelta())
    return max(int((until - now).total_seconds()), TTL_MIN_S)


def untold(activity: Activity) -> list[Status]:
    """The statuses that the stream has not been told of, in their order (B131)."""
    if activity.told == activity.status:
        return []
    unheard = activity.told == "starting" and activity.started_at is not None and activity.status != "active"
    return ["active", activity.status] if unheard else [activity.status]


def to_row(struct: Content | Target) -> dict[str, Any]:
    """As jsonb: what was not said is left out."""
    built: dict[str, Any] = msgspec.to_builtins(struct)
    return {key: value for key, value in built.items() if value is not None}
