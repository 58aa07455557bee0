"""`schedule` of a send: in a zone, in the recipients' own, and again and again."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from tests.api import Answer, Api
from tests.make import Make, Org
from tests.modules.push.conftest import APNS

from sendora.delivery import series
from sendora.kernel.clock import iso
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Database
from sendora.modules import push

SAID: dict[str, Any] = {"userIds": ["u1"], "title": "T", "body": "B"}
DAILY: dict[str, Any] = {"zone": "Europe/Berlin", "rrule": "FREQ=DAILY"}


async def scheduled(api: Api, org: Org, schedule: dict[str, Any], **said: Any) -> Answer:
    body = {key: value for key, value in {**SAID, "schedule": schedule, **said}.items() if value is not None}
    return await api.post("/push/send", body, key=org.sk)


@pytest.fixture
async def ready(api: Api, org: Org) -> Org:
    assert (await api.put("/push/providers/apns", APNS, key=org.sk)).status == 200
    return org


def local(ahead: timedelta) -> str:
    return (datetime.now(UTC) + ahead).strftime("%Y-%m-%dT%H:%M:%S")


def utc(text: str, hours: float = 0) -> str:
    """The local time as an instant, so many hours behind UTC's."""
    return iso(datetime.fromisoformat(text).replace(tzinfo=UTC) - timedelta(hours=hours))


@pytest.mark.rule("B039")
async def test_a_schedule_needs_starter(api: Api, make: Make) -> None:
    """B039, C87: the plan's fields come after 400 and before 404 and 412; nothing stands there afterwards."""
    free, starter = await make.org("free"), await make.org("starter")
    for more in ({}, {"rrule": "FREQ=DAILY"}, {"cron": "0 9 * * *"}):
        said = {"at": local(timedelta(days=1)), "zone": "recipient", **more}
        refused = await scheduled(api, free, said)
        assert (refused.status, refused.code, refused.details["requiredPlan"]) == (402, "tier_required", "starter")
        assert (await scheduled(api, starter, said)).status == 412
        assert (await scheduled(api, free, {**said, "zone": "Mars"})).status == 400
    for org in (free, starter):
        assert (
            (await api.get("/push/schedules", key=org.sk)).data == (await api.get("/push/sends", key=org.sk)).data == []
        )


@pytest.mark.rule("B096", "B097", "B020")
async def test_in_a_zone(api: Api, ready: Org) -> None:
    """The local time as the zone's clocks show it; cancelled like any scheduled send."""
    at = local(timedelta(days=2))
    sent = await scheduled(api, ready, {"at": at, "zone": "Asia/Kolkata"})
    assert (sent.status, sent.data["status"], sent.data["scheduledFor"]) == (200, "scheduled", utc(at, 5.5)), sent
    assert (sent.data["localAt"], sent.data["scheduleId"], sent.data["tokenCount"]) == (None, None, 0)
    shown = (await api.get(f"/push/sends/{sent.data['id']}", key=ready.sk)).data
    assert (shown["scheduledFor"], shown["localAt"], shown["scheduleId"]) == (utc(at, 5.5), None, None)
    assert (await api.get("/push/schedules", key=ready.sk)).data == []
    assert (await api.delete(f"/push/sends/{sent.data['id']}", key=ready.sk)).data["status"] == "cancelled"
    passed = await scheduled(api, ready, {"at": local(timedelta(days=-2)), "zone": "Asia/Kolkata"})
    assert passed.data["status"] == "queued", "a time that has passed is now"


@pytest.mark.rule("B096", "B097")
async def test_in_the_recipients_own_zone(api: Api, ready: Org) -> None:
    """Due where clocks are furthest ahead; until then it can be cancelled."""
    at = local(timedelta(days=2))
    sent = await scheduled(api, ready, {"at": at[:-3], "zone": "recipient"}, userIds=None, tokens=["a" * 64])
    assert (sent.data["status"], sent.data["scheduledFor"]) == ("scheduled", utc(at[:-3], 14)), sent
    assert sent.data["localAt"] == f"{at[:-3]}:00" and sent.data["scheduleId"] is None
    shown = (await api.get(f"/push/sends/{sent.data['id']}", key=ready.sk)).data
    assert shown["localAt"] == sent.data["localAt"]
    assert (await api.delete(f"/push/sends/{sent.data['id']}", key=ready.sk)).data["status"] == "cancelled"
    begun = await scheduled(api, ready, {"at": local(timedelta(hours=13)), "zone": "recipient"})
    assert begun.data["status"] == "queued", "it is that late in Kiritimati"


