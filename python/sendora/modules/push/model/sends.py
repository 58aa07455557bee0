"""The request to send and the row that answers it."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from sendora.delivery.phases import Class, Delivery
from sendora.kernel.clock import EARLIEST
from sendora.kernel.wire import Wire, WireIn
from sendora.modules.push.model.content import (
    Action,
    Critical,
    FieldErrors,
    Interruption,
    Raw,
    Text,
    Title,
    Url,
    action_errors,
    data_errors,
    locale_errors,
)
from sendora.modules.push.model.schedules import ScheduleIn
from sendora.modules.push.model.tokens import TOKEN_MAX, canonical, token_errors

TARGETS_MAX: Final = 10_000
"""User ids or raw tokens of one request; whoever wants more names an audience."""

EXCLUDED_MAX: Final = 20
"""Audiences that a send leaves out, as many as a preview does."""

TTL_S: Final = 3_600
"""One hour unless the request says otherwise."""
TTL_MAX_S: Final = 2_419_200
"""28 days: the longest that FCM keeps a message."""

NOW_OR_NEVER_S: Final = 60
"""`ttlSeconds: 0` tells the provider to try once and keep nothing. We ourselves need a moment to plan and to dispatch,
so the send lives this long, and the provider is still told 0."""

LATENESS_MAX_S: Final = TTL_MAX_S
"""Longer than the longest lifetime says nothing."""

SCHEDULE_MAX: Final = timedelta(days=366)

COLLAPSE_BYTES_MAX: Final = 64
"""apns-collapse-id (providers.md 1.3)."""

REASONS_MAX: Final = 100
"""Reasons of one retry; a send has a handful."""

RecipientState = Literal["accepted", "rejected", "suppressed", "expired", "unknown", "open"]

Reason = Annotated[str, Meta(min_length=1, max_length=200)]
UserId = Annotated[str, Meta(min_length=1, max_length=256)]
RawToken = Annotated[str, Meta(min_length=1, max_length=TOKEN_MAX)]

ListStatus = Literal[
    "queued", "scheduled", "sending", "paused", "sent", "delivered", "failed", "suppressed", "cancelled"
]
"""C96: the statuses of a send, and `delivered`, which is a receipt's."""


class SendIn(WireIn, frozen=True, kw_only=True):
    """Body of `POST /push/send`."""

    user_ids: Annotated[list[UserId], Meta(min_length=1, max_length=TARGETS_MAX)] | None = None
    audience_id: UUID | None = None
    tokens: Annotated[list[RawToken], Meta(min_length=1, max_length=TARGETS_MAX)] | None = None
    title: Title | None = None
    body: Text | None = None
    data: dict[str, Any] | None = None
    localized_body: dict[str, Text] | None = None
    localized_body_alias: dict[str, Text] | None = msgspec.field(default=None, name="localized_body")
    localized_title: dict[str, Title] | None = None
    actions: list[Action] | None = None
    critical_alert: Critical | None = None
    template_id: UUID | None = None
    ab_test_id: UUID | None = None
    scheduled_for: Annotated[datetime, Meta(tz=True)] | None = None
    icon: Url | None = None
    image: Url | None = None
    project_id: UUID | None = None
    org_id: UUID | None = None
    delivery: Delivery = "at_least_once"
    class_: Class | None = msgspec.field(default=None, name="class")
    ttl_seconds: Annotated[int, Meta(ge=0, le=TTL_MAX_S)] = TTL_S
    collapse_id: Annotated[str, Meta(min_length=1, max_length=COLLAPSE_BYTES_MAX)] | None = None
    interruption_level: Interruption | None = None
    silent: bool = False
    raw: Raw | None = None
    exclude_audience_ids: Annotated[list[UUID], Meta(max_length=EXCLUDED_MAX)] | None = None
    max_lateness_seconds: Annotated[int, Meta(ge=1, le=LATENESS_MAX_S)] | None = None
    schedule: ScheduleIn | None = None


