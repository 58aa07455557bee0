"""What a push says: the variant that a person always gets, and words that are filled in for each person."""

import hashlib
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from tests.conftest import eventually
from tests.world import Platform, World

from sendora.kernel.clock import iso

USERS = [f"user-{number}" for number in range(40)]

VARIANTS: list[dict[str, Any]] = [
    {"key": "plain", "weight": 40, "title": "Plain"},
    {"key": "warm", "weight": 40, "title": "Warm", "body": "Warmly"},
    {"key": "nobody", "weight": 20, "holdout": True},
]
TITLES = {"plain": ("Plain", "B"), "warm": ("Warm", "Warmly")}
"""A variant's own words; the send's where it has none (B119)."""


def variant(test: str, user: str) -> str:
    """C44: the whole digest as a big-endian integer, and cumulative weights in the order of the array."""
    bucket = int.from_bytes(hashlib.sha256((test + user).encode()).digest(), "big") % 100
    return "plain" if bucket < 40 else "warm" if bucket < 80 else "nobody"


async def crowd(world: World) -> None:
    """A device for everybody; the first has two."""
    for number, user in enumerate(USERS):
        platform: Platform = ("ios", "android")[number % 2]
        await world.device(f"ok-{number}", platform, userId=user)
    await world.device("ok-second", "android", userId=USERS[0])


async def made(world: World) -> str:
    test = await world.server.post("/push/ab-tests", {"name": "words", "status": "active", "variants": VARIANTS})
    id_: str = test["id"]
    return id_


async def said(world: World, send: UUID) -> dict[str, set[tuple[str | None, str | None]]]:
    """By user: the title and body of each push."""
    owners = {device["token"]: device["userId"] for device in (await world.devices()).values()}
    words: dict[str, set[tuple[str | None, str | None]]] = {}
    for one in await world.pushed(send):
        words.setdefault(owners[one.token], set()).add((one.title, one.body))
    return words


@pytest.mark.rule("B116", "B117", "B119", "B120", "C44")
async def test_variants_stick(world: World) -> None:
    """B117: a person's variant is a hash of the test and the person, on each device and in each send; C44: whoever is
    held out gets nothing; B120: people are counted, however many devices and sends they have."""
    await crowd(world)
    test = await made(world)
    drawn = {user: variant(test, user) for user in USERS}
    assert set(drawn.values()) == {"plain", "warm", "nobody"}, "forty people meet every variant"
    expected = {user: {TITLES[key]} for user, key in drawn.items() if key != "nobody"}
    devices = Counter([*drawn.values(), drawn[USERS[0]]])

    sends = [await world.sent(userIds=USERS, abTestId=test) for _ in range(2)]
    for send in sends:
        assert await said(world, send) == expected
        balance = await world.balance(send)
        assert balance["reasons"] == {"suppressed": {"holdout": devices["nobody"]}}
        assert balance["variants"] == {
            key: {"suppressed" if key == "nobody" else "accepted": count} for key, count in devices.items()
        }
    people = Counter(drawn.values())
    opener = next(user for user, key in drawn.items() if key == "warm")
    theirs = {device["token"] for device in (await world.devices()).values() if device["userId"] == opener}
    for one in await world.pushed(*sends):
        if one.token in theirs:
            await world.app.post("/push/track-open", {"sendId": one.delivery_id, "clickAction": "body"})

    counts = {key: (n, 0 if key == "nobody" else n, int(key == "warm")) for key, n in people.items()}

    async def counted() -> bool:
        stats = await world.server.get(f"/push/ab-tests/{test}/stats")
        assert {one["key"]: (one["assigned"], one["sent"], one["opened"]) for one in stats["variants"]} == counts
        return stats["sampleRatio"]["mismatch"] is False

    await eventually(counted)
    assert (await world.report(*sends)).complaints == []


@pytest.mark.rule("C44", "C45", "C61", "B118", "B121")
async def test_a_test_in_its_life(world: World) -> None:
    """C44: weights are fixed once it has been sent; B118: paused or completed, the send's own words are used; C45: also
    when a winner has been named."""
    user = USERS[0]
    await world.device("ok-0", userId=user)
    test = await made(world)
    only = [{"key": "only", "weight": 100, "title": "Only", "body": "This"}]
    await world.server.call("PATCH", f"/push/ab-tests/{test}", {"variants": only})
    first = await world.sent(userIds=[user], abTestId=test)
    assert await said(world, first) == {user: {("Only", "This")}}

    refused = await world.ask("PATCH", f"/push/ab-tests/{test}", {"variants": VARIANTS})
    assert (refused.status, refused.details["reason"]) == (409, "already_dispatched"), refused
    again = await world.sent(userIds=[user], abTestId=test)
    assert await said(world, again) == {user: {("Only", "This")}}

    for change in ({"status": "paused"}, {"status": "completed", "winnerKey": "only"}):
        await world.server.call("PATCH", f"/push/ab-tests/{test}", change)
        send = await world.sent(userIds=[user], abTestId=test)
        assert await said(world, send) == {user: {("T", "B")}}, change
        assert (await world.balance(send))["variants"] == {}


