"""Transitions: from a device's report to an event, and to the numbers of a fence."""

import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api import Answer, Api
from tests.conftest import eventually
from tests.make import Make, Org
from tests.modules.geofences.test_geofences import fence

from sendora import _core
from sendora.kernel.bus import SYSTEM, Message
from sendora.kernel.clock import from_millis, iso
from sendora.kernel.config import Postgres
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Database, migrate
from sendora.modules.events.consumers import store_events
from sendora.modules.geofences import store
from sendora.modules.geofences.consumers import count_transitions
from sendora.modules.geofences.jobs import forget_days
from sendora.modules.geofences.model import GeofenceIn, first_day


async def report(api: Api, org: Org, of: dict[str, Any], event: str = "enter", **said: Any) -> Answer:
    told = await api.post("/push/geofences/event", {"geofenceId": of["id"], "event": event, **said}, key=org.pk)
    assert told.status == 200, told
    return told


async def stored(api: Api, org: Org, told: Answer) -> dict[str, Any]:
    """The account, once the storer has passed the position."""
    account: dict[str, Any] = (await api.get("/events/accounting", key=org.sk, after=told.position)).data
    return account


async def stats(api: Api, org: Org, of: dict[str, Any], wanted: tuple[int, int, int]) -> None:
    """The numbers become these, and are not more."""

    async def counted() -> bool:
        said = (await api.get(f"/push/geofences/{of['id']}/stats", key=org.sk)).data
        assert said["windowDays"] == 30
        assert (said["entered"], said["exited"], said["dwelled"]) == wanted, said
        return True

    await eventually(counted)


@pytest.mark.rule("B003", "B135", "B049", "B048", "C30", "C94")
async def test_a_report_is_an_event_that_costs_nothing(api: Api, org: Org, db: Database) -> None:
    """B003: the key says whose; B135: each transition is an event of that person's, which a rule can ask for; C30: and
    of no quota."""
    made = await fence(api, org, triggers=["enter", "exit", "dwell"])
    told = [
        await report(api, org, made, event, userId="ada", latitude=48.2091, longitude=16.3738)
        for event in ("enter", "dwell", "exit")
    ]
    assert [one.data["eventType"] for one in told] == ["geofence.entered", "geofence.dwelled", "geofence.exited"]
    paid = await api.post("/events", {"eventType": "coffee", "module": "shop", "userId": "ada"}, key=org.pk)
    account = await stored(api, org, paid)
    assert (account["accepted"], account["stored"], account["bad"]) == (4, 4, 0)
    assert (await api.get("/usage", key=org.sk)).data["eventsThisMonth"] == 1

    row = await db.fetchrow("SELECT * FROM events WHERE org_id = $1 AND event_type = 'geofence.entered'", org.id)
    assert row is not None
    assert (row["module"], row["person"], row["event_id"]) == ("geofence", "ada", told[0].data["id"])
    assert row["properties"] == {
        "geofenceId": made["id"],
        "geofenceName": made["name"],
        "latitude": 48.2091,
        "longitude": 16.3738,
        "distanceMeters": 100.1,
    }
    for event in ("geofence.entered", "geofence.exited", "geofence.dwelled"):
        rule = {"event": event, "op": "occurred_in_last", "value": "1d"}
        said = await api.post("/audiences/explain", {"rules": {"all": [rule]}, "userId": "ada"}, key=org.sk)
        assert (said.status, said.data["member"]) == (200, True), said


@pytest.mark.rule("B135")
async def test_a_device_reports_for_its_owner(api: Api, org: Org, make: Make, db: Database) -> None:
    """B135: who has the device entered; who is named beside it counts more; without either nobody did."""
    made = await fence(api, org)
    device = await make.token(org, userId="ada")
    await report(api, org, made, tokenId=device["id"])
    await report(api, org, made, tokenId=device["id"], userId="bob")
    last = await report(api, org, made)
    await stored(api, org, last)
    rows = await db.fetch("SELECT person, properties FROM events WHERE org_id = $1 ORDER BY key", org.id)
    assert sorted((row["person"] or "", row["properties"].get("tokenId", "")) for row in rows) == [
        ("", ""),
        ("ada", device["id"]),
        ("bob", device["id"]),
    ]


