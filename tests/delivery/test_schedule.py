"""Sends that are due later (B096, B097), and the safety poll."""

import asyncio
from datetime import timedelta

import pytest
from tests.conftest import eventually
from tests.delivery import provider as behaves
from tests.delivery.conftest import Floor, serving
from tests.delivery.provider import recipient

from sendora.delivery.rescue import Rescuer, rescue
from sendora.delivery.schedule import Scheduler, start_due
from sendora.delivery.submit import cancel, find_send
from sendora.kernel.errors import Conflict, NotFound
from sendora.kernel.ids import OrgId, ProjectId, SendId, new_id


async def test_a_send_starts_when_it_is_due(floor: Floor) -> None:
    """B096: woken for its own time, long before the safety poll would come by."""
    at = floor.kernel.clock.now() + timedelta(seconds=1)
    async with serving(Scheduler(floor.kernel), floor.planner(), floor.dispatcher(), floor.accountant()):
        send = await floor.submit([recipient(behaves.OK)], scheduled_for=at)
        assert send.status == "scheduled"
        said = await floor.closed(send, 10)
    assert said.accepted == 1
    planned_at = await floor.db.fetchval("SELECT planned_at FROM sends WHERE id = $1", send.id)
    assert timedelta() <= planned_at - at < timedelta(seconds=2)


async def test_a_time_that_has_passed_is_now(floor: Floor) -> None:
    send = await floor.submit([], scheduled_for=floor.kernel.clock.now() - timedelta(days=1), ttl_s=600)
    assert send.status == "queued"
    assert send.expires_at > floor.kernel.clock.now()


async def test_each_send_starts_once_whoever_schedules(floor: Floor) -> None:
    """F-S2, F-S3: many that are due, many that look."""
    sends = [await floor.submit([], scheduled_for=floor.kernel.clock.now() + timedelta(hours=1)) for _ in range(120)]
    await floor.submit([], scheduled_for=floor.kernel.clock.now() + timedelta(hours=5))
    await floor.db.execute("UPDATE sends SET scheduled_for = scheduled_for - interval '2 hours'")
    started = await asyncio.gather(*(start_due(floor.kernel) for _ in range(3)))
    assert sum(started) == len(sends)
    rows = await floor.db.fetch("SELECT status, count(*) AS n FROM sends GROUP BY status")
    assert {row["status"]: row["n"] for row in rows} == {"queued": 120, "scheduled": 1}


async def test_cancel_and_claim_exclude_each_other(floor: Floor) -> None:
    """B097, F-L7: exactly one of {cancelled, dispatched}, and the 409 is true."""
    at = floor.kernel.clock.now() + timedelta(hours=1)
    sends = [await floor.submit([], scheduled_for=at) for _ in range(40)]
    await floor.db.execute("UPDATE sends SET scheduled_for = now()")
    outcomes, _ = await asyncio.gather(
        asyncio.gather(*(cancel(floor.kernel, floor.org, send.id) for send in sends), return_exceptions=True),
        start_due(floor.kernel),
    )
    for send, outcome in zip(sends, outcomes, strict=True):
        if isinstance(outcome, Conflict):
            assert await floor.status(send) == "queued"
            assert outcome.details == {"reason": "already_dispatched"}
        else:
            assert not isinstance(outcome, BaseException)
            assert outcome.status == await floor.status(send) == "cancelled"


async def test_what_cannot_be_cancelled(floor: Floor) -> None:
    """B097, C61: only what is scheduled; a second cancel says that it was cancelled."""
    send = await floor.submit([])
    with pytest.raises(Conflict) as conflict:
        await cancel(floor.kernel, floor.org, send.id)
    assert conflict.value.details == {"reason": "already_dispatched"}
    later = await floor.submit([], scheduled_for=floor.kernel.clock.now() + timedelta(hours=1))
    assert (await cancel(floor.kernel, floor.org, later.id)).status == "cancelled"
    with pytest.raises(Conflict) as again:
        await cancel(floor.kernel, floor.org, later.id)
    assert again.value.details == {"reason": "already_cancelled"}


async def test_nobody_else_finds_it(floor: Floor) -> None:
    """C03: another org's or project's send is not there."""
    send = await floor.submit([])
    for org, project in ((OrgId(new_id()), None), (floor.org, ProjectId(new_id()))):
        with pytest.raises(NotFound):
            await find_send(floor.kernel, org, send.id, project=project)
        with pytest.raises(NotFound):
            await cancel(floor.kernel, org, send.id, project=project)
    with pytest.raises(NotFound):
        await find_send(floor.kernel, floor.org, SendId(new_id()))


async def test_what_is_late_is_told_of_again(floor: Floor) -> None:
    """The safety poll: whoever lost a wake gets another one, and what is in time gets none."""
    assert await rescue(floor.kernel) == []
    await floor.submit([recipient(behaves.OK)])
    assert await rescue(floor.kernel) == []
    await floor.db.execute("UPDATE sends SET created_at = now() - interval '1 minute'")
    assert await rescue(floor.kernel) == ["wake.plan"]
    heard: list[str] = []
    end = floor.kernel.bus.on_wake("wake.plan", heard.append)
    async with serving(Rescuer(floor.kernel)):

        async def told() -> bool:
            await rescue(floor.kernel)
            return bool(heard)

        await eventually(told)
    end()


async def test_chunks_that_nobody_serves_are_told_of(floor: Floor) -> None:
    one = recipient(behaves.OK)
    send = await floor.submit([one])
    async with serving(floor.planner()):
        await eventually(lambda: _sending(floor, send.id))
    await floor.db.execute("UPDATE chunks SET due_at = now() - interval '1 minute'")
    assert await rescue(floor.kernel) == ["wake.shards", f"wake.{one.bytes[0] & 63}"]


async def _sending(floor: Floor, send: SendId) -> bool:
    return await floor.db.fetchval("SELECT planned_at IS NOT NULL FROM sends WHERE id = $1", send) is True
