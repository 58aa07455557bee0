"""The monthly number of events of a plan (B045, C13, C99).

The storer counts what it stored, in Postgres. Each process holds what was left of an org's month at its last look,
takes off what it admits, and looks again every ten seconds, behind the back of the request that finds it so. So a
month ends at most ten seconds of traffic late, and no ingest waits for the count.
"""

import asyncio
from datetime import date, datetime
from typing import Final
from weakref import WeakKeyDictionary

from sendora.kernel.errors import QuotaExceeded
from sendora.kernel.http import Principal
from sendora.kernel.ids import OrgId
from sendora.kernel.life import Kernel
from sendora.modules.orgs import store
from sendora.modules.orgs.model import EVENT_QUOTAS, next_month

REFRESH_S: Final = 10.0
"""C99."""

ORGS_MAX: Final = 50_000
"""Orgs on a limited plan that a process remembers; a forgotten one costs a look-up."""

METRIC: Final = "events"


class _Month:
    """What an org has left of a month, as far as this process knows."""

    __slots__ = ("asking", "left", "month", "since")

    def __init__(self, month: date, left: int, since: float) -> None:
        self.month = month
        self.left = left
        self.since = since
        self.asking: asyncio.Task[None] | None = None


_months: WeakKeyDictionary[object, dict[OrgId, _Month]] = WeakKeyDictionary()


async def check_quota(kernel: Kernel, principal: Principal, n: int) -> None:
    """Take n from what the org has left this month, or raise QuotaExceeded and take nothing."""
    limit = EVENT_QUOTAS[principal.plan]
    if limit is None:
        return
    now = kernel.clock.now()
    known = _months.setdefault(kernel.db, {})
    month = known.get(principal.org)
    if month is None or month.month != month_of(now):
        month = await _look(kernel, principal.org, month_of(now), limit)
        while len(known) >= ORGS_MAX:
            del known[next(iter(known))]
        known[principal.org] = month
    elif month.asking is None and kernel.clock.monotonic() - month.since >= REFRESH_S:
        month.asking = asyncio.create_task(_refresh(kernel, principal.org, month, limit), name="quota")
    if n > month.left:
        raise QuotaExceeded(METRIC, limit, limit - month.left, next_month(now))
    month.left -= n


def month_of(at: datetime) -> date:
    """The row of `usage_months` that an instant falls into."""
    return date(at.year, at.month, 1)


async def _look(kernel: Kernel, org: OrgId, month: date, limit: int) -> _Month:
    used = await store.events_used(kernel.db, org, month)
    return _Month(month, max(0, limit - used), kernel.clock.monotonic())


async def _refresh(kernel: Kernel, org: OrgId, month: _Month, limit: int) -> None:
    try:
        fresh = await _look(kernel, org, month.month, limit)
        month.left, month.since = fresh.left, fresh.since
    except Exception as error:
        # The number of the last look still holds less what was admitted since; the next request tries again.
        kernel.log.warning("quota_look_up_failed", error=repr(error))
    finally:
        month.asking = None
