"""A provider hangs in the middle of a broadcast: its process stands still, its connections stay open, and the kernel
goes on accepting new ones for it (F-V6). Later it goes on, and answers what nobody waits for any more.

The simulator is stopped, so it is also the witness: what it had read and what lay in its sockets stands in its log
afterwards, and the ledger must know of each that it may have arrived.
"""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import eventually
from tests.world import World, cluster, settle

from sendora.cluster import Role

DEVICES = 2_000
DELAY_MS = 200
WINDOW = 200
"""Of each dispatcher: with the provider's delay a broadcast of some seconds, on any machine."""
DISPATCHERS = 2
STOP_AFTER = 400
"""Requests in the simulator's log when it is stopped: well inside the broadcast."""
WITHIN_S = 60.0
"""A request is given up after ten seconds without an answer, and a circuit stays open for five."""
POLL_S = 0.2


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    extra = {"SENDORA_DISPATCH__WINDOW_BULK": str(WINDOW), "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    async with cluster("hangs", dispatchers=DISPATCHERS, extra=extra) as running, settle(running) as settled:
        yield settled


@pytest.mark.chaos
@pytest.mark.rule("C96")
@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
async def test_a_provider_that_stands_still(world: World, delivery: str) -> None:
    await world.fleet(DEVICES, f"ok~{DELAY_MS}")
    send = await world.send(audienceId=await world.everybody(), delivery=delivery)
    await world.asked(STOP_AFTER, WITHIN_S)

    async def left_alone() -> bool:
        return all(await _open_breakers(world))

    async def tried_again() -> bool:
        return not any(await _open_breakers(world))

    async def unanswered() -> int:
        rows = await world.fetch(
            "SELECT FROM deliveries WHERE send_id = $1 AND reason = 'no_answer'"
            " AND (state = 'unknown' OR state = 'deferred' AND repeated)",
            send,
        )
        return len(rows)

    with _standing_still(world.cluster.roles["simulator"]):
        await eventually(left_alone, WITHIN_S, POLL_S)
        assert 0 < await eventually(unanswered) <= DISPATCHERS * WINDOW
        shown = await world.server.get(f"/push/sends/{send}")
        assert shown["closedAt"] is None, "what was not sent waits for the provider"

    async def ended() -> dict[str, Any]:
        await world.bring_forward(send)
        shown: dict[str, Any] = await world.server.get(f"/push/sends/{send}")
        assert shown["closedAt"] is not None, shown
        return shown

    await eventually(ended, WITHIN_S, POLL_S)

    report = await world.report(send)
    accepted_twice = await world.accepted_twice(send)
    assert report.complaints == []
    assert report.open == 0
    assert report.targeted == DEVICES == sum(report.states.values())
    assert report.duplicates == 0, "nobody is accepted twice unless the ledger says `repeated`"
    if delivery == "at_most_once":
        assert (accepted_twice, report.repeated) == (0, 0)
        assert report.states["accepted"] + report.states["unknown"] == DEVICES
    else:
        assert accepted_twice <= report.repeated
        assert report.states["accepted"] == DEVICES
    await eventually(tried_again, WITHIN_S, POLL_S)
    world.cluster.check()


@contextmanager
def _standing_still(role: Role) -> Iterator[None]:
    os.kill(role.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(role.pid, signal.SIGCONT)


async def _open_breakers(world: World) -> list[float | None]:
    """Of all dispatchers: how many leave APNs alone, and how many FCM."""
    return [await world.told(f'sendora_lane_open_breakers{{provider="{name}"}}') for name in ("apns", "fcm")]
