"""Live Activities from the app's first word to the last update, with the providers' log as the oracle."""

from typing import Any
from uuid import UUID

import pytest
from tests.conftest import eventually
from tests.world import POLL_S, World

PATH = "/push/live-activities"
ORDER = {"userId": "ada", "activityType": "OrderAttributes", "externalId": "order-1"}


async def registered(world: World, token: str, **said: Any) -> str:
    """What the app does: with the public key."""
    answer = await world.app.post(f"{PATH}/start-token", {**ORDER, "pushToken": token, **said})
    id_: str = answer["id"]
    return id_


async def updated(world: World, activity: str, **said: Any) -> UUID:
    """The send of an update."""
    answer, _ = await world.server.call("PATCH", f"{PATH}/{activity}/update", {"contentState": {"step": 1}, **said})
    return UUID(answer["sendId"])


async def ended(world: World, send: UUID) -> dict[str, Any]:
    """Its balance, once everybody has an outcome."""

    async def balanced() -> dict[str, Any]:
        balance = await world.balance(send)
        assert balance["targeted"] and not balance["open"], balance
        return balance

    return await eventually(balanced, 15.0, POLL_S)


async def tried(world: World, send: UUID) -> None:
    """Until a provider has put it off and the ledger knows."""

    async def deferred() -> bool:
        rows = await world.fetch("SELECT state FROM deliveries WHERE send_id = $1", send)
        return [row["state"] for row in rows] == ["deferred"]

    await eventually(deferred, 15.0, POLL_S)


async def shown(world: World, status: str) -> list[str]:
    return [one["id"] for one in await world.server.get(f"{PATH}?status={status}")]


@pytest.mark.rule("B129", "B130", "B132", "B256", "B100")
async def test_an_order_is_followed(world: World) -> None:
    """B130: iOS by push-type liveactivity (the simulator refuses a wrong topic, type or priority), Android by data;
    B132: the end is the last word. Each is a send that balances."""
    apple = await registered(world, "ok-apple")
    google = await registered(world, "ok-google", externalId="order-2", platform="android")
    said = {"alert": {"title": "Order delivered", "body": "Enjoy!"}}
    sends = [await updated(world, activity, **said) for activity in (apple, google)]
    for send in sends:
        assert (await ended(world, send))["accepted"] == 1
    (to_apple,), (to_google,) = await world.pushed(sends[0]), await world.pushed(sends[1])
    assert (to_apple.transport, to_apple.token, to_apple.status) == ("apns", "ok-apple", 200)
    assert (to_apple.title, to_apple.body) == ("Order delivered", "Enjoy!")
    assert to_apple.delivery_id == sends[0].hex + UUID(apple).hex
    assert (to_google.transport, to_google.token, to_google.status) == ("fcm", "ok-google", 200)
    assert to_google.title is None, "data alone: Google's SDK shows nothing by itself"

    last, _ = await world.server.call("DELETE", f"{PATH}/{apple}", {"contentState": {"step": 9}})
    sends.append(UUID(last["sendId"]))
    assert (await ended(world, sends[-1]))["accepted"] == 1
    assert await shown(world, "active") == [google]
    assert [one.status for one in await world.pushed(*sends)] == [200, 200, 200], "once each"

    async def told() -> bool:
        rows = await world.fetch("SELECT status, told FROM live_activities WHERE org_id = $1", world.keys.org)
        return all(row["told"] == row["status"] for row in rows)

    await eventually(told)


@pytest.mark.rule("B130")
async def test_the_latest_state_wins(world: World) -> None:
    """The provider puts the first update off; the token rotates, the second is taken; when the first is due again it is
    not sent any more."""
    activity = await registered(world, "throttle-1")
    first = await updated(world, activity, contentState={"step": 1})
    await tried(world, first)
    await registered(world, "ok-1")
    second = await updated(world, activity, contentState={"step": 2})
    assert (await ended(world, second))["accepted"] == 1
    assert (await ended(world, first))["reasons"] == {"suppressed": {"superseded": 1}}
    assert [(one.token, one.status) for one in await world.pushed(first, second)] == [
        ("throttle-1", 429),
        ("ok-1", 200),
    ]


@pytest.mark.rule("B130")
async def test_without_anything_newer_a_retry_goes(world: World) -> None:
    """And it goes to the token that the activity has by then."""
    activity = await registered(world, "throttle-2")
    send = await updated(world, activity)
    await tried(world, send)
    await registered(world, "ok-2")
    assert (await ended(world, send))["accepted"] == 1
    assert [(one.token, one.status) for one in await world.pushed(send)] == [("throttle-2", 429), ("ok-2", 200)]


@pytest.mark.rule("B131", "B087", "B033")
@pytest.mark.parametrize(("grammar", "platform"), [("gone-1", "ios"), ("badtoken-1", "ios"), ("gone-2", "android")])
async def test_a_dead_token(world: World, grammar: str, platform: str) -> None:
    """B033: the update was accepted all the same; B131: the activity is invalidated, and takes no more of them."""
    activity = await registered(world, grammar, platform=platform)
    assert (await ended(world, await updated(world, activity)))["rejected"] == 1

    async def invalidated() -> bool:
        return await shown(world, "invalidated") == [activity]

    await eventually(invalidated)
    refused = await world.ask("PATCH", f"{PATH}/{activity}/update", {"contentState": {}})
    assert (refused.status, refused.code) == (409, "CONFLICT")


async def test_an_activity_is_started_by_push(world: World) -> None:
    """On the device that has told a push-to-start token; an update waits for the device's word and then follows."""
    await world.app.post(
        f"{PATH}/push-to-start-token", {"userId": "ada", "activityType": "OrderAttributes", "pushToken": "ok-start"}
    )
    start = await world.server.post(
        PATH,
        {
            "userIds": ["ada", "nobody"],
            "activityType": "OrderAttributes",
            "externalId": "order-1",
            "attributes": {"externalId": "order-1"},
            "contentState": {"step": 0},
            "alert": {"title": "Order", "body": "On its way"},
        },
    )
    send = UUID(start["id"])
    balance = await ended(world, send)
    assert (balance["accepted"], balance["unreachable"], start["tokenCount"]) == (1, 1, 1)
    (pushed,) = await world.pushed(send)
    assert (pushed.token, pushed.title, pushed.status) == ("ok-start", "Order", 200)
    (activity,) = await shown(world, "starting")
    update = await updated(world, activity)
    await tried(world, update)
    assert await registered(world, "ok-update") == activity
    await world.bring_forward(update)
    assert (await ended(world, update))["accepted"] == 1
    assert [one.token for one in await world.pushed(update)] == ["ok-update"]


@pytest.mark.rule("B111")
async def test_updates_count_towards_no_cap(world: World) -> None:
    """B111: a frequency cap counts a person's messages; an activity is something that they follow."""
    await world.policies(freqCapPerUserPerDay=1)
    activity = await registered(world, "ok-apple")
    for _ in range(3):
        assert (await ended(world, await updated(world, activity)))["accepted"] == 1
    await world.device("ok-phone", userId="ada")
    first, second = [await world.sent(userIds=["ada"]) for _ in range(2)]
    assert (await world.balance(first))["accepted"] == 1
    assert (await world.balance(second))["reasons"] == {"suppressed": {"frequency_cap": 1}}
