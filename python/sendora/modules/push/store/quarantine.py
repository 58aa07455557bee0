"""Addresses that providers call dead: retired, held, listed with the evidence, restored."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec
from asyncpg import Record

from sendora.kernel.clock import iso
from sendora.kernel.ids import OrgId, ProjectId, SendId
from sendora.kernel.pg import Connection, Database, queries
from sendora.kernel.wire import Listed, Page
from sendora.modules.push.model.quarantine import GRACE_DAYS, HELD, Filter, Quarantined

SQL: Final = queries(__file__, "quarantine.sql")

RESTORED_MAX: Final = 5_000
"""Rows of one bite: a transaction of well below a second."""


class Dead(msgspec.Struct, frozen=True, kw_only=True):
    """An address that a provider calls dead: whose words, of which send, and since when."""

    token: UUID
    reason: str
    lane: str
    send: SendId
    gone_at: datetime
    said_at: datetime


class Retired(msgspec.Struct, frozen=True, kw_only=True):
    token: UUID
    project: ProjectId
    user_id: str | None
    platform: str
    reason: str
    retired_at: datetime


async def retire(connection: Connection, org: OrgId, dead: Sequence[Dead]) -> list[Retired]:
    """Those that were alive until now."""
    return [
        Retired(
            token=row["id"],
            project=ProjectId(row["project_id"]),
            user_id=row["user_id"],
            platform=row["platform"],
            reason=row["retired_reason"],
            retired_at=row["retired_at"],
        )
        for row in await connection.fetch(SQL.retire, org, *_columns(dead))
    ]


async def hold(connection: Connection, org: OrgId, dead: Sequence[Dead]) -> int:
    """How many were newly held; they stay active."""
    return len(await connection.fetch(SQL.hold, org, *_columns(dead)))


async def listed(
    db: Database | Connection, org: OrgId, project: ProjectId, wanted: Filter, page: Page
) -> Listed[Quarantined]:
    which = (org, project, wanted.provider, wanted.reason, wanted.since)
    rows = await db.fetch(SQL.listed, *which, page.offset, page.size)
    total = rows[0]["total"] if rows else await db.fetchval(SQL.counted, *which)
    return Listed([_shown(row) for row in rows], total)


async def restore(
    connection: Connection, org: OrgId, project: ProjectId, wanted: Filter, tokens: Sequence[UUID] | None
) -> int:
    """How many are active again, RESTORED_MAX at most; call again until it is nobody."""
    which = (org, project, wanted.provider, wanted.reason, wanted.since)
    return int((await connection.execute(SQL.restore, *which, tokens, RESTORED_MAX)).rpartition(" ")[2])


def _columns(dead: Sequence[Dead]) -> tuple[list[object], ...]:
    return (
        [one.token for one in dead],
        [one.reason for one in dead],
        [one.lane for one in dead],
        [one.send for one in dead],
        [one.gone_at for one in dead],
        [one.said_at for one in dead],
    )


def _shown(row: Record) -> Quarantined:
    held, retired_at, said_at = row["is_active"], row["retired_at"], row["dead_at"]
    return Quarantined(
        id=row["id"],
        user_id=row["user_id"],
        platform=row["platform"],
        reason=HELD if held else row["dead_reason"],
        code=row["dead_reason"],
        lane=row["dead_lane"],
        send_id=row["dead_send"],
        said_at=None if said_at is None else iso(said_at),
        retired_at=iso(row["quarantined_at"]),
        deleted_after=None if held else iso(retired_at + timedelta(days=GRACE_DAYS)),
    )
