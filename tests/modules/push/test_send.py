"""Asking for a send: the order of refusals, what is stored, cancelling, listing."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from tests.api import Answer, Api
from tests.make import Make, Org
from tests.modules.push.conftest import APNS, subscription

from sendora.kernel.pg import Database
from sendora.modules import orgs

SAID: dict[str, Any] = {"userIds": ["u1"], "title": "T", "body": "B"}


async def configured(api: Api, org: Org) -> Org:
    assert (await api.put("/push/providers/apns", APNS, key=org.sk)).status == 200
    return org


async def rows(db: Database, org: Org) -> int:
    count: int = await db.fetchval("SELECT count(*) FROM sends WHERE org_id = $1", org.id)
    return count


@pytest.mark.rule("B093", "C10", "C96")
async def test_a_send_is_queued(api: Api, org: Org, make: Make, db: Database) -> None:
    """C10: 200 with the row; C96: tokenCount is exact for users, each device and each user once."""
    await configured(api, org)
    for n in range(3):
        await make.token(org, uuid4().hex * 2, userId=f"u{n % 2}")
    off = await make.token(org, uuid4().hex * 2, userId="u1")
    await api.delete(f"/push/tokens/{off['id']}", key=org.pk)
    sent = await api.post("/push/send", {**SAID, "userIds": ["u0", "u1", "u0", "nobody"]}, key=org.sk)
    assert (sent.status, sent.data["status"], sent.data["tokenCount"]) == (200, "queued", 3), sent
    row = await db.fetchrow("SELECT * FROM sends WHERE org_id = $1", org.id)
    assert row is not None
    assert row["target"] == {"userIds": ["u0", "u1", "nobody"]}
    assert (row["class"], row["delivery"], row["channel"]) == ("now", "at_least_once", "push")
    assert row["expires_at"] - row["created_at"] == timedelta(hours=1)
    shown = await api.get(f"/push/sends/{sent.data['id']}", key=org.sk)
    assert shown.data["counts"]["targeted"] == 0 and shown.data["title"] == "T"
    assert [one["id"] for one in (await api.get("/push/sends", key=org.sk, status="queued")).data] == [sent.data["id"]]
    assert (await api.get("/push/sends", key=org.sk, status="delivered")).data == []


@pytest.mark.rule("B002", "B014")
async def test_who_may_send(api: Api, org: Org, make: Make) -> None:
    """Secret keys with push:send; both forms of the path."""
    await configured(api, org)
    refused = await api.post("/push/send", SAID, key=org.pk)
    assert (refused.status, refused.code) == (403, "scope_required")
    narrow = await make.key(org, scopes=("push:read",))
    assert (await api.post("/push/send", SAID, key=narrow)).code == "scope_required"
    assert (await api.post("/push/send", SAID, key=org.sk, org=org.id)).status == 200
    other = await make.org()
    assert (await api.post("/push/send", SAID, key=org.sk, org=other.id)).status == 404


@pytest.mark.rule("B093", "B103", "C40")
@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"userIds": None}, "userIds"),
        ({"audienceId": str(uuid4())}, "userIds"),
        ({"tokens": ["x"]}, "userIds"),
        ({"userIds": []}, "userIds"),
        ({"userIds": ["u"] * 10_001}, "userIds"),
        ({"userIds": [""]}, "userIds.0"),
        ({"title": None}, "title"),
        ({"title": 7}, "title"),
        ({"body": "x" * 3_990}, "body"),
        ({"data": {"blob": "x" * 4_000}}, "body"),
        ({"data": {"from": "me"}}, "data.from"),
        ({"data": {"sendoraSendId": "mine"}}, "data.sendoraSendId"),
        ({"data": []}, "data"),
        ({"actions": [{"id": str(n), "title": "x"} for n in range(5)]}, "actions"),
        ({"actions": [{"id": "a", "title": "x"}, {"id": "a", "title": "y"}]}, "actions.1.id"),
        ({"actions": [{"id": "a"}]}, "actions.0.title"),
        ({"localizedBody": {"not a tag": "x"}}, "localizedBody.not a tag"),
        ({"localizedBody": {"de": "x"}, "localized_body": {"fr": "y"}}, "localized_body"),
        ({"criticalAlert": {"soundName": "x", "volume": 2}}, "criticalAlert.volume"),
        ({"scheduledFor": "tomorrow"}, "scheduledFor"),
        ({"scheduledFor": "2026-01-01T00:00:00"}, "scheduledFor"),
        ({"scheduledFor": "9999-01-01T00:00:00Z"}, "scheduledFor"),
        ({"scheduledFor": "0001-01-01T00:00:00+14:00"}, "scheduledFor"),
        ({"ttlSeconds": -1}, "ttlSeconds"),
        ({"ttlSeconds": 2_419_201}, "ttlSeconds"),
        ({"collapseId": "ü" * 40}, "collapseId"),
        ({"collapseId": "a\r\nb"}, "collapseId"),
        ({"class": "urgent"}, "class"),
        ({"delivery": "exactly_once"}, "delivery"),
        ({"silent": True, "criticalAlert": {"soundName": "x", "volume": 1}}, "silent"),
        ({"schedule": {"at": "2026-12-01T08:00"}}, "schedule.zone"),
        ({"schedule": {"zone": "Europe/Berlin"}}, "schedule.at"),
        ({"projectId": str(uuid4())}, "projectId"),
        ({"userIds": None, "tokens": ["ExponentPushToken[abc]"]}, "tokens.0"),
    ],
)
async def test_what_is_no_send(api: Api, org: Org, db: Database, said: dict[str, Any], field: str) -> None:
    """B093 and the limits: told by field, before anything else is looked at, and nothing is stored."""
    body = {key: value for key, value in {**SAID, **said}.items() if value is not None}
    refused = await api.post("/push/send", body, key=org.sk)
    assert field in refused.fields, refused
    assert await rows(db, org) == 0


@pytest.mark.rule("C87", "B039", "C43")
async def test_the_order_of_refusals(api: Api, make: Make, db: Database) -> None:
    """C87: 400, then the plan's fields, then 404, then 412; the key's tokens are never touched by any of them."""
    limit = orgs.RateLimit(per_second=1, burst=2)
    free = await make.org("free", limit)
    foreign = str(uuid4())

    async def refused(said: dict[str, Any], org: Org) -> Answer:
        return await api.post("/push/send", {"title": "T", **said}, key=org.sk)

    for field in ("audienceId", "templateId", "abTestId"):
        body: dict[str, Any] = {field: foreign} if field == "audienceId" else {"userIds": ["u"], field: foreign}
        answer = await refused(body, free)
        assert (answer.status, answer.code, answer.details["requiredPlan"]) == (402, "tier_required", "starter")
        assert (await refused({**body, "ttlSeconds": -1}, free)).status == 400
    later = {"userIds": ["u"], "scheduledFor": "2027-01-01T00:00:00Z"}
    assert (await refused(later, free)).status == 402
    starter = await make.org("starter", limit)
    missing: list[dict[str, Any]] = [
        {"audienceId": foreign},
        {"userIds": ["u"], "templateId": foreign},
        {"userIds": ["u"], "abTestId": foreign},
    ]
    for body in missing:
        answer = await refused(body, starter)
        assert (answer.status, answer.code) == (404, "NOT_FOUND")
    for _ in range(4):
        answer = await refused({"userIds": ["u"]}, starter)
        assert (answer.status, answer.code) == (412, "PRECONDITION_FAILED"), answer
    assert await rows(db, starter) == 0


@pytest.mark.rule("C43", "B030")
async def test_a_browser_is_enough(api: Api, org: Org) -> None:
    """C43: without APNs and FCM, an active web token lets the send through; a signed-out one does not."""
    assert (await api.post("/push/send", SAID, key=org.sk)).status == 412
    made = await api.post("/push/tokens", {"token": subscription(uuid4().hex), "platform": "web"}, key=org.pk)
    assert (await api.post("/push/send", SAID, key=org.sk)).status == 200
    await api.delete(f"/push/tokens/{made.data['id']}", key=org.pk)
    assert (await api.post("/push/send", SAID, key=org.sk)).status == 412


@pytest.mark.rule("C87")
async def test_the_rate_comes_last(api: Api, make: Make, db: Database) -> None:
    """429 only when everything else was right, and then nothing is stored."""
    org = await make.org(limit=orgs.RateLimit(per_second=1, burst=2))
    wide = await make.key(org)
    assert (await api.put("/push/providers/apns", APNS, key=wide)).status == 200
    answers = await asyncio.gather(*(api.post("/push/send", SAID, key=org.sk) for _ in range(6)))
    statuses = sorted(answer.status for answer in answers)
    assert statuses[0] == 200 and statuses[-1] == 429
    assert await rows(db, org) == statuses.count(200)
    assert (await api.post("/push/send", {**SAID, "title": None}, key=org.sk)).status == 400


@pytest.mark.rule("B096", "B097", "C61")
async def test_a_scheduled_send_can_be_cancelled_once(api: Api, org: Org) -> None:
    """B096, B097; C61: afterwards 409 with a reason."""
    await configured(api, org)
    due = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
    sent = await api.post("/push/send", {**SAID, "scheduledFor": due}, key=org.sk)
    assert sent.data["status"] == "scheduled" and sent.data["scheduledFor"].endswith("Z")
    cancelled = await api.delete(f"/push/sends/{sent.data['id']}", key=org.sk)
    assert (cancelled.status, cancelled.data) == (200, {"id": sent.data["id"], "status": "cancelled"})
    again = await api.delete(f"/push/sends/{sent.data['id']}", key=org.sk)
    assert (again.status, again.code) == (409, "CONFLICT") and again.details["reason"]
    queued = await api.post("/push/send", SAID, key=org.sk)
    late = await api.delete(f"/push/sends/{queued.data['id']}", key=org.sk)
    assert (late.status, late.details["reason"]) == (409, "already_dispatched")


@pytest.mark.rule("C89")
async def test_a_repeated_request_is_one_send(api: Api, org: Org, db: Database) -> None:
    """C89: the same key, the same answer, one row."""
    await configured(api, org)
    headers = {"idempotency-key": uuid4().hex}
    first = await api.post("/push/send", SAID, key=org.sk, headers=headers)
    again = await api.post("/push/send", SAID, key=org.sk, headers=headers)
    assert first.body == again.body and await rows(db, org) == 1


async def test_a_send_is_its_projects(api: Api, org: Org, make: Make) -> None:
    """Another org's, a malformed and an unknown id are the same 404."""
    await configured(api, org)
    sent = await api.post("/push/send", SAID, key=org.sk)
    other = await make.org()
    for path in (f"/push/sends/{sent.data['id']}", f"/push/sends/{sent.data['id']}/reconciliation"):
        assert (await api.get(path, key=other.sk)).status == 404
        assert (await api.get(path, key=org.sk)).status == 200
    for id_ in (str(uuid4()), "x", "0" * 32):
        assert (await api.get(f"/push/sends/{id_}", key=org.sk)).status == 404
        assert (await api.delete(f"/push/sends/{id_}", key=org.sk)).status == 404


@pytest.mark.rule("B101", "B102", "C06", "C93")
async def test_statistics_of_nothing(api: Api, org: Org) -> None:
    """B101, B102: every field is there; C93: without receipts there is no rate of delivery."""
    stats = await api.get("/push/sends/stats", key=org.sk)
    assert stats.data == (await api.get("/push/stats", key=org.sk)).data
    assert stats.data == {
        "total": 0,
        "sent": 0,
        "delivered": 0,
        "failed": 0,
        "scheduled": 0,
        "suppressed": 0,
        "opened": 0,
        "clicked": 0,
        "deliveryRate": None,
        "openRate": 0.0,
        "clickRate": 0.0,
    }
    health = await api.get("/push/sends/delivery-health", key=org.sk)
    assert health.data == {
        "windowDays": 7,
        "topFailureReasons": [],
        "topSuppressionReasons": [],
        "recentFailures": [],
    }
