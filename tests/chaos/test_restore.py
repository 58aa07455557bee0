"""A backup is restored under a cluster that has sent since: nothing goes out again before an operator has said so.

The simulator's log is the oracle (F-S6). The backup is simulated by putting the rows back that dispatch has changed.
"""

import asyncio
import sys
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from tests.conftest import eventually
from tests.world import World

WITHIN_S = 60.0
STAGES = ("worker", "dispatch-1", "dispatch-2", "scheduler")


@pytest.mark.chaos
@pytest.mark.rule("F-S6")
async def test_a_restored_backup_sends_nothing_on_its_own(world: World) -> None:
    """Neither what the backup held, nor what is asked for meanwhile: a send, a schedule, a retry, a stop."""
    await world.device("ok-ada", "ios", userId="ada")
    await world.configure()
    await world.server.call("DELETE", "/push/providers/apns")
    failed = await world.sent(userIds=["ada"])
    await world.configure()
    for number in range(5):
        await world.device(f"ok-{number}", userId=f"user-{number}")
    users = [f"user-{number}" for number in range(5)]
    first = await world.sent(userIds=users)
    await _marked(world, str(first))
    backup = (await world.fetch("SELECT * FROM cluster"))[0]
    second = await world.send(userIds=users)
    await world.ended(second)
    await _marked(world, str(second))
    assert len(await world.pushed(first, second)) == 10

    await asyncio.gather(*(world.cluster.roles.pop(name).stop() for name in STAGES))
    await world.fetch(
        "UPDATE cluster SET beat = $1, nonce = $2, send = $3", backup["beat"], backup["nonce"], backup["send"]
    )
    await world.fetch("DELETE FROM deliveries WHERE send_id = $1", second)
    await world.fetch("DELETE FROM send_counts WHERE send_id = $1", second)
    await world.fetch("DELETE FROM chunks WHERE send_id = $1", second)
    await world.fetch("DELETE FROM plan_positions WHERE send_id = $1", second)
    await world.fetch(
        "UPDATE sends SET status = 'queued', planned_at = NULL, closed_at = NULL, token_count = NULL,"
        " plan_claims = 0, plan_until = '-infinity' WHERE id = $1",
        second,
    )
    for name in STAGES:
        await world.cluster.add(name, [name.partition("-")[0]])

    # The rest of the cluster is at work: requests are taken, and each stage has said that it waits.
    for name in STAGES:
        log = world.cluster.roles[name].log
        assert log is not None
        await eventually(lambda log=log: "fence.standing" in log.read_text(), WITHIN_S, 0.05)
    async with httpx.AsyncClient(base_url=world.cluster.url, trust_env=False) as client:
        ready = (await client.get("/readyz")).json()
    assert (ready["status"], ready["parts"]["fence"]) == ("degraded", "standing")
    third = await world.send(userIds=users)
    stopped = await world.send(userIds=users)
    assert (await world.ask("POST", f"/push/sends/{stopped}/stop")).status == 200
    retried = await world.ask("POST", f"/push/sends/{failed}/retry-failed")
    assert (retried.status, retried.data["retried"]) == (200, 1)
    due = await world.send(userIds=users, scheduledFor=(datetime.now(UTC) + timedelta(days=1)).isoformat())
    await world.fetch("UPDATE sends SET scheduled_for = now() WHERE id = $1", due)
    # A plan that has ended forgets whom the call named; the backup still knew.
    await world.fetch("UPDATE sends SET target = (SELECT target FROM sends WHERE id = $2) WHERE id = $1", second, third)
    code, said = await _doctor(world)
    assert code == 1 and "the database is behind the log" in said and "--confirm-epoch" in said
    # The doctor only looks, and has taken its time.
    sends = [first, second, third, stopped, failed, due]
    assert len(await world.pushed(*sends)) == 10, "zero sends before the operator's word"
    rows = await world.fetch("SELECT id, status FROM sends WHERE id = ANY($1)", sends[1:])
    statuses = {row["id"]: row["status"] for row in rows}
    assert statuses == {second: "queued", third: "queued", stopped: "sending", failed: "sending", due: "scheduled"}
    code, said = await _doctor(world, "--confirm-epoch")
    assert code == 0 and "epoch 2" in said, said

    for send in (second, third, stopped, failed, due):
        await world.ended(send, WITHIN_S)
    pushed = [len(await world.pushed(send)) for send in (third, failed, due, stopped)]
    assert pushed == [5, 1, 5, 0], "they go on by themselves"
    assert len(await world.pushed(second)) == 10, "and what the backup held as waiting goes out again"
    world.cluster.check()


async def _marked(world: World, send: str) -> None:
    """Until the beat that tells of this send stands in both places: beyond the gap of a second."""

    async def marked() -> bool:
        [row] = await world.fetch("SELECT send FROM cluster")
        return str(row["send"]) == send

    await eventually(marked, WITHIN_S, 0.05)


async def _doctor(world: World, *arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sendora",
        "doctor",
        *arguments,
        env=world.cluster.environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()
