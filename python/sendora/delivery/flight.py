"""One chunk on its way: fetch, decide, build, hand to the lanes, record.

A chunk flies in one of two ways. As a shipment the library does all of it, and what is seen here are batches of
outcomes; that needs a channel that can say its requests in advance, and native lanes. Else the channel builds calls and
reads replies, and there is an object for each recipient.

A flight begins with a claim under an epoch and ends in one of three ways: every recipient has an outcome and the chunk
is closed; the rest goes back into the queue (a credential is away, the lane's circuit is open, the worker drains, the
send was paused or stopped); or the shard is lost, and then nothing more is written. A chunk of a stopped send, one that
comes too late and one that kills its workers is closed as it is, with one outcome for whoever has none.

What it takes up may have been in another worker's hands (reliability.md 2.1): positions at or above the mark were never
sent; positions below it without an outcome may have been. `at_least_once` sends those again and says so, `at_most_once`
records them as `unknown`.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

import msgspec

from sendora._core import Caps, Decided, OutcomeBatch
from sendora.delivery import failpoint, retry, store
from sendora.delivery.caps import CapsBook
from sendora.delivery.channel import Sending
from sendora.delivery.fair import Window
from sendora.delivery.lanes import Lanes, NativeLanes
from sendora.delivery.ledger import Ledger, SendAtRest, ShardLost, batched, make_partition
from sendora.delivery.phases import BLOCKED, ENDPOINT_BLOCKED, Call, Chunk, Class, Outcome, Reply, Send
from sendora.delivery.shards import Shards
from sendora.delivery.submit import WAKE_ACCOUNT
from sendora.kernel.clock import from_millis, millis
from sendora.kernel.errors import Unavailable
from sendora.kernel.life import Kernel
from sendora.kernel.pg import is_away

CLAIMS_MAX: Final = 5
"""A chunk that was taken up so often without a single outcome is parked (F-M6)."""

AWAY_S: Final = 5.0
"""How long a chunk waits for a credential or a server that is away."""

BLAME_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0)
"""How long a chunk waits that could not be worked on, by how often it was taken up: through its own fault, and then it
is parked in the end, or through ours, and then the fault has three quarters of a minute to pass."""

INLINE_BYTES: Final = 16 * 1024
"""Deciding less than this takes less time than changing threads."""

WORKER_LOST: Final = "worker_lost"
NO_ANSWER: Final = "no_answer"

STOPPED: Final = ("suppressed", "stopped")
LATE: Final = ("expired", "late")
PARKED: Final = ("rejected", "parked")
"""How whoever has not left ends, where a chunk is closed without being looked into."""


class Sendings(Protocol):
    async def get(self, chunk: Chunk, retried_at: datetime | None) -> tuple[Send, Sending] | None:
        """The send as the chunk's recipients have it and its channel's side, None when this worker has no such channel.
        One that was retried at another instant than `retried_at` has its time anew since it was read: it is read
        again."""


class Desk(msgspec.Struct, frozen=True):
    """What a worker's flights share."""

    kernel: Kernel
    shards: Shards
    ledger: Ledger
    lanes: Lanes
    sendings: Sendings
    caps: CapsBook
    windows: dict[Class, Window]
    fetching: asyncio.Semaphore
    """Bounds the connections that flights take from the pool."""
    draining: asyncio.Event


