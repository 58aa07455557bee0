"""Who got a broadcast less its exclusions, and why everybody else did not."""

from typing import Any
from uuid import UUID

import pytest
from tests.conftest import eventually
from tests.flows.test_policies import LONG_S, night
from tests.world import World


async def known(world: World, name: str) -> None:
    """Until the profile store has read what was said of the last one, and so of all."""

    async def there() -> bool:
        return (await world.ask("GET", f"/profiles/{name}")).status == 200

    await eventually(there)


async def list_of(world: World, *names: str) -> str:
    made = await world.server.post("/audiences", {"name": "list", "type": "list"})
    added = await world.server.post(f"/audiences/{made['id']}/contacts", {"userIds": list(names)})
    assert added == {"added": len(names), "already": 0, "unknown": []}
    id_: str = made["id"]
    return id_


@pytest.mark.rule("B081", "B094", "C35")
async def test_why_everybody_did_or_did_not(world: World) -> None:
    """The first thing that stood in the way, in the order in which a send decides; what was decided counts, whatever
    happened since."""
    people = ("anna", "bert", "carl", "dora", "emil", "fred")
    for name in people:
        await world.app.post("/identify", {"userId": name, "traits": {"plan": "free" if name == "bert" else "pro"}})
    await known(world, people[-1])
    for name in ("anna", "bert", "carl", "fred"):
        await world.device(f"ok-{name}", userId=name)
    await world.device("badtoken-emil", userId="emil")
    audience = await world.server.post(
        "/audiences", {"name": "pro", "rules": {"all": [{"trait": "plan", "op": "eq", "value": "pro"}]}}
    )
    excluded = [await list_of(world, "carl"), await list_of(world, "fred")]
    send = await world.sent(audienceId=audience["id"], excludeAudienceIds=excluded)
    assert len(await world.pushed(send)) == 2, "anna, and emil whose token is none"
    balance = await world.balance(send)
    assert (balance["targeted"], balance["accepted"], balance["unreachable"]) == (2, 1, 1)

    async def why(name: str, of: UUID = send) -> dict[str, Any]:
        told: dict[str, Any] = await world.server.get(f"/profiles/{name}/why-not?sendId={of}")
        return told

    anna, emil = await why("anna"), await why("emil")
    assert (anna["member"], anna["reason"]) == (True, None)
    assert [one["state"] for one in anna["recipients"]] == ["accepted"]
    assert (emil["member"], [one["state"] for one in emil["recipients"]]) == (True, ["rejected"])
    assert emil["reason"] == f"rejected: {emil['recipients'][0]['reason']}"
    for name, member, reason in (
        ("bert", False, "not_a_member"),
        ("carl", True, "excluded"),
        ("fred", True, "excluded"),
        ("dora", True, "unreachable"),
    ):
        told = await why(name)
        assert (told["member"], told["reason"], told["recipients"]) == (member, reason, []), name
        assert told["tree"]["truth"] is member
    assert [(await why(name))["excludedBy"] for name in ("carl", "fred", "anna")] == [*excluded, None]

    # What the plan decided stands, though she would not be a member any more.
    await world.server.call("PATCH", "/profiles/anna", {"traits": {"plan": "free"}})
    anna = await why("anna")
    assert (anna["member"], anna["reason"], anna["tree"]["truth"]) == (True, None, False)
    await world.server.call("DELETE", f"/audiences/{audience['id']}")
    told = await why("bert")
    assert (told["member"], told["tree"], told["reason"]) == (None, None, "audience_deleted")

    named = await world.sent(userIds=["anna", "carl"], excludeAudienceIds=excluded)
    reasons = [(await why(name, named))["reason"] for name in ("anna", "carl", "bert", "dora")]
    assert reasons == [None, "excluded", "not_named", "unreachable"]
    assert (await why("anna", named))["member"] is None


async def test_whoever_waits_is_told_what_for(world: World) -> None:
    """Quiet hours hold a recipient back: open, with the reason; or suppressed, where nothing is deferred."""
    await world.app.post("/identify", {"userId": "anna"})
    device = await world.device("ok-anna", userId="anna", timezone="Etc/UTC")
    window, _ = night()
    await known(world, "anna")
    for defers, state in ((True, "open"), (False, "suppressed")):
        await world.policies(**window, deferInQuietHours=defers)
        send = await world.send(userIds=["anna"], ttlSeconds=LONG_S)
        wanted = [{"recipientId": device["id"], "state": state, "reason": "quiet_hours"}]

        async def decided(send: UUID = send, state: str = state, wanted: list[Any] = wanted) -> bool:
            told = await world.server.get(f"/profiles/anna/why-not?sendId={send}")
            return bool(told["recipients"] == wanted and told["reason"] == f"{state}: quiet_hours")

        await eventually(decided, 15.0)
