"""Rows of contact lists, and people less the people of lists.

A contact keeps the name under which the person was added; whoever took that name over since is who is meant (C69), and
somebody who is there under two names is one person.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from sendora import _core
from sendora.kernel.ids import AudienceId, OrgId, ProjectId
from sendora.kernel.pg import Connection, Database, copy_in, copy_out, queries
from sendora.kernel.wire import Listed, Page

SQL: Final = queries(__file__, "contacts.sql")

MERGED_MAX: Final = 10_000
"""Names whose shard is worked out at a time."""


class Named(NamedTuple):
    """What a name leads to."""

    person: str
    listed: bool


class Held(NamedTuple):
    """A list that somebody is in."""

    audience: AudienceId
    name: str
    added_at: datetime


async def add(
    connection: Connection, org: OrgId, project: ProjectId, audience: AudienceId, names: Sequence[str]
) -> tuple[int, list[str]]:
    """How many people are new to the list, and the names that lead to nobody."""
    rows = await connection.fetch(SQL.resolve, org, project, audience, list(names))
    wanted = sorted({row["person"] for row in rows if not row["there"]})
    shards = list(_core.shards(project.bytes, wanted))
    done = await connection.execute(SQL.add, org, audience, project, wanted, shards)
    known = {row["name"] for row in rows}
    return _count(done), [name for name in names if name not in known]


async def remove(
    db: Database | Connection, org: OrgId, project: ProjectId, audience: AudienceId, names: Sequence[str]
) -> int:
    return _count(await db.execute(SQL.remove, org, project, audience, list(names)))


async def forget(db: Database | Connection, org: OrgId, project: ProjectId, names: Sequence[str]) -> None:
    """One person, out of every list."""
    await db.execute(SQL.forget, org, project, list(names))


async def sweep(db: Database | Connection, rows_max: int) -> int:
    return _count(await db.execute(SQL.sweep, rows_max))


async def listed(
    db: Database | Connection, org: OrgId, audience: AudienceId, page: Page
) -> Listed[tuple[str, datetime]]:
    """Contacts as they were added, in a stable order of no meaning."""
    rows = await db.fetch(SQL.listed, org, audience, page.offset, page.size)
    total = await db.fetchval(SQL.counted, org, audience)
    return Listed([(row["external_id"], row["added_at"]) for row in rows], total)


async def of_person(db: Database | Connection, org: OrgId, project: ProjectId, names: Sequence[str]) -> list[Held]:
    rows = await db.fetch(SQL.of_person, org, project, list(names))
    return [Held(AudienceId(row["audience_id"]), row["name"], row["added_at"]) for row in rows]


async def find(
    db: Database | Connection, org: OrgId, project: ProjectId, names: Sequence[str], lists: Sequence[AudienceId]
) -> dict[str, Named]:
    """Of each of these names the person that it leads to, and whether that person is in one of the lists."""
    rows = await db.fetch(SQL.find, org, project, list(names), list(lists))
    return {row["name"]: Named(row["person"], row["listed"]) for row in rows}


async def count_people(db: Database | Connection, org: OrgId, project: ProjectId, audience: AudienceId) -> int:
    """Different people who still are there."""
    row = await db.fetchrow(SQL.people, org, project, audience, 0, 0)
    return 0 if row is None else row["total"]


async def page_of_people(
    db: Database | Connection, org: OrgId, project: ProjectId, audience: AudienceId, page: Page
) -> Listed[str]:
    """The same people, in the order of their names."""
    row = await db.fetchrow(SQL.people, org, project, audience, page.offset, page.size)
    return Listed([], 0) if row is None else Listed(row["names"], row["total"])


async def leave_out(
    db: Database, org: OrgId, project: ProjectId, people: bytes, lists: Sequence[UUID]
) -> tuple[int, bytes]:
    """The people in a COPY of external ids less those of the lists: how many, and a COPY."""
    async with db.transaction(isolation="repeatable_read") as connection:
        sieve = Sieve(connection, org, project, [AudienceId(one) for one in lists])
        await sieve.open()
        left = await sieve.people(people)
    return len(_core.Split(project.bytes, left)), left


class Sieve:
    """People less people, in PostgreSQL, where lists lie: what passes through at a time is a shard, or what was given.

    It lives in a transaction of its connection, and reads lists as they are in that.
    """

    def __init__(self, connection: Connection, org: OrgId, project: ProjectId, lists: Sequence[AudienceId]) -> None:
        """Without the people of these lists."""
        self._connection = connection
        self._org = org
        self._project = project
        self._lists = list(lists)

    async def open(self, within: AudienceId | None = None) -> None:
        """Work out once who of the lists (and of the one that `contacts` reads) was taken over."""
        await self._connection.execute(SQL.make_sieve)
        asked = [*self._lists, *([] if within is None else [within])]
        if not asked:
            return
        cursor = await self._connection.cursor(SQL.merged, self._org, self._project, asked)
        while rows := await cursor.fetch(MERGED_MAX):
            people = [row["person"] for row in rows]
            shards = list(_core.shards(self._project.bytes, people))
            await self._connection.execute(SQL.keep_merged, [row["audience_id"] for row in rows], shards, people)

    async def people(self, people: bytes, minus: Sequence[bytes] = (), shard: int | None = None) -> bytes:
        """Of the people in a COPY of external ids (all of one shard, where that is told), those who are left."""
        await self._fill(people, minus)
        return await self._out(SQL.people_left, self._org, shard, self._lists)

    async def contacts(self, within: AudienceId, shard: int, minus: Sequence[bytes] = ()) -> bytes:
        """The same of the people of a list."""
        await self._fill(b"", minus)
        return await self._out(SQL.contacts_left, self._org, shard, self._lists, self._project, within)

    async def _fill(self, people: bytes, minus: Sequence[bytes]) -> None:
        await self._connection.execute(SQL.clear_sieve)
        if people:
            await copy_in(self._connection, "sieve_people", ["external_id"], people)
        for others in minus:
            await copy_in(self._connection, "sieve_minus", ["external_id"], others)

    async def _out(self, sql: str, *args: object) -> bytes:
        pieces: list[bytes] = []
        await copy_out(self._connection, sql, *args, sink=pieces.append)
        return b"".join(pieces)


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])
