"""Sends over HTTP: ask for one, cancel it, and see how it went."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec

from sendora.delivery import report
from sendora.delivery import submit as delivery
from sendora.delivery.phases import Send
from sendora.kernel.clock import iso
from sendora.kernel.errors import Conflict, NotFound, PreconditionFailed, TierRequired
from sendora.kernel.http import Paged, Principal, delete, get, post
from sendora.kernel.ids import OrgId, SendId, parse_id
from sendora.kernel.life import Kernel
from sendora.kernel.wire import Listed, Page, Wire
from sendora.modules.push import service
from sendora.modules.push.channel import NAME
from sendora.modules.push.model.sends import (
    Cancelled,
    Content,
    Counts,
    ListStatus,
    Requested,
    SendIn,
    SendShown,
    Target,
)
from sendora.modules.push.store import feedback, receipts

DELIVERED: Final = "delivered"
"""Matches sends with a receipt (C96)."""

NO_OPENS: Final = feedback.Opens(opened_at=None, clicked_at=None, action=None)


class Stats(Wire, frozen=True, kw_only=True):
    """B101: recipients over all sends of the project (C96)."""

    total: int
    sent: int
    delivered: int
    failed: int
    scheduled: int
    suppressed: int
    opened: int
    clicked: int
    delivery_rate: float | None
    """Null without receipts (C93)."""
    open_rate: float
    click_rate: float


@post(
    "/push/send",
    scope="push:send",
    limited=False,
    idempotent=True,
    raises=(TierRequired, PreconditionFailed),
    operation="sendPush",
    summary="Send a push notification",
)
async def send(kernel: Kernel, principal: Principal, data: SendIn) -> Requested:
    """To `userIds`, to an audience as it is when the send goes out, or to raw `tokens`: exactly one of them (B093,
    B094), less the people who are in one of `excludeAudienceIds` at that instant. What became of every recipient is
    told by `/push/sends/{id}/reconciliation`.

    `schedule` names a local time in a zone, or in each recipient's own: that of the device, else the org's default one,
    else UTC. A time that has passed is now, for whomever it has; `ttlSeconds` and `maxLatenessSeconds` count from each
    recipient's own time. With `rrule` or `cron` it comes again, and the answer is the next occurrence;
    `/push/schedules` has the series."""
    return await service.send(kernel, principal, data)


@get("/push/sends", scope="push:read", operation="listSends", summary="List sends")
async def list_sends(
    kernel: Kernel, principal: Principal, page: Page, status: ListStatus | None = None
) -> Paged[SendShown]:
    """The newest first (B101). Counts are as far as they have been folded; one send's own page is exact."""
    if status == DELIVERED:
        ids = await receipts.delivered_sends(kernel.db, principal.org, principal.project, page)
        listed = Listed(await report.find_sends(kernel, principal.org, ids.rows), ids.total)
    else:
        listed = await report.list_sends(
            kernel, principal.org, principal.project, NAME, page=page, statuses=None if status is None else [status]
        )
    counted = await counts_of(kernel, principal.org, listed.rows)
    return Paged(
        [_shown(send, counted[send.id], NO_OPENS, None) for send in listed.rows], page.pagination(listed.total)
    )


@get("/push/sends/stats", scope="push:read", operation="sendStats", summary="Count recipients by outcome")
async def stats(kernel: Kernel, principal: Principal) -> Stats:
    """Over all sends of the project. `sent` means that the provider took it (C93)."""
    return await _stats(kernel, principal)


@get("/push/stats", scope="push:read", operation="pushStats", summary="Count recipients by outcome")
async def stats_alias(kernel: Kernel, principal: Principal) -> Stats:
    """The same as `/push/sends/stats` (C06)."""
    return await _stats(kernel, principal)


@get("/push/sends/delivery-health", scope="push:read", operation="deliveryHealth", summary="See what fails, and why")
async def delivery_health(kernel: Kernel, principal: Principal) -> report.Health:
    """The last 7 days: the top reasons, and the last 10 failures as they were (B102)."""
    return await report.health(kernel, principal.org, principal.project, NAME)


@get("/push/sends/{send_id}", scope="push:read", operation="getSend", summary="Get a send and its counts")
async def get_send(kernel: Kernel, principal: Principal, send_id: str) -> SendShown:
    """`targeted = accepted + rejected + suppressed + expired + unknown + open` (C96)."""
    found = await find(kernel, principal, send_id)
    counted = await counts_of(kernel, principal.org, [found])
    opens = await feedback.opens_of_send(kernel.db, principal.org, found.id)
    reason = None
    if found.status == "suppressed":
        balance = await report.reconcile(kernel, principal.org, found.id, project=principal.project)
        suppressed = balance.reasons.get("suppressed", {})
        reason = max(suppressed, key=lambda one: suppressed[one], default=None)
    return _shown(found, counted[found.id], opens, reason)