class Content(Wire, frozen=True, kw_only=True):
    """`sends.content`: what the request said, as the channel reads it back. References stay references (B098)."""

    title: str | None = None
    body: str | None = None
    data: dict[str, Any] | None = None
    localized_body: dict[str, str] | None = None
    localized_title: dict[str, str] | None = None
    actions: list[Action] | None = None
    critical_alert: Critical | None = None
    template_id: UUID | None = None
    ab_test_id: UUID | None = None
    icon: str | None = None
    image: str | None = None
    collapse_id: str | None = None
    interruption_level: Interruption | None = None
    silent: bool = False
    raw: Raw | None = None
    now_or_never: bool = False


class Target(Wire, frozen=True, kw_only=True):
    """`sends.target`: exactly one of the first three (B093), and who is left out."""

    user_ids: list[str] | None = None
    audience_id: UUID | None = None
    tokens: list[str] | None = None
    exclude_audience_ids: list[UUID] | None = None


class Requested(Wire, frozen=True, kw_only=True):
    """The answer to `POST /push/send`."""

    id: UUID
    status: str
    token_count: int | None
    scheduled_for: str | None
    local_at: str | None
    """Due when each recipient's own clock shows this; `scheduledFor` is when the first can be."""
    schedule_id: UUID | None
    """The schedule whose next occurrence this is."""
    created_at: str


class Counts(Wire, frozen=True, kw_only=True):
    """targeted = accepted + rejected + suppressed + expired + unknown + open; the rest stands beside (C96)."""

    targeted: int
    accepted: int
    rejected: int
    suppressed: int
    expired: int
    unknown: int
    open: int
    repeated: int
    delivered: int
    unreachable: int


class SendShown(Wire, frozen=True, kw_only=True):
    """A send as `GET /push/sends/{id}` and the list show it."""

    id: UUID
    status: str
    token_count: int | None
    counts: Counts | None
    """Null in lists: a count is a walk over the ledger."""
    audience_as_of: str | None
    scheduled_for: str | None
    local_at: str | None
    schedule_id: UUID | None
    created_at: str
    closed_at: str | None
    title: str | None
    body: str | None
    audience_id: UUID | None
    exclude_audience_ids: list[UUID]
    template_id: UUID | None
    ab_test_id: UUID | None
    delivery: str
    class_: str = msgspec.field(name="class")
    opened_at: str | None
    clicked_at: str | None
    click_action: str | None
    error: str | None
    suppressed_reason: str | None


class Cancelled(Wire, frozen=True, kw_only=True):
    id: UUID
    status: str


class Controlled(Wire, frozen=True, kw_only=True):
    """The answer to pause, resume and stop."""

    id: UUID
    status: str
    counts: Counts


class RetryIn(WireIn, frozen=True, kw_only=True):
    """Body of `POST /push/sends/{id}/retry-failed`."""

    reasons: Annotated[list[Reason], Meta(min_length=1, max_length=REASONS_MAX)] | None = None
    """Only these; unless given, every reason that may pass."""


class Retried(Wire, frozen=True, kw_only=True):
    id: UUID
    status: str
    retried: int


class RecipientShown(Wire, frozen=True, kw_only=True):
    """One address of a send: where it stands, and what its device said."""

    recipient_id: UUID
    user_id: str | None
    state: str
    reason: str | None
    variant: str | None
    provider_id: str | None
    attempt: int
    repeated: bool
    delivered_at: str | None
    opened_at: str | None
    clicked_at: str | None


class TrackOpen(WireIn, frozen=True, kw_only=True):
    """Body of `POST /push/track-open`."""

    send_id: str
    click_action: Annotated[str, Meta(max_length=64)] | None = None


class Tracked(Wire, frozen=True, kw_only=True):
    id: str
    click_action: str | None


