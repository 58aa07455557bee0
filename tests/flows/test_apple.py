"""What is Apple's own: two ways of being known, and two environments of devices, on both kinds of lanes."""

import pytest
from tests.world import World, cluster, settle

pytestmark = pytest.mark.timeout(180)

LANES = pytest.mark.parametrize("lanes", ["native", "plain"])


async def environments(world: World) -> dict[str, str]:
    """Device -> what is known of its environment."""
    rows = await world.fetch("SELECT id, environment FROM push_tokens WHERE org_id = $1", world.keys.org)
    return {str(row["id"]): row["environment"] for row in rows}


@LANES
@pytest.mark.rule("B089", "B087")
async def test_certificates_and_environments(lanes: str) -> None:
    """A certificate opens the connection and no token is sent (B089). A device that says the wrong environment is tried
    in the other one, remembered there, and not retired (B087); one that neither knows is."""
    async with cluster("apple", extra={"SENDORA_DISPATCH__LANES": lanes}) as running, settle(running) as world:
        credentials = await running.ask_simulator("GET", "/_/credentials")
        await world.server.put("/push/providers/apns", credentials["apnsCertificate"])
        known = await world.device("ok-ada", "ios", userId="ada")
        send = await world.sent(userIds=["ada"])
        [push] = await world.pushed(send)
        assert push.status == 200
        assert (await world.fetch("SELECT count(*) FROM push_grants WHERE sealed IS NOT NULL"))[0][0] == 0

        # Said nothing, so it counts as production; the other way round; and rightly said.
        wrong = await world.device("ok-sandbox-eve", "ios", userId="eve")
        other = await world.device("ok-production-eve", "ios", userId="eve", environment="sandbox")
        right = await world.device("ok-sandbox-bob", "ios", userId="eve", environment="sandbox")
        dead = await world.device("badtoken-eve", "ios", userId="eve")
        send = await world.send(userIds=["eve"])
        shown = await world.ended(send)
        assert (shown["counts"]["accepted"], shown["counts"]["rejected"]) == (3, 1)
        asked = sorted((push.token, push.status) for push in await world.pushed(send))
        tokens = {id_: device["token"] for id_, device in (await world.devices()).items()}
        expected = [(wrong, 400), (wrong, 200), (other, 400), (other, 200), (right, 200), (dead, 400), (dead, 400)]
        assert asked == sorted((tokens[device["id"]], status) for device, status in expected)
        assert await environments(world) == {
            known["id"]: "production",
            wrong["id"]: "sandbox",
            other["id"]: "production",
            right["id"]: "sandbox",
            dead["id"]: "sandbox",
        }
        assert (await world.balance(send))["reasons"]["rejected"] == {"BadDeviceToken": 1}

        again = await world.sent(userIds=["eve"])
        assert {push.token: push.status for push in await world.pushed(again)}.items() >= {
            tokens[device["id"]]: 200 for device in (wrong, other, right)
        }.items()
        assert (await world.report(send, again)).complaints == []
