"""Rows of profiles. Reading is for everybody; writing is for the consumer alone."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg
from asyncpg import Record

from sendora.kernel.ids import OrgId, ProfileId, ProjectId, parse_id
from sendora.kernel.pg import Connection, Database, copy_in, queries
from sendora.kernel.wire import Listed, Page
from sendora.modules.profiles.model import ALIASES_MAX, TRAITS_BYTES_MAX, Lifecycle, Name, Person

SQL: Final = queries(__file__)

COLUMNS: Final = (
    "org_id", "project_id", "external_id", "id", "reset", "present", "email", "traits_set", "traits_unset", "locale",
    "timezone", "merged_into", "first_at", "last_at",
)  # fmt: skip
"""In the order of `_core.ProfileBatch.copy`."""

REFUSED: Final = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
"""What speaks against a row, and not against the server."""


async def find(db: Database | Connection, org: OrgId, project: ProjectId, named: str) -> Person | None:
    """By external id or profile id (C70), following takeovers (C69)."""
    row = await db.fetchrow(SQL.find, org, project, named, parse_id(named))
    return None if row is None else _person(row)


async def names_of(db: Database | Connection, org: OrgId, project: ProjectId, external_id: str) -> list[str]:
    """The person's external id and those of everybody whom the person has taken over."""
    return await names_behind(db, org, project, [external_id])


async def names_behind(
    db: Database | Connection, org: OrgId, project: ProjectId, names: Sequence[str], *, before: datetime | None = None
) -> list[str]:
    """The names given and those of everybody who leads to one of them, ALIASES_MAX more at most; with `before`, only
    who was there by then."""
    rows = await db.fetch(SQL.names_of, org, project, list(names), len(names) + ALIASES_MAX, before)
    return [row["name"] for row in rows]


async def count_named(db: Database | Connection, org: OrgId, project: ProjectId, names: Sequence[str]) -> int:
    """How many of these have a profile."""
    counted: int = await db.fetchval(SQL.count_named, org, project, list(names))
    return counted


async def aliases_among(
    db: Database | Connection, org: OrgId, project: ProjectId, names: Sequence[str], before: datetime
) -> list[str]:
    """Those of these who were there by then and have been taken over."""
    rows = await db.fetch(SQL.aliases_among, org, project, list(names), before)
    return [row["external_id"] for row in rows]


async def people_behind(
    db: Database | Connection, org: OrgId, project: ProjectId, external_id: str, limit: int
) -> list[Person]:
    return [_person(row) for row in await db.fetch(SQL.people_behind, org, project, external_id, limit)]


async def list_people(
    db: Database, org: OrgId, project: ProjectId, external_id: str | None, email: str | None, page: Page
) -> Listed[Person]:
    rows = await db.fetch(SQL.list_people, org, project, external_id, email, page.offset, page.size)
    total = await db.fetchval(SQL.count_people, org, project, external_id, email)
    return Listed([_person(row) for row in rows], total)


async def people_named(db: Database, org: OrgId, project: ProjectId, external_ids: Sequence[str]) -> list[Person]:
    return [_person(row) for row in await db.fetch(SQL.people_named, org, project, list(external_ids))]


async def land(connection: Connection, data: bytes) -> None:
    """The batch into its temporary table, where rows have numbers from 1; those who were deleted go."""
    await connection.execute(SQL.by_index)
    await connection.execute(SQL.make_changes)
    await copy_in(connection, "profile_changes", COLUMNS, data)
    await connection.execute(SQL.reset_people)


async def upsert(connection: Connection, low: int, high: int) -> int:
    """Write the landed rows [low, high]; how many there was something to write of."""
    done = await connection.execute(SQL.upsert_people, low, high, TRAITS_BYTES_MAX)
    return int(done.rpartition(" ")[2])


async def wanted_takeovers(connection: Connection) -> list[tuple[Name, str]]:
    rows = await connection.fetch(SQL.wanted_takeovers)
    return [
        ((OrgId(row["org_id"]), ProjectId(row["project_id"]), row["external_id"]), row["merged_into"]) for row in rows
    ]


async def roots(connection: Connection, names: Sequence[Name]) -> dict[Name, str]:
    """Where each of these leads, itself if nobody has taken it over."""
    orgs, projects, external_ids = _columns(names)
    rows = await connection.fetch(SQL.roots, orgs, projects, external_ids)
    return {(OrgId(row["org_id"]), ProjectId(row["project_id"]), row["name"]): row["at"] for row in rows}


async def take_over(connection: Connection, made: Sequence[tuple[Name, str]]) -> None:
    orgs, projects, external_ids = _columns([anonymous for anonymous, _ in made])
    await connection.execute(SQL.take_over, orgs, projects, external_ids, [known for _, known in made])


class Activity(NamedTuple):
    """When a person came and was last seen, under all names, and the stage that stands there."""

    project: ProjectId
    external_id: str
    created_at: datetime
    last_seen_at: datetime
    lifecycle: Lifecycle | None


async def activity(connection: Connection, org: OrgId, after: tuple[ProjectId, str], rows_max: int) -> list[Activity]:
    """The next people of the org behind (project, external id); in a transaction."""
    await connection.execute(SQL.in_order)
    return [
        Activity(
            ProjectId(row["project_id"]), row["external_id"], row["created_at"], row["last_seen_at"], row["lifecycle"]
        )
        for row in await connection.fetch(SQL.activity, org, *after, rows_max)
    ]


async def set_stages(connection: Connection, org: OrgId, stages: Sequence[tuple[Activity, Lifecycle]]) -> None:
    """Whoever was deleted meanwhile has none."""
    projects, names = [one.project for one, _ in stages], [one.external_id for one, _ in stages]
    await connection.execute(SQL.set_stages, org, projects, names, [stage for _, stage in stages])


def _columns(names: Sequence[Name]) -> tuple[list[UUID], list[UUID], list[str]]:
    return [name[0] for name in names], [name[1] for name in names], [name[2] for name in names]


def _person(row: Record) -> Person:
    return Person(
        id=ProfileId(row["id"]),
        external_id=row["external_id"],
        email=row["email"],
        traits=row["traits"],
        locale=row["locale"],
        timezone=row["timezone"],
        lifecycle=row["lifecycle"],
        created_at=row["created_at"],
        last_seen_at=row["last_seen_at"],
    )
