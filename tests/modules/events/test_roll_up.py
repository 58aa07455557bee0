"""Months that have had their time become days: the events go, and what an audience asks of them stays."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from sendora import _core
from sendora.kernel import pg
from sendora.kernel.bus import Message
from sendora.kernel.clock import FixedClock, millis
from sendora.kernel.config import Events, Postgres
from sendora.kernel.ids import OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Database, migrate
from sendora.modules.events import jobs, module
from sendora.modules.events.consumers import store_events

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
KEPT_MONTHS = 3
OLD = "2026-02-2"
"""In the last month that goes; March is kept."""


class Store:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.db = kernel.db
        self.org, self.project = OrgId(uuid4()), ProjectId(uuid4())
        self._position = 0

    async def eat(self, *happened: dict[str, Any]) -> None:
        self._position += 1
        body = msgspec.json.encode([{"eventType": "buy", "module": "m", **event} for event in happened])
        checked = _core.check_events(body, self.org.bytes, self.project.bytes, "prod", millis(NOW), True)
        assert checked.rejected == 0, checked.errors
        await store_events(self.kernel, [Message("events.0", _core.frame([checked.records]), self._position, 1)])

    async def days(self) -> list[tuple[Any, ...]]:
        rows = await self.db.fetch(
            "SELECT person, event_type, day, count, first_at, last_at FROM event_days ORDER BY person, event_type, day"
        )
        return [tuple(row) for row in rows]


@pytest.fixture
async def store(kernel: Kernel, fresh_database: Postgres) -> AsyncIterator[Store]:
    await migrate(fresh_database)
    db = await Database.open(fresh_database)
    settings = msgspec.structs.replace(kernel.settings, events=Events(kept_months=KEPT_MONTHS))
    try:
        yield Store(dataclasses.replace(kernel, db=db, settings=settings, clock=FixedClock(NOW)))
    finally:
        await db.close()


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def test_a_month_becomes_days(store: Store) -> None:
    """By person, type and UTC day; people nobody knows are nobody's; months that are kept stay as they are."""
    await store.eat(
        {"userId": "anna", "timestamp": f"{OLD}0T23:59:59.999Z"},
        {"userId": "anna", "timestamp": f"{OLD}1T00:00:00Z"},
        {"userId": "anna", "timestamp": f"{OLD}1T17:30:00Z"},
        {"userId": "anna", "timestamp": f"{OLD}1T18:00:00Z", "eventType": "seen"},
        {"anonymousId": "anon", "timestamp": f"{OLD}1T18:00:00Z"},
        {"timestamp": f"{OLD}1T18:00:00Z"},
        {"userId": "anna", "timestamp": "2026-03-01T00:00:00Z"},
    )
    assert await pg.months(store.db, "events") == [2026 * 12 + 1, 2026 * 12 + 2]
    await jobs.roll_up_old_months(store.kernel)
    assert await pg.months(store.db, "events") == [2026 * 12 + 2]
    assert await store.db.fetchval("SELECT count(*) FROM events") == 1
    first, second = date(2026, 2, 20), date(2026, 2, 21)
    evening = at("2026-02-21T18:00:00Z")
    assert await store.days() == [
        ("anna", "buy", first, 1, at("2026-02-20T23:59:59.999Z"), at("2026-02-20T23:59:59.999Z")),
        ("anna", "buy", second, 2, at("2026-02-21T00:00:00Z"), at("2026-02-21T17:30:00Z")),
        ("anna", "seen", second, 1, evening, evening),
        ("anon", "buy", second, 1, evening, evening),
    ]
    assert await store.db.fetchval("SELECT cuts FROM event_cuts WHERE project_id = $1", store.project) == 1
    await jobs.roll_up_old_months(store.kernel)
    assert len(await store.days()) == 4


async def test_an_event_that_comes_later_is_added_to_its_day(store: Store) -> None:
    """Its partition is made again, although this process believed it to be there, and rolled up by the next run."""
    await store.eat({"userId": "anna", "timestamp": f"{OLD}1T10:00:00Z"})
    await jobs.roll_up_old_months(store.kernel)
    await store.eat({"userId": "anna", "timestamp": f"{OLD}1T09:00:00Z"})
    await jobs.roll_up_old_months(store.kernel)
    (day,) = await store.days()
    assert day[3:] == (2, at("2026-02-21T09:00:00Z"), at("2026-02-21T10:00:00Z"))


async def test_a_reader_is_not_overtaken(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads events holds them; the roll-up gives up in time, leaves everything as it was, and comes again."""
    monkeypatch.setattr(jobs, "LOCK_TIMEOUT", "50ms")
    await store.eat({"userId": "anna", "timestamp": f"{OLD}1T10:00:00Z"})
    async with store.db.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE events IN ACCESS SHARE MODE")
        await jobs.roll_up_old_months(store.kernel)
        assert await store.days() == []
        assert await connection.fetchval("SELECT count(*) FROM events") == 1
    await jobs.roll_up_old_months(store.kernel)
    assert len(await store.days()) == 1


async def test_a_roll_up_and_the_storer_at_once(store: Store) -> None:
    """Late events while their month goes: each is counted once, in whichever table it landed."""
    await store.eat({"userId": "anna", "timestamp": f"{OLD}1T10:00:00Z"})

    async def late() -> None:
        for hour in range(8):
            for _ in range(5):
                try:
                    await store.eat({"userId": "anna", "timestamp": f"{OLD}1T1{hour}:30:00Z", "eventId": f"h{hour}"})
                    break
                except asyncpg.PostgresError:
                    # A deadlock, or a partition that went: the stage tries again.
                    store.db.partitions.clear()

    async def roll() -> None:
        for _ in range(4):
            await jobs.roll_up_old_months(store.kernel)

    await asyncio.gather(late(), roll())
    await jobs.roll_up_old_months(store.kernel)
    assert sum(day[3] for day in await store.days()) == 9


@pytest.mark.rule("B069")
async def test_days_are_erased_and_told(store: Store) -> None:
    await store.eat(
        {"userId": "anna", "timestamp": f"{OLD}1T10:00:00Z"}, {"userId": "bert", "timestamp": f"{OLD}1T10:00:00Z"}
    )
    await jobs.roll_up_old_months(store.kernel)
    assert module.erase is not None and module.export is not None
    told = [entry async for entry in module.export(store.kernel, store.org, store.project, "anna")]
    assert [(entry["eventType"], entry["day"], entry["count"]) for entry in told] == [("buy", "2026-02-21", 1)]
    await module.erase(store.kernel, store.org, store.project, "anna")
    assert [day[0] for day in await store.days()] == ["bert"]
