"""What comes back: opens and clicks, dead addresses, collection, and a person who wants to be forgotten."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api import Api
from tests.conftest import eventually
from tests.make import Make, Org
from tests.modules.push.conftest import APNS

from sendora.delivery.account import Ended, Outcomes
from sendora.kernel.bus import Message, Position
from sendora.kernel.ids import NIL, OrgId, ProjectId, SendId, new_id
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Database, month_of, partition
from sendora.modules import push
from sendora.modules.push.consumers import TELL_MAX, fold, held, prune
from sendora.modules.push.jobs import collect
from sendora.modules.push.store.feedback import Health, Open


@pytest.fixture
async def told(kernel: Kernel) -> AsyncIterator[list[tuple[str, dict[str, Any]]]]:
    """What is told on LIFECYCLE while the test runs: (subject, message). Once each, as the stream keeps it: a publish
    whose acknowledgement is late is repeated under the same id."""
    heard: list[tuple[str, dict[str, Any]]] = []
    ids: set[str] = set()

    async def listen(message: Any) -> None:
        id_ = message.headers["Nats-Msg-Id"]
        if id_ not in ids:
            ids.add(id_)
            heard.append((message.subject, msgspec.json.decode(message.data)))

    subscription = await kernel.bus.client.subscribe("lifecycle.push.>", cb=listen)
    await kernel.bus.client.flush()
    yield heard
    await subscription.unsubscribe()


async def sent(api: Api, org: Org, **said: Any) -> str:
    await api.put("/push/providers/apns", APNS, key=org.sk)
    answer = await api.post("/push/send", {"userIds": ["anna"], "title": "T", **said}, key=org.sk)
    assert answer.status == 200, answer
    id_: str = answer.data["id"]
    return id_


# -- opens


@pytest.mark.rule("B104", "C38", "C39", "B251")
async def test_opens_and_clicks(api: Api, org: Org, make: Make, told: list[tuple[str, dict[str, Any]]]) -> None:
    """B104: a tap on the body opens, a tap on a button clicks as well; C38: either id; C39: "body" is the body."""
    device = await make.token(org, uuid4().hex * 2, userId="anna")
    send = await sent(api, org)
    delivery = UUID(send).hex + UUID(device["id"]).hex
    for said in ({"clickAction": "body"}, {}, {"clickAction": None}, {"clickAction": ""}):
        answer = await api.post("/push/track-open", {"sendId": delivery, **said}, key=org.pk)
        assert (answer.status, answer.data["id"]) == (200, delivery)

    async def shown() -> Any:
        return (await api.get(f"/push/sends/{send}", key=org.sk)).data

    async def opened() -> bool:
        return (await shown())["openedAt"] is not None

    await eventually(opened)
    assert (await shown())["clickedAt"] is None
    await api.post("/push/track-open", {"sendId": send, "clickAction": "share"}, key=org.pk)

    async def clicked() -> bool:
        return bool((await shown())["clickAction"] == "share")

    await eventually(clicked)
    stats = (await api.get("/push/sends/stats", key=org.sk)).data
    assert (stats["opened"], stats["clicked"]) == (2, 1)
    await eventually(lambda: [message for subject, message in told if subject == "lifecycle.push.clicked"])
    events = [
        (subject.rpartition(".")[2], one["recipient"], one["clickAction"])
        for subject, message in told
        if message.get("org") == str(org.id)
        for one in message["opens"]
    ]
    assert sorted(events, key=str) == [
        ("clicked", None, "share"),
        ("opened", device["id"], None),
        ("opened", None, None),
    ]


@pytest.mark.rule("C94")
async def test_an_open_of_nothing_is_dropped(api: Api, org: Org, make: Make, db: Database) -> None:
    """C94: 200 without a look-up; another org's send and a made-up device leave no row."""
    other = await make.org()
    theirs, ours = await sent(api, other), await sent(api, org)
    for id_ in (theirs, str(uuid4()), UUID(ours).hex + uuid4().hex):
        assert (await api.post("/push/track-open", {"sendId": id_}, key=org.pk)).status == 200
    assert (await api.post("/push/track-open", {"sendId": ours}, key=org.pk)).status == 200

    async def recorded() -> Any:
        return await db.fetchval("SELECT count(*) FROM push_opens WHERE org_id = $1", org.id)

    await eventually(recorded)
    assert await recorded() == 1
    assert await db.fetchval("SELECT count(*) FROM push_opens WHERE org_id = $1", other.id) == 0


