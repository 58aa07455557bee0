"""Sends become chunks: whom a send is for, cut by shard, in rounds.

Eats: rows of `sends` that are queued (or whose planner died), transactional ones first; `wake.plan` only saves the
wait.
Gives: rows of `chunks`, at most 1,000 recipients of one shard each, and `wake.<shard>`.
Bounded by: 8 sends at a time, 6 of one class, of which some hold connections; 256,000 recipients a round; 10 s of
waiting for the stores.
Acks when: a round's chunks and the positions they reach are committed in one transaction; `planned_at` after the last.
If it dies: its lease on the send ends within 10 s, and another planner evaluates anew and goes on above the positions,
so nobody is planned twice. A channel with many recipients hands them over shard by shard, and the first round of all is
one chunk a shard, committed at once: the first message does not wait for the last chunk.

A send in the recipients' own zones is planned once, when its time comes where clocks are furthest ahead
(`recurrence.EARLIEST`): whoever is in it then, with the zone that is known of them then. Its chunks are cut by due time
as well. For whom the time has passed, because the call came after it, it is now, and lifetime and lateness count from
the call; who moves to another zone after the plan keeps the time, and quiet hours are those of where they are then; who
registers after it is not in this send.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Final

import msgspec

from sendora.delivery import account, failpoint, store
from sendora.delivery.channel import Channel
from sendora.delivery.failpoint import Crash
from sendora.delivery.fair import Window
from sendora.delivery.phases import Class, Send, Targets
from sendora.delivery.recurrence import instant, zone_of
from sendora.delivery.store import PlanLost
from sendora.delivery.submit import WAKE_PLAN
from sendora.kernel import bus
from sendora.kernel.errors import Unavailable
from sendora.kernel.life import Kernel, Service
from sendora.kernel.pg import Connection, is_away

POLL_S: Final = 1.0
"""A lost wake costs this much."""

LEASE_S: Final = 10.0
RENEW_S: Final = 3.0
"""Two renewals may fail before the lease ends."""

PLANS_MAX: Final = 8
"""Sends at a time: one that waits for the stores does not hold up the others."""

CLASS_MAX: Final = 6
"""Of one class: however many large broadcasts are planned, a transactional send finds a place at once, and a broadcast
does in a flood of those."""

PART_OF_POOL: Final = 4
"""A plan writes through one connection and may read through another: so that half of the pool is left to everybody else
in the process, one for each four of its connections writes at the same time. That is for broadcasts; transactional
sends have as many again, which they hold for a moment only, and never wait for a broadcast's. Tenants take turns."""

CLAIMS_MAX: Final = 5
"""A send that was taken up so often without an end fails (F-M6)."""

ROUND_MAX: Final = 256
"""Chunks of a round, of all shards together: 4 MB of recipients a transaction."""

STORES: Final = ("events", "profiles")
"""The readers of the log whose positions must have passed the send's (design 5)."""

WAIT_S: Final = 10.0
"""How long a send waits for them; then it is planned as of what is known, and says so."""

LOOK_S: Final = (0.02, 0.25)
"""How soon the positions are looked at again: at first, and at the slowest."""

AWAY_S: Final = 5.0
"""How long a send waits for a server that is away."""

GIVEN_UP: Final = "The audience could not be evaluated."


def planner(kernel: Kernel, channels: Mapping[str, Channel]) -> Service:
    return Planner(kernel, channels)


