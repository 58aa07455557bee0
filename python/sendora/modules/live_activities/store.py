"""Rows of this room as structs: its only SQL."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from asyncpg import Record

from sendora import _core
from sendora.delivery.phases import Chunk
from sendora.kernel.ids import NIL, OrgId, ProjectId, SendId, new_id
from sendora.kernel.pg import Connection, Database, copy_out, queries
from sendora.kernel.wire import Listed, Page
from sendora.modules.live_activities.model import (
    HOUR_S,
    Activity,
    Alert,
    Environment,
    Platform,
    Said,
    StarterIn,
    StartTokenIn,
    Status,
)

SQL: Final = queries(__file__)

BITE_MAX: Final = 1_000
"""Rows of one statement: a transaction of well below a second."""


class Person(msgspec.Struct, frozen=True):
    """Who a name is now, and every name that the person has."""

    id: str
    names: list[str]


class Startable(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody whom a start names."""

    person: str
    starter: UUID | None
    was_there: bool
    """There is, or was, an activity of that name already."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """An activity just before a payload of it is built."""

    id: UUID
    activity_type: str
    external_id: str
    status: Status
    awaited: bool
    """Its device has not told a token yet."""
    superseded: bool
    """Something newer was taken already."""


class Fate(msgspec.Struct, frozen=True, kw_only=True):
    """How a payload ended: the activity it was of, and the send it was in."""

    org: OrgId
    send: SendId
    activity: UUID
    at: datetime
    reason: str = ""
    dead_at: datetime | None = None
    """Since when the token is dead; None when nothing says so."""


class Aged(msgspec.Struct, frozen=True):
    org: OrgId
    project: ProjectId
    id: UUID


# -- registering


async def person(db: Database | Connection, org: OrgId, project: ProjectId, name: str) -> Person:
    row = _there(await db.fetchrow(SQL.person, org, project, name))
    return Person(row["person"], row["names"])


async def claim(connection: Connection, org: OrgId, *names: str) -> None:
    """Until the transaction ends nobody else has any of these."""
    await connection.execute(SQL.claim, org, list(names))


async def involved(
    connection: Connection, org: OrgId, project: ProjectId, names: Sequence[str], said: StartTokenIn
) -> list[Activity]:
    """Every activity of the key, and whichever lives with the token; locked."""
    rows = await connection.fetch(
        SQL.involved, org, project, list(names), said.activity_type, said.external_id, said.push_token
    )
    return [_activity(row) for row in rows]


async def move_token(connection: Connection, org: OrgId, token: str, to: UUID | None, reason: str) -> None:
    await connection.execute(SQL.move_token, org, token, to, reason)


async def begin(
    connection: Connection, org: OrgId, project: ProjectId, person: str, said: StartTokenIn
) -> Activity | None:
    """None when a start has just made it."""
    row = await connection.fetchrow(
        SQL.begin,
        org,
        new_id(),
        project,
        person,
        said.activity_type,
        said.external_id,
        said.platform,
        said.push_token,
        said.environment or "production",
        said.bundle_id,
        _shards(project, [person])[0],
    )
    return None if row is None else _activity(row)


async def register(connection: Connection, org: OrgId, id_: UUID, said: StartTokenIn, *, lives: bool) -> Activity:
    row = await connection.fetchrow(
        SQL.register, org, id_, said.push_token, said.platform, said.environment, said.bundle_id, lives
    )
    return _activity(_there(row))


async def put_starter(connection: Connection, org: OrgId, project: ProjectId, person: Person, said: StarterIn) -> UUID:
    """One row for each person, device and type; a token that another row has is taken from it."""
    device = said.device_id or ""
    known = await connection.fetch(
        SQL.involved_starters, org, project, person.names, said.activity_type, device, said.push_token
    )
    others = [row["id"] for row in known if (row["user_id"], row["device_id"]) != (person.id, device)]
    await connection.execute(SQL.drop_starters, org, others)
    id_: UUID = await connection.fetchval(
        SQL.put_starter,
        org,
        new_id(),
        project,
        person.id,
        device,
        said.activity_type,
        said.push_token,
        said.environment,
        said.bundle_id,
    )
    return id_


# -- what happens to one


async def find(db: Database | Connection, org: OrgId, project: ProjectId, id_: UUID) -> Activity | None:
    row = await db.fetchrow(SQL.find, org, project, id_)
    return None if row is None else _activity(row)


async def advance(
    connection: Connection,
    org: OrgId,
    project: ProjectId,
    id_: UUID,
    content_state: Mapping[str, Any] | None,
    *,
    over: Status | None = None,
    reason: str | None = None,
) -> Activity | None:
    """Take the next timestamp, and the state along with it; None when the activity does not live. Locked until the
    transaction ends."""
    row = await connection.fetchrow(SQL.advance, org, project, id_, content_state, over, reason)
    return None if row is None else _activity(row)


async def urgent_lately(connection: Connection, activity: Activity) -> int:
    counted: int = await connection.fetchval(SQL.count_urgent, activity.org, activity.id, activity.stamp, HOUR_S)
    return counted


async def insert_update(connection: Connection, activity: Activity, send: SendId, said: Said) -> None:
    await connection.execute(
        SQL.insert_update,
        activity.org,
        activity.id,
        said.stamp,
        send,
        said.event,
        said.urgent,
        said.content_state,
        None if said.alert is None else msgspec.to_builtins(said.alert),
        said.stale_s,
        said.dismiss_s,
        said.relevance,
    )


async def find_said(db: Database | Connection, org: OrgId, activity: UUID, stamp: int) -> Said | None:
    """None when it has been forgotten."""
    row = await db.fetchrow(SQL.find_update, org, activity, stamp)
    return None if row is None else _said(row)


async def listed(
    db: Database | Connection, org: OrgId, project: ProjectId, status: Status, users: Sequence[str] | None, page: Page
) -> Listed[Activity]:
    rows = await db.fetch(SQL.listed, org, project, status, users, page.offset, page.size)
    total = rows[0]["total"] if rows else await db.fetchval(SQL.counted, org, project, status, users)
    return Listed([_activity(row) for row in rows], total)


# -- starting by push


async def startable(
    connection: Connection,
    org: OrgId,
    project: ProjectId,
    users: Sequence[str],
    activity_type: str,
    external_id: str,
) -> list[Startable]:
    rows = await connection.fetch(SQL.startable, org, project, list(users), activity_type, external_id)
    return [Startable(person=row["person"], starter=row["starter"], was_there=row["was_there"]) for row in rows]


async def second(db: Database | Connection) -> int:
    """PostgreSQL's now, in seconds since 1970."""
    now_s: int = await db.fetchval(SQL.second)
    return now_s


