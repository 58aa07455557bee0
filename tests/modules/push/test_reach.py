"""How many devices an audience has, in its preview."""

import pytest
from tests.api import Api
from tests.make import Make, Org


@pytest.mark.rule("B066", "C69")
async def test_a_preview_counts_devices(api: Api, org: Org, make: Make) -> None:
    """Active ones, by platform, under every name that a person ever had; nobody else's."""
    await make.token(org, platform="ios", userId="anna")
    await make.token(org, platform="ios", userId="anon")
    off = await make.token(org, platform="android", userId="anna")
    await make.token(org, platform="android", userId="bert")
    assert (await api.delete(f"/push/tokens/{off['id']}", key=org.sk)).status == 200
    await make.profile(org, "anna", traits={"plan": "pro"}, anonymousId="anon")
    await make.profile(org, "bert")

    async def addresses(rules: object) -> object:
        answer = await api.post("/audiences/preview", {"rules": rules}, key=org.sk)
        assert answer.status == 200, answer
        return answer.data["addresses"]

    pro = {"all": [{"trait": "plan", "op": "eq", "value": "pro"}]}
    assert await addresses(pro) == {"ios": 2, "android": 0, "web": 0}
    assert await addresses({"all": []}) == {"ios": 2, "android": 1, "web": 0}
    assert await addresses({"not": {"all": []}}) == {"ios": 0, "android": 0, "web": 0}
