"""When a person may be reached, how often, in which language, and on whose device: decided for each recipient."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from tests.conftest import eventually
from tests.world import World

AT_NIGHT = "Etc/UTC"
BY_DAY = "Etc/GMT-12"
"""Twelve hours ahead of where it is night, whatever the time: a window of three hours does not reach so far."""

LONG_S = 6 * 3_600


def night() -> tuple[dict[str, Any], datetime]:
    """Quiet hours that hold now at Greenwich, wrapping midnight when it is late; and the instant at which they end,
    which is at least an hour away."""
    now = datetime.now(UTC)
    ends = now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=2)
    begins = now - timedelta(hours=1)
    return {"quietHoursStartLocal": begins.hour, "quietHoursEndLocal": ends.hour}, ends


async def three_zones(world: World) -> list[str]:
    """Ada sleeps, Bob does not, and of Cyd nobody knows where he is."""
    await world.device("ok-ada", userId="ada", timezone=AT_NIGHT)
    await world.device("ok-bob", "ios", userId="bob", timezone=BY_DAY)
    await world.device("ok-cyd", userId="cyd")
    return ["ada", "bob", "cyd"]


@pytest.mark.rule("B108", "B109", "B110", "C46")
async def test_quiet_hours_suppress(world: World) -> None:
    """B108: by the zone of the device; B110: without a zone nothing is quiet, unless the org has a default one."""
    users = await three_zones(world)
    window, _ = night()
    await world.policies(**window, deferInQuietHours=False)
    first = await world.sent(userIds=users)
    balance = await world.balance(first)
    assert (balance["targeted"], balance["accepted"]) == (3, 2)
    assert balance["reasons"] == {"suppressed": {"quiet_hours": 1}}
    assert {one.token for one in await world.pushed(first)} == await tokens(world, "bob", "cyd")

    await world.policies(orgDefaultTimezone=AT_NIGHT)
    second = await world.sent(userIds=users)
    assert (await world.balance(second))["reasons"] == {"suppressed": {"quiet_hours": 2}}
    assert {one.token for one in await world.pushed(second)} == await tokens(world, "bob")

    alone = await world.ended(await world.send(userIds=["ada"]))
    assert (alone["status"], alone["suppressedReason"]) == ("suppressed", "quiet_hours")
    assert (await world.report(first, second)).complaints == []


@pytest.mark.rule("B109", "B096")
async def test_quiet_hours_defer(world: World) -> None:
    """B109: the recipient stays open until the window ends, and nobody is asked to deliver anything before."""
    ada = await world.device("ok-ada", userId="ada", timezone=AT_NIGHT)
    await world.device("ok-bob", "ios", userId="bob", timezone=BY_DAY)
    window, ends = night()
    await world.policies(**window)
    send = await world.send(userIds=["ada", "bob"], ttlSeconds=LONG_S)

    async def deferred() -> bool:
        balance = await world.balance(send)
        assert (balance["accepted"], balance["open"]) == (1, 1), balance
        [chunk] = await world.fetch("SELECT due_at, attempt FROM chunks WHERE send_id = $1 AND NOT planned", send)
        assert (chunk["due_at"], chunk["attempt"]) == (ends, 1), "the window's end, and no try is spent"
        return True

    await eventually(deferred)
    assert (await world.server.get(f"/push/sends/{send}"))["status"] == "sending"
    assert {one.token for one in await world.pushed(send)} == await tokens(world, "bob")

    # Due before her night is over: she is asked after again, and goes on waiting.
    await world.bring_forward(send)
    await eventually(lambda: waits(world, send, ends))
    assert {one.token for one in await world.pushed(send)} == await tokens(world, "bob")

    # She lands where it is day.
    await world.app.post(
        "/push/tokens", {"token": ada["token"], "platform": "android", "userId": "ada", "timezone": BY_DAY}
    )
    await world.bring_forward(send)
    assert (await world.ended(send))["status"] == "sent"
    report = await world.report(send)
    assert (report.complaints, report.states["accepted"], report.duplicates) == ([], 2, 0)


@pytest.mark.rule("B109")
async def test_the_night_outlasts_the_send(world: World) -> None:
    """A send lives an hour unless it says otherwise; whose night is longer does not get it in the morning."""
    await world.device("ok-ada", userId="ada", timezone=AT_NIGHT)
    window, _ = night()
    await world.policies(**window)
    send = await world.sent(userIds=["ada"])
    balance = await world.balance(send)
    assert balance["reasons"] == {"expired": {"ttl": 1}}
    assert await world.pushed(send) == []


@pytest.mark.rule("C46", "B106")
async def test_critical_alerts_pass(world: World) -> None:
    """C46: a critical alert wakes people up, unless the org says that it must not."""
    await world.device("ok-ada", "ios", userId="ada", timezone=AT_NIGHT)
    window, _ = night()
    await world.policies(**window, deferInQuietHours=False, freqCapPerUserPerDay=1)
    critical = {"userIds": ["ada"], "criticalAlert": {"soundName": "siren", "volume": 1}}
    sends = [await world.sent(**critical) for _ in range(2)]
    assert [one.status for one in await world.pushed(*sends)] == [200, 200]
    await world.policies(criticalAlertsBypassPolicies=False)
    held = await world.sent(**critical)
    assert (await world.balance(held))["reasons"] == {"suppressed": {"quiet_hours": 1}}
    await world.policies(quietHoursStartLocal=None)
    held = await world.sent(**critical)
    assert (await world.balance(held))["reasons"] == {"suppressed": {"frequency_cap": 1}}


@pytest.mark.rule("B111", "C37")
async def test_caps_count_sends_of_a_person(world: World) -> None:
    """B111: by hour and by day, and a suppressed send is none; C37: three devices are one person."""
    for number, platform in enumerate(("ios", "android", "web")):
        await world.device(f"ok-{number}", platform, userId="ada")
    await world.policies(freqCapPerUserPerHour=1, freqCapPerUserPerDay=2)
    first = await world.sent(userIds=["ada"])
    assert (await world.balance(first))["accepted"] == 3
    second = await world.ended(await world.send(userIds=["ada"]))
    assert (second["status"], second["suppressedReason"]) == ("suppressed", "frequency_cap")
    assert second["counts"]["suppressed"] == 3

    await world.policies(freqCapPerUserPerHour=None)
    third = await world.sent(userIds=["ada"])
    assert (await world.balance(third))["accepted"] == 3, "the second send was suppressed and does not count"
    fourth = await world.sent(userIds=["ada"])
    assert (await world.balance(fourth))["reasons"] == {"suppressed": {"frequency_cap": 3}}

    # Another worker takes over, and knows whom it may not reach.
    cluster = world.cluster
    await cluster.roles.pop("dispatch-1").stop()
    await cluster.add("dispatch-1", ["dispatch"])
    fifth = await world.sent(userIds=["ada"])
    assert (await world.balance(fifth))["reasons"] == {"suppressed": {"frequency_cap": 3}}
    report = await world.report(first, third, fourth, fifth)
    assert (report.complaints, report.requests) == ([], 6)


@pytest.mark.rule("B112", "B095")
async def test_caps_of_devices_without_a_user(world: World) -> None:
    """B112: the cap counts by token."""
    one, other = await world.device("ok-one"), await world.device("ok-other")
    await world.policies(freqCapPerUserPerDay=1)
    first = await world.sent(tokens=[one["token"]])
    assert (await world.balance(first))["accepted"] == 1
    second = await world.sent(tokens=[one["token"], other["token"]])
    balance = await world.balance(second)
    assert (balance["accepted"], balance["reasons"]) == (1, {"suppressed": {"frequency_cap": 1}})
    assert [push.token for push in await world.pushed(second)] == [other["token"]]


@pytest.mark.rule("B114", "C40", "B094")
async def test_locale_chain(world: World) -> None:
    """B114: the exact tag, then the two-letter language, then what is said to everybody; of title and body alike."""
    expected = {
        "es-MX": ("Hola", "Adiós"),
        "es": ("Hola", "Adiós"),
        "pt-BR": ("Hi", "Tchau"),
        "pt-PT": ("Hi", "Bye"),
        "en-US": ("Hi", "Bye"),
    }
    for locale in expected:
        await world.device(f"ok-{locale}", userId=f"user-{locale}", locale=locale)
        await world.app.post("/identify", {"userId": f"user-{locale}", "traits": {}})
    await world.device("ok-none", userId="user-none")
    await world.app.post("/identify", {"userId": "user-none", "traits": {}})
    send = await world.sent(
        audienceId=await world.everybody(),
        title="Hi",
        body="Bye",
        localizedTitle={"es": "Hola"},
        localizedBody={"es": "Adiós", "pt-BR": "Tchau"},
    )
    users = {device["token"]: device["userId"] for device in (await world.devices()).values()}
    said = {users[one.token]: (one.title, one.body) for one in await world.pushed(send)}
    assert said == {f"user-{locale}": words for locale, words in {**expected, "none": ("Hi", "Bye")}.items()}


@pytest.mark.rule("B115")
async def test_strict_locale(world: World) -> None:
    """B115: without a body for everybody, whoever reads none of the languages gets nothing."""
    for locale in ("de-DE", "de-AT", "de"):
        await world.device(f"ok-{locale}", userId=f"user-{locale}", locale=locale)
    send = await world.sent(
        userIds=["user-de-DE", "user-de-AT", "user-de"], body="", localizedBody={"de-DE": "Guten Tag"}
    )
    balance = await world.balance(send)
    assert (balance["accepted"], balance["reasons"]) == (1, {"suppressed": {"locale_unsupported": 2}})
    assert [one.body for one in await world.pushed(send)] == ["Guten Tag"]


@pytest.mark.rule("B083", "C36", "C96")
async def test_a_device_that_moved_on(world: World) -> None:
    """What is meant for Ada does not reach the device that is Bob's by now."""
    device = await world.device("ok-shared", userId="ada")
    assert (await world.device("ok-shared", userId="bob"))["id"] == device["id"]
    to_ada = await world.sent(userIds=["ada"])
    balance = await world.balance(to_ada)
    assert (balance["targeted"], balance["unreachable"]) == (0, 1)
    to_bob = await world.sent(userIds=["bob"])
    assert [one.send_id for one in await world.pushed(to_ada, to_bob)] == [str(to_bob)]


