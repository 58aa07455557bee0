"""A dispatch worker dies by SIGKILL in the middle of a broadcast, its files go with it, and another one starts.

The simulator's log is the oracle: it is written before an answer leaves. Promise 3 of the design: whoever was written
to without an answer is named, there are at most W of them for each worker killed, and only they may be repeated.
"""

from uuid import UUID

import pytest
from tests.world import World

from sendora.demo.check import Report

DEVICES = 4_000
KILL_AFTER = 600
"""Requests in the simulator's log when the worker is killed: well inside the broadcast."""
WITHIN_S = 100.0


@pytest.mark.chaos
@pytest.mark.rule("C96")
@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
async def test_sigkill_in_the_middle_of_a_broadcast(world: World, delivery: str) -> None:
    await world.fleet(DEVICES, "ok~5")
    audience = await world.everybody()
    send = await world.send(audienceId=audience, delivery=delivery)
    await world.asked(KILL_AFTER, WITHIN_S)
    victim = world.cluster.roles.pop("dispatch-1")
    await victim.kill()
    if victim.log is not None:
        victim.log.unlink()
    await world.cluster.add("dispatch-3", ["dispatch"])

    report, accepted_twice = await _settled(world, send)

    window = world.cluster.settings.dispatch.window_bulk
    assert report.complaints == []
    assert report.open == 0
    assert report.targeted == DEVICES == sum(report.states.values())
    assert report.duplicates == 0, "nobody is accepted twice unless the ledger says `repeated`"
    if delivery == "at_most_once":
        assert accepted_twice == 0
        assert report.repeated == 0
        assert report.states["unknown"] <= window
        assert report.states["accepted"] + report.states["unknown"] == DEVICES
    else:
        assert accepted_twice <= report.repeated <= window
        assert report.states["accepted"] == DEVICES


async def _settled(world: World, send: UUID) -> tuple[Report, int]:
    """The check once the send has closed, and how many devices the provider accepted more than once."""
    await world.ended(send, WITHIN_S)
    report = await world.report(send)
    return report, await world.accepted_twice(send)
