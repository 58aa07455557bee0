"""A provider refuses everybody for a while, because it is too much (F-V1): 429 with a Retry-After of a second.

Few are asked in vain: the lane rests as it is told, and whoever was refused waits and loses nothing.
"""

from collections.abc import AsyncIterator

import pytest
from tests.conftest import eventually
from tests.world import World, cluster, settle

DEVICES = 3_000
WINDOW = 100
"""Of each dispatcher; with the provider's 5 ms a worker that does not slow down asks all devices within a second."""
THROTTLE_AFTER = 400
WITHIN_S = 60.0


@pytest.fixture
async def world() -> AsyncIterator[World]:
    extra = {"SENDORA_DISPATCH__WINDOW_BULK": str(WINDOW)}
    async with cluster("throttles", dispatchers=2, extra=extra) as running, settle(running) as settled:
        yield settled


@pytest.mark.chaos
@pytest.mark.rule("C96")
async def test_a_provider_that_throttles_everybody(world: World) -> None:
    await world.fleet(DEVICES, "ok~5")
    send = await world.send(audienceId=await world.everybody())
    await world.asked(THROTTLE_AFTER, WITHIN_S)

    async def somebody_has_waited() -> bool:
        due = "SELECT FROM chunks WHERE send_id = $1 AND attempt > 1 AND due_at < now()"
        return bool(await world.fetch(due, send))

    await world.cluster.ask_simulator("POST", "/_/switches", {"throttleAll": True})
    await eventually(somebody_has_waited, WITHIN_S, 0.05)
    in_vain = {push.token for push in await world.pushed(send) if push.status == 429}
    await world.cluster.ask_simulator("POST", "/_/switches", {"throttleAll": False})
    await world.ended(send, WITHIN_S)

    assert 0 < len(in_vain) < DEVICES / 2, "in the second that the first waited all could have been asked"
    report = await world.report(send)
    assert report.complaints == []
    assert (report.open, report.duplicates, report.repeated) == (0, 0, 0)
    assert report.states["accepted"] == report.targeted == DEVICES
    assert await world.accepted_twice(send) == 0
    world.cluster.check()
