"""Rows of audiences as structs, and the streams that an evaluation is fed with."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from asyncpg import Record

from sendora import _core
from sendora.kernel.clock import from_millis, millis
from sendora.kernel.ids import AudienceId, OrgId, ProjectId, new_id
from sendora.kernel.pg import Connection, Database, copy_out, queries
from sendora.kernel.wire import Listed, Page
from sendora.modules.audiences.model import Audience

SQL: Final = queries(__file__)

OF_PROJECT_MAX: Final = 1_000
"""Audiences of a project that one person is tested against; the oldest first."""


async def insert(
    db: Database | Connection,
    org: OrgId,
    project: ProjectId,
    name: str,
    description: str | None,
    rules: dict[str, Any],
) -> Audience:
    return _audience(_there(await db.fetchrow(SQL.insert, org, new_id(), project, name, description, rules)))


async def find(db: Database | Connection, org: OrgId, audience: AudienceId) -> Audience | None:
    """Deleted ones too."""
    row = await db.fetchrow(SQL.find, org, audience)
    return None if row is None else _audience(row)


async def listed(db: Database | Connection, org: OrgId, project: ProjectId | None, page: Page) -> Listed[Audience]:
    rows = await db.fetch(SQL.listed, org, project, page.offset, page.size)
    total = rows[0]["total"] if rows else await db.fetchval(SQL.counted, org, project)
    return Listed([_audience(row) for row in rows], total)


async def of_project(db: Database | Connection, org: OrgId, project: ProjectId) -> list[Audience]:
    return [_audience(row) for row in await db.fetch(SQL.of_project, org, project, OF_PROJECT_MAX)]


async def update(
    db: Database | Connection,
    org: OrgId,
    audience: AudienceId,
    *,
    name: str | None,
    describes: bool,
    description: str | None,
    rules: dict[str, Any] | None,
) -> Audience | None:
    row = await db.fetchrow(SQL.update, org, audience, name, describes, description, rules)
    return None if row is None else _audience(row)


async def bury(db: Database | Connection, org: OrgId, audience: AudienceId) -> Audience | None:
    row = await db.fetchrow(SQL.bury, org, audience)
    return None if row is None else _audience(row)


async def as_of(connection: Connection) -> datetime:
    """Now, by the clock that all processes share, in whole milliseconds as the library counts."""
    now: datetime = await connection.fetchval(SQL.as_of)
    return from_millis(millis(now))


async def feed_all(
    connection: Connection, org: OrgId, project: ProjectId, rule: _core.Rule, now: datetime, into: _core.Evaluation
) -> None:
    """Everybody's events and profiles; only the types, times and columns that the rule asks for."""
    types, since_ms = rule.event_types(), rule.since(millis(now))
    if types:
        since = None if since_ms is None else from_millis(since_ms)
        await copy_out(
            connection, SQL.events, org, project, types, since, rule.wants_properties(), sink=into.feed_events
        )
    await copy_out(connection, SQL.people, org, project, sink=into.feed_profiles)


async def feed_one(
    connection: Connection,
    org: OrgId,
    project: ProjectId,
    person: str,
    names: Sequence[str],
    types: Sequence[str],
    since: datetime | None,
    properties: bool,
    *,
    events: Callable[[bytes], object],
    people: Callable[[bytes], object],
) -> None:
    """One person's events, under every name that the person ever had, and the profile."""
    if types:
        arguments = (org, project, list(types), since, person, properties, list(names))
        await copy_out(connection, SQL.events_of_one, *arguments, sink=events)
    await copy_out(connection, SQL.one_person, org, project, person, sink=people)


def _there(row: Record | None) -> Record:
    if row is None:
        raise RuntimeError("RETURNING gave no row")
    return row


def _audience(row: Record) -> Audience:
    return Audience(
        org=OrgId(row["org_id"]),
        id=AudienceId(row["id"]),
        project=ProjectId(row["project_id"]),
        name=row["name"],
        description=row["description"],
        rules=row["rules"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        deleted_at=row["deleted_at"],
    )
