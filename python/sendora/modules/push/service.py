"""Sending: the checks in their order (C87), then delivery."""

import asyncio
from datetime import datetime

from sendora.delivery import series
from sendora.delivery import submit as delivery
from sendora.delivery.phases import Send, Submission
from sendora.kernel.clock import EPOCH, iso
from sendora.kernel.errors import NotFound, PreconditionFailed, ValidationFailed
from sendora.kernel.http import Principal, require_tier, take
from sendora.kernel.ids import NIL, AudienceId, TemplateId, TestId
from sendora.kernel.life import Kernel
from sendora.modules import audiences
from sendora.modules.push.channel import NAME
from sendora.modules.push.compose import check_sizes, compose
from sendora.modules.push.model.content import TemplateContent, raise_for
from sendora.modules.push.model.schedules import Due, due_of
from sendora.modules.push.model.sends import (
    NOW_OR_NEVER_S,
    Content,
    Requested,
    SendIn,
    Target,
    class_of,
    content_of,
    send_errors,
    target_of,
    to_row,
)
from sendora.modules.push.store import content as content_store
from sendora.modules.push.store import providers, targets, tokens
from sendora.modules.push.store.content import Test

NOT_CONFIGURED = "Push is not configured: store an APNs or FCM credential first, or register a browser."


async def send(kernel: Kernel, principal: Principal, data: SendIn) -> Requested:
    """400, then the plan's fields (402), 404, 412, and the rate limit last: whoever is refused has left no trace and
    lost no token (B030, C43, C87)."""
    now = kernel.clock.now()
    raise_for(send_errors(data, principal.project, principal.org, now))
    content, target = content_of(data), target_of(data)
    due = await _due(data, now)
    _check_size(content, None, None)
    starter = (data.audience_id, data.scheduled_for, data.schedule, data.template_id, data.ab_test_id)
    if target.exclude_audience_ids is not None or any(field is not None for field in starter):
        # B039: broadcasts, exclusions, schedules, templates and tests.
        require_tier(principal, "starter")
    template, test = await _references(kernel, principal, content, target)
    if template is not None or test is not None:
        _check_size(content, template, test)
    if not (
        await providers.has_any(kernel.db, principal.org, principal.project)
        or await tokens.has_web(kernel.db, principal.org, principal.project)
    ):
        raise PreconditionFailed(NOT_CONFIGURED, "push_not_configured")
    comes_again = due is not None and due.calendar is not None
    if comes_again and await series.is_full(kernel, principal.org, principal.project, NAME):
        raise ValidationFailed({"schedule": [f"At most {series.ACTIVE_MAX} schedules at a time; end one first"]})
    token_count = await _token_count(kernel, principal, target)
    await take(kernel, principal)
    if test is not None:
        # Before the send is committed: a test whose weights could still change was never sent (C44).
        await content_store.mark_test_sent(kernel.db, principal.org, principal.project, TestId(test.id))
    asked = Submission(
        org=principal.org,
        project=principal.project,
        channel=NAME,
        class_=class_of(data),
        delivery=data.delivery,
        target=to_row(target),
        content=to_row(content),
        scheduled_for=data.scheduled_for if due is None else due.first.at,
        ttl_s=data.ttl_seconds or NOW_OR_NEVER_S,
        token_count=token_count,
        late_s=data.max_lateness_seconds,
        local_at=due.first.local if due is not None and due.own_zone else None,
    )
    if due is not None and due.calendar is not None:
        return requested(await series.begin(kernel, asked, due.calendar, due.first))
    return requested(await delivery.submit(kernel, asked))


def requested(send: Send) -> Requested:
    return Requested(
        id=send.id,
        status=send.status,
        token_count=send.token_count,
        scheduled_for=None if send.scheduled_for is None else iso(send.scheduled_for),
        local_at=None if send.local_at is None else send.local_at.isoformat(),
        schedule_id=send.schedule_id,
        created_at=iso(send.created_at),
    )


async def _due(data: SendIn, now: datetime) -> Due | None:
    """Raises ValidationFailed. In a thread: a hostile rule takes a moment to be found empty."""
    if data.schedule is None:
        return None
    due = await asyncio.to_thread(due_of, data.schedule, now)
    if not isinstance(due, Due):
        raise ValidationFailed(due)
    return due


async def _references(
    kernel: Kernel, principal: Principal, content: Content, target: Target
) -> tuple[TemplateContent | None, Test | None]:
    """What the request refers to must be there now (404); what it says is read again when the send goes out (B098)."""
    named = [*([] if target.audience_id is None else [target.audience_id]), *(target.exclude_audience_ids or [])]
    for id_ in named:
        audience = await audiences.find(kernel, principal.org, AudienceId(id_))
        if audience.project != principal.project:
            raise NotFound("Audience")
    template = test = None
    if content.template_id is not None:
        template = await content_store.find_template(
            kernel.db, principal.org, principal.project, TemplateId(content.template_id)
        )
        if template is None:
            raise NotFound("Template")
    if content.ab_test_id is not None:
        test = await content_store.find_test(kernel.db, principal.org, principal.project, TestId(content.ab_test_id))
        if test is None:
            raise NotFound("A/B test")
    return (None if template is None else template.content), test


async def _token_count(kernel: Kernel, principal: Principal, target: Target) -> int | None:
    """C96: exact for users and tokens, unknown for an audience until it is planned, and so for users of whom some may
    be left out."""
    if target.exclude_audience_ids is not None:
        return None
    if target.user_ids is not None:
        return await targets.count_users(kernel.db, principal.org, principal.project, target.user_ids)
    return None if target.tokens is None else len(target.tokens)


def _check_size(content: Content, template: TemplateContent | None, test: Test | None) -> None:
    check_sizes(compose(content, template, test, send=NIL, expires_at=EPOCH, urgent=True))