@pytest.mark.rule("B096", "B097", "B020")
async def test_a_series(api: Api, ready: Org) -> None:
    """The answer is the next occurrence; the series is listed, shown and ended, and the occurrence with it."""
    at = local(timedelta(days=3))
    sent = await scheduled(api, ready, {**DAILY, "at": at, "zone": "UTC", "rrule": "RRULE:FREQ=DAILY;COUNT=7"})
    assert (sent.status, sent.data["status"], sent.data["scheduledFor"]) == (200, "scheduled", utc(at)), sent
    id_ = sent.data["scheduleId"]
    [listed] = (await api.get("/push/schedules", key=ready.sk)).data
    shown = (await api.get(f"/push/schedules/{id_}", key=ready.sk)).data
    assert shown == listed
    assert {key: shown[key] for key in ("id", "status", "at", "zone", "cron", "skipped", "title", "endedAt")} == {
        "id": id_,
        "status": "active",
        "at": at,
        "zone": "UTC",
        "cron": None,
        "skipped": 0,
        "title": "T",
        "endedAt": None,
    }
    assert (shown["nextAt"], shown["nextSendId"]) == (utc(at), sent.data["id"])
    assert shown["upcoming"] == [utc(at, -24 * n) for n in range(5)]
    [send] = (await api.get("/push/sends", key=ready.sk, status="scheduled")).data
    assert (send["id"], send["scheduleId"]) == (sent.data["id"], id_)

    ended = await api.delete(f"/push/schedules/{id_}", key=ready.sk)
    assert (ended.status, ended.data) == (200, {"id": id_, "status": "cancelled"})
    assert (await api.get(f"/push/sends/{send['id']}", key=ready.sk)).data["status"] == "cancelled"
    over = (await api.get(f"/push/schedules/{id_}", key=ready.sk)).data
    assert (over["status"], over["nextAt"], over["nextSendId"], over["upcoming"]) == ("cancelled", None, None, [])
    again = await api.delete(f"/push/schedules/{id_}", key=ready.sk)
    assert (again.status, again.code, again.details["reason"]) == (409, "CONFLICT", "already_cancelled")
    assert [one["id"] for one in (await api.get("/push/schedules", key=ready.sk, status="cancelled")).data] == [id_]
    assert (await api.get("/push/schedules", key=ready.sk, status="active")).data == []
    assert "status" in (await api.get("/push/schedules", key=ready.sk, status="gone")).fields


@pytest.mark.rule("B097")
async def test_one_occurrence_is_cancelled(api: Api, ready: Org) -> None:
    sent = await scheduled(api, ready, {"zone": "recipient", "cron": "30 9 * * MON"})
    assert sent.data["localAt"].endswith("T09:30:00")
    assert (await api.delete(f"/push/sends/{sent.data['id']}", key=ready.sk)).data["status"] == "cancelled"
    shown = (await api.get(f"/push/schedules/{sent.data['scheduleId']}", key=ready.sk)).data
    assert (shown["status"], shown["cron"], shown["rrule"]) == ("active", "30 9 * * MON", None)
    days = [datetime.fromisoformat(at) for at in shown["upcoming"]]
    assert {later - sooner for sooner, later in itertools.pairwise(days)} == {timedelta(weeks=1)}