async def start(
    connection: Connection,
    org: OrgId,
    project: ProjectId,
    activity_type: str,
    external_id: str,
    said: Said,
    whom: Sequence[tuple[str, UUID]],
) -> list[UUID]:
    """Activities that are starting, by (person, starter); without those that somebody else starts at this moment."""
    persons = [person for person, _ in whom]
    rows = await connection.fetch(
        SQL.start,
        org,
        project,
        activity_type,
        external_id,
        said.stamp,
        said.content_state,
        [new_id() for _ in whom],
        persons,
        [starter for _, starter in whom],
        list(_shards(project, persons)),
    )
    return [row["id"] for row in rows]


async def keep_start(connection: Connection, org: OrgId, activities: Sequence[UUID], send: SendId, said: Said) -> None:
    await connection.execute(SQL.keep_start, org, list(activities), send, msgspec.to_builtins(said))


async def find_start(db: Database | Connection, org: OrgId, send: UUID) -> Said | None:
    """None when it has been forgotten."""
    said = await db.fetchval(SQL.find_start, org, send)
    return None if said is None else msgspec.convert(said, Said)


# -- for the channel


async def plan(connection: Connection, org: OrgId, project: ProjectId, activities: Sequence[UUID]) -> None:
    await connection.execute(SQL.plan, org, project, list(activities))


async def rows(connection: Connection, project: ProjectId, chunk: Chunk, *, starts: bool) -> bytes:
    pieces: list[bytes] = []
    key = (chunk.org, chunk.send, chunk.shard, chunk.seq, project, starts)
    await copy_out(connection, SQL.rows, *key, sink=pieces.append)
    return b"".join(pieces)


async def standing(
    db: Database | Connection, org: OrgId, activities: Sequence[UUID], stamp: int
) -> dict[UUID, Standing]:
    rows = await db.fetch(SQL.standing, org, list(activities), stamp)
    return {
        row["id"]: Standing(
            id=row["id"],
            activity_type=row["activity_type"],
            external_id=row["external_id"],
            status=row["status"],
            awaited=row["awaited"],
            superseded=row["superseded"],
        )
        for row in rows
    }


# -- what came back


