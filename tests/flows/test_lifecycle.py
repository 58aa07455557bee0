"""From the call to the last outcome: schedules, dead and troubled devices, targets, opens, and what may be repeated."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.conftest import eventually
from tests.world import Platform, World, settle

from sendora.cluster import Cluster

PLATFORMS: tuple[Platform, ...] = ("ios", "android", "web")

SOON_S = 1.5
"""Far enough that what must happen before can happen before, on a busy machine too."""

START_WITHIN_S = 2.0


async def tries(world: World, send: UUID) -> dict[UUID, list[tuple[int, str, str | None, bool]]]:
    """The ledger of a send, by recipient: (attempt, state, reason, repeated) of each try."""
    rows = await world.fetch(
        "SELECT recipient, attempt, state, reason, repeated FROM deliveries WHERE send_id = $1 ORDER BY attempt, seq",
        send,
    )
    ledger: dict[UUID, list[tuple[int, str, str | None, bool]]] = {}
    for row in rows:
        ledger.setdefault(row["recipient"], []).append((row["attempt"], row["state"], row["reason"], row["repeated"]))
    return ledger


async def hurried(world: World, send: UUID) -> dict[str, Any]:
    """The send, once it has closed; nobody waits longer for a next try than it takes to ask for it."""

    async def closed() -> bool:
        await world.bring_forward(send)
        return (await world.server.get(f"/push/sends/{send}"))["closedAt"] is not None

    await eventually(closed, 15.0, 0.1)
    return await world.ended(send)


async def proven(world: World) -> None:
    """A lane carries one request at a time until a credential has been accepted on it."""
    await world.sent(tokens=["ok-first"])


# -- schedules


@pytest.mark.rule("B096", "B097", "C61", "C91", "C96")
async def test_a_scheduled_send(world: World) -> None:
    """B096: it starts when it is due; B097: until then it can be cancelled, and then nobody gets it."""
    await world.device("ok-0", userId="ada")
    due = datetime.now(UTC) + timedelta(seconds=SOON_S)
    kept, dropped = [await world.send(userIds=["ada"], scheduledFor=due.isoformat()) for _ in range(2)]
    later = await world.send(userIds=["ada"], scheduledFor=(due + timedelta(days=30)).isoformat())
    assert (await world.server.get(f"/push/sends/{kept}"))["status"] == "scheduled"
    for send in (dropped, later):
        cancelled, _ = await world.server.call("DELETE", f"/push/sends/{send}")
        assert cancelled["status"] == "cancelled"
    assert datetime.now(UTC) < due, "too slow to tell"

    assert (await world.ended(kept))["status"] == "sent"
    [pushed] = await world.pushed(kept, dropped, later)
    assert pushed.send_id == str(kept)
    late_s = pushed.at / 1_000 - due.timestamp()
    assert 0 <= late_s < START_WITHIN_S
    for send, reason in ((kept, "already_dispatched"), (dropped, "already_cancelled")):
        refused = await world.ask("DELETE", f"/push/sends/{send}")
        assert (refused.status, refused.code, refused.details["reason"]) == (409, "CONFLICT", reason)


# -- devices that are gone, or have trouble


@pytest.mark.rule("B033", "B083", "B085", "B087", "B089", "C36")
async def test_gone_devices_are_retired(world: World) -> None:
    """B087: what the provider calls gone is not asked again; B033: nobody hears of it as an error."""
    for platform in PLATFORMS:
        await world.device(f"gone-{platform}", platform, userId="ada")
    alive = await world.device("ok-phone", userId="ada")
    first = await world.sent(userIds=["ada"])
    balance = await world.balance(first)
    assert (balance["accepted"], balance["rejected"]) == (1, 3)
    assert set(balance["reasons"]["rejected"]) == {"Unregistered", "UNREGISTERED", "subscription_gone"}

    async def retired() -> bool:
        active = {id_ for id_, device in (await world.devices()).items() if device["isActive"]}
        assert active == {alive["id"]}, active
        return True

    await eventually(retired)
    second = await world.sent(userIds=["ada"])
    assert (await world.balance(second))["targeted"] == 1
    assert [one.token for one in await world.pushed(second)] == [alive["token"]]
    assert (await world.report(first, second)).complaints == []
    assert not (await world.device("gone-ios", "ios", userId="ada"))["isActive"], "preserved (B083)"
    assert (await world.device("gone-ios", "ios", userId="ada", reactivate=True))["isActive"], "asked for (C36)"


@pytest.mark.rule("B087")
async def test_an_old_410_does_not_retire_a_new_registration(world: World) -> None:
    """F-V9: Apple says since when a device is gone; one that registered after that is there again."""
    back = await world.device("gone~800-back", "ios", userId="ada")
    lost = await world.device("gone~800-lost", "ios", userId="ada")
    send = await world.send(userIds=["ada"])
    await eventually(lambda: asked(world, send, 2))
    # Apple has decided, and its answers are on their way.
    await world.device("gone~800-back", "ios", userId="ada")
    assert (await world.ended(send))["counts"]["rejected"] == 2

    # One person's devices are in one message, so whoever retires the one has seen the other.
    async def retired() -> bool:
        return not (await world.devices())[lost["id"]]["isActive"]

    await eventually(retired)
    assert (await world.devices())[back["id"]]["isActive"]


@pytest.mark.rule("B033", "C96")
async def test_throttled_and_flaky_devices(world: World) -> None:
    """A 429 and two 503 with a time to wait: each try is in the ledger, and each was a request."""
    patient = [await world.device(f"throttle-{platform}", platform, userId="ada") for platform in PLATFORMS]
    flaky = [await world.device(f"flaky-{platform}", platform, userId="ada") for platform in PLATFORMS]
    send = await world.sent(userIds=["ada"])
    ledger = await tries(world, send)
    for device in patient:
        assert [(attempt, state) for attempt, state, *_ in ledger[UUID(device["id"])]] == [
            (1, "deferred"),
            (2, "accepted"),
        ]
    for device in flaky:
        assert [(attempt, state) for attempt, state, *_ in ledger[UUID(device["id"])]] == [
            (1, "deferred"),
            (2, "deferred"),
            (3, "accepted"),
        ]
    statuses: dict[str, list[int | None]] = {}
    for one in await world.pushed(send):
        statuses.setdefault(one.token, []).append(one.status)
    for platform, throttled, shaky in zip(PLATFORMS, patient, flaky, strict=True):
        taken = 201 if platform == "web" else 200
        assert statuses[throttled["token"]] == [429, taken]
        assert statuses[shaky["token"]] == [503, 503, taken]
    report = await world.report(send)
    assert (report.complaints, report.states["accepted"], report.repeated) == ([], 6, 0)


@pytest.mark.rule("C96")
async def test_what_was_never_answered(world: World) -> None:
    """Promise 3: a request that was written and not answered may have arrived. `at_least_once` repeats it and says so;
    `at_most_once` calls it unknown and never asks again."""
    await proven(world)
    device = await world.device("ok~2500-0", userId="ada")
    once = await world.send(userIds=["ada"], delivery="at_most_once")
    least = await world.send(userIds=["ada"], delivery="at_least_once")
    await eventually(lambda: asked(world, once, 1))
    await eventually(lambda: asked(world, least, 1))
    # The provider has taken both, and before it says so the connection breaks.
    breaks = await world.device("reset-0")
    await world.send(tokens=[breaks["token"]])

    assert (await world.ended(once))["status"] == "failed"
    assert await tries(world, once) == {UUID(device["id"]): [(1, "unknown", "no_answer", False)]}
    assert (await hurried(world, least))["status"] == "sent"
    assert await tries(world, least) == {
        UUID(device["id"]): [(1, "deferred", "no_answer", True), (2, "accepted", None, True)]
    }
    assert (await world.balance(least))["repeated"] == 1
    assert [one.status for one in await world.pushed(once)] == [200]
    assert [one.status for one in await world.pushed(least)] == [200, 200], "the device has it twice"
    report = await world.report(once, least)
    assert (report.complaints, report.duplicates, report.repeated) == ([], 0, 1)


@pytest.mark.rule("C96")
async def test_a_device_that_never_answers(world: World) -> None:
    """After five tries `at_least_once` gives up too, and does not claim to know; `at_most_once` after one."""
    device = await world.device("reset-0", "ios", userId="ada")
    sends = [await world.send(userIds=["ada"], delivery=kind) for kind in ("at_least_once", "at_most_once")]
    for send, tried in zip(sends, (5, 1), strict=True):
        assert (await hurried(world, send))["status"] == "failed"
        assert (await world.balance(send))["reasons"] == {"unknown": {"no_answer": 1}}
        assert len((await tries(world, send))[UUID(device["id"])]) == tried
        assert [one.status for one in await world.pushed(send)] == [None] * tried
    assert (await world.report(*sends)).complaints == []


@pytest.mark.rule("C96")
async def test_a_silent_device(world: World) -> None:
    """A provider that takes a request and says nothing is waited for, but not for ever; its neighbours do not wait."""
    await proven(world)
    await world.device("silent-0", userId="ada")
    await world.device("ok-0", userId="bob")
    send = await world.send(userIds=["ada", "bob"], delivery="at_most_once")

    async def neighbour() -> bool:
        return bool((await world.balance(send))["accepted"])

    await eventually(neighbour, 5.0)
    assert (await world.ended(send))["counts"]["unknown"] == 1
    assert (await world.report(send)).complaints == []


@pytest.mark.rule("C96")
async def test_answers_that_nobody_can_read(world: World) -> None:
    """A success without a success's words is none: it is asked for again, and in the end it stays unknown. An error
    page is an error, and a bad token a bad token."""
    devices = [
        await world.device(grammar, platform, userId="ada")
        for grammar, platform in (("junk-0", "android"), ("junk-error-1", "ios"), ("badtoken-2", "web"))
    ]
    send = await world.send(userIds=["ada"])
    await hurried(world, send)
    balance = await world.balance(send)
    assert (balance["unknown"], balance["rejected"]) == (1, 2)
    assert balance["reasons"]["rejected"] == {"retries_exhausted": 1, "subscription_gone": 1}
    ledger = await tries(world, send)
    assert [len(ledger[UUID(device["id"])]) for device in devices] == [5, 5, 1]
    retried = await world.ask("POST", f"/push/sends/{send}/retry-failed")
    assert retried.data["retried"] == 2, retried
    await hurried(world, send)
    ledger = await tries(world, send)
    assert [len(ledger[UUID(device["id"])]) for device in devices] == [10, 10, 1], "a retry has all tries anew"
    assert (await world.balance(send))["reasons"]["rejected"] == {"retries_exhausted": 1, "subscription_gone": 1}
    assert (await world.report(send)).complaints == []


@pytest.mark.rule("B089")
async def test_provider_tokens_that_expire(world: World) -> None:
    """F-V7: when a provider calls our token expired it is renewed once for everybody, within the same try; also for
    those of a chunk who hear it when the others' has been renewed."""
    users = [f"user-{number}" for number in range(10)]
    for number, user in enumerate((*users, *[users[0]] * 30)):
        await world.device(f"ok-{number}", "ios", userId=user)
        await world.device(f"ok-{number}", "android", userId=user)
    first = await world.sent(userIds=users)
    # Old enough that Apple does not mind a new one.
    await world.fetch(
        "UPDATE push_grants SET minted_at = minted_at - interval '21 minutes' WHERE org_id = $1", world.keys.org
    )
    before = await world.cluster.ask_simulator("GET", "/_/stats")
    await world.cluster.ask_simulator("POST", "/_/switches", {"expireProviderTokens": True})
    second = await world.sent(userIds=users)
    after = await world.cluster.ask_simulator("GET", "/_/stats")

    report = await world.report(first, second)
    assert (report.complaints, report.states["accepted"], report.repeated) == ([], 160, 0)
    assert {row[:2] for rows in (await tries(world, second)).values() for row in rows} == {(1, "accepted")}
    statuses = {(one.transport, one.status) for one in await world.pushed(second)}
    assert statuses == {("apns", 403), ("apns", 200), ("fcm", 401), ("fcm", 200)}
    for counter, more in (("providerTokens", 1), ("accessTokens", 1), ("providerTokenUpdates", 0)):
        assert after[counter] - before[counter] == more, counter


