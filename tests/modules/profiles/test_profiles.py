"""Profiles over HTTP: people come by events and identify, change by way of the log, and are read from Postgres."""

import asyncio
import dataclasses
import secrets
import struct
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from tests.api import Api
from tests.make import Make, Org

from sendora import _core
from sendora.kernel.bus import Message
from sendora.kernel.config import Postgres
from sendora.kernel.ids import profile_id
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Database, migrate
from sendora.kernel.pg.positions import lock_position
from sendora.modules import orgs, profiles
from sendora.modules.profiles import service
from sendora.modules.profiles.bound import Bound
from sendora.modules.profiles.consumers import write_profiles

FIELDS = {
    "id", "externalId", "email", "traits", "audienceMemberships", "lifecycleStage", "locale", "timezone", "createdAt",
    "lastSeenAt",
}  # fmt: skip


async def identify(api: Api, org: Org, external_id: str, **given: Any) -> str:
    answer = await api.post("/identify", {"userId": external_id, **given}, key=org.pk)
    assert answer.status == 200, answer
    return answer.position


@pytest.mark.rule("B058", "B063", "C70")
async def test_fetching(api: Api, org: Org, make: Make) -> None:
    """B058, B063, C70: by externalId or by UUID, in both forms of the path; everything that is known of the person."""
    made = await make.profile(
        org, "user 1", email="u@example.com", traits={"plan": "pro"}, locale="de-AT", timezone="Europe/Vienna"
    )
    assert set(made) == FIELDS
    assert made["id"] == str(profile_id(org.project, "user 1"))
    assert (made["externalId"], made["email"], made["traits"]) == ("user 1", "u@example.com", {"plan": "pro"})
    assert (made["locale"], made["timezone"]) == ("de-AT", "Europe/Vienna")
    assert (made["audienceMemberships"], made["lifecycleStage"]) == ([], None)
    assert datetime.now(UTC) - datetime.fromisoformat(made["createdAt"]) < timedelta(minutes=1)
    for named in ("user%201", made["id"], made["id"].upper()):
        assert (await api.get(f"/profiles/{named}", key=org.sk)).data == made
        assert (await api.get(f"/profiles/{named}", key=org.sk, org=org.id)).data == made


@pytest.mark.rule("B027", "C03")
async def test_nobody(api: Api, org: Org, make: Make) -> None:
    """B027: missing, or not yours; names that Postgres could not even hold are no fault of the server."""
    other = await make.org()
    theirs = await make.profile(other, "theirs")
    for named in ("nobody", str(uuid4()), "theirs", theirs["id"], "x" * 5_000, "%F0%9F%99%82", "a%20b", "..", "%2e"):
        for method, body in (("GET", None), ("PATCH", {"email": "a@b.c"}), ("DELETE", None)):
            answer = await api.request(method, f"/profiles/{named}", body, key=org.sk)
            assert (answer.status, answer.code) == (404, "NOT_FOUND"), (named, method, answer)
    for named in ("%00", "a%00b", "%ff", "%ed%a0%80"):
        assert (await api.get(f"/profiles/{named}", key=org.sk)).status in (400, 404)
        assert (await api.get("/profiles", key=org.sk, externalId="x\x00")).status == 400
    same_name = await make.profile(org, "theirs", traits={"mine": True})
    assert same_name["id"] != theirs["id"]


async def test_a_uuid_may_be_an_external_id(api: Api, org: Org, make: Make) -> None:
    """C70: a name that is somebody's id wins over the same name as an external id; both can be reached."""
    name = str(uuid4())
    made = await make.profile(org, name)
    assert made["externalId"] == name
    assert (await api.get(f"/profiles/{made['id']}", key=org.sk)).data == made


