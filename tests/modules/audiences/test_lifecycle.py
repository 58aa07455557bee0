"""The nightly classifier: who is new, active, at risk or churned, and audiences that ask for it."""

from collections.abc import Sequence

import pytest
from tests.api import Api
from tests.conftest import eventually
from tests.make import Make, Org
from tests.modules.audiences.test_home import homes, indexed, with_index

from sendora.app import bind
from sendora.kernel.ids import OrgId
from sendora.kernel.life import Kernel
from sendora.modules import audiences
from sendora.modules.audiences import bound
from sendora.modules.audiences.jobs import classify


def opted_in(monkeypatch: pytest.MonkeyPatch, *orgs: Org) -> None:
    async def those(kernel: Kernel) -> Sequence[OrgId]:
        return [org.id for org in orgs]

    monkeypatch.setattr(bound._Bound, "opted_in", staticmethod(those))


async def seen(kernel: Kernel, make: Make, org: Org, **days_ago: int) -> None:
    """People who came, and were last seen, so many days ago: time is moved, not waited for."""
    for name, days in days_ago.items():
        await make.profile(org, name)
        await kernel.db.execute(
            "UPDATE profiles SET created_at = now() - make_interval(days => $3),"
            " last_seen_at = now() - make_interval(days => $3) WHERE org_id = $1 AND external_id = $2",
            org.id,
            name,
            days,
        )


async def stages(api: Api, org: Org) -> dict[str, str | None]:
    return {one["externalId"]: one["lifecycleStage"] for one in (await api.get("/profiles", key=org.sk)).data}


@pytest.mark.rule("B063", "B064", "C68")
async def test_stages_by_activity(
    api: Api, kernel: Kernel, org: Org, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where an org has opted in; from what a person did under every name; the index hears of it."""
    other = await make.org()
    for one in (org, other):
        await seen(kernel, make, one, fresh=0, risky=40, gone=100, back=100)
        await make.profile(one, "back", anonymousId="anon")
        await seen(kernel, make, one, old=95, back=93)
    await seen(kernel, make, org, regular=20)
    await kernel.db.execute(
        "UPDATE profiles SET created_at = now() - interval '50 days', last_seen_at = now() - interval '8 days'"
        " WHERE org_id = $1 AND external_id = 'anon'",
        org.id,
    )
    worker = with_index(kernel)
    at_risk = {"all": [{"lifecycle": "at_risk", "op": "eq"}]}
    dormant = {"all": [{"lifecycle": "dormant", "op": "eq"}]}
    awake = {"all": [{"lifecycle": ["new", "active"], "op": "in"}]}
    async with homes(worker):

        async def empty() -> bool:
            return await indexed(worker, org, at_risk) == []

        await eventually(empty)
        opted_in(monkeypatch, org)
        await classify(kernel)
        assert await stages(api, org) == {
            "back": "active",
            "fresh": "new",
            "gone": "churned",
            "old": "churned",
            "regular": "active",
            "risky": "at_risk",
        }
        assert (await api.get("/profiles/risky", key=org.sk)).data["lifecycleStage"] == "at_risk"
        assert set((await stages(api, other)).values()) == {None}

        async def hears() -> bool:
            return (
                await indexed(worker, org, at_risk) == ["risky"]
                and await indexed(worker, org, dormant) == ["risky"]
                and await indexed(worker, org, awake) == ["back", "fresh", "regular"]
            )

        await eventually(hears)
    for rules, size in ((at_risk, 1), (dormant, 1), (awake, 3), ({"not": awake}, 3)):
        preview = await api.post("/audiences/preview", {"rules": rules}, key=org.sk)
        assert preview.data["count"] == size, rules
    explained = await api.post("/audiences/explain", {"rules": at_risk, "userId": "risky"}, key=org.sk)
    assert explained.data["tree"]["all"][0]["observed"] == {"value": "at_risk"}


@pytest.mark.rule("B064")
async def test_the_nightly_job_acts_for_whoever_opted_in(api: Api, kernel: Kernel, make: Make) -> None:
    """By PATCH /settings and nothing else: not for an org that never asked, nor for one that has taken it back."""
    setting = "ai_lifecycle_classifier_enabled"
    asked, silent, left = [await make.org() for _ in range(3)]
    for one in (asked, silent, left):
        await seen(kernel, make, one, gone=100)
    for one in (asked, left):
        assert (await api.patch("/settings", {setting: True}, key=one.sk)).status == 200
    assert (await api.patch("/settings", {setting: False}, key=left.sk)).status == 200
    bind()
    [job] = [job for job in audiences.module.jobs if job.name == "audiences.lifecycle"]
    await job.run(kernel)
    assert await stages(api, asked) == {"gone": "churned"}
    assert await stages(api, silent) == await stages(api, left) == {"gone": None}
    assert (await api.patch("/settings", {setting: True}, key=left.sk)).status == 200
    await job.run(kernel)
    assert await stages(api, left) == {"gone": "churned"}
    assert await stages(api, silent) == {"gone": None}


@pytest.mark.rule("B064")
async def test_a_stage_is_left_again(
    api: Api, kernel: Kernel, org: Org, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next night sees what has happened since; what is written otherwise leaves stages alone."""
    monkeypatch.setattr("sendora.modules.profiles.service.BITE_MAX", 2)
    opted_in(monkeypatch, org)
    await classify(kernel)
    await seen(kernel, make, org, anna=100, bert=100, carl=100, dora=40, emil=100)
    await classify(kernel)
    gone = {"anna": "churned", "bert": "churned", "carl": "churned", "dora": "at_risk", "emil": "churned"}
    assert await stages(api, org) == gone
    await make.profile(org, "anna")
    await seen(kernel, make, org, emil=35)
    assert await stages(api, org) == gone
    await classify(kernel)
    assert await stages(api, org) == {**gone, "anna": "active", "emil": "at_risk"}
