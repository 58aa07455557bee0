"""An anonymous person becomes a known one: from that commit on each device is the known one's, and is asked once.

The proof is the simulator's log: what a provider was asked to deliver, and how often. (`signIn`, which makes such a
takeover by itself, is the auth room's; here it is an identify that names the anonymous id.)
"""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from tests.conftest import eventually
from tests.world import Platform, World

PLATFORMS: tuple[Platform, ...] = ("ios", "android", "web")


async def identify(world: World, **said: Any) -> str:
    """Said, and nothing waited for; where it stands in the log."""
    _, headers = await world.app.call("POST", "/identify", said)
    return headers["x-sendora-position"]


async def taken(world: World, *sends: UUID) -> list[list[str]]:
    """The devices that a provider accepted each send for, in the order of their tokens."""
    requests = await world.pushed(*sends)
    return [
        sorted(one.token for one in requests if one.send_id == str(send) and one.status in (200, 201)) for send in sends
    ]


@pytest.mark.rule("B059", "B060", "B066", "B067", "C69")
async def test_each_device_once(world: World) -> None:
    """B067: whoever is asked for, by whichever of the names, and whether or not the app has registered its device
    again; B059: three platforms, one person; B060: what comes under the anonymous id later is the known one's."""
    devices = [await world.device(f"ok-old-{platform}", platform, userId="anon") for platform in PLATFORMS]
    devices += [await world.device(f"ok-new-{platform}", platform, userId="ada") for platform in PLATFORMS]
    tokens = sorted(device["token"] for device in devices)
    await identify(world, userId="ada", traits={"plan": "pro"})
    rules = {"all": [{"trait": "plan", "op": "eq", "value": "pro"}]}
    audience = (await world.server.post("/audiences", {"name": "pros", "rules": rules}))["id"]

    position = await identify(world, userId="ada", anonymousId="anon")
    # At once: what was said just before the call counts.
    sends = await asyncio.gather(
        world.send(userIds=["ada"]),
        world.send(userIds=["anon"]),
        world.send(userIds=["ada", "anon", "ada"]),
        world.send(audienceId=audience),
    )
    for send in sends:
        assert (await world.ended(send))["status"] == "sent"
    assert await taken(world, *sends) == [tokens] * 4

    # The apps start again, and register under the name that they have now.
    for platform in PLATFORMS:
        await world.device(f"ok-old-{platform}", platform, userId="ada")
    again = await world.sent(userIds=["ada"])
    assert await taken(world, again) == [tokens]
    owners = {device["userId"] for device in (await world.devices()).values()}
    assert owners == {"ada"}
    report = await world.report(*sends, again)
    assert (report.complaints, report.duplicates, report.repeated) == ([], 0, 0)

    people = await world.server.get(f"/profiles?after={position}")
    assert [person["externalId"] for person in people] == ["ada"]
    await world.app.post("/events", {"eventType": "bought", "module": "m", "anonymousId": "anon"})
    bought = {"all": [{"event": "bought", "op": "occurred"}]}

    async def is_hers() -> bool:
        told = await world.server.post("/audiences/explain", {"rules": bought, "userId": "ada"})
        return told["member"] is True

    await eventually(is_hers)


@pytest.mark.rule("B066", "B067", "C69")
async def test_what_is_under_way_stays_under_way(world: World) -> None:
    """A send that was planned for the anonymous person reaches the device, once, though it is the known one's by then;
    and so does what is sent to the known one meanwhile."""
    old = await world.device("throttle-old", userId="anon")
    new = await world.device("ok-new", userId="ada")
    first = await world.send(userIds=["anon"])

    async def refused_once() -> bool:
        return [one.status for one in await world.pushed(first)] == [429]

    await eventually(refused_once)
    await identify(world, userId="ada", anonymousId="anon")
    second = await world.send(userIds=["ada"])
    for send in (first, second):
        await world.bring_forward(send)
        assert (await world.ended(send))["counts"]["accepted"] == (1 if send == first else 2)
    assert await taken(world, first, second) == [[old["token"]], sorted([old["token"], new["token"]])]
    assert (await world.report(first, second)).complaints == []


@pytest.mark.rule("B066", "B067", "C69")
async def test_a_chain_of_takeovers(world: World) -> None:
    """One device after the other joins; each send reaches all that there are by then, each once."""
    tokens: list[str] = []
    sends = []
    for number in range(3):
        device = await world.device(f"ok-{number}", PLATFORMS[number], userId=f"anon-{number}")
        tokens.append(device["token"])
        await identify(world, userId="ada", anonymousId=f"anon-{number}")
        sends.append(await world.sent(userIds=["ada"]))
    assert await taken(world, *sends) == [sorted(tokens[: number + 1]) for number in range(3)]
    # The known one turns out to be somebody else's former name, too.
    await identify(world, userId="countess", anonymousId="ada")
    by_each_name = [await world.sent(userIds=[name]) for name in ("countess", "ada", "anon-0")]
    assert await taken(world, *by_each_name) == [sorted(tokens)] * 3
    assert (await world.report(*sends, *by_each_name)).complaints == []