@pytest.mark.rule("B059", "B060", "B061", "B062", "C29")
async def test_identify_merges(api: Api, org: Org) -> None:
    """B059, B061, B062: traits are merged one by one, later over earlier, null removes; email and locale stay if not
    given; any value may be a trait."""
    await identify(
        api, org, "u", email="old@example.com", traits={"a": 1, "b": {"deep": [1, 2]}, "c": None}, locale="en"
    )
    await identify(api, org, "u", traits={"a": "one", "d": [True, None, 1.5]}, timezone="Asia/Tokyo")
    last = await identify(api, org, "u", email="new@example.com", traits={"b": None, "ü": "ü"})
    person = (await api.get("/profiles/u", key=org.sk, after=last)).data
    assert person["traits"] == {"a": "one", "d": [True, None, 1.5], "ü": "ü"}
    assert (person["email"], person["locale"], person["timezone"]) == ("new@example.com", "en", "Asia/Tokyo")
    assert (await api.get("/profiles", key=org.sk)).pagination["total"] == 1


@pytest.mark.rule("B061", "B063", "C29")
async def test_any_trait_makes_an_audience(api: Api, org: Org, make: Make) -> None:
    """B061: whatever the key and the kind of its value; B063: the profile names the audiences that the person is in
    now; C29: the trait `email` is read before the address that identify was told."""
    traits = {"plan": "pro", "ltv": 234.5, "beta tester": True, "ü.x": "ä", "email": "trait@example.com"}
    await make.profile(org, "u", email="user@example.com", traits=traits)
    await make.profile(org, "v", email="user@example.com")

    async def audience(name: str, trait: str, value: Any) -> None:
        rules = {"all": [{"trait": trait, "op": "eq", "value": value}]}
        assert (await api.post("/audiences", {"name": name, "rules": rules}, key=org.sk)).status == 201

    for name, value in traits.items():
        await audience(f"with {name}", name, value)
    await audience("not yet", "plan", "free")
    await audience("told", "email", "user@example.com")

    async def memberships(user: str) -> list[str]:
        found = (await api.get(f"/profiles/{user}", key=org.sk)).data["audienceMemberships"]
        return sorted(one["name"] for one in found)

    assert await memberships("u") == sorted(f"with {name}" for name in traits)
    assert await memberships("v") == ["told"]
    await api.patch("/profiles/u", {"traits": {"plan": "free", "ltv": None}}, key=org.sk)
    assert await memberships("u") == ["not yet", "with beta tester", "with email", "with ü.x"]


async def test_an_event_makes_a_person(api: Api, org: Org, make: Make) -> None:
    """Anonymous first: whoever is named by an event is a person from then on."""
    await make.events(org, {"eventType": "e", "anonymousId": "anon"}, {"eventType": "e", "userId": "known"})
    said = await api.post("/events", {"eventType": "e", "module": "m", "userId": "x"}, key=org.pk)
    await api.get("/profiles/x", key=org.sk, after=said.position)
    listed = await api.get("/profiles", key=org.sk)
    assert [row["externalId"] for row in listed.data] == ["anon", "known", "x"]


@pytest.mark.rule("B058")
async def test_a_person_is_of_one_project(api: Api, org: Org, make: Make, kernel: Kernel) -> None:
    """B058: org, project and externalId name a profile; the same name in another project is another person."""
    project = await orgs.create_project(kernel.db, org.id, "other")
    other = await make.key(org, project=project)
    here = await make.profile(org, "u", traits={"a": 1})
    said = await api.post("/identify", {"userId": "u", "traits": {"b": 2}}, key=other)
    there = (await api.get("/profiles/u", key=other, after=said.position)).data
    assert (here["traits"], there["traits"]) == ({"a": 1}, {"b": 2})
    assert here["id"] != there["id"]
    assert (await api.get(f"/profiles/{there['id']}", key=org.sk)).code == "NOT_FOUND"
    again = await make.profile(org, "u", traits={"c": 3})
    assert (again["id"], again["traits"]) == (here["id"], {"a": 1, "c": 3}), "upserted"


