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
BROADCASTS = 3
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


async def large_broadcasts(world: World) -> list[UUID]:
    """Planned to the last recipient and on their way: seconds of work, however slow the machine is meanwhile."""
    audience = await crowd(world, BROADCAST)
    sends = [await world.send(audienceId=audience) for _ in range(BROADCASTS)]

    async def running() -> bool:
        planned = await world.fetch("SELECT FROM sends WHERE id = ANY ($1) AND planned_at IS NOT NULL", sends)
        return len(planned) == BROADCASTS and len(await world.pushed(*sends)) >= WINDOW

    await eventually(running, 30)
    return sends


async def test_a_transactional_send_overtakes_a_running_broadcast(world: World) -> None:
    """Promise 5: planned later than everybody in the broadcasts, it goes out before many of them."""
    await world.device("ok-ada", userId="ada")
    broadcasts = await large_broadcasts(world)
    code = await world.sent(userIds=["ada"], **{"class": "now"})
    for send in broadcasts:
        await world.ended(send, 60)
    (push,) = await world.pushed(code)
    pushes = await world.pushed(*broadcasts)
    assert len(pushes) == BROADCASTS * BROADCAST
    overtaken = sum(one.at > push.at for one in pushes)
    assert overtaken >= BROADCAST, "hundreds of those who had waited longer were served later"
    assert not (await world.report(*broadcasts, code)).complaints


async def test_two_tenants_share_while_both_have_something_to_send(world: World, other: World) -> None:
    """Promise 5: the smaller broadcast, asked for later, has about half of the service until it ends."""
    audience = await crowd(other, SMALL)
    large = await large_broadcasts(world)
    small = await other.send(audienceId=audience)
    await other.ended(small, 60)
    for send in large:
        await world.ended(send, 60)
    mine = sorted(one.at for one in await other.pushed(small))
    theirs = [one.at for one in await world.pushed(*large)]
    assert (len(mine), len(theirs)) == (SMALL, BROADCASTS * BROADCAST)
    # While the smaller one had a full window's worth waiting; its last few answers come while the other goes on.
    first, last = mine[0], mine[-(WINDOW // 2)]
    beside = sum(first <= at <= last for at in theirs)
    assert max(theirs) > last, "the larger one was not done"
    assert SMALL / 3 <= beside <= SMALL * 5 / 3, f"{beside} beside {SMALL - WINDOW // 2}"
    for tenant, sends in ((world, large), (other, [small])):
        assert not (await tenant.report(*sends)).complaints
