"""Stages: what eats a stream, one batch at a time.

Eats: the messages of a stream, by pull requests on a durable consumer, so that nothing arrives unasked.
Gives: whatever `Consumer.handle` does with them.
Bounded by: one batch under way (`batch_max` messages, 16 MiB).
Acks when: `handle` has returned, so when its transaction is committed.
If it dies: what was not acknowledged comes again; handlers are idempotent (F-N3, F-N4).

There are two kinds. A **shared** consumer is eaten by every process that runs it, in no particular order. A **single**
one is eaten by the process that holds its lease, in the order of the log, and that is stricter than it looks: after a
crash JetStream would hand out the next messages first and the unacknowledged ones half a minute later, and a handler
that keeps its position in `log_positions` would take those for old. So the truth of a single consumer is its position
in Postgres (lane 0 under the consumer's name): whoever takes the lease makes the JetStream consumer anew from there,
and so does one who sees a gap in the numbers of its deliveries.

A message that cannot be eaten must not stop the rest, and a server that is away must not be mistaken for a bad message.
While Postgres or NATS is away the batch is held and tried again without being counted. Any other failure sends the
messages through one by one, and one that fails alone five times goes byte for byte to the stream DEAD. Tries are
counted before a message is handed on, so that one which kills the process is caught as well.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Final

import nats.errors
import nats.js.errors
import structlog
from nats.aio.msg import Msg
from nats.js import api

from sendora.kernel import pg
from sendora.kernel.bus.client import is_away
from sendora.kernel.bus.position import Message
from sendora.kernel.bus.pull import Gap, Pull, pull
from sendora.kernel.errors import Unavailable
from sendora.kernel.ids import new_id
from sendora.kernel.kv import KvAway
from sendora.kernel.pg.positions import reached, rewind

if TYPE_CHECKING:
    from sendora.kernel.life import Kernel
    from sendora.kernel.module import Consumer

TRIES_MAX: Final = 5
"""After so many a message is dead (reliability.md 2.2)."""

BACKOFF_S: Final = (1.0, 2.0, 5.0, 10.0)
"""Before the second, third, ... try."""

SUSPECT_AFTER: Final = 2
"""When so many holders died over one position, its messages are taken one by one, to find which it is."""

ACK_WAIT_S: Final = 30.0
"""How long a message may be out without a sign of life."""

HEARTBEAT_S: Final = 10.0
"""A batch may take longer than ACK_WAIT_S as long as it says so."""

ACK_PENDING_MIN: Final = 1_000
"""What all processes of a shared consumer may hold together; messages that wait for their next try count too, so it is
many times a batch."""

GATHER_S: Final = 0.05
"""Between the beginnings of two batches that were not full. A reader that keeps up would otherwise pay a transaction
for each frame, a hundred times a second, and leave others less; what comes alone is eaten at once."""

IDLE_S: Final = 3_600.0
"""How often a single consumer that gets nothing looks how far the log has gone on without it. Else one whose subject is
silent for longer than the log keeps would stand before the log's beginning, as if it had missed something."""

RENEW_S: Final = 3.0
LOOK_S: Final = 1.0
"""How often a lease is renewed, or looked for."""

REASON_MAX: Final = 300
"""Of an error's text in a header of DEAD."""

_ADVANCE: Final = """
INSERT INTO log_positions AS p (consumer, lane, position) VALUES ($1, 0, $2)
ON CONFLICT (consumer, lane) DO UPDATE SET position = excluded.position WHERE p.position < excluded.position
"""
"""Most handlers have written it in their own transaction; a dead message, or a handler without a position, has not."""

log: Final = structlog.get_logger(__name__)


class _Stopped(Exception):
    """The process ends; what is at hand is left for the next."""


