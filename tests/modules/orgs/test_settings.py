"""What an org has chosen, the AI key that it has brought, and what it has used."""

from uuid import uuid4

import pytest
from tests.api import Api
from tests.make import Make, Org

from sendora.kernel.life import Kernel
from sendora.kernel.pg import Database
from sendora.kernel.vault import SealBroken
from sendora.modules import orgs

CLASSIFIER = "ai_lifecycle_classifier_enabled"
KEY = "ollama-3f9c0d8be1"


@pytest.mark.rule("B002", "B064", "C68")
async def test_the_classifier_is_opt_in(api: Api, org: Org, make: Make) -> None:
    """B064: off by default, one org's switch is not another's, and both forms of the path answer alike."""
    other = await make.org()
    assert (await api.get("/settings", key=org.sk)).data == {CLASSIFIER: False}
    changed = await api.patch("/settings", {CLASSIFIER: True}, key=org.sk, org=org.id)
    assert (changed.status, changed.data) == (200, {CLASSIFIER: True})
    assert (await api.patch("/settings", {}, key=org.sk)).data == {CLASSIFIER: True}
    assert (await api.get("/settings", key=org.sk, org=org.id)).data == {CLASSIFIER: True}
    assert (await api.get("/settings", key=other.sk)).data == {CLASSIFIER: False}
    [entry] = (await api.get("/audit-log", key=org.sk)).data
    assert (entry["action"], entry["resource"]) == ("settings.changed", "settings:org")
    assert entry["details"] == {CLASSIFIER: True}
    assert (await api.patch("/settings", {CLASSIFIER: False}, key=org.sk)).data == {CLASSIFIER: False}


@pytest.mark.rule("B024", "B026", "C12", "C19", "C21")
async def test_who_may_change_what(api: Api, org: Org, make: Make) -> None:
    """C19, C21: a scope of the module for each verb, and ADMIN beside it; another org's does not exist (C03)."""
    reader = await make.key(org, scopes=("settings:read",), role="VIEWER")
    assert (await api.get("/settings", key=reader)).status == 200
    assert (await api.get("/usage", key=reader)).status == 200
    for method, path, body in (("PATCH", "/settings", {CLASSIFIER: True}), ("PUT", "/settings/ai", {})):
        assert (await api.request(method, path, body, key=reader)).code == "scope_required"
        editor = await make.key(org, role="EDITOR")
        assert (await api.request(method, path, body, key=editor)).code == "FORBIDDEN"
        assert (await api.request(method, path, body, key=org.pk)).code == "scope_required"
        assert (await api.request(method, path, body, key=org.sk, org=uuid4())).code == "NOT_FOUND"
    assert (await api.get("/settings/ai", key=reader)).code == "FORBIDDEN"
    assert (await api.get("/settings", key=org.pk)).code == "scope_required"


@pytest.mark.rule("B018", "B024")
@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("PATCH", "/settings", {CLASSIFIER: None}, CLASSIFIER),
        ("PATCH", "/settings", {CLASSIFIER: "yes"}, CLASSIFIER),
        ("PATCH", "/settings", {"aiLifecycleClassifierEnabled": True}, "aiLifecycleClassifierEnabled"),
        ("PATCH", "/settings", [], "body"),
        ("PUT", "/settings/ai", {"ollamaApiKey": ""}, "ollamaApiKey"),
        ("PUT", "/settings/ai", {"ollamaApiKey": "x" * 513}, "ollamaApiKey"),
        ("PUT", "/settings/ai", {"ollamaApiKey": "a\nb"}, "ollamaApiKey"),
        ("PUT", "/settings/ai", {"ollamaApiKey": "a\n"}, "ollamaApiKey"),
        ("PUT", "/settings/ai", {"ollamaApiKey": 7}, "ollamaApiKey"),
        ("PUT", "/settings/ai", {"openaiApiKey": "x"}, "openaiApiKey"),
    ],
)
async def test_bodies_that_are_not_valid(api: Api, org: Org, method: str, path: str, body: object, field: str) -> None:
    answer = await api.request(method, path, body, key=org.sk)
    assert list(answer.fields) == [field], answer


@pytest.mark.rule("B022", "B181", "B277", "C51")
async def test_an_own_ai_key_is_sealed_and_never_shown(api: Api, make: Make, kernel: Kernel, db: Database) -> None:
    """B022, B181: encrypted at rest under the org's own key and bound to its place, on any plan; C51: over the API."""
    free, other = await make.org("free"), await make.org("free")
    nothing = {"byokConfigured": False, "tokensUsedToday": 0, "dailyCap": 0}
    assert (await api.get("/settings/ai", key=free.sk)).data == nothing
    stored = await api.put("/settings/ai", {"ollamaApiKey": KEY}, key=free.sk)
    assert (stored.status, stored.data) == (200, {"byokConfigured": True, "tokensUsedToday": 0, "dailyCap": None})
    assert (await api.put("/settings/ai", {}, key=free.sk)).data["byokConfigured"] is True
    assert (await api.get("/settings/ai", key=other.sk)).data == nothing
    for path in ("/settings/ai", "/settings", "/audit-log"):
        assert KEY not in (await api.get(path, key=free.sk)).body.decode()
    assert await orgs.ai_key(kernel, free.id) == KEY
    sealed = await db.fetchval("SELECT ai_key FROM org_settings WHERE org_id = $1", free.id)
    assert KEY.encode() not in sealed
    await db.execute("INSERT INTO org_settings (org_id, ai_key) VALUES ($1, $2)", other.id, sealed)
    with pytest.raises(SealBroken):
        await orgs.ai_key(kernel, other.id)
    assert (await api.put("/settings/ai", {"ollamaApiKey": None}, key=free.sk)).data == nothing
    assert await orgs.ai_key(kernel, free.id) is None
    actions = [line["action"] for line in (await api.get("/audit-log", key=free.sk)).data]
    assert actions == ["ai_key.removed", "ai_key.stored"]


@pytest.mark.rule("B180")
async def test_tokens_of_the_shared_account(api: Api, make: Make, kernel: Kernel) -> None:
    """B180: counted by org and day; the cap is that of the plan."""
    for plan, cap in (("starter", 0), ("growth", 100_000), ("business", 100_000)):
        org = await make.org(plan)  # type: ignore[arg-type]
        assert await orgs.count_ai_tokens(kernel, kernel.db, org.id, 700) == 700
        assert await orgs.count_ai_tokens(kernel, kernel.db, org.id, 50) == 750
        await kernel.db.execute("INSERT INTO ai_usage_days VALUES ($1, '2026-01-01', 9)", org.id)
        shown = (await api.get("/settings/ai", key=org.sk)).data
        assert shown == {"byokConfigured": False, "tokensUsedToday": 750, "dailyCap": cap}
