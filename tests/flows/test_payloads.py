"""What reaches the three providers of one send, in their own words, on both kinds of lanes: the simulator tells it
whole, decrypted where it is a browser's."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from tests.world import TRANSPORTS, Platform, Pushed, World, cluster, settle

from sendora.cluster import Cluster

pytestmark = pytest.mark.timeout(180)

PLATFORMS: tuple[Platform, ...] = ("ios", "android", "web")


@pytest.fixture(scope="module", params=["native", "plain"])
async def running(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    extra = {"SENDORA_DISPATCH__LANES": request.param}
    async with cluster(f"payloads-{request.param}", extra=extra) as started:
        await started.ask_simulator("POST", "/_/switches", {"logPayloads": True})
        yield started


@pytest.fixture
async def world(running: Cluster) -> AsyncIterator[World]:
    async with settle(running) as settled:
        await settled.configure()
        for platform in PLATFORMS:
            await settled.device(f"ok-{platform}", platform, userId="ada")
        await settled.app.post("/identify", {"userId": "ada", "traits": {"name": "Ada"}})
        yield settled
    running.check()


async def told(world: World, **said: Any) -> dict[str, tuple[dict[str, Any], dict[str, str]]]:
    """By transport, the payload and the headers of one send to a phone, another phone and a browser."""
    send = await world.sent(userIds=["ada"], **said)
    pushed: dict[str, Pushed] = {one.transport: one for one in await world.pushed(send)}
    assert {one.status for one in pushed.values()} <= {200, 201}, pushed
    assert set(pushed) == set(TRANSPORTS.values())
    found = {}
    for transport, one in pushed.items():
        assert one.payload is not None
        payload = msgspec.json.decode(one.payload)
        ids = payload["message"]["data"] if transport == "fcm" else payload
        assert (ids["sendoraSendId"], ids["sendoraDeliveryId"]) == (str(send), one.delivery_id)
        found[transport] = payload, one.headers
    return found


@pytest.mark.rule("B100", "B106", "B122", "B123", "B125")
async def test_a_rich_alert(world: World) -> None:
    """Words of the person, buttons, image, a critical sound, collapse and lifetime."""
    said = {
        "title": "Hello {{trait.name}}",
        "body": "Look",
        "data": {"url": "https://shop.example/{{trait.name}}"},
        "actions": [{"id": "go", "title": "Go", "url": "https://shop.example/go"}, {"id": "no", "title": "No"}],
        "image": "https://shop.example/i.png",
        "criticalAlert": {"soundName": "siren.caf", "volume": 0.5},
        "collapseId": "orders",
        "ttlSeconds": 600,
    }
    whole = await told(world, **said)

    payload, headers = whole["apns"]
    assert payload["aps"] == {
        "alert": {"title": "Hello Ada", "body": "Look"},
        "sound": {"critical": 1, "name": "siren.caf", "volume": 0.5},
        "interruption-level": "critical",
        "mutable-content": 1,
        "category": "sendora:go,no",
    }
    assert payload["data"]["url"] == "https://shop.example/Ada"
    assert (payload["image"], [one["id"] for one in payload["actions"]]) == (said["image"], ["go", "no"])
    wanted = {"apns-push-type": "alert", "apns-priority": "10", "apns-collapse-id": "orders"}
    assert headers.items() >= wanted.items()
    assert 0 < int(headers["apns-expiration"]) - _at(whole, "apns") <= 601

    message = whole["fcm"][0]["message"]
    assert message["notification"] == {"title": "Hello Ada", "body": "Look", "image": said["image"]}
    android = message["android"]
    assert (android["priority"], android["collapse_key"], android["notification"]) == (
        "HIGH",
        "orders",
        {"tag": "orders"},
    )
    assert 590 <= int(android["ttl"].removesuffix("s")) <= 600
    assert message["data"]["url"] == "https://shop.example/Ada"
    assert [one["title"] for one in msgspec.json.decode(message["data"]["actions"])] == ["Go", "No"]

    payload, headers = whole["webpush"]
    assert (payload["title"], payload["body"], payload["image"]) == ("Hello Ada", "Look", said["image"])
    assert [one["action"] for one in payload["actions"]] == ["go", "no"]
    assert (headers["urgency"], len(headers["topic"]), 590 <= int(headers["ttl"]) <= 600) == ("high", 32, True)


@pytest.mark.rule("B100", "B103")
async def test_a_silent_push_and_raw_parts(world: World) -> None:
    """Nothing is shown: Apple's background push at its priority, FCM data-only; what is raw wins, null takes out."""
    whole = await told(
        world,
        title=None,
        body=None,
        silent=True,
        data={"sync": "inbox"},
        raw={"apns": {"aps": {"badge": 3}}, "fcm": {"android": {"direct_boot_ok": True, "priority": None}}},
    )
    payload, headers = whole["apns"]
    assert payload["aps"] == {"content-available": 1, "badge": 3}
    assert (headers["apns-push-type"], headers["apns-priority"]) == ("background", "5")
    message = whole["fcm"][0]["message"]
    assert "notification" not in message
    assert (message["data"]["sync"], message["android"]["direct_boot_ok"]) == ("inbox", True)
    assert "priority" not in message["android"]
    payload, headers = whole["webpush"]
    assert (payload["silent"], payload["data"]["sync"], headers["urgency"]) == (True, "inbox", "low")


def _at(whole: dict[str, tuple[dict[str, Any], dict[str, str]]], transport: str) -> int:
    """A second that lies before the request by less than the test lasts: the id's own."""
    return int(whole[transport][0]["sendoraSendId"].replace("-", "")[:12], 16) // 1_000
