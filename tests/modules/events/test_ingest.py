"""What ingest answers, and what it refuses, over HTTP."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from tests.api import Answer, Api
from tests.make import Make, Org

from sendora.kernel.clock import iso
from sendora.kernel.ids import profile_id
from sendora.kernel.pg import Database
from sendora.modules import orgs

KB = 1024


def event(**given: Any) -> dict[str, Any]:
    return {"eventType": "order.placed", "module": "billing", **given}


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.rule("B003", "B008", "B011", "B046", "C10", "C94")
async def test_one_event(api: Api, org: Org, make: Make, db: Database) -> None:
    """B008, B046, C94: 201 with four fields and the position; the key's environment wins over the client's."""
    dev = await make.key(org, "pk", environment="dev")
    sent = event(
        eventId="e-1", userId="u", anonymousId="a", deviceId="d", sessionId="s", environment="prod",
        timestamp="2026-04-01T10:00:00.123Z", properties={"amount": 12.5, "tags": ["a", None], "ä": "🙂"},
        projectId=str(org.project), orgId=str(org.id),
    )  # fmt: skip
    answer = await api.post("/events", sent, key=dev)
    assert answer.status == 201, answer
    assert set(answer.data) == {"id", "eventType", "environment", "receivedAt"}
    assert (answer.data["id"], answer.data["eventType"], answer.data["environment"]) == ("e-1", "order.placed", "dev")
    assert abs(datetime.fromisoformat(answer.data["receivedAt"]) - datetime.now(UTC)) < timedelta(seconds=30)
    counted = (await api.get("/events/accounting", key=org.sk, after=answer.position)).data
    assert {name: counted[name] for name in ("accepted", "stored", "duplicate", "bad")} == {
        "accepted": 1, "stored": 1, "duplicate": 0, "bad": 0,
    }  # fmt: skip
    row = await db.fetchrow("SELECT * FROM events WHERE org_id = $1", org.id)
    assert row is not None
    assert dict(row) == {
        "org_id": org.id, "project_id": org.project, "key": row["key"], "event_type": "order.placed",
        "module": "billing", "person": "u", "device_id": "d", "session_id": "s", "environment": "dev",
        "occurred_at": datetime(2026, 4, 1, 10, 0, 0, 123_000, UTC), "received_at": row["received_at"],
        "event_id": "e-1", "properties": sent["properties"],
    }  # fmt: skip
    assert iso(row["received_at"]) == answer.data["receivedAt"]
    assert row["key"].int >> 80 == 1_775_037_600_123, "the key begins with the event's own time"


async def test_what_an_event_leaves_out(api: Api, org: Org, db: Database) -> None:
    """An id is made, the time is the receipt's, nobody need be named."""
    answer = await api.post("/events", event(), key=org.pk)
    assert UUID(answer.data["id"]).version == 7
    await api.get("/events/accounting", key=org.sk, after=answer.position)
    row = await db.fetchrow("SELECT * FROM events WHERE org_id = $1", org.id)
    assert row is not None
    assert (row["person"], row["properties"], row["event_id"]) == (None, {}, answer.data["id"])
    assert row["occurred_at"] == row["received_at"]
    assert await db.fetchval("SELECT count(*) FROM profiles WHERE org_id = $1", org.id) == 0


@pytest.mark.rule("C28", "C94")
@pytest.mark.parametrize("path", ["/events", "/events/batch"])
@pytest.mark.parametrize("wrapped", [True, False])
async def test_lists(api: Api, org: Org, path: str, wrapped: bool) -> None:
    """C28, C94: an array or {events}, 200, and a bad item never fails its neighbours."""
    items: list[Any] = [event(), {"eventType": "x"}, 7, event(module="m" * 65), event(userId="u")]
    answer = await api.post(path, {"events": items} if wrapped else items, key=org.pk)
    assert answer.status == 200, answer
    assert (answer.data["accepted"], answer.data["rejected"]) == (2, 3)
    assert [error["index"] for error in answer.data["errors"]] == [1, 2, 3]
    assert list(answer.data["errors"][0]["fieldErrors"]) == ["module"]
    assert list(answer.data["errors"][2]["fieldErrors"]) == ["module"]
    counted = (await api.get("/events/accounting", key=org.sk, after=answer.position)).data
    assert (counted["accepted"], counted["stored"]) == (2, 2)