@pytest.mark.rule("B033")
async def test_a_token_endpoint_that_is_down(world: World) -> None:
    """F-V10: without Google's access token its devices wait, and nobody fails; Apple's and the browsers' do not wait
    with them, though they are the same person's."""
    android, ios, web = [
        await world.device(f"ok-{platform}", platform, userId="ada") for platform in ("android", "ios", "web")
    ]
    await world.cluster.ask_simulator("POST", "/_/switches", {"outage": "oauth"})
    try:
        send = await world.send(userIds=["ada"])

        async def others() -> bool:
            balance = await world.balance(send)
            assert (balance["accepted"], balance["open"]) == (2, 1), balance
            return True

        await eventually(others)
        assert {one.token for one in await world.pushed(send)} == {ios["token"], web["token"]}
    finally:
        await world.cluster.ask_simulator("POST", "/_/switches", {"outage": None})
    await hurried(world, send)
    assert [state for _, state, *_ in (await tries(world, send))[UUID(android["id"])]] == ["deferred", "accepted"]
    assert (await world.report(send)).complaints == []


# -- targets


@pytest.mark.rule("B029", "B030", "C43")
async def test_without_credentials(running: Cluster) -> None:
    """B030: a 412 comes before anything else: no row, and the devices stay as they are. C43: a transport without a
    credential rejects its recipients alone."""
    async with settle(running) as world:
        ios, android = await world.device("ok-0", "ios", userId="ada"), await world.device("ok-0", userId="ada")
        refused = await world.ask("POST", "/push/send", {"userIds": ["ada"], "title": "T", "body": "B"})
        assert (refused.status, refused.code) == (412, "PRECONDITION_FAILED")
        assert await world.server.get("/push/sends") == []
        assert [device["isActive"] for device in (await world.devices()).values()] == [True, True]

        await world.configure()
        await world.server.call("DELETE", "/push/providers/apns")
        send = await world.sent(userIds=["ada"])
        assert (await world.balance(send))["reasons"] == {"rejected": {"no_credential": 1}}
        assert [one.token for one in await world.pushed(send)] == [android["token"]]
        assert (await world.devices())[ios["id"]]["isActive"]


