"""Receipts become rows, counters and `push.delivered` (C93).

eats        lifecycle.push.receipts: what devices said, by batches
gives       push_receipts and their count by send; lifecycle.push.delivered, once for each recipient
bounded by  RECEIPTS_MAX messages of at most 5,000 receipts
acks when   the rows are committed, after the log has what follows from them
if it dies  the receipts are read again: what was committed is known and not told; what was told and not committed is
            told again, and whoever reads it goes by (send, recipient)
"""

import hashlib
from collections import defaultdict
from datetime import datetime
from typing import Final

import msgspec

from sendora.kernel.bus import LIFECYCLE, Message
from sendora.kernel.clock import iso
from sendora.kernel.ids import NIL, OrgId, ProjectId, SendId
from sendora.kernel.life import Kernel
from sendora.kernel.module import Consumer
from sendora.modules.push.lifecycle import DELIVERED, RECEIPTS, Delivered, DeliveredMany, ReceiptsSaid
from sendora.modules.push.store import receipts as store
from sendora.modules.push.store.receipts import Recorded, Said

RECEIPTS_MAX: Final = 50


async def record_receipts(kernel: Kernel, messages: list[Message]) -> None:
    folded: dict[tuple[object, ...], Said] = {}
    for message in messages:
        for said in msgspec.json.decode(message.data, type=ReceiptsSaid).receipts:
            one = Said(
                org=OrgId(said.org),
                project=ProjectId(said.project),
                send=SendId(said.send),
                recipient=said.recipient,
                at=datetime.fromisoformat(said.at),
            )
            folded[one.key] = min(folded.get(one.key, one), one, key=lambda each: each.at)
    async with kernel.db.transaction() as connection:
        recorded = await store.record(connection, list(folded.values()))
        first = [one for one in recorded if one.first]
        # Told before it is committed: what is told twice is recognised, what is never told is lost.
        await _tell(kernel, first)
    kernel.metrics.count("receipts_recorded", len(first), result="delivered")
    kernel.metrics.count("receipts_recorded", len(recorded) - len(first), result="known")
    kernel.metrics.count("receipts_recorded", len(folded) - len(recorded), result="unknown")


async def _tell(kernel: Kernel, recorded: list[Recorded]) -> None:
    by_project: dict[tuple[OrgId, ProjectId], list[Delivered]] = defaultdict(list)
    for one in recorded:
        by_project[one.org, one.project].append(
            Delivered(
                send=one.send,
                recipient=None if one.recipient == NIL else one.recipient,
                user_id=one.user_id,
                at=iso(one.at),
            )
        )
    for (org, project), receipts in by_project.items():
        body = msgspec.json.encode(DeliveredMany(org=org, project=project, receipts=receipts))
        await kernel.bus.publish(DELIVERED, body, hashlib.sha256(DELIVERED.encode() + body).hexdigest())


CONSUMERS = (
    Consumer(name="push_receipts", stream=LIFECYCLE, subject=RECEIPTS, handle=record_receipts, batch_max=RECEIPTS_MAX),
)
