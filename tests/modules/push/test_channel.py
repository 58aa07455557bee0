"""The channel as delivery asks it: whom, what is needed of them, which requests, and what an answer means."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey
from tests.api import Api
from tests.make import Make, Org
from tests.modules.push.conftest import APNS, P8, subscription

from sendora import _core
from sendora.delivery.phases import BLOCKED, Call, Chunk, Outcome, Reply, Send, Targets
from sendora.delivery.submit import find_send
from sendora.kernel import pg
from sendora.kernel.clock import millis
from sendora.kernel.errors import Unavailable
from sendora.kernel.ids import SendId
from sendora.kernel.life import Kernel
from sendora.modules.push.channel import PushChannel, PushSending
from sendora.modules.push.grants import Minted
from sendora.modules.push.halts import REFUSALS_MAX
from sendora.modules.push.parts import Posted

CHANNEL = PushChannel()


async def asked(api: Api, kernel: Kernel, org: Org, **said: Any) -> Send:
    """A send that was asked for over HTTP and that nobody has planned."""
    answer = await api.post("/push/send", {"title": "T", "body": "B", **said}, key=org.sk)
    assert answer.status == 200, answer
    return await find_send(kernel, org.id, SendId(UUID(answer.data["id"])))


async def planned(
    kernel: Kernel, send: Send, meanwhile: Callable[[], Awaitable[object]] | None = None
) -> tuple[Targets, set[UUID]]:
    """Whom the channel names, as the planner asks it; `meanwhile` happens when the first of them are planned."""
    async with kernel.db.acquire() as connection:
        await connection.execute(
            "CREATE TEMPORARY TABLE plan_targets (shard smallint NOT NULL, recipient uuid NOT NULL, zone text,"
            " PRIMARY KEY (shard, recipient))"
        )
        rows = []

        async def ready() -> None:
            nonlocal meanwhile
            rows.extend(await connection.fetch("SELECT shard, recipient FROM plan_targets"))
            await connection.execute("TRUNCATE plan_targets")
            if rows and meanwhile is not None:
                happens, meanwhile = meanwhile, None
                await happens()

        try:
            targets = await CHANNEL.recipients(kernel, connection, send, ready)
            await ready()
        finally:
            await connection.execute("DROP TABLE plan_targets")
    assert len({row["recipient"] for row in rows}) == len(rows)
    return targets, {row["recipient"] for row in rows}


async def chunk_of(kernel: Kernel, send: Send, recipients: Sequence[UUID], attempt: int = 1) -> Chunk:
    seq = await kernel.db.fetchval("SELECT count(*) FROM chunks WHERE send_id = $1", send.id)
    row = await kernel.db.fetchrow(
        "INSERT INTO chunks (org_id, send_id, shard, seq, class, attempt, planned, recipients, due_at)"
        " VALUES ($1, $2, 0, $3, $4, $5, true, $6, now() + interval '1 day') RETURNING *",
        send.org,
        send.id,
        seq,
        send.class_,
        attempt,
        list(recipients),
    )
    assert row is not None
    return Chunk(
        org=send.org,
        send=send.id,
        shard=0,
        seq=seq,
        class_=send.class_,
        attempt=attempt,
        repeated=False,
        size=len(recipients),
        started=0,
        due_at=row["due_at"],
    )


@asynccontextmanager
async def decided(
    kernel: Kernel, send: Send, chunk: Chunk, now: datetime | None = None
) -> AsyncIterator[tuple[PushSending, Any]]:
    sending = await CHANNEL.open(kernel, send)
    async with kernel.db.acquire() as connection:
        rows = await sending.rows(connection, chunk)
    yield sending, sending.decide(rows, None, millis(now or datetime.now(UTC)))


async def built(
    kernel: Kernel, send: Send, recipients: Sequence[UUID], attempt: int = 1
) -> tuple[PushSending, Chunk, list[Posted], list[Outcome]]:
    chunk = await chunk_of(kernel, send, recipients, attempt)
    async with decided(kernel, send, chunk) as (sending, decision):
        calls, outcomes = await sending.build(decision, chunk)
    assert all(isinstance(call, Posted) for call in calls)
    return sending, chunk, list(calls), list(outcomes)  # type: ignore[arg-type]


@pytest.fixture
async def shop(api: Api, org: Org) -> Org:
    """An org with an APNs credential."""
    assert (await api.put("/push/providers/apns", APNS, key=org.sk)).status == 200
    return org


async def devices(make: Make, org: Org, *users: str | None, platform: str = "ios") -> list[UUID]:
    tokens = [uuid4().hex * 2 if platform == "ios" else f"fcm:{uuid4().hex}" for _ in users]
    made = [
        await make.token(org, token, platform, **({"userId": user} if user else {}))
        for token, user in zip(tokens, users, strict=True)
    ]
    return [UUID(one["id"]) for one in made]


@pytest.mark.rule("B066", "C69")
async def test_users_are_whoever_took_them_over(api: Api, kernel: Kernel, make: Make, shop: Org) -> None:
    """C69: a takeover is followed from its commit on, up and down the chain; each device once; who has none is
    unreachable."""
    await make.profile(shop, "anna", anonymousId="anon-1")
    await make.profile(shop, "bert")
    old, new, bert, off = await devices(make, shop, "anon-1", "anna", "bert", "bert")
    await api.delete(f"/push/tokens/{off}", key=shop.pk)
    for names in (["anna", "nobody"], ["anon-1", "nobody"], ["anon-1", "anna", "nobody"]):
        targets, whom = await planned(kernel, await asked(api, kernel, shop, userIds=names))
        assert (whom, targets.unreachable, targets.as_of) == ({old, new}, 1, None)
    targets, whom = await planned(kernel, await asked(api, kernel, shop, userIds=["anna", "bert"]))
    assert (whom, targets.unreachable) == ({old, new, bert}, 0)


@pytest.mark.rule("C69")
async def test_a_device_that_changes_hands_while_it_is_planned_is_planned_once(
    api: Api, kernel: Kernel, make: Make, shop: Org
) -> None:
    """Design 4: the plan goes shard by shard, and it is one instant that it plans."""
    names = [f"user-{n}" for n in range(200)]
    by_shard = sorted(zip(_core.shards(shop.project.bytes, names), names, strict=True))
    first, last = by_shard[0][1], by_shard[-1][1]
    for name in (first, last):
        await make.profile(shop, name)
    hers, his = await devices(make, shop, first, last)
    audience = (await api.post("/audiences", {"name": "all", "rules": {"all": []}}, key=shop.sk)).data["id"]
    send = await asked(api, kernel, shop, audienceId=audience)
    targets, whom = await planned(kernel, send, meanwhile=lambda: make.profile(shop, last, anonymousId=first))
    assert (whom, targets.unreachable) == ({hers, his}, 0)
    targets, whom = await planned(kernel, send)
    assert (whom, targets.unreachable) == ({hers, his}, 0)


@pytest.mark.rule("B123", "C69")
@pytest.mark.parametrize("taken_over", [False, True])
@pytest.mark.parametrize("known", [False, True])
async def test_both_ways_of_reading_a_chunk_say_the_same(
    api: Api, kernel: Kernel, make: Make, shop: Org, taken_over: bool, known: bool
) -> None:
    """Where nobody was ever taken over fewer tables are looked at; what is decided stays the same."""
    await make.profile(shop, "anna", traits={"name": "Anna"}, **({"anonymousId": "anon-1"} if taken_over else {}))
    whom = await devices(make, shop, "anna", "anna", None, *(["anon-1"] if taken_over else []))
    send = await asked(api, kernel, shop, tokens=[uuid4().hex * 2], title="Hi {{trait.name}}" if known else "Hi")
    chunk = await chunk_of(kernel, send, [*whom, uuid4()])
    async with decided(kernel, send, chunk) as (_, decision):
        sends = {UUID(bytes=row[1]): (row[7], row[8]) for row in decision.sends()}
        stays = [(UUID(bytes=row[1]), row[4]) for row in decision.stays()]
    hers = ("anna", "Hi Anna" if known else "Hi")
    nobodys = (None, "Hi " if known else "Hi")
    expected = dict(zip(whom, [hers, hers, nobodys, hers], strict=False))
    assert sends == expected
    assert [reason for _, reason in stays] == ["token_removed"]


@pytest.mark.rule("B075", "B079", "B094", "B264", "C47")
async def test_an_audience_is_evaluated_when_it_is_planned(api: Api, kernel: Kernel, make: Make, shop: Org) -> None:
    """B264: one call sends to an audience. B075: whoever joined before the plan is in it; C47: a deleted audience is
    nobody, one that never was is 404."""
    rules = {"all": [{"trait": "plan", "op": "eq", "value": "pro"}]}
    made = await api.post("/audiences", {"name": "pro", "rules": rules}, key=shop.sk)
    await make.profile(shop, "anna", traits={"plan": "pro"}, anonymousId="anon-2")
    await make.profile(shop, "free", traits={"plan": "free"})
    send = await asked(api, kernel, shop, audienceId=made.data["id"])
    assert send.token_count is None and send.class_ == "bulk"
    await make.profile(shop, "late", traits={"plan": "pro"})
    await make.profile(shop, "phoneless", traits={"plan": "pro"})
    old, late, _ = await devices(make, shop, "anon-2", "late", "free")
    targets, whom = await planned(kernel, send)
    assert (whom, targets.unreachable) == ({old, late}, 1)
    assert targets.as_of is not None and abs(targets.as_of - datetime.now(UTC)) < timedelta(minutes=1)
    await api.delete(f"/audiences/{made.data['id']}", key=shop.sk)
    assert (await planned(kernel, send))[1] == set()
    again = await asked(api, kernel, shop, audienceId=made.data["id"])
    targets, whom = await planned(kernel, again)
    assert (whom, targets.unreachable) == (set(), 0)


@pytest.mark.rule("B095")
async def test_raw_tokens_are_taken_as_they_are(api: Api, kernel: Kernel, make: Make, shop: Org) -> None:
    """B095: signed-out and unknown ones too; unknown ones get a row that nothing else finds."""
    known, unknown, other = uuid4().hex * 2, uuid4().hex * 2, f"fcm:{uuid4().hex}"
    device = await make.token(shop, known, userId="anna")
    await api.delete(f"/push/tokens/{device['id']}", key=shop.pk)
    send = await asked(api, kernel, shop, tokens=[known.upper(), known, unknown, other, "https://fcm.googleapis.com/x"])
    assert send.token_count == 4
    targets, whom = await planned(kernel, send)
    assert (len(whom), targets.unreachable) == (3, 1)
    assert UUID(device["id"]) in whom
    assert (await planned(kernel, send))[1] == whom, "a planner that comes again names the same"
    listed = await api.get("/push/tokens", key=shop.sk)
    assert [row["id"] for row in listed.data] == [device["id"]]
    _, _, calls, outcomes = await built(kernel, send, sorted(whom))
    assert {call.url.rpartition("/")[2] for call in calls} == {known, unknown}
    assert [outcome.reason for outcome in outcomes] == ["no_credential"]
    first = await api.post("/push/tokens", {"token": unknown, "platform": "ios"}, key=shop.pk)
    assert first.data["isActive"] is True, "its first registration"


@pytest.mark.rule("C43", "B106", "B098", "B122")
async def test_requests_are_built_for_each_transport(api: Api, kernel: Kernel, make: Make, shop: Org) -> None:
    """C43: a transport without a credential is rejected by name; the others are built and signed."""
    await make.profile(shop, "anna", traits={"first": "Anna"})
    (phone,) = await devices(make, shop, "anna")
    (robot,) = await devices(make, shop, "anna", platform="android")
    said = subscription(uuid4().hex)
    browser = UUID(
        (await api.post("/push/tokens", {"token": said, "platform": "web", "userId": "anna"}, key=shop.pk)).data["id"]
    )
    send = await asked(
        api, kernel, shop, userIds=["anna"], body="Hi {{trait.first}}", data={"url": "/x"}, collapseId="c"
    )
    _, _, calls, outcomes = await built(kernel, send, [phone, robot, browser])
    assert [(one.position, one.recipient, one.state, one.reason) for one in outcomes] == [
        (1, robot, "rejected", "no_credential")
    ]
    apple, web = sorted(calls, key=lambda call: call.transport)
    body = msgspec.json.decode(apple.body)
    assert body["aps"]["alert"] == {"title": "T", "body": "Hi Anna"}
    assert body["sendoraDeliveryId"] == send.id.hex + phone.hex
    assert apple.url.startswith(kernel.settings.push.apns_production_url)
    token = apple.headers["authorization"].removeprefix("bearer ")
    assert jwt.decode(token, ECKey.import_key(P8), algorithms=["ES256"]).claims["iss"] == "TEAM123456"
    assert (web.url, web.lane) == (said["endpoint"], "webpush:https://fcm.googleapis.com")
    assert (web.user_id, web.recipient) == ("anna", browser)


async def test_what_has_an_outcome_is_not_asked_for_again(kernel: Kernel, api: Api, make: Make, shop: Org) -> None:
    """A worker that goes on in the middle of a chunk gets the positions that are left."""
    phones = await devices(make, shop, "a", "b", "c")
    send = await asked(api, kernel, shop, userIds=["a", "b", "c"])
    chunk = await chunk_of(kernel, send, phones)
    await pg.partition(kernel.db, "deliveries", pg.month_of(datetime.now(UTC)))
    await kernel.db.execute(
        "INSERT INTO deliveries (org_id, send_id, shard, seq, position, recipient, state, attempt, repeated, at)"
        " VALUES ($1, $2, 0, $3, 1, $4, 'accepted', 1, false, now())",
        send.org,
        send.id,
        chunk.seq,
        phones[1],
    )
    async with decided(kernel, send, chunk) as (_, decision):
        assert [(row[0], row[1]) for row in decision.sends()] == [(0, phones[0].bytes), (2, phones[2].bytes)]


@pytest.mark.rule("B086")
async def test_devices_are_judged_as_they_are_now(kernel: Kernel, api: Api, make: Make, shop: Org) -> None:
    """Signed out, handed on or gone since the plan: suppressed, each with its reason."""
    off, handed, gone, stays = await devices(make, shop, "a", "b", "c", "d")
    send = await asked(api, kernel, shop, userIds=["a", "b", "c", "d"])
    await api.delete(f"/push/tokens/{off}", key=shop.pk)
    token = await kernel.db.fetchval("SELECT token FROM push_tokens WHERE id = $1", handed)
    await make.token(shop, token, userId="somebody-else")
    await kernel.db.execute("DELETE FROM push_tokens WHERE org_id = $1 AND id = $2", shop.id, gone)
    chunk = await chunk_of(kernel, send, [off, handed, gone, stays])
    async with decided(kernel, send, chunk) as (_, decision):
        assert [row[0] for row in decision.sends()] == [3]
        said = {row[0]: (row[3], row[4]) for row in decision.stays()}
    assert said == {
        0: ("suppressed", "inactive_token"),
        1: ("suppressed", "owner_changed"),
        2: ("suppressed", "token_removed"),
    }


def answer(call: Call, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> Reply:
    return Reply(position=call.position, fate="answered", status=status, body=body, headers=headers or {})


async def test_answers_become_outcomes(kernel: Kernel, api: Api, make: Make, shop: Org) -> None:
    """Accepted, rejected, deferred with the provider's own wait, and the two fates without an answer."""
    (phone,) = await devices(make, shop, "anna")
    send = await asked(api, kernel, shop, userIds=["anna"])
    sending, chunk, (call,), _ = await built(kernel, send, [phone])
    now_ms = 1_800_000_000_000

    def read(reply: Reply) -> Outcome:
        outcome = sending.read(call, reply, chunk, now_ms)
        assert (outcome.position, outcome.recipient, outcome.user_id) == (0, phone, "anna")
        return outcome

    def waits_s(outcome: Outcome) -> float:
        assert outcome.state == "deferred" and outcome.due_at is not None
        return millis(outcome.due_at) / 1_000 - now_ms / 1_000

    taken = read(answer(call, 200, headers={"apns-id": "id-1"}))
    assert (taken.state, taken.reason, taken.provider_id) == ("accepted", None, "id-1")
    gone = read(answer(call, 410, b'{"reason":"Unregistered"}'))
    assert (gone.state, gone.reason) == ("rejected", "Unregistered")
    busy = read(answer(call, 429, b'{"reason":"TooManyRequests"}', {"retry-after": "7"}))
    assert waits_s(busy) == 7 and busy.counted and not busy.repeated
    down = read(answer(call, 503, b'{"reason":"ServiceUnavailable"}'))
    assert 900 <= waits_s(down) <= 1_125
    unsent = read(Reply(position=0, fate="unsent", detail="breaker"))
    assert (unsent.counted, unsent.repeated, unsent.reason) == (False, False, "breaker")
    silent = read(Reply(position=0, fate="unknown"))
    assert (silent.counted, silent.repeated, silent.reason) == (True, True, "no_answer")
    assert waits_s(silent) > 0


