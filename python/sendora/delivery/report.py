"""What can be said of sends afterwards: the balance, and how a project fares. Who is behind each number: recipients.py.

The balance of one send is computed from its chunks and the ledger, in one statement; nothing is remembered that could
drift. Lists and statistics over many sends read the counters that account.py folds; what is not folded yet stands under
`open` there.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from sendora.delivery import store
from sendora.delivery.phases import Send
from sendora.delivery.state import FINAL_STATES
from sendora.delivery.submit import find_send
from sendora.kernel.ids import OrgId, ProjectId, SendId
from sendora.kernel.life import Kernel
from sendora.kernel.wire import Listed, Page, Wire

NO_REASON: Final = "unspecified"
"""Stands for an outcome whose channel gave no reason."""

ACCEPTED: Final = "accepted"

FAILURE_STATES: Final = ("rejected", "expired", "unknown")

HEALTH_DAYS: Final = 7
TOP_REASONS: Final = 10
LAST_FAILURES: Final = 10
"""B102."""


class Counts(Wire, frozen=True, kw_only=True):
    """`targeted = accepted + rejected + suppressed + expired + unknown + open` (C96)."""

    targeted: int = 0
    accepted: int = 0
    rejected: int = 0
    suppressed: int = 0
    expired: int = 0
    unknown: int = 0
    open: int = 0
    repeated: int = 0
    """A part of accepted."""
    unreachable: int = 0
    """People without any address, beside the balance."""


class Reconciliation(Counts, frozen=True, kw_only=True):
    """The balance of one send, by reason and variant."""

    reasons: dict[str, dict[str, int]]
    """State -> reason -> recipients."""
    variants: dict[str, dict[str, int]]
    """Variant -> state -> recipients; empty without an A/B test."""
    audience_as_of: datetime | None


class Stats(Wire, frozen=True, kw_only=True):
    """Recipients over all sends of a project and channel (C96)."""

    targeted: int
    scheduled: int
    """Of sends that are not due yet, as far as their calls named recipients."""
    accepted: int
    rejected: int
    suppressed: int
    expired: int
    unknown: int
    open: int
    repeated: int


class ReasonCount(Wire, frozen=True, kw_only=True):
    reason: str
    count: int


class Failure(Wire, frozen=True, kw_only=True):
    send_id: UUID
    recipient_id: UUID
    user_id: str | None
    state: str
    reason: str | None
    provider_id: str | None
    attempt: int
    at: datetime


class Health(Wire, frozen=True, kw_only=True):
    """B102."""

    window_days: int
    top_failure_reasons: list[ReasonCount]
    top_suppression_reasons: list[ReasonCount]
    recent_failures: list[Failure]


async def reconcile(kernel: Kernel, org: OrgId, send: SendId, *, project: ProjectId | None = None) -> Reconciliation:
    """Promise 2; raises NotFound."""
    found = await find_send(kernel, org, send, project=project)
    rows = await kernel.db.fetch(store.SQL.reconcile, org, send)
    by_state = dict.fromkeys(FINAL_STATES, 0)
    reasons: dict[str, dict[str, int]] = {}
    variants: dict[str, dict[str, int]] = {}
    repeated = 0
    for row in rows:
        state = row["state"]
        if state is None:  # Nothing is recorded: the only row carries the totals.
            continue
        by_state[state] += row["n"]
        if state == ACCEPTED:
            repeated += row["repeated"]
        else:
            _add(reasons.setdefault(state, {}), row["reason"] or NO_REASON, row["n"])
        if row["variant"] is not None:
            _add(variants.setdefault(row["variant"], {}), state, row["n"])
    return Reconciliation(
        targeted=rows[0]["targeted"],
        open=rows[0]["open"],
        **by_state,
        repeated=repeated,
        unreachable=found.unreachable,
        reasons=reasons,
        variants=variants,
        audience_as_of=found.audience_as_of,
    )


async def counts(kernel: Kernel, org: OrgId, sends: Sequence[Send]) -> dict[SendId, Counts]:
    """The balance of each send of a page, from the counters."""
    targeted: dict[SendId, int] = {}
    by_state: dict[SendId, dict[str, int]] = {send.id: dict.fromkeys(FINAL_STATES, 0) for send in sends}
    repeated: dict[SendId, int] = {}
    for row in await kernel.db.fetch(store.SQL.counts_of, org, [send.id for send in sends]):
        targeted[row["send_id"]] = row["targeted"]
        if row["state"] is not None:
            by_state[row["send_id"]][row["state"]] = row["n"]
        if row["state"] == ACCEPTED:
            repeated[row["send_id"]] = row["repeated"]
    return {
        send.id: Counts(
            targeted=targeted.get(send.id, 0),
            **by_state[send.id],
            # Planned chunks may be read a moment before the counters of what they became.
            open=max(targeted.get(send.id, 0) - sum(by_state[send.id].values()), 0),
            repeated=repeated.get(send.id, 0),
            unreachable=send.unreachable,
        )
        for send in sends
    }


async def list_sends(
    kernel: Kernel,
    org: OrgId,
    project: ProjectId,
    channel: str,
    *,
    page: Page,
    statuses: Collection[str] | None = None,
) -> Listed[Send]:
    """Newest first."""
    return await store.list_sends(kernel.db, org, project, channel, statuses, page)


async def find_sends(kernel: Kernel, org: OrgId, sends: Sequence[SendId]) -> list[Send]:
    """These sends, in this order; without those that are not there."""
    return await store.sends_of(kernel.db, org, sends)


async def stats(kernel: Kernel, org: OrgId, project: ProjectId, channel: str) -> Stats:
    """B101, C96."""
    by_state = dict.fromkeys(FINAL_STATES, 0)
    repeated = 0
    for row in await kernel.db.fetch(store.SQL.stats, org, project, channel):
        by_state[row["state"]] = row["n"]
        if row["state"] == ACCEPTED:
            repeated = row["repeated"]
    sends = await kernel.db.fetchrow(store.SQL.stats_sends, org, project, channel)
    targeted = sends["targeted"] if sends is not None else 0
    return Stats(
        targeted=targeted,
        scheduled=sends["scheduled"] if sends is not None else 0,
        **by_state,
        open=max(targeted - sum(by_state.values()), 0),
        repeated=repeated,
    )


async def health(kernel: Kernel, org: OrgId, project: ProjectId, channel: str) -> Health:
    """B102: the last 7 UTC days, today included."""

    async def top(*states: str) -> list[ReasonCount]:
        rows = await kernel.db.fetch(
            store.SQL.top_reasons, org, project, channel, list(states), HEALTH_DAYS, TOP_REASONS
        )
        return [ReasonCount(reason=row["reason"] or NO_REASON, count=row["n"]) for row in rows]

    rows = await kernel.db.fetch(store.SQL.last_failures, org, project, channel, HEALTH_DAYS, LAST_FAILURES)
    return Health(
        window_days=HEALTH_DAYS,
        top_failure_reasons=await top(*FAILURE_STATES),
        top_suppression_reasons=await top("suppressed"),
        recent_failures=[
            Failure(
                send_id=row["send_id"],
                recipient_id=row["recipient"],
                user_id=row["user_id"],
                state=row["state"],
                reason=row["reason"],
                provider_id=row["provider_id"],
                attempt=row["attempt"],
                at=row["at"],
            )
            for row in rows
        ],
    )


def _add(counts: dict[str, int], key: str, n: int) -> None:
    counts[key] = counts.get(key, 0) + n
