"""One person in the ledger: what they were sent, and that their name is forgotten.

The ledger names a recipient by id, and beside it the person (the external id). An erasure takes the name; the rows
stay, so that a send goes on balancing. It comes after the person's addresses are gone: what is decided from then on
finds no name to write. What was decided before is on the wire for seconds, and is forgotten by the next call.

What is still to be sent names people in its target, under `userIds` in every channel: a send until it is planned, a
schedule for as long as it goes on.
"""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final
from uuid import UUID

from sendora.delivery import store
from sendora.kernel.ids import NIL, OrgId, ProjectId
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


async def forget(kernel: Kernel, org: OrgId, project: ProjectId, person: str) -> int:
    """Take the name out of every row of the project's sends, whatever the channel; how many rows had it."""
    forgotten = await _forgotten(kernel, store.SQL.forget_in_sends, org, project, person)
    forgotten += await _forgotten(kernel, store.SQL.forget_in_schedules, org, project, person)
    while True:
        n = await _forgotten(kernel, store.SQL.forget_person, org, project, person, FORGET_MAX)
        forgotten += n
        if n < FORGET_MAX:
            return forgotten


async def _forgotten(kernel: Kernel, sql: str, *args: object) -> int:
    return int((await kernel.db.execute(sql, *args)).rpartition(" ")[2])


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