async def browser(api: Api, org: Org, user: str) -> UUID:
    said = {"token": subscription(uuid4().hex), "platform": "web", "userId": user}
    return UUID((await api.post("/push/tokens", said, key=org.pk)).data["id"])


async def test_an_endpoint_that_may_not_be_dialled_is_rejected_by_name(
    kernel: Kernel, api: Api, make: Make, shop: Org
) -> None:
    """F-W4: no later try would fare better; a provider's host that is blocked is our own mistake, and waits."""
    (phone,) = await devices(make, shop, "anna")
    web_device = await browser(api, shop, "anna")
    send = await asked(api, kernel, shop, userIds=["anna"])
    sending, chunk, calls, _ = await built(kernel, send, [phone, web_device])
    apple, web = sorted(calls, key=lambda call: call.transport)
    blocked = Reply(position=0, fate="unsent", detail=f"{BLOCKED} not a public address")
    now_ms = millis(datetime.now(UTC))
    refused = sending.read(web, blocked, chunk, now_ms)
    assert (refused.state, refused.reason, refused.recipient) == ("rejected", "endpoint_blocked", web.recipient)
    assert sending.read(apple, blocked, chunk, now_ms).state == "deferred"


async def test_what_cannot_be_sent_is_tried_less_and_less_often(
    kernel: Kernel, api: Api, make: Make, shop: Org
) -> None:
    """An endpoint that is never there costs some dozens of rows in the 28 days that a send may last, not 500,000."""
    (phone,) = await devices(make, shop, "anna")
    send = await asked(api, kernel, shop, userIds=["anna"], ttlSeconds=2_419_200)
    sending, chunk, (call,), _ = await built(kernel, send, [phone])

    def waits_s(detail: str, age_s: float) -> float:
        now_ms = millis(send.created_at) + int(age_s * 1_000)
        outcome = sending.read(call, Reply(position=0, fate="unsent", detail=detail), chunk, now_ms)
        assert outcome.state == "deferred" and not outcome.counted and outcome.due_at is not None
        return (millis(outcome.due_at) - now_ms) / 1_000

    assert waits_s("ConnectError", 0) == waits_s("ConnectError", 20) == 5
    assert waits_s("ConnectError", 400) == 100
    age_s, tries = 0.0, 0
    while age_s < 2_419_200:
        age_s, tries = age_s + waits_s("ConnectError", age_s), tries + 1
    assert tries < 750
    assert waits_s("closed", 2_000_000) == 5, "a worker that drains is replaced at once"