@pytest.mark.rule("C94")
@pytest.mark.parametrize("id_", ["", "x", "0" * 32, "g" * 64, "0" * 63, "é" * 64, " " * 64, 7, None])
async def test_a_malformed_id_is_refused(api: Api, org: Org, id_: object) -> None:
    """C94: 400, not a silent nothing."""
    refused = await api.post("/push/track-open", {"sendId": id_}, key=org.pk)
    assert "sendId" in refused.fields, refused


AT = datetime(2026, 1, 1, tzinfo=UTC)
OPEN = st.tuples(st.integers(0, 2), st.integers(0, 50), st.one_of(st.none(), st.sampled_from(["a", "b"])))


@given(st.lists(OPEN, max_size=20), st.randoms())
def test_folding_opens(said: list[tuple[int, int, str | None]], chance: Any) -> None:
    """The first instant of each kind counts, in whatever order and batches they arrive."""

    def opens(rows: Sequence[tuple[int, int, str | None]]) -> list[Open]:
        return [
            Open(
                org=OrgId(NIL),
                project=ProjectId(NIL),
                send=SendId(UUID(int=send)),
                opened_at=AT + timedelta(seconds=second),
                clicked_at=AT + timedelta(seconds=second) if action else None,
                action=action,
            )
            for send, second, action in rows
        ]

    once = fold(opens(said))
    shuffled = list(said)
    chance.shuffle(shuffled)
    halves = [*fold(opens(shuffled[::2])).values(), *fold(opens(shuffled[1::2])).values()]
    twice = fold(halves)
    assert {key: (one.opened_at, one.clicked_at) for key, one in once.items()} == {
        key: (one.opened_at, one.clicked_at) for key, one in twice.items()
    }
    for key, one in once.items():
        theirs = [row for row in said if UUID(int=row[0]) == key[1]]
        assert one.opened_at == AT + timedelta(seconds=min(row[1] for row in theirs))
        clicks = [row[1] for row in theirs if row[2]]
        assert one.clicked_at == (AT + timedelta(seconds=min(clicks)) if clicks else None)


# -- dead addresses


def outcomes(org: Org, *ended: tuple[str, str, str | None, str | None], provider: str = "apns") -> Message:
    """(device, state, reason, provider id)."""
    message = Outcomes(
        org=org.id,
        project=org.project,
        send=new_id(),
        shard=0,
        seq=0,
        outcomes=[
            Ended(
                recipient=UUID(device),
                user_id=None,
                state=state,
                reason=reason,
                variant=None,
                provider=provider,
                provider_id=provider_id,
                attempt=1,
                repeated=False,
                at=datetime.now(UTC),
            )
            for device, state, reason, provider_id in ended
        ],
    )
    return Message("lifecycle.push.outcomes", msgspec.json.encode(message), Position(1), 1)


async def active(api: Api, org: Org) -> dict[str, bool]:
    listed = await api.get("/push/tokens", key=org.sk, pageSize=100)
    return {row["id"]: row["isActive"] for row in listed.data}


@pytest.mark.rule("B085", "B087")
async def test_dead_addresses_are_retired_once(
    api: Api, kernel: Kernel, org: Org, make: Make, told: list[tuple[str, dict[str, Any]]]
) -> None:
    """B085, B087: by the permanent codes alone, and told once however often the outcome is read."""
    made = [await make.token(org, uuid4().hex * 2, userId="anna") for _ in range(4)]
    gone, busy, fine, expired = [one["id"] for one in made]
    message = outcomes(
        org,
        (gone, "rejected", "Unregistered", "x"),
        (busy, "rejected", "retries_exhausted", None),
        (fine, "accepted", None, "y"),
        (expired, "rejected", "InvalidProviderToken", None),
    )
    await prune(kernel, [message])
    await prune(kernel, [message, message])
    assert await active(api, org) == {gone: False, busy: True, fine: True, expired: True}
    await kernel.bus.client.flush()

    def invalidated() -> list[dict[str, Any]]:
        return [body for subject, body in told if subject.endswith("token_invalidated") and body["org"] == str(org.id)]

    await eventually(invalidated)
    (only,) = invalidated()
    assert (only["tokenId"], only["reason"], only["userId"]) == (gone, "Unregistered", "anna")


