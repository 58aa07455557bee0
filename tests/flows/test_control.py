"""A send in its callers' hands: pause, resume, stop, retry; who is behind each number; and what is told of it all.

The windows are small and the provider takes its time, so that a broadcast lasts for seconds on any machine.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from tests.conftest import eventually
from tests.world import TRANSPORTS, World, cluster

from sendora.cluster import Cluster
from sendora.kernel.life import open_kernel
from sendora.modules import push

WINDOW = 50
DISPATCHERS = 2
DELAY_MS = 200
CROWD = 12 * WINDOW

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Cluster]:
    extra = {"SENDORA_DISPATCH__WINDOW_BULK": str(WINDOW)}
    async with cluster("control", dispatchers=DISPATCHERS, extra=extra) as started:
        yield started


async def crowd(world: World, grammars: Sequence[str]) -> list[str]:
    """A person with a phone for each; their names."""
    names = [f"{grammar}-{number}" for number, grammar in enumerate(grammars)]
    minted = await world.cluster.ask_simulator("POST", "/_/mint", {"transport": TRANSPORTS["android"], "tokens": names})
    places = asyncio.Semaphore(16)

    async def register(user: str, token: str) -> None:
        async with places:
            await world.app.post("/push/tokens", {"token": token, "platform": "android", "userId": user})

    users = [f"user-{number}" for number in range(len(grammars))]
    await asyncio.gather(*map(register, users, minted["tokens"]))
    return users


async def step(world: World, send: UUID, name: str, body: Any = None) -> dict[str, Any]:
    answer = await world.ask("POST", f"/push/sends/{send}/{name}", body)
    assert answer.status == 200, answer
    said: dict[str, Any] = answer.data
    return said


async def recipients(world: World, send: UUID, **asked: Any) -> list[dict[str, Any]]:
    listed = await world.ask("GET", f"/push/sends/{send}/recipients", pageSize=100, **asked)
    assert listed.status == 200, listed
    rows: list[dict[str, Any]] = listed.data
    assert listed.pagination["total"] == len(rows) <= 100
    return rows


# -- one at a time


@pytest.mark.rule("C96")
async def test_a_broadcast_that_is_paused_and_resumed(world: World) -> None:
    """Design 4: a pause acts within one window of each worker; resumed, the others get it, and nobody twice."""
    users = await crowd(world, [f"ok~{DELAY_MS}"] * CROWD)
    send = await world.send(userIds=users, **{"class": "bulk"})
    await eventually(lambda: _reached(world, send, WINDOW), 20)
    assert (await step(world, send, "pause"))["status"] == "paused"
    paused_ms = datetime.now(UTC).timestamp() * 1_000

    async def rests() -> int:
        """Everybody who left has an outcome."""
        (row,) = await world.fetch(
            "SELECT (SELECT sum(started) FROM chunks WHERE send_id = $1) AS marked,"
            " (SELECT count(*) FROM deliveries WHERE send_id = $1) AS recorded",
            send,
        )
        assert row["marked"] == row["recorded"], row
        recorded: int = row["recorded"]
        return recorded

    heard = await eventually(rests, 20)
    asked = await world.pushed(send)
    assert len(asked) == heard < CROWD, "it was paused in the middle"
    assert sum(one.at > paused_ms for one in asked) <= DISPATCHERS * WINDOW
    shown = await world.server.get(f"/push/sends/{send}")
    assert (shown["status"], shown["closedAt"]) == ("paused", None)
    balance = await world.balance(send)
    assert (balance["accepted"], balance["open"]) == (heard, CROWD - heard)
    # The workers have gone on to somebody else meanwhile, and come back to nobody of this send.
    await world.sent(tokens=["ok-somebody"])
    assert len(await world.pushed(send)) == heard

    assert (await step(world, send, "resume"))["status"] == "sending"
    assert (await world.ended(send, 60))["status"] == "sent"
    report = await world.report(send)
    assert (report.complaints, report.states["accepted"], report.repeated) == ([], CROWD, 0)
    assert len(await world.pushed(send)) == CROWD


@pytest.mark.rule("C96")
async def test_a_broadcast_that_is_stopped(world: World) -> None:
    """C96: who is on the wire finishes, the rest is suppressed as stopped, by name, and the send closes."""
    users = await crowd(world, [f"ok~{DELAY_MS}"] * CROWD)
    send = await world.send(userIds=users, **{"class": "bulk"})
    await eventually(lambda: _reached(world, send, WINDOW), 20)
    assert (await step(world, send, "stop"))["status"] == "sending"
    ended = await world.ended(send, 30)
    counts = ended["counts"]
    assert (ended["status"], counts["targeted"], counts["open"]) == ("sent", CROWD, 0)
    assert counts["accepted"] + counts["suppressed"] == CROWD
    assert 0 < counts["accepted"] == len(await world.pushed(send)) < CROWD
    assert (await world.balance(send))["reasons"] == {"suppressed": {"stopped": counts["suppressed"]}}
    report = await world.report(send)
    assert (report.complaints, report.repeated) == ([], 0)
    refused = await world.ask("POST", f"/push/sends/{send}/stop")
    assert (refused.status, refused.details["reason"]) == (409, "already_closed")
    some = await world.ask("GET", f"/push/sends/{send}/recipients", state="suppressed", reason="stopped", pageSize=5)
    assert some.pagination["total"] == counts["suppressed"]
    assert {row["userId"] in users for row in some.data} == {True}, "whose device it is, although nobody looked"


@pytest.mark.rule("C96")
async def test_who_failed_for_want_of_a_credential_goes_on_when_there_is_one(world: World) -> None:
    """One attempt further in the same send, which opens and closes again; who was refused for good stays so."""
    apple = await world.device("ok-phone", "ios", userId="ada")
    gone = await world.device("gone-0", userId="ada")
    await world.server.call("DELETE", "/push/providers/apns")
    send = await world.sent(userIds=["ada"])
    assert (await world.balance(send))["reasons"]["rejected"] == {"UNREGISTERED": 1, "no_credential": 1}
    assert (await world.server.get(f"/push/sends/{send}"))["status"] == "failed"
    await world.configure()
    assert await step(world, send, "retry-failed") == {"id": str(send), "status": "sending", "retried": 1}
    assert (await world.ended(send))["status"] == "sent"
    rows = {row["recipientId"]: row for row in await recipients(world, send)}
    assert {id_: (row["state"], row["attempt"]) for id_, row in rows.items()} == {
        apple["id"]: ("accepted", 2),
        gone["id"]: ("rejected", 1),
    }
    health = await world.server.get("/push/sends/delivery-health")
    assert health["topFailureReasons"] == [{"reason": "UNREGISTERED", "count": 1}]
    stats = await world.server.get("/push/sends/stats")
    assert (stats["total"], stats["sent"], stats["failed"]) == (2, 1, 1)
    assert (await world.report(send)).complaints == []


@pytest.mark.rule("C96", "B089")
async def test_a_retry_asks_a_provider_that_had_refused_the_credential(world: World) -> None:
    """F-V11: a hundred refusals halt the send, and the rest is not asked for. What was wrong may be mended at Apple's,
    so a retry asks anew, under the very credential."""
    pair = ec.generate_private_key(ec.SECP256R1())
    known = {"keyId": "NOTYETKNWN", "teamId": "RETRIES001"}
    p8 = pair.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    await world.server.put("/push/providers/apns", {**known, "p8Key": p8, "bundleId": "com.example.retries"})
    users = [f"user-{n}" for n in range(CROWD)]
    await asyncio.gather(*(world.device(f"ok-{user}", "ios", userId=user) for user in users))
    send = await world.sent(userIds=users, **{"class": "bulk"})
    assert (await world.balance(send))["reasons"] == {"rejected": {"InvalidProviderToken": CROWD}}
    assert 100 <= len(await world.pushed(send)) < CROWD
    public = pair.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    lesson = {**known, "publicKeyPem": public, "bundleIds": ["com.example.retries"]}
    await world.cluster.ask_simulator("POST", "/_/apns-keys", lesson)
    reasons = {"reasons": ["InvalidProviderToken"]}
    answer = await world.ask("POST", f"/push/sends/{send}/retry-failed", reasons)
    assert answer.data["retried"] == CROWD, answer
    assert (await world.ended(send))["counts"]["accepted"] == CROWD
    assert (await world.report(send)).complaints == []


# -- all at once


@pytest.mark.rule("C96")
@pytest.mark.parametrize("stopped", [False, True])
async def test_many_callers_at_once(world: World, stopped: bool) -> None:
    """Promises 2 and 3, with the simulator's log as the oracle: whoever pauses, resumes, retries and stops meanwhile,
    every recipient ends once, and nobody gets it twice but those of whom the ledger says `repeated`. Apple's devices
    fail at once as long as there is no credential, so that there is somebody to try again."""
    chance = random.Random(f"callers {stopped}")
    kinds = [f"ok~{DELAY_MS}"] * 26 + ["flaky", "throttle", "gone", f"reset~{DELAY_MS}"]
    users = await crowd(world, [chance.choice(kinds) for _ in range(CROWD)])
    for number in range(WINDOW):
        await world.device(f"ok-{number}", "ios", userId=users[number])
    await world.server.call("DELETE", "/push/providers/apns")
    send = await world.send(userIds=users, **{"class": "bulk"})
    met: Counter[tuple[str, int]] = Counter()

    async def caller(steps: Sequence[str]) -> None:
        for name in steps:
            answer = await world.ask("POST", f"/push/sends/{send}/{name}")
            met[name, answer.status] += 1
            assert answer.status in (200, 409), answer
            await world.bring_forward(send)

    async def closed() -> dict[str, Any]:
        await world.ask("POST", f"/push/sends/{send}/resume")
        await world.bring_forward(send)
        shown: dict[str, Any] = await world.server.get(f"/push/sends/{send}")
        assert shown["closedAt"] is not None, shown
        return shown

    await eventually(lambda: _reached(world, send, WINDOW // 2), 20)
    steps = [chance.choice(("pause", "resume", "resume", "retry-failed")) for _ in range(12 if stopped else 80)]
    if stopped:
        steps[6] = "stop"
    await asyncio.gather(*(caller(steps[start::4]) for start in range(4)))
    assert met["stop", 200] if stopped else met["pause", 200] and met["resume", 200] and met["retry-failed", 200], met
    suppressed = (await eventually(closed, 60, 0.1))["counts"]["suppressed"]
    assert (suppressed > 0) == stopped
    await world.configure()
    await caller(["retry-failed"])
    counts = (await eventually(closed, 60, 0.1))["counts"]

    parts = ("accepted", "rejected", "suppressed", "expired", "unknown")
    assert (counts["targeted"], sum(counts[part] for part in parts), counts["open"]) == (CROWD + WINDOW,) * 2 + (0,)
    assert counts["suppressed"] == suppressed, "what was stopped stays so"
    exact = await world.balance(send)
    assert {part: counts[part] for part in (*parts, "repeated")} == {part: exact[part] for part in (*parts, "repeated")}
    assert "no_credential" not in exact["reasons"].get("rejected", {})
    report = await world.report(send)
    assert (report.complaints, report.duplicates, report.open) == ([], 0, 0)


# -- who is behind the numbers


@pytest.mark.rule("C93", "C96", "B104", "B033")
async def test_the_recipients_of_a_send(world: World) -> None:
    """Everybody whom the numbers count, under every filter, with what their devices said."""
    phone = await world.device("ok-phone", userId="ada")
    tablet = await world.device("ok-tablet", "ios", userId="anon-7")
    dead = await world.device("gone-0", userId="bob")
    mute = await world.device("ok-mute", "web", userId="eve", locale="de")
    await world.app.post("/identify", {"userId": "ada", "anonymousId": "anon-7", "traits": {}})
    send = await world.sent(userIds=["ada", "bob", "eve"])
    by_token = {one.token: one for one in await world.pushed(send)}
    delivery_id = by_token[phone["token"]].delivery_id
    await world.app.post("/push/receipts", {"sendId": str(send), "deliveryId": delivery_id})
    await world.app.post("/push/track-open", {"sendId": delivery_id, "clickAction": "buy"})

    async def told() -> dict[str, dict[str, Any]]:
        rows = {row["recipientId"]: row for row in await recipients(world, send)}
        assert rows[phone["id"]]["deliveredAt"] and rows[phone["id"]]["clickedAt"], rows
        return rows

    rows = await eventually(told)
    assert set(rows) == {one["id"] for one in (phone, tablet, dead, mute)}
    for row in rows.values():
        assert set(row) == {
            "recipientId", "userId", "state", "reason", "variant", "providerId", "attempt", "repeated", "deliveredAt",
            "openedAt", "clickedAt",
        }  # fmt: skip
        assert (row["openedAt"] is None) == (row["recipientId"] != phone["id"])
    assert {row["userId"] for row in rows.values()} == {"ada", "bob", "eve"}
    assert (rows[dead["id"]]["state"], rows[dead["id"]]["reason"]) == ("rejected", "UNREGISTERED")
    assert rows[phone["id"]]["providerId"] == by_token[phone["token"]].id
    for asked, whose in (
        ({"state": "accepted"}, (phone, tablet, mute)),
        ({"state": "rejected"}, (dead,)),
        ({"state": "open"}, ()),
        ({"reason": "UNREGISTERED"}, (dead,)),
        ({"userId": "ada"}, (phone, tablet)),
        ({"userId": "ada", "state": "rejected"}, ()),
        ({"userId": "nobody"}, ()),
        ({"variant": "a"}, ()),
    ):
        found = await recipients(world, send, **asked)
        assert {row["recipientId"] for row in found} == {one["id"] for one in whose}, asked
    shown = await world.server.get(f"/push/sends/{send}")
    assert shown["counts"]["delivered"] == 1
    listed = await world.server.get("/push/sends?status=delivered")
    assert [one["id"] for one in listed] == [str(send)]
    stats = await world.server.get("/push/sends/stats")
    assert (stats["delivered"], stats["deliveryRate"]) == (1, round(1 / 3, 6))


@pytest.mark.rule("C96")
async def test_the_recipients_of_a_paused_send(world: World) -> None:
    """Who is open has a row too, and a person is found though nobody has looked at the device yet; who has it since
    is not shown for who had it."""
    mine = await world.device("ok-mine", userId="ada")
    lent = await world.device("ok-lent", userId="ada")
    later = datetime.now(UTC) + timedelta(days=1)
    send = await world.send(userIds=["ada"], scheduledFor=later.isoformat())
    await world.fetch("UPDATE sends SET scheduled_for = now(), status = 'paused' WHERE id = $1", send)

    async def planned() -> list[dict[str, Any]]:
        rows = await recipients(world, send, state="open")
        assert len(rows) == 2, rows
        return rows

    assert {row["userId"] for row in await eventually(planned)} == {"ada"}
    await world.device("ok-lent", userId="bob")
    rows = {row["recipientId"]: row["userId"] for row in await recipients(world, send)}
    assert rows == {mine["id"]: "ada", lent["id"]: None}
    assert [row["recipientId"] for row in await recipients(world, send, userId="ada")] == [mine["id"]]
    assert await recipients(world, send, userId="bob") == []


# -- what a caller may want besides


@pytest.mark.rule("B020", "B023", "C10", "C96")
async def test_what_a_call_answers(world: World) -> None:
    """B020: the row, with id, status, tokenCount and scheduledFor; B023, C10: 200 for a send, 201 for what is made."""
    await world.device("ok-0", userId="ada")
    at_once = await world.ask("POST", "/push/send", {"userIds": ["ada"], "title": "T"})
    assert (at_once.status, at_once.data["status"], at_once.data["tokenCount"]) == (200, "queued", 1)
    assert at_once.data["scheduledFor"] is None
    due = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    later = await world.ask("POST", "/push/send", {"userIds": ["ada"], "title": "T", "scheduledFor": due.isoformat()})
    assert (later.status, later.data["status"], later.data["tokenCount"]) == (200, "scheduled", 1)
    assert datetime.fromisoformat(later.data["scheduledFor"]) == due
    assert (await world.ask("DELETE", f"/push/sends/{later.data['id']}")).status == 200
    made = await world.ask("POST", "/push/templates", {"name": "hello", "title": "T", "body": "B"})
    assert made.status == 201, made
    audience = await world.ask("POST", "/audiences", {"name": "all", "rules": {"all": []}})
    assert audience.status == 201, audience
    send = UUID(at_once.data["id"])
    await world.ended(send)
    assert [one.send_id for one in await world.pushed(send)] == [str(send)]


@pytest.mark.rule("C96")
async def test_the_class_of_a_send(world: World) -> None:
    """`bulk` for an audience and `now` for everybody else, unless the call says otherwise; both arrive."""
    await world.device("ok-0", userId="ada")
    everybody = await world.everybody()
    sends = {
        (who, said): await world.send(**target, **({"class": said} if said else {}))
        for who, target in (("users", {"userIds": ["ada"]}), ("audience", {"audienceId": everybody}))
        for said in (None, "now", "bulk")
    }
    shown = {key: (await world.server.get(f"/push/sends/{send}"))["class"] for key, send in sends.items()}
    assert shown == {(who, said): said or ("bulk" if who == "audience" else "now") for who, said in sends}
    for send in sends.values():
        assert (await world.ended(send))["status"] == "sent"


@pytest.mark.rule("B160", "B105", "B049", "B104", "B097", "C93", "C39")
async def test_what_is_told(world: World) -> None:
    """B160: the catalogue's events, each once under an id that stays the same; B105: opens and clicks say whose they
    were, so that a workflow can begin with them; B049: none of it counts."""
    before = (await world.server.get("/usage"))["eventsThisMonth"]
    async with open_kernel(world.cluster.settings) as kernel:
        events: dict[str, list[push.Event]] = {}

        async def hear(message: Any) -> None:
            for event in push.events_of(message.subject, message.data):
                if event.org == world.keys.org:
                    events.setdefault(event.id, []).append(event)

        subscription = await kernel.bus.client.subscribe("lifecycle.>", cb=hear)
        await kernel.bus.client.flush()
        phone = await world.device("ok-phone", userId="ada")
        dead = await world.device("gone-0", userId="ada")
        signed_out = await world.device("ok-tablet", userId="ada")
        await world.app.call("DELETE", f"/push/tokens/{signed_out['id']}")
        send = await world.sent(tokens=[phone["token"], dead["token"]], title="T")
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        later = await world.send(userIds=["ada"], scheduledFor=tomorrow.isoformat())
        await world.server.call("DELETE", f"/push/sends/{later}")
        stopped = await world.send(userIds=["ada"], scheduledFor=tomorrow.isoformat())
        await world.fetch("UPDATE sends SET status = 'paused', scheduled_for = now() WHERE id = $1", stopped)
        await step(world, stopped, "stop")
        await world.ended(stopped)
        delivery_id = next(one.delivery_id for one in await world.pushed(send) if one.token == phone["token"])
        await world.app.post("/push/receipts", {"sendId": delivery_id})
        await world.app.post("/push/receipts", {"sendId": delivery_id})
        await world.app.post("/push/track-open", {"sendId": delivery_id})
        await world.app.post("/push/track-open", {"sendId": delivery_id, "clickAction": "buy"})

        def told() -> Counter[str]:
            types = Counter(event.type for each in events.values() for event in each[:1])
            assert len(types) == 10, types
            return types

        types = await eventually(told)
        await subscription.unsubscribe()
    assert types == {
        "push.send_requested": 3,
        "push.scheduled": 2,
        "push.cancelled": 1,
        "push.sent": 1,
        "push.failed": 1,
        "push.suppressed": types["push.suppressed"],
        "push.delivered": 1,
        "push.opened": 1,
        "push.clicked": 1,
        "push.token_invalidated": 1,
    }
    by_type = {event.type: event for (event, *_) in events.values()}
    for type_ in ("push.delivered", "push.opened", "push.clicked", "push.sent"):
        event = by_type[type_]
        assert (event.user_id, event.properties["recipientId"]) == ("ada", phone["id"])
        assert event.properties["sendId"] == str(send)
    assert by_type["push.clicked"].properties["clickAction"] == "buy"
    assert by_type["push.failed"].properties["reason"] == "UNREGISTERED"
    assert by_type["push.suppressed"].properties["reason"] == "stopped"
    assert by_type["push.cancelled"].properties["sendId"] == str(later)
    for first, *again in events.values():
        assert all(event == first for event in again)
    assert (await world.server.get("/usage"))["eventsThisMonth"] == before, "0 quota events"


async def _reached(world: World, send: UUID, n: int) -> bool:
    return len(await world.pushed(send)) >= n