@delete(
    "/push/sends/{send_id}",
    scope="push:send",
    raises=(Conflict,),
    operation="cancelSend",
    summary="Cancel a scheduled send",
)
async def cancel(kernel: Kernel, principal: Principal, send_id: str) -> Cancelled:
    """While it is `scheduled`; afterwards 409, and `details.reason` says what it met (B097, C61)."""
    cancelled = await delivery.cancel(kernel, principal.org, _id(send_id), project=principal.project)
    return Cancelled(id=cancelled.id, status=cancelled.status)


@get(
    "/push/sends/{send_id}/reconciliation",
    scope="push:read",
    operation="reconcileSend",
    summary="Account for every recipient",
)
async def reconciliation(kernel: Kernel, principal: Principal, send_id: str) -> report.Reconciliation:
    """The balance from the ledger itself, by reason and by variant."""
    return await report.reconcile(kernel, principal.org, _id(send_id), project=principal.project)


async def find(kernel: Kernel, principal: Principal, send_id: str) -> Send:
    """One of this project's; raises NotFound."""
    found = await delivery.find_send(kernel, principal.org, _id(send_id), project=principal.project)
    if found.channel != NAME:
        raise NotFound("Send")
    return found


async def counts_of(kernel: Kernel, org: OrgId, sends: Sequence[Send]) -> dict[SendId, Counts]:
    """The balance of each, and how many devices have told of a receipt (C93, C96)."""
    balances = await report.counts(kernel, org, sends)
    delivered = await receipts.delivered_of_sends(kernel.db, org, [send.id for send in sends])
    return {
        send: Counts(
            **{field: getattr(balance, field) for field in balance.__struct_fields__}, delivered=delivered.get(send, 0)
        )
        for send, balance in balances.items()
    }


def _id(text: str) -> SendId:
    parsed = parse_id(text)
    if parsed is None:
        raise NotFound("Send")
    return SendId(parsed)


async def _stats(kernel: Kernel, principal: Principal) -> Stats:
    counted = await report.stats(kernel, principal.org, principal.project, NAME)
    opened, clicked = await feedback.opens_of_project(kernel.db, principal.org, principal.project)
    delivered = await receipts.delivered_of_project(kernel.db, principal.org, principal.project)
    return Stats(
        total=counted.targeted + counted.scheduled,
        sent=counted.accepted,
        delivered=delivered,
        failed=counted.rejected + counted.expired + counted.unknown,
        scheduled=counted.scheduled,
        suppressed=counted.suppressed,
        opened=opened,
        clicked=clicked,
        delivery_rate=_rate(delivered, counted.accepted) if delivered else None,
        open_rate=_rate(opened, counted.accepted),
        click_rate=_rate(clicked, counted.accepted),
    )


def _rate(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def _shown(send: Send, counted: Counts, opens: feedback.Opens, suppressed_reason: str | None) -> SendShown:
    content, target = msgspec.convert(send.content, Content), msgspec.convert(send.target, Target)
    audience: UUID | None = target.audience_id
    return SendShown(
        id=send.id,
        status=send.status,
        token_count=send.token_count,
        counts=counted,
        audience_as_of=None if send.audience_as_of is None else iso(send.audience_as_of),
        scheduled_for=None if send.scheduled_for is None else iso(send.scheduled_for),
        local_at=None if send.local_at is None else send.local_at.isoformat(),
        schedule_id=send.schedule_id,
        created_at=iso(send.created_at),
        closed_at=None if send.closed_at is None else iso(send.closed_at),
        title=content.title,
        body=content.body,
        audience_id=audience,
        exclude_audience_ids=target.exclude_audience_ids or [],
        template_id=content.template_id,
        ab_test_id=content.ab_test_id,
        delivery=send.delivery,
        class_=send.class_,
        opened_at=None if opens.opened_at is None else iso(opens.opened_at),
        clicked_at=None if opens.clicked_at is None else iso(opens.clicked_at),
        click_action=opens.action,
        error=send.error,
        suppressed_reason=suppressed_reason,
    )


ROUTES = (
    send,
    list_sends,
    stats,
    stats_alias,
    delivery_health,
    get_send,
    cancel,
    reconciliation,
)