class Planner:
    name = "plan"

    def __init__(self, kernel: Kernel, channels: Mapping[str, Channel]) -> None:
        self._kernel = kernel
        self._channels = channels
        self._woken = asyncio.Event()
        self._plans: dict[asyncio.Task[None], Class] = {}
        writers = max(kernel.settings.postgres.pool_size // PART_OF_POOL, 1)
        self._writing: dict[Class, Window] = {"now": Window(writers), "bulk": Window(writers)}

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until stopped; plans under way are let go, and whoever is left goes on above their positions."""
        end = self._kernel.bus.on_wake(WAKE_PLAN, lambda subject: self._woken.set())
        try:
            async with asyncio.TaskGroup() as group:
                stopping = group.create_task(self._watch(stop))
                while not stop.is_set():
                    self._woken.clear()
                    if await self._take(group):
                        continue
                    with suppress(TimeoutError):
                        async with asyncio.timeout(POLL_S):
                            await self._woken.wait()
                stopping.cancel()
                for plan in self._plans:
                    plan.cancel()
        except BaseExceptionGroup as group_error:
            if group_error.subgroup(Crash) is not None:
                raise Crash(self.name) from None
            raise
        finally:
            end()

    async def _watch(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._woken.set()

    async def _take(self, group: asyncio.TaskGroup) -> bool:
        if len(self._plans) >= PLANS_MAX:
            return False
        try:
            planned = list(self._plans.values())
            open_to = [class_ for class_ in self._writing if planned.count(class_) < CLASS_MAX]
            claimed = await store.claim_plan(self._kernel.db, LEASE_S, open_to)
        except Exception as error:
            if not is_away(error):
                raise
            self._kernel.log.warning("plan.away", error=repr(error))
            return False
        if claimed is None:
            return False
        self._kernel.fence.note(claimed[0].id)
        task = group.create_task(self._plan(*claimed))
        self._plans[task] = claimed[0].class_
        task.add_done_callback(self._planned)
        return True

    def _planned(self, task: asyncio.Task[None]) -> None:
        del self._plans[task]
        self._woken.set()

    async def _plan(self, send: Send, epoch: int, claims: int) -> None:
        log = self._kernel.log.bind(send=str(send.id))
        started = self._kernel.clock.monotonic()
        try:
            if claims > CLAIMS_MAX:
                await self._end(send, epoch, Targets(unreachable=0, as_of=None, complete=False), error=GIVEN_UP)
                log.error("plan.given_up", claims=claims)
                return
            channel = self._channels.get(send.channel)
            if channel is None:  # A version of the cluster that knows the channel will come by.
                await store.postpone_plan(self._kernel.db, send.org, send.id, epoch, AWAY_S)
                return
            await self._under_lease(send, epoch, channel)
            self._kernel.metrics.observe("plan_seconds", self._kernel.clock.monotonic() - started)
        except PlanLost:
            log.info("plan.lost")
        except Exception as error:
            if isinstance(error, Unavailable) or is_away(error) or bus.is_away(error):
                log.warning("plan.waits", error=repr(error))
                with suppress(Exception):  # Else the lease ends by itself.
                    await store.postpone_plan(self._kernel.db, send.org, send.id, epoch, AWAY_S)
            else:
                log.exception("plan.failed", claims=claims)

    async def _under_lease(self, send: Send, epoch: int, channel: Channel) -> None:
        """Plan while the lease is renewed; when it is lost, stop in the middle."""
        work = asyncio.ensure_future(self._work(send, epoch, channel))
        try:
            while True:
                done, _ = await asyncio.wait({work}, timeout=RENEW_S)
                if done:
                    return await work
                if not await store.keep_plan(self._kernel.db, send.org, send.id, epoch, LEASE_S):
                    raise PlanLost(send.id)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _work(self, send: Send, epoch: int, channel: Channel) -> None:
        passed = await self._stores_passed(send.log_position)
        if not passed:
            self._kernel.metrics.count("plan_late")
        failpoint.hit("plan.before_evaluate")
        async with self._writing[send.class_].place(send.org), self._kernel.db.acquire() as connection:
            # Rounds are transactions of their own, so the table outlives them; a connection that broke took it along.
            await connection.execute(store.SQL.drop_targets)
            await connection.execute(store.SQL.make_targets)

            shards = ROUND_MAX  # As if every chunk had its own: the first round is one of each.

            async def ready() -> None:
                nonlocal shards
                shards = await self._rounds(connection, send, epoch, shards)
                await connection.execute(store.SQL.clear_targets)

            try:
                targets = await channel.recipients(self._kernel, connection, send, ready)
                await ready()
            finally:
                with suppress(Exception):
                    await connection.execute(store.SQL.drop_targets)
        complete = passed and targets.complete
        await self._end(
            send,
            epoch,
            msgspec.structs.replace(targets, complete=complete),
            error=None,
        )

    async def _stores_passed(self, log_position: int) -> bool:
        """Whether both stores have read what was in the log when the send was asked for, after 10 s at most."""
        deadline = self._kernel.clock.monotonic() + WAIT_S
        pause = LOOK_S[0]
        while True:
            position = await store.stored_position(self._kernel.db, STORES)
            if (position or 0) >= log_position:
                return True
            if self._kernel.clock.monotonic() + pause > deadline:
                return False
            await asyncio.sleep(pause)
            pause = min(pause * 2, LOOK_S[1])

    async def _rounds(self, connection: Connection, send: Send, epoch: int, shards: int) -> int:
        """Commit what stands in the table. `shards`: over how many of them it may be spread; the answer is how many."""
        due_in: dict[str, datetime] = {}
        if send.local_at is not None:
            zones = await store.zones_of_targets(connection)
            due_in = {zone: instant(send.local_at, zone_of(zone)) for zone in zones}
        while True:
            chunks = max(ROUND_MAX // shards, 1)
            async with connection.transaction():
                await store.keep_round(connection, send.org, send.id, epoch, LEASE_S)
                committed = await store.plan_round(connection, send, chunks, due_in)
                if not committed.recipients:
                    return shards
                await store.run_send(connection, send.org, send.id)
                failpoint.hit("plan.mid_insert")
            failpoint.hit("plan.after_commit")
            self._kernel.metrics.count("plan_chunks", committed.chunks, **{"class": send.class_})
            for shard in committed.shards:
                await self._kernel.bus.wake(f"wake.{shard}")
            failpoint.hit("plan.after_wake")
            shards = len(committed.shards)
            if committed.ended:
                return shards

    async def _end(self, send: Send, epoch: int, targets: Targets, *, error: str | None) -> None:
        ended = await store.end_plan(
            self._kernel.db,
            send.org,
            send.id,
            epoch,
            unreachable=targets.unreachable,
            as_of=targets.as_of,
            complete=targets.complete,
            kept=targets.kept,
            error=error,
        )
        if not ended:
            raise PlanLost(send.id)
        # A send without anybody closes here and now (C96); any other is closed by whoever accounts its last chunk.
        await account.close_send(self._kernel, send.org, send.id)
