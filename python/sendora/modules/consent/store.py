"""Rows of requests and of erased names."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from asyncpg import Record

from sendora.kernel.ids import OrgId, ProjectId, new_id
from sendora.kernel.pg import Connection, Database, queries
from sendora.modules.consent.model import Cut, Deletion
from sendora.modules.consent.tombstones import Tombstone

SQL: Final = queries(__file__)


class RunOver(Exception):
    """The request was asked for again, or somebody else has completed it: this run has nothing more to say."""


async def begin(
    db: Database | Connection, org: OrgId, project: ProjectId, hash_: bytes, sealed: bytes, grace_s: float
) -> Deletion:
    """The request of this person, started (again)."""
    return _deletion(_there(await db.fetchrow(SQL.begin, org, new_id(), project, hash_, sealed, grace_s)))


async def find(db: Database | Connection, org: OrgId, project: ProjectId, id_: UUID) -> Deletion | None:
    row = await db.fetchrow(SQL.find, org, project, id_)
    return None if row is None else _deletion(row)


async def claim(db: Database | Connection, lease_s: float) -> Deletion | None:
    row = await db.fetchrow(SQL.claim, lease_s)
    return None if row is None else _deletion(row)


async def postpone(db: Database | Connection, deletion: Deletion, seconds: float) -> None:
    _there(await db.fetchrow(SQL.postpone, *_key(deletion), seconds))


async def keep_names(db: Database | Connection, deletion: Deletion, sealed: bytes) -> Deletion:
    return _deletion(_there(await db.fetchrow(SQL.keep_names, *_key(deletion), sealed)))


async def cut(
    connection: Connection, deletion: Deletion, position: int, at: datetime, profiles: int, hashes: Sequence[bytes]
) -> Deletion:
    """The request and the tombstones of its names, in the caller's transaction."""
    row = _there(await connection.fetchrow(SQL.cut, *_key(deletion), position, at, profiles))
    await connection.execute(SQL.bury, deletion.org, deletion.project, list(hashes), position, at)
    return _deletion(row)


async def go_on(connection: Connection, deletion: Deletion, sealed: bytes, hashes: Sequence[bytes]) -> Deletion:
    """More names, under the same cut; in the caller's transaction."""
    going = _deletion(_there(await connection.fetchrow(SQL.go_on, *_key(deletion), sealed)))
    await connection.execute(SQL.bury, deletion.org, deletion.project, list(hashes), deletion.position, deletion.cut_at)
    return going


async def add_profiles(db: Database | Connection, deletion: Deletion, profiles: int) -> None:
    _there(await db.fetchrow(SQL.add_profiles, *_key(deletion), profiles))


async def room_done(db: Database | Connection, deletion: Deletion, room: str, rows: int) -> Deletion:
    return _deletion(_there(await db.fetchrow(SQL.room_done, *_key(deletion), room, rows)))


async def complete(db: Database | Connection, deletion: Deletion) -> None:
    _there(await db.fetchrow(SQL.complete, *_key(deletion)))


async def ahead(db: Database | Connection, position: int) -> list[Tombstone]:
    return [
        Tombstone(OrgId(row["org_id"]), ProjectId(row["project_id"]), row["hash"], row["position"], row["cut_at"])
        for row in await db.fetch(SQL.ahead, position)
    ]


async def cut_of(db: Database | Connection, org: OrgId, project: ProjectId, hashes: Sequence[bytes]) -> Cut | None:
    row = await db.fetchrow(SQL.cut_of, org, project, list(hashes))
    return None if row is None else Cut(position=row["position"], at=row["cut_at"])


async def forget_names(db: Database | Connection, seconds: float) -> None:
    await db.execute(SQL.forget_names, seconds)


async def count_open(db: Database | Connection) -> int:
    counted: int = await db.fetchval(SQL.open)
    return counted


def _key(deletion: Deletion) -> tuple[OrgId, UUID, int]:
    return deletion.org, deletion.id, deletion.run


def _there(row: Record | None) -> Record:
    if row is None:
        raise RunOver
    return row


def _deletion(row: Record) -> Deletion:
    return Deletion(
        org=OrgId(row["org_id"]),
        id=row["id"],
        project=ProjectId(row["project_id"]),
        hash=row["hash"],
        status=row["status"],
        run=row["run"],
        sealed=row["sealed"],
        position=row["position"],
        cut_at=row["cut_at"],
        done=tuple(row["done"]),
        deleted=row["deleted"],
        requested_at=row["requested_at"],
        completed_at=row["completed_at"],
        tries=row["tries"],
    )
