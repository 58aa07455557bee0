"""One person in the ledger: what they were sent, and that their name is forgotten.

The ledger names a recipient by id, and beside it the person (the external id). An erasure takes the name; the rows
stay, so that a send goes on balancing. It comes after the person's addresses are gone: what is decided from then on
finds no name to write. What was decided before is on the wire for seconds (`is_quiet`), and is forgotten by the next
call. Before its plan a send names people in its target, a schedule for as long as it goes on; and what was for a single
person tells of that person in its words.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sendora.delivery import store
from sendora.kernel.ids import NIL, OrgId, ProjectId, SendId
from sendora.kernel.life import Kernel
from sendora.kernel.wire import Wire

FORGET_MAX: Final = 5_000
"""Rows of one statement: well below a second, with short locks."""

RECALL_MAX: Final = 1_000
"""Rows of one page."""


class Delivered(Wire, frozen=True, kw_only=True):
    """What became of one message to the person."""

    send_id: UUID
    recipient_id: UUID
    state: str
    reason: str | None
    variant: str | None
    provider_id: str | None
    attempt: int
    repeated: bool
    at: datetime


class Awaited(Wire, frozen=True, kw_only=True):
    """A schedule, or a send that was not planned, which names the person."""

    send_id: UUID | None
    schedule_id: UUID | None
    status: str
    content: dict[str, Any]
    due_at: datetime | None
    created_at: datetime


class OfSend(Wire, frozen=True, kw_only=True):
    """One recipient of a send that is, or was, the person's."""

    recipient_id: UUID
    state: str
    """As in the balance, or `open`."""
    reason: str | None


async def of_send(
    kernel: Kernel,
    org: OrgId,
    send: SendId,
    *,
    persons: Sequence[str],
    addresses: Sequence[UUID],
    shards: Sequence[int],
) -> list[OfSend]:
    """What became of one person's recipients of a send. `persons`: all names of the person; `addresses`: the person's
    devices, `shards`: of those names, where who is still open is looked for."""
    rows = await kernel.db.fetch(
        store.SQL.recipients_of_person, org, send, list(persons), list(addresses), sorted(set(shards)), RECALL_MAX
    )
    return [OfSend(recipient_id=row["recipient"], state=row["state"], reason=row["reason"]) for row in rows]


async def forget(kernel: Kernel, org: OrgId, project: ProjectId, person: str) -> int:
    """Take the name out of every row of the project's sends, whatever the channel; how many rows had it."""
    forgotten = 0
    while True:
        n = _rows(await kernel.db.execute(store.SQL.forget_person, org, project, person, FORGET_MAX))
        forgotten += n
        if n < FORGET_MAX:
            return forgotten


async def forget_target(
    kernel: Kernel, org: OrgId, project: ProjectId, channel: str, named: str, values: Sequence[str]
) -> int:
    """Take the person out of the targets of schedules, and of sends that were not planned (scheduled, cancelled, failed
    before): planned ones name nobody any more. `named` is the list of the channel's target, `values` what stands in it
    for the person. A schedule that names nobody else is over. How many sends and schedules had it."""
    # Schedules first: what one of them is making meanwhile is a send that is found afterwards.
    args = org, project, channel, named, list(values)
    forgotten = _rows(await kernel.db.execute(store.SQL.forget_in_schedules, *args))
    return forgotten + _rows(await kernel.db.execute(store.SQL.forget_target, *args))


async def forget_words(kernel: Kernel, org: OrgId, project: ProjectId, channel: str, named: str, person: str) -> int:
    """Empty the content of sends that were for this person alone: what is said to one person is about that person.
    Before `forget`, which takes the names that tell whose it was. How many sends that were."""
    return _rows(await kernel.db.execute(store.SQL.forget_words, org, project, channel, named, person))


async def is_quiet(kernel: Kernel, org: OrgId, project: ProjectId) -> bool:
    """Whether no chunk of the project's sends is at work: then nobody holds a name that is not in the tables."""
    quiet: bool = await kernel.db.fetchval(store.SQL.is_quiet, org, project)
    return quiet


async def awaited(
    kernel: Kernel, org: OrgId, project: ProjectId, channel: str, named: str, values: Sequence[str]
) -> AsyncIterator[Awaited]:
    """What names the person beforehand: schedules, and sends that were not planned. Arguments as of `forget_target`."""
    after = NIL
    args = org, project, channel, named, list(values)
    while rows := await kernel.db.fetch(store.SQL.awaited_by_person, *args, after, RECALL_MAX):
        for row in rows:
            yield Awaited(
                send_id=row["send_id"],
                schedule_id=row["schedule_id"],
                status=row["status"],
                content=row["content"],
                due_at=row["due_at"],
                created_at=row["created_at"],
            )
        after = rows[-1]["id"]


async def recall(
    kernel: Kernel, org: OrgId, project: ProjectId, person: str, *, channel: str
) -> AsyncIterator[Delivered]:
    """Everything that the channel sent or did not send to this person, the oldest first."""
    after: tuple[UUID, int, int, int] = (NIL, 0, 0, 0)
    while rows := await kernel.db.fetch(store.SQL.recall_person, org, project, person, channel, *after, RECALL_MAX):
        for row in rows:
            yield Delivered(
                send_id=row["send_id"],
                recipient_id=row["recipient"],
                state=row["state"],
                reason=row["reason"],
                variant=row["variant"],
                provider_id=row["provider_id"],
                attempt=row["attempt"],
                repeated=row["repeated"],
                at=row["at"],
            )
        last = rows[-1]
        after = (last["send_id"], last["shard"], last["seq"], last["position"])


def _rows(done: str) -> int:
    """How many a command has changed."""
    return int(done.rpartition(" ")[2])