@pytest.mark.rule("B268")
async def test_nobody_is_stitched_together(api: Api, org: Org, make: Make) -> None:
    """B268: whatever two people have in common (an address, a device, a session, a place, a phone), they stay two as
    long as nobody says that they are one."""
    same: dict[str, Any] = {"email": "same@example.com", "locale": "de-AT", "timezone": "Europe/Vienna"}
    for name in ("one", "two"):
        await make.profile(org, name, traits={"phone": "+43 1 23456", "fingerprint": "f"}, **same)
        await make.events(
            org,
            {"eventType": "e", "userId": name, "deviceId": "d", "sessionId": "s"},
            {"eventType": "e", "anonymousId": f"anon-{name}", "deviceId": "d", "sessionId": "s"},
        )
        await make.token(org, "ok-shared", userId=name)
    said = await api.post("/events", {"eventType": "e", "module": "m", "userId": "one"}, key=org.pk)
    await api.get("/profiles/one", key=org.sk, after=said.position)
    listed = await api.get("/profiles", key=org.sk)
    assert [row["externalId"] for row in listed.data] == ["anon-one", "anon-two", "one", "two"]
    assert len({row["id"] for row in listed.data}) == 4


@pytest.mark.rule("B060", "B065", "B066", "C69")
async def test_takeover(api: Api, org: Org, make: Make) -> None:
    """B060, B066, C69: the anonymous profile leads to the known one, by either name, and is not listed beside it; the
    first one to take a device's past over keeps it."""
    anonymous = await make.profile(org, "anon", traits={"from": "anon"})
    known = await make.profile(org, "known", anonymousId="anon", traits={"from": "known"})
    for named in ("anon", anonymous["id"], "known", known["id"]):
        found = await api.get(f"/profiles/{named}", key=org.sk)
        assert (found.data["externalId"], found.data["traits"]) == ("known", {"from": "known"}), named
    assert [row["externalId"] for row in (await api.get("/profiles", key=org.sk)).data] == ["known"]
    await make.profile(org, "thief", anonymousId="anon")
    assert (await api.get("/profiles/anon", key=org.sk)).data["externalId"] == "known"
    await make.profile(org, "boss", anonymousId="known")
    assert (await api.get("/profiles/anon", key=org.sk)).data["externalId"] == "boss"
    await make.profile(org, "anon", anonymousId="boss")
    assert (await api.get("/profiles/boss", key=org.sk)).data["externalId"] == "boss", "no circles"
    changed = await api.patch("/profiles/anon", {"traits": {"via": "alias"}}, key=org.sk)
    assert (changed.data["externalId"], changed.data["traits"]) == ("boss", {"via": "alias"})


@pytest.mark.rule("B269")
async def test_traits_are_what_was_set(api: Api, org: Org, make: Make) -> None:
    """B269: nothing is computed from events; a trait of such a name is what somebody says it is."""
    for name in ("first_seen", "ltv", "signin_count"):
        await make.events(org, {"eventType": name, "userId": "anna", "properties": {"amount": 7}})
    await make.events(org, {"eventType": "purchase", "userId": "anna", "properties": {"amount": 7}})
    assert (await make.profile(org, "anna"))["traits"] == {}
    assert (await make.profile(org, "anna", traits={"ltv": "none"}))["traits"] == {"ltv": "none"}