@pytest.mark.rule("B084")
async def test_a_device_that_moves_on_under_way(world: World) -> None:
    """Also when the send was planned while it was still hers."""
    await world.device("ok-shared", userId="ada", timezone=AT_NIGHT)
    window, ends = night()
    await world.policies(**window)
    send = await world.send(userIds=["ada"], ttlSeconds=LONG_S)
    await eventually(lambda: waits(world, send, ends))
    await world.device("ok-shared", userId="bob", timezone=BY_DAY)
    await world.bring_forward(send)
    shown = await world.ended(send)
    assert (shown["status"], shown["suppressedReason"]) == ("suppressed", "owner_changed")
    assert await world.pushed(send) == []


@pytest.mark.rule("C69", "B065", "B111")
async def test_a_takeover_under_way(world: World) -> None:
    """C69: whoever signs in is the same person, so the send that waits for them goes on."""
    await world.device("ok-0", userId="anon-1", timezone=AT_NIGHT)
    window, ends = night()
    await world.policies(**window)
    send = await world.send(userIds=["anon-1"], ttlSeconds=LONG_S, title="{{user.userId}} {{trait.firstName}}")
    await eventually(lambda: waits(world, send, ends))
    ada = await world.app.post("/identify", {"userId": "ada", "anonymousId": "anon-1", "traits": {"firstName": "Ada"}})

    async def known() -> bool:
        answer = await world.ask("GET", f"/profiles/{ada['id']}")
        return answer.status == 200

    await eventually(known)
    await world.device("ok-0", userId="ada", timezone=BY_DAY)
    await world.bring_forward(send)
    shown = await world.ended(send)
    assert (shown["status"], shown["suppressedReason"]) == ("sent", None)
    assert [one.title for one in await world.pushed(send)] == ["ada Ada"]


async def tokens(world: World, *users: str) -> set[str]:
    return {device["token"] for device in (await world.devices()).values() if device["userId"] in users}


async def waits(world: World, send: UUID, until: datetime) -> bool:
    """Somebody of the send is open, and due at the instant."""
    rows = await world.fetch("SELECT due_at FROM chunks WHERE send_id = $1 AND closed_at IS NULL", send)
    assert [row["due_at"] for row in rows] == [until], rows
    return True
