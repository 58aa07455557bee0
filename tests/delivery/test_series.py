"""Sends that come again: one occurrence ahead, each once, and none made up for."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import RFC_4122

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.delivery import provider as behaves
from tests.delivery.channel import NAME
from tests.delivery.conftest import Floor, serving
from tests.delivery.provider import recipient

from sendora.delivery import people, series
from sendora.delivery.phases import Send
from sendora.delivery.recurrence import RECIPIENT, Calendar, Occurrence, first_ahead
from sendora.delivery.schedule import POLL_S, Scheduler, start_due
from sendora.delivery.series import SKIPPED, Schedule, occurrence_id
from sendora.delivery.store import find_send
from sendora.delivery.submit import cancel
from sendora.kernel.errors import Conflict, NotFound
from sendora.kernel.ids import OrgId, ProjectId, ScheduleId, SendId, id_millis, new_id
from sendora.kernel.pg import Database
from sendora.kernel.wire import Page

DAY = timedelta(days=1)


def local_now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)


async def begin(
    floor: Floor, rrule: str = "FREQ=DAILY", at: datetime | None = None, zone: str = "UTC", **options: Any
) -> tuple[Schedule, Send]:
    """Daily from tomorrow on, unless it is said otherwise."""
    calendar = Calendar(starts_at=at or local_now() + timedelta(hours=1), zone=zone, rrule=rrule)
    first = first_ahead(calendar, datetime.now(UTC))
    send = await series.begin(floor.kernel, floor.asked([recipient(behaves.OK)], **options), calendar, first)
    assert send.schedule_id is not None
    return await find(floor, send.schedule_id), send


async def find(floor: Floor, schedule: ScheduleId) -> Schedule:
    return await series.find(floor.kernel, floor.org, schedule, project=floor.project, channel=NAME)


async def later(db: Database, by: timedelta) -> None:
    """As if the time had passed: everything lies so much further back."""
    await db.execute(
        "UPDATE schedules SET starts_at = starts_at - $1::interval, next_local = next_local - $1,"
        " next_at = next_at - $1",
        by,
    )
    await db.execute(
        "UPDATE sends SET created_at = created_at - $1::interval, scheduled_for = scheduled_for - $1,"
        " expires_at = expires_at - $1, local_at = local_at - $1",
        by,
    )


async def news(floor: Floor) -> dict[SendId, list[str]]:
    """What is still to be told of each send."""
    told: dict[SendId, list[str]] = {}
    for row in await floor.db.fetch("SELECT send_id, event FROM send_news ORDER BY event"):
        told.setdefault(row["send_id"], []).append(row["event"])
    return told


async def occurrences(floor: Floor) -> list[tuple[str, str | None]]:
    rows = await floor.db.fetch("SELECT status, error FROM sends ORDER BY scheduled_for")
    return [(row["status"], row["error"]) for row in rows]


@pytest.mark.rule("B096")
async def test_there_is_one_ahead(floor: Floor) -> None:
    schedule, send = await begin(floor)
    assert (send.status, send.schedule_id, send.scheduled_for) == ("scheduled", schedule.id, schedule.next.at)
    assert send.expires_at == schedule.next.at + timedelta(hours=1)
    assert await start_due(floor.kernel) == 0
    await later(floor.db, timedelta(hours=2))
    assert await start_due(floor.kernel) == 1
    gone_on = await find(floor, schedule.id)
    assert gone_on.next.at == schedule.next.at - timedelta(hours=2) + DAY
    assert await occurrences(floor) == [("queued", None), ("scheduled", None)]
    following = await floor.db.fetchrow("SELECT * FROM sends WHERE id = $1", gone_on.next_send)
    assert following is not None
    assert (following["schedule_id"], following["scheduled_for"]) == (schedule.id, gone_on.next.at)
    assert id_millis(following["id"]) <= datetime.now(UTC).timestamp() * 1_000, "no id of the future"
    assert await start_due(floor.kernel) == 0


@pytest.mark.rule("B160")
async def test_of_every_occurrence_is_told_what_is_told_of_any_send(floor: Floor) -> None:
    """Asked for and scheduled; one that is late as it is made is not scheduled, and one that is skipped, or ends with
    its schedule, is cancelled."""
    schedule, send = await begin(floor)
    assert await news(floor) == {send.id: ["scheduled", "send_requested"]}
    await later(floor.db, 3 * DAY + timedelta(hours=2))
    await start_due(floor.kernel)
    ahead = (await find(floor, schedule.id)).next_send
    late = SendId(await floor.db.fetchval("SELECT id FROM sends WHERE status = 'queued'"))
    assert await news(floor) == {
        send.id: ["cancelled", "scheduled", "send_requested"],
        late: ["send_requested"],
        ahead: ["scheduled", "send_requested"],
    }
    await series.end(floor.kernel, floor.org, schedule.id, project=floor.project, channel=NAME)
    assert (await news(floor))[ahead] == ["cancelled", "scheduled", "send_requested"]


async def test_how_late_counts_for_each_occurrence(floor: Floor) -> None:
    """From when it was due, however late its row is made."""
    schedule, send = await begin(floor, late_s=300)
    assert send.late_at == schedule.next.at + timedelta(seconds=300)
    await later(floor.db, 3 * DAY + timedelta(hours=2))
    await start_due(floor.kernel)
    rows = await floor.db.fetch("SELECT scheduled_for, late_at FROM sends WHERE status <> 'cancelled'")
    assert [row["late_at"] - row["scheduled_for"] for row in rows] == [timedelta(seconds=300)] * 2
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        found = await find_send(
            floor.db, floor.org, await floor.db.fetchval("SELECT id FROM sends WHERE status = 'queued'")
        )
        assert found is not None
        assert (await floor.closed(found)).reasons == {"expired": {"late": 1}}


@pytest.mark.rule("C91")
async def test_an_occurrence_starts_when_it_is_due(floor: Floor) -> None:
    """The scheduler wakes for it, long before the safety poll would come by."""
    at = local_now() + timedelta(seconds=2)
    async with serving(Scheduler(floor.kernel), floor.planner(), floor.dispatcher(), floor.accountant()):
        schedule, send = await begin(floor, at=at)
        said = await floor.closed(send)
    assert said.accepted == 1
    planned_at = await floor.db.fetchval("SELECT planned_at FROM sends WHERE id = $1", send.id)
    assert timedelta() <= planned_at - at.replace(tzinfo=UTC) < timedelta(seconds=POLL_S) / 2
    assert (await find(floor, schedule.id)).next.local == at + DAY


async def test_each_occurrence_is_made_once(floor: Floor) -> None:
    """F-S2: however many schedulers, and whatever one of them has made already."""
    made = [await begin(floor) for _ in range(120)]
    await later(floor.db, timedelta(hours=2))
    started = await asyncio.gather(*(start_due(floor.kernel) for _ in range(3)))
    # Whoever held a schedule at one's look has left its occurrence for the next look.
    started.append(await start_due(floor.kernel))
    assert sum(started) == len(made)
    rows = await floor.db.fetch(
        "SELECT status, count(*) AS n, count(DISTINCT schedule_id) AS of FROM sends GROUP BY status"
    )
    assert {row["status"]: (row["n"], row["of"]) for row in rows} == {"queued": (120, 120), "scheduled": (120, 120)}
    # A schedule that fell back makes nothing anew.
    schedule, first = made[0]
    await floor.db.execute(
        "UPDATE schedules SET next_local = next_local - interval '1 day', next_at = next_at - interval '1 day',"
        " next_send = $2 WHERE id = $1",
        schedule.id,
        first.id,
    )
    await start_due(floor.kernel)
    assert await floor.db.fetchval("SELECT count(*) FROM sends WHERE schedule_id = $1", schedule.id) == 2


async def test_only_the_latest_of_those_that_were_missed(floor: Floor) -> None:
    """F-S3: nobody looked for three days; the lifetime counts from when the latest was due."""
    schedule, _ = await begin(floor, ttl_s=600)
    await later(floor.db, 3 * DAY + timedelta(hours=2))
    assert await start_due(floor.kernel) == 0, "the latest is queued as it is made"
    assert await occurrences(floor) == [("cancelled", SKIPPED), ("queued", None), ("scheduled", None)]
    gone_on = await find(floor, schedule.id)
    assert (gone_on.skipped, gone_on.status) == (3, "active")
    latest = await floor.db.fetchrow("SELECT * FROM sends WHERE status = 'queued'")
    assert latest is not None
    assert latest["scheduled_for"] == gone_on.next.at - DAY
    assert latest["expires_at"] == latest["scheduled_for"] + timedelta(seconds=600)
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        send = await find_send(floor.db, floor.org, latest["id"])
        assert send is not None
        balance = await floor.closed(send)
    assert balance.reasons == {"expired": {"ttl": 1}}, "it is an hour late, and lived ten minutes"


@pytest.mark.rule("B097")
async def test_an_occurrence_can_be_cancelled_by_itself(floor: Floor) -> None:
    """The schedule goes on when it would have been due."""
    schedule, send = await begin(floor)
    assert (await cancel(floor.kernel, floor.org, send.id)).status == "cancelled"
    assert (await find(floor, schedule.id)).status == "active"
    await later(floor.db, timedelta(hours=2))
    assert await start_due(floor.kernel) == 0
    assert await occurrences(floor) == [("cancelled", None), ("scheduled", None)]
    assert (await find(floor, schedule.id)).skipped == 0
    await later(floor.db, DAY + timedelta(minutes=1))
    assert await start_due(floor.kernel) == 1


@pytest.mark.rule("B097")
async def test_cancel_and_claim_of_an_occurrence_exclude_each_other(floor: Floor) -> None:
    """F-L7: as of any scheduled send."""
    sends = [(await begin(floor))[1] for _ in range(40)]
    await later(floor.db, timedelta(hours=2))
    outcomes, started = await asyncio.gather(
        asyncio.gather(*(cancel(floor.kernel, floor.org, send.id) for send in sends), return_exceptions=True),
        start_due(floor.kernel),
    )
    for send, outcome in zip(sends, outcomes, strict=True):
        if isinstance(outcome, Conflict):
            assert await floor.status(send) == "queued"
        else:
            assert not isinstance(outcome, BaseException)
            assert await floor.status(send) == "cancelled"
    assert started == sum(isinstance(outcome, Conflict) for outcome in outcomes)
    assert await floor.db.fetchval("SELECT count(*) FROM sends WHERE status = 'scheduled'") == len(sends)


async def test_a_schedule_is_ended(floor: Floor) -> None:
    """With the occurrence ahead; what has started goes on. A second time it is a conflict."""
    schedule, send = await begin(floor)
    await later(floor.db, timedelta(hours=2))
    await start_due(floor.kernel)
    ended = await series.end(floor.kernel, floor.org, schedule.id, project=floor.project, channel=NAME)
    assert (ended.status, ended.upcoming(), ended.ended_at is None) == ("cancelled", [], False)
    assert await occurrences(floor) == [("queued", None), ("cancelled", None)]
    assert await floor.status(send) == "queued"
    await later(floor.db, 2 * DAY)
    assert await start_due(floor.kernel) == 0
    assert len(await occurrences(floor)) == 2
    with pytest.raises(Conflict) as conflict:
        await series.end(floor.kernel, floor.org, schedule.id, project=floor.project, channel=NAME)
    assert conflict.value.details == {"reason": "already_cancelled"}


async def test_a_rule_comes_to_its_end(floor: Floor) -> None:
    schedule, _ = await begin(floor, "FREQ=DAILY;COUNT=2")
    for _ in range(2):
        assert (await find(floor, schedule.id)).status == "active"
        await later(floor.db, DAY)
        assert await start_due(floor.kernel) == 1
    over = await find(floor, schedule.id)
    assert (over.status, over.upcoming(), over.skipped) == ("ended", [], 0)
    assert await occurrences(floor) == [("queued", None)] * 2
    with pytest.raises(Conflict) as conflict:
        await series.end(floor.kernel, floor.org, schedule.id, project=floor.project, channel=NAME)
    assert conflict.value.details == {"reason": "already_ended"}


async def test_a_rule_that_cannot_be_read_ends_alone(floor: Floor) -> None:
    """It was taken by another version: its occurrence goes out, and the others go on."""
    broken, send = await begin(floor)
    other, _ = await begin(floor)
    await floor.db.execute("UPDATE schedules SET rrule = 'FREQ=FORTNIGHTLY' WHERE id = $1", broken.id)
    await later(floor.db, timedelta(hours=2))
    assert await start_due(floor.kernel) == 2
    assert (await floor.status(send), (await find(floor, broken.id)).status) == ("queued", "ended")
    assert (await find(floor, other.id)).next.at == other.next.at - timedelta(hours=2) + DAY


async def test_occurrences_in_everybodys_own_zone(floor: Floor) -> None:
    """Due where clocks are furthest ahead, and each carries its own local time."""
    schedule, send = await begin(floor, zone=RECIPIENT, at=local_now() + DAY)
    assert send.local_at is not None and send.local_at == schedule.next.local
    assert send.scheduled_for == send.local_at.replace(tzinfo=UTC) - timedelta(hours=14)
    await later(floor.db, DAY)
    assert await start_due(floor.kernel) == 1
    following = await floor.db.fetchrow("SELECT * FROM sends WHERE status = 'scheduled'")
    assert following is not None
    assert following["local_at"] == send.local_at
    assert following["scheduled_for"] == send.scheduled_for


async def test_schedules_are_listed(floor: Floor) -> None:
    """The newest first; nobody else's (C03)."""
    made = [(await begin(floor))[0] for _ in range(3)]
    await series.end(floor.kernel, floor.org, made[1].id, project=floor.project, channel=NAME)

    async def listed(
        status: str | None = None, channel: str = NAME, project: ProjectId | None = None
    ) -> list[ScheduleId]:
        found = await series.list_schedules(
            floor.kernel, floor.org, project or floor.project, channel, page=Page(), status=status
        )
        assert found.total == len(found.rows)
        return [schedule.id for schedule in found.rows]

    assert await listed() == [made[2].id, made[1].id, made[0].id]
    assert await listed("active") == [made[2].id, made[0].id]
    assert await listed("cancelled") == [made[1].id]
    assert await listed(channel="email") == await listed(project=ProjectId(new_id())) == []
    for org, project, channel in (
        (OrgId(new_id()), floor.project, NAME),
        (floor.org, ProjectId(new_id()), NAME),
        (floor.org, floor.project, "email"),
    ):
        with pytest.raises(NotFound):
            await series.find(floor.kernel, org, made[0].id, project=project, channel=channel)
        with pytest.raises(NotFound):
            await series.end(floor.kernel, org, made[0].id, project=project, channel=channel)