async def test_a_credential_that_cannot_be_opened_rejects_nobody(
    kernel: Kernel, api: Api, make: Make, shop: Org
) -> None:
    """It may be our key that is missing: its recipients wait, those of other transports go, and the end is the TTL."""
    (phone,) = await devices(make, shop, "anna")
    web = await browser(api, shop, "anna")
    send = await asked(api, kernel, shop, userIds=["anna"])
    await kernel.db.execute("UPDATE push_providers SET sealed = 'x' WHERE org_id = $1 AND provider = 'apns'", shop.id)
    _, _, calls, outcomes = await built(kernel, send, [phone, web])
    assert [call.recipient for call in calls] == [web]
    assert [(one.recipient, one.state, one.counted) for one in outcomes] == [(phone, "deferred", False)]
    with pytest.raises(Unavailable):
        await built(kernel, send, [phone])
    late = await chunk_of(kernel, send, [phone])
    async with decided(kernel, send, late, send.expires_at) as (sending, decision):
        assert [row[4] for row in decision.stays()] == ["ttl"]
        assert await sending.build(decision, late) == ([], [])


async def test_a_send_is_halted_when_its_credential_is_refused(kernel: Kernel, api: Api, make: Make, shop: Org) -> None:
    """F-V11: a million recipients are not asked for one by one when a hundred have heard the same."""
    phone, other = await devices(make, shop, "anna", "bert")
    send = await asked(api, kernel, shop, userIds=["anna", "bert"])
    sending, chunk, (call,), _ = await built(kernel, send, [phone])
    refused = answer(call, 403, b'{"reason":"InvalidProviderToken"}')
    for _ in range(REFUSALS_MAX):
        sending.read(call, refused, chunk, millis(datetime.now(UTC)))
    _, _, calls, outcomes = await built(kernel, send, [other])
    assert (calls, [(one.state, one.reason) for one in outcomes]) == ([], [("rejected", "InvalidProviderToken")])
    again = await asked(api, kernel, shop, userIds=["bert"])
    assert len((await built(kernel, again, [other]))[2]) == 1, "the next send asks anew"