class Flight:
    """Also the `Gate` of its chunk."""

    def __init__(self, desk: Desk, claim: store.Claim, epoch: int) -> None:
        self.chunk = claim.chunk
        self.claims = claim.claims
        self._claim = claim
        self._desk = desk
        self._epoch = epoch
        self._window = desk.windows[claim.chunk.class_]
        self._places = 0
        """In the window: admitted and not recorded."""
        self._marked = claim.chunk.started
        self._left: set[int] = set(range(claim.chunk.size))
        self._lost: set[int] = set()
        """Positions that a former owner may have sent."""
        self._calls: dict[int, Call] = {}
        self._rebuilding = asyncio.Lock()
        self._left_behind = 0
        """Of a shipment: recipients without an outcome."""
        self._renewal: asyncio.Future[None] | None = None
        self._written: asyncio.Future[None] | None = None
        self._refused: BaseException | None = None
        """Why outcomes could not be recorded: their recipients have none, so the chunk is not done."""

    async def run(self) -> None:
        """Returns when everything that it had to say is committed, or can never be."""
        try:
            await self._run()
            if self._written is not None:
                await self._written
            if self._refused is not None:
                raise self._refused
        except ShardLost:
            pass
        except Exception as error:
            if is_away(error) or isinstance(error, Unavailable):
                self._desk.kernel.log.warning("chunk.waits", error=repr(error), send=str(self.chunk.send))
                await self._put_back(AWAY_S, blame=False)
            else:
                self._desk.kernel.log.exception("chunk.failed", send=str(self.chunk.send), claims=self.claims)
                await self._put_back(BLAME_S[min(self.claims, len(BLAME_S)) - 1], blame=True)
        finally:
            # Whatever was admitted and has no outcome here will be found by the mark.
            self._window.give(self._places)
            self._places = 0

    # -- the gate

    async def admit(self, want: int, mark: Callable[[int], int]) -> int:
        if not self.open():
            return 0
        granted = await self._window.take(self.chunk.org, want)
        self._places += granted
        if not self.open():
            return self._withdraw(granted)
        upto = mark(granted)
        failpoint.hit("dispatch.before_mark")
        if upto > self._marked:
            try:
                await self._desk.ledger.mark(self.chunk, self._epoch, upto)
            except (ShardLost, SendAtRest):
                return self._withdraw(granted)
            self._marked = upto
        failpoint.hit("dispatch.after_mark")
        return granted

    def open_s(self) -> float:
        """Also the send's time is asked for before each request: a chunk may have waited for its lane (F-V2)."""
        if self._desk.draining.is_set():
            return 0.0
        ends_at = min(filter(None, (self._send.expires_at, self._send.late_at)))
        left = (ends_at - self._desk.kernel.clock.now()).total_seconds()
        return max(min(self._desk.shards.left_s(self.chunk.shard, self._epoch), left), 0.0)

    def open(self) -> bool:
        return self.open_s() > 0.0

    async def again(self, call: Call, reply: Reply) -> Call | None:
        """Built anew once for all calls of the chunk on this lane. Those of other lanes stay as they are: whether their
        credential has expired as well is theirs to find out."""
        async with self._rebuilding:
            if self._calls.get(call.position) is call:
                if not await self._sending.renew(call, reply):
                    return None
                calls, _ = await self._sending.build(self._decided, self.chunk)
                others = {old.position: old for old in self._calls.values() if old.lane != call.lane}
                self._calls = others | {fresh.position: fresh for fresh in calls if fresh.lane == call.lane}
            return self._calls.get(call.position)

    def done(self, outcomes: Sequence[Outcome]) -> None:
        self._record(outcomes, places=len(outcomes))

    # -- the way

    async def _run(self) -> None:
        if self._claim.stopped:
            await self._end("stopped", *STOPPED)
            return
        if self._claim.late:
            await self._end("late", *LATE)
            return
        if self.claims > CLAIMS_MAX:
            await self._end("parked", *PARKED)
            chunk = self.chunk
            self._desk.kernel.log.error("chunk.parked", send=str(chunk.send), shard=chunk.shard, seq=chunk.seq)
            return
        opened = await self._desk.sendings.get(self.chunk, self._claim.retried_at)
        if opened is None:
            await self._put_back(AWAY_S, blame=False)
            return
        self._send, self._sending = opened
        lanes = self._desk.lanes
        if isinstance(lanes, NativeLanes) and self._sending.ships:
            await self._ship(lanes)
            return
        await self._fetch()
        if not self._left:  # Everybody had an outcome; only the closing was lost.
            self._record([])
            return
        calls = await self._decide()
        if not calls:
            return
        held_s = min(self._desk.lanes.held_s(call.lane) for call in calls)
        if held_s:
            # Every lane of the rest is known not to answer: the chunk waits as it is, without a row for each recipient.
            await self._put_back(held_s, blame=False)
            return
        await self._desk.lanes.run(self._sending, calls, self.chunk, self)
        if self._left:
            rest = [self._desk.lanes.held_s(call.lane) for call in calls if call.position in self._left]
            await self._put_back(min(rest, default=0.0), blame=False)

    # -- as a shipment

    async def _ship(self, lanes: NativeLanes) -> None:
        async with self._desk.fetching, self._desk.kernel.db.acquire() as connection:
            rows = await self._sending.rows(connection, self.chunk)
        caps = await self._caps()
        now_ms = millis(self._desk.kernel.clock.now())
        self._shipped = await self._sending.ship(lanes.core, self.chunk, rows, caps, now_ms)
        shipment = self._shipped.shipment
        # Those who are not sent to; and when everybody had an outcome, only the closing was lost.
        self._take()
        if not self._left_behind:
            return
        await lanes.carry(shipment, self.chunk, self, self._landed)
        if self._left_behind:
            await self._put_back(lanes.held_shipment_s(shipment) or 0.0, blame=False)

    def _landed(self) -> Sequence[tuple[str, int]]:
        failpoint.hit("dispatch.after_answer")
        return self._take()

    def _take(self) -> Sequence[tuple[str, int]]:
        """Hand over what has gathered; by lane, how many of those that were admitted."""
        outcomes, ended, renewing, left, halted = self._shipped.shipment.take()
        self._left_behind = left
        for lane, reason in halted:
            self._desk.kernel.log.error("dispatch.halted", send=str(self.chunk.send), lane=lane, reason=reason)
        if renewing and self._renewal is None:
            self._renewal = asyncio.ensure_future(self._renew(renewing))
        self._count_blocked(outcomes)
        if len(outcomes) or not left:
            self._hand_over(outcomes, sum(n for _, n in ended), closed=not left)
        return ended

    def _count_blocked(self, outcomes: OutcomeBatch) -> None:
        """What the guard refused for a shipment shows in its outcomes alone; of an endpoint they do not say why."""
        for _, reason, n in outcomes.counts():
            if reason == ENDPOINT_BLOCKED:
                self._desk.kernel.outbound.refused("endpoint", n)
            elif reason.startswith(BLOCKED):
                self._desk.kernel.outbound.refused(reason.removeprefix(BLOCKED).strip(), n)

    async def _renew(self, lanes: Sequence[str]) -> None:
        """Once for all of the chunk that have heard so by now; who hears it meanwhile is next."""
        try:
            await self._sending.renew_shipped(self._shipped, lanes)
        except Exception as error:
            self._desk.kernel.log.error("dispatch.not_renewed", error=repr(error), send=str(self.chunk.send))
            self._shipped.shipment.renew(lanes, None)
        finally:
            self._renewal = None

    # -- as calls

    async def _fetch(self) -> None:
        async with self._desk.fetching, self._desk.kernel.db.acquire() as connection:
            self._left -= await store.recorded(connection, self.chunk)
            self._lost = {position for position in self._left if position < self.chunk.started}
            self._rows = await self._sending.rows(connection, self.chunk) if self._left else b""

    async def _decide(self) -> list[Call]:
        """Record who is not sent to; the calls of the others, by position."""
        now_ms = millis(self._desk.kernel.clock.now())
        caps = await self._caps()
        self._decided = await self._off_loop(now_ms, caps)
        self._rows = b""
        calls, refused = await self._sending.build(self._decided, self.chunk)
        stays = [
            Outcome(
                position=position,
                recipient=UUID(bytes=recipient),
                user_id=user_id,
                state=state,  # type: ignore[arg-type]  # the library knows the same words
                reason=reason,
                variant=variant,
                due_at=None if due_ms is None else from_millis(due_ms),
                counted=False,
            )
            for position, recipient, user_id, state, reason, due_ms, variant in self._decided.stays()
        ]
        found = {outcome.position for outcome in (*stays, *refused)} | {call.position for call in calls}
        if not self._left <= found:
            raise RuntimeError(f"{len(self._left - found)} recipients of the chunk were not decided")
        calls = [call for call in calls if call.position in self._left]
        self._record([outcome for outcome in (*stays, *refused) if outcome.position in self._left], sent=False)
        if self._lost and self._send.delivery == "at_most_once":
            calls = self._leave_unknown(calls, now_ms)
        if self._lost:
            self._desk.kernel.metrics.count("dispatch_repeated", len(self._lost & {call.position for call in calls}))
        calls.sort(key=lambda call: call.position)
        self._calls = {call.position: call for call in calls}
        return calls

    async def _caps(self) -> Caps | None:
        if not self._sending.capped:
            return None
        return await self._desk.caps.of(self.chunk.org, self.chunk.shard, self._epoch)

    async def _off_loop(self, now_ms: int, caps: Caps | None) -> Decided:
        if len(self._rows) < INLINE_BYTES:
            return self._sending.decide(self._rows, caps, now_ms)
        return await asyncio.to_thread(self._sending.decide, self._rows, caps, now_ms)

    def _leave_unknown(self, calls: Sequence[Call], now_ms: int) -> list[Call]:
        """`at_most_once`: those who may have been sent are never sent again."""
        lost = [call for call in calls if call.position in self._lost]
        self._record(
            [
                self._sending.read(
                    call, Reply(position=call.position, fate="unknown", detail=WORKER_LOST), self.chunk, now_ms
                )
                for call in lost
            ]
        )
        return [call for call in calls if call.position not in self._lost]

    def _record(self, outcomes: Sequence[Outcome], *, sent: bool = True, places: int = 0) -> None:
        """Settle and hand over; the chunk closes with its last outcome."""
        settled = []
        for outcome in outcomes:
            if outcome.position in self._left:
                self._left.discard(outcome.position)
                settled.append(self._settle(outcome, sent))
        if settled or not self._left:
            self._hand_over(batched(self.chunk, settled), places, closed=not self._left)

    def _hand_over(self, outcomes: OutcomeBatch, places: int, *, closed: bool) -> None:
        self._places -= places
        self._count(outcomes, closed=closed)
        self._written = self._desk.ledger.record(self.chunk, self._epoch, outcomes, closed=closed)
        self._written.add_done_callback(self._wrote)
        if places:
            self._written.add_done_callback(lambda _: self._window.give(places))

    def _wrote(self, written: asyncio.Future[None]) -> None:
        error = None if written.cancelled() else written.exception()
        if error is not None and not isinstance(error, ShardLost):
            self._refused = error

    def _settle(self, outcome: Outcome, sent: bool) -> Outcome:
        if outcome.position in self._lost:
            unanswered: str | None = WORKER_LOST
        else:
            unanswered = NO_ANSWER if self.chunk.repeated else None
        return retry.settle(
            outcome,
            self.chunk,
            delivery=self._send.delivery,
            expires_at=self._send.expires_at,
            unanswered=unanswered,
            sent=sent,
        )

    def _withdraw(self, places: int) -> int:
        self._places -= places
        self._window.give(places)
        return 0

    async def _put_back(self, wait_s: float, *, blame: bool) -> None:
        try:
            await self._desk.ledger.put_back(self.chunk, self._epoch, wait_s, blame=blame)
        except ShardLost:
            pass
        except Exception as error:
            # It stays in the queue as it is; an error from here would take the other flights with it.
            self._desk.kernel.log.error("chunk.not_put_back", error=repr(error), send=str(self.chunk.send))

    async def _end(self, result: str, state: str, reason: str) -> None:
        """Close the chunk as it is: whoever has no outcome gets this one without being looked at."""
        desk = self._desk
        await make_partition(desk.kernel, self.chunk.send)
        async with desk.kernel.db.transaction() as connection:
            if not await store.held_shards(connection, desk.shards.holder, {self.chunk.shard: self._epoch}):
                raise ShardLost(self.chunk.shard)
            await store.end_chunk(connection, self.chunk, state, reason)
            failpoint.hit("dispatch.mid_end")
        desk.kernel.metrics.count("dispatch_chunks", result=result)
        await desk.kernel.bus.wake(WAKE_ACCOUNT)

    def _count(self, outcomes: OutcomeBatch, *, closed: bool) -> None:
        metrics = self._desk.kernel.metrics
        counted: dict[tuple[str, str], int] = {}
        for state, reason, n in outcomes.counts():
            key = state, _label(reason)
            counted[key] = counted.get(key, 0) + n
        for (state, label), n in counted.items():
            metrics.count("dispatch_outcomes", n, channel=self._send.channel, state=state, reason=label)
        if closed:
            metrics.count("dispatch_chunks", result="closed")


def _label(reason: str) -> str:
    """Reasons of providers are their words, and a label has few values of ours: theirs are counted together."""
    return reason if reason.islower() and len(reason) <= 32 else ("provider" if reason else "")
