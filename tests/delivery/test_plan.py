"""A send becomes chunks once, whoever dies or comes late."""

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from tests.conftest import eventually
from tests.delivery import provider as behaves
from tests.delivery.conftest import Floor, crash, serving
from tests.delivery.provider import recipient

from sendora.delivery import failpoint
from sendora.delivery.channel import Ready
from sendora.delivery.phases import Send, Targets
from sendora.delivery.plan import CLAIMS_MAX, GIVEN_UP
from sendora.kernel.clock import FixedClock
from sendora.kernel.errors import Unavailable
from sendora.kernel.pg import Connection


def crowd(n: int, shard: int = 5) -> list[UUID]:
    """So many of one shard: several rounds, without a hundred thousand rows."""
    return [UUID(bytes=bytes([shard]) + recipient(behaves.OK).bytes[1:]) for _ in range(n)]


async def planned(floor: Floor, send: Send) -> bool:
    return await floor.db.fetchval("SELECT planned_at IS NOT NULL FROM sends WHERE id = $1", send.id) is True


async def in_chunks(floor: Floor, send: Send) -> list[UUID]:
    rows = await floor.db.fetch("SELECT recipients FROM chunks WHERE send_id = $1 ORDER BY shard, seq", send.id)
    return [one for row in rows for one in row["recipients"]]


async def test_chunks_have_one_shard_and_at_most_a_thousand(floor: Floor) -> None:
    """Design 4: the first round is one chunk a shard, the rest follows; positions and numbers go on without a gap."""
    who = crowd(5_500) + crowd(300, shard=6)
    send = await floor.submit(who)
    async with serving(floor.planner()):
        await eventually(lambda: planned(floor, send))
    assert sorted(await in_chunks(floor, send)) == sorted(who)
    rows = await floor.db.fetch(
        "SELECT shard, seq, size, planned, attempt FROM chunks WHERE send_id = $1 ORDER BY shard, seq", send.id
    )
    assert [(row["shard"], row["seq"], row["size"]) for row in rows] == [
        (5, 0, 1_000),
        (5, 1, 1_000),
        (5, 2, 1_000),
        (5, 3, 1_000),
        (5, 4, 1_000),
        (5, 5, 500),
        (6, 0, 300),
    ]
    assert all(row["planned"] and row["attempt"] == 1 for row in rows)
    assert floor.kernel.metrics.value("plan_chunks", **{"class": send.class_}) == len(rows)
    assert await floor.status(send) == "sending"
    row = await floor.db.fetchrow("SELECT token_count, audience_complete FROM sends WHERE id = $1", send.id)
    assert row is not None
    assert (row["token_count"], row["audience_complete"]) == (5_800, True)


@pytest.mark.parametrize(
    ("point", "n"),
    [
        ("plan.before_evaluate", 1),
        ("plan.mid_insert", 1),
        ("plan.mid_insert", 2),
        ("plan.after_commit", 1),
        ("plan.after_commit", 2),
        ("plan.after_wake", 2),
    ],
)
async def test_after_a_planners_death_nobody_is_planned_twice_or_missed(floor: Floor, point: str, n: int) -> None:
    """F-L1 to F-L4."""
    who = crowd(5_500)
    send = await floor.submit(who)
    await crash(point, floor.planner(), n=n)
    failpoint.disarm()
    await floor.leases_run_out()
    async with serving(floor.planner()):
        await eventually(lambda: planned(floor, send))
    assert sorted(await in_chunks(floor, send)) == sorted(who)
    assert floor.channel.planned == (1 if point == "plan.before_evaluate" else 2)


async def test_who_joins_after_a_planners_death_is_planned_above_the_position_only(floor: Floor) -> None:
    """F-L6: the plan goes on above the position as of the new evaluation; what lies below is done."""
    who = sorted(crowd(2_000))
    send = await floor.submit(who)
    await crash("plan.after_commit", floor.planner())
    failpoint.disarm()
    await floor.leases_run_out()
    last = (await in_chunks(floor, send))[-1]
    joined = crowd(50)
    await floor.db.execute(
        "UPDATE sends SET target = $2 WHERE id = $1", send.id, {"recipients": [str(one) for one in [*who, *joined]]}
    )
    async with serving(floor.planner()):
        await eventually(lambda: planned(floor, send))
    assert sorted(await in_chunks(floor, send)) == sorted([*who, *(one for one in joined if one > last)])


