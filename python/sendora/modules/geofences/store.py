"""Fences, and their days."""

from collections.abc import Sequence
from datetime import date
from typing import Final
from uuid import UUID

import msgspec
from asyncpg import Record

from sendora._core import EventBatch
from sendora.kernel.bus import Message
from sendora.kernel.ids import OrgId, ProjectId, new_id
from sendora.kernel.pg import Connection, Database, queries
from sendora.kernel.wire import UNSET, Listed, Page
from sendora.modules.geofences.model import (
    FENCES_MAX,
    MODULE,
    Fence,
    GeofenceIn,
    GeofencePatch,
    GeofenceStats,
    Position,
    ordered,
)

SQL: Final = queries(__file__)

KEY_BYTES: Final = 32
"""An event's name in `EventBatch.keys`: 16 bytes of its org, 16 of its key."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which fences a list is of."""

    enabled: bool | None
    armed: bool
    """Only what a device may watch."""
    at: Position | None
    """Among equals of priority the nearest first."""
    most: int | None
    """Of all pages together (B134)."""


async def insert(db: Database | Connection, org: OrgId, project: ProjectId, said: GeofenceIn) -> Fence | None:
    """None when the project has FENCES_MAX."""
    row = await db.fetchrow(
        SQL.insert,
        org,
        new_id(),
        project,
        said.name,
        said.latitude,
        said.longitude,
        said.radius_meters,
        ordered(said.triggers),
        said.priority,
        said.enabled,
        said.dwell_seconds,
        FENCES_MAX,
    )
    return None if row is None else _fence(row)


async def find(db: Database | Connection, org: OrgId, project: ProjectId, id_: UUID) -> Fence | None:
    row = await db.fetchrow(SQL.find, org, project, id_)
    return None if row is None else _fence(row)


async def listed(
    db: Database | Connection, org: OrgId, project: ProjectId, wanted: Wanted, page: Page
) -> Listed[Fence]:
    at = wanted.at
    size = page.size if wanted.most is None else max(0, min(page.size, wanted.most - page.offset))
    which = (org, project, wanted.enabled, wanted.armed)
    place = (None, None) if at is None else (at.latitude, at.longitude)
    rows = await db.fetch(SQL.listed, *which, *place, page.offset, size)
    total: int = rows[0]["total"] if rows else await db.fetchval(SQL.counted, *which)
    return Listed([_fence(row) for row in rows], total if wanted.most is None else min(total, wanted.most))


async def update(
    db: Database | Connection, org: OrgId, project: ProjectId, id_: UUID, said: GeofencePatch
) -> Fence | None:
    given = msgspec.structs.asdict(said)
    new = {name: None if value is UNSET else value for name, value in given.items()}
    row = await db.fetchrow(
        SQL.update,
        org,
        project,
        id_,
        new["name"],
        new["latitude"],
        new["longitude"],
        new["radius_meters"],
        None if new["triggers"] is None else ordered(new["triggers"]),
        new["priority"],
        new["enabled"],
        said.dwell_seconds is not UNSET,
        new["dwell_seconds"],
    )
    return None if row is None else _fence(row)


async def delete(db: Database | Connection, org: OrgId, project: ProjectId, id_: UUID) -> Fence | None:
    """With its days; the fence as it was."""
    row = await db.fetchrow(SQL.delete, org, project, id_)
    return None if row is None else _fence(row)


async def count(connection: Connection, frames: Sequence[Message]) -> None:
    """Add what the storer has stored of these frames to its days: duplicates and bad rows are not counted."""
    batch = EventBatch([frame.data for frame in frames])
    rows = await connection.fetch(SQL.skips, [frame.position for frame in frames])
    left_out = {row["position"]: row["ordinals"] for row in rows}
    skipped: set[int] = set()
    begin = 0
    for frame, end in zip(frames, batch.ends(), strict=True):
        skipped |= {begin + ordinal for ordinal in left_out.get(frame.position, ())}
        begin = end
    keys = batch.keys()
    stored = [
        keys[ordinal * KEY_BYTES : (ordinal + 1) * KEY_BYTES] for ordinal in range(len(batch)) if ordinal not in skipped
    ]
    await connection.execute(SQL.by_index)
    await connection.execute(
        SQL.count_stored, [UUID(bytes=key[:16]) for key in stored], [UUID(bytes=key[16:]) for key in stored], MODULE
    )


async def stats(db: Database | Connection, org: OrgId, id_: UUID, since: date) -> GeofenceStats:
    row = await db.fetchrow(SQL.stats, org, id_, since)
    if row is None:
        raise RuntimeError("an aggregate gives one row")
    return GeofenceStats(entered=row["entered"], exited=row["exited"], dwelled=row["dwelled"])


async def forget_days(db: Database, before: date, rows_max: int) -> int:
    """How many went; call again while it is rows_max."""
    return int((await db.execute(SQL.forget_days, before, rows_max)).rpartition(" ")[2])


def _fence(row: Record) -> Fence:
    return Fence(
        org=OrgId(row["org_id"]),
        id=row["id"],
        project=ProjectId(row["project_id"]),
        name=row["name"],
        latitude=row["latitude"],
        longitude=row["longitude"],
        radius_meters=row["radius_meters"],
        triggers=tuple(row["triggers"]),
        priority=row["priority"],
        enabled=row["enabled"],
        dwell_seconds=row["dwell_seconds"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
