"""Asking to be forgotten: what the API says, what a crash leaves, and who is somebody new afterwards."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.api import Answer, Api
from tests.make import Make, Org, raw_record

from sendora.app import bind
from sendora.kernel import pg
from sendora.kernel.ids import OrgId, ProjectId, new_id
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Database
from sendora.modules import consent, events, orgs, profiles
from sendora.modules.consent import jobs, service

ASK = "/consent/deletion-request"


async def ask(api: Api, org: Org, user: str, *, explicit: bool = False) -> Answer:
    answer = await api.post(ASK, {"userId": user, "scope": "all"}, key=org.sk, org=org.id if explicit else None)
    assert answer.status == 200, answer
    return answer


async def shown(api: Api, org: Org, request: str) -> dict[str, Any]:
    answer = await api.get(f"/consent/deletion-requests/{request}", key=org.sk)
    assert answer.status == 200, answer
    told: dict[str, Any] = answer.data
    return told


async def forgotten(api: Api, kernel: Kernel, org: Org, user: str) -> dict[str, Any]:
    """Asked for, and carried to its end."""
    id_ = (await ask(api, org, user)).data["id"]
    await jobs.erase_people(kernel)
    told = await shown(api, org, id_)
    assert told["status"] == "completed", told
    return told


@asynccontextmanager
async def rooms(erasers: Sequence[tuple[str, Any]]) -> AsyncIterator[None]:
    """Others than the cluster's."""
    consent.bind(erasers, events.make_anew)
    try:
        yield
    finally:
        bind()


@pytest.mark.rule("B069", "C71")
async def test_a_person_is_forgotten(api: Api, kernel: Kernel, org: Org, make: Make, db: Database) -> None:
    """B069: in every room, under every name that the person had; rows are counted by room; nobody else is touched."""
    await make.profile(org, "anon")
    await make.profile(org, "ada", anonymousId="anon", email="ada@example.com", traits={"plan": "pro"})
    await make.profile(org, "bob")
    await make.events(
        org,
        {"eventType": "buy", "userId": "ada"},
        {"eventType": "buy", "anonymousId": "anon"},
        {"eventType": "buy", "userId": "bob"},
    )
    await make.token(org, userId="ada")
    await make.token(org, userId="anon")
    kept = await make.token(org, userId="bob")
    first = (await ask(api, org, "ada")).data
    assert set(first) == {"id", "status", "deleted", "requestedAt", "completedAt", "logUntil"}
    assert (first["status"], first["completedAt"]) == ("running", None)
    await jobs.erase_people(kernel)
    told = await shown(api, org, first["id"])
    assert told["status"] == "completed"
    assert (told["deleted"]["profiles"], told["deleted"]["push"]) == (2, 2)
    # Two that were bought, three that said who somebody is.
    assert told["deleted"]["events"] == 4
    assert told["completedAt"] is not None and told["logUntil"] > told["completedAt"]
    for name in ("ada", "anon"):
        assert (await api.get(f"/profiles/{name}", key=org.sk)).code == "NOT_FOUND"
    assert [row["externalId"] for row in (await api.get("/profiles", key=org.sk)).data] == ["bob"]
    people = await db.fetch("SELECT person FROM events WHERE org_id = $1", org.id)
    assert {row["person"] for row in people} == {"bob"}
    assert [row["id"] for row in (await api.get("/push/tokens", key=org.sk)).data] == [kept["id"]]


@pytest.mark.rule("B069", "C69")
async def test_asked_by_a_former_name(api: Api, kernel: Kernel, org: Org, make: Make) -> None:
    """C69: whoever was taken over means the person that they became; both ways of asking are requests of their own."""
    await make.profile(org, "anon")
    await make.profile(org, "ada", anonymousId="anon")
    assert (await forgotten(api, kernel, org, "anon"))["deleted"]["profiles"] == 2
    assert (await api.get("/profiles/ada", key=org.sk)).code == "NOT_FOUND"
    assert (await forgotten(api, kernel, org, "ada"))["deleted"]["profiles"] == 0