async def test_two_planners_of_one_send(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    """F-L5: one is paused for longer than its lease; when it wakes, its epoch is void."""
    who = crowd(1_500)
    send = await floor.submit(who)
    asleep, wake = asyncio.Event(), asyncio.Event()
    evaluate = floor.channel.recipients

    async def slowly(kernel: Any, connection: Connection, of: Send, ready: Ready) -> Targets:
        targets = await evaluate(kernel, connection, of, ready)
        if not asleep.is_set():
            asleep.set()
            await wake.wait()
        return targets

    monkeypatch.setattr(floor.channel, "recipients", slowly)
    async with serving(floor.planner()):
        await eventually(asleep.is_set)
        async with serving(floor.planner()):
            await floor.leases_run_out()
            await eventually(lambda: planned(floor, send))
            wake.set()
        assert sorted(await in_chunks(floor, send)) == sorted(who)
    assert await floor.db.fetchval("SELECT plan_epoch FROM sends WHERE id = $1", send.id) == 2


async def test_a_send_for_nobody_closes_at_once(floor: Floor) -> None:
    """C96: `sent`, since nobody was targeted; without a dispatcher or an accountant."""
    floor.channel.unreachable = 3
    send = await floor.submit([])
    async with serving(floor.planner()):
        said = await floor.closed(send)
    assert (said.targeted, said.unreachable) == (0, 3)
    assert await floor.status(send) == "sent"


async def test_it_waits_for_the_stores_and_not_longer_than_ten_seconds(floor: Floor) -> None:
    """Design 5: planned when both stores have passed the call's position; after 10 s as of what is known."""
    clock = FixedClock(datetime.now(UTC))
    floor.kernel = dataclasses.replace(floor.kernel, clock=clock)
    await floor.db.execute("UPDATE log_positions SET position = 4")
    send, late = await floor.submit(crowd(1)), await floor.submit(crowd(1))
    await floor.db.execute("UPDATE sends SET log_position = 5 WHERE id = $1", send.id)
    await floor.db.execute("UPDATE sends SET log_position = 6 WHERE id = $1", late.id)
    async with serving(floor.planner()):
        await eventually(lambda: _claimed(floor, late))
        await floor.db.execute("UPDATE log_positions SET position = 5 WHERE consumer = 'events'")
        assert not await planned(floor, send)
        await floor.db.execute("UPDATE log_positions SET position = 5 WHERE consumer = 'profiles'")
        await eventually(lambda: planned(floor, send))
        assert not await planned(floor, late)
        clock.advance(10.1)
        await eventually(lambda: planned(floor, late))
    rows = await floor.db.fetch("SELECT id, audience_complete FROM sends")
    assert {row["id"]: row["audience_complete"] for row in rows} == {send.id: True, late.id: False}


async def _claimed(floor: Floor, send: Send) -> bool:
    return bool(await floor.db.fetchval("SELECT plan_epoch = 1 FROM sends WHERE id = $1", send.id))


async def test_one_that_waits_does_not_hold_up_the_others(floor: Floor) -> None:
    await floor.db.execute("UPDATE log_positions SET position = 4")
    waiting = await floor.submit(crowd(1))
    await floor.db.execute("UPDATE sends SET log_position = 5 WHERE id = $1", waiting.id)
    quick = await floor.submit(crowd(1), class_="now")
    await floor.db.execute("UPDATE sends SET log_position = 0 WHERE id = $1", quick.id)
    async with serving(floor.planner()):
        await eventually(lambda: planned(floor, quick))
        assert not await planned(floor, waiting)


async def test_a_plan_that_always_fails_is_given_up(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    """F-M6: after 5 takes the send fails, with its reason; others are not held up."""

    async def broken(*_: Any) -> Targets:
        raise ValueError("an audience that cannot be")

    send = await floor.submit(crowd(3))
    with monkeypatch.context() as patch:
        patch.setattr(floor.channel, "recipients", broken)
        planner = floor.planner()
        async with serving(planner):

            async def failed() -> bool:
                if not planner._plans:  # Else the lease that ran out would be the one under which it gives up.
                    await floor.leases_run_out()
                    await floor.kernel.bus.wake("wake.plan")
                return await floor.status(send) == "failed"

            await eventually(failed, 20)
    row = await floor.db.fetchrow("SELECT error, plan_claims FROM sends WHERE id = $1", send.id)
    assert row is not None
    assert (row["error"], row["plan_claims"]) == (GIVEN_UP, CLAIMS_MAX + 1)


async def test_a_server_that_is_away_is_not_held_against_the_send(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def away(*_: Any) -> Targets:
        nonlocal tries
        tries += 1
        raise Unavailable(message="nobody evaluates audiences")

    send = await floor.submit(crowd(3))
    with monkeypatch.context() as patch:
        patch.setattr(floor.channel, "recipients", away)
        async with serving(floor.planner()):

            async def tried() -> bool:
                await floor.db.execute("UPDATE sends SET plan_until = '-infinity' WHERE plan_claims = 0")
                await floor.kernel.bus.wake("wake.plan")
                return tries > CLAIMS_MAX + 2

            await eventually(tried, 20)
    await floor.leases_run_out()
    async with serving(floor.planner()):
        await eventually(lambda: planned(floor, send))
    assert await floor.status(send) == "sending"


async def test_a_channel_that_is_not_known_here_waits_for_who_knows_it(floor: Floor) -> None:
    send = await floor.submit(crowd(3))
    await floor.db.execute("UPDATE sends SET channel = 'smoke' WHERE id = $1", send.id)
    async with serving(floor.planner()):

        async def postponed() -> bool:
            return (
                await floor.db.fetchval(
                    "SELECT plan_claims = 0 AND plan_until > now() AND plan_epoch > 0 FROM sends WHERE id = $1", send.id
                )
                is True
            )

        await eventually(postponed)
    assert await floor.status(send) == "queued"


async def test_a_drain_lets_go_of_plans(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next planner need not wait for anything but the lease."""
    asleep = asyncio.Event()

    async def forever(*_: Any) -> Targets:
        asleep.set()
        await asyncio.Event().wait()
        raise AssertionError

    send = await floor.submit(crowd(3))
    with monkeypatch.context() as patch:
        patch.setattr(floor.channel, "recipients", forever)
        async with serving(floor.planner()):
            await eventually(asleep.is_set)
    await floor.leases_run_out()
    async with serving(floor.planner()):
        await eventually(lambda: planned(floor, send))


async def test_expiry_counts_from_when_it_is_due(floor: Floor) -> None:
    send = await floor.submit(crowd(1), ttl_s=60)
    assert abs((send.expires_at - send.created_at - timedelta(seconds=60)).total_seconds()) < 1
    at = floor.kernel.clock.now() + timedelta(hours=2)
    later = await floor.submit(crowd(1), ttl_s=60, scheduled_for=at)
    assert later.expires_at == at + timedelta(seconds=60)