@pytest.mark.rule("B062", "C94")
async def test_patch(api: Api, org: Org, make: Make) -> None:
    """C94: by way of the log; the answer is what Postgres has. Merged, null removes, what is not named stays."""
    made = await make.profile(org, "u", email="u@example.com", traits={"a": 1, "b": 2})
    answer = await api.patch("/profiles/u", {"traits": {"b": None, "c": {"x": [1]}}}, key=org.sk)
    assert answer.status == 200, answer
    assert answer.data["traits"] == {"a": 1, "c": {"x": [1]}}
    assert (answer.data["email"], answer.data["id"], answer.data["createdAt"]) == (
        "u@example.com", made["id"], made["createdAt"],
    )  # fmt: skip
    assert answer.position
    by_id = await api.patch(f"/profiles/{made['id']}", {"email": "new@example.com"}, key=org.sk)
    assert by_id.data["email"] == "new@example.com"
    assert (await api.get("/profiles/u", key=org.sk)).data == by_id.data
    assert (await api.patch("/profiles/u", {}, key=org.sk)).data == by_id.data
    accounted = (await api.get("/events/accounting", key=org.sk, after=by_id.position)).data
    assert accounted["accepted"] == 1, "a change by the API is no event"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"traits": []}, "traits"),
        ({"traits": {f"t{i}": i for i in range(101)}}, "traits"),
        ({"traits": {"list": list(range(1_001))}}, "traits.list"),
        ({"email": "nobody"}, "email"),
        ({"email": None}, "email"),
        ({"email": 7}, "email"),
        ({"externalId": "other"}, "externalId"),
        (b'{"traits":{"a":NaN}}', "body"),
        (b'{"traits":{"a":1,"a":2}}', "traits.a"),
        (b'{"traits":{"a":"\\u0000"}}', "traits.a"),
        (b"", "body"),
    ],
)
async def test_bodies_of_patch(api: Api, org: Org, body: Any, field: str) -> None:
    """The same rules as identify's, and before anything is looked up (C87)."""
    answer = await api.patch("/profiles/nobody", body, key=org.sk)
    assert field in answer.fields or field == "body", answer


@pytest.mark.rule("B070", "C69", "C94")
async def test_delete(api: Api, org: Org, make: Make) -> None:
    """B070: the person and everybody who leads to the person; a second time there is nobody. ADMIN alone."""
    await make.profile(org, "stays")
    await make.profile(org, "anon")
    made = await make.profile(org, "u", anonymousId="anon", traits={"a": 1})
    editor = await make.key(org, scopes=("profiles:write", "profiles:read"), role="EDITOR")
    assert (await api.delete("/profiles/u", key=editor)).code == "FORBIDDEN"
    deleted = await api.delete(f"/profiles/{made['id']}", key=org.sk)
    assert (deleted.status, deleted.data) == (200, {"id": made["id"], "deleted": True}), deleted
    for named in ("u", "anon", made["id"]):
        assert (await api.get(f"/profiles/{named}", key=org.sk)).code == "NOT_FOUND"
        assert (await api.delete(f"/profiles/{named}", key=org.sk)).code == "NOT_FOUND"
    assert [row["externalId"] for row in (await api.get("/profiles", key=org.sk)).data] == ["stays"]
    (line,) = (await api.get("/audit-log", key=org.sk)).data
    assert line["action"] == "profile.deleted"
    assert line["resource"].startswith("person:")
    assert made["id"] not in str(line) and '"u"' not in str(line), "the audit log names nobody"
    again = await make.profile(org, "u")
    assert (again["traits"], again["id"]) == ({}, made["id"])


async def test_changes_happen_in_the_order_of_the_log(api: Api, org: Org, make: Make) -> None:
    """One writer: of changes that race, each is whole, and the last one in the log is what stands."""
    await make.profile(org, "u")
    answers = await asyncio.gather(
        *(api.patch("/profiles/u", {"traits": {"n": n, f"t{n}": n}}, key=org.sk) for n in range(20))
    )
    assert all(answer.status == 200 for answer in answers)
    person = (await api.get("/profiles/u", key=org.sk)).data
    assert {f"t{n}" for n in range(20)} < set(person["traits"])
    last = max(range(20), key=lambda n: int(answers[n].position[2:]))
    same = [n for n in range(20) if answers[n].position == answers[last].position]
    assert person["traits"]["n"] in same