def send_errors(send: SendIn, project: UUID, org: UUID, now: datetime) -> FieldErrors:
    """Everything about the body that its types do not say (B093, B103, C40)."""
    errors: FieldErrors = {}
    given = [send.user_ids is not None, send.audience_id is not None, send.tokens is not None]
    if sum(given) != 1:
        errors["userIds"] = ["Give exactly one of userIds, audienceId and tokens"]
    if send.tokens is not None and send.exclude_audience_ids:
        errors["excludeAudienceIds"] = ["Leaves out people, and raw tokens name devices: give userIds or audienceId"]
    if send.title is None and send.template_id is None and not send.silent:
        errors["title"] = ["Required unless templateId supplies it"]
    if send.silent and (send.critical_alert is not None or send.interruption_level is not None):
        errors["silent"] = ["A silent push neither sounds nor interrupts"]
    if send.localized_body is not None and send.localized_body_alias is not None:
        errors["localized_body"] = ["Is another spelling of localizedBody; give one"]
    if send.collapse_id is not None and len(send.collapse_id.encode()) > COLLAPSE_BYTES_MAX:
        errors["collapseId"] = [f"At most {COLLAPSE_BYTES_MAX} bytes"]
    if send.collapse_id is not None and not (send.collapse_id.isascii() and send.collapse_id.isprintable()):
        errors["collapseId"] = ["Only printable ASCII: it travels in a header"]
    if send.scheduled_for is not None and send.scheduled_for < EARLIEST:
        errors["scheduledFor"] = [f"Not before {EARLIEST.year}"]
    if send.scheduled_for is not None and send.scheduled_for - now > SCHEDULE_MAX:
        errors["scheduledFor"] = [f"At most {SCHEDULE_MAX.days} days ahead"]
    if send.schedule is not None and send.scheduled_for is not None:
        errors["schedule"] = ["Stands instead of scheduledFor"]
    if send.schedule is not None and send.tokens is not None and (send.schedule.rrule or send.schedule.cron):
        errors["tokens"] = ["Tokens change; what comes again goes to userIds or an audience"]
    if send.project_id not in (None, project):
        errors["projectId"] = ["Is not the project of this key"]
    if send.org_id not in (None, org):
        errors["orgId"] = ["Is not the organisation of this key"]
    for index, token in enumerate(send.tokens or ()):
        errors.update(token_errors(f"tokens.{index}", token))
    return {
        **errors,
        **data_errors(send.data or {}),
        **action_errors(send.actions or []),
        **locale_errors("localizedBody", send.localized_body or send.localized_body_alias or {}),
        **locale_errors("localizedTitle", send.localized_title or {}),
    }


def content_of(send: SendIn) -> Content:
    return Content(
        title=send.title,
        body=send.body,
        data=send.data,
        localized_body=send.localized_body or send.localized_body_alias,
        localized_title=send.localized_title,
        actions=send.actions,
        critical_alert=send.critical_alert,
        template_id=send.template_id,
        ab_test_id=send.ab_test_id,
        icon=send.icon,
        image=send.image,
        collapse_id=send.collapse_id,
        interruption_level=send.interruption_level,
        silent=send.silent,
        raw=send.raw,
        now_or_never=send.ttl_seconds == 0,
    )


def target_of(send: SendIn) -> Target:
    """Each user and each token once, in the order given."""
    return Target(
        user_ids=None if send.user_ids is None else list(dict.fromkeys(send.user_ids)),
        audience_id=send.audience_id,
        tokens=None if send.tokens is None else list(dict.fromkeys(map(canonical, send.tokens))),
        exclude_audience_ids=list(dict.fromkeys(send.exclude_audience_ids or ())) or None,
    )


def to_row(struct: Content | Target) -> dict[str, Any]:
    """As jsonb: what was not said is left out."""
    built: dict[str, Any] = msgspec.to_builtins(struct)
    return {key: value for key, value in built.items() if value is not None}


def class_of(send: SendIn) -> Class:
    """A broadcast makes way for what somebody waits for."""
    return send.class_ or ("bulk" if send.audience_id is not None else "now")
