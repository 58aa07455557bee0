"""Rows of this floor as structs: sends, plans, the queue of chunks. The ledger's own statements are in ledger.py."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from asyncpg import Record

from sendora.delivery.phases import CHUNK_SIZE, Chunk, Class, Send, Submission
from sendora.delivery.state import destination, origins
from sendora.kernel.ids import OrgId, ProjectId, SendId
from sendora.kernel.pg import Connection, Database, queries
from sendora.kernel.wire import Listed, Page

SQL: Final = queries(__file__)

ChunkKey = tuple[OrgId, SendId, int, int]
"""(org, send, shard, seq)."""


class Due(msgspec.Struct, frozen=True):
    """A chunk that waits in the queue, before it is claimed."""

    org: OrgId
    send: SendId
    shard: int
    seq: int
    class_: Class
    size: int
    claims: int
    """How often it was taken up without an outcome."""

    @property
    def key(self) -> ChunkKey:
        return self.org, self.send, self.shard, self.seq


class Claim(msgspec.Struct, frozen=True):
    """A chunk that was taken up, and how often that has happened."""

    chunk: Chunk
    claims: int
    retried_at: datetime | None
    """When its send's time last began anew."""
    stopped: bool
    late: bool


class Round(msgspec.Struct, frozen=True):
    """What one round of a plan has committed."""

    shards: Sequence[int]
    chunks: int
    recipients: int
    ended: bool
    """No shard has more to plan than it was given room for."""


class PlanLost(Exception):
    """Another planner has the send, or nobody wants it any more."""


# -- sends


async def insert_send(
    db: Database | Connection, org: OrgId, send: SendId, asked: Submission, log_position: int
) -> Send:
    """The send, or the one that has this id already: an occurrence that somebody else has made."""
    row = await db.fetchrow(
        SQL.insert_send,
        org,
        send,
        asked.project,
        asked.channel,
        asked.class_,
        asked.delivery,
        asked.target,
        asked.content,
        log_position,
        float(asked.ttl_s),
        asked.scheduled_for,
        asked.token_count,
        None if asked.late_s is None else float(asked.late_s),
        asked.local_at,
        asked.schedule_id,
    )
    return _send(_there(row or await db.fetchrow(SQL.find_send, org, send)))


async def find_send(db: Database | Connection, org: OrgId, send: SendId) -> Send | None:
    row = await db.fetchrow(SQL.find_send, org, send)
    return None if row is None else _send(row)


async def sends_of(db: Database | Connection, org: OrgId, sends: Sequence[SendId]) -> list[Send]:
    return [_send(row) for row in await db.fetch(SQL.sends_of, org, list(sends))]


async def list_sends(
    db: Database | Connection,
    org: OrgId,
    project: ProjectId,
    channel: str,
    statuses: Collection[str] | None,
    page: Page,
) -> Listed[Send]:
    wanted = None if statuses is None else list(statuses)
    total: int = await db.fetchval(SQL.count_sends, org, project, channel, wanted)
    rows = await db.fetch(SQL.list_sends, org, project, channel, wanted, page.size, page.offset)
    return Listed([_send(row) for row in rows], total)


async def step_send(db: Database | Connection, org: OrgId, send: SendId, step: str, *, closes: bool) -> Send | None:
    """Take a step of state.py; None when the send does not stand where the step begins."""
    row = await db.fetchrow(SQL.step_send, org, send, destination(step), origins(step), closes)
    return None if row is None else _send(row)


async def cancel_send(db: Database | Connection, org: OrgId, send: SendId, *, error: str | None = None) -> Send | None:
    """None when the send is not scheduled any more."""
    row = await db.fetchrow(SQL.cancel_send, org, send, destination("cancel"), origins("cancel"), error)
    return None if row is None else _send(row)