@pytest.mark.rule("C14", "C94")
async def test_a_batch_of_only_bad_items(api: Api, org: Org) -> None:
    """C94: 400, with fields that name the item."""
    answer = await api.post("/events/batch", {"events": [{"eventType": "x"}, {"module": "m"}]}, key=org.pk)
    assert set(answer.fields) == {"events.0.module", "events.1.eventType"}
    assert set((await api.post("/events", [{"eventType": "x"}], key=org.pk)).fields) == {"events.0.module"}
    nothing: list[Any] = [[], {"events": []}]
    for empty in nothing:
        assert "events" in (await api.post("/events/batch", empty, key=org.pk)).fields
    assert (await api.post("/events/batch", event(), key=org.pk)).status == 400, "one object is no batch"
    accounted = (await api.get("/events/accounting", key=org.sk)).data
    assert accounted["accepted"] == 0, "what was refused is not accepted"


@pytest.mark.rule("B024", "B035", "B046", "C14", "C27")
@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({"module": "m"}, "eventType"),
        ({"eventType": "x"}, "module"),
        (event(module="m" * 65), "module"),
        (event(module=""), "module"),
        (event(module=7), "module"),
        (event(eventType=""), "eventType"),
        (event(eventType=None), "eventType"),
        (event(eventId="i" * 65), "eventId"),
        (event(eventId="line\nbreak"), "eventId"),
        (event(properties=[]), "properties"),
        (event(properties={f"p{i}": i for i in range(101)}), "properties"),
        (event(properties={"list": list(range(1_001))}), "properties.list"),
        (event(userId="u" * 257), "userId"),
        (event(userId=7), "userId"),
        (event(timestamp="yesterday"), "timestamp"),
        (event(timestamp="1999-12-31T23:59:59Z"), "timestamp"),
        (event(timestamp="2999-01-01T00:00:00Z"), "timestamp"),
        (event(projectId=str(uuid4())), "projectId"),
        (event(orgId=str(uuid4())), "orgId"),
        (event(orgId="nonsense"), "orgId"),
    ],
)
async def test_limits_of_an_event(api: Api, org: Org, sent: dict[str, Any], field: str) -> None:
    """B024, B035, C14: counts and lengths are 400 by field; the same item in a list is told by its index."""
    answer = await api.post("/events", sent, key=org.pk)
    assert list(answer.fields) == [field], answer
    listed = await api.post("/events/batch", [event(), sent], key=org.pk)
    assert (listed.status, listed.data["accepted"]) == (200, 1), listed
    assert listed.data["errors"] == [{"index": 1, "fieldErrors": answer.fields}]


@pytest.mark.rule("B035", "B047")
async def test_what_is_just_allowed(api: Api, org: Org) -> None:
    """B035, B047: the limits themselves are inside; module is free-form."""
    sent = [
        event(module="m" * 64),
        event(module="anything at all"),
        event(eventId="i" * 64),
        event(properties={f"p{i}": i for i in range(100)}),
        event(properties={"list": list(range(1_000))}),
        event(properties={"deep": nested(28)}),
        event(properties={"big": 2**63 - 1, "small": -(2**63), "double": 1.7e308, "tiny": 5e-324, "zero": -0.0}),
        event(timestamp="2000-01-01T00:00:00Z"),
        event(timestamp=iso(datetime.now(UTC) + timedelta(hours=23))),
        event(timestamp="2026-02-03T04:05:06+05:30"),
        event(timestamp=1_760_000_000_000),
        event(userId="u" * 256),
        event(unknown={"fields": "are the client's business"}),
    ]
    answer = await make_all(api, org, sent)
    assert (answer["accepted"], answer["stored"], answer["bad"]) == (len(sent), len(sent), 0)


async def make_all(api: Api, org: Org, sent: list[dict[str, Any]]) -> Any:
    answer = await api.post("/events/batch", {"events": sent}, key=org.pk)
    assert (answer.status, answer.data["rejected"]) == (200, 0), answer
    return (await api.get("/events/accounting", key=org.sk, after=answer.position)).data


