"""Devices that change their token, come back from the dead, and walk into a place."""

import pytest
from tests.conftest import eventually
from tests.world import World


@pytest.mark.rule("B257", "B085")
async def test_nobody_gets_a_message_twice_after_a_rotation(world: World) -> None:
    """B257: the app registers its new token and deletes nothing. A device that says who it is gets one message from
    then on; one that does not gets two, until a provider calls the old token dead (B085)."""
    await world.device("ok-old", userId="ada", deviceId="adas-phone")
    new = await world.device("ok-new", userId="ada", deviceId="adas-phone")
    old = await world.device("ok-first", userId="bob")
    also = await world.device("ok-second", userId="bob")
    send = await world.sent(userIds=["ada", "bob"])
    assert sorted(one.token for one in await world.pushed(send)) == sorted(
        device["token"] for device in (new, old, also)
    )
    assert (await world.report(send)).complaints == []


@pytest.mark.rule("B087", "B085")
async def test_a_dead_device_is_restored(world: World) -> None:
    """B087: it is skipped by later sends, and listed with the send that found it dead; restored, it is asked again."""
    gone = await world.device("gone-phone", userId="ada")
    await world.device("ok-phone", userId="ada")
    first = await world.sent(userIds=["ada"])

    async def found_dead() -> list[tuple[str, str, str]]:
        return [(row["id"], row["sendId"], row["lane"]) for row in await world.server.get("/push/tokens/quarantine")]

    assert await eventually(found_dead) == [(gone["id"], str(first), "fcm")]
    second = await world.sent(userIds=["ada"])
    assert len(await world.pushed(second)) == 1
    restored = await world.server.post("/push/tokens/restore", {"provider": "fcm"})
    assert restored["restored"] == 1
    third = await world.sent(userIds=["ada"])
    assert len(await world.pushed(third)) == 2
    assert await eventually(found_dead) == [(gone["id"], str(third), "fcm")]
    assert (await world.report(first, second, third)).complaints == []


@pytest.mark.rule("B135", "B136")
async def test_whoever_walks_in_is_greeted(world: World) -> None:
    """B135: a transition is an event that a send's audience is made of, as soon as the report was answered; B136: and a
    number of its fence."""
    ada = await world.device("ok-ada", userId="ada")
    await world.device("ok-bob", userId="bob")
    circle = {"name": "Shop", "latitude": 48.2, "longitude": 16.37, "radiusMeters": 100, "triggers": ["enter"]}
    fence = await world.server.post("/push/geofences", circle)
    [armed] = await world.app.get("/push/geofences?platform=ios&latitude=48.2&longitude=16.37")
    assert (armed["id"], armed["distanceMeters"]) == (fence["id"], 0.0)
    rule = {"event": "geofence.entered", "op": "occurred_in_last", "value": "1d"}
    audience = await world.server.post("/audiences", {"name": "visitors", "rules": {"all": [rule]}})
    report = {"geofenceId": fence["id"], "event": "enter", "tokenId": ada["id"]}
    await world.app.post("/push/geofences/event", report)
    send = await world.sent(audienceId=audience["id"])
    assert [one.token for one in await world.pushed(send)] == [ada["token"]]

    async def counted() -> bool:
        stats = await world.server.get(f"/push/geofences/{fence['id']}/stats")
        return bool(stats["entered"] == 1)

    await eventually(counted)
