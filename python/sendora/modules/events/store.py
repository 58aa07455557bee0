"""Rows of events, their counts, and what Postgres refused."""

import struct
from collections.abc import AsyncIterator, Sequence
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

from sendora.kernel.bus import Position, position_text
from sendora.kernel.clock import iso
from sendora.kernel.ids import OrgId, ProjectId, new_id
from sendora.kernel.pg import Connection, Database, copy_in, key_range, months, queries
from sendora.modules.events.model import Accounting

SQL: Final = queries(__file__)

COLUMNS: Final = (
    "org_id", "key", "project_id", "event_type", "module", "person", "device_id", "session_id", "environment",
    "occurred_at", "received_at", "event_id", "properties",
)  # fmt: skip
"""In the order of `_core.EventBatch.copy`."""

KEY_BYTES: Final = 32
"""An event's name in `EventBatch.keys`: 16 bytes of its org, 16 of its key."""

PAGE_ROWS: Final = 500
"""Events of one page of an export; each is at most 256 KB, and a few hundred bytes as a rule."""

MONTH_S: Final = 3_600.0
"""For a statement that reads a whole month: a hundred million events take minutes. Without a number of its own it would
have that of a request."""

Count = tuple[bytes, bytes, int, int, int, int]
"""(org, project, accepted, stored, duplicate, bad), as `EventBatch.counts` gives them."""


async def known(connection: Connection, keys: bytes) -> list[int]:
    """Ordinals of the keys that are stored already, ascending."""
    await connection.execute(SQL.by_index)
    return [row["ordinal"] for row in await connection.fetch(SQL.known, keys, len(keys) // KEY_BYTES)]


async def copy(connection: Connection, data: bytes) -> None:
    await copy_in(connection, "events", COLUMNS, data)


async def insert_new(connection: Connection, data: bytes) -> set[bytes]:
    """Insert what is not there yet; the org || key of what was."""
    await connection.execute(SQL.make_landing)
    await connection.execute(SQL.clear_landing)
    await copy_in(connection, "events_landing", COLUMNS, data)
    return {row["org_id"].bytes + row["key"].bytes for row in await connection.fetch(SQL.insert_landed)}


async def insert_bad(
    connection: Connection, org: OrgId, project: ProjectId, position: int, record: bytes, reason: str
) -> None:
    await connection.execute(SQL.insert_bad, org, new_id(), project, position, record, reason)


async def add_skips(connection: Connection, skips: Sequence[tuple[int, list[int]]]) -> None:
    """(position of a frame, ordinals in it): what was not stored of it."""
    await connection.executemany(SQL.add_skips, skips)


async def clear_skips(connection: Connection) -> None:
    await connection.execute(SQL.clear_skips)


async def forget_skips(db: Database, seconds: float, rows_max: int) -> int:
    return int((await db.execute(SQL.forget_skips, seconds, rows_max)).rpartition(" ")[2])


async def add_counts(
    connection: Connection, month: date, counts: Sequence[Count], *, free: Sequence[Count] = ()
) -> None:
    """`free` is the part of the counts that is not counted against a quota (C30)."""
    orgs = [UUID(bytes=count[0]) for count in counts]
    projects = [UUID(bytes=count[1]) for count in counts]
    accepted, stored, duplicate, bad = ([count[index] for count in counts] for index in (2, 3, 4, 5))
    await connection.execute(SQL.add_counts, orgs, projects, accepted, stored, duplicate, bad)
    unpaid = [UUID(bytes=count[0]) for count in free]
    await connection.execute(SQL.add_usage, month, [*orgs, *unpaid], [*stored, *(-count[3] for count in free)])


async def accounting(db: Database | Connection, org: OrgId, project: ProjectId, consumer: str) -> Accounting:
    row = await db.fetchrow(SQL.accounting, org, project, consumer)
    if row is None:
        raise RuntimeError("a SELECT of one row gave none")
    return Accounting(
        project_id=project,
        accepted=row["accepted"],
        stored=row["stored"],
        duplicate=row["duplicate"],
        bad=row["bad"],
        position=position_text(Position(row["position"])),
    )


async def forget_bad(db: Database, days: int, rows_max: int) -> int:
    """Drop bad rows that have had their time; how many went."""
    return int((await db.execute(SQL.forget_bad, days, rows_max)).rpartition(" ")[2])


async def roll_up(connection: Connection, low: UUID, high: UUID) -> None:
    """The events with keys in [low, high) into days; whoever calls takes them away in the same transaction."""
    await connection.execute(SQL.roll_up, low, high, timeout=MONTH_S)
    await connection.execute(SQL.cut_month, low, high, timeout=MONTH_S)


async def erase_month(
    connection: Connection, org: OrgId, project: ProjectId, persons: Sequence[str], month: int, until: datetime | None
) -> int:
    """These persons' events of a month, received by then; how many. In a transaction of its own."""
    await connection.execute(SQL.unhurried)
    low, high = key_range(month)
    done = await connection.execute(SQL.erase_person, org, project, list(persons), low, high, until, timeout=MONTH_S)
    return int(done.rpartition(" ")[2])


async def erase_rest(
    connection: Connection, org: OrgId, project: ProjectId, persons: Sequence[str], through: int | None
) -> int:
    """Their days, and what was refused of them up to this place in the log; how many."""
    days = await connection.execute(SQL.erase_days, org, project, list(persons))
    named = [struct.pack("<H", len(name)) + name for name in (person.encode() for person in persons)]
    bad = await connection.execute(SQL.erase_bad, org, project, named, through)
    return sum(int(done.rpartition(" ")[2]) for done in (days, bad))


async def cut_project(db: Database | Connection, org: OrgId, project: ProjectId) -> None:
    """What was made of this project's tables is not so any more."""
    await db.execute(SQL.cut_project, org, project)


async def export(
    db: Database, org: OrgId, project: ProjectId, persons: Sequence[str] | None
) -> AsyncIterator[dict[str, Any]]:
    """Events of these persons (None: of everybody), the oldest first, then what was rolled up. In pages, so that
    nothing is held open while whoever reads them is slow."""
    whose = None if persons is None else list(persons)
    for month in await months(db, "events"):
        low, high = key_range(month)
        # Below every key of the month there is no key of it.
        after = UUID(int=low.int - 1)
        while rows := await db.fetch(SQL.export_events, org, project, whose, after, high, PAGE_ROWS):
            for row in rows:
                yield {
                    "eventType": row["event_type"],
                    "module": row["module"],
                    "person": row["person"],
                    "deviceId": row["device_id"],
                    "sessionId": row["session_id"],
                    "environment": row["environment"],
                    "timestamp": iso(row["occurred_at"]),
                    "receivedAt": iso(row["received_at"]),
                    "eventId": row["event_id"],
                    "properties": row["properties"],
                }
            after = rows[-1]["key"]
    last: tuple[str, str, date] = ("", "", date.min)
    while rows := await db.fetch(SQL.export_days, org, project, whose, *last, PAGE_ROWS):
        for row in rows:
            yield {
                "eventType": row["event_type"],
                "person": row["person"],
                "day": row["day"].isoformat(),
                "count": row["count"],
                "firstAt": iso(row["first_at"]),
                "lastAt": iso(row["last_at"]),
            }
        last = (rows[-1]["event_type"], rows[-1]["person"], rows[-1]["day"])
