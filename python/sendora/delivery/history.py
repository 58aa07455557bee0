"""What happened to one recipient of a send, try by try.

A recipient stands in one chunk for each of its tries, and each but the last has a row of the ledger that says why it
went on. Somebody who was put off by quiet hours and then met a silent provider has three.
"""

from datetime import datetime
from uuid import UUID

import msgspec

from sendora import _core
from sendora.delivery import store
from sendora.delivery.phases import Send
from sendora.kernel.ids import OrgId
from sendora.kernel.life import Kernel
from sendora.kernel.pg import copy_out


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A recipient in one chunk. `state` None: nothing has come of it yet."""

    shard: int
    attempt: int
    due_at: datetime
    own_at: datetime | None
    """When the recipient had it in their own zone."""
    state: str | None
    user_id: str | None
    """Whose it was at that time; None also after an erasure."""
    reason: str | None
    variant: str | None
    provider: str | None
    provider_id: str | None
    repeated: bool
    at: datetime | None


async def of_recipient(kernel: Kernel, send: Send, recipient: UUID) -> list[Entry]:
    """In the order in which it went on; empty when the send is for somebody else."""
    rows = await kernel.db.fetch(store.SQL.history, send.org, send.id, recipient)
    return [
        Entry(
            shard=row["shard"],
            attempt=row["attempt"],
            due_at=row["due_at"],
            own_at=row["own_at"],
            state=row["state"],
            user_id=row["user_id"],
            reason=row["reason"],
            variant=row["variant"],
            provider=row["provider"],
            provider_id=row["provider_id"],
            repeated=row["repeated"],
            at=row["at"],
        )
        for row in rows
    ]


async def caps_of(kernel: Kernel, org: OrgId, shard: int, person: str, at: datetime) -> _core.Caps:
    """What a person had been sent before that instant, as the owner of the shard counts it (B111)."""
    caps = _core.Caps()
    async with kernel.db.acquire() as connection:
        await copy_out(connection, store.SQL.caps_of, org, shard, person, at, sink=caps.load)
    return caps
