"""Templates, A/B tests and policies over HTTP."""

import asyncio
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from tests.api import Answer, Api
from tests.make import Make, Org
from tests.modules.push.conftest import APNS

from sendora import _core
from sendora.modules.push import lint
from sendora.modules.push.model.content import Variant

TEMPLATE: dict[str, Any] = {
    "name": "order-shipped",
    "title": "Order shipped",
    "body": "Tracking #{{event.tracking}}",
    "data": {"url": "/orders"},
    "actions": [{"id": "track", "title": "Track", "url": "https://app.com/x"}, {"id": "share", "title": "Share"}],
    "localizedBody": {"en": "Tracking", "fr": "Suivi"},
    "criticalAlert": None,
}

VARIANTS = [{"key": "A", "title": "20% off", "weight": 50}, {"key": "B", "body": "Ends midnight", "weight": 50}]


@pytest.mark.rule("B128", "B103")
@pytest.mark.parametrize("explicit", [False, True])
async def test_a_templates_life(api: Api, org: Org, explicit: bool) -> None:
    """B128: all parts come back, in both URL forms; PATCH changes what it names, null empties; DELETE is the end."""
    form: dict[str, Any] = {"key": org.sk, "org": org.id if explicit else None}
    said = {**TEMPLATE, "localizedTitle": {"fr": "Envoi"}, "criticalAlert": {"soundName": "siren", "volume": 0.5}}
    said["actions"] = [{"url": None, "icon": None, **action} for action in TEMPLATE["actions"]]
    made = await api.post("/push/templates", said, **form)
    assert made.status == 201, made
    path = f"/push/templates/{made.data['id']}"
    found = (await api.get(path, **form)).data
    assert found == {**said, **{field: made.data[field] for field in ("id", "createdAt", "updatedAt")}}
    changed = (await api.patch(path, {"title": "New", "actions": None}, **form)).data
    assert changed["updatedAt"] > found["updatedAt"]
    known = {**found, "updatedAt": changed["updatedAt"]}
    assert changed == {**known, "title": "New", "actions": [], "warnings": []}
    emptied: dict[str, Any] = {"data": None, "localizedBody": None, "localizedTitle": None, "criticalAlert": None}
    changed = (await api.patch(path, emptied, **form)).data
    empty = {"data": {}, "localizedBody": {}, "localizedTitle": {}, "criticalAlert": None, "actions": []}
    assert {field: changed[field] for field in empty} == empty
    assert (changed["title"], changed["body"], changed["name"]) == ("New", TEMPLATE["body"], TEMPLATE["name"])
    for field in ("name", "title", "body"):
        assert field in (await api.patch(path, {field: None}, **form)).fields
    listed = await api.get("/push/templates", **form)
    assert [row["id"] for row in listed.data] == [made.data["id"]] and listed.pagination["total"] == 1
    gone = await api.delete(path, **form)
    assert (gone.status, gone.data) == (200, {"id": made.data["id"], "deleted": True})
    assert {(await api.get(path, **form)).status, (await api.delete(path, **form)).status} == {404}


@pytest.mark.rule("C31", "B123", "B122")
async def test_placeholders_that_lead_nowhere_are_told(api: Api, org: Org) -> None:
    """C31: `user.*` is a closed list, so `user.firstName` renders empty, and whoever saves it hears so; it is saved all
    the same. B122: in every text that is rendered, of variants too."""
    known = "{{user.userId}} {{ trait.plan.name }} {{event.orderId}}"
    said = {
        **TEMPLATE,
        "title": f"Hi {{{{user.firstName}}}} {known}",
        "localizedBody": {"fr": "{{firstName}} {{user.firstName}} {{firstName}}"},
        "data": {"url": "/{{event.id}}", "deep": [{"x": "{{trait}}"}], "n": 1},
        "actions": [{"id": "go", "title": "Go {{#if x}}", "url": "https://x.example/{{user.plan}}"}],
    }
    wrong = [
        ("title", "{{user.firstName}}"),
        ("localizedBody.fr", "{{firstName}}"),
        ("localizedBody.fr", "{{user.firstName}}"),
        ("data.deep.0.x", "{{trait}}"),
        ("actions.0.title", "{{"),
        ("actions.0.url", "{{user.plan}}"),
    ]

    def told(answer: Answer) -> list[tuple[str, str]]:
        assert answer.status in (200, 201), answer
        assert all(warning["message"] for warning in answer.data["warnings"])
        return [(warning["field"], warning["placeholder"]) for warning in answer.data["warnings"]]

    made = await api.post("/push/templates", said, key=org.sk)
    assert told(made) == wrong
    path = f"/push/templates/{made.data['id']}"
    assert (await api.get(path, key=org.sk)).data["title"] == said["title"]
    assert told(await api.patch(path, {"name": "other"}, key=org.sk)) == wrong
    assert told(await api.patch(path, {"title": known}, key=org.sk)) == wrong[1:]
    many = await api.post("/push/templates", {**TEMPLATE, "data": {f"k{n}": "{{x}}" for n in range(60)}}, key=org.sk)
    assert len(told(many)) == 50

    variants = [{"key": "A", "title": "{{user.firstName}}", "weight": 50}, {"key": "B", "body": known, "weight": 50}]
    test = await api.post("/push/ab-tests", {"name": "x", "variants": variants}, key=org.sk)
    assert told(test) == [("variants.0.title", "{{user.firstName}}")]
    right = [{**variants[1], "weight": 100}]
    assert told(await api.patch(f"/push/ab-tests/{test.data['id']}", {"variants": right}, key=org.sk)) == []