@pytest.mark.rule("C14", "C94")
async def test_what_is_too_large(api: Api, org: Org) -> None:
    """C14, C94: 413 for bytes of an event, items of a request, bytes of a request; nothing is accepted."""
    fat = event(properties={"text": "x" * (256 * KB)})
    for path, body in (
        ("/events", fat),
        ("/events", [fat]),
        ("/events/batch", {"events": [event()] * 1_001}),
        ("/events", [event()] * 1_001),
        ("/events/batch", [event(properties={"text": "x" * 250_000})] * 5),
        ("/identify", {"userId": "u", "traits": {"text": "x" * (256 * KB)}}),
        ("/identify", {"userId": "u", "traits": {"text": "x" * (2 * 1024 * KB)}}),
    ):
        answer = await api.post(path, body, key=org.pk)
        assert (answer.status, answer.code) == (413, "PAYLOAD_TOO_LARGE"), (path, answer)
    mixed = await api.post("/events/batch", [event(), fat], key=org.pk)
    assert (mixed.status, mixed.data["accepted"]) == (200, 1)
    assert mixed.data["errors"][0]["code"] == "PAYLOAD_TOO_LARGE"
    most = await api.post("/events/batch", [event()] * 1_000, key=org.pk)
    assert (most.status, most.data["accepted"]) == (200, 1_000)


HOSTILE: list[bytes] = [
    b"",
    b" ",
    b"{",
    b"null",
    b"7",
    b'"text"',
    b"\xff\xfe",
    b"\xef\xbb\xbf{}",
    b'{"eventType":"x","module":"m","properties":{"a":NaN}}',
    b'{"eventType":"x","module":"m","properties":{"a":Infinity}}',
    b'{"eventType":"x","module":"m","properties":{"a":1e999}}',
    b'{"eventType":"x","module":"m","properties":{"a":9223372036854775808}}',
    b'{"eventType":"x","module":"m","properties":{"a":"\\ud800"}}',
    b'{"eventType":"x","module":"m","properties":{"\\udc00":1}}',
    b'{"eventType":"x","module":"m","properties":{"a":"\\u0000"}}',
    b'{"eventType":"x\\u0000","module":"m"}',
    b'{"eventType":"x","module":"m","properties":{"a":1,"a":2}}',
    b'{"eventType":"x","module":"m","properties":{"a":1,"\\u0061":2}}',
    b'{"eventType":"x","eventType":"y","module":"m"}',
    b'{"eventType":"x","module":"m","properties":' + b"[" * 40 + b"]" * 40 + b"}",
    b"[" * 500_000,
    b'{"events":' * 20_000,
    b'{"eventType":"x","module":"m"} trailing',
    b"{'eventType':'x'}",
    b'{"eventType":"x","module":"m","properties":{"a":"' + b"\xed\xa0\x80" + b'"}}',
    b'{"eventType":"x","module":"m","properties":{"a":01}}',
    b"eventType=x&module=m",
]


@pytest.mark.rule("B024")
@pytest.mark.parametrize("path", ["/events", "/events/batch", "/identify"])
async def test_hostile_bodies(api: Api, org: Org, path: str) -> None:
    """reliability.md 3.7: each is a 400 that says where, at both doors; none is accepted, none is a 500."""
    for body in HOSTILE:
        for door in (path, path + "/"):
            answer = await api.post(door, body, key=org.pk)
            assert (answer.status, answer.code) == (400, "VALIDATION_ERROR"), (body[:60], answer)
            assert answer.fields
    assert (await api.get("/events/accounting", key=org.sk)).data["accepted"] == 0


async def test_hostile_items_do_not_harm_their_neighbours(api: Api, org: Org) -> None:
    """F-I7: a good batch with items that no parser or database agrees about."""
    good = b'{"eventType":"x","module":"m"}'
    bad = [
        b'{"eventType":"x","module":"m","properties":{"a":1,"a":2}}',
        b'{"eventType":"x","module":"m","properties":{"a":"\\u0000"}}',
        b'{"eventType":"x","module":"m","properties":{"a":"\\ud800"}}',
        b'{"eventType":"x","module":"m","properties":{"a":1e999}}',
        b'{"eventType":"x","module":"m","properties":' + b"[" * 40 + b"]" * 40 + b"}",
    ]
    body = b"[" + b",".join(part for item in bad for part in (good, item)) + b"]"
    answer = await api.post("/events/batch", body, key=org.pk)
    assert (answer.status, answer.data["accepted"], answer.data["rejected"]) == (200, 5, 5), answer
    assert [error["index"] for error in answer.data["errors"]] == [1, 3, 5, 7, 9]


