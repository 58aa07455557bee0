"""Statistics: transitions from the log into days.

eats        frames of events.system, in the order of the log
gives       rows of `geofence_days`
bounded by  FRAMES_MAX frames a transaction
acks when   the days and the position are committed, both in one transaction
if it dies  nothing is counted, or all with the position: what is delivered again is seen to be old

It goes behind the storer, which tells what it left out: a report that was sent twice is one row of `events` and counts
once. A roll-up and not a query over `events`: a fence at a station has millions of rows in thirty days, thirty here.
"""

from typing import Final

from sendora.kernel import bus
from sendora.kernel.bus import Message
from sendora.kernel.errors import Unavailable
from sendora.kernel.life import Kernel
from sendora.kernel.module import Consumer
from sendora.kernel.pg.positions import advance_position, lock_position, unread, wait_for
from sendora.modules import events
from sendora.modules.geofences import store

COUNTER: Final = "geofences"

FRAMES_MAX: Final = 8
"""At most 16,000 transitions, as the storer takes them."""

BEHIND_S: Final = 5.0
"""How long a batch waits for the storer before it is handed back."""


async def count_transitions(kernel: Kernel, messages: list[Message]) -> None:
    if not await wait_for(kernel.db, events.STORER, messages[-1].position, BEHIND_S):
        raise Unavailable(message="The storer is behind.")
    async with kernel.db.transaction() as connection:
        fresh = unread(messages, await lock_position(connection, COUNTER))
        if fresh:
            await store.count(connection, fresh)
            await advance_position(connection, COUNTER, fresh[-1].position)


consumer: Final = Consumer(
    name=COUNTER, stream=bus.EVENTS, subject=bus.SYSTEM, handle=count_transitions, batch_max=FRAMES_MAX, single=True
)
