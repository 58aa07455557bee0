"""`POST /audiences/preview` and `POST /audiences/explain`."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from tests.api import Api
from tests.make import Make, Org

PRO: dict[str, Any] = {"trait": "plan", "op": "eq", "value": "pro"}
BOUGHT: dict[str, Any] = {"event": "buy", "op": "occurred_in_last", "value": "30d"}


@pytest.fixture
async def people(org: Org, make: Make) -> Org:
    await make.events(
        org,
        {"eventType": "buy", "userId": "anna"},
        {"eventType": "buy", "anonymousId": "anon"},
        {"eventType": "buy", "userId": "carl", "timestamp": (datetime.now(UTC) - timedelta(days=40)).isoformat()},
    )
    await make.profile(org, "anna", traits={"plan": "pro"})
    await make.profile(org, "bert", traits={"plan": "free"}, anonymousId="anon")
    await make.profile(org, "carl", traits={"plan": "pro"})
    await make.profile(org, "dora")
    return org


@pytest.mark.rule("B071", "B072", "B074", "B075")
async def test_a_funnel(api: Api, people: Org) -> None:
    """Exact, each leaf alone and behind those before it, as of an instant."""
    answer = await api.post("/audiences/preview", {"rules": {"all": [PRO, {"not": BOUGHT}]}}, key=people.sk)
    assert answer.status == 200, answer
    assert answer.data["count"] == 1
    assert answer.data["leaves"] == [
        {"path": "all.0", "alone": 2, "remaining": 2},
        {"path": "all.1.not", "alone": 2, "remaining": 1},
    ]
    assert set(answer.data["addresses"]) == {"ios", "android", "web"}
    at = datetime.fromisoformat(answer.data["asOf"])
    assert abs(at - datetime.now(UTC)) < timedelta(minutes=1)
    assert (await api.get("/audiences", key=people.sk)).data == [], "nothing is saved"


@pytest.mark.rule("C47")
async def test_exclusions(api: Api, people: Org, make: Make) -> None:
    """Whoever is in one of them is out; a deleted one leaves out nobody, one that never was is an error."""
    ids = []
    for rules in ({"all": [PRO]}, {"all": [BOUGHT]}):
        made = await api.post("/audiences", {"name": "x", "rules": rules}, key=people.sk)
        ids.append(made.data["id"])

    async def count(*excluded: str) -> int:
        body = {"rules": {"all": []}, "excludeAudienceIds": list(excluded)}
        answer = await api.post("/audiences/preview", body, key=people.sk)
        assert answer.status == 200, answer
        found: int = answer.data["count"]
        return found

    assert [await count(), await count(ids[0]), await count(*ids)] == [4, 2, 1]
    await api.delete(f"/audiences/{ids[0]}", key=people.sk)
    assert await count(*ids) == 2
    body = {"rules": {"all": []}, "excludeAudienceIds": [ids[1], str(uuid4())]}
    assert list((await api.post("/audiences/preview", body, key=people.sk)).fields) == ["excludeAudienceIds.1"]
    stranger = await make.org()
    assert (await api.post("/audiences/preview", body, key=stranger.sk)).status == 400


async def test_exclusions_that_are_too_many_conditions(api: Api, org: Org) -> None:
    wide = {"any": [{"trait": f"t{n}", "op": "exists"} for n in range(40)]}
    made = await api.post("/audiences", {"name": "x", "rules": wide}, key=org.sk)
    body = {"rules": wide, "excludeAudienceIds": [made.data["id"]]}
    assert list((await api.post("/audiences/preview", body, key=org.sk)).fields) == ["excludeAudienceIds"]


@pytest.mark.rule("C69", "C70", "B074")
async def test_why_somebody_is_in_or_not(api: Api, people: Org, make: Make) -> None:
    """Truth, what was observed, and when it flips; by either id, and as whoever the person is now."""
    rules = {"all": [PRO, BOUGHT]}

    async def told(named: str) -> Any:
        answer = await api.post("/audiences/explain", {"rules": rules, "userId": named}, key=people.sk)
        assert answer.status == 200, answer
        return answer.data

    anna = await told("anna")
    assert anna["member"] is True and anna["tree"]["truth"] is True
    plan, bought = anna["tree"]["all"]
    assert (plan["path"], plan["truth"], plan["observed"], plan["flipsAt"]) == ("all.0", True, {"value": "pro"}, None)
    assert plan["condition"] == PRO
    last = datetime.fromisoformat(bought["observed"]["last"])
    assert timedelta(days=30) <= datetime.fromisoformat(bought["flipsAt"]) - last < timedelta(days=30, seconds=2)
    assert datetime.fromisoformat(anna["asOf"]) >= last
    bert = await told("anon")
    assert bert["member"] is False
    assert [leaf["truth"] for leaf in bert["tree"]["all"]] == [False, True], "what the anonymous device did is bert's"
    dora = await told((await make.profile(people, "dora"))["id"])
    assert [(leaf["truth"], leaf["observed"]) for leaf in dora["tree"]["all"]] == [
        (False, {"value": None}),
        (False, {"last": None}),
    ]


@pytest.mark.rule("B072", "C69", "C72")
async def test_the_first_event_that_a_leaf_counts(api: Api, org: Org, make: Make) -> None:
    """Within the leaf's window, with its condition on properties, under every name of the person; nothing where nothing
    was counted; never of a trait."""
    now = datetime.now(UTC).replace(microsecond=0)

    def bought(name: str, days: int, amount: int) -> dict[str, Any]:
        at = (now - timedelta(days=days)).isoformat()
        return {"eventType": "buy", name: "anna", "timestamp": at, "properties": {"amount": amount}}

    old = {**bought("anonymousId", 200, 90), "anonymousId": "anon"}
    await make.events(org, old, *(bought("userId", *one) for one in ((100, 5), (20, 70), (10, 5), (2, 80), (1, 5))))
    await make.profile(org, "anna", anonymousId="anon", traits={"plan": "pro"})
    large = {"all": [{"trait": "amount", "op": "gte", "value": 50}]}
    leaves: list[tuple[dict[str, Any], int | None]] = [
        ({"event": "buy", "op": "occurred"}, 200),
        ({"event": "buy", "op": "occurred_in_last", "value": "30d"}, 20),
        ({"event": "buy", "op": "count_gte", "value": 2, "window": "5d"}, 2),
        ({"event": "buy", "op": "not_occurred_in_last", "value": "15d"}, 10),
        ({"event": "buy", "op": "count_gte", "value": 1, "window": "15d", "where": large}, 2),
        ({"event": "buy", "op": "occurred", "where": large}, 200),
        ({"event": "buy", "op": "occurred_in_last", "value": "12h"}, None),
        ({"event": "sell", "op": "occurred"}, None),
    ]
    rules = {"all": [{"any": [leaf for leaf, _ in leaves]}, {"not": {"trait": "plan", "op": "exists"}}]}
    told = await api.post("/audiences/explain", {"rules": rules, "userId": "anna"}, key=org.sk)
    any_, not_ = told.data["tree"]["all"]
    for shown, (leaf, days) in zip(any_["any"], leaves, strict=True):
        at = None if days is None else now - timedelta(days=days)
        first = shown["firstMatchAt"]
        assert (None if first is None else datetime.fromisoformat(first)) == at, leaf
    assert "firstMatchAt" not in not_["not"]


async def test_an_audience_is_explained_by_its_id(api: Api, people: Org, make: Make) -> None:
    made = await api.post("/audiences", {"name": "x", "rules": {"all": [PRO]}}, key=people.sk)
    body = {"audienceId": made.data["id"], "userId": "carl"}
    assert (await api.post("/audiences/explain", body, key=people.sk)).data["member"] is True
    assert (await api.post("/audiences/explain", body, key=(await make.org()).sk)).status == 404
    assert (await api.post("/audiences/explain", {**body, "userId": "nobody"}, key=people.sk)).status == 404
    assert (await api.post("/audiences/explain", {**body, "audienceId": str(uuid4())}, key=people.sk)).status == 404
    await api.delete(f"/audiences/{made.data['id']}", key=people.sk)
    assert (await api.post("/audiences/explain", body, key=people.sk)).status == 404


@pytest.mark.rule("B024", "C72")
@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("preview", {}, "rules"),
        ("preview", {"rules": {"all": [{"trait": "a", "op": "like"}]}}, "rules.all.0.op"),
        ("preview", {"rules": {"all": []}, "projectId": str(uuid4())}, "projectId"),
        ("preview", {"rules": {"all": []}, "excludeAudienceIds": ["x"]}, "excludeAudienceIds.0"),
        ("preview", {"rules": {"all": []}, "excludeAudienceIds": [str(uuid4())] * 21}, "excludeAudienceIds"),
        ("explain", {"rules": {"all": []}}, "userId"),
        ("explain", {"userId": "a"}, "rules"),
        ("explain", {"userId": "a", "rules": {"all": []}, "audienceId": str(uuid4())}, "rules"),
        ("explain", {"userId": "", "rules": {"all": []}}, "userId"),
        ("explain", {"userId": "a", "rules": {"some": []}}, "rules"),
    ],
)
async def test_what_cannot_be_asked(api: Api, org: Org, path: str, body: dict[str, Any], field: str) -> None:
    if path == "explain" and "rules" in body and body.get("userId") == "a":
        body = {**body, "userId": "a"}
    refused = await api.post(f"/audiences/{path}", body, key=org.sk)
    assert any(name == field or (field == "rules" and name.startswith("rules")) for name in refused.fields), refused


@pytest.mark.rule("B080", "B027", "C18", "C19")
async def test_who_may_ask(api: Api, org: Org, make: Make) -> None:
    """Secret keys that may read audiences, on Starter and up; both forms of the URL."""
    free = await make.org("free")
    writer = await make.key(org, scopes=("audiences:write",))
    for path, body in (("preview", {"rules": {"all": []}}), ("explain", {"rules": {"all": []}, "userId": "anna"})):
        assert (await api.post(f"/audiences/{path}", body, key=org.pk)).code == "scope_required"
        assert (await api.post(f"/audiences/{path}", body, key=writer)).code == "scope_required"
        assert (await api.post(f"/audiences/{path}", body, key=free.sk)).status == 402
        assert (await api.post(f"/audiences/{path}", body, key=org.sk, org=free.id)).status == 404
        explicit = await api.post(f"/audiences/{path}", body, key=org.sk, org=org.id)
        assert explicit.status == (200 if path == "preview" else 404)