@pytest.mark.rule("B069")
async def test_asking_again(api: Api, kernel: Kernel, org: Org, make: Make) -> None:
    """B069: a repeat is a success and the same request, also for somebody whom nobody knows; whoever came back since is
    erased again, and the numbers add up."""
    await make.profile(org, "ada")
    asked = await asyncio.gather(*(ask(api, org, "ada") for _ in range(4)))
    assert len({answer.data["id"] for answer in asked}) == 1
    first = await forgotten(api, kernel, org, "ada")
    assert first["id"] == asked[0].data["id"]
    assert first["deleted"]["profiles"] == 1
    again = await forgotten(api, kernel, org, "ada")
    assert (again["id"], again["deleted"]["profiles"]) == (first["id"], 1)
    await make.profile(org, "ada")
    assert (await forgotten(api, kernel, org, "ada"))["deleted"]["profiles"] == 2
    nobody = await forgotten(api, kernel, org, "nobody")
    assert set(nobody["deleted"].values()) == {0}


@pytest.mark.rule("B069")
async def test_asking_again_while_it_runs(api: Api, kernel: Kernel, org: Org, make: Make) -> None:
    """It is not begun anew, or whoever asks often enough would keep it from its end; at its end it is, because somebody
    may have come back behind the cut."""
    await make.profile(org, "ada")
    called = []

    async def room(kernel: Kernel, org_id: OrgId, project: ProjectId, name: str) -> int:
        called.append(name)
        if len(called) == 1:
            await make.profile(org, "ada", traits={"back": True})
            again = await api.post(ASK, {"userId": "ada", "scope": "all"}, key=org.sk)
            assert (again.data["id"], again.data["status"]) == (id_, "running")
        return 1

    async with rooms([("room", room)]):
        id_ = (await ask(api, org, "ada")).data["id"]
        await jobs.erase_people(kernel)
        told = await shown(api, org, id_)
    assert (told["status"], told["deleted"], called) == ("completed", {"profiles": 2, "room": 2}, ["ada", "ada"])
    assert (await api.get("/profiles/ada", key=org.sk)).code == "NOT_FOUND"


@pytest.mark.rule("B069")
async def test_what_comes_after_the_request_is_somebody_new(
    api: Api, kernel: Kernel, org: Org, make: Make, db: Database
) -> None:
    """From the answer on, also while the rooms are still at work."""
    before = await make.profile(org, "ada", traits={"old": True}, email="old@example.com")
    await make.events(org, {"eventType": "old", "userId": "ada"})
    asked = (await ask(api, org, "ada")).data
    assert asked["status"] == "running"
    after = await make.profile(org, "ada", traits={"new": True})
    await make.events(org, {"eventType": "new", "userId": "ada"})
    await jobs.erase_people(kernel)
    assert (await shown(api, org, asked["id"]))["status"] == "completed"
    found = (await api.get("/profiles/ada", key=org.sk)).data
    assert (found["traits"], found["email"]) == ({"new": True}, None)
    assert found["createdAt"] == after["createdAt"] > before["createdAt"]
    types = await db.fetch("SELECT event_type FROM events WHERE org_id = $1 ORDER BY 1", org.id)
    assert [row["event_type"] for row in types] == ["new", "user.identified"]
    told = [row async for row in profiles.module.export(kernel, org.id, org.project, "ada")]  # type: ignore[misc]
    assert [row["traits"] for row in told] == [{"new": True}]


