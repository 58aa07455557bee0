"""What an organisation, or one of its people, takes along (B068)."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from tests.api import Answer, Api
from tests.make import Make, Org

from sendora.app import MODULES
from sendora.kernel.life import Kernel
from sendora.kernel.module import Module
from sendora.kernel.pg import Database
from sendora.modules import data_io, orgs
from sendora.modules.data_io import jobs, service, store

ASK = "/data-io/export"


async def ask(api: Api, org: Org, module: str, person: str | None = None) -> dict[str, Any]:
    body: dict[str, Any] = {"module": module}
    if person is not None:
        body["filter"] = {"profileId": person}
    answer = await api.post(ASK, body, key=org.sk)
    assert answer.status == 200, answer
    told: dict[str, Any] = answer.data
    return told


async def download(api: Api, org: Org, export: str) -> Answer:
    return await api.get(f"/data-io/exports/{export}/download", key=org.sk)


async def exported(api: Api, org: Org, module: str, person: str | None = None) -> list[dict[str, Any]]:
    """The records of a download."""
    answer = await download(api, org, (await ask(api, org, module, person))["id"])
    assert answer.status == 200, answer
    assert answer.envelope["count"] == len(answer.envelope["records"])
    records: list[dict[str, Any]] = answer.envelope["records"]
    return records


async def crowd(org: Org, make: Make) -> None:
    await make.profile(org, "anon")
    await make.profile(org, "ada", anonymousId="anon", email="ada@example.com", traits={"plan": "pro", "ü": [1, None]})
    await make.profile(org, "bob")
    await make.events(
        org,
        {"eventType": "buy", "userId": "ada", "properties": {"n": 1}},
        {"eventType": "look", "anonymousId": "anon"},
        {"eventType": "buy", "userId": "bob"},
        {"eventType": "tick"},
    )
    await make.token(org, "ok-ada", userId="ada")
    await make.token(org, "ok-bob", userId="bob")


@pytest.mark.rule("B068", "C70")
async def test_one_person(api: Api, org: Org, make: Make) -> None:
    """B068: by `filter.profileId`, a UUID or an external id, also a former one; in the answer and as a file."""
    await crowd(org, make)
    told = await ask(api, org, "profiles", "ada")
    assert set(told) == {"id", "status", "module", "profileId", "url", "downloadUrl", "expiresAt", "data"}
    assert (told["status"], told["module"]) == ("completed", "profiles")
    (person,) = told["data"]["records"]
    assert (person["externalId"], person["formerly"], person["email"]) == ("ada", ["anon"], "ada@example.com")
    assert person["traits"] == {"plan": "pro", "ü": [1, None]}
    assert told["profileId"] == person["id"]
    for named in (person["id"], "anon"):
        assert (await ask(api, org, "profiles", named))["id"] == told["id"]
    shown = await api.get(f"/data-io/exports/{told['id']}", key=org.sk)
    assert shown.data == {**told, "data": None}
    assert told["url"] == told["downloadUrl"]
    path = told["downloadUrl"].partition("/api/v1")[2]
    for form in (None, org.id):
        file = await api.get(path, key=org.sk, org=form)
        assert (file.status, file.headers["content-type"]) == (200, "application/json")
        assert file.headers["content-disposition"] == f'attachment; filename="profiles-{told["id"]}.json"'
        document = file.envelope
        assert (document["id"], document["module"], document["profileId"], document["count"]) == (
            told["id"], "profiles", told["profileId"], 1,
        )  # fmt: skip
        assert document["records"] == [person]
    types = [row["eventType"] for row in await exported(api, org, "events", "ada")]
    assert sorted(types) == ["buy", "look", "user.identified", "user.identified"]
    assert [row["device"]["token"] for row in await exported(api, org, "push", "ada")] == ["ok-ada"]


@pytest.mark.rule("B068")
async def test_everything_of_one_person(api: Api, org: Org, make: Make) -> None:
    """What a person may ask for: each room's records, with the room's name."""
    await crowd(org, make)
    records = await exported(api, org, "all", "ada")
    assert {row["module"] for row in records if "eventType" not in row} >= {"profiles", "push"}
    assert sum("eventType" in row for row in records) == 4
    assert not any("bob" in str(row) for row in records)


@pytest.mark.rule("B068")
async def test_everybody(api: Api, org: Org, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """B068: in bulk, page after page; also events of nobody; nothing of another org or project."""
    other = await make.org()
    await crowd(other, make)
    await crowd(org, make)
    monkeypatch.setattr("sendora.modules.profiles.service.PEOPLE_MAX", 1)
    monkeypatch.setattr("sendora.modules.events.store.PAGE_ROWS", 2)
    monkeypatch.setattr(service, "PIECE_BYTES", 100)
    told = await ask(api, org, "profiles")
    assert (told["data"], told["profileId"], told["status"]) == (None, None, "completed")
    people = await exported(api, org, "profiles")
    assert [(row["externalId"], row["formerly"]) for row in people] == [("ada", ["anon"]), ("bob", [])]
    events = await exported(api, org, "events")
    assert sorted(row["eventType"] for row in events if row["eventType"] != "user.identified") == [
        "buy", "buy", "look", "tick",
    ]  # fmt: skip
    assert sorted(row["device"]["token"] for row in await exported(api, org, "push")) == ["ok-ada", "ok-bob"]
    project = await api.post(ASK, {"module": "profiles"}, key=other.sk)
    assert (await download(api, org, project.data["id"])).code == "NOT_FOUND"
    assert len(await exported(api, org, "all")) == len(people) + len(events) + 2


@pytest.mark.rule("B068")
async def test_days_are_told_too(api: Api, org: Org, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was rolled up, of one person and of everybody."""
    monkeypatch.setattr("sendora.modules.events.store.PAGE_ROWS", 2)
    for person in ("ada", "bob"):
        for day in range(1, 4):
            await db.execute(
                "INSERT INTO event_days (org_id, project_id, event_type, person, day, count, first_at, last_at)"
                " VALUES ($1, $2, 'buy', $3, make_date(2025, 1, $4), $4, now(), now())",
                org.id,
                org.project,
                person,
                day,
            )
    told = [(row["person"], row["day"], row["count"]) for row in await exported(api, org, "events")]
    assert told == [(person, f"2025-01-0{day}", day) for person in ("ada", "bob") for day in (1, 2, 3)]