async def test_no_secret_shows_in_what_is_printed(kernel: Kernel, api: Api, make: Make, shop: Org) -> None:
    """Logs, tracebacks and error reports print structs."""
    (phone,) = await devices(make, shop, "anna")
    send = await asked(api, kernel, shop, userIds=["anna"], body="a secret word")
    sending, _, (call,), _ = await built(kernel, send, [phone])
    credential = sending._credentials["apns"].rest
    assert credential is not None
    printed = f"{call!r} {[call]} {credential!r} {Minted(value=call.grant, life_s=1)!r}"
    for secret in (call.grant, "PRIVATE KEY", "secret word", call.headers["authorization"]):
        assert secret not in printed


async def test_an_expired_provider_token_is_renewed(kernel: Kernel, api: Api, make: Make, shop: Org) -> None:
    """F-V7: one renewal, and the request is built anew with the fresh token; any other refusal renews nothing."""
    (phone,) = await devices(make, shop, "anna")
    send = await asked(api, kernel, shop, userIds=["anna"])
    sending, chunk, (call,), _ = await built(kernel, send, [phone])
    expired = answer(call, 403, b'{"reason":"ExpiredProviderToken"}')
    assert not await sending.renew(call, answer(call, 403, b'{"reason":"InvalidProviderToken"}'))
    assert not await sending.renew(call, expired), "younger than twenty minutes"
    await kernel.db.execute(
        "UPDATE push_grants SET minted_at = minted_at - interval '30 min' WHERE org_id = $1", shop.id
    )
    assert all(await asyncio.gather(*(sending.renew(call, expired) for _ in range(5))))
    async with kernel.db.acquire() as connection:
        rows = await sending.rows(connection, chunk)
    decision = sending.decide(rows, None, millis(datetime.now(UTC)))
    (fresh,), _ = await sending.build(decision, chunk)
    assert fresh.headers["authorization"] != call.headers["authorization"]


