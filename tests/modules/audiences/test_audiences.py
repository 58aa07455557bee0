"""Audiences over HTTP: their life, their rules, and who may see them."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from tests.api import Api
from tests.make import Make, Org

from sendora.kernel.errors import NotFound
from sendora.kernel.ids import AudienceId, parse_id
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Database
from sendora.kernel.wire import Page
from sendora.modules import audiences
from sendora.modules.audiences import service

PRO: dict[str, Any] = {"all": [{"trait": "plan", "op": "eq", "value": "pro"}]}
BUYERS: dict[str, Any] = {"any": [{"event": "purchase", "op": "occurred_in_last", "value": "30d"}, PRO]}


async def created(api: Api, org: Org, rules: dict[str, Any], **said: Any) -> dict[str, Any]:
    answer = await api.post("/audiences", {"name": "x", "rules": rules, **said}, key=org.sk)
    assert answer.status == 201, answer
    data: dict[str, Any] = answer.data
    return data


@pytest.mark.rule("B071", "B076", "B077", "B078")
async def test_an_audiences_life(api: Api, org: Org) -> None:
    """B077: lists show the rule tree; B078: PATCH changes what it names, and rules as a whole."""
    made = await created(api, org, BUYERS, description="who buys")
    path = f"/audiences/{made['id']}"
    found = await api.get(path, key=org.sk)
    assert (found.data["rules"], found.data["description"]) == (BUYERS, "who buys")
    listed = await api.get("/audiences", key=org.sk, projectId=str(org.project))
    assert [(row["id"], row["rules"], row["estimatedSize"]) for row in listed.data] == [(made["id"], BUYERS, None)]
    assert (await api.get("/audiences", key=org.sk, projectId=str(uuid4()))).data == []
    renamed = await api.patch(path, {"name": "y"}, key=org.sk)
    assert (renamed.data["name"], renamed.data["rules"], renamed.data["description"]) == ("y", BUYERS, "who buys")
    changed = await api.patch(path, {"rules": PRO, "description": None}, key=org.sk)
    assert (changed.data["name"], changed.data["rules"], changed.data["description"]) == ("y", PRO, None)


@pytest.mark.rule("B074", "B075", "B076")
async def test_the_size_is_counted_when_it_is_asked_for(api: Api, org: Org, make: Make) -> None:
    """B075, B076: exact as of an instant that is told, and different as soon as somebody joins."""
    made = await created(api, org, PRO)
    assert made["estimatedSize"] == 0
    await make.profile(org, "anna", traits={"plan": "pro"})
    await make.profile(org, "bert", traits={"plan": "free"})
    await make.profile(org, "carl")
    found = await api.get(f"/audiences/{made['id']}", key=org.sk)
    assert found.data["estimatedSize"] == 1
    at = datetime.fromisoformat(found.data["estimatedAt"])
    assert abs(at - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.rule("B061", "B072", "B074", "C72")
async def test_any_trait_can_be_asked_for(api: Api, org: Org, make: Make) -> None:
    """B061: whatever key and value; B074: whoever has not set it is out, even of `neq`, unless `not_set` asks for them
    too."""
    await make.profile(org, "anna", traits={"Wo wohnst du?": "K\u00f6ln", "n": 3, "vip": True, "locale": "de"})
    await make.profile(org, "bert", traits={"Wo wohnst du?": "Bonn", "n": 5, "vip": False})
    await make.profile(org, "carl", traits={"locale": "fr"})

    async def size(rules: dict[str, Any]) -> int:
        found: int = (await api.post("/audiences/preview", {"rules": rules}, key=org.sk)).data["count"]
        return found

    for leaf, holds in (
        ({"trait": "Wo wohnst du?", "op": "eq", "value": "K\u00f6ln"}, 1),
        ({"trait": "Wo wohnst du?", "op": "neq", "value": "K\u00f6ln"}, 1),
        ({"trait": "n", "op": "gt", "value": 3}, 1),
        ({"trait": "vip", "op": "in", "value": [True, False]}, 2),
        ({"trait": "nobody has it", "op": "exists"}, 0),
    ):
        assert await size({"all": [leaf]}) == holds, leaf
    german = {"trait": "locale", "op": "eq", "value": "de"}
    assert await size({"all": [german]}) == 1
    assert await size({"any": [german, {"trait": "locale", "op": "not_set"}]}) == 2


@pytest.mark.rule("B073", "B066", "C69", "C72")
async def test_what_an_anonymous_person_did_counts_for_whom_they_became(api: Api, org: Org, make: Make) -> None:
    """C69: events of every name of a person are one person's; C72: counts and properties."""
    await make.events(
        org,
        {"eventType": "purchase", "anonymousId": "anon", "properties": {"amount": 60}},
        {"eventType": "purchase", "userId": "anna", "properties": {"amount": 70}},
        {"eventType": "purchase", "userId": "bert", "properties": {"amount": 10}},
    )
    await make.profile(org, "anna", anonymousId="anon")
    await make.profile(org, "bert")
    twice = {"all": [{"event": "purchase", "op": "count_gte", "value": 2, "window": "30d"}]}
    large = {
        "event": "purchase",
        "op": "count_gte",
        "value": 1,
        "where": {"all": [{"trait": "amount", "op": "gte", "value": 50}]},
    }
    never = {"all": [{"event": "purchase", "op": "not_occurred"}]}
    for rules, size in ((twice, 1), ({"all": [large]}, 1), (never, 0), ({"not": twice}, 1), ({"all": []}, 2)):
        assert (await created(api, org, rules))["estimatedSize"] == size, rules