async def test_content_codings_are_not_unpacked(api: Api, org: Org) -> None:
    """reliability.md 3.7: nothing can be made to swell."""
    for coding in ("gzip", "br", "zstd", "gzip, gzip"):
        answer = await api.post("/events", b"\x1f\x8b", key=org.pk, headers={"content-encoding": coding})
        assert answer.status == 400, answer


@pytest.mark.rule("B048", "B058", "B060", "C29", "C94")
async def test_identify(api: Api, org: Org, db: Database) -> None:
    """B058, C94: 200 with the profile's id, which is known before it is stored; the identify is an event as well."""
    body = {"userId": "u-1", "email": "u@example.com", "traits": {"plan": "pro", "email": "trait@example.com"}}
    answer = await api.post("/identify", body, key=org.pk)
    assert (answer.status, set(answer.data)) == (200, {"id", "externalId"}), answer
    assert answer.data == {"id": str(profile_id(org.project, "u-1")), "externalId": "u-1"}
    found = await api.get("/profiles/u-1", key=org.sk, after=answer.position)
    assert found.data["id"] == answer.data["id"]
    assert (found.data["email"], found.data["traits"]) == ("u@example.com", body["traits"]), "C29: both are kept apart"
    await api.get("/events/accounting", key=org.sk, after=answer.position)
    row = await db.fetchrow("SELECT event_type, module, properties FROM events WHERE org_id = $1", org.id)
    assert row is not None
    assert tuple(row) == ("user.identified", "profiles", body["traits"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "userId"),
        ({"userId": ""}, "userId"),
        ({"userId": "u" * 257}, "userId"),
        ({"userId": "u", "email": "nobody"}, "email"),
        ({"userId": "u", "traits": []}, "traits"),
        ({"userId": "u", "traits": {f"t{i}": i for i in range(101)}}, "traits"),
        ({"userId": "u", "timezone": "Mars/Olympus"}, "timezone"),
        ({"userId": "u", "projectId": str(uuid4())}, "projectId"),
    ],
)
async def test_bodies_of_identify(api: Api, org: Org, body: dict[str, Any], field: str) -> None:
    assert list((await api.post("/identify", body, key=org.pk)).fields) == [field]


@pytest.mark.rule("C94")
@pytest.mark.rule("B057")
async def test_an_event_is_of_the_keys_project(api: Api, org: Org, make: Make, db: Database) -> None:
    """The key decides: another project of the organisation neither has the event nor may be named in it."""
    other = await orgs.create_project(db, org.id, "other")
    theirs = await make.key(org, project=other)
    await make.events(org, {"eventType": "mine", "userId": "u"})
    rows = await db.fetch("SELECT project_id FROM events WHERE org_id = $1", org.id)
    assert [row["project_id"] for row in rows] == [org.project]
    assert (await api.get("/events/accounting", key=theirs)).data["stored"] == 0
    event = {"eventType": "e", "module": "m", "projectId": str(org.project)}
    refused = await api.post("/events", event, key=theirs)
    assert "projectId" in refused.fields


async def test_accounting_waits_for_its_position(api: Api, org: Org, make: Make) -> None:
    """C94: waits up to 5 s; a position that is not reached is answered as of the one that is."""
    answer = await api.post("/events/batch", [event()] * 10, key=org.sk)
    counted = await api.get("/events/accounting", key=org.sk, after=answer.position)
    assert (counted.data["projectId"], counted.data["stored"]) == (str(org.project), 10)
    lane, _, sequence = counted.data["position"].partition("-")
    begun = time.monotonic()
    late = await api.get("/events/accounting", key=org.sk, after=f"{lane}-{int(sequence) + 1_000_000}")
    assert 4.5 < time.monotonic() - begun < 9
    assert (late.status, late.data["stored"]) == (200, 10)
    for bad in ("", "1", "0-", "0-x", "9-1", "0--1", "0-" + "9" * 30):
        assert list((await api.get("/events/accounting", key=org.sk, after=bad)).fields) == ["after"]
    same = await api.get("/events/accounting", key=org.sk, projectId=org.project)
    assert same.status == 200
    foreign = await make.org()
    for project in (foreign.project, uuid4(), "nonsense"):
        assert (await api.get("/events/accounting", key=org.sk, projectId=project)).code == "NOT_FOUND"