@pytest.mark.rule("B085")
async def test_a_device_that_came_back_is_not_retired(api: Api, kernel: Kernel, org: Org, make: Make) -> None:
    """F-V9: Apple's instant lies before the registration, so the registration wins; after it, the death."""
    device = (await make.token(org, uuid4().hex * 2))["id"]
    before = int((datetime.now(UTC) - timedelta(hours=1)).timestamp() * 1_000)
    after = int((datetime.now(UTC) + timedelta(minutes=1)).timestamp() * 1_000)
    await prune(kernel, [outcomes(org, (device, "rejected", "Unregistered", f"id@{before}"))])
    assert await active(api, org) == {device: True}
    await prune(kernel, [outcomes(org, (device, "rejected", "Unregistered", f"id@{after}"))])
    assert await active(api, org) == {device: False}


async def test_a_doubtful_code_needs_others_that_are_accepted(api: Api, kernel: Kernel, org: Org, make: Make) -> None:
    """BadDeviceToken may be a wrong environment: without any success on the lane it is held, not retired."""
    bad, fine = [(await make.token(org, uuid4().hex * 2))["id"] for _ in range(2)]
    await prune(kernel, [outcomes(org, (bad, "rejected", "BadDeviceToken", None))])
    assert await active(api, org) == {bad: True, fine: True}
    row = await kernel.db.fetchrow(
        "SELECT quarantined_at FROM push_tokens WHERE org_id = $1 AND id = $2", org.id, UUID(bad)
    )
    assert row is not None and row["quarantined_at"] is not None
    await prune(kernel, [outcomes(org, (fine, "accepted", None, "x"), (bad, "rejected", "BadDeviceToken", None))])
    assert await active(api, org) == {bad: False, fine: True}


async def test_what_one_of_apples_environments_accepts_proves_nothing_of_the_other(
    api: Api, kernel: Kernel, org: Org, make: Make
) -> None:
    """Providers.md 1.6: only where this environment has accepted others just now."""
    fine = (await make.token(org, uuid4().hex * 2))["id"]
    bad = (await make.token(org, uuid4().hex * 2, environment="sandbox"))["id"]
    also = (await make.token(org, uuid4().hex * 2, environment="sandbox"))["id"]
    dead = (bad, "rejected", "BadDeviceToken", None)
    sandbox = outcomes(org, dead, provider="apns:sandbox")
    await prune(kernel, [outcomes(org, (fine, "accepted", None, "x")), sandbox])
    assert (await active(api, org))[bad] is True
    await prune(kernel, [outcomes(org, (also, "accepted", None, "x"), dead, provider="apns:sandbox")])
    assert await active(api, org) == {fine: True, also: True, bad: False}


async def test_what_one_app_is_told_proves_nothing_of_another(api: Api, kernel: Kernel, org: Org, make: Make) -> None:
    """Under another credential, a wrong topic is as likely as ever: each app's addresses are for themselves."""
    fine, bad, also = [(await make.token(org, uuid4().hex * 2))["id"] for _ in range(3)]
    dead = (bad, "rejected", "DeviceTokenNotForTopic", None)
    await prune(kernel, [outcomes(org, (fine, "accepted", None, "x")), outcomes(org, dead, provider="apns/drivers")])
    assert (await active(api, org))[bad] is True
    await prune(kernel, [outcomes(org, (also, "accepted", None, "x"), dead, provider="apns/drivers")])
    assert await active(api, org) == {fine: True, also: True, bad: False}


async def test_many_deaths_are_told_at_once(
    api: Api, kernel: Kernel, org: Org, told: list[tuple[str, dict[str, Any]]]
) -> None:
    """B087: each once, though they are more than one lot of messages."""
    n = TELL_MAX + 20
    body = [{"token": f"fcm:{i}:{uuid4().hex}", "platform": "android"} for i in range(4 * n)]
    answers = await asyncio.gather(*(api.post("/push/tokens", one, key=org.pk) for one in body))
    ids = [answer.data["id"] for answer in answers]
    dead = [(id_, "rejected", "UNREGISTERED", None) for id_ in ids[:n]]
    fine = [(id_, "accepted", None, "x") for id_ in ids[n:]]
    await prune(kernel, [outcomes(org, *dead, *fine, provider="fcm")])
    await kernel.bus.client.flush()

    def invalidated() -> bool:
        gone = [body["tokenId"] for subject, body in told if subject.endswith("token_invalidated")]
        return sorted(id_ for id_ in gone if id_ in ids) == sorted(ids[:n])

    await eventually(invalidated)


