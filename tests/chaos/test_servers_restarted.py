"""NATS, Postgres or Valkey dies (SIGKILL) and comes back while events flow in.

Clients see 503 with Retry-After, or a delay; what was accepted is accounted for, and what a client sent again after a
503 with the same id and time is one event (F-N1, F-P1, F-R1, F-I2).
"""

import asyncio
import time
from typing import Any

import aiohttp
import pytest
from tests.conftest import eventually
from tests.world import World

BATCHES = 400
BATCH = 25
KILL_AT = 100
"""Batches that were acknowledged when the server is killed."""
WITHIN_S = 60.0


@pytest.mark.chaos
@pytest.mark.rule("C94")
@pytest.mark.parametrize("server", ["nats", "postgres", "valkey"])
async def test_restart_during_ingest(world: World, server: str) -> None:
    acknowledged = 0
    refusals: list[tuple[int, str | None]] = []
    numbers = iter(range(BATCHES))
    halfway = asyncio.Event()

    async def sender(session: aiohttp.ClientSession) -> None:
        nonlocal acknowledged
        for number in numbers:
            await _deliver(session, number, refusals)
            acknowledged += 1
            if acknowledged == KILL_AT:
                halfway.set()

    async def nemesis() -> None:
        await halfway.wait()
        await asyncio.to_thread(world.cluster.servers.kill, server)
        await asyncio.to_thread(world.cluster.servers.restart, server)

    async with (
        aiohttp.ClientSession(world.cluster.url, headers=world.app.headers) as session,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(nemesis())
        for _ in range(8):
            group.create_task(sender(session))

    world.cluster.check()
    assert acknowledged == BATCHES
    assert all(status == 503 and retry_after is not None for status, retry_after in refusals), refusals[:5]
    accounting = await _settled(world, BATCHES * BATCH)
    assert accounting["stored"] == BATCHES * BATCH, "every event that was acknowledged, once"
    assert accounting["accepted"] == accounting["stored"] + accounting["duplicate"] + accounting["bad"]
    assert accounting["bad"] == 0


async def _deliver(session: aiohttp.ClientSession, number: int, refusals: list[tuple[int, str | None]]) -> None:
    """Post one batch until it is acknowledged, as an SDK does: the same ids and times each time."""
    events = [
        {
            "eventType": "tick",
            "module": "analytics",
            "userId": f"u{number % 50}",
            "eventId": f"{number}-{index}",
            "timestamp": "2026-01-01T00:00:00Z",
        }
        for index in range(BATCH)
    ]
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        async with session.post("/api/v1/events/batch", json={"events": events}) as response:
            if response.status == 200:
                assert (await response.json())["data"]["accepted"] == BATCH
                return
            refusals.append((response.status, response.headers.get("Retry-After")))
        await asyncio.sleep(0.1)
    raise AssertionError(f"batch {number} was not accepted in {WITHIN_S} s; last refusals {refusals[-3:]}")


async def _settled(world: World, stored: int) -> dict[str, Any]:
    async def stored_all() -> dict[str, Any]:
        accounting: dict[str, Any] = await world.server.get("/events/accounting")
        assert accounting["stored"] >= stored, accounting
        return accounting

    return await eventually(stored_all, WITHIN_S, 0.2)
