"""Monthly partitions on demand."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendora.kernel.config import Postgres
from sendora.kernel.ids import new_id
from sendora.kernel.pg import Database, month_of, month_start, partition

MONTH = 2026 * 12 + 10

INSERT = """
INSERT INTO events (org_id, key, project_id, event_type, module, environment, occurred_at, received_at, properties)
VALUES ($1, $2, $1, 't', 'analytics', 'prod', now(), now(), '{}') RETURNING tableoid::regclass::text
"""


@pytest.fixture
def own(fresh_migrated: Database) -> Database:
    return fresh_migrated


@given(st.datetimes(datetime(1970, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001
def test_every_instant_lies_in_its_month(at: datetime) -> None:
    month = month_of(at)
    assert month_start(month) <= at < month_start(month + 1)


async def test_a_row_finds_the_partition_of_its_key(own: Database) -> None:
    await partition(own, "events", MONTH)
    first, last = month_start(MONTH), month_start(MONTH + 1) - timedelta(milliseconds=1)
    for at in (first, last):
        assert await own.fetchval(INSERT, UUID(int=1), new_id(at)) == "events_2026_11"
    for at in (first - timedelta(milliseconds=1), month_start(MONTH + 1)):
        with pytest.raises(asyncpg.CheckViolationError):
            await own.fetchval(INSERT, UUID(int=1), new_id(at))
    await partition(own, "events", MONTH - 1)
    assert await own.fetchval(INSERT, UUID(int=1), new_id(first - timedelta(milliseconds=1))) == "events_2026_10"


async def test_many_at_once_make_one(own: Database, fresh_database: Postgres) -> None:
    others = [await Database.open(fresh_database) for _ in range(4)]
    wanted = [(table, MONTH + ahead) for table in ("events", "deliveries") for ahead in range(3)]
    try:
        await asyncio.gather(*(partition(db, *one) for db in others for one in wanted))
    finally:
        for db in others:
            await db.close()
    made = await own.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE relkind = 'r'"
    )
    assert len(made) == 6
    assert {"events_2026_11", "deliveries_2027_01"} <= {row["name"] for row in made}


async def test_traffic_goes_on_while_a_partition_is_made(own: Database) -> None:
    """A transaction that writes holds its lock, and neither waits for the other; the next one sees the partition."""
    await partition(own, "events", MONTH)
    async with own.transaction() as connection:
        await connection.execute(INSERT, UUID(int=2), new_id(month_start(MONTH)))
        await asyncio.wait_for(partition(own, "events", MONTH + 1), 5)
        await connection.execute(INSERT, UUID(int=2), new_id(month_start(MONTH)))
    assert await own.fetchval(INSERT, UUID(int=2), new_id(month_start(MONTH + 1))) == "events_2026_12"


async def test_the_key_is_unique_in_a_partition_and_the_index_is_there(own: Database) -> None:
    await partition(own, "events", MONTH)
    key = new_id(month_start(MONTH))
    await own.execute(INSERT, UUID(int=3), key)
    with pytest.raises(asyncpg.UniqueViolationError):
        await own.execute(INSERT, UUID(int=3), key)
    indexes = await own.fetchval("SELECT count(*) FROM pg_indexes WHERE tablename = 'events_2026_11'")
    assert indexes == 2


@pytest.mark.parametrize(("table", "month"), [("events; DROP TABLE orgs", MONTH), ("events", -1), ("events", 10**9)])
async def test_what_is_no_partition_is_refused(own: Database, table: str, month: int) -> None:
    with pytest.raises(ValueError, match="no partition"):
        await partition(own, table, month)