@pytest.mark.rule("C71", "B002")
async def test_who_may_ask(api: Api, org: Org, make: Make) -> None:
    """C71: a secret key with the scope, in both forms of the path; a public key alone is refused by scope, and so it is
    for somebody else's request."""
    body = {"userId": "ada", "scope": "all"}
    refused = await api.post(ASK, body, key=org.pk)
    assert (refused.status, refused.code) == (403, "scope_required"), refused
    assert refused.details["requiredScope"] == "profiles:write"
    reader = await make.key(org, scopes=("profiles:read",))
    assert (await api.post(ASK, body, key=reader)).code == "scope_required"
    asked = (await ask(api, org, "ada", explicit=True)).data
    path = f"/consent/deletion-requests/{asked['id']}"
    for form in (None, org.id):
        assert (await api.get(path, key=reader, org=form)).data["id"] == asked["id"]
    assert (await api.get(path, key=org.pk)).code == "scope_required"
    other = await make.org()
    assert (await api.get(path, key=other.sk)).code == "NOT_FOUND"
    assert (await api.get(f"/consent/deletion-requests/{uuid4()}", key=org.sk)).code == "NOT_FOUND"
    assert (await api.get("/consent/deletion-requests/ada", key=org.sk)).code == "NOT_FOUND"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"scope": "all"}, "userId"),
        ({"userId": "", "scope": "all"}, "userId"),
        ({"userId": "x" * 257, "scope": "all"}, "userId"),
        ({"userId": 7, "scope": "all"}, "userId"),
        ({"userId": "ada"}, "scope"),
        ({"userId": "ada", "scope": "events"}, "scope"),
        ({"userId": "ada", "scope": "all", "more": 1}, "more"),
        ([], "body"),
    ],
)
async def test_bodies(api: Api, org: Org, body: Any, field: str) -> None:
    assert field in (await api.post(ASK, body, key=org.sk)).fields


@pytest.mark.rule("B069")
async def test_a_name_is_kept_only_while_it_is_needed(
    api: Api, kernel: Kernel, org: Org, make: Make, db: Database
) -> None:
    """Sealed under the org's key while rooms are at work, afterwards not at all; the audit log never has it."""
    user = f"ada-{uuid4().hex}"
    await make.profile(org, user)

    async def everything() -> str:
        found = []
        for table in ("deletion_requests", "erased_names", "audit_log"):
            found += await db.fetch(f"SELECT t::text AS row FROM {table} t WHERE org_id = $1", org.id)
        return " ".join(row["row"] for row in found)

    id_ = (await ask(api, org, user)).data["id"]
    row = await db.fetchrow("SELECT hash, sealed FROM deletion_requests WHERE id = $1", UUID(id_))
    assert row is not None
    opened = await kernel.vault.open(org.id, f"deletion_requests.sealed.{row['hash'].hex()}", row["sealed"])
    assert user.encode() in opened
    for text in (user, user.encode().hex()):
        assert text not in await everything()
    await jobs.erase_people(kernel)
    row = await db.fetchrow("SELECT status, sealed FROM deletion_requests WHERE id = $1", UUID(id_))
    assert row is not None and (row["status"], row["sealed"]) == ("completed", None)
    done, asked = (await api.get("/audit-log", key=org.sk)).data
    assert [(line["action"], line["actor"]) for line in (asked, done)] == [
        ("person.deletion_requested", org.sk.rpartition("_")[0]),
        ("person.erased", orgs.SYSTEM),
    ]
    named_by = await orgs.person_hash(kernel, org.id, user)
    for line in (asked, done):
        assert (line["resource"], line["details"]) == (f"person:{named_by}", {"requestId": id_})
    assert user not in await everything()


@pytest.mark.rule("B069")
async def test_a_room_that_fails(api: Api, kernel: Kernel, org: Org, make: Make, db: Database) -> None:
    """What was done stays done, and the request is tried again until every room is through; others do not wait."""
    await make.profile(org, "ada")
    fails, called = [True], []

    async def first(kernel: Kernel, org_id: OrgId, project: ProjectId, name: str) -> int:
        called.append(name)
        return 3

    async def second(kernel: Kernel, org_id: OrgId, project: ProjectId, name: str) -> None:
        if fails[0] and name == "ada":
            raise ValueError("a fault of this room's")

    async with rooms([("first", first), ("second", second)]):
        id_ = (await ask(api, org, "ada")).data["id"]
        other = (await ask(api, org, "bob")).data["id"]
        await jobs.erase_people(kernel)
        waiting = await shown(api, org, id_)
        assert (waiting["status"], waiting["deleted"]) == ("running", {"profiles": 1, "first": 3})
        assert (await shown(api, org, other))["status"] == "completed"
        await jobs.erase_people(kernel)
        assert called == ["ada", "bob"], "not before its pause is over"
        fails[0] = False
        await db.execute("UPDATE deletion_requests SET due_at = now() WHERE id = $1", UUID(id_))
        await jobs.erase_people(kernel)
        done = await shown(api, org, id_)
        assert (done["status"], done["deleted"]) == ("completed", {"profiles": 1, "first": 3, "second": 0})
        assert called == ["ada", "bob"], "once"