@pytest.mark.rule("B093", "B095", "C96")
async def test_raw_tokens(world: World) -> None:
    """B095: whoever names tokens means them, be they unknown here or signed out; none of them shows up as a device."""
    signed_out = await world.device("ok-0", userId="ada")
    await world.app.call("DELETE", f"/push/tokens/{signed_out['id']}")
    send = await world.send(tokens=[signed_out["token"], "ok-stranger", "ok-stranger"])
    assert (await world.ended(send))["tokenCount"] == 2
    assert {one.token for one in await world.pushed(send)} == {signed_out["token"], "ok-stranger"}
    assert (await world.devices()).keys() == {signed_out["id"]}
    nobody = await world.ended(await world.send(userIds=["ada"]))
    assert (nobody["status"], nobody["counts"]["targeted"], nobody["counts"]["unreachable"]) == ("sent", 0, 1)


@pytest.mark.rule("B093", "B082", "C69", "B066", "B067")
async def test_users(world: World) -> None:
    """Each device of each user once, however often either was named; also those that the user had before signing in."""
    before = await world.device("ok-tablet", "ios", userId="anon-1")
    phone = await world.device("ok-phone", userId="ada")
    await world.device("ok-phone", userId="ada", locale="en")
    laptop = await world.device("ok-laptop", "web", userId="bob")
    await world.app.post("/identify", {"userId": "ada", "anonymousId": "anon-1", "traits": {}})
    send = await world.sent(userIds=["ada", "bob", "ada", "anon-1", "nobody"])
    balance = await world.balance(send)
    assert (balance["targeted"], balance["accepted"], balance["unreachable"]) == (3, 3, 1)
    pushed = await world.pushed(send)
    assert sorted(one.token for one in pushed) == sorted(one["token"] for one in (before, phone, laptop))
    assert (await world.report(send)).complaints == []


