"""Control of sends and their recipients over HTTP: who may, what is refused and answered. Nobody dispatches here."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.api import Api
from tests.make import Make, Org
from tests.modules.push.conftest import APNS

from sendora.kernel.pg import Database

STEPS = ("pause", "resume", "stop", "retry-failed")


async def asked(api: Api, org: Org, **said: Any) -> str:
    assert (await api.put("/push/providers/apns", APNS, key=org.sk)).status == 200
    answer = await api.post("/push/send", {"userIds": ["ada"], "title": "T", **said}, key=org.sk)
    assert answer.status == 200, answer
    id_: str = answer.data["id"]
    return id_


@pytest.mark.rule("C96", "C61")
async def test_steps_and_refusals(api: Api, org: Org) -> None:
    """C96: `queued` and `sending` can be paused, `paused` goes on; the rest is a conflict that says what it met."""
    send = await asked(api, org)
    paused = await api.post(f"/push/sends/{send}/pause", key=org.sk)
    assert (paused.status, paused.data["id"], paused.data["status"]) == (200, send, "paused")
    assert set(paused.data["counts"]) == {
        "targeted", "accepted", "rejected", "suppressed", "expired", "unknown", "open", "repeated", "delivered",
        "unreachable",
    }  # fmt: skip
    assert [row["id"] for row in (await api.get("/push/sends", key=org.sk, status="paused")).data] == [send]
    again = await api.post(f"/push/sends/{send}/pause", key=org.sk)
    assert (again.status, again.code, again.details["reason"]) == (409, "CONFLICT", "already_paused")
    resumed = await api.post(f"/push/sends/{send}/resume", key=org.sk)
    assert (resumed.status, resumed.data["status"]) == (200, "sending")
    stopped = await api.post(f"/push/sends/{send}/stop", key=org.sk)
    assert (stopped.status, stopped.data["status"]) == (200, "sending")
    for step, reason in (("pause", "stopping"), ("resume", "stopping"), ("retry-failed", "stopping")):
        refused = await api.post(f"/push/sends/{send}/{step}", key=org.sk)
        assert (refused.status, refused.details["reason"]) == (409, reason)
    later = await asked(api, org, scheduledFor="2027-01-01T00:00:00Z")
    refused = await api.post(f"/push/sends/{later}/stop", key=org.sk)
    assert (refused.status, refused.details["reason"]) == (409, "not_started")


@pytest.mark.rule("C89")
async def test_a_step_that_is_repeated_under_its_key(api: Api, org: Org) -> None:
    """C89: as it was answered the first time; another request under that key is a conflict."""
    send = await asked(api, org)
    key = {"Idempotency-Key": uuid4().hex}
    first = await api.post(f"/push/sends/{send}/pause", key=org.sk, headers=key)
    again = await api.post(f"/push/sends/{send}/pause", key=org.sk, headers=key)
    assert (first.status, again.status, again.data) == (200, 200, first.data)
    other = await api.post(f"/push/sends/{send}/stop", key=org.sk, headers=key)
    assert (other.status, other.details["reason"]) == (409, "idempotency_mismatch")


@pytest.mark.rule("B026", "B027", "C03")
async def test_who_may_and_whose(api: Api, org: Org, make: Make) -> None:
    """Secret keys with push:send; another org's and another project's send is not found, and stays as it is."""
    send = await asked(api, org)
    other = await make.org()
    reader = await make.key(org, scopes=("push:read",))
    for step in STEPS:
        path = f"/push/sends/{send}/{step}"
        assert (await api.post(path, key=org.pk)).code == "scope_required"
        assert (await api.post(path, key=reader)).code == "scope_required"
        assert (await api.post(path)).status == 401
        assert (await api.post(path, key=other.sk)).status == 404
        assert (await api.post(path, key=org.sk, org=other.id)).status == 404
        for id_ in (str(uuid4()), "x", "0" * 32):
            assert (await api.post(f"/push/sends/{id_}/{step}", key=org.sk)).status == 404
    path = f"/push/sends/{send}/recipients"
    assert (await api.get(path, key=org.pk)).code == "scope_required"
    assert (await api.get(path, key=other.sk)).status == 404
    assert (await api.get(f"/push/sends/{uuid4()}/recipients", key=org.sk)).status == 404
    assert (await api.get(path, key=reader)).data == []
    assert (await api.get(f"/push/sends/{send}", key=org.sk)).data["status"] == "queued"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"reasons": []}, "reasons"),
        ({"reasons": [""]}, "reasons.0"),
        ({"reasons": ["x" * 201]}, "reasons.0"),
        ({"reasons": ["x"] * 101}, "reasons"),
        ({"reasons": "ttl"}, "reasons"),
        ({"reason": ["ttl"]}, "reason"),
        ([], "body"),
        (b"{", "body"),
    ],
)
async def test_what_no_retry_may_say(api: Api, org: Org, body: Any, field: str) -> None:
    send = await asked(api, org)
    assert field in (await api.post(f"/push/sends/{send}/retry-failed", body, key=org.sk)).fields


@pytest.mark.parametrize("body", [None, {}, {"reasons": None}, {"reasons": ["ttl"]}])
async def test_what_a_retry_may_say(api: Api, org: Org, body: Any) -> None:
    """Without a body, every reason that may pass."""
    send = await asked(api, org)
    refused = await api.post(f"/push/sends/{send}/retry-failed", body, key=org.sk)
    assert (refused.status, refused.details["reason"]) == (409, "nothing_to_retry")


@pytest.mark.parametrize(
    "query", [{"state": "lost"}, {"page": 0}, {"pageSize": 101}, {"reason": ""}, {"userId": "x" * 257}, {"variant": ""}]
)
async def test_what_no_list_of_recipients_may_ask(api: Api, org: Org, query: dict[str, Any]) -> None:
    send = await asked(api, org)
    refused = await api.get(f"/push/sends/{send}/recipients", key=org.sk, **query)
    assert set(refused.fields) == set(query), refused


@pytest.mark.parametrize("seconds", [0, -1, 2_419_201, "60", 1.5])
async def test_how_late_nobody_may_ask(api: Api, org: Org, seconds: Any) -> None:
    await api.put("/push/providers/apns", APNS, key=org.sk)
    said = {"userIds": ["ada"], "title": "T", "maxLatenessSeconds": seconds}
    assert "maxLatenessSeconds" in (await api.post("/push/send", said, key=org.sk)).fields


async def test_how_late_counts_from_when_it_is_due(api: Api, org: Org, db: Database) -> None:
    """From the call, or from `scheduledFor`; without it, never."""
    due = datetime(2027, 1, 1, tzinfo=UTC)
    sends = [
        await asked(api, org),
        await asked(api, org, maxLatenessSeconds=90),
        await asked(api, org, maxLatenessSeconds=90, scheduledFor=due.isoformat()),
    ]
    rows = [await db.fetchrow("SELECT late_at, created_at FROM sends WHERE id = $1", UUID(send)) for send in sends]
    never, now, later = [row for row in rows if row is not None]
    assert never["late_at"] is None
    assert now["late_at"] - now["created_at"] == timedelta(seconds=90)
    assert later["late_at"] - due == timedelta(seconds=90)
