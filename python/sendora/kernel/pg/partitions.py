"""Monthly partitions of tables whose key carries its own time, made on demand, backwards too.

The key's first 48 bits are milliseconds (a UUIDv7, or an event's key), so the bounds of a month are two uuids made of
its first and last instant. A partition is made as a table of its own and then attached: that takes a lock which lets
others go on reading and writing (CREATE TABLE ... PARTITION OF would stop them), so a process may do it in the middle
of traffic.
"""

from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from sendora.kernel.clock import millis
from sendora.kernel.ids import lowest_id
from sendora.kernel.pg.database import Connection, Database

PARTITIONED: Final = ("events", "deliveries")

MONTH_MIN: Final = 1970 * 12
MONTH_MAX: Final = 2200 * 12
"""Far beyond what ingest lets in (2000 to tomorrow); guards the catalogue against a caller's wrong arithmetic."""

LOCK_TIMEOUT: Final = "15s"
"""Attaching waits for a vacuum or a reindex of the parent at most this long; the caller tries again."""


async def partition(db: Database, table: str, month: int) -> None:
    """Make sure that the partition for `month` (year * 12 + month - 1) is there.

    Its own short transaction, committed before it returns. Call it before the one that writes rows: a transaction that
    has touched the table already may not see the new partition. Safe for any number of processes at once, and free of
    cost once this process knows the partition.
    """
    if (table, month) in db.partitions:
        return
    if table not in PARTITIONED or not MONTH_MIN <= month < MONTH_MAX:
        raise ValueError(f"no partition of {table} for month {month}")
    name = _name(table, month)
    low, high = key_range(month)
    async with db.transaction() as connection:
        await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"partition.{name}")
        there = await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhparent = to_regclass($1) AND inhrelid = to_regclass($2))",
            table,
            name,
        )
        if not there:
            await connection.execute(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL)")
            await connection.execute(
                f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{low}') TO ('{high}')"
            )
    db.partitions.add((table, month))


async def months(db: Database | Connection, table: str) -> list[int]:
    """The months that have a partition, ascending."""
    rows = await db.fetch(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass($1)",
        table,
    )
    found = [row["relname"].removeprefix(f"{table}_").split("_") for row in rows]
    return sorted(int(year) * 12 + int(month) - 1 for year, month in found)


async def begin_drop(connection: Connection, table: str, month: int, lock_timeout: str) -> None:
    """First in a transaction that takes a month away: from here on nobody writes to it, and everybody reads it."""
    await connection.execute(f"SET LOCAL lock_timeout = '{lock_timeout}'; SET LOCAL statement_timeout = 0")
    await connection.execute(f"LOCK TABLE {_name(table, month)} IN SHARE MODE")


async def drop_partition(connection: Connection, table: str, month: int) -> None:
    """Last in that transaction: only now readers of the whole table have to wait, until the commit. A reader whose
    snapshot is older must have locked the table before it took the snapshot, or it would miss the month."""
    await connection.execute(f"ALTER TABLE {table} DETACH PARTITION {_name(table, month)}")
    await connection.execute(f"DROP TABLE {_name(table, month)}")


def key_range(month: int) -> tuple[UUID, UUID]:
    """The keys of a month: from the first to below the second."""
    return lowest_id(millis(month_start(month))), lowest_id(millis(month_start(month + 1)))


def _name(table: str, month: int) -> str:
    return f"{table}_{month // 12:04d}_{month % 12 + 1:02d}"


def month_of(at: datetime) -> int:
    at = at.astimezone(UTC)
    return at.year * 12 + at.month - 1


def month_start(month: int) -> datetime:
    return datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)
