"""Why somebody got a message or not, asked of the same code that decided (promise 4)."""

from datetime import datetime
from typing import Any

import pytest
from tests.conftest import eventually
from tests.flows.test_policies import AT_NIGHT, LONG_S, night
from tests.world import World

pytestmark = pytest.mark.timeout(120)


async def traced(world: World, send: Any, device: dict[str, Any]) -> dict[str, Any]:
    answer = await world.ask("GET", f"/push/sends/{send}/recipients/{device['id']}/trace")
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.data
    return found


def steps(trace: dict[str, Any]) -> dict[str, dict[str, Any]]:
    assert [step["passed"] for step in trace["steps"][:-1]] == [True] * (len(trace["steps"]) - 1)
    return {step["step"]: step for step in trace["steps"]}


@pytest.mark.rule("B111", "B114", "B117")
async def test_every_outcome_is_explained(world: World) -> None:
    """Leaves with the values seen, chain of locales, bucket, caps, and every try of a provider."""
    await world.configure()
    for user in ("ada", "bob", "eve", "kim"):
        await world.app.post("/identify", {"userId": user, "traits": {"plan": "pro"}})
    ada = await world.device("ok-ada", userId="ada", locale="es-MX", timezone="Europe/Madrid")
    bob = await world.device("flaky-bob", userId="bob")
    eve = await world.device("gone-eve", "ios", userId="eve")
    kim = await world.device("ok-kim", userId="kim")
    rules = {"all": [{"trait": "plan", "op": "eq", "value": "pro"}]}
    audience = await world.server.post("/audiences", {"name": "pro", "rules": rules})
    variants = [{"key": "a", "weight": 100}, {"key": "b", "weight": 0}]
    test = await world.server.post("/push/ab-tests", {"name": "t", "status": "active", "variants": variants})
    await world.policies(freqCapPerUserPerDay=1)
    await world.sent(userIds=["kim"])
    said = {"localizedBody": {"es": "hola"}, "abTestId": test["id"]}
    send = await world.sent(audienceId=audience["id"], **said)

    trace = await traced(world, send, ada)
    assert (trace["state"], trace["userId"], trace["variant"], trace["reproduced"]) == ("accepted", "ada", "a", True)
    seen = steps(trace)
    assert list(seen) == [
        "target", "address", "active", "ownership", "lateness", "quietHours", "variant", "locale", "frequencyCap",
    ]  # fmt: skip
    assert seen["target"]["member"] is True
    [leaf] = seen["target"]["tree"]["all"]
    assert (leaf["truth"], leaf["observed"]) == (True, {"value": "pro"})
    assert (seen["locale"]["chain"], seen["locale"]["body"]) == (["es-mx", "es"], "es")
    assert (seen["variant"]["testId"], seen["variant"]["person"]) == (test["id"], "ada")
    [attempt] = trace["attempts"]
    assert (attempt["lane"], attempt["status"], attempt["waitedMs"]) == ("fcm", "accepted", None)

    trace = await traced(world, send, bob)
    assert (trace["state"], trace["reproduced"]) == ("accepted", True)
    assert [(one["attempt"], one["status"], one["reason"]) for one in trace["attempts"]] == [
        (1, "deferred", "UNAVAILABLE"),
        (2, "deferred", "UNAVAILABLE"),
        (3, "accepted", None),
    ]
    assert all(one["waitedMs"] >= 1_000 for one in trace["attempts"][1:])

    trace = await traced(world, send, eve)
    assert (trace["state"], trace["reason"]) == ("rejected", "Unregistered")
    assert trace["attempts"][0]["lane"] == "apns"

    trace = await traced(world, send, kim)
    assert (trace["state"], trace["reason"], trace["reproduced"]) == ("suppressed", "frequency_cap", True)
    cap = trace["steps"][-1]
    assert (cap["step"], cap["day"], cap["passed"]) == (
        "frequencyCap",
        {"cap": 1, "received": 1, "windowHours": 24},
        False,
    )
    assert trace["attempts"][0]["lane"] is None

    # What was decided stays; that it would be decided otherwise today is said.
    await world.policies(freqCapPerUserPerDay=None)
    trace = await traced(world, send, kim)
    assert (trace["state"], trace["reproduced"]) == ("suppressed", False)


@pytest.mark.rule("B108", "B109")
async def test_who_waits_is_explained_too(world: World) -> None:
    """Quiet hours in the device's own zone: what the clock shows there, and when they end."""
    await world.configure()
    ada = await world.device("ok-ada", userId="ada", timezone=AT_NIGHT)
    window, ends = night()
    await world.policies(**window, orgDefaultTimezone="Asia/Tokyo")
    send = await world.send(userIds=["ada"], ttlSeconds=LONG_S)

    async def looked_at() -> dict[str, Any]:
        found = await traced(world, send, ada)
        assert found["attempts"]
        return found

    trace = await eventually(looked_at)
    quiet = trace["steps"][-1]
    assert (quiet["step"], quiet["passed"], quiet["defer"]) == ("quietHours", False, True)
    assert (quiet["zone"], quiet["zoneSource"], quiet["window"]) == (AT_NIGHT, "device", list(window.values()))
    assert datetime.fromisoformat(quiet["until"]) == ends
    assert (trace["state"], trace["reason"], trace["reproduced"]) == ("open", "quiet_hours", None)
    missing = await world.ask("GET", f"/push/sends/{send}/recipients/{send}/trace")
    assert (missing.status, missing.code) == (404, "NOT_FOUND")
