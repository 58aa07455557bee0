"""Contact lists: who is put into one, and what an audience of that type is to everybody else."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.api import Api
from tests.make import Make, Org

from sendora.kernel.clock import iso
from sendora.kernel.ids import AudienceId
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Database
from sendora.modules import audiences
from sendora.modules.audiences.jobs import sweep

PRO: dict[str, Any] = {"all": [{"trait": "plan", "op": "eq", "value": "pro"}]}


async def listed(api: Api, org: Org, *names: str) -> str:
    """A contact list of these people."""
    made = await api.post("/audiences", {"name": "guests", "type": "list"}, key=org.sk)
    assert made.status == 201, made
    id_: str = made.data["id"]
    if names:
        said = await api.post(f"/audiences/{id_}/contacts", {"userIds": list(names)}, key=org.sk)
        assert said.status == 200 and said.data["unknown"] == [], said
    return id_


async def size(api: Api, org: Org, audience: str) -> int | None:
    found: int | None = (await api.get(f"/audiences/{audience}", key=org.sk)).data["estimatedSize"]
    return found


@pytest.mark.rule("B076", "B077")
async def test_a_lists_life(api: Api, org: Org, make: Make) -> None:
    """Created empty; people are added, told, paged and removed; adding again changes nothing."""
    for name in ("anna", "bert", "carl"):
        await make.profile(org, name)
    made = await api.post("/audiences", {"name": "guests", "type": "list"}, key=org.sk)
    assert (made.data["type"], made.data["rules"], made.data["estimatedSize"]) == ("list", None, 0)
    path = f"/audiences/{made.data['id']}/contacts"
    said = await api.post(path, {"userIds": ["anna", "bert", "nobody", "anna"]}, key=org.sk)
    assert said.data == {"added": 2, "already": 0, "unknown": ["nobody"]}
    first = {row["userId"]: row["addedAt"] for row in (await api.get(path, key=org.sk)).data}
    said = await api.post(path, {"userIds": ["carl", "bert"]}, key=org.sk)
    assert said.data == {"added": 1, "already": 1, "unknown": []}
    whole = await api.get(path, key=org.sk)
    assert whole.pagination["total"] == 3
    assert {row["userId"]: row["addedAt"] for row in whole.data if row["userId"] != "carl"} == first
    pages = [await api.get(path, key=org.sk, page=page, pageSize=2) for page in (1, 2, 3)]
    assert [row for page in pages for row in page.data] == whole.data
    assert [page.pagination["hasMore"] for page in pages] == [True, False, False]
    shown = (await api.get("/audiences", key=org.sk)).data
    assert [(row["type"], row["rules"], row["estimatedSize"]) for row in shown] == [("list", None, 3)]
    for removed in (True, False):
        assert (await api.delete(f"{path}/bert", key=org.sk)).data == {"removed": removed}
    assert (await api.delete(f"{path}/nobody", key=org.sk)).data == {"removed": False}
    assert await size(api, org, made.data["id"]) == 2


@pytest.mark.rule("C69", "C70")
async def test_a_person_is_in_a_list_once(api: Api, org: Org, make: Make, db: Database) -> None:
    """Under whatever names: whoever took somebody over since is who is meant, and can be removed by any of them."""
    anon = await make.events(org, {"eventType": "x", "anonymousId": "anon"})
    assert anon.status == 200
    assert (await api.get("/profiles/anon", key=org.sk, after=anon.position)).status == 200
    await make.profile(org, "anna")
    guests = await listed(api, org, "anon", "anna")
    assert await size(api, org, guests) == 2
    anna = await make.profile(org, "anna", anonymousId="anon")
    assert await size(api, org, guests) == 1
    said = await api.post(f"/audiences/{guests}/contacts", {"userIds": ["anon", "anna"]}, key=org.sk)
    assert said.data == {"added": 0, "already": 2, "unknown": []}
    people = await api.get("/profiles", key=org.sk, audienceId=guests)
    assert ([one["externalId"] for one in people.data], people.pagination["total"]) == (["anna"], 1)
    for named in ("anon", "anna", anna["id"]):
        shown = await api.get(f"/profiles/{named}", key=org.sk)
        assert [one["id"] for one in shown.data["audienceMemberships"]] == [guests]
    assert (await api.delete(f"/audiences/{guests}/contacts/{anna['id']}", key=org.sk)).data == {"removed": True}
    assert await size(api, org, guests) == 0
    assert await db.fetchval("SELECT count(*) FROM audience_contacts WHERE org_id = $1", org.id) == 0


@pytest.mark.rule("B063", "C69")
async def test_whoever_was_taken_over_is_added_as_whom_they_became(api: Api, org: Org, make: Make) -> None:
    await make.profile(org, "anna", anonymousId="anon")
    await make.profile(org, "bert")
    guests = await listed(api, org, "anon")
    assert [row["userId"] for row in (await api.get(f"/audiences/{guests}/contacts", key=org.sk)).data] == ["anna"]
    rule = (await api.post("/audiences", {"name": "all", "rules": {"all": []}}, key=org.sk)).data["id"]
    held = (await api.get("/profiles/anna", key=org.sk)).data["audienceMemberships"]
    assert {one["id"] for one in held} == {guests, rule}
    held = (await api.get("/profiles/bert", key=org.sk)).data["audienceMemberships"]
    assert [one["id"] for one in held] == [rule]


async def test_a_list_is_explained(api: Api, org: Org, make: Make) -> None:
    await make.profile(org, "anna")
    await make.profile(org, "bert")
    guests = await listed(api, org, "anna")
    (contact,) = (await api.get(f"/audiences/{guests}/contacts", key=org.sk)).data

    async def told(named: str) -> Any:
        return (await api.post("/audiences/explain", {"audienceId": guests, "userId": named}, key=org.sk)).data

    anna, bert = await told("anna"), await told("bert")
    assert (anna["member"], bert["member"]) == (True, False)
    assert anna["tree"] == {
        "path": "",
        "truth": True,
        "condition": {"list": guests},
        "observed": {"addedAt": contact["addedAt"]},
        "flipsAt": None,
    }
    assert (bert["tree"]["truth"], bert["tree"]["observed"]) == (False, {"addedAt": None})


@pytest.mark.rule("B028")
async def test_rules_have_no_contacts_and_lists_no_rules(api: Api, org: Org, make: Make) -> None:
    await make.profile(org, "anna")
    rule = (await api.post("/audiences", {"name": "x", "rules": PRO}, key=org.sk)).data["id"]
    path = f"/audiences/{rule}/contacts"
    for answer in (
        await api.get(path, key=org.sk),
        await api.post(path, {"userIds": ["anna"]}, key=org.sk),
        await api.delete(f"{path}/anna", key=org.sk),
    ):
        assert (answer.status, answer.code, answer.details["reason"]) == (409, "CONFLICT", "audience_of_rules")
    guests = await listed(api, org)
    assert "rules" in (await api.patch(f"/audiences/{guests}", {"rules": PRO}, key=org.sk)).fields
    renamed = await api.patch(f"/audiences/{guests}", {"name": "friends"}, key=org.sk)
    assert (renamed.data["name"], renamed.data["rules"]) == ("friends", None)


@pytest.mark.parametrize("names", [[], ["a"] * 1_001, [""], ["a" * 257], [7], "anna", None])
async def test_what_cannot_be_added(api: Api, org: Org, names: Any) -> None:
    guests = await listed(api, org)
    refused = await api.post(f"/audiences/{guests}/contacts", {"userIds": names}, key=org.sk)
    assert any(name.startswith("userIds") for name in refused.fields), refused


async def test_a_thousand_at_a_time(api: Api, org: Org) -> None:
    guests = await listed(api, org)
    names = [f"n-{n}" for n in range(1_000)]
    said = await api.post(f"/audiences/{guests}/contacts", {"userIds": names}, key=org.sk)
    assert said.data == {"added": 0, "already": 0, "unknown": names}


@pytest.mark.rule("B080", "C18", "C19", "C03")
async def test_who_may_use_contacts(api: Api, org: Org, make: Make) -> None:
    """Secret keys with the scope, on Starter and up; both forms of the URL; another org's list is not there."""
    await make.profile(org, "anna")
    guests = await listed(api, org, "anna")
    other, free = await make.org(), await make.org("free")
    await make.profile(other, "anna")
    reader = await make.key(org, scopes=("audiences:read",))
    body = {"userIds": ["anna"]}
    calls: list[tuple[str, str, Any]] = [
        ("GET", f"/audiences/{guests}/contacts", None),
        ("POST", f"/audiences/{guests}/contacts", body),
        ("DELETE", f"/audiences/{guests}/contacts/anna", None),
    ]
    for method, path, sent in calls:
        for key, org_id, status in (
            (org.pk, None, 403),
            (free.sk, None, 402),
            (other.sk, None, 404),
            (other.sk, other.id, 404),
            (other.sk, org.id, 404),
            (reader, None, 200 if method == "GET" else 403),
        ):
            answer = await api.request(method, path, sent, key=key, org=org_id)
            assert answer.status == status, (method, key, answer)
        assert b"anna" not in (await api.request(method, path, sent, key=other.sk)).body
    for method, path, sent in calls:
        assert (await api.request(method, path, sent, key=org.sk, org=org.id)).status == 200
    for path in (f"/audiences/{uuid4()}/contacts", "/audiences/nothing/contacts"):
        assert (await api.get(path, key=org.sk)).status == 404


