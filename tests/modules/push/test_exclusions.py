"""`excludeAudienceIds` and contact lists as the target of a send."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from tests.api import Api
from tests.make import Make, Org
from tests.modules.push.conftest import APNS
from tests.modules.push.test_channel import asked, devices, planned

from sendora.kernel.life import Kernel
from sendora.kernel.pg import Database

PRO: dict[str, Any] = {"all": [{"trait": "plan", "op": "eq", "value": "pro"}]}
SAID: dict[str, Any] = {"title": "T", "body": "B"}


@pytest.fixture
async def shop(api: Api, org: Org) -> Org:
    assert (await api.put("/push/providers/apns", APNS, key=org.sk)).status == 200
    return org


async def audience(api: Api, org: Org, rules: dict[str, Any] | None, *names: str) -> str:
    """Of rules, or a list of these people."""
    said = {"rules": rules} if rules is not None else {"type": "list"}
    made = await api.post("/audiences", {"name": "x", **said}, key=org.sk)
    id_: str = made.data["id"]
    if names:
        added = await api.post(f"/audiences/{id_}/contacts", {"userIds": list(names)}, key=org.sk)
        assert added.data["added"] == len(names), added
    return id_


@pytest.mark.rule("B081", "B094", "C35", "C69")
async def test_a_list_is_a_target_as_any_audience(api: Api, kernel: Kernel, make: Make, shop: Org) -> None:
    """Evaluated when it is planned, a person once under whatever names, and whoever took somebody over is meant."""
    for name in ("bert", "carl", "late", "phoneless"):
        await make.profile(shop, name)
    anon = await make.events(shop, {"eventType": "x", "anonymousId": "anon"})
    assert (await api.get("/profiles/anon", key=shop.sk, after=anon.position)).status == 200
    await make.profile(shop, "anna")
    guests = await audience(api, shop, None, "anon", "anna", "bert", "phoneless")
    old, new, bert, _, late = await devices(make, shop, "anon", "anna", "bert", "carl", "late")
    send = await asked(api, kernel, shop, audienceId=guests)
    assert (send.token_count, send.class_) == (None, "bulk")
    await make.profile(shop, "anna", anonymousId="anon")
    await api.post(f"/audiences/{guests}/contacts", {"userIds": ["late"]}, key=shop.sk)
    targets, whom = await planned(kernel, send)
    assert (whom, targets.unreachable) == ({old, new, bert, late}, 1)
    assert targets.as_of is not None and abs(targets.as_of - datetime.now(UTC)) < timedelta(minutes=1)
    await api.delete(f"/audiences/{guests}", key=shop.sk)
    assert await planned(kernel, send) != whom and (await planned(kernel, send))[1] == set()


@pytest.mark.rule("B075", "C47", "C69")
async def test_whoever_is_excluded_is_nobodys_recipient(api: Api, kernel: Kernel, make: Make, shop: Org) -> None:
    """By rules and by lists, of audiences and of named people, under every name; as of the plan; not even counted as
    unreachable. A deleted exclusion leaves out nobody."""
    await make.profile(shop, "anna", traits={"plan": "pro"})
    await make.profile(shop, "bert", anonymousId="anon")
    await make.profile(shop, "carl")
    await make.profile(shop, "phoneless", traits={"plan": "pro"})
    anna, bert, berts_old, carl = await devices(make, shop, "anna", "bert", "anon", "carl")
    everybody, pro = await audience(api, shop, {"all": []}), await audience(api, shop, PRO)
    some = await audience(api, shop, None, "bert")
    users = ["anna", "anon", "carl", "phoneless", "stranger"]

    async def whom(**said: Any) -> tuple[set[Any], int]:
        send = await asked(api, kernel, shop, **said)
        targets, found = await planned(kernel, send)
        return found, targets.unreachable

    for target, strangers in (({"audienceId": everybody}, 0), ({"userIds": users}, 1)):
        assert await whom(**target) == ({anna, bert, berts_old, carl}, 1 + strangers)
        assert await whom(**target, excludeAudienceIds=[pro]) == ({bert, berts_old, carl}, strangers)
        assert await whom(**target, excludeAudienceIds=[some]) == ({anna, carl}, 1 + strangers)
        assert await whom(**target, excludeAudienceIds=[some, pro, some]) == ({carl}, strangers)
    send = await asked(api, kernel, shop, userIds=users, excludeAudienceIds=[pro, some])
    assert send.token_count is None, "nobody knows before the plan"
    await make.profile(shop, "carl", traits={"plan": "pro"})
    targets, found = await planned(kernel, send)
    assert (found, targets.unreachable) == (set(), 1)
    assert targets.as_of is not None
    assert targets.kept == {"userIds": [], "excludeAudienceIds": [pro, some]}
    shown = await api.get(f"/push/sends/{send.id}", key=shop.sk)
    assert shown.data["excludeAudienceIds"] == [pro, some]
    for id_ in (pro, some):
        await api.delete(f"/audiences/{id_}", key=shop.sk)
    assert (await planned(kernel, send))[1] == {anna, bert, berts_old, carl}


@pytest.mark.rule("B039", "C18", "C87")
async def test_what_cannot_be_excluded(api: Api, make: Make, shop: Org, db: Database) -> None:
    """Raw tokens are no people; unknown audiences, and another org's or project's, are not there; Free has none of it.
    Whoever is refused leaves no trace."""
    other, free = await make.org(), await make.org("free")
    theirs, ours = await audience(api, other, PRO), await audience(api, shop, PRO)
    for said, field in (
        ({"tokens": ["a" * 64], "excludeAudienceIds": [ours]}, "excludeAudienceIds"),
        ({"userIds": ["a"], "excludeAudienceIds": ["x"]}, "excludeAudienceIds.0"),
        ({"userIds": ["a"], "excludeAudienceIds": [ours] * 21}, "excludeAudienceIds"),
    ):
        assert field in (await api.post("/push/send", {**SAID, **said}, key=shop.sk)).fields
    for excluded in (theirs, str(uuid4())):
        for target in ({"userIds": ["a"]}, {"audienceId": ours}):
            body = {**SAID, **target, "excludeAudienceIds": [ours, excluded]}
            assert (await api.post("/push/send", body, key=shop.sk)).status == 404
    refused = await api.post("/push/send", {**SAID, "userIds": ["a"], "excludeAudienceIds": [ours]}, key=free.sk)
    assert (refused.status, refused.details["requiredPlan"]) == (402, "starter")
    assert await db.fetchval("SELECT count(*) FROM sends WHERE org_id = ANY($1::uuid[])", [shop.id, free.id]) == 0
    for org_id in (None, shop.id):
        body = {**SAID, "userIds": ["a"], "excludeAudienceIds": [ours]}
        assert (await api.post("/push/send", body, key=shop.sk, org=org_id)).status == 200
    body = {**SAID, "tokens": ["a" * 64], "excludeAudienceIds": []}
    assert (await api.post("/push/send", body, key=shop.sk)).status == 200


async def test_a_preview_counts_addresses_once(api: Api, make: Make, org: Org) -> None:
    """Three phones of one person are three; a phone that two people used is its last owner's, and counts once;
    whoever is excluded takes theirs along."""
    for name in ("anna", "bert", "carl"):
        await make.profile(org, name)
    for _ in range(3):
        await make.token(org, uuid4().hex * 2, userId="anna")
    shared = uuid4().hex * 2
    await make.token(org, shared, userId="bert")
    await make.token(org, shared, userId="carl")

    async def counted(*excluded: str) -> tuple[int, int]:
        body = {"rules": {"all": []}, "excludeAudienceIds": list(excluded)}
        answer = await api.post("/audiences/preview", body, key=org.sk)
        assert answer.status == 200, answer
        return answer.data["count"], answer.data["addresses"]["ios"]

    assert await counted() == (3, 4)
    assert await counted(await audience(api, org, None, "anna")) == (2, 1)
    assert await counted(await audience(api, org, None, "bert")) == (2, 4)
    assert await counted(await audience(api, org, None, "carl")) == (2, 3)
