"""`GET /profiles/{id}/why-not`, as far as nothing has been dispatched; the rest is a story (tests/flows)."""

from typing import Any
from uuid import uuid4

import pytest
from tests.api import Api
from tests.make import Make, Org
from tests.modules.push.conftest import APNS
from tests.modules.push.test_exclusions import audience

PRO: dict[str, Any] = {"all": [{"trait": "plan", "op": "eq", "value": "pro"}]}


@pytest.mark.rule("C69", "C70")
async def test_why_somebody_is_not_in_an_audience(api: Api, org: Org, make: Make) -> None:
    """The tree that explain tells, by any name of the person; a member whom nothing reaches is unreachable."""
    anna = await make.profile(org, "anna", traits={"plan": "pro"}, anonymousId="anon")
    await make.profile(org, "bert", traits={"plan": "pro"})
    await make.profile(org, "carl")
    await make.token(org, uuid4().hex * 2, userId="anon")
    await make.token(org, uuid4().hex * 2, userId="carl")
    pro, guests = await audience(api, org, PRO), await audience(api, org, None, "anna")

    async def why(named: str, audience_id: str) -> Any:
        answer = await api.get(f"/profiles/{named}/why-not", key=org.sk, audienceId=audience_id)
        assert answer.status == 200, answer
        explained = await api.post("/audiences/explain", {"userId": named, "audienceId": audience_id}, key=org.sk)
        assert answer.data["tree"] == explained.data["tree"]
        assert answer.data["recipients"] == []
        return answer.data["member"], answer.data["reason"]

    for named in ("anna", "anon", anna["id"]):
        assert await why(named, pro) == await why(named, guests) == (True, None)
    assert await why("bert", pro) == (True, "unreachable")
    assert await why("carl", pro) == await why("carl", guests) == (False, "not_a_member")


async def test_before_the_plan_nobody_is_a_recipient(api: Api, org: Org, make: Make) -> None:
    assert (await api.put("/push/providers/apns", APNS, key=org.sk)).status == 200
    await make.profile(org, "anna", traits={"plan": "pro"})
    await make.token(org, uuid4().hex * 2, userId="anna")
    said = {"audienceId": await audience(api, org, PRO), "title": "T", "body": "B"}
    later = {**said, "scheduledFor": "2027-01-01T00:00:00Z"}
    send = (await api.post("/push/send", later, key=org.sk)).data["id"]

    async def why() -> tuple[Any, Any]:
        answer = await api.get("/profiles/anna/why-not", key=org.sk, sendId=send)
        return answer.data["member"], answer.data["reason"]

    assert await why() == (True, "not_planned")
    assert (await api.delete(f"/push/sends/{send}", key=org.sk)).status == 200
    assert await why() == (True, "cancelled")


@pytest.mark.rule("B011", "C03")
async def test_who_may_ask_why_and_what(api: Api, org: Org, make: Make) -> None:
    """Exactly one question, of one's own project; both forms of the URL."""
    other = await make.org()
    for one in (org, other):
        assert (await api.put("/push/providers/apns", APNS, key=one.sk)).status == 200
        await make.profile(one, "anna", traits={"plan": "pro"})
    said = {"userIds": ["anna"], "title": "T", "body": "B"}
    ours, theirs = [(await api.post("/push/send", said, key=one.sk)).data["id"] for one in (org, other)]
    pro, foreign = await audience(api, org, PRO), await audience(api, other, PRO)
    path = "/profiles/anna/why-not"
    assert list((await api.get(path, key=org.sk)).fields) == ["sendId"]
    assert list((await api.get(path, key=org.sk, sendId=ours, audienceId=pro)).fields) == ["sendId"]
    assert list((await api.get(path, key=org.sk, audienceId="x")).fields) == ["audienceId"]
    for query in ({"sendId": theirs}, {"sendId": str(uuid4())}, {"sendId": "x"}):
        assert (await api.get(path, key=org.sk, **query)).status == 404
    for query in ({"audienceId": foreign}, {"audienceId": str(uuid4())}):
        assert (await api.get(path, key=org.sk, **query)).status == 404
    assert (await api.get("/profiles/nobody/why-not", key=org.sk, sendId=ours)).status == 404
    assert (await api.get(path, key=org.pk, sendId=ours)).code == "scope_required"
    assert (await api.get(path, key=org.sk, org=org.id, sendId=ours)).status == 200
    assert (await api.get(path, key=org.sk, org=other.id, sendId=ours)).status == 404
    await api.delete(f"/audiences/{pro}", key=org.sk)
    assert (await api.get(path, key=org.sk, audienceId=pro)).status == 404