@pytest.mark.rule("B099", "B098")
async def test_one_send_goes_through_everything(world: World) -> None:
    """B099: a direct send has its language, its variant, the cap and the quiet hours of each person, and stands in the
    list of sends afterwards; B098: the template and the test that it names are looked up when it goes out."""
    now = datetime.now(UTC)
    begins, ends = now - timedelta(hours=1), now + timedelta(hours=2)
    await world.device("ok-asleep", userId="asleep", timezone="Etc/UTC")
    for name in ("capped", "french", "plain"):
        await world.device(f"ok-{name}", userId=name, timezone="Etc/GMT-12", locale="fr" if name == "french" else "en")
    await world.sent(userIds=["capped"])
    await world.policies(
        quietHoursStartLocal=begins.hour, quietHoursEndLocal=ends.hour, deferInQuietHours=False, freqCapPerUserPerDay=1
    )
    template = await world.server.post(
        "/push/templates",
        {"name": "t", "title": "Of the template", "body": "Hello", "localizedBody": {"fr": "Bonjour"}},
    )
    test = await world.server.post(
        "/push/ab-tests",
        {"name": "x", "status": "active", "variants": [{"key": "only", "title": "Of the variant", "weight": 100}]},
    )
    references = {"templateId": template["id"], "abTestId": test["id"]}
    send = await world.sent(userIds=["asleep", "capped", "french", "plain"], title=None, body=None, **references)
    assert await said(world, send) == {
        "french": {("Of the variant", "Bonjour")},
        "plain": {("Of the variant", "Hello")},
    }
    balance = await world.balance(send)
    assert balance["reasons"] == {"suppressed": {"quiet_hours": 1, "frequency_cap": 1}}
    assert balance["variants"] == {"only": {"accepted": 2, "suppressed": 1}}, "who sleeps was not drawn"
    listed = {one["id"]: one for one in await world.server.get("/push/sends")}
    assert listed[str(send)]["abTestId"] == test["id"] and listed[str(send)]["templateId"] == template["id"]


@pytest.mark.rule("C44", "B095")
async def test_variants_of_devices_without_a_user(world: World) -> None:
    """C44: the hash falls back to the id of the device."""
    devices = [await world.device(f"ok-{number}") for number in range(20)]
    test = await made(world)
    send = await world.sent(tokens=[device["token"] for device in devices], abTestId=test)
    pushed = {one.token: (one.title, one.body) for one in await world.pushed(send)}
    drawn = {device["token"]: variant(test, device["id"]) for device in devices}
    assert pushed == {token: TITLES[key] for token, key in drawn.items() if key != "nobody"}


@pytest.mark.rule("B122", "B123", "B124", "B125", "B126", "B089")
async def test_scopes_on_every_transport(world: World) -> None:
    """B122: traits, what we know of the person, and the event, of which a direct send has none (B125); B126: nothing is
    escaped. The providers see the finished words; the browser's are read after decryption (RFC 8291)."""
    platforms: tuple[Platform, ...] = ("ios", "android", "web")
    for platform in platforms:
        await world.device(
            f"ok-{platform}", platform, userId="ada", locale="en-GB", timezone="Europe/London", appVersion="1"
        )
    traits = {"firstName": 'Ada <b>"&"</b> 💡', "email": "trait@example.com", "plan": {"name": "pro"}, "visits": 7}
    ada = await world.app.post("/identify", {"userId": "ada", "email": "ada@example.com", "traits": traits})
    template = await world.server.post(
        "/push/templates",
        {
            "name": "greeting",
            "title": "Hi {{trait.firstName}} ({{user.userId}})",
            "body": "{{user.email}} {{trait.email}} {{trait.plan.name}} {{trait.visits}} {{user.locale}} "
            "{{user.timezone}} {{user.createdAt}} [{{event.amount}}{{trait.nothing}}{{user.plan}}]",
        },
    )
    send = await world.sent(userIds=["ada"], title=None, body=None, templateId=template["id"])
    created_at = datetime.fromisoformat((await world.server.get(f"/profiles/{ada['id']}"))["createdAt"])
    body = f"ada@example.com trait@example.com pro 7 en-GB Europe/London {iso(created_at)} []"
    assert {one.transport: (one.status, one.title, one.body) for one in await world.pushed(send)} == {
        transport: (status, 'Hi Ada <b>"&"</b> 💡 (ada)', body)
        for transport, status in (("apns", 200), ("fcm", 200), ("webpush", 201))
    }
    assert (await world.report(send)).complaints == []


@pytest.mark.rule("B098", "B128")
async def test_references_are_resolved_when_it_goes_out(world: World) -> None:
    """B098: a template that changes before a scheduled send is due goes out as it is then; one that is gone rejects."""
    await world.device("ok-0", userId="ada")
    templates = [
        (await world.server.post("/push/templates", {"name": name, "title": "Before", "body": "B"}))["id"]
        for name in ("changed", "deleted")
    ]
    due = datetime.now(UTC) + timedelta(seconds=1)
    changed, deleted = [
        await world.send(userIds=["ada"], title=None, body=None, templateId=template, scheduledFor=due.isoformat())
        for template in templates
    ]
    await world.server.call("PATCH", f"/push/templates/{templates[0]}", {"title": "After"})
    await world.server.call("DELETE", f"/push/templates/{templates[1]}")
    assert (await world.ended(changed))["status"] == "sent"
    assert (await world.ended(deleted))["status"] == "failed"
    assert [one.title for one in await world.pushed(changed, deleted)] == ["After"]
    assert (await world.balance(deleted))["reasons"] == {"rejected": {"template_missing": 1}}