@pytest.mark.parametrize(
    ("schedule", "field"),
    [
        ({"at": "tomorrow", "zone": "UTC"}, "schedule.at"),
        ({"at": "2026-12-01T09:00Z", "zone": "UTC"}, "schedule.at"),
        ({"at": "2026-13-01T09:00", "zone": "UTC"}, "schedule.at"),
        ({"at": "2026-12-01", "zone": "UTC"}, "schedule.at"),
        ({"at": "9999-12-31T23:59", "zone": "recipient"}, "schedule.at"),
        ({"at": "0001-01-01T00:00", "zone": "recipient"}, "schedule.at"),
        ({"at": 7, "zone": "UTC"}, "schedule.at"),
        ({"zone": "UTC"}, "schedule.at"),
        ({"zone": "UTC", "rrule": "FREQ=DAILY"}, "schedule.at"),
        ({"at": "2026-12-01T09:00"}, "schedule.zone"),
        ({"at": "2026-12-01T09:00", "zone": "CET+1"}, "schedule.zone"),
        ({"at": "2026-12-01T09:00", "zone": "../UTC"}, "schedule.zone"),
        ({**DAILY, "at": "soon", "cron": "0 9 * * *"}, "schedule.cron"),
        ({"zone": "UTC", "cron": "0 9 * *"}, "schedule.cron"),
        ({"zone": "UTC", "cron": "* * * * *"}, "schedule.cron"),
        ({"zone": "UTC", "cron": "0 0 30 2 *"}, "schedule.cron"),
        ({**DAILY, "at": "now", "until": "x"}, "schedule.until"),
        ([], "schedule"),
    ],
)
async def test_what_is_no_schedule(api: Api, ready: Org, db: Database, schedule: Any, field: str) -> None:
    """Told by field, and nothing is stored."""
    refused = await scheduled(api, ready, schedule)
    assert field in refused.fields, refused
    assert await db.fetchval("SELECT count(*) FROM sends WHERE org_id = $1", ready.id) == 0


@pytest.mark.parametrize(
    "rrule",
    [
        "",
        "x",
        "FREQ=MINUTELY",
        "FREQ=DAILY;COUNT=0",
        "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=DAILY\nRDATE:20270101",
    ],
)
async def test_what_is_no_rule(api: Api, ready: Org, rrule: str) -> None:
    refused = await scheduled(api, ready, {"at": local(timedelta(days=1)), "zone": "UTC", "rrule": rrule})
    assert "schedule.rrule" in refused.fields, refused


async def test_what_excludes_a_schedule(api: Api, ready: Org) -> None:
    at = local(timedelta(days=1))
    both = await scheduled(api, ready, {"at": at, "zone": "UTC"}, scheduledFor=utc(at))
    assert "schedule" in both.fields
    tokens = await scheduled(api, ready, {**DAILY, "at": at}, userIds=None, tokens=["a" * 64])
    assert "tokens" in tokens.fields