@pytest.mark.rule("B069")
async def test_a_log_that_lags(
    api: Api, kernel: Kernel, org: Org, make: Make, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request stands as soon as it is answered; the job makes the cut when the log can be reached again, and a call
    that died before it leaves the job the same."""
    await make.profile(org, "ada")

    async def away(kernel: Kernel, position: int) -> bool:
        return False

    monkeypatch.setattr(profiles, "wait", away)
    asked = (await ask(api, org, "ada")).data
    assert (asked["status"], asked["deleted"], asked["logUntil"]) == ("pending", {}, None)
    await jobs.erase_people(kernel)
    assert (await shown(api, org, asked["id"]))["status"] == "pending", "left to the call that made it"
    await db.execute("UPDATE deletion_requests SET due_at = now() WHERE id = $1", UUID(asked["id"]))
    await jobs.erase_people(kernel)
    assert (await shown(api, org, asked["id"]))["status"] == "pending"
    monkeypatch.undo()
    await db.execute("UPDATE deletion_requests SET due_at = now() WHERE id = $1", UUID(asked["id"]))
    await jobs.erase_people(kernel)
    assert (await shown(api, org, asked["id"]))["status"] == "completed"
    assert (await api.get("/profiles/ada", key=org.sk)).code == "NOT_FOUND"


@pytest.mark.rule("B069", "C69")
async def test_a_crash_behind_the_deletion_in_the_log(
    api: Api, kernel: Kernel, org: Org, make: Make, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The profile, by which the other names are found, is gone, and nothing says where: the names were kept before."""
    await make.profile(org, "anon")
    await make.profile(org, "ada", anonymousId="anon")
    await make.events(org, {"eventType": "e", "userId": "ada"}, {"eventType": "e", "anonymousId": "anon"})

    async def away(kernel: Kernel, position: int) -> bool:
        return False

    async def dies(*_: Any) -> None:
        raise RuntimeError("a crash")

    async def go_on() -> str:
        await db.execute("UPDATE deletion_requests SET due_at = now() WHERE id = $1", UUID(id_))
        await jobs.erase_people(kernel)
        status: str = (await shown(api, org, id_))["status"]
        return status

    with monkeypatch.context() as patched:
        patched.setattr(profiles, "wait", away)
        id_ = (await ask(api, org, "anon")).data["id"]
    with monkeypatch.context() as patched:
        patched.setattr(service.store, "cut", dies)
        assert await go_on() == "pending"
        await profiles.wait(kernel, await kernel.bus.head())
        assert (await api.get("/profiles/ada", key=org.sk)).code == "NOT_FOUND"
    assert await go_on() == "completed"
    assert await db.fetchval("SELECT count(*) FROM events WHERE org_id = $1", org.id) == 0
    assert await db.fetchval("SELECT count(*) FROM profiles WHERE org_id = $1", org.id) == 0


@pytest.mark.rule("B069", "C69")
async def test_names_that_were_not_known_at_the_cut(
    api: Api, kernel: Kernel, org: Org, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More former names than are looked up at a time: all of them are erased, in every room."""
    monkeypatch.setattr("sendora.modules.profiles.store.ALIASES_MAX", 3)
    former = [f"anon-{n}" for n in range(8)]
    for name in former:
        await make.profile(org, name)
        await make.token(org, userId=name)
        await make.profile(org, "ada", anonymousId=name)
    await make.events(org, *({"eventType": "e", "anonymousId": name} for name in former))
    told = await forgotten(api, kernel, org, "ada")
    assert told["deleted"]["profiles"] == 9
    assert (await api.get("/profiles", key=org.sk)).data == []
    assert (await api.get("/push/tokens", key=org.sk)).data == []
    for name in former:
        assert (await api.get(f"/profiles/{name}", key=org.sk)).code == "NOT_FOUND"
    count = "SELECT count(*) FROM events WHERE org_id = $1"
    assert await kernel.db.fetchval(count, org.id) == 0


@pytest.mark.rule("B069")
async def test_what_is_on_the_wire(
    api: Api, kernel: Kernel, org: Org, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A push that was decided before the deletion writes the name when it is answered: the ledger forgets it too."""
    send = new_id()
    await db.execute(
        "INSERT INTO sends (org_id, id, project_id, channel, class, delivery, status, target, content, log_position,"
        " expires_at, planned_at) VALUES ($1, $2, $3, 'push', 'now', 'at_least_once', 'sending', '{\"userIds\": []}',"
        " '{}', 0, now(), now())",
        org.id,
        send,
        org.project,
    )
    await db.execute(
        "INSERT INTO chunks (org_id, send_id, shard, seq, class, planned, attempt, recipients, due_at, claims)"
        " VALUES ($1, $2, 0, 0, 'now', true, 1, ARRAY[$3::uuid], now() + interval '1 day', 1)",
        org.id,
        send,
        uuid4(),
    )
    id_ = (await ask(api, org, "ada")).data["id"]
    await jobs.erase_people(kernel)
    assert (await shown(api, org, id_))["status"] == "running"
    await db.execute("UPDATE chunks SET closed_at = now() WHERE send_id = $1", send)
    await pg.partition(db, "deliveries", pg.month_of(kernel.clock.now()))
    await db.execute(
        "INSERT INTO deliveries"
        " (org_id, send_id, shard, seq, position, recipient, user_id, state, attempt, repeated, at)"
        " VALUES ($1, $2, 0, 0, 0, $3, 'ada', 'accepted', 1, false, now())",
        org.id,
        send,
        uuid4(),
    )
    await db.execute("UPDATE deletion_requests SET due_at = now() WHERE id = $1", UUID(id_))
    await jobs.erase_people(kernel)
    assert (await shown(api, org, id_))["status"] == "completed"
    assert await db.fetchval("SELECT user_id FROM deliveries WHERE send_id = $1", send) is None


@pytest.mark.rule("B069")
async def test_a_chunk_that_never_ends_does_not_hold_up_a_deletion(
    api: Api, kernel: Kernel, org: Org, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: Any) -> bool:
        return False

    monkeypatch.setattr(service.ledger, "is_quiet", busy)
    id_ = (await ask(api, org, "ada")).data["id"]
    await jobs.erase_people(kernel)
    assert (await shown(api, org, id_))["status"] == "running"
    await db.execute(
        "UPDATE deletion_requests SET due_at = now(), cut_at = cut_at - interval '1 hour' WHERE id = $1", UUID(id_)
    )
    await jobs.erase_people(kernel)
    assert (await shown(api, org, id_))["status"] == "completed"


@pytest.mark.rule("B069")
async def test_bad_rows_of_a_person(api: Api, kernel: Kernel, org: Org, db: Database) -> None:
    """Those of the log up to the cut; of somebody whose name only begins alike none."""
    head = await kernel.bus.head()
    for person, position in (("ada", 1), ("ada-2", 1), ("bob", 1), ("ada", head + 1_000_000)):
        await db.execute(
            "INSERT INTO bad_rows (org_id, id, project_id, position, record, reason) VALUES ($1, $2, $3, $4, $5, 'x')",
            org.id,
            uuid4(),
            org.project,
            position,
            raw_record(org.id, org.project, 1, event_type="e", person=person)[4:],
        )
    assert (await forgotten(api, kernel, org, "ada"))["deleted"]["events"] == 1
    assert await db.fetchval("SELECT count(*) FROM bad_rows WHERE org_id = $1", org.id) == 3


async def test_tombstones_go_when_the_log_has_forgotten(api: Api, kernel: Kernel, org: Org, db: Database) -> None:
    for user in ("ada", "bob"):
        await forgotten(api, kernel, org, user)
    count = "SELECT count(*) FROM erased_names WHERE org_id = $1"
    await db.execute(
        "UPDATE erased_names SET cut_at = now() - interval '74 hours' WHERE org_id = $1 AND hash ="
        " (SELECT hash FROM erased_names WHERE org_id = $1 LIMIT 1)",
        org.id,
    )
    await jobs.forget_tombstones(kernel)
    assert await db.fetchval(count, org.id) == 1