@pytest.mark.rule("B068")
async def test_asking_again(api: Api, kernel: Kernel, org: Org, make: Make, db: Database) -> None:
    """B068: the same question gives the same export until its day is over; another question another."""
    await crowd(org, make)
    first = await ask(api, org, "events")
    assert (await ask(api, org, "events"))["id"] == first["id"]
    others = {(await ask(api, org, *question))["id"] for question in (("events", "ada"), ("events", "bob"), ("push",))}
    assert len(others) == 3 and first["id"] not in others
    await db.execute("UPDATE exports SET expires_at = now() WHERE org_id = $1", org.id)
    for path in (f"/data-io/exports/{first['id']}", f"/data-io/exports/{first['id']}/download"):
        assert (await api.get(path, key=org.sk)).code == "NOT_FOUND"
    second = await ask(api, org, "events")
    assert second["id"] != first["id"]
    await jobs.forget_exports(kernel)
    assert await db.fetchval("SELECT count(*) FROM exports WHERE org_id = $1", org.id) == 1
    assert (await download(api, org, second["id"])).status == 200


@pytest.mark.rule("B068")
async def test_an_export_is_gone_with_its_person(api: Api, kernel: Kernel, org: Org, make: Make) -> None:
    """Nothing is kept that could outlive an erasure: neither the records nor whose they were."""
    await crowd(org, make)
    one, all_ = await ask(api, org, "events", "ada"), await ask(api, org, "profiles")
    assert data_io.module.erase is not None and data_io.module.export is not None
    told = [row async for row in data_io.module.export(kernel, org.id, org.project, "ada")]
    assert [row["export"]["id"] for row in told] == [one["id"]]
    for room in reversed(MODULES):
        if room.erase is not None:
            await room.erase(kernel, org.id, org.project, "ada")
    assert (await download(api, org, one["id"])).code == "NOT_FOUND"
    assert [row["externalId"] for row in (await download(api, org, all_["id"])).envelope["records"]] == ["bob"]