@pytest.mark.rule("B075", "B079", "C47")
async def test_audiences(world: World) -> None:
    """B075: whoever has joined by now; C47: a deleted audience is nobody, one that never was is not found."""
    await world.device("ok-0", userId="ada")
    audience = await world.server.post(
        "/audiences", {"name": "pros", "rules": {"all": [{"trait": "plan", "op": "eq", "value": "pro"}]}}
    )
    await world.app.post("/identify", {"userId": "ada", "traits": {"plan": "pro"}})
    first = await world.sent(audienceId=audience["id"])
    assert (await world.balance(first))["accepted"] == 1, "what was said just before the call counts"
    await world.app.post("/identify", {"userId": "ada", "traits": {"plan": "free"}})
    second = await world.ended(await world.send(audienceId=audience["id"]))
    assert (second["status"], second["counts"]["targeted"]) == ("sent", 0)

    await world.app.post("/identify", {"userId": "ada", "traits": {"plan": "pro"}})
    await world.server.call("DELETE", f"/audiences/{audience['id']}")
    third = await world.ended(await world.send(audienceId=audience["id"]))
    assert (third["status"], third["counts"]["targeted"]) == ("sent", 0)
    refused = await world.ask("POST", "/push/send", {"audienceId": str(uuid4()), "title": "T", "body": "B"})
    assert refused.status == 404