@pytest.mark.rule("B067", "B069")
async def test_an_erased_person_is_in_no_list(api: Api, kernel: Kernel, org: Org, make: Make, db: Database) -> None:
    """Export tells of the lists, erasure takes the person out of them under all names, and out of no other org's."""
    anon = await make.events(org, {"eventType": "x", "anonymousId": "anon"})
    assert (await api.get("/profiles/anon", key=org.sk, after=anon.position)).status == 200
    other = await make.org()
    await make.profile(other, "anna")
    theirs = await listed(api, other, "anna")
    guests = await listed(api, org, "anon")
    await make.profile(org, "bert")
    await make.profile(org, "anna", anonymousId="anon")
    friends = await listed(api, org, "anna", "bert")
    export, erase = audiences.module.export, audiences.module.erase
    assert export is not None and erase is not None
    told = [one["contactList"] async for one in export(kernel, org.id, org.project, "anna")]
    assert {(one["id"], one["name"]) for one in told} == {(guests, "guests"), (friends, "guests")}
    for _ in range(2):
        await erase(kernel, org.id, org.project, "anna")
        assert [one async for one in export(kernel, org.id, org.project, "anna")] == []
    rows = await db.fetch("SELECT external_id FROM audience_contacts WHERE org_id = $1", org.id)
    assert [row["external_id"] for row in rows] == ["bert"]
    assert await size(api, other, theirs) == 1


