"""Who a send is for, and what the decision needs of them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

import msgspec

from sendora.delivery.phases import Chunk
from sendora.kernel.clock import iso
from sendora.kernel.ids import OrgId, ProjectId, new_id
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Connection, Database, copy_in, copy_out, queries
from sendora.modules.push.model.tokens import guess_platform
from sendora.modules.push.store.tokens import RAW, shards

SQL: Final = queries(__file__, "targets.sql")

ADOPTED_MAX: Final = 10_000
"""Devices of one statement, a few megabytes."""

ADOPTIONS_MAX: Final = 100
"""A million devices before one send; what is left is found by the next, and followed until then."""


async def count_users(db: Database | Connection, org: OrgId, project: ProjectId, users: Sequence[str]) -> int:
    counted: int = await db.fetchval(SQL.count_users, org, project, list(users))
    return counted


async def plan_users(
    connection: Connection, org: OrgId, project: ProjectId, users: Sequence[str], zone: str | None = None
) -> int:
    """How many of the users have no device. `zone`, here and below: where each has the send in their own zone, that of
    devices of which none is known."""
    await _adopt(connection, org, project, list(users))
    unreachable: int = await connection.fetchval(SQL.plan_users, org, project, list(users), zone)
    return unreachable


@asynccontextmanager
async def slices(kernel: Kernel, org: OrgId, project: ProjectId, zone: str | None = None) -> AsyncIterator["Slices"]:
    """Open onto one snapshot of the devices: one that changes hands while the slices are planned is in one of them."""
    async with kernel.db.acquire() as connection:
        await _adopt(connection, org, project, None)
        async with connection.transaction(isolation="repeatable_read"):
            await connection.execute(SQL.make_slices)
            await connection.execute(SQL.fill_merged, org, project)
            await connection.execute(SQL.index_merged)
            yield Slices(connection, org, project, zone)


class Slices:
    """The members of an audience become devices, shard by shard."""

    def __init__(self, connection: Connection, org: OrgId, project: ProjectId, zone: str | None) -> None:
        self.connection = connection
        """Whose snapshot it is: what else decides who is in a slice is read there too."""
        self._org = org
        self._project = project
        self._zone = zone

    async def plan(self, planner: Connection, shard: int, members: bytes) -> int:
        """Write the devices of these members (of one shard) into the planner's table; how many members have none."""
        await self.connection.execute(SQL.clear_slice)
        await copy_in(self.connection, "audience_members", ["external_id"], members)
        await self.connection.execute(SQL.fill_slice, self._org, self._project, self._zone)
        found: list[bytes] = []
        await copy_out(self.connection, SQL.targets_of_slice, shard, sink=found.append)
        await copy_in(planner, "plan_targets", ["shard", "recipient", "zone"], b"".join(found))
        unreachable: int = await self.connection.fetchval(SQL.unreachable_of_slice)
        return unreachable


async def reach(kernel: Kernel, org: OrgId, project: ProjectId, members: bytes) -> dict[str, int]:
    """How many active devices the people in a COPY of external ids have, by platform."""
    async with kernel.db.transaction() as connection:
        await connection.execute(SQL.make_slices)
        await connection.execute(SQL.fill_merged, org, project)
        await connection.execute(SQL.index_merged)
        await copy_in(connection, "audience_members", ["external_id"], members)
        await connection.execute(SQL.count_members)
        return {row["platform"]: row["devices"] for row in await connection.fetch(SQL.reach, org, project)}


async def _adopt(connection: Connection, org: OrgId, project: ProjectId, users: list[str] | None) -> None:
    """Write devices of people who were taken over to whom they became (B066), so that all devices of one person are in
    one shard, where caps count them together. Every look-up follows takeovers anyway, so nothing waits for this."""
    for _ in range(ADOPTIONS_MAX):
        if users is None:
            strays = await connection.fetch(SQL.strays, org, project, ADOPTED_MAX)
        else:
            strays = await connection.fetch(SQL.strays_of_users, org, project, users, ADOPTED_MAX)
        if strays:
            persons = [row["person"] for row in strays]
            ids, names = [row["id"] for row in strays], [row["user_id"] for row in strays]
            await connection.execute(SQL.adopt, org, project, ids, names, persons, list(shards(project, persons)))
        if len(strays) < ADOPTED_MAX:
            return


async def plan_tokens(
    connection: Connection, org: OrgId, project: ProjectId, tokens: Sequence[str], zone: str | None = None
) -> int:
    """Plan raw tokens, whatever their state (B095); how many cannot be reached.

    A browser's endpoint that nobody registered has no keys to encrypt with, and a token of another project is not this
    send's to use.
    """
    known = {row["token"] for row in await connection.fetch(SQL.known_tokens, org, list(tokens))}
    strangers = [token for token in tokens if token not in known and guess_platform(token) != "web"]
    if strangers:
        ids = [new_id() for _ in strangers]
        await connection.execute(
            SQL.add_raw,
            org,
            project,
            ids,
            strangers,
            [guess_platform(token) for token in strangers],
            list(shards(project, [str(id_) for id_ in ids])),
            RAW,
        )
    planned: int = await connection.fetchval(SQL.plan_tokens, org, project, list(tokens), zone)
    return len(tokens) - planned


async def rows(connection: Connection, project: ProjectId, chunk: Chunk, *, known: bool) -> bytes:
    """`known`: with what is known of each person; half the work where no placeholder asks for it."""
    pieces: list[bytes] = []
    guessed: list[UUID] = []
    if chunk.attempt > 1:
        shard = (chunk.org, chunk.send, chunk.shard)
        guessed = [row["recipient"] for row in await connection.fetch(SQL.refused_elsewhere, *shard)]
        if guessed:
            # Before it is known to be right: if the other environment refuses it as well, the device is dead in both.
            await connection.execute(SQL.move_elsewhere, *shard)
    # A takeover that is committed between the two looks is one that came after both.
    sql = SQL.rows if await connection.fetchval(SQL.has_takeovers, chunk.org, project) else SQL.rows_straight
    key = (chunk.org, chunk.send, chunk.shard, chunk.seq, project, known, guessed)
    await copy_out(connection, sql, *key, sink=pieces.append)
    return b"".join(pieces)


async def row_of(connection: Connection, org: OrgId, project: ProjectId, recipient: UUID) -> bytes:
    """The row of `rows` for one device, that may be gone."""
    pieces: list[bytes] = []
    await copy_out(connection, SQL.row_of, org, project, recipient, sink=pieces.append)
    return b"".join(pieces)


async def person_of(db: Database, org: OrgId, project: ProjectId, recipient: UUID) -> str | None:
    """Whose device it is now, whoever took them over."""
    found = await db.fetch(SQL.scopes, org, project, [recipient])
    return found[0]["person"] if found else None


async def scopes(
    db: Database | Connection, org: OrgId, project: ProjectId, recipients: Sequence[UUID]
) -> dict[UUID, bytes]:
    """What placeholders may name, as the library's templates take it (B122, B123)."""
    found = {}
    for row in await db.fetch(SQL.scopes, org, project, list(recipients)):
        user = {
            "userId": row["person"],
            "email": row["email"],
            "locale": row["locale"],
            "timezone": row["timezone"],
            "createdAt": None if row["created_at"] is None else iso(row["created_at"]),
            "lastSeenAt": None if row["last_seen_at"] is None else iso(row["last_seen_at"]),
        }
        known = {key: value for key, value in user.items() if value is not None}
        found[row["id"]] = msgspec.json.encode({"event": {}, "user": known, "trait": row["traits"] or {}})
    return found