@pytest.mark.rule("B135", "B136", "C94")
async def test_a_report_that_is_repeated(api: Api, org: Org) -> None:
    """C94: the same eventId and time are one event; a report with its time alone is known by itself; one with neither
    is never recognised. B136: what was recognised is counted once."""
    made = await fence(api, org)
    at = iso(datetime.now(UTC) - timedelta(minutes=5))
    named = {"eventId": "abc", "occurredAt": at, "userId": "ada"}
    ids = [(await report(api, org, made, **named)).data["id"] for _ in range(2)]
    assert ids == ["abc", "abc"]
    ids = [(await report(api, org, made, "exit", occurredAt=at, userId="ada")).data["id"] for _ in range(3)]
    assert len(set(ids)) == 1
    assert (await report(api, org, made, "exit", occurredAt=at, userId="bob")).data["id"] != ids[0]
    for _ in range(2):
        last = await report(api, org, made)
    account = await stored(api, org, last)
    assert (account["accepted"], account["stored"], account["duplicate"]) == (8, 5, 3)
    await stats(api, org, made, (3, 2, 0))
    assert (await api.get("/usage", key=org.sk)).data["eventsThisMonth"] == 0


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"event": "hover"}, "event"),
        ({"event": "dwell"}, "event"),
        ({"latitude": 1.0}, "longitude"),
        ({"latitude": 1.0, "longitude": 181.0}, "longitude"),
        ({"occurredAt": "yesterday"}, "occurredAt"),
        ({"occurredAt": "9999-12-31T23:59:59-23:59"}, "occurredAt"),
        ({"occurredAt": "1970-01-01T00:00:00Z"}, "occurredAt"),
        ({"eventId": "é"}, "eventId"),
        ({"eventId": "x" * 65}, "eventId"),
        ({"userId": ""}, "userId"),
        ({"tokenId": "x"}, "tokenId"),
        ({"geofenceId": "x"}, "geofenceId"),
        ({"eventType": "geofence.entered"}, "eventType"),
    ],
)
async def test_what_is_no_report(api: Api, org: Org, said: dict[str, Any], field: str) -> None:
    """Refused with the field as the report calls it, and nothing of it is in the log."""
    made = await fence(api, org)
    body = {"geofenceId": made["id"], "event": "enter", **said}
    refused = await api.post("/push/geofences/event", body, key=org.pk)
    assert field in refused.fields, refused
    assert (await stored(api, org, await report(api, org, made)))["accepted"] == 1


async def test_what_is_not_there(api: Api, org: Org, make: Make) -> None:
    """A fence or device that is unknown, somebody else's, deleted or switched off: 404, so that an app stops
    watching."""
    other = await make.org()
    made, theirs = await fence(api, org), await fence(api, other)
    off, gone = await fence(api, org, enabled=False), await fence(api, org)
    await api.delete(f"/push/geofences/{gone['id']}", key=org.sk)
    stranger = await make.token(other)
    for said in (
        {"geofenceId": str(uuid4())},
        {"geofenceId": theirs["id"]},
        {"geofenceId": off["id"]},
        {"geofenceId": gone["id"]},
        {"geofenceId": made["id"], "tokenId": str(uuid4())},
        {"geofenceId": made["id"], "tokenId": stranger["id"]},
    ):
        missing = await api.post("/push/geofences/event", {"event": "enter", **said}, key=org.pk)
        assert (missing.status, missing.code) == (404, "NOT_FOUND"), missing


