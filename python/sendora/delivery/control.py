"""Steps that a caller takes with a send that runs: pause, resume, stop, and a retry of those who failed (C96).

Eats: a row of `sends`, under compare and set; for a retry also the rows of `deliveries` that say who failed.
Gives: the new status; for a retry chunks of the same send, one attempt further. Wakes for the shards concerned.
Bounded by: 1,000 recipients a transaction; a stop touches one row here, and its chunks are the dispatchers'.
Acks when: the status is committed; a retry answers when its last chunk is.
If it dies: before the commit nothing has happened. A stop needs nobody afterwards: whoever holds a shard finds the
stopped send's chunks due and closes them, and when that worker dies the shard's next owner does. A retry is committed
chunk by chunk, so what is done stays done, and asking again takes up the rest.

A pause and a stop are seen where marks are moved (ledger.py): once the status is committed nobody leaves but those whom
a worker's window already held. The planner goes on meanwhile, so that everybody the send is for has a row: of a stopped
send the rest is `suppressed: stopped`, and the balance names them.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Final

from asyncpg import Record

from sendora.delivery import store
from sendora.delivery.phases import Send
from sendora.delivery.submit import WAKE_ACCOUNT, find_send
from sendora.kernel.errors import Conflict, NotFound
from sendora.kernel.ids import OrgId, ProjectId, SendId
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Connection

RETRY_MAX: Final = 1_000
"""Recipients that one transaction of a retry takes up: a chunk's worth, some 20 ms."""

PASSING: Final = frozenset({"retries_exhausted", "parked"})
"""Refusals of our own that a later try may fare better with."""

REFUSALS: Final = {
    "scheduled": "not_started",
    "queued": "not_paused",
    "sending": "not_paused",
    "paused": "already_paused",
    "sent": "already_closed",
    "failed": "already_closed",
    "suppressed": "already_closed",
    "cancelled": "already_cancelled",
}
"""Why a step is refused (C61), by the status that it met."""

STOPPING: Final = "stopping"


async def pause(kernel: Kernel, org: OrgId, send: SendId, *, project: ProjectId | None = None) -> Send:
    """A queued or running send takes no further chunk; who is on the wire finishes. Raises NotFound and Conflict."""
    return await _step(kernel, org, send, "pause", project)


async def resume(kernel: Kernel, org: OrgId, send: SendId, *, project: ProjectId | None = None) -> Send:
    """A paused send goes on where it stood. Its lifetime has gone on meanwhile. Raises NotFound and Conflict."""
    resumed = await _step(kernel, org, send, "resume", project)
    await _wake(kernel, org, send)
    return resumed


async def stop(kernel: Kernel, org: OrgId, send: SendId, *, project: ProjectId | None = None) -> Send:
    """Whoever has not left is suppressed as `stopped`, who is on the wire finishes, and then the send closes as any
    other. It runs until then; to ask again meanwhile changes nothing. Raises NotFound and Conflict."""
    await find_send(kernel, org, send, project=project)
    row = await store.stop_send(kernel.db, org, send)
    if row is None:
        raise await _refusal(kernel, org, send, "stopped", project)
    await _wake(kernel, org, send)
    return row


async def retry_failed(
    kernel: Kernel,
    org: OrgId,
    send: SendId,
    *,
    passing: Collection[str] = (),
    reasons: Collection[str] | None = None,
    project: ProjectId | None = None,
) -> tuple[Send, int]:
    """Take up again who was rejected for a reason that may pass, has expired, or (`at_least_once` only) is unknown; the
    send as it stands then, and how many they are.

    `passing`: the channel's reasons that may pass. `reasons`: only these, whatever they are. The send opens again if it
    was closed, and its lifetime begins anew, as do the tries of each. Raises NotFound, and Conflict when
    it is being stopped or there is nobody.
    """
    found = await find_send(kernel, org, send, project=project)
    states = ["rejected", "expired", *(["unknown"] if found.delivery == "at_least_once" else [])]
    wanted = None if reasons is None else sorted(set(reasons))
    retried = 0
    for row in await kernel.db.fetch(store.SQL.planned_shards, org, send):
        shard: int = row["shard"]
        taken = RETRY_MAX
        while taken == RETRY_MAX:
            async with kernel.db.transaction() as connection:
                found = await _lock(connection, org, send)
                if _is_stopping(found):
                    break
                failed = await connection.fetch(
                    store.SQL.take_back,
                    org,
                    send,
                    shard,
                    states,
                    wanted,
                    sorted(PASSING | set(passing)),
                    RETRY_MAX,
                    row["seq"],
                )
                taken = len(failed)
                if failed:
                    found = await _open_again(connection, found, shard, failed, first=not retried)
            retried += taken
            if taken:
                await kernel.bus.wake(f"wake.{shard}")
    if not retried and _is_stopping(found):
        raise Conflict("A send that is being stopped cannot be retried.", STOPPING)
    if not retried:
        raise Conflict("Nobody of this send has failed for a reason that may pass.", "nothing_to_retry")
    return found, retried