async def stop_send(db: Database | Connection, org: OrgId, send: SendId) -> Send | None:
    """None when the send has not begun or is closed."""
    row = await db.fetchrow(SQL.stop_send, org, send, destination("stop"), origins("stop"))
    return None if row is None else _send(row)


async def lock_send(connection: Connection, org: OrgId, send: SendId) -> Send | None:
    row = await connection.fetchrow(SQL.lock_send, org, send)
    return None if row is None else _send(row)


async def reopen_send(connection: Connection, org: OrgId, send: SendId, *, renews: bool) -> Send:
    """A closed send runs again, and has its time anew; one that runs or is paused stays so, and has it if `renews`."""
    row = await connection.fetchrow(SQL.reopen_send, org, send, destination("reopen"), origins("reopen"), renews)
    return _send(_there(row))


async def take_numbers(connection: Connection, org: OrgId, send: SendId, shard: int, n: int) -> int:
    """The first of the next `n` chunk numbers of a shard."""
    first: int = _there(await connection.fetchrow(SQL.take_numbers, [org], [send], [shard], [n]))["first"]
    return first


async def claim_scheduled(db: Database | Connection, limit: int, log_position: int) -> int:
    return len(await db.fetch(SQL.claim_scheduled, destination("claim"), limit, log_position))


async def next_scheduled_s(db: Database | Connection) -> float | None:
    """Seconds until the next send is due, negative when it is late, None when there is none."""
    seconds: float | None = await db.fetchval(SQL.next_scheduled_s)
    return seconds


# -- plan


async def claim_plan(
    db: Database | Connection, lease_s: float, classes: Sequence[Class]
) -> tuple[Send, int, int] | None:
    """(send, epoch, how often it was taken up)."""
    row = await db.fetchrow(SQL.claim_plan, lease_s, classes)
    return None if row is None else (_send(row), row["plan_epoch"], row["plan_claims"])


async def keep_plan(db: Database | Connection, org: OrgId, send: SendId, epoch: int, lease_s: float) -> bool:
    return await db.fetchval(SQL.keep_plan, org, send, epoch, lease_s) is not None


async def postpone_plan(db: Database | Connection, org: OrgId, send: SendId, epoch: int, wait_s: float) -> None:
    await db.execute(SQL.postpone_plan, org, send, epoch, wait_s)


async def stored_position(db: Database | Connection, consumers: Sequence[str]) -> int | None:
    position: int | None = await db.fetchval(SQL.stored_position, list(consumers))
    return position


async def keep_round(connection: Connection, org: OrgId, send: SendId, epoch: int, lease_s: float) -> None:
    """First in a round's transaction: the send is locked; raises PlanLost when it is not ours any more."""
    if not await keep_plan(connection, org, send, epoch, lease_s):
        raise PlanLost(send)


async def run_send(connection: Connection, org: OrgId, send: SendId) -> None:
    """With its first chunk a send runs; later rounds, and a paused send, stay where they are."""
    await step_send(connection, org, send, "plan", closes=False)


async def zones_of_targets(connection: Connection) -> list[str]:
    return [row["zone"] for row in await connection.fetch(SQL.zones_of_targets)]


async def plan_round(
    connection: Connection, send: Send, chunks_per_shard: int, due_in: Mapping[str, datetime]
) -> Round:
    """The next chunks of each shard and the positions that they reach; an empty round is the end. `due_in`: when the
    send is due in each zone of its recipients, if each has it in their own."""
    await connection.execute(SQL.lock_positions, send.org, send.id)
    rows = await connection.fetch(
        SQL.plan_round,
        send.org,
        send.id,
        chunks_per_shard,
        CHUNK_SIZE,
        send.class_,
        list(due_in),
        list(due_in.values()),
    )
    last: dict[int, UUID] = {}
    next_seq: dict[int, int] = {}
    by_shard: Counter[int] = Counter()
    for row in rows:
        shard = row["shard"]
        last[shard] = max(last.get(shard, row["last"]), row["last"])
        next_seq[shard] = max(next_seq.get(shard, 0), row["seq"] + 1)
        by_shard[shard] += row["size"]
    ended = max(by_shard.values(), default=0) < chunks_per_shard * CHUNK_SIZE
    committed = Round(sorted(last), len(rows), by_shard.total(), ended)
    if rows:
        shards = committed.shards
        await connection.execute(
            SQL.set_positions,
            send.org,
            send.id,
            shards,
            [last[shard] for shard in shards],
            [next_seq[shard] for shard in shards],
        )
    return committed