@pytest.mark.rule("B034", "C95")
async def test_the_bucket_counts_events(api: Api, make: Make) -> None:
    """B034, C95: a batch costs as many tokens as it has events; too many at once takes nothing; more than ever: 413."""
    org = await make.org()
    key = await make.key(org, limit=orgs.RateLimit(per_second=1, burst=100))
    assert (await api.post("/events/batch", [event()] * 90, key=key)).status == 200
    refused = await api.post("/events/batch", [event()] * 50, key=key)
    assert (refused.status, refused.code) == (429, "RATE_LIMIT"), refused
    assert int(refused.headers["retry-after"]) >= 30
    assert refused.headers["x-ratelimit-limit"] == "100"
    assert (await api.post("/events/batch", [event()] * 10, key=key)).status == 200, "nothing was taken"
    never = await api.post("/events/batch", [event()] * 101, key=key)
    assert (never.status, never.code) == (413, "PAYLOAD_TOO_LARGE"), never
    bad = await api.post("/events", {"module": "m"}, key=key)
    assert bad.status == 400, "C87: the body comes before the limit"


@pytest.mark.rule("B034", "C95")
async def test_the_bucket_is_exact_under_concurrency(api: Api, make: Make) -> None:
    """C95: whatever arrives at once, the tokens that were there are spent once."""
    org = await make.org()
    key = await make.key(org, limit=orgs.RateLimit(per_second=1, burst=200))
    begun = time.monotonic()
    answers = await asyncio.gather(
        *(api.post("/events/batch", [event()] * 7, key=key) for _ in range(30)),
        *(api.post("/identify", {"userId": "u"}, key=key) for _ in range(60)),
    )
    spent = sum(answer.data.get("accepted", 1) for answer in answers if answer.status == 200)
    assert {answer.status for answer in answers} == {200, 429}
    assert 200 - 6 <= spent <= 200 + (time.monotonic() - begun) + 1
    last = (await api.get("/events/accounting", key=org.sk, after=max_position(answers))).data
    assert last["stored"] == spent


def max_position(answers: list[Answer]) -> str:
    return max((a.position for a in answers if a.status == 200), key=lambda text: int(text.partition("-")[2]))


@pytest.mark.rule("C87")
async def test_the_order_of_checks(api: Api, make: Make) -> None:
    """C87: 401, 403, 404 of the org, 400, 413/429."""
    org = await make.org()
    key = await make.key(org, limit=orgs.RateLimit(per_second=1, burst=1))
    other = await make.key(org, scopes=("profiles:read",), limit=orgs.RateLimit(per_second=1, burst=1))
    assert (await api.post("/events", b"{", key="nonsense")).status == 401
    assert (await api.post("/events", b"{", key=other)).status == 403
    assert (await api.post("/events", b"{", key=key, org=uuid4())).status == 404
    assert (await api.post("/events", b"{", key=key)).status == 400
    assert (await api.post("/events/batch", [event()] * 2, key=key)).status == 413
    assert (await api.post("/events", event(), key=key)).status == 201
    assert (await api.post("/events", event(), key=key)).status == 429


async def test_both_doors_answer_alike(api: Api, org: Org) -> None:
    """The hot table and Litestar's handler call one function: a trailing slash takes the other way."""
    hot = await api.post("/events", event(eventId="a"), key=org.pk)
    cold = await api.post("/events/", event(eventId="a"), key=org.pk)
    assert (hot.status, cold.status) == (201, 201)
    assert set(hot.data) == set(cold.data)
    assert "x-sendora-position" in cold.headers
    for answer in (hot, cold):
        assert answer.headers["content-type"] == "application/json"
        assert {"x-request-id", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"} <= set(
            answer.headers
        )


async def test_bytes_of_the_answer_are_json(api: Api, org: Org) -> None:
    """What a client wrote comes back escaped, not pasted."""
    name = 'quote" back\\slash </script> \u2028 \u0001'
    answer = await api.post("/events", event(eventType=name), key=org.pk)
    assert (answer.status, answer.data["eventType"]) == (201, name), answer
    assert msgspec.json.decode(answer.body)["success"] is True