@pytest.mark.rule("B098", "B118", "B119", "C45")
async def test_references_are_resolved_when_the_send_goes_out(kernel: Kernel, api: Api, make: Make, shop: Org) -> None:
    """B098: the template as it is then; B118: a paused test draws nobody; a template that is gone rejects everybody."""
    (phone,) = await devices(make, shop, "anna")
    template = await api.post("/push/templates", {"name": "t", "title": "Old", "body": "Body"}, key=shop.sk)
    test = await api.post(
        "/push/ab-tests",
        {"name": "x", "status": "active", "variants": [{"key": "A", "weight": 100, "title": "Variant"}]},
        key=shop.sk,
    )
    said: dict[str, Any] = {"userIds": ["anna"], "templateId": template.data["id"], "abTestId": test.data["id"]}
    send = await api.post("/push/send", said, key=shop.sk)
    assert send.status == 200, send
    row = await find_send(kernel, shop.id, SendId(UUID(send.data["id"])))

    async def alert() -> Any:
        _, _, calls, outcomes = await built(kernel, row, [phone])
        if outcomes:
            return outcomes[0].state, outcomes[0].reason
        return msgspec.json.decode(calls[0].body)["aps"]["alert"], calls[0].variant

    assert await alert() == ({"title": "Variant", "body": "Body"}, "A")
    await api.patch(f"/push/ab-tests/{test.data['id']}", {"status": "paused"}, key=shop.sk)
    await api.patch(f"/push/templates/{template.data['id']}", {"title": "New"}, key=shop.sk)
    assert await alert() == ({"title": "New", "body": "Body"}, None)
    decided_test = {"status": "completed", "winnerKey": "A"}
    await api.patch(f"/push/ab-tests/{test.data['id']}", decided_test, key=shop.sk)
    assert await alert() == ({"title": "New", "body": "Body"}, None)
    await api.delete(f"/push/templates/{template.data['id']}", key=shop.sk)
    assert await alert() == ("rejected", "template_missing")


