"""Rows of exports."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from asyncpg import Record

from sendora.kernel.ids import OrgId, ProjectId, new_id
from sendora.kernel.pg import Connection, Database, queries
from sendora.modules.data_io.model import KEPT_S, Export

SQL: Final = queries(__file__)


async def ask(db: Database | Connection, org: OrgId, project: ProjectId, module: str, profile_id: UUID) -> Export:
    row = await db.fetchrow(SQL.ask, org, new_id(), project, module, profile_id, float(KEPT_S))
    if row is None:
        raise RuntimeError("RETURNING gave no row")
    return _export(row)


async def find(db: Database, org: OrgId, project: ProjectId, id_: UUID) -> Export | None:
    row = await db.fetchrow(SQL.find, org, project, id_)
    return None if row is None else _export(row)


async def of_person(db: Database, org: OrgId, project: ProjectId, profile_id: UUID) -> list[Export]:
    return [_export(row) for row in await db.fetch(SQL.of_person, org, project, profile_id)]


async def erase(db: Database, org: OrgId, project: ProjectId, profile_ids: Sequence[UUID]) -> int:
    return int((await db.execute(SQL.erase, org, project, list(profile_ids))).rpartition(" ")[2])


async def sweep(db: Database) -> None:
    await db.execute(SQL.sweep)


def _export(row: Record) -> Export:
    return Export(
        org=OrgId(row["org_id"]),
        id=row["id"],
        project=ProjectId(row["project_id"]),
        module=row["module"],
        profile_id=row["profile_id"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
    )
