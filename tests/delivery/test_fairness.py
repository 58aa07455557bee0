"""A transactional send overtakes, and tenants take turns, at every place where they could be in each other's way."""

import asyncio
from uuid import UUID

import pytest
from tests.conftest import eventually
from tests.delivery import provider as behaves
from tests.delivery.conftest import Floor, serving
from tests.delivery.provider import recipient

from sendora.delivery.dispatch import FLIGHTS_MAX
from sendora.delivery.lanes.seam import ANSWER_S
from sendora.delivery.phases import SHARDS, Class, Send
from sendora.delivery.plan import CLASS_MAX, PLANS_MAX
from sendora.kernel.ids import OrgId, new_id


def everywhere() -> list[UUID]:
    """One recipient of each shard."""
    return [UUID(bytes=bytes([shard]) + recipient(behaves.OK).bytes[1:]) for shard in range(SHARDS)]


async def planned(floor: Floor, *sends: Send) -> int:
    count: int = await floor.db.fetchval(
        "SELECT count(*) FROM sends WHERE planned_at IS NOT NULL AND id = ANY ($1)", [send.id for send in sends]
    )
    return count


@pytest.mark.parametrize(("many", "one"), [("bulk", "now"), ("now", "bulk")])
async def test_sends_that_take_long_to_plan_hold_up_no_other_class(floor: Floor, many: Class, one: Class) -> None:
    """Promise 5: every place for broadcasts is taken, and the same tenant's code goes out; and the other way round."""
    floor.channel.slow = {(floor.org, many)}
    floor.channel.evaluating = asyncio.Semaphore(0)
    others = [await floor.submit([recipient(behaves.OK)], class_=many) for _ in range(PLANS_MAX + 1)]
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):

        async def full() -> bool:
            taken = await floor.db.fetchval("SELECT count(*) FROM sends WHERE plan_until > now()")
            return bool(taken == CLASS_MAX and floor.channel.planned)

        await eventually(full)
        send = await floor.submit([recipient(behaves.OK)], class_=one)
        assert (await floor.closed(send)).accepted == 1
        assert not await planned(floor, *others)
        for _ in others:
            floor.channel.evaluating.release()
        for send in others:
            await floor.closed(send)


async def test_a_tenant_with_many_broadcasts_lets_another_plan_its_own(floor: Floor) -> None:
    """Promise 5: whoever has asked for ten is not served ten times before whoever asked for one later."""
    many, other = floor.org, OrgId(new_id())
    floor.channel.slow = {(many, "bulk")}
    floor.channel.evaluating = asyncio.Semaphore(0)
    broadcasts = [await floor.submit([recipient(behaves.OK)], org=many) for _ in range(2 * PLANS_MAX)]
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        await eventually(lambda: floor.channel.planned)
        one = await floor.submit([recipient(behaves.OK)], org=other)
        for ended in (1, 2):  # A place among those that are planned, then one among those that write.
            floor.channel.evaluating.release()
            await eventually(lambda ended=ended: _reaches(floor, broadcasts, ended))  # type: ignore[misc]
        assert (await floor.closed(one)).accepted == 1
        assert await planned(floor, *broadcasts) == 2
        for _ in broadcasts:
            floor.channel.evaluating.release()
        for send in broadcasts:
            await floor.closed(send)


async def _reaches(floor: Floor, sends: list[Send], n: int) -> bool:
    return await planned(floor, *sends) >= n


async def test_what_a_broadcast_reads_holds_up_no_transactional_send(floor: Floor) -> None:
    """Promise 5: more chunks wait for their recipients than may be read at a time, and a code passes them."""
    floor.channel.slow = {(floor.org, "bulk")}
    floor.channel.reading = asyncio.Event()
    worker = floor.dispatcher()
    async with serving(floor.planner(), worker, floor.accountant()):
        broadcast = await floor.submit(everywhere())
        await eventually(lambda: len(worker._flights) > FLIGHTS_MAX // 2)
        code = await floor.submit([recipient(behaves.OK)], class_="now")
        assert (await floor.closed(code)).accepted == 1
        assert not sum((await floor.states(broadcast)).values(), ())
        floor.channel.reading.set()
        assert (await floor.closed(broadcast)).accepted == SHARDS


async def test_slow_tenants_do_not_take_the_last_flight(floor: Floor) -> None:
    """Promise 5: two tenants whose providers hang fill the flights, and a third one's chunk is taken up."""
    first, second, third = floor.org, OrgId(new_id()), OrgId(new_id())
    floor.channel.lanes |= {second: "loop:2", third: "loop:3"}
    floor.provider.hold = asyncio.Event()
    worker = floor.dispatcher()
    async with serving(floor.planner(), worker, floor.accountant()):
        hanging = [await floor.submit(everywhere(), org=org) for org in (first, second)]
        await eventually(lambda: len(worker._flights) >= FLIGHTS_MAX)
        who = recipient(behaves.OK)
        floor.provider.spared.add(who)
        # Sooner than the others' silence ends their flights.
        assert (await floor.closed(await floor.submit([who], org=third), ANSWER_S / 2)).accepted == 1
        assert len(worker._flights) >= FLIGHTS_MAX
        floor.provider.hold.set()
        for send in hanging:
            assert (await floor.closed(send)).accepted == SHARDS