async def test_a_payload_that_grew_too_large_is_rejected_alone(kernel: Kernel, api: Api, make: Make, shop: Org) -> None:
    """What a template makes of somebody's traits is only known for each recipient."""
    await make.profile(shop, "long", traits={"story": "x" * 4_000})
    await make.profile(shop, "short", traits={"story": "x"})
    long, short = await devices(make, shop, "long", "short")
    send = await asked(api, kernel, shop, userIds=["long", "short"], body="{{trait.story}}")
    _, _, calls, outcomes = await built(kernel, send, [long, short])
    assert [call.recipient for call in calls] == [short]
    assert [(one.recipient, one.state, one.reason) for one in outcomes] == [(long, "rejected", "payload_too_large")]


@pytest.mark.rule("B110", "C46")
async def test_a_critical_alert_bypasses_the_policies(kernel: Kernel, api: Api, make: Make, shop: Org) -> None:
    """C46: quiet hours and caps do not hold it, unless the org says so."""
    (phone,) = await devices(make, shop, "anna")
    night = {"quietHoursStartLocal": 0, "quietHoursEndLocal": 23, "deferInQuietHours": False}
    policies = {**night, "freqCapPerUserPerDay": 5, "orgDefaultTimezone": "UTC"}
    assert (await api.patch("/push/settings", policies, key=shop.sk)).status == 200
    noon = datetime.now(UTC).replace(hour=12)
    plain = await asked(api, kernel, shop, userIds=["anna"], ttlSeconds=2_419_200)
    critical = await asked(
        api, kernel, shop, userIds=["anna"], criticalAlert={"soundName": "s", "volume": 1}, ttlSeconds=2_419_200
    )
    for send, passes in ((plain, False), (critical, True)):
        async with decided(kernel, send, await chunk_of(kernel, send, [phone]), noon) as (sending, decision):
            assert (len(decision.sends()) == 1) is passes
            assert sending.capped is not passes
    await api.patch("/push/settings", {"criticalAlertsBypassPolicies": False}, key=shop.sk)
    async with decided(kernel, critical, await chunk_of(kernel, critical, [phone]), noon) as (sending, decision):
        assert not decision.sends() and sending.capped