@pytest.mark.rule("B070", "B079")
async def test_whoever_is_gone_is_in_no_list(api: Api, kernel: Kernel, org: Org, make: Make, db: Database) -> None:
    """A deleted profile is nobody; a deleted list is swept, and is nobody's before that."""
    for name in ("anna", "bert"):
        await make.profile(org, name)
    guests = await listed(api, org, "anna", "bert")
    assert (await api.delete("/profiles/anna", key=org.sk)).status == 200
    assert await size(api, org, guests) == 1
    people = await api.get("/profiles", key=org.sk, audienceId=guests)
    assert ([one["externalId"] for one in people.data], people.pagination["total"]) == (["bert"], 1)
    await api.delete(f"/audiences/{guests}", key=org.sk)
    path = f"/audiences/{guests}/contacts"
    assert (await api.get(path, key=org.sk)).status == 404
    assert (await api.post(path, {"userIds": ["bert"]}, key=org.sk)).status == 404
    assert (await api.get("/profiles/bert", key=org.sk)).data["audienceMemberships"] == []
    kept = await listed(api, org, "bert")
    await sweep(kernel)
    rows = await db.fetch("SELECT audience_id FROM audience_contacts WHERE org_id = $1", org.id)
    assert [row["audience_id"] for row in rows] == [UUID(kept)]


@pytest.mark.rule("B076")
async def test_how_old_a_size_is_and_why_there_is_none(
    api: Api, kernel: Kernel, org: Org, make: Make, db: Database
) -> None:
    """Every audience says when it was evaluated last, what came out, and the last error in words until it is over."""
    await make.profile(org, "anna", traits={"plan": "pro"})
    made = (await api.post("/audiences", {"name": "x", "rules": PRO}, key=org.sk)).data
    id_ = AudienceId(UUID(made["id"]))
    told = made["evaluation"]
    assert (told["size"], told["error"], told["failedAt"]) == (1, None, None)
    assert 0 <= told["ageSeconds"] < 60 and told["at"] == made["estimatedAt"]
    (row,) = (await api.get("/audiences", key=org.sk)).data
    assert (row["estimatedSize"], row["estimatedAt"]) == (None, None), "no index holds this project here"
    assert row["evaluation"]["size"] == 1
    await db.execute("UPDATE audience_evaluations SET at = at - interval '1 hour' WHERE audience_id = $1", id_)
    (row,) = (await api.get("/audiences", key=org.sk)).data
    assert 3_600 <= row["evaluation"]["ageSeconds"] < 3_700
    await db.execute("UPDATE audiences SET rules = $2 WHERE id = $1", id_, {"a rule of": "another version"})
    members = await audiences.members(kernel, org.id, org.project, id_)
    assert await members.of(0) is None, "a send reaches nobody"
    broken = (await api.get(f"/audiences/{id_}", key=org.sk)).data
    assert broken["estimatedSize"] is None
    assert broken["evaluation"]["error"].startswith("The rules are not understood: rules: ")
    failed_at = datetime.fromisoformat(broken["evaluation"]["failedAt"])
    assert failed_at > datetime.fromisoformat(broken["evaluation"]["at"])
    await db.execute("UPDATE audiences SET rules = $2 WHERE id = $1", id_, PRO)
    members = await audiences.members(kernel, org.id, org.project, id_)
    (row,) = (await api.get("/audiences", key=org.sk)).data
    assert (row["evaluation"]["error"], row["evaluation"]["failedAt"], row["evaluation"]["size"]) == (None, None, 1)
    assert abs(datetime.fromisoformat(row["evaluation"]["at"]) - members.as_of) < timedelta(seconds=1)
    assert iso(members.as_of) == row["evaluation"]["at"]
