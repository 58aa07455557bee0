"""Sends at a local time, on the wire: each in their own zone, by day and by night, and again."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from tests.conftest import eventually
from tests.flows.test_policies import tokens
from tests.world import World

from sendora.delivery.schedule import POLL_S

FIRST = "Pacific/Kiritimati"
"""UTC+14: a local time that has just come there comes elsewhere later."""
NEXT = "Etc/GMT-8"
"""UTC+8, six hours after it."""
LATER = "Etc/GMT-2"
"""UTC+2, twelve hours after it."""

LONG_S = 20 * 3_600


def now_in(ahead_of_utc: int) -> datetime:
    return (datetime.now(UTC) + timedelta(hours=ahead_of_utc)).replace(tzinfo=None, microsecond=0)


async def four_zones(world: World) -> list[str]:
    """Ann is first, Ben next, Cid later; of Dan's zone nobody knows."""
    for user, zone in (("ann", FIRST), ("ben", NEXT), ("cid", LATER)):
        await world.device(f"ok-{user}", "ios", userId=user, timezone=zone)
    await world.device("ok-dan", userId="dan")
    for user in ("ann", "ben", "cid", "dan"):
        await world.app.post("/identify", {"userId": user, "traits": {}})
    return ["ann", "ben", "cid", "dan"]


async def waiting(world: World, send: UUID) -> dict[str, datetime]:
    """When who waits is due, by user."""
    rows = await world.fetch("SELECT recipients, due_at FROM chunks WHERE send_id = $1 AND closed_at IS NULL", send)
    users = {UUID(id_): device["userId"] for id_, device in (await world.devices()).items()}
    return {users[one]: row["due_at"] for row in rows for one in row["recipients"]}


async def accepted(world: World, send: UUID, n: int) -> None:
    """So many of the four; the others are open."""

    async def balanced() -> bool:
        balance = await world.balance(send)
        assert (balance["targeted"], balance["accepted"], balance["open"]) == (4, n, 4 - n), balance
        return True

    await eventually(balanced)


@pytest.mark.rule("B096", "B110", "C91")
@pytest.mark.parametrize("by", ["userIds", "audienceId", "tokens"])
async def test_each_in_their_own_zone(world: World, by: str) -> None:
    """One send, one plan: now for whom it is time, later for the others; whose zone is unknown has the org's default
    one (as of quiet hours, B110), else UTC. Each lives from their own time on, an hour unless it is said otherwise."""
    users = await four_zones(world)
    target: dict[str, Any] = {by: users}
    if by == "audienceId":
        target = {by: await world.everybody()}
    elif by == "tokens":
        target = {by: sorted(await tokens(world, *users))}
    at = now_in(+14)
    first = await world.send(**target, schedule={"at": at.isoformat(), "zone": "recipient"})
    await accepted(world, first, 1)
    noon = at.replace(tzinfo=UTC)
    assert await waiting(world, first) == {
        "ben": noon - timedelta(hours=8),
        "cid": noon - timedelta(hours=2),
        "dan": noon,
    }
    assert {one.token for one in await world.pushed(first)} == await tokens(world, "ann")

    await world.policies(orgDefaultTimezone=NEXT)
    second = await world.send(**target, schedule={"at": at.isoformat(), "zone": "recipient"})
    await accepted(world, second, 1)
    assert await waiting(world, second) == {
        "ben": noon - timedelta(hours=8),
        "cid": noon - timedelta(hours=2),
        "dan": noon - timedelta(hours=8),
    }
    # Hours later, which a test does not wait for.
    await world.bring_forward(first)
    assert (await world.ended(first))["counts"]["accepted"] == 4
    assert {one.token for one in await world.pushed(first)} == await tokens(world, *users)
    assert (await world.report(first)).complaints == []


@pytest.mark.rule("B109", "B110", "B096")
async def test_quiet_hours_hold_at_their_own_time(world: World) -> None:
    """B109: at a time that is night everywhere each goes on to the end of the night where they are; B110: without any
    zone nothing is quiet."""
    users = await four_zones(world)
    at = now_in(+14)
    ends = at.replace(minute=0, second=0) + timedelta(hours=2)
    await world.policies(quietHoursStartLocal=(at - timedelta(hours=1)).hour, quietHoursEndLocal=ends.hour)
    send = await world.send(userIds=users, schedule={"at": at.isoformat(), "zone": "recipient"}, ttlSeconds=LONG_S)
    end = ends.replace(tzinfo=UTC) - timedelta(hours=14)

    async def deferred() -> bool:
        assert (await waiting(world, send)).get("ann") == end
        return True

    await eventually(deferred)
    assert await world.pushed(send) == []
    rows = await world.fetch("SELECT own_at FROM chunks WHERE send_id = $1 AND NOT planned", send)
    assert [row["own_at"] for row in rows] == [at.replace(tzinfo=UTC) - timedelta(hours=14)]

    # Brought forward it is not night where the others are, six and twelve hours behind; of Dan nobody knows.
    await world.bring_forward(send)
    await accepted(world, send, 3)
    assert {one.token for one in await world.pushed(send)} == await tokens(world, "ben", "cid", "dan")

    # She moves to where it is day, and the time of her plan has come.
    [ann] = [device for device in (await world.devices()).values() if device["userId"] == "ann"]
    await world.app.post("/push/tokens", {"token": ann["token"], "platform": "ios", "userId": "ann", "timezone": NEXT})
    await world.bring_forward(send)
    assert (await world.ended(send))["counts"]["accepted"] == 4
    assert (await world.report(send)).complaints == []


@pytest.mark.rule("B096", "C91")
async def test_again_and_again(world: World) -> None:
    """A series starts by itself when its occurrence is due, and the next one is there already."""
    await world.device("ok-ann", "ios", userId="ann")
    at = now_in(0) + timedelta(seconds=2)
    requested = await world.server.post(
        "/push/send",
        {
            "userIds": ["ann"],
            "title": "T",
            "body": "B",
            "schedule": {"at": at.isoformat(), "zone": "UTC", "rrule": "FREQ=DAILY"},
        },
    )
    send = UUID(requested["id"])
    assert (await world.ended(send))["counts"]["accepted"] == 1
    row = (await world.fetch("SELECT planned_at - scheduled_for AS late FROM sends WHERE id = $1", send))[0]
    assert timedelta() <= row["late"] < timedelta(seconds=POLL_S) / 2, "the safety poll would have come later"
    listed = await world.server.get("/push/sends?status=scheduled")
    assert [(one["scheduleId"], one["scheduledFor"][:19]) for one in listed] == [
        (requested["scheduleId"], (at + timedelta(days=1)).isoformat())
    ]
    assert (await world.report(send)).complaints == []