@pytest.mark.rule("B114", "B115", "B266")
async def test_words_that_are_not_there(kernel: Kernel, api: Api, make: Make, shop: Org) -> None:
    """B115: an empty body with locales is strict; without any it is just empty; B266: `silent: true` is enough for a
    push without any words."""
    german = UUID((await make.token(shop, uuid4().hex * 2, userId="de", locale="de-AT"))["id"])
    french = UUID((await make.token(shop, uuid4().hex * 2, userId="fr", locale="fr"))["id"])

    async def alerts(**said: Any) -> list[Any]:
        answer = await api.post("/push/send", {"userIds": ["de", "fr"], **said}, key=shop.sk)
        send = await find_send(kernel, shop.id, SendId(UUID(answer.data["id"])))
        chunk = await chunk_of(kernel, send, [german, french])
        async with decided(kernel, send, chunk) as (sending, decision):
            calls, _ = await sending.build(decision, chunk)
            stays = [row[4] for row in decision.stays()]
        return [*(msgspec.json.decode(call.body)["aps"].get("alert") for call in calls), *stays]

    assert await alerts(title="T") == [{"title": "T", "body": ""}] * 2
    assert await alerts(silent=True) == [None, None]
    assert await alerts(title="T", localizedBody={"de": "Hallo"}) == [
        {"title": "T", "body": "Hallo"},
        "locale_unsupported",
    ]
    both = await alerts(title="T", body="Hi", localized_body={"de": "Hallo"})
    assert [alert["body"] for alert in both] == ["Hallo", "Hi"]