@pytest.mark.rule("C31", "B123")
@pytest.mark.parametrize("field", [*lint.USER_FIELDS, "firstName", "plan", "id"])
def test_a_warning_means_that_nothing_is_rendered(field: str) -> None:
    """C31: who is warned about a field of `user` gets nothing for it, whatever is known; who is not gets it."""
    template = _core.Template(f"{{{{user.{field}}}}}")
    rendered = template.render(msgspec.json.encode({"user": {field: "known"}}))
    told = lint.of_variants([Variant(key="A", title=f"{{{{user.{field}}}}}", weight=100)])
    assert rendered == ("" if told else "known")
    assert bool(told) is (field not in lint.USER_FIELDS)


async def test_patches_of_different_fields_both_stay(api: Api, org: Org) -> None:
    """Two editors at once: the row is locked while it is read and written."""
    made = await api.post("/push/templates", TEMPLATE, key=org.sk)
    path = f"/push/templates/{made.data['id']}"
    await asyncio.gather(
        *(api.patch(path, patch, key=org.sk) for patch in ({"title": "T2"}, {"body": "B2"}, {"name": "N2"}) * 3)
    )
    found = (await api.get(path, key=org.sk)).data
    assert (found["title"], found["body"], found["name"]) == ("T2", "B2", "N2")


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"name": ""}, "name"),
        ({"title": None}, "title"),
        ({"data": {"google.x": 1}}, "data.google.x"),
        ({"actions": [{"id": "body", "title": "x"}]}, "actions.0.id"),
        ({"localizedBody": {"": "x"}}, "localizedBody."),
        ({"extra": 1}, "extra"),
        ({"actions": [{"id": str(n), "title": "x"} for n in range(5)]}, "actions"),
        ({"criticalAlert": {"soundName": "x", "volume": 2}}, "criticalAlert.volume"),
        ({"data": {"long": "x" * 5_000}}, "body"),
    ],
)
async def test_what_is_no_template(api: Api, org: Org, said: dict[str, Any], field: str) -> None:
    """Told by field."""
    refused = await api.post("/push/templates", {**TEMPLATE, **said}, key=org.sk)
    assert field in refused.fields, refused


@pytest.mark.rule("B039", "B043", "B009", "C16")
@pytest.mark.parametrize("path", ["/push/templates", "/push/ab-tests"])
async def test_templates_and_tests_are_starters(api: Api, make: Make, path: str) -> None:
    """B039, B043, C16: 402 on the free plan, 403 for a public key, nothing of another org."""
    free, starter, other = await make.org("free"), await make.org("starter"), await make.org("starter")
    refused = await api.get(path, key=free.sk)
    assert (refused.status, refused.details["requiredPlan"]) == (402, "starter")
    assert (await api.get(path, key=starter.pk)).code == "scope_required"
    body = TEMPLATE if path == "/push/templates" else {"name": "x", "variants": VARIANTS}
    assert (await api.post(path, body, key=free.sk)).code == "tier_required"
    made = await api.post(path, body, key=starter.sk)
    assert made.status == 201, made
    item = f"{path}/{made.data['id']}"
    assert {
        (await api.get(item, key=other.sk)).status,
        (await api.patch(item, {"name": "mine"}, key=other.sk)).status,
        (await api.delete(item, key=other.sk)).status,
        (await api.get(f"{path}/nothing", key=starter.sk)).status,
    } == {404}
    assert (await api.get(path, key=other.sk)).data == []


