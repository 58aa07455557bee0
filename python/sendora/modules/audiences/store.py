"""Rows of audiences as structs, and the streams that an evaluation, or an index, is fed with."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, NamedTuple

from asyncpg import Record

from sendora import _core
from sendora.kernel.clock import from_millis, iso, millis
from sendora.kernel.ids import AudienceId, OrgId, ProjectId, new_id
from sendora.kernel.pg import Connection, Database, copy_out, key_range, months, queries
from sendora.kernel.wire import Listed, Page
from sendora.modules import events, profiles
from sendora.modules.audiences.model import Audience, Evaluated

SQL: Final = queries(__file__)

OF_PROJECT_MAX: Final = 1_000
"""Audiences of a project that one person is tested against; the oldest first."""

READERS: Final = (events.STORER, profiles.READER)
"""Whose tables an answer is made of."""

Sink = Callable[[bytes], object]


class Stored(NamedTuple):
    """How far the readers of the log have come."""

    events: int
    profiles: int

    @property
    def both(self) -> int:
        return min(self)


async def insert(
    db: Database | Connection,
    org: OrgId,
    project: ProjectId,
    name: str,
    description: str | None,
    rules: dict[str, Any] | None,
) -> Audience:
    """A contact list, without rules."""
    type_ = "list" if rules is None else "rules"
    return _audience(_there(await db.fetchrow(SQL.insert, org, new_id(), project, name, description, type_, rules)))


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


async def evaluated(db: Database | Connection, org: OrgId, sizes: Mapping[AudienceId, tuple[datetime, int]]) -> None:
    """Evaluations that came to an end: as of when, and how many. Written at most once a minute, unless they say
    something new."""
    ids = sorted(sizes)
    await db.execute(SQL.evaluated, org, ids, [sizes[one][0] for one in ids], [sizes[one][1] for one in ids])


async def failed(db: Database | Connection, org: OrgId, audience: AudienceId, error: str) -> None:
    await db.execute(SQL.evaluation_failed, org, audience, error)


async def evaluations(
    db: Database | Connection, org: OrgId, audiences: Sequence[AudienceId]
) -> dict[AudienceId, Evaluated]:
    """How the last evaluations of each went; who was never evaluated is missing."""
    return {
        AudienceId(row["audience_id"]): Evaluated(
            at=None if row["at"] is None else iso(row["at"]),
            age_seconds=row["age"],
            size=row["size"],
            error=row["error"],
            failed_at=None if row["failed_at"] is None else iso(row["failed_at"]),
        )
        for row in await db.fetch(SQL.evaluations, org, list(audiences))
    }


async def bury(db: Database | Connection, org: OrgId, audience: AudienceId) -> Audience | None:
    """Its tombstone; the contacts of a list are swept afterwards."""
    await db.execute(SQL.forget_evaluation, org, audience)
    row = await db.fetchrow(SQL.bury, org, audience)
    return None if row is None else _audience(row)


async def as_of(connection: Database | Connection) -> datetime:
    """Now, by the clock that all processes share, in whole milliseconds as the library counts."""
    now: datetime = await connection.fetchval(SQL.as_of)
    return from_millis(millis(now))


async def moment(db: Database | Connection) -> tuple[datetime, int]:
    """Now, as `as_of`, and the position of the log whose traces an answer from the tables could show."""
    row = _there(await db.fetchrow(SQL.moment, list(READERS)))
    return from_millis(millis(row["now"])), row["position"]


async def stored(db: Database | Connection) -> Stored:
    found = {row["consumer"]: row["position"] for row in await db.fetch(SQL.stored, list(READERS))}
    return Stored(found.get(events.STORER, 0), found.get(profiles.READER, 0))


async def skips(db: Database, above: int, through: int) -> dict[int, list[int]]:
    """What the storer left out of the frames in between, by position."""
    return {row["position"]: row["ordinals"] for row in await db.fetch(SQL.skips, above, through)}


async def cuts(db: Database | Connection, projects: Iterable[tuple[OrgId, ProjectId]]) -> dict[ProjectId, int]:
    """How often events were taken away from each of these that ever lost some."""
    asked = list(projects)
    rows = await db.fetch(SQL.cuts, [org for org, _ in asked], [project for _, project in asked])
    return {ProjectId(row["project_id"]): row["cuts"] for row in rows}


async def cuts_of(db: Database | Connection, projects: Iterable[ProjectId]) -> dict[ProjectId, int]:
    """The same, for whoever does not know the orgs."""
    rows = await db.fetch(SQL.cuts_of, list(projects))
    return {ProjectId(row["project_id"]): row["cuts"] for row in rows}


@asynccontextmanager
async def snapshot(connection: Connection) -> AsyncIterator[None]:
    """One view of events, days and people for all that is read inside."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(SQL.hold_events)
        yield