async def _step(kernel: Kernel, org: OrgId, send: SendId, step: str, project: ProjectId | None) -> Send:
    await find_send(kernel, org, send, project=project)
    stepped = await store.step_send(kernel.db, org, send, step, closes=False)
    if stepped is None:
        raise await _refusal(kernel, org, send, f"{step}d", project)
    return stepped


async def _refusal(kernel: Kernel, org: OrgId, send: SendId, done: str, project: ProjectId | None) -> Conflict:
    found = await find_send(kernel, org, send, project=project)
    if _is_stopping(found):
        return Conflict(f"A send that is being stopped cannot be {done}.", STOPPING)
    return Conflict(f"A send that is {found.status} cannot be {done}.", REFUSALS[found.status])


async def _lock(connection: Connection, org: OrgId, send: SendId) -> Send:
    """First in a retry's transaction: nobody closes the send meanwhile, and two retries take turns."""
    locked = await store.lock_send(connection, org, send)
    if locked is None:
        raise NotFound("Send")
    return locked


def _is_stopping(send: Send) -> bool:
    return send.stopped_at is not None and send.closed_at is None


async def _open_again(connection: Connection, send: Send, shard: int, failed: Sequence[Record], *, first: bool) -> Send:
    """Their chunks, and the counters without them. Who was written to without an answer may have it already, so a later
    outcome is `repeated` (promise 3). `first`: the retry begins here, and with it the send's time."""
    groups: dict[tuple[int, bool], list[bytes]] = defaultdict(list)
    counted: dict[tuple[object, ...], list[int]] = defaultdict(lambda: [0, 0])
    for row in failed:
        again = row["repeated"] or row["state"] == "unknown"
        groups[row["attempt"] + 1, again].append(row["recipient"].bytes)
        count = counted[row["day"], row["state"], row["reason"], row["variant"]]
        count[0] += 1
        count[1] += row["repeated"]
    # They have one time for all, the retry's, whoever's own it was before.
    own_at = None
    number = await store.take_numbers(connection, send.org, send.id, shard, len(groups))
    await connection.executemany(
        store.SQL.insert_chunk,
        [
            (
                *(send.org, send.id, shard, seq, send.class_, attempt, again, b"".join(ids)),
                *(failed[0]["due_at"], own_at, attempt),
            )
            for seq, ((attempt, again), ids) in enumerate(groups.items(), number)
        ],
    )
    await connection.execute(store.SQL.lock_counts, send.org, send.id)
    keys, numbers = zip(*counted.items(), strict=True)
    await connection.execute(
        store.SQL.uncount_outcomes,
        send.org,
        send.id,
        *map(list, zip(*keys, strict=True)),
        *map(list, zip(*numbers, strict=True)),
    )
    await connection.execute(store.SQL.drop_counts, send.org, send.id)
    return await store.reopen_send(connection, send.org, send.id, renews=first)


async def _wake(kernel: Kernel, org: OrgId, send: SendId) -> None:
    """Whoever holds a shard with a chunk of the send, and whoever closes it when there is none left."""
    for row in await kernel.db.fetch(store.SQL.open_shards, org, send):
        await kernel.bus.wake(f"wake.{row['shard']}")
    await kernel.bus.wake(WAKE_ACCOUNT)