class StageRunner:
    """Runs one consumer, as a service of this process."""

    def __init__(self, kernel: Kernel, consumer: Consumer) -> None:
        self._kernel = kernel
        self._consumer = consumer
        self._bus = kernel.bus
        self._stop = asyncio.Event()

    @property
    def name(self) -> str:
        return f"consumer.{self._consumer.name}"

    async def run(self, stop: asyncio.Event) -> None:
        self._stop = stop
        while not stop.is_set():
            try:
                await (self._run_single() if self._consumer.single else self._run_shared())
            except _Stopped:
                return
            except Gap as gap:
                log.warning("consumer_anew", consumer=self._consumer.name, reason=str(gap))
                await self._pause(LOOK_S)
            except Exception as error:
                if not _away(error):
                    raise
                log.warning("consumer_waits", consumer=self._consumer.name, error=repr(error))
                await self._pause(LOOK_S)

    # -- shared ------------------------------------------------------------------------------------------------------

    async def _run_shared(self) -> None:
        consumer = self._consumer
        await self._bus.stream.add_consumer(consumer.stream, self._configuration(api.DeliverPolicy.ALL))
        async with pull(self._bus.client, consumer.stream, consumer.name) as source:
            while not self._stop.is_set():
                if messages := await source.fetch(consumer.batch_max):
                    async with _alive(messages):
                        await self._eat_shared(messages)

    async def _eat_shared(self, messages: list[Msg]) -> None:
        open_ = list(messages)
        try:
            for message in messages:
                if message.metadata.num_delivered > TRIES_MAX:
                    await self._bury(message, "its readers died")
                    await message.term()
                    open_.remove(message)
            if not open_:
                return
            error = await self._try(open_)
            if error is None:
                await _ack(open_)
                open_.clear()
                return
            alone = len(open_) == 1
            for message in list(open_):
                failed = error if alone else await self._try([message])
                if failed is None:
                    await message.ack()
                else:
                    await self._refuse(message, failed)
                open_.remove(message)
        except _Stopped:
            for message in open_:
                # Somebody else may have them at once.
                await message.nak()
            raise

    async def _refuse(self, message: Msg, error: Exception) -> None:
        tries = message.metadata.num_delivered
        if tries >= TRIES_MAX:
            await self._bury(message, repr(error))
            await message.term()
        else:
            self._kernel.metrics.count("stage_retries", consumer=self._consumer.name)
            await message.nak(delay=BACKOFF_S[min(tries, len(BACKOFF_S)) - 1])

    # -- single ------------------------------------------------------------------------------------------------------

    async def _run_single(self) -> None:
        lease = pg.Lease(self._kernel.db, self.name, f"{socket.gethostname()}:{os.getpid()}:{new_id().hex}")
        while await lease.acquire() is None:
            await self._pause(LOOK_S)
            if self._stop.is_set():
                return
        eating = asyncio.create_task(self._eat_in_order(), name=self.name)
        try:
            while not (await asyncio.wait({eating}, timeout=RENEW_S))[0]:
                if not await _renewed(lease):
                    log.warning("consumer_lease_lost", consumer=self._consumer.name)
                    return
            await eating
        finally:
            if not eating.done():
                eating.cancel()
                await asyncio.wait({eating})
            with suppress(Exception):
                await lease.release()

    async def _eat_in_order(self) -> None:
        """Everything behind the stored position, in order, until told to stop."""
        fresh_holder = True
        while not self._stop.is_set():
            position = await self._position()
            tries = await self._make_anew(position, fresh_holder)
            fresh_holder = False
            try:
                async with pull(self._bus.client, self._consumer.stream, self._consumer.name) as source:
                    await self._eat_from(position, tries, source)
            except Gap as gap:
                log.warning("consumer_anew", consumer=self._consumer.name, reason=str(gap))
                await self._pause(LOOK_S)
        # Whoever leaves by himself takes his consumer along: what he held did not kill him.
        with suppress(nats.errors.Error, nats.js.errors.Error, TimeoutError):
            await self._bus.stream.delete_consumer(self._consumer.stream, self._consumer.name)

    async def _eat_from(self, position: int, tries: int, source: Pull) -> None:
        delivered = 0
        looked = time.monotonic()
        while not self._stop.is_set():
            began = time.monotonic()
            messages = await source.fetch(self._consumer.batch_max if tries <= SUSPECT_AFTER else 1)
            for message in messages:
                delivered += 1
                if message.metadata.sequence.consumer != delivered:
                    raise Gap(f"delivery {message.metadata.sequence.consumer} instead of {delivered}")
            # What came twice because an acknowledgement was late has been eaten.
            fresh = [message for message in messages if message.metadata.sequence.stream > position]
            if fresh:
                async with _alive(messages):
                    try:
                        await self._eat_fresh(fresh, tries)
                    except _Stopped:
                        return
                    position = fresh[-1].metadata.sequence.stream
                    await self._advance(position)
                tries = 1
            await _ack(messages)
            if messages:
                looked = began
            elif began - looked >= IDLE_S:
                position, looked = await self._follow(position), began
            if messages and len(messages) < self._consumer.batch_max:
                await self._pause(began + GATHER_S - time.monotonic())

    async def _follow(self, position: int) -> int:
        """The end of the stream, where nothing before it is left for this consumer."""
        with suppress(nats.errors.Error, nats.js.errors.Error, TimeoutError):  # Then the next time.
            last = (await self._bus.stream.stream_info(self._consumer.stream)).state.last_seq
            left = await self._bus.stream.consumer_info(self._consumer.stream, self._consumer.name)
            if last > position and not left.num_pending and not left.num_ack_pending:
                await self._advance(last)
                return last
        return position

    async def _eat_fresh(self, messages: list[Msg], tries: int) -> None:
        if tries > TRIES_MAX:
            await self._bury(messages[0], "its readers died")
            return
        if await self._try(messages) is None:
            return
        for message in messages:
            await self._eat_stubborn(message)

    async def _eat_stubborn(self, message: Msg) -> None:
        """In order, so nothing behind it moves until it is eaten or dead."""
        error: Exception | None = None
        for pause_s in (0.0, *BACKOFF_S):
            await self._pause(pause_s)
            error = await self._try([message])
            if error is None:
                return
            self._kernel.metrics.count("stage_retries", consumer=self._consumer.name)
        await self._bury(message, repr(error))

    async def _position(self) -> int:
        """Where to go on; a stream that ends before it was made anew, and its numbers begin again."""
        name, stream = self._consumer.name, self._consumer.stream
        position = await reached(self._kernel.db, name)
        state = (await self._bus.stream.stream_info(stream)).state
        if state.last_seq < position:
            log.error("stream_began_anew", consumer=name, was=position, last=state.last_seq)
            await rewind(self._kernel.db, name, 0)
            position = 0
        if 0 < position < state.first_seq - 1:
            log.error(
                "messages_expired_unread",
                consumer=name,
                first=position + 1,
                last=state.first_seq - 1,
            )
        return position

    async def _make_anew(self, position: int, fresh_holder: bool) -> int:
        """A JetStream consumer that starts behind the position; says the how-manieth holder tries there."""
        stream, name, first = self._consumer.stream, self._consumer.name, str(position + 1)
        tries = 1
        with suppress(nats.js.errors.NotFoundError):
            old = await self._bus.stream.consumer_info(stream, name)
            noted = old.config.metadata or {}
            if noted.get("sendora.first") == first:
                # Only a holder that had messages at hand can have died of them.
                died = fresh_holder and bool(old.num_ack_pending)
                tries = int(noted.get("sendora.tries", "1")) + died
            await self._bus.stream.delete_consumer(stream, name)
        configuration = self._configuration(api.DeliverPolicy.BY_START_SEQUENCE)
        configuration.opt_start_seq = position + 1
        configuration.metadata = {"sendora.first": first, "sendora.tries": str(tries)}
        await self._bus.stream.add_consumer(stream, configuration)
        return tries

    async def _advance(self, position: int) -> None:
        for attempt in count():
            try:
                await self._kernel.db.execute(_ADVANCE, self._consumer.name, position)
                return
            except Exception as error:
                await self._hold(error, attempt)

    # -- both --------------------------------------------------------------------------------------------------------

    def _configuration(self, deliver: api.DeliverPolicy) -> api.ConsumerConfig:
        return api.ConsumerConfig(
            name=self._consumer.name,
            durable_name=self._consumer.name,
            deliver_policy=deliver,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_S,
            # We count ourselves: a message that JetStream gave up would stay in the stream without a word.
            max_deliver=-1,
            max_ack_pending=max(ACK_PENDING_MIN, 4 * self._consumer.batch_max),
            filter_subject=self._consumer.subject,
        )

    async def _try(self, messages: Sequence[Msg]) -> Exception | None:
        """Hand a batch to the consumer: None when it is eaten, or what is wrong with it. Held while a server is
        away."""
        batch = [
            Message(one.subject, one.data, one.metadata.sequence.stream, one.metadata.num_delivered) for one in messages
        ]
        name = self._consumer.name
        for attempt in count():
            began = time.perf_counter()
            try:
                await self._consumer.handle(self._kernel, batch)
            except Exception as error:
                if not _away(error):
                    log.warning(
                        "batch_failed",
                        consumer=name,
                        first=batch[0].position,
                        messages=len(batch),
                        exc_info=error,
                    )
                    return error
                await self._hold(error, attempt)
            else:
                self._kernel.metrics.count("stage_batches", consumer=name)
                self._kernel.metrics.count("stage_messages", len(batch), consumer=name)
                self._kernel.metrics.observe("stage_seconds", time.perf_counter() - began, consumer=name)
                self._kernel.metrics.gauge("stage_pending", messages[-1].metadata.num_pending, consumer=name)
                break
        return None

    async def _bury(self, message: Msg, reason: str) -> None:
        """Byte for byte into DEAD, with where it came from and why; the same message once, however often it is
        tried."""
        name, position = self._consumer.name, message.metadata.sequence.stream
        log.error("message_dead", consumer=name, position=position, reason=reason)
        headers = {
            "Sendora-Stream": self._consumer.stream,
            "Sendora-Subject": message.subject,
            "Sendora-Position": str(position),
            "Sendora-Reason": re.sub(r"[^\x20-\x7e]", "?", reason)[:REASON_MAX],
        }
        for attempt in count():
            try:
                await self._bus.publish(f"dead.{name}", message.data, f"{name}.{position}", headers)
                break
            except Unavailable as error:
                await self._hold(error, attempt)
        self._kernel.metrics.count("stage_dead", consumer=name)

    async def _hold(self, error: Exception, attempt: int) -> None:
        """Wait for a server that is away, longer each time; any other error is raised on."""
        if not _away(error):
            raise error
        log.warning("consumer_waits", consumer=self._consumer.name, error=repr(error))
        await self._pause(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])
        if self._stop.is_set():
            raise _Stopped

    async def _pause(self, seconds: float) -> None:
        """Unless told to stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()


async def _renewed(lease: pg.Lease) -> bool:
    try:
        return await lease.renew()
    except Exception as error:
        if not pg.is_away(error):
            raise
        return lease.held


async def _ack(messages: Sequence[Msg]) -> None:
    for message in messages:
        await message.ack()


@asynccontextmanager
async def _alive(messages: Sequence[Msg]) -> AsyncIterator[None]:
    """Says that the messages are being worked on, for as long as they are."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            with suppress(nats.errors.Error, OSError):
                for message in messages:
                    # Acknowledged ones have nothing to say any more.
                    if not message._ackd:
                        await message.in_progress()

    beating = asyncio.create_task(beat(), name="heartbeat")
    try:
        yield
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating


def _away(error: BaseException) -> bool:
    return isinstance(error, Unavailable | KvAway) or is_away(error) or pg.is_away(error)