async def accepted(db: Database | Connection, fates: Sequence[Fate]) -> list[tuple[Activity, SendId, datetime]]:
    """Those that were updates, with their activities."""
    rows = await db.fetch(
        SQL.accepted,
        [one.org for one in fates],
        [one.send for one in fates],
        [one.activity for one in fates],
        [one.at for one in fates],
    )
    return [(_activity(row), SendId(row["send_id"]), row["at"]) for row in rows]


async def invalidate(connection: Connection, fates: Sequence[Fate]) -> None:
    """The activities whose tokens are dead, and those whose start came to nobody; and the dead tokens of starts."""
    await connection.execute(
        SQL.invalidate,
        [one.org for one in fates],
        [one.send for one in fates],
        [one.activity for one in fates],
        [one.reason for one in fates],
        [one.dead_at is not None for one in fates],
        [one.dead_at or one.at for one in fates],
    )
    dead = [one for one in fates if one.dead_at is not None]
    await connection.execute(
        SQL.retire_starters,
        [one.org for one in dead],
        [one.send for one in dead],
        [one.activity for one in dead],
        [one.dead_at for one in dead],
    )


# -- for the jobs


async def expire(db: Database | Connection, life_s: float, reason: str) -> int:
    return _affected(await db.execute(SQL.expire, life_s, reason, BITE_MAX))


async def aged(db: Database | Connection, life_s: float) -> list[Aged]:
    return [
        Aged(OrgId(row["org_id"]), ProjectId(row["project_id"]), row["id"])
        for row in await db.fetch(SQL.aged, life_s, BITE_MAX)
    ]


async def give_up(db: Database | Connection, wait_s: float, reason: str) -> int:
    return _affected(await db.execute(SQL.give_up, wait_s, reason, BITE_MAX))


async def untold(db: Database | Connection) -> list[Activity]:
    return [_activity(row) for row in await db.fetch(SQL.untold, BITE_MAX)]


async def set_told(db: Database | Connection, told: Sequence[Activity]) -> None:
    await db.execute(SQL.set_told, [one.org for one in told], [one.id for one in told], [one.status for one in told])


async def collect(db: Database | Connection, days: int) -> int:
    return _affected(await db.execute(SQL.collect, days, BITE_MAX))


# -- one person


async def forget(db: Database | Connection, org: OrgId, project: ProjectId, name: str) -> None:
    await db.execute(SQL.forget, org, project, name)


async def of_person(db: Database, org: OrgId, project: ProjectId, name: str) -> AsyncIterator[Activity]:
    after = NIL
    while rows := await db.fetch(SQL.activities_of_person, org, project, name, after, BITE_MAX):
        for row in rows:
            yield _activity(row)
        after = rows[-1]["id"]


async def updates_of(db: Database, activity: Activity) -> AsyncIterator[tuple[SendId, Said]]:
    after = -1
    while rows := await db.fetch(SQL.updates_of_activity, activity.org, activity.id, after, BITE_MAX):
        for row in rows:
            yield SendId(row["send_id"]), _said(row)
        after = rows[-1]["stamp"]


async def starters_of(db: Database, org: OrgId, project: ProjectId, name: str) -> AsyncIterator[Record]:
    after = NIL
    while rows := await db.fetch(SQL.starters_of_person, org, project, name, after, BITE_MAX):
        for row in rows:
            yield row
        after = rows[-1]["id"]


# -- rows


def _shards(project: ProjectId, persons: Sequence[str]) -> bytes:
    return _core.shards(project.bytes, persons)


def _affected(status: str) -> int:
    return int(status.rpartition(" ")[2])


def _there(row: Record | None) -> Record:
    if row is None:
        raise LookupError("a row that must be there is not")
    return row


def _activity(row: Record) -> Activity:
    platform: Platform = row["platform"]
    environment: Environment = row["environment"]
    return Activity(
        org=OrgId(row["org_id"]),
        id=row["id"],
        project=ProjectId(row["project_id"]),
        user_id=row["user_id"],
        activity_type=row["activity_type"],
        external_id=row["external_id"],
        platform=platform,
        token=row["token"],
        environment=environment,
        status=row["status"],
        reason=row["reason"],
        stamp=row["stamp"],
        content_state=row["content_state"],
        start_send=row["start_send"],
        told=row["told"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        updated_at=row["updated_at"],
        ended_at=row["ended_at"],
    )


def _said(row: Record) -> Said:
    return Said(
        event=row["event"],
        stamp=row["stamp"],
        urgent=row["urgent"],
        content_state=row["content_state"],
        alert=None if row["alert"] is None else msgspec.convert(row["alert"], Alert),
        stale_s=row["stale_s"],
        dismiss_s=row["dismiss_s"],
        relevance=row["relevance"],
    )
