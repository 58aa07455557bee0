"""Receipts over HTTP: hot, as every message that arrives may bring one. On disk in the log when it is answered; whose
it is is found out later (C94)."""

from collections.abc import Sequence
from typing import Final
from weakref import WeakKeyDictionary

import msgspec

from sendora.kernel.clock import iso
from sendora.kernel.http import HotRequest, HotResponse, Principal, hot_route, take
from sendora.kernel.ids import new_id
from sendora.kernel.life import Kernel
from sendora.kernel.wire import success
from sendora.modules.push.gather import Gatherer
from sendora.modules.push.lifecycle import RECEIPTS, ReceiptSaid, ReceiptsSaid
from sendora.modules.push.model.receipts import ReceiptIn, ReceiptsIn, ReceiptsTaken, receipts_of

BATCH_MAX: Final = 5_000
"""Receipts of one message: about a megabyte."""

WAITING_MAX: Final = 20_000
"""Receipts of one process that may wait; then 503, before memory fills."""

_gatherers: WeakKeyDictionary[object, Gatherer[ReceiptSaid, None]] = WeakKeyDictionary()


@hot_route(
    "/push/receipts",
    scope=None,
    body=ReceiptIn | list[ReceiptIn] | ReceiptsIn,
    answer=ReceiptsTaken,
    operation="reportReceipts",
    summary="Tell that messages have arrived",
)
async def report(kernel: Kernel, principal: Principal, request: HotRequest) -> HotResponse:
    """One receipt, an array, or `{receipts}`; at most 1,000. Only on receipts is a recipient called delivered (C93). A
    second one of the same recipient changes nothing; one of an unknown send is counted and dropped (C94)."""
    now = kernel.clock.now()
    passed, refused = receipts_of(request.body, now)
    await take(kernel, principal, len(passed) + len(refused))
    said = [
        ReceiptSaid(
            org=principal.org, project=principal.project, send=one.send, recipient=one.recipient, at=iso(one.at)
        )
        for one in passed
    ]
    if len(said) == 1:
        await _gatherer(kernel).submit(said[0])
    else:
        await _publish(kernel, said)  # A batch already.
    return HotResponse(200, success(ReceiptsTaken(accepted=len(passed), rejected=len(refused), errors=refused)))


def _gatherer(kernel: Kernel) -> Gatherer[ReceiptSaid, None]:
    found = _gatherers.get(kernel.db)
    if found is None:

        async def publish(batch: Sequence[ReceiptSaid]) -> Sequence[None]:
            await _publish(kernel, batch)
            return [None] * len(batch)

        found = _gatherers[kernel.db] = Gatherer(publish, batch_max=BATCH_MAX, waiting_max=WAITING_MAX)
    return found


async def _publish(kernel: Kernel, batch: Sequence[ReceiptSaid]) -> None:
    await kernel.bus.publish(RECEIPTS, msgspec.json.encode(ReceiptsSaid(receipts=list(batch))), new_id().hex)


HOT = (report.hot,)
ROUTES = (report.handler,)
