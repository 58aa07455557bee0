"""Reads a stream beside its consumers: from a position on, in order, acknowledging nothing.

For whoever keeps its place itself and begins again from it: the JetStream consumer is made for one reading, lives in
the server's memory and goes some time after its reader; when it went before (Gap) the reader makes another. A message
that is missing (it has expired, the stream was made anew) is another matter: what was made of the messages before it
cannot be carried on.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import nats.errors
import nats.js.errors
from nats.js import api

from sendora.kernel.bus.client import Bus
from sendora.kernel.bus.position import Message
from sendora.kernel.bus.pull import Pull, pull
from sendora.kernel.ids import new_id

IDLE_S: Final = 3_600.0
"""After so long without a request the server forgets a consumer whose reader died."""


class Missing(Exception):
    """What should follow is not there."""


class Tail:
    """One reading."""

    def __init__(self, source: Pull, position: int) -> None:
        self.position = position
        """Everything up to here has been fetched."""
        self._source = source

    async def fetch(self, most: int) -> list[Message]:
        """What follows, at most so much, or nothing within a second. Raises Gap and Missing."""
        found = []
        for message in await self._source.fetch(most):
            at = message.metadata.sequence.stream
            if at != self.position + 1:
                raise Missing(f"position {at} follows {self.position}")
            self.position = at
            found.append(Message(message.subject, message.data, at, 1))
        return found


@asynccontextmanager
async def tail(bus: Bus, stream: str, position: int) -> AsyncIterator[Tail]:
    """A reading of everything behind the position."""
    name = f"tail-{new_id().hex}"
    await bus.stream.add_consumer(
        stream,
        api.ConsumerConfig(
            name=name,
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=position + 1,
            ack_policy=api.AckPolicy.NONE,
            inactive_threshold=IDLE_S,
            mem_storage=True,
            num_replicas=1,
        ),
    )
    try:
        async with pull(bus.client, stream, name) as source:
            yield Tail(source, position)
    finally:
        with suppress(nats.errors.Error, nats.js.errors.Error, TimeoutError, OSError):
            await bus.stream.delete_consumer(stream, name)
