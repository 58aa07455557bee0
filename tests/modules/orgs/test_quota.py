"""The monthly number of events of the Free plan."""

import dataclasses
from datetime import UTC, datetime

import pytest
from tests.api import Api
from tests.conftest import eventually
from tests.make import Make

from sendora.kernel.clock import FixedClock
from sendora.kernel.errors import QuotaExceeded
from sendora.kernel.life import Kernel
from sendora.modules import orgs
from sendora.modules.orgs.model import next_month


def batch(n: int) -> dict[str, object]:
    return {"events": [{"eventType": "page.viewed", "module": "analytics"}] * n}


@pytest.mark.rule("B045", "B048", "C13", "C99")
async def test_the_free_plan_ends_at_ten_thousand(api: Api, make: Make) -> None:
    """B045, B048, C13, C99: track and identify count, refused requests take nothing, and usage tells."""
    free = await make.org("free")
    for _ in range(9):
        assert (await api.post("/events/batch", batch(1_000), key=free.pk)).status == 200
    last = await api.post("/events/batch", batch(998), key=free.sk)
    assert last.status == 200
    over = await api.post("/events/batch", batch(3), key=free.sk)
    assert (over.status, over.code) == (429, "QUOTA_EXCEEDED"), over
    assert over.details["metric"] == "events"
    assert over.details["limit"] == 10_000
    assert over.details["used"] == 9_998
    assert datetime.fromisoformat(over.details["resetsAt"]) == next_month(datetime.now(UTC))
    assert (await api.post("/identify", {"userId": "u"}, key=free.pk)).status == 200
    assert (await api.post("/events", {"eventType": "e", "module": "m"}, key=free.pk)).status == 201
    for answer in (
        await api.post("/identify", {"userId": "u"}, key=free.pk),
        await api.post("/events", {"eventType": "e", "module": "m"}, key=free.pk),
    ):
        assert answer.code == "QUOTA_EXCEEDED"

    async def counted() -> bool:
        usage = (await api.get("/usage", key=free.sk)).data
        assert (usage["plan"], usage["eventQuota"]) == ("free", 10_000)
        assert usage["eventsThisMonth"] <= 10_000
        return bool(usage["eventsThisMonth"] == 10_000)

    await eventually(counted)


@pytest.mark.rule("C99")
async def test_duplicates_do_not_count(api: Api, make: Make) -> None:
    """C99: what was stored counts, a retry does not."""
    free = await make.org("free")
    event = {"eventType": "e", "eventId": "same", "timestamp": "2026-05-01T00:00:00Z"}
    await make.events(free, event, event)
    await make.events(free, event)
    assert (await api.get("/usage", key=free.sk)).data["eventsThisMonth"] == 1


@pytest.mark.rule("C99")
async def test_other_plans_have_no_quota(api: Api, make: Make) -> None:
    starter = await make.org("starter")
    usage = (await api.get("/usage", key=starter.sk)).data
    assert (usage["eventQuota"], usage["eventsThisMonth"]) == (None, 0)


@pytest.mark.rule("C99")
async def test_the_number_is_looked_up_again(make: Make, kernel: Kernel) -> None:
    """C99: a process hears within ten seconds of what others used, and of a new month at once."""
    clock = FixedClock(datetime(2031, 1, 31, 23, 59, tzinfo=UTC))
    there = dataclasses.replace(kernel, clock=clock)
    free = await make.org("free")
    principal = await orgs.authenticate(kernel, free.sk)
    assert principal is not None
    await orgs.check_quota(there, principal, 1)
    await kernel.db.execute(
        "INSERT INTO usage_months (org_id, month, events) VALUES ($1, '2031-01-01', 10000)", free.id
    )
    await orgs.check_quota(there, principal, 1)
    clock.advance(10)

    async def refused() -> bool:
        try:
            await orgs.check_quota(there, principal, 1)
        except QuotaExceeded:
            return True
        return False

    await eventually(refused)
    clock.advance(60)
    await orgs.check_quota(there, principal, 10_000)
    with pytest.raises(QuotaExceeded):
        await orgs.check_quota(there, principal, 1)