# -- afterwards


@pytest.mark.rule("B100", "B101", "B104", "C38", "C39")
async def test_opens(world: World) -> None:
    """C38: a device tells the send's id, or the delivery's that came with the payload; B104, C39: a tap on the body
    opens, a tap on a button clicks."""
    for number, platform in enumerate(PLATFORMS):
        await world.device(f"ok-{number}", platform, userId="ada")
    send = await world.sent(userIds=["ada"], actions=[{"id": "buy", "title": "Buy"}])
    ios, android, _ = await world.pushed(send)
    for body in (
        {"sendId": ios.delivery_id, "clickAction": "body"},
        {"sendId": ios.delivery_id},
        {"sendId": android.delivery_id, "clickAction": "buy"},
        {"sendId": str(send)},
    ):
        await world.app.post("/push/track-open", body)

    async def told() -> dict[str, Any]:
        stats: dict[str, Any] = await world.server.get("/push/sends/stats")
        assert stats["opened"] == 3, stats
        return stats

    stats = await eventually(told)
    assert (stats["sent"], stats["clicked"], stats["openRate"], stats["clickRate"]) == (3, 1, 1.0, round(1 / 3, 6))
    assert await world.server.get("/push/stats") == stats
    shown = await world.server.get(f"/push/sends/{send}")
    assert shown["openedAt"] <= shown["clickedAt"]
    assert shown["clickAction"] == "buy"


@pytest.mark.rule("B102", "B101")
async def test_delivery_health(world: World) -> None:
    """B102: what failed and why, most frequent first, and the failures themselves."""
    dead = [await world.device(f"gone-{number}", userId="ada") for number in range(2)]
    junk = await world.device("badtoken-0", "web", userId="ada")
    await world.device("ok-0", userId="bob", locale="de")
    send = await world.sent(userIds=["ada", "bob"], body="", localizedBody={"en": "Hi", "fr": "Salut"})
    assert (await world.balance(send))["reasons"] == {"suppressed": {"locale_unsupported": 4}}
    send = await world.sent(userIds=["ada", "bob"])

    async def told() -> dict[str, Any]:
        health: dict[str, Any] = await world.server.get("/push/sends/delivery-health")
        assert sum(one["count"] for one in health["topFailureReasons"]) == 3, health
        return health

    health = await eventually(told)
    assert health["windowDays"] == 7
    assert health["topFailureReasons"][0] == {"reason": "UNREGISTERED", "count": 2}
    assert health["topSuppressionReasons"] == [{"reason": "locale_unsupported", "count": 4}]
    assert {one["recipientId"] for one in health["recentFailures"]} == {one["id"] for one in (*dead, junk)}
    assert {(one["sendId"], one["userId"], one["state"]) for one in health["recentFailures"]} == {
        (str(send), "ada", "rejected")
    }


@pytest.mark.rule("C89", "C92", "B028")
async def test_idempotency_key(world: World) -> None:
    """C89: asked twice under one key it is one send; another request under that key is a conflict."""
    await world.device("ok-0", userId="ada")
    body = {"userIds": ["ada"], "title": "T", "body": "B"}
    key = {"Idempotency-Key": "order-17"}
    answers = await asyncio.gather(*(world.ask("POST", "/push/send", body, headers=key) for _ in range(5)))
    first = next(answer for answer in answers if answer.status == 200)
    for answer in answers:
        if answer.status == 200:
            assert answer.data == first.data
        else:
            assert (answer.status, answer.details["reason"]) == (409, "idempotency_in_flight"), answer
    await world.ended(UUID(first.data["id"]))
    again = await world.ask("POST", "/push/send", body, headers=key)
    assert (again.status, again.data) == (200, first.data), "as it was answered then"
    other = await world.ask("POST", "/push/send", {**body, "title": "Other"}, headers=key)
    assert (other.status, other.code, other.details["reason"]) == (409, "CONFLICT", "idempotency_mismatch")
    sends = [UUID(one["id"]) for one in await world.server.get("/push/sends")]
    assert sends == [UUID(first.data["id"])]
    assert len(await world.pushed(*sends)) == 1


async def asked(world: World, send: UUID, requests: int) -> bool:
    """So many requests of the send have reached a provider."""
    return len(await world.pushed(send)) == requests