async def test_memberships_of_one_person_are_the_same(api: Api, kernel: Kernel, org: Org, make: Make) -> None:
    """The same evaluator on one person's rows: what the count says of all, it says of each."""
    await make.events(org, {"eventType": "purchase", "anonymousId": "anon-9"})
    await make.profile(org, "anna", anonymousId="anon-9", traits={"plan": "free"})
    await make.profile(org, "bert", traits={"plan": "pro"})
    await make.profile(org, "carl")
    both, pro = await created(api, org, BUYERS), await created(api, org, PRO)
    never = await created(api, org, {"all": [{"event": "purchase", "op": "not_occurred"}]})

    async def of(person: str) -> set[str]:
        held = await audiences.memberships_of(kernel, org.id, org.project, person)
        return {str(one.id) for one in held}

    assert await of("anna") == {both["id"]}
    assert await of("bert") == {both["id"], pro["id"], never["id"]}
    assert await of("carl") == {never["id"]}
    assert await of("nobody") == set()
    await api.delete(f"/audiences/{pro['id']}", key=org.sk)
    assert await of("bert") == {both["id"], never["id"]}


async def test_members_are_paged_in_order(api: Api, kernel: Kernel, org: Org, make: Make) -> None:
    """For the list of profiles by audience."""
    for name in ("c", "a", "b"):
        await make.profile(org, name, traits={"plan": "pro"})
    id_ = AudienceId(parse_id((await created(api, org, PRO))["id"]) or uuid4())
    first = await audiences.members_of(kernel, org.id, org.project, id_, Page(1, 2))
    second = await audiences.members_of(kernel, org.id, org.project, id_, Page(2, 2))
    assert ([*first.rows], [*second.rows], first.total) == (["a", "b"], ["c"], 3)
    with pytest.raises(NotFound):
        await audiences.members_of(kernel, org.id, org.project, AudienceId(uuid4()), Page(1, 2))