@pytest.mark.rule("B069")
async def test_names_leave_the_send_with_its_plan(kernel: Kernel, api: Api, make: Make, shop: Org) -> None:
    """B069: the people whom a send named stand in the ledger alone, where an erasure finds them."""
    (phone,) = await devices(make, shop, "anna")
    send = await asked(api, kernel, shop, userIds=["anna", "nobody"])
    assert (await planned(kernel, send))[0].kept == {"userIds": []}
    raw = await asked(api, kernel, shop, tokens=[uuid4().hex * 2])
    kept = (await planned(kernel, raw))[0].kept
    assert kept == {"tokens": []}
    # It is still a raw send: the device's state is not looked at.
    await api.delete(f"/push/tokens/{phone}", key=shop.pk)
    for row, passes in ((msgspec.structs.replace(raw, target=kept), True), (send, False)):
        async with decided(kernel, row, await chunk_of(kernel, row, [phone])) as (_, decision):
            assert bool(decision.sends()) is passes


@pytest.mark.rule("B122", "B123", "B125")
async def test_placeholders_beside_the_words(kernel: Kernel, api: Api, make: Make, shop: Org) -> None:
    """B122: in data and in the addresses of buttons they mean what they mean in the body; B125: unresolved is empty."""
    await make.profile(shop, "anna", traits={"plan": "pro", "n": 3}, anonymousId="anon-5", email="a@b.example")
    (phone,) = await devices(make, shop, "anon-5")
    send = await asked(
        api,
        kernel,
        shop,
        userIds=["anna"],
        data={"url": "/{{trait.plan}}/{{event.orderId}}", "deep": [{"who": "{{user.userId}} {{user.email}}"}], "n": 1},
        actions=[{"id": "go", "title": "Go", "url": "https://x/{{trait.n}}"}],
    )
    _, _, (call,), _ = await built(kernel, send, [phone])
    body = msgspec.json.decode(call.body)
    assert (body["data"]["url"], body["data"]["n"]) == ("/pro/", 1)
    assert body["data"]["deep"] == [{"who": "anna a@b.example"}]
    assert body["actions"] == [{"id": "go", "title": "Go", "url": "https://x/3"}]


async def test_a_send_serves_several_chunks(kernel: Kernel, api: Api, make: Make, shop: Org) -> None:
    """Delivery keeps what `open` gave: the second chunk is built as the first was, browsers among them."""
    said = subscription(uuid4().hex)
    registered = await api.post("/push/tokens", {"token": said, "platform": "web", "userId": "anna"}, key=shop.pk)
    browser = UUID(registered.data["id"])
    phones = await devices(make, shop, *["anna"] * 40)
    send = await asked(api, kernel, shop, userIds=["anna"])
    sending = await CHANNEL.open(kernel, send)
    for _ in range(2):
        chunk = await chunk_of(kernel, send, [browser, *phones])
        async with kernel.db.acquire() as connection:
            rows = await sending.rows(connection, chunk)
        calls, outcomes = await sending.build(sending.decide(rows, None, millis(datetime.now(UTC))), chunk)
        assert (len(calls), outcomes) == (41, [])


@pytest.mark.rule("B066", "B067", "C69")
async def test_a_takeover_brings_the_devices_together(api: Api, kernel: Kernel, make: Make, shop: Org) -> None:
    """B066: tokens are reassigned, into the shard of the known user; B067: each device once; no change of hands."""
    (old, new) = await devices(make, shop, "anon-7", "carla")
    await make.profile(shop, "carla", anonymousId="anon-7")
    listed = await api.get("/push/tokens", key=shop.sk, userId="carla")
    assert {UUID(row["id"]) for row in listed.data} == {old, new}
    select = "SELECT id, user_id, shard, owner_since FROM push_tokens WHERE org_id = $1 ORDER BY id"
    before = await kernel.db.fetch(select, shop.id)
    send = await asked(api, kernel, shop, userIds=["carla"])
    targets, whom = await planned(kernel, send)
    assert (whom, targets.unreachable) == ({old, new}, 0)
    after = await kernel.db.fetch(select, shop.id)
    assert [row["user_id"] for row in after] == ["carla", "carla"] and len({row["shard"] for row in after}) == 1
    assert [row["owner_since"] for row in before] == [row["owner_since"] for row in after]
    _, _, calls, outcomes = await built(kernel, send, [old, new])
    assert (len(calls), outcomes) == (2, [])