async def end_plan(
    db: Database | Connection,
    org: OrgId,
    send: SendId,
    epoch: int,
    *,
    unreachable: int,
    as_of: datetime | None,
    complete: bool,
    kept: dict[str, Any] | None,
    error: str | None,
) -> bool:
    return await db.fetchval(SQL.end_plan, org, send, epoch, unreachable, as_of, complete, error, kept) is not None


# -- queue


async def due_chunks(db: Database | Connection, shards: Collection[int], per_tenant: int) -> list[Due]:
    rows = await db.fetch(SQL.due_chunks, list(shards), per_tenant)
    return [
        Due(
            row["org_id"],
            row["send_id"],
            row["shard"],
            row["seq"],
            row["class"],
            row["size"],
            row["claims"],
        )
        for row in rows
    ]


async def claim_chunks(
    db: Database | Connection, holder: str, wanted: Sequence[Due], epochs: Sequence[int]
) -> list[Claim]:
    """Those of the wanted that are open, of a send that still runs, and whose shard is held under its epoch."""
    rows = await db.fetch(
        SQL.claim_chunks,
        holder,
        [due.org for due in wanted],
        [due.send for due in wanted],
        [due.shard for due in wanted],
        [due.seq for due in wanted],
        list(epochs),
    )
    return [Claim(_chunk(row), row["claims"], row["retried_at"], row["stopped"], row["late"]) for row in rows]


async def recorded(db: Database | Connection, chunk: Chunk) -> set[int]:
    """Positions of the chunk that have an outcome."""
    rows = await db.fetch(SQL.recorded, chunk.org, chunk.send, chunk.shard, chunk.seq)
    return {row["position"] for row in rows}


async def end_chunk(connection: Connection, chunk: Chunk, state: str, reason: str) -> None:
    """Close a chunk as it is: one outcome for everybody in it who has none."""
    await connection.execute(SQL.end_chunk, chunk.org, chunk.send, chunk.shard, chunk.seq, state, reason)
    await connection.execute(SQL.close_chunk, chunk.org, chunk.send, chunk.shard, chunk.seq)


async def held_shards(connection: Connection, holder: str, epochs: dict[int, int]) -> set[int]:
    """First in every write under leases: the shards that are still ours, kept until the commit."""
    rows = await connection.fetch(SQL.hold_shards, holder, list(epochs), list(epochs.values()))
    return {row["shard"] for row in rows}


def _there(row: Record | None) -> Record:
    if row is None:
        raise RuntimeError("RETURNING gave no row")
    return row


def _send(row: Record) -> Send:
    names: dict[str, Any] = {field: row[column] for field, column in _SEND_COLUMNS.items()}
    return Send(**names)


def _chunk(row: Record) -> Chunk:
    return Chunk(
        org=row["org_id"],
        send=row["send_id"],
        shard=row["shard"],
        seq=row["seq"],
        class_=row["class"],
        attempt=row["attempt"],
        first_attempt=row["first_attempt"],
        repeated=row["repeated"],
        size=row["size"],
        started=row["started"],
        due_at=row["due_at"],
        own_at=row["own_at"],
    )


_RENAMED: Final = {"org": "org_id", "project": "project_id", "class_": "class"}

_SEND_COLUMNS: Final = {field: _RENAMED.get(field, field) for field in Send.__struct_fields__}