async def test_schedules_are_bounded(api: Api, ready: Org, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are over do not count, nor do sends that come once."""
    monkeypatch.setattr(series, "ACTIVE_MAX", 1)
    said = {**DAILY, "at": local(timedelta(days=1))}
    first = await scheduled(api, ready, said)
    assert "schedule" in (await scheduled(api, ready, said)).fields
    assert (await scheduled(api, ready, {"at": said["at"], "zone": "UTC"})).status == 200
    await api.delete(f"/push/schedules/{first.data['scheduleId']}", key=ready.sk)
    assert (await scheduled(api, ready, said)).status == 200


async def test_a_schedule_is_its_projects(api: Api, ready: Org, make: Make) -> None:
    """Another org's, a malformed and an unknown id are the same 404; both forms of the path; the scopes."""
    sent = await scheduled(api, ready, {**DAILY, "at": local(timedelta(days=1))})
    path = f"/push/schedules/{sent.data['scheduleId']}"
    other = await make.org()
    for missing in (path, f"/push/schedules/{uuid4()}", "/push/schedules/x"):
        assert (await api.get(missing, key=other.sk)).status == (await api.delete(missing, key=other.sk)).status == 404
    assert (await api.get("/push/schedules", key=other.sk)).data == []
    assert (await api.get(path, key=ready.sk, org=ready.id)).status == 200
    assert (await api.get(path, key=other.sk, org=ready.id)).status == 404
    for key in (ready.pk, await make.key(ready, scopes=("push:read",))):
        assert (await api.delete(path, key=key)).status == 403
    assert (await api.delete(path, key=ready.sk, org=ready.id)).status == 200


@pytest.mark.rule("C44", "B120")
@pytest.mark.parametrize("more", [{}, {"rrule": "FREQ=DAILY"}])
async def test_a_test_that_is_scheduled_keeps_its_weights(api: Api, ready: Org, more: dict[str, str]) -> None:
    """C44: from the call on, although nobody has been sent to; every occurrence has the same variants."""
    halves = [{"key": "A", "weight": 50, "title": "A"}, {"key": "B", "weight": 50, "title": "B"}]
    test = await api.post("/push/ab-tests", {"name": "x", "status": "active", "variants": halves}, key=ready.sk)
    path = f"/push/ab-tests/{test.data['id']}"
    said = {"at": local(timedelta(days=1)), "zone": "recipient", **more}
    sent = await scheduled(api, ready, said, abTestId=test.data["id"])
    assert sent.status == 200, sent
    moved = [{**one, "weight": weight} for one, weight in zip(halves, (90, 10), strict=True)]
    refused = await api.patch(path, {"variants": moved}, key=ready.sk)
    assert (refused.status, refused.details["reason"]) == (409, "already_dispatched")
    assert [one["abTestId"] for one in (await api.get("/push/schedules", key=ready.sk)).data] == (
        [test.data["id"]] if more else []
    )


@pytest.mark.rule("B039")
async def test_exclusions_stand_in_every_occurrence(api: Api, ready: Org, kernel: Kernel, db: Database) -> None:
    """They are the send's, as of its plan; and so is how late it may be, from when it is due."""
    rules: dict[str, Any] = {"all": [{"trait": "plan", "op": "eq", "value": "pro"}]}
    pro = (await api.post("/audiences", {"name": "x", "rules": rules}, key=ready.sk)).data["id"]
    said = {**DAILY, "at": local(timedelta(days=1))}
    sent = await scheduled(api, ready, said, excludeAudienceIds=[pro], maxLatenessSeconds=600)
    assert (sent.status, sent.data["tokenCount"]) == (200, None), sent
    [shown] = (await api.get("/push/schedules", key=ready.sk)).data
    assert shown["excludeAudienceIds"] == [pro]
    # A day later.
    await db.execute(
        "UPDATE schedules SET next_at = next_at - interval '25 h', next_local = next_local - interval '25 h',"
        " starts_at = starts_at - interval '25 h' WHERE org_id = $1",
        ready.id,
    )
    await series.advance(kernel)
    made = await db.fetch("SELECT * FROM sends WHERE org_id = $1", ready.id)
    assert len(made) == 2
    for row in made:
        assert row["target"] == {"userIds": ["u1"], "excludeAudienceIds": [pro]}
        assert row["late_at"] - row["scheduled_for"] == timedelta(seconds=600)
    missing = await scheduled(api, ready, said, excludeAudienceIds=[str(uuid4())])
    assert missing.status == 404


@pytest.mark.rule("B068", "B069")
async def test_a_person_in_schedules(api: Api, ready: Org, make: Make, kernel: Kernel, db: Database) -> None:
    """B068: an export tells what is still to come for somebody; B069: a series would name a person for ever, and one
    for this person alone is over."""
    await make.profile(ready, "ada")
    daily = {**DAILY, "at": local(timedelta(days=1))}
    both = (await scheduled(api, ready, daily, userIds=["ada", "bob"])).data
    alone = (await scheduled(api, ready, daily, userIds=["ada"], title="Dear Ada")).data
    once = (await scheduled(api, ready, {"at": daily["at"], "zone": "UTC"}, userIds=["ada"])).data
    assert push.module.erase is not None and push.module.export is not None

    async def exported() -> set[tuple[str | None, str | None]]:
        rows = [row["awaited"] async for row in push.module.export(kernel, ready.id, ready.project, "ada")]  # type: ignore[misc]
        return {(row["scheduleId"], row["sendId"]) for row in rows}

    assert await exported() == {
        (both["scheduleId"], None),
        (both["scheduleId"], both["id"]),
        (alone["scheduleId"], None),
        (alone["scheduleId"], alone["id"]),
        (None, once["id"]),
    }
    await push.module.erase(kernel, ready.id, ready.project, "ada")
    assert await exported() == set()
    for table in ("sends", "schedules"):
        rows = await db.fetch(f"SELECT t::text AS row FROM {table} t WHERE org_id = $1", ready.id)
        assert rows and not any("ada" in row["row"].lower() for row in rows), table
    shown = {one["id"]: one for one in (await api.get("/push/schedules", key=ready.sk)).data}
    assert (shown[both["scheduleId"]]["status"], shown[both["scheduleId"]]["title"]) == ("active", "T")
    over = shown[alone["scheduleId"]]
    assert (over["status"], over["title"], over["nextAt"], over["endedAt"] is None) == ("ended", None, None, False)