@pytest.mark.rule("B079", "C47")
async def test_a_deleted_audience_leaves_a_tombstone(api: Api, kernel: Kernel, org: Org, db: Database) -> None:
    """B079: gone for the API, nobody for what refers to it, and the audit log says who."""
    made = await created(api, org, PRO)
    path = f"/audiences/{made['id']}"
    assert (await api.delete(path, key=org.sk)).data == {"id": made["id"], "deleted": True}
    assert {
        (await api.get(path, key=org.sk)).status,
        (await api.patch(path, {"name": "y"}, key=org.sk)).status,
        (await api.delete(path, key=org.sk)).status,
    } == {404}
    assert (await api.get("/audiences", key=org.sk)).data == []
    entry = await db.fetchrow("SELECT * FROM audit_log WHERE org_id = $1", org.id)
    assert entry is not None
    assert (entry["action"], entry["resource"]) == ("audience.deleted", f"audience:{made['id']}")
    assert org.sk.startswith(entry["actor"])


@pytest.mark.rule("C72")
@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"rules": {"all": [{"trait": "plan", "op": "like", "value": "x"}]}}, "rules.all.0.op"),
        ({"rules": {"some": []}}, "rules"),
        ({"rules": []}, "rules"),
        ({"rules": None}, "rules"),
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
        ({"type": "list"}, "rules"),
        ({"type": "set"}, "type"),
        ({"projectId": str(uuid4())}, "projectId"),
        ({"size": 7}, "size"),
    ],
)
async def test_what_is_no_audience(api: Api, org: Org, said: dict[str, Any], field: str) -> None:
    """C72: the place in the tree that is wrong is told."""
    body = {key: value for key, value in {"name": "x", "rules": PRO, **said}.items() if value is not None}
    refused = await api.post("/audiences", body, key=org.sk)
    assert any(name == field or (field == "rules" and name.startswith("rules")) for name in refused.fields), refused


async def test_a_rule_of_many_levels_is_refused(api: Api, org: Org) -> None:
    """A bomb is a 400, in the body's own depth or in the rule's."""
    for depth in (9, 40, 5_000):
        body = b'{"name":"x","rules":' + b'{"all":[' * depth + b"]}" * depth + b"}"
        assert (await api.post("/audiences", body, key=org.sk)).status == 400
    wide = {"all": [{"trait": "a", "op": "exists"}] * 100}
    assert (await api.post("/audiences", {"name": "x", "rules": wide}, key=org.sk)).status == 400


@pytest.mark.rule("B080", "B043", "C18", "C19")
async def test_who_may_use_audiences(api: Api, make: Make, org: Org) -> None:
    """B080: secret keys; C18: Starter; C19: reading and writing are two scopes; other orgs see nothing."""
    assert (await api.get("/audiences", key=org.pk)).code == "scope_required"
    free = await make.org("free")
    refused = await api.get("/audiences", key=free.sk)
    assert (refused.status, refused.details["requiredPlan"]) == (402, "starter")
    reader = await make.key(org, scopes=("audiences:read",))
    assert (await api.get("/audiences", key=reader)).status == 200
    assert (await api.post("/audiences", {"name": "x", "rules": PRO}, key=reader)).code == "scope_required"
    made, other = await created(api, org, PRO), await make.org()
    path = f"/audiences/{made['id']}"
    for id_ in (path, f"/audiences/{uuid4()}", "/audiences/nothing"):
        assert (await api.get(id_, key=other.sk)).status == 404
    assert (await api.delete(path, key=other.sk)).status == 404
    assert (await api.get("/audiences", key=other.sk)).data == []


@pytest.mark.rule("B076")
async def test_a_size_that_nobody_tells_is_null(kernel: Kernel, org: Org, db: Database) -> None:
    """B076: whoever asks gets the audience, whatever the worker says; here it cannot read the rule."""
    id_ = await db.fetchval(
        "INSERT INTO audiences (org_id, id, project_id, name, rules) VALUES ($1, $2, $3, 'x', $4) RETURNING id",
        org.id,
        uuid4(),
        org.project,
        {"a rule of": "another version"},
    )
    found = await service.find(kernel, org.id, AudienceId(id_))
    assert await service.size_of(kernel, found) is None