@pytest.mark.rule("B068")
async def test_who_may_ask(api: Api, org: Org, make: Make) -> None:
    told = await ask(api, org, "profiles")
    refused = await api.post(ASK, {"module": "profiles"}, key=org.pk)
    assert (refused.status, refused.code) == (403, "scope_required")
    writer = await make.key(org, scopes=("profiles:write",))
    other = await make.org()
    for path in (f"/data-io/exports/{told['id']}", f"/data-io/exports/{told['id']}/download"):
        assert (await api.get(path, key=writer)).code == "scope_required"
        assert (await api.get(path, key=other.sk)).code == "NOT_FOUND"
        assert (await api.get(path.replace(told["id"], str(uuid4())), key=org.sk)).code == "NOT_FOUND"
        assert (await api.get(path.replace(told["id"], "x"), key=org.sk)).code == "NOT_FOUND"
    for person in ("nobody", str(uuid4())):
        body = {"module": "profiles", "filter": {"profileId": person}}
        assert (await api.post(ASK, body, key=org.sk)).code == "NOT_FOUND"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "module"),
        ({"module": ""}, "module"),
        ({"module": "orgs"}, "module"),
        ({"module": "x" * 65}, "module"),
        ({"module": 7}, "module"),
        ({"module": "profiles", "filter": {}}, "filter.profileId"),
        ({"module": "profiles", "filter": {"profileId": ""}}, "filter.profileId"),
        ({"module": "profiles", "filter": {"profileId": "x", "more": 1}}, "filter.more"),
        ({"module": "profiles", "more": 1}, "more"),
    ],
)
async def test_bodies(api: Api, org: Org, body: Any, field: str) -> None:
    assert field in (await api.post(ASK, body, key=org.sk)).fields


@pytest.mark.rule("B068")
async def test_a_document_that_breaks_off_is_no_document(
    api: Api, kernel: Kernel, org: Org, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it must not pass for all of it, and the next try begins anew."""
    fails = [True]

    async def tell(kernel: Kernel, org_id: Any, project: Any) -> AsyncIterator[dict[str, Any]]:
        for n in range(100):
            if n == 50 and fails[0]:
                raise ValueError("a fault of this room's")
            yield {"n": n}

    async def tell_one(kernel: Kernel, org_id: Any, project: Any, person: str) -> AsyncIterator[dict[str, Any]]:
        for n in range(service.DATA_MAX + (person == "bob")):
            yield {"n": n}

    monkeypatch.setattr(service, "PIECE_BYTES", 10)
    rooms = (*MODULES, Module(name="room", export=tell_one, export_all=tell))
    data_io.bind(rooms)
    try:
        await crowd(org, make)
        id_ = (await ask(api, org, "room"))["id"]
        export = await store.find(kernel.db, org.id, org.project, UUID(id_))
        assert export is not None
        pieces = []
        with pytest.raises(ValueError, match="fault"):
            async for piece in await service.download(kernel, export):
                pieces.append(piece)  # noqa: PERF401 - what came before the fault counts
        assert len(pieces) >= 10
        with pytest.raises(msgspec.DecodeError):
            msgspec.json.decode(b"".join(pieces))
        fails[0] = False
        assert len(await exported(api, org, "room")) == 100
        assert len((await ask(api, org, "room", "ada"))["data"]["records"]) == service.DATA_MAX
        assert (await ask(api, org, "room", "bob"))["data"] is None, "too many for an answer"
        assert len(await exported(api, org, "room", "bob")) == service.DATA_MAX + 1
    finally:
        data_io.bind(MODULES)


@pytest.mark.rule("B068")
async def test_downloads_have_a_bound(api: Api, org: Org, monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is told to come back, and takes no place; whoever is through has left it."""
    id_ = (await ask(api, org, "profiles"))["id"]
    for _ in range(service.DOWNLOADS_MAX + 1):
        assert (await download(api, org, id_)).status == 200
    monkeypatch.setattr(service, "DOWNLOADS_MAX", 0)
    refused = await download(api, org, id_)
    assert (refused.status, refused.code, refused.headers["retry-after"]) == (503, "UNAVAILABLE", "5")


@pytest.mark.rule("B068")
async def test_exports_are_told_to_the_audit_log(api: Api, kernel: Kernel, org: Org, make: Make) -> None:
    """A person by the name that the org's audit log has for everybody's entries about that person."""
    await make.profile(org, "ada-lovelace")
    of_one = (await ask(api, org, "profiles", "ada-lovelace"))["id"]
    id_ = (await ask(api, org, "events"))["id"]
    bulk, one = (await api.get("/audit-log", key=org.sk)).data
    assert (one["action"], one["details"]) == ("data.exported", {"module": "profiles", "exportId": of_one})
    named_by = await orgs.person_hash(kernel, org.id, "ada-lovelace")
    assert one["resource"] == f"person:{named_by}" and "ada" not in str(one)
    assert (bulk["action"], bulk["resource"]) == ("data.exported", f"export:{id_}")