async def feed_all(
    connection: Connection, org: OrgId, project: ProjectId, rule: _core.Rule, now: datetime, into: _core.Evaluation
) -> None:
    """Everybody's events and profiles; only the types, times and columns that the rule asks for."""
    await _feed_happened(connection, org, project, rule, now, None, into)
    await copy_out(connection, SQL.people, org, project, sink=into.feed_profiles)


async def feed_some(
    connection: Connection,
    org: OrgId,
    project: ProjectId,
    rule: _core.Rule,
    now: datetime,
    names: Sequence[str],
    into: _core.Evaluation,
) -> None:
    """The same of the people who have these names now."""
    await _feed_happened(connection, org, project, rule, now, list(names), into)
    await copy_out(connection, SQL.people_of_some, org, project, list(names), sink=into.feed_profiles)


async def _feed_happened(
    connection: Connection,
    org: OrgId,
    project: ProjectId,
    rule: _core.Rule,
    now: datetime,
    names: list[str] | None,
    into: _core.Evaluation,
) -> None:
    """Events and days; `names` None: everybody's."""
    types, since_ms = rule.event_types(), rule.since(millis(now))
    if not types:
        return
    asked = (org, project, types, None if since_ms is None else from_millis(since_ms))
    await copy_out(connection, SQL.events, *asked, rule.wants_properties(), names, sink=into.feed_events)
    if await connection.fetchval(SQL.has_days, org, project):
        await copy_out(connection, SQL.days, *asked, names, sink=into.feed_days)


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
    until: datetime | None = None,
    happened: Sink,
    days: Sink,
    people: Sink,
) -> None:
    """One person's events, under every name that the person ever had, and the profile. `until`: only events that had
    arrived by then."""
    if types:
        arguments = (org, project, list(types), since, person, properties, list(names), until)
        await copy_out(connection, SQL.events_of_one, *arguments, sink=happened)
        await copy_out(connection, SQL.days_of_one, org, project, list(types), person, list(names), sink=days)
    await copy_out(connection, SQL.one_person, org, project, person, sink=people)


async def feed_mirrored(
    connection: Connection,
    org: OrgId,
    project: ProjectId,
    person: str,
    names: Sequence[str],
    rule: _core.Rule,
    now: datetime,
    mirror: datetime,
    into: _core.Evaluation,
    until: datetime | None = None,
) -> None:
    """One person's events of a rule with one leaf, each at `mirror` less its instant: the first becomes the last."""
    since_ms = rule.since(millis(now))
    since = None if since_ms is None else from_millis(since_ms)
    asked = (org, project, rule.event_types(), since, person, mirror, list(names))
    await copy_out(connection, SQL.mirrored_events, *asked, rule.wants_properties(), until, sink=into.feed_events)
    await copy_out(connection, SQL.mirrored_days, *asked, sink=into.feed_days)
    await copy_out(connection, SQL.one_person, org, project, person, sink=into.feed_profiles)


async def load(
    connection: Connection, org: OrgId, project: ProjectId, into: _core.Index, fits: Callable[[], None]
) -> None:
    """Fill an index with everything, inside of `snapshot`; `fits` raises when it has grown too large."""
    await copy_out(connection, SQL.load_people, org, project, sink=into.load_people)
    fits()
    for month in await months(connection, "events"):
        await copy_out(connection, SQL.load_events, org, project, *key_range(month), sink=into.load_events)
        fits()
    await copy_out(connection, SQL.load_days, org, project, sink=into.load_days)
    fits()


async def load_stream(connection: Connection, org: OrgId, project: ProjectId, types: Sequence[str], sink: Sink) -> None:
    """Everything of these types with its properties, inside of `snapshot`."""
    for month in await months(connection, "events"):
        await copy_out(connection, SQL.load_stream, org, project, *key_range(month), list(types), sink=sink)


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
        type=row["type"],
        rules=row["rules"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        deleted_at=row["deleted_at"],
    )