@pytest.mark.rule("B136")
async def test_thirty_days(api: Api, org: Org, kernel: Kernel, db: Database) -> None:
    """B136: by when it happened, and what no window reaches is forgotten. A day on both sides of the edge is left out,
    so that midnight may pass meanwhile."""
    made, other = await fence(api, org), await fence(api, org)
    now = datetime.now(UTC)
    for days, event in ((0, "enter"), (28, "enter"), (31, "enter"), (400, "exit")):
        await report(api, org, made, event, occurredAt=iso(now - timedelta(days=days)))
    await report(api, org, other, "exit")
    await stats(api, org, other, (0, 1, 0))
    await stats(api, org, made, (2, 0, 0))
    days_of = "SELECT day FROM geofence_days WHERE org_id = $1 AND geofence_id = $2 ORDER BY day"
    assert len(await db.fetch(days_of, org.id, UUID(made["id"]))) == 4
    await forget_days(kernel)
    kept = [row["day"] for row in await db.fetch(days_of, org.id, UUID(made["id"]))]
    assert kept == [(now - timedelta(days=days)).date() for days in (28, 0)]
    await stats(api, org, made, (2, 0, 0))
    await api.delete(f"/push/geofences/{made['id']}", key=org.sk)
    assert await db.fetch(days_of, org.id, UUID(made["id"])) == []


@pytest.mark.rule("B136")
@given(st.integers(0, 4_000_000_000_000), st.integers(-14, 14))
def test_the_window_is_thirty_utc_days(now_ms: int, hours: int) -> None:
    """B136: today and the 29 days before it, wherever the clock's zone is."""
    now = from_millis(now_ms)
    there = now.astimezone(timezone(timedelta(hours=hours)))
    assert (now.date() - first_day(there)).days + 1 == 30


class Log:
    """A database of its own, and frames handed to the readers by hand."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.org, self.project = uuid4(), uuid4()
        self.position = 0

    def frame(self, *events: dict[str, Any], subject: str = SYSTEM) -> Message:
        body = msgspec.json.encode([{"eventType": "geofence.entered", "module": "geofence", **one} for one in events])
        now_ms = int(datetime.now(UTC).timestamp() * 1_000)
        checked = _core.check_events(body, self.org.bytes, self.project.bytes, "prod", now_ms, True)
        assert checked.rejected == 0, checked.errors
        self.position += 1
        return Message(subject, _core.frame([checked.records]), self.position, 1)


@pytest.fixture
async def log(kernel: Kernel, fresh_database: Postgres) -> AsyncIterator[Log]:
    await migrate(fresh_database)
    db = await Database.open(fresh_database)
    try:
        yield Log(dataclasses.replace(kernel, db=db))
    finally:
        await db.close()


@pytest.mark.rule("B136", "C30", "B049")
async def test_what_is_delivered_again_is_counted_once(log: Log) -> None:
    """F-N3, F-N4: the same frames again, alone or with new ones; duplicates within and across frames; and of all that
    only what clients posted is somebody's month."""
    said = GeofenceIn(name="x", latitude=0.0, longitude=0.0, radius_meters=1.0, triggers=("enter",))
    made = await store.insert(log.kernel.db, log.org, log.project, said)  # type: ignore[arg-type]
    assert made is not None
    at = iso(datetime.now(UTC))

    def enters(name: str) -> dict[str, Any]:
        return {"eventId": name, "timestamp": at, "properties": {"geofenceId": str(made.id)}}

    posted = log.frame(enters("forged"), enters("forged"), {"eventId": "z", "timestamp": at}, subject="events.0")
    one = log.frame(enters("a"), enters("a"), enters("b"))
    two = log.frame(enters("b"), enters("c"), {**enters("d"), "properties": {"geofenceId": str(uuid4())}})
    three = log.frame(enters("e"))
    db = log.kernel.db
    await store_events(log.kernel, [posted, one, two])
    await store_events(log.kernel, [three])
    for batch in ([one], [one, two], [one, two, three], [two, three]):
        await count_transitions(log.kernel, batch)
    counted = await store.stats(db, made.org, made.id, datetime.now(UTC).date() - timedelta(days=1))
    assert (counted.entered, counted.exited, counted.dwelled) == (4, 0, 0), "a, b, c and e"
    account = await db.fetchrow("SELECT * FROM event_counts")
    assert account is not None
    assert (account["accepted"], account["stored"], account["duplicate"]) == (10, 7, 3)
    assert await db.fetchval("SELECT events FROM usage_months") == 2
