"""Several apps in one project, each with its own credentials, on both kinds of lanes."""

from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from tests.conftest import eventually
from tests.world import World, cluster, settle

pytestmark = pytest.mark.timeout(180)

DRIVERS = "com.example.drivers"


async def configure(world: World) -> None:
    """The project's own credentials, and another team's and another Firebase project's for the drivers' app."""
    await world.configure()
    pair = ec.generate_private_key(ec.SECP256R1())
    p8 = pair.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    public = pair.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    known = {"keyId": "DRIVERKEY1", "teamId": "DRIVERS001"}
    lesson = {**known, "publicKeyPem": public, "bundleIds": [DRIVERS]}
    await world.cluster.ask_simulator("POST", "/_/apns-keys", lesson)
    await world.server.put("/push/providers/apns", {**known, "p8Key": p8, "bundleId": DRIVERS, "app": "drivers"})
    account = (await world.cluster.ask_simulator("GET", "/_/credentials"))["fcm"]["serviceAccount"]
    account["project_id"] += "-drivers"
    await world.server.put("/push/providers/fcm", {"serviceAccount": account, "bundleIds": [DRIVERS], "app": "drivers"})


async def lanes_of(world: World, send: UUID, devices: dict[str, dict[str, Any]]) -> dict[str, str]:
    """By whom each device was asked for last."""
    found = {}
    for name, device in devices.items():
        trace = await world.server.get(f"/push/sends/{send}/recipients/{device['id']}/trace")
        found[name] = trace["attempts"][-1]["lane"]
    return found


async def ledger(world: World, send: str) -> list[tuple[str, str | None]]:
    """State and provider of everybody, once somebody is there."""

    async def rows() -> list[tuple[str, str | None]]:
        found = await world.fetch("SELECT state, provider FROM deliveries WHERE send_id = $1", UUID(send))
        return [(row["state"], row["provider"]) for row in found]

    return await eventually(rows)


@pytest.mark.parametrize("lanes", ["native", "plain"])
async def test_each_app_travels_under_its_own_credential(lanes: str) -> None:
    """The simulator refuses a team's token for another team's app, also for a Live Activity. Tokens that expire are
    renewed for each credential; an app without its own is the project's again."""
    async with cluster("apps", extra={"SENDORA_DISPATCH__LANES": lanes}) as running, settle(running) as world:
        await configure(world)
        devices = {
            "rider's iPhone": await world.device("ok-one", "ios", userId="ada"),
            "driver's iPhone": await world.device("ok-two", "ios", userId="ada", bundleId=DRIVERS),
            "rider's Android": await world.device("ok-three", "android", userId="ada", bundleId="com.example.riders"),
            "driver's Android": await world.device("ok-four", "android", userId="ada", bundleId=DRIVERS),
            "browser": await world.device("ok-five", "web", userId="ada"),
        }
        expected = dict(zip(devices, ["apns", "apns/drivers", "fcm", "fcm/drivers", "webpush"], strict=True))
        first = await world.sent(userIds=["ada"])
        assert await lanes_of(world, first, devices) == expected
        assert {push.status for push in await world.pushed(first)} <= {200, 201}
        projects = {push.id.split("/")[1] for push in await world.pushed(first) if push.transport == "fcm" and push.id}
        assert projects == {"sendora-simulator", "sendora-simulator-drivers"}

        said = {"userId": "ada", "activityType": "Ride", "externalId": "ride-1", "pushToken": "ok-ride"}
        activity = await world.app.post("/push/live-activities/start-token", {**said, "bundleId": DRIVERS})
        path = f"/push/live-activities/{activity['id']}/update"
        updated, _ = await world.server.call("PATCH", path, {"contentState": {"km": 3}})
        assert await ledger(world, updated["sendId"]) == [("accepted", "apns/drivers")]

        await world.fetch("UPDATE push_grants SET minted_at = minted_at - interval '21 minutes'")
        await running.ask_simulator("POST", "/_/switches", {"expireProviderTokens": True})
        second = await world.sent(userIds=["ada"])
        report = await world.report(first, second)
        assert (report.complaints, report.states["accepted"]) == ([], 10)
        refused = sorted(push.transport for push in await world.pushed(second) if push.status in (401, 403))
        assert refused == ["apns", "apns", "fcm", "fcm"]

        for provider in ("apns", "fcm"):
            await world.server.call("DELETE", f"/push/providers/{provider}?app=drivers")
        third = await world.send(userIds=["ada"])
        await world.ended(third)
        assert (await world.balance(third))["reasons"] == {"rejected": {"TopicDisallowed": 1}}
        assert await lanes_of(world, third, devices) == expected | {
            "driver's iPhone": "apns",
            "driver's Android": "fcm",
        }
