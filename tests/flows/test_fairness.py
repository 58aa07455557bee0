"""Promise 5 through every process, with the simulator's log as the witness of who was served when.

A small window and a slow provider make a broadcast of some hundreds last for seconds: its rate is the window over the
provider's delay, on any machine.
"""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from tests.conftest import eventually
from tests.world import TRANSPORTS, World, cluster, settle

from sendora.cluster import Cluster

WINDOW = 100
DELAY_MS = 500
BROADCAST = 6 * WINDOW
SMALL = 2 * WINDOW

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Cluster]:
    async with cluster("fairness", extra={"SENDORA_DISPATCH__WINDOW_BULK": str(WINDOW)}) as started:
        yield started


@pytest.fixture
async def other(running: Cluster) -> AsyncIterator[World]:
    """A second tenant."""
    async with settle(running) as settled:
        await settled.configure()
        yield settled


async def crowd(world: World, n: int) -> str:
    """So many people with a phone each, whose provider takes its time; the audience of all of them."""
    names = [f"ok~{DELAY_MS}-{number}" for number in range(n)]
    minted = await world.cluster.ask_simulator("POST", "/_/mint", {"transport": TRANSPORTS["android"], "tokens": names})
    places = asyncio.Semaphore(32)

    async def register(number: int, token: str) -> None:
        async with places:
            await world.app.post("/push/tokens", {"token": token, "platform": "android", "userId": f"crowd-{number}"})
            await world.app.post("/identify", {"userId": f"crowd-{number}", "traits": {"crowd": True}})

    await asyncio.gather(*(register(number, token) for number, token in enumerate(minted["tokens"])))
    rule = {"all": [{"trait": "crowd", "op": "eq", "value": True}]}
    audience: str = (await world.server.post("/audiences", {"name": "crowd", "rules": rule}))["id"]
    return audience


async def planned_and_running(world: World, send: UUID) -> None:
    async def enough() -> bool:
        (row,) = await world.fetch("SELECT planned_at FROM sends WHERE id = $1", send)
        return row["planned_at"] is not None and len(await world.pushed(send)) >= WINDOW

    await eventually(enough, 30)


async def test_a_transactional_send_overtakes_a_running_broadcast(world: World) -> None:
    """Promise 5: planned later than everybody in the broadcast, it goes out before most of them."""
    audience = await crowd(world, BROADCAST)
    await world.device("ok-ada", userId="ada")
    broadcast = await world.send(audienceId=audience)
    await planned_and_running(world, broadcast)
    before = len(await world.pushed(broadcast))
    code = await world.sent(userIds=["ada"], **{"class": "now"})
    await world.ended(broadcast, 60)
    (push,) = await world.pushed(code)
    pushes = await world.pushed(broadcast)
    overtaken = sum(one.at > push.at for one in pushes)
    assert len(pushes) == BROADCAST
    assert overtaken >= (BROADCAST - before) // 2, "most of those who had waited longer were served later"
    assert not (await world.report(broadcast, code)).complaints


async def test_two_tenants_share_while_both_have_something_to_send(world: World, other: World) -> None:
    """Promise 5: the smaller broadcast, asked for later, has about half of the service until it ends."""
    large_audience, small_audience = await asyncio.gather(crowd(world, BROADCAST), crowd(other, SMALL))
    large = await world.send(audienceId=large_audience)
    await planned_and_running(world, large)
    small = await other.send(audienceId=small_audience)
    await other.ended(small, 60)
    await world.ended(large, 60)
    mine = [one.at for one in await other.pushed(small)]
    theirs = [one.at for one in await world.pushed(large)]
    assert (len(mine), len(theirs)) == (SMALL, BROADCAST)
    # While the smaller one had a full window's worth waiting; its last few answers come while the other goes on.
    first, last = min(mine), sorted(mine)[-(WINDOW // 2)]
    beside = sum(first <= at <= last for at in theirs)
    assert max(theirs) > last, "the larger one was not done"
    assert SMALL / 3 <= beside <= SMALL * 5 / 3
    for tenant, send in ((world, large), (other, small)):
        assert not (await tenant.report(send)).complaints