@pytest.mark.rule("B116", "B121", "C44", "C45")
async def test_a_tests_life(api: Api, org: Org) -> None:
    """B121: the winner is declared; C44: once it has been sent its variants are fixed."""
    made = await api.post("/push/ab-tests", {"name": "x", "status": "active", "variants": VARIANTS}, key=org.sk)
    assert (made.status, made.data["status"]) == (201, "active"), made
    path = f"/push/ab-tests/{made.data['id']}"
    wrong = await api.patch(path, {"winnerKey": "C"}, key=org.sk)
    assert "winnerKey" in wrong.fields
    moved = [{"key": "A", "weight": 90}, {"key": "B", "weight": 10}]
    assert (await api.patch(path, {"variants": moved}, key=org.sk)).status == 200
    await api.put("/push/providers/apns", APNS, key=org.sk)
    sent = await api.post("/push/send", {"userIds": ["u"], "title": "T", "abTestId": made.data["id"]}, key=org.sk)
    assert sent.status == 200
    fixed = await api.patch(path, {"variants": VARIANTS}, key=org.sk)
    assert (fixed.status, fixed.details["reason"]) == (409, "already_dispatched")
    done = await api.patch(path, {"status": "completed", "winnerKey": "A", "name": "y"}, key=org.sk)
    assert (done.data["status"], done.data["winnerKey"], done.data["name"]) == ("completed", "A", "y")
    assert [row["id"] for row in (await api.get("/push/ab-tests", key=org.sk, status="completed")).data] == [
        made.data["id"]
    ]
    assert (await api.get("/push/ab-tests", key=org.sk, status="paused")).data == []
    stats = (await api.get(f"{path}/stats", key=org.sk)).data
    nothing = {"assigned": 0, "sent": 0, "delivered": 0, "opened": 0, "clicked": 0}
    assert [{field: one[field] for field in ("key", *nothing)} for one in stats["variants"]] == [
        {"key": "A", **nothing},
        {"key": "B", **nothing},
    ]
    assert stats["winnerKey"] == "A"


@pytest.mark.rule("B116", "C44")
@pytest.mark.parametrize(
    ("variants", "field"),
    [
        ([{"key": "A", "weight": 99}], "variants"),
        ([{"key": "A", "weight": 50}, {"key": "A", "weight": 50}], "variants.1.key"),
        ([{"key": "A", "weight": 100, "title": "T", "holdout": True}], "variants.0.holdout"),
        ([{"key": "A", "weight": 101}], "variants.0.weight"),
        ([{"key": "A", "weight": 100.5}], "variants.0.weight"),
        ([], "variants"),
    ],
)
async def test_what_is_no_test(api: Api, org: Org, variants: list[Any], field: str) -> None:
    """B116: weights sum to exactly 100, keys are unique; C44: a holdout says nothing."""
    refused = await api.post("/push/ab-tests", {"name": "x", "variants": variants}, key=org.sk)
    assert field in refused.fields, refused


@pytest.mark.rule("B108", "B113", "C21")
async def test_policies(api: Api, org: Org, make: Make) -> None:
    """B113: read by anybody with the scope, changed by an ADMIN; what is absent stays, null switches off."""
    empty = await api.get("/push/settings", key=org.sk)
    assert empty.data == {
        "quietHoursStartLocal": None,
        "quietHoursEndLocal": None,
        "deferInQuietHours": True,
        "freqCapPerUserPerDay": None,
        "freqCapPerUserPerHour": None,
        "orgDefaultTimezone": None,
        "criticalAlertsBypassPolicies": True,
    }
    said = {"quietHoursStartLocal": 22, "quietHoursEndLocal": 7, "orgDefaultTimezone": "Europe/Vienna"}
    assert (await api.patch("/push/settings", said, key=org.sk)).data == {**empty.data, **said}
    caps = {"freqCapPerUserPerDay": 0, "quietHoursEndLocal": None}
    assert (await api.patch("/push/settings", caps, key=org.sk)).data == {**empty.data, **said, **caps}
    assert (await api.get("/push/settings", key=org.sk)).data == {**empty.data, **said, **caps}
    editor = await make.key(org, scopes=("push:read", "push:write"), role="EDITOR")
    refused = await api.patch("/push/settings", said, key=editor)
    assert (refused.status, refused.code) == (403, "FORBIDDEN")
    for wrong, field in (
        ({"quietHoursStartLocal": 24}, "quietHoursStartLocal"),
        ({"freqCapPerUserPerHour": -1}, "freqCapPerUserPerHour"),
        ({"orgDefaultTimezone": "Vienna"}, "orgDefaultTimezone"),
        ({"deferInQuietHours": None}, "deferInQuietHours"),
        ({"unknown": 1}, "unknown"),
    ):
        assert field in (await api.patch("/push/settings", wrong, key=org.sk)).fields
    assert (await api.get(f"/push/templates/{uuid4()}", key=org.sk)).status == 404