async def test_a_store_that_lags(
    api: Api, org: Org, make: Make, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C94: later than the wait it is 503 with Retry-After, the change stands, and repeating it is harmless."""
    await make.profile(org, "u")
    monkeypatch.setattr(service, "WAIT_S", 0.2)
    monkeypatch.setattr(service.wait, "__defaults__", (0.2,))
    async with kernel.db.transaction() as connection:
        # Whoever holds the position holds up the reader: as a database does that has become slow.
        await lock_position(connection, profiles.READER)
        late = await api.patch("/profiles/u", {"traits": {"a": 1}}, key=org.sk)
        assert (late.status, late.code) == (503, "UNAVAILABLE"), late
        assert late.headers["retry-after"] == "1"
        unread = await api.get(
            "/profiles/u", key=org.sk, after=(await api.post("/identify", {"userId": "u"}, key=org.pk)).position
        )
        assert unread.status == 503
    monkeypatch.undo()
    again = await api.patch("/profiles/u", {"traits": {"a": 1}}, key=org.sk)
    assert (again.status, again.data["traits"]) == (200, {"a": 1})


@pytest.mark.rule("C88")
async def test_listing(api: Api, org: Org, make: Make) -> None:
    """C88: pages in the order of externalId; filters by externalId and email."""
    for n in range(5):
        await make.profile(org, f"u{n}", email=f"{'even' if n % 2 == 0 else 'odd'}@example.com")
    first = await api.get("/profiles", key=org.sk, pageSize=2)
    assert [row["externalId"] for row in first.data] == ["u0", "u1"]
    assert set(first.data[0]) == FIELDS - {"audienceMemberships"}
    assert first.pagination == {"page": 1, "pageSize": 2, "total": 5, "hasMore": True}
    last = await api.get("/profiles", key=org.sk, pageSize=2, page=3)
    assert ([row["externalId"] for row in last.data], last.pagination["hasMore"]) == (["u4"], False)
    assert [r["externalId"] for r in (await api.get("/profiles", key=org.sk, externalId="u3")).data] == ["u3"]
    odd = await api.get("/profiles", key=org.sk, email="odd@example.com")
    assert ([row["externalId"] for row in odd.data], odd.pagination["total"]) == (["u1", "u3"], 2)
    assert (await api.get("/profiles", key=org.sk, email="odd@example.com", externalId="u0")).data == []
    for bad in ({"page": 0}, {"pageSize": 101}, {"page": "x"}, {"audienceId": "x"}, {"page": 10**20}):
        assert (await api.get("/profiles", key=org.sk, **bad)).status == 400, bad


async def test_what_the_audiences_give(api: Api, org: Org, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """B063: memberships come from the room above, which the composition root binds; without it the filter is a 400."""
    monkeypatch.setattr(Bound, "memberships", None)
    monkeypatch.setattr(Bound, "members", None)
    await make.profile(org, "a")
    await make.profile(org, "b")
    audience = uuid4()
    assert "audienceId" in (await api.get("/profiles", key=org.sk, audienceId=audience)).fields

    async def memberships(kernel: Kernel, org_id: Any, project: Any, external_id: str) -> list[dict[str, str]]:
        return [{"id": str(audience), "name": external_id}]

    async def members(kernel: Kernel, org_id: Any, project: Any, asked: Any, page: Any) -> Any:
        assert asked == audience
        return profiles_listed(["b", "a", "gone"], 3)

    profiles.bind(memberships=memberships, members=members)
    assert (await api.get("/profiles/a", key=org.sk)).data["audienceMemberships"] == [
        {"id": str(audience), "name": "a"}
    ]
    listed = await api.get("/profiles", key=org.sk, audienceId=audience)
    assert ([row["externalId"] for row in listed.data], listed.pagination["total"]) == (["b", "a"], 3)


def profiles_listed(rows: list[str], total: int) -> Any:
    from sendora.kernel.wire import Listed

    return Listed(rows, total)


async def test_last_seen_moves_at_most_once_a_minute(kernel: Kernel, fresh_database: Postgres) -> None:
    """Design 3: a person with a thousand events a minute is one write."""
    await migrate(fresh_database)
    db = await Database.open(fresh_database)
    there = dataclasses.replace(kernel, db=db)
    org, project = uuid4(), uuid4()
    start = 1_780_000_000_000

    def message(position: int, at_ms: int, body: bytes = b'{"eventType":"e","module":"m","userId":"u"}') -> Message:
        checked = _core.check_events(body, org.bytes, project.bytes, "prod", at_ms, False)
        return Message("events.0", _core.frame([checked.records]), position, 1)

    async def seen() -> tuple[int, int]:
        row = await db.fetchrow("SELECT created_at, last_seen_at FROM profiles WHERE org_id = $1", org)
        assert row is not None
        return int(row[0].timestamp() * 1_000) - start, int(row[1].timestamp() * 1_000) - start

    try:
        await write_profiles(there, [message(1, start)])
        await write_profiles(there, [message(2, start + 30_000)])
        assert await seen() == (0, 0)
        await write_profiles(there, [message(3, start + 60_000)])
        assert await seen() == (0, 60_000)
        await write_profiles(there, [message(3, start + 600_000)])
        assert await seen() == (0, 60_000), "redelivered"
        await write_profiles(there, [message(4, start + 10_000)])
        assert await seen() == (0, 60_000), "never backwards"
    finally:
        await db.close()


async def test_a_row_that_postgres_refuses(kernel: Kernel, fresh_database: Postgres) -> None:
    """F-P6: one person who cannot be stored holds up nobody."""
    await migrate(fresh_database)
    db = await Database.open(fresh_database)
    there = dataclasses.replace(kernel, db=db)
    org, project = uuid4(), uuid4()
    parts = [_core.profile_record(org.bytes, project.bytes, f"u{n}", 1_780_000_000_000, email="e@x") for n in range(20)]
    # Made by hand, with a number that jsonb cannot hold; the library's own check would not have let it through.
    record = b"\x03" + org.bytes + project.bytes + struct.pack("<qH", 1, 6) + b"poison" + b"\xff\xff"
    record += struct.pack("<I", 15) + b'{"n": 1e-30000}' + b"\x00"
    parts.insert(7, struct.pack("<I", len(record)) + record)
    try:
        await write_profiles(there, [Message("events.0", _core.frame(parts), 1, 1)])
        assert await db.fetchval("SELECT count(*) FROM profiles") == 20
        await write_profiles(there, [Message("events.0", _core.frame(parts[:1]), 2, 1)])
    finally:
        await db.close()


async def test_traits_have_a_bound(api: Api, org: Org, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """No number of small calls grows one row without end; what is there can still be removed."""
    monkeypatch.setattr("sendora.modules.profiles.store.TRAITS_BYTES_MAX", 2_000)
    for n in range(8):
        await make.profile(org, "u", traits={f"t{n}": secrets.token_hex(300)})
    traits = (await api.get("/profiles/u", key=org.sk)).data["traits"]
    assert 1 < len(traits) < 8
    smaller = await api.patch("/profiles/u", {"traits": dict.fromkeys(traits)}, key=org.sk)
    assert smaller.data["traits"] == {}


async def test_erase_and_export(api: Api, org: Org, make: Make, kernel: Kernel) -> None:
    """House, Module."""
    assert profiles.module.erase is not None and profiles.module.export is not None
    await make.profile(org, "anon")
    await make.profile(org, "u", anonymousId="anon", email="u@example.com", traits={"a": 1})
    (told,) = [row async for row in profiles.module.export(kernel, org.id, org.project, "u")]
    assert (told["externalId"], told["formerly"], told["traits"]) == ("u", ["anon"], {"a": 1})
    await profiles.module.erase(kernel, org.id, org.project, "u")
    await profiles.module.erase(kernel, org.id, org.project, "u")
    assert [row async for row in profiles.module.export(kernel, org.id, org.project, "u")] == []
    assert (await api.get("/profiles", key=org.sk)).data == []
