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
    connection: Connection, org: OrgId, project: ProjectId, hash_: bytes, sealed: bytes, grace_s: float
) -> tuple[Deletion, bool]:
    """The request of this person, and whether it begins now: else it is at work already. In the caller's
    transaction."""
    id_ = new_id()
    deletion = _deletion(_there(await connection.fetchrow(SQL.begin, org, id_, project, hash_, sealed, grace_s)))
    if deletion.status == "completed":
        return await begin_again(connection, deletion, sealed, grace_s), True
    return deletion, deletion.id == id_


async def begin_again(db: Database | Connection, deletion: Deletion, sealed: bytes, grace_s: float) -> Deletion:
    return _deletion(_there(await db.fetchrow(SQL.begin_again, *_key(deletion), sealed, grace_s)))


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


async def cut(db: Database | Connection, deletion: Deletion, position: int, at: datetime, profiles: int) -> Deletion:
    return _deletion(_there(await db.fetchrow(SQL.cut, *_key(deletion), position, at, profiles)))


async def bury(db: Database | Connection, deletion: Deletion, hashes: Sequence[bytes]) -> None:
    """Tombstones for these names, at the request's cut."""
    position, at = deletion.position, deletion.cut_at
    await db.execute(SQL.bury, deletion.org, deletion.project, list(hashes), position, at)


async def go_on(db: Database | Connection, deletion: Deletion, sealed: bytes) -> Deletion:
    """More names, under the same cut."""
    return _deletion(_there(await db.fetchrow(SQL.go_on, *_key(deletion), sealed)))


async def add_profiles(db: Database | Connection, deletion: Deletion, profiles: int) -> None:
    _there(await db.fetchrow(SQL.add_profiles, *_key(deletion), profiles))


async def room_done(db: Database | Connection, deletion: Deletion, room: str, rows: int) -> Deletion:
    return _deletion(_there(await db.fetchrow(SQL.room_done, *_key(deletion), room, rows)))


async def complete(db: Database | Connection, deletion: Deletion) -> Deletion:
    return _deletion(_there(await db.fetchrow(SQL.complete, *_key(deletion))))


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
        again=row["again"],
        done=tuple(row["done"]),
        deleted=row["deleted"],
        requested_at=row["requested_at"],
        completed_at=row["completed_at"],
        tries=row["tries"],
    )