async def test_a_jump_in_the_dead_rate_stops_pruning(api: Api, kernel: Kernel, org: Org, make: Make) -> None:
    """A wrong environment makes every device look dead: they are held, stay active, and can be registered anew."""
    body = [{"token": f"fcm:{n}:{uuid4().hex}", "platform": "android"} for n in range(120)]
    answers = await asyncio.gather(*(api.post("/push/tokens", one, key=org.pk) for one in body))
    ids = [answer.data["id"] for answer in answers]
    accepted = [(id_, "accepted", None, "x") for id_ in ids[:10]]
    dead = [(id_, "rejected", "UNREGISTERED", None) for id_ in ids[10:]]
    await prune(kernel, [outcomes(org, *accepted, *dead, provider="fcm")])
    alive = await kernel.db.fetchval("SELECT count(*) FROM push_tokens WHERE org_id = $1 AND is_active", org.id)
    assert alive == 120
    count = "SELECT count(*) FROM push_tokens WHERE org_id = $1 AND quarantined_at IS NOT NULL"
    assert await kernel.db.fetchval(count, org.id) == 110
    await api.post("/push/tokens", body[-1], key=org.pk)
    assert await kernel.db.fetchval(count, org.id) == 109


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_when_pruning_is_held(accepted: int, dead: int) -> None:
    """More dead never frees a lane, more accepted never holds it; a hundred is the least."""
    now = held(Health(accepted=accepted, dead=dead))
    assert not now or (dead >= 100 and dead / (accepted + dead) > 0.3)
    assert now or not held(Health(accepted=accepted + 1, dead=dead))
    assert not now or held(Health(accepted=accepted, dead=dead + 1))


@pytest.mark.rule("B088")
async def test_collection_after_the_grace_period(api: Api, kernel: Kernel, org: Org, make: Make) -> None:
    """B088: thirty days after they were retired, not before, and never an active one."""
    made = [(await make.token(org, uuid4().hex * 2))["id"] for _ in range(3)]
    for id_ in made[:2]:
        await api.delete(f"/push/tokens/{id_}", key=org.pk)
    await kernel.db.execute(
        "UPDATE push_tokens SET retired_at = now() - interval '31 days' WHERE org_id = $1 AND id = $2",
        org.id,
        UUID(made[0]),
    )
    await collect(kernel)
    assert set(await active(api, org)) == set(made[1:])


async def ledger(db: Database, org: Org, send: str, *names: str) -> None:
    """What a worker would have written of these people."""
    await partition(db, "deliveries", month_of(datetime.now(UTC)))
    await db.execute(
        "INSERT INTO deliveries"
        " (org_id, send_id, shard, seq, position, recipient, user_id, state, attempt, repeated, at)"
        " SELECT $1, $2, 0, 0, n - 1, gen_random_uuid(), name, 'accepted', 1, false, now()"
        " FROM unnest($3::text[]) WITH ORDINALITY AS t (name, n)",
        org.id,
        UUID(send),
        list(names),
    )


@pytest.mark.rule("B069")
async def test_a_person_is_told_and_forgotten(api: Api, kernel: Kernel, org: Org, make: Make, db: Database) -> None:
    """B069: devices under every name that the person ever had, and what was opened on them."""
    await make.profile(org, "anna", anonymousId="anon")
    one = await make.token(org, uuid4().hex * 2, userId="anna")
    two = await make.token(org, uuid4().hex * 2, userId="anon")
    other = await make.token(org, uuid4().hex * 2, userId="bert")
    send = await sent(api, org)
    await api.post("/push/track-open", {"sendId": UUID(send).hex + UUID(one["id"]).hex}, key=org.pk)

    async def opens() -> Any:
        return await db.fetchval("SELECT count(*) FROM push_opens WHERE org_id = $1", org.id)

    await eventually(opens)
    module = push.module
    assert module.export is not None and module.erase is not None
    await ledger(db, org, send, "anna", "anon", "bert")
    told = [row async for row in module.export(kernel, org.id, org.project, "anna")]
    assert sorted(row["device"]["id"] for row in told if "device" in row) == sorted([one["id"], two["id"]])
    assert [(row["delivery"]["sendId"], row["delivery"]["state"]) for row in told if "delivery" in row] == [
        (send, "accepted")
    ] * 2
    await module.erase(kernel, org.id, org.project, "anna")
    names = await db.fetch("SELECT user_id FROM deliveries WHERE org_id = $1 ORDER BY position", org.id)
    assert [row["user_id"] for row in names] == [None, None, "bert"]
    assert set(await active(api, org)) == {other["id"]}
    assert await opens() == 0