async def test_who_is_forgotten_is_named_by_no_send_to_come(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    """B069: a target names people until it is planned, a schedule for as long as it goes on."""
    monkeypatch.setattr(people, "RECALL_MAX", 1)
    asked = floor.asked([])
    named = {"userIds": ["ada", "bob"]}
    calendar = Calendar(starts_at=local_now() + DAY, zone="UTC", rrule="FREQ=DAILY")
    first = first_ahead(calendar, datetime.now(UTC))
    said = msgspec.structs.replace(asked, target=named, content={"title": "Dear Ada and Bob"})
    send = await series.begin(floor.kernel, said, calendar, first)
    assert send.schedule_id is not None

    async def forget(name: str, project: ProjectId | None = None, channel: str = NAME) -> int:
        found = project or floor.project
        n = await people.forget_target(floor.kernel, floor.org, found, channel, "userIds", [name])
        await people.forget_words(floor.kernel, floor.org, found, channel, "userIds", name)
        return n

    async def awaited(name: str) -> list[people.Awaited]:
        named = people.awaited(floor.kernel, floor.org, floor.project, NAME, "userIds", [name])
        return [one async for one in named]

    told = [(one.schedule_id, one.send_id, one.status, one.due_at) for one in await awaited("ada")]
    schedule = await find(floor, send.schedule_id)
    assert set(told) == {
        (schedule.id, None, "active", first.at),
        (schedule.id, send.id, "scheduled", first.at),
    }
    assert await forget("ada", ProjectId(new_id())) == await forget("ada", channel="email") == 0
    assert await forget("ada") == 2
    assert await awaited("ada") == []
    assert await floor.db.fetchval("SELECT target FROM sends") == {"userIds": ["bob"]}
    assert (await find(floor, schedule.id)).asked.target == {"userIds": ["bob"]}
    assert (await find(floor, schedule.id)).status == "active"
    assert await forget("bob") == 2
    over = await find(floor, schedule.id)
    assert (over.status, over.asked.content, over.ended_at is None) == ("ended", {}, False)
    assert await floor.db.fetchval("SELECT content FROM sends") == {}
    await later(floor.db, 2 * DAY)
    assert await start_due(floor.kernel) == 1, "the one that was ahead goes out, to nobody"
    assert len(await occurrences(floor)) == 1


INSTANTS = st.datetimes(datetime(2026, 1, 1), datetime(2100, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))  # noqa: DTZ001


@given(made_ms=st.integers(0, 2**48 - 1), at=INSTANTS, other=INSTANTS)
def test_an_occurrence_has_one_id(made_ms: int, at: datetime, other: datetime) -> None:
    """A UUIDv7 that only its schedule and its time make."""
    schedule = ScheduleId(new_id())

    def id_of(at: datetime, of: ScheduleId = schedule) -> Any:
        return occurrence_id(of, made_ms, Occurrence(at.replace(tzinfo=None), at))

    made = id_of(at)
    assert made == id_of(at)
    assert (made.version, made.variant, id_millis(made)) == (7, RFC_4122, made_ms)
    assert made != id_of(at, ScheduleId(new_id()))
    assert (made == id_of(other)) == (int(at.timestamp() * 1_000) == int(other.timestamp() * 1_000))
