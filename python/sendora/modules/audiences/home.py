"""The home of the indexes: this process holds some projects' (or parts of them) by lease, and answers for them.

eats        frames of EVENTS, once both stores have passed them, with what the storer left out
gives       answers on the subject of each index that it holds; snapshots
bounded by  `audiences.memory_mb`: beyond it the project that was not asked for the longest time goes
acks when   nothing: an index keeps its own position
if it dies  its leases end within 10 s; until another home has loaded the index, rows answer

An index is made when it is asked for: whoever finds nobody at its subject asks for rows and tells all workers, and the
first to take the lease loads it. The lease saves memory, it guards nothing: two homes would give the same answer. With
`audiences.parts` the parts go to as many workers as there are, because each takes one at a time.

An index follows the stores: it applies a frame only when the storer and the profiles have passed it, so that an answer
is never ahead of what Postgres shows, and a question says which position an answer must not be behind of.
"""

import asyncio
import os
import random
import socket
from bisect import bisect_left
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec

from sendora import _core
from sendora.kernel import bus
from sendora.kernel.bus import Message, Tail, tail
from sendora.kernel.errors import Unavailable
from sendora.kernel.ids import OrgId, ProjectId, new_id
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Lease, is_away
from sendora.modules import consent, events, profiles
from sendora.modules.audiences import snapshots, store
from sendora.modules.audiences.held import MEGABYTE, NOT_READY, Held, Slot, TooLarge
from sendora.modules.audiences.model import Fetch, Question

WANTED: Final = "wake.audiences"
"""`wake.audiences.<org>.<project>`: somebody asked for an index and nobody answered."""

FRAMES_MAX: Final = 64
"""Frames applied at once; their bytes are bounded by the pull (16 MiB)."""

LOOK_S: Final = 1.0
"""How often the stores' positions are looked at without a wake, and leases, memory and snapshots in any case."""

RENEW_S: Final = 3.0
"""Two renewals may fail before a lease ends."""

CUTS_S: Final = 5.0
"""How often erasures are looked for without a wake."""

WANTED_S: Final = 30.0
"""How long a project stays wanted after it was asked for."""

LOADS_MAX: Final = 2
"""Indexes loaded at the same time, each over a connection of the pool."""

DEAD_S: Final = 1.0
"""How long after a store gave a frame up its position has passed it for sure: what is loaded before would apply it."""

COOL_S: Final = 60.0
"""How long a project that had to go is not taken again: two that do not fit together would else load in turn."""

TICKET_S: Final = 30.0
"""How long members wait to be fetched."""

PIECE_BYTES: Final = 1_048_576
"""Of members in one message; NATS takes four times as much."""

_ASKED: Final = msgspec.json.Decoder(Question | Fetch)


class Home:
    name = "audiences.home"

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._settings = kernel.settings.audiences
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{new_id().hex}"
        self._folder = Path(self._settings.snapshot_dir) if self._settings.snapshot_dir else None
        self._held: dict[Slot, Held] = {}
        self._loads: dict[Slot, asyncio.Task[None]] = {}
        self._ends: dict[Slot, Callable[[], Awaitable[None]]] = {}
        self._wanted: dict[tuple[OrgId, ProjectId], float] = {}
        self._cooling: dict[ProjectId, float] = {}
        self._tickets: dict[UUID, tuple[float, bytes]] = {}
        self._stirred = asyncio.Event()
        """There may be something in the log to apply."""
        self._called = asyncio.Event()
        """There is something to take, or to look at."""
        self._moved = asyncio.Event()
        """Set, and made anew, whenever indexes have moved on."""
        self._load_after = 0.0
        self._cuts_due = True
        self._renewed_at = 0.0
        self._cuts_at = 0.0
        self._saving: asyncio.Task[None] | None = None
        self._saved_at: dict[Slot, float] = {}

    async def run(self, stop: asyncio.Event) -> None:
        if not self._settings.memory_mb:
            await stop.wait()
            return
        listen = self._kernel.bus.on_wake
        ends = [
            listen(f"{WANTED}.*.*", self._on_wanted),
            listen(events.WAKE, lambda subject: self._stirred.set()),
            listen(profiles.WAKE, lambda subject: self._stirred.set()),
            listen(events.WAKE_CUTS, self._on_cuts),
            # A frame that a store gave up is in the log and not in the tables.
            listen(f"dead.{events.STORER}", self._on_dead),
            listen(f"dead.{profiles.READER}", self._on_dead),
        ]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(stop))
                group.create_task(self._keep(stop))
                await stop.wait()
                self._stirred.set()
                self._called.set()
        finally:
            for end in ends:
                end()
            await self._leave()

    # -- what is asked -----------------------------------------------------------------------------------------------

    async def _answer(self, held: Held, payload: bytes) -> bytes:
        asked = _ASKED.decode(payload)
        if isinstance(asked, Fetch):
            _, members = self._tickets.get(asked.ticket, (0.0, b""))
            end = asked.offset + PIECE_BYTES
            if end >= len(members):
                self._tickets.pop(asked.ticket, None)
            return members[asked.offset : end]
        if not await self._reached(held, asked.after, asked.wait_s):
            return msgspec.json.encode(NOT_READY)
        reply, members = await held.answer(asked)
        if members:
            ticket = new_id()
            self._tickets[ticket] = (self._kernel.clock.monotonic() + TICKET_S, members)
            reply = msgspec.structs.replace(reply, ticket=ticket, length=len(members))
        return msgspec.json.encode(reply)

    async def _reached(self, held: Held, position: int, wait_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while (index := held.index) is not None:
                    moved = self._moved
                    if index.position >= position:
                        return True
                    self._stirred.set()
                    await moved.wait()
        return False

    def _on_wanted(self, subject: str) -> None:
        org, project = subject.removeprefix(f"{WANTED}.").split(".")
        self._wanted[OrgId(UUID(org)), ProjectId(UUID(project))] = self._kernel.clock.monotonic()
        self._called.set()

    def _on_cuts(self, subject: str) -> None:
        self._cuts_due = True
        self._called.set()

    def _on_dead(self, subject: str) -> None:
        self._load_after = self._kernel.clock.monotonic() + DEAD_S
        self._begin_anew(list(self._held.values()), "dead")

    # -- the log -----------------------------------------------------------------------------------------------------

    async def _follow(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._stirred.clear()
            ready = self._ready()
            if not ready:
                await self._pause(self._stirred)
                continue
            low = min(position for _, position in ready)
            try:
                async with tail(self._kernel.bus, bus.EVENTS, low) as reading:
                    await self._read(reading, stop)
            except bus.Missing as missing:
                self._kernel.log.warning("audience_log_missing", reason=str(missing))
                self._begin_anew([held for held, _ in ready], "missing")
            except bus.Gap as gap:
                self._kernel.log.info("audience_log_anew", reason=str(gap))
                await asyncio.sleep(0.1)
            except Exception as error:
                if not _away(error):
                    raise
                self._kernel.log.warning("audience_log_waits", error=repr(error))
                await asyncio.sleep(LOOK_S)

    async def _read(self, reading: Tail, stop: asyncio.Event) -> None:
        """Until somebody is further behind than this reading, or nobody is left."""
        while not stop.is_set():
            self._stirred.clear()
            ready = self._ready()
            if not ready or min(position for _, position in ready) < reading.position:
                return
            stored = (await store.stored(self._kernel.db)).both
            self._kernel.metrics.gauge("audience_index_lag", stored - reading.position)
            if stored < reading.position:
                raise bus.Missing(f"the stores are at {stored}, behind {reading.position}")
            if stored == reading.position:
                await self._pause(self._stirred)
                continue
            above = reading.position
            frames = await reading.fetch(min(FRAMES_MAX, stored - above))
            if not frames:
                raise bus.Missing(f"nothing follows {above}")
            skips = await store.skips(self._kernel.db, above, frames[-1].position)
            tombstones = await consent.erased_behind(self._kernel, self._kernel.db, above + 1)
            if tombstones is not None:
                frames, skips = _without(frames, skips, tombstones)
            spoken = await asyncio.to_thread(_spoken, frames)
            for held, position in ready:
                if position < frames[-1].position:
                    await self._apply(held, spoken, skips)
            self._tell_moved()

    async def _apply(self, held: Held, frames: list[tuple[Message, set[bytes]]], skips: dict[int, list[int]]) -> None:
        try:
            await asyncio.to_thread(held.apply, frames, skips)
        except ValueError as error:
            self._kernel.log.error("audience_index_broken", project=str(held.slot.project), error=repr(error))
            self._begin_anew([held], "broken")

    def _ready(self) -> list[tuple[Held, int]]:
        """Those that can be asked, and where they are."""
        found = [(held, held.index) for held in self._held.values()]
        return [(held, index.position) for held, index in found if index is not None]

    def _tell_moved(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    # -- what is held ------------------------------------------------------------------------------------------------

    async def _keep(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._called.clear()
            try:
                await self._tick()
            except Exception as error:
                if not _away(error):
                    raise
                self._kernel.log.warning("audience_home_waits", error=repr(error))
            await self._pause(self._called)

    async def _tick(self) -> None:
        now = self._kernel.clock.monotonic()
        if now - self._renewed_at >= RENEW_S:
            self._renewed_at = now
            for held in list(self._held.values()):
                if not await held.lease.renew():
                    await self._drop(held, "lost")
        if self._cuts_due or now - self._cuts_at >= CUTS_S:
            self._cuts_due, self._cuts_at = False, now
            await self._look_at_cuts()
            await self._forget_others()
        await self._take(now)
        for slot, held in self._held.items():
            if now < self._load_after or len(self._loads) >= LOADS_MAX:
                break
            if held.index is None and slot not in self._loads:
                self._loads[slot] = asyncio.create_task(self._load(held), name=f"audiences.load {slot.project}")
        await self._make_room()
        self._save_one(now)
        self._tickets = {ticket: kept for ticket, kept in self._tickets.items() if kept[0] > now}
        gauge = self._kernel.metrics.gauge
        gauge("audience_indexes", len(self._held))
        gauge("audience_index_people", sum(len(held.index) for held in self._held.values() if held.index is not None))
        gauge("audience_index_bytes", sum(held.size() for held in self._held.values()))

    async def _take(self, now: float) -> None:
        """One part of each project that is wanted and that nobody holds; the others may take the rest."""
        for (org, project), asked_at in list(self._wanted.items()):
            parts = self._settings.parts
            slots = [slot for part in range(parts) if (slot := Slot(org, project, part, parts)) not in self._held]
            if now - asked_at > WANTED_S or not slots:
                del self._wanted[org, project]
                continue
            if self._cooling.get(project, 0.0) > now:
                continue
            random.shuffle(slots)
            for slot in slots:
                lease = Lease(self._kernel.db, slot.lease, self._holder)
                if await lease.acquire() is not None:
                    self._held[slot] = Held(self._kernel, slot, lease)
                    self._kernel.metrics.count("lease_changes", kind="audience", change="taken")
                    break

    async def _load(self, held: Held) -> None:
        slot = held.slot
        try:
            held.is_doubtful = False
            await held.load(self._folder, self._settings.memory_mb * MEGABYTE)
            if held.is_doubtful:
                held.forget(self._folder)
                return
            if slot not in self._ends and self._held.get(slot) is held:
                handle = partial(self._answer, held)
                self._ends[slot] = await self._kernel.bus.answer(slot.subject, slot.subject, handle)
            self._saved_at[slot] = self._kernel.clock.monotonic()
            self._kernel.log.info("audience_index_loaded", project=str(slot.project), part=slot.part)
            self._stirred.set()
        except TooLarge:
            self._cool(held)
            await self._drop(held, "too_large")
        except Exception as error:
            self._kernel.log.warning(
                "audience_load_failed", project=str(slot.project), error=repr(error), exc_info=not _away(error)
            )
            self._cool(held)
            await self._drop(held, "failed")
        finally:
            self._loads.pop(slot, None)

    async def _look_at_cuts(self) -> None:
        """Whoever lost events is made anew: the log does not tell of it."""
        found = await store.cuts(self._kernel.db, {(slot.org, slot.project) for slot in self._held})
        cut = [
            held
            for slot, held in self._held.items()
            if held.index is not None and found.get(slot.project, 0) != held.cuts
        ]
        self._begin_anew(cut, "cut")

    async def _forget_others(self) -> None:
        """Snapshots of what is held elsewhere by now: nobody else would find out that people were erased since."""
        if self._folder is None:
            return
        held = {(slot.project, slot.part, slot.parts) for slot in self._held}
        kept = await asyncio.to_thread(snapshots.kept, self._folder)
        others = [one for one in kept if (one.project, one.part, one.parts) not in held]
        if others:
            found = await store.cuts_of(self._kernel.db, {one.project for one in others})
            for one in others:
                if found.get(one.project, 0) != one.cuts:
                    (self._folder / one.file).unlink(missing_ok=True)

    def _begin_anew(self, these: list[Held], why: str) -> None:
        """From Postgres; rows answer until it is done."""
        for held in these:
            held.is_doubtful = True
            if held.index is not None:
                self._kernel.metrics.count("audience_index_loads", change=why)
                held.forget(self._folder)
        self._tell_moved()
        self._called.set()

    async def _make_room(self) -> None:
        limit = self._settings.memory_mb * MEGABYTE
        by_use = sorted((held for held, _ in self._ready()), key=lambda held: held.asked_at)
        taken = sum(held.size() for held in by_use)
        for held in by_use:
            if taken <= limit:
                return
            taken -= held.size()
            self._cool(held)
            if self._folder is not None and held.is_dirty:
                await held.save(self._folder)
            await self._drop(held, "evicted")

    def _cool(self, held: Held) -> None:
        self._cooling[held.slot.project] = self._kernel.clock.monotonic() + COOL_S

    def _save_one(self, now: float) -> None:
        """The one whose snapshot is the oldest, in the background: a large one takes longer than a lease lasts."""
        if self._folder is None or (self._saving is not None and not self._saving.done()):
            return
        due = [held for held, _ in self._ready() if held.is_dirty]
        due = [held for held in due if now - self._saved_at.get(held.slot, 0.0) >= self._settings.snapshot_s]
        if due:
            held = min(due, key=lambda held: self._saved_at.get(held.slot, 0.0))
            self._saved_at[held.slot] = now
            self._saving = asyncio.create_task(held.save(self._folder), name="audiences.save")

    async def _drop(self, held: Held, why: str) -> None:
        slot = held.slot
        self._kernel.metrics.count("audience_index_loads", change=why)
        self._kernel.metrics.count("lease_changes", kind="audience", change="lost")
        self._held.pop(slot, None)
        held.close()
        loading = self._loads.get(slot)
        if loading is not None and loading is not asyncio.current_task():
            loading.cancel()
        end = self._ends.pop(slot, None)
        if end is not None:
            await end()
        with suppress(Exception):  # Else it ends by itself.
            await held.lease.release()
        self._tell_moved()

    async def _leave(self) -> None:
        """Snapshots of what has moved on, then whoever is left may have it at once."""
        for task in (*self._loads.values(), *filter(None, [self._saving])):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for held in list(self._held.values()):
            if self._folder is not None and held.is_dirty:
                await held.save(self._folder)
            with suppress(Exception):
                await self._drop(held, "left")

    async def _pause(self, event: asyncio.Event) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await event.wait()


def _without(
    frames: list[Message], skips: dict[int, list[int]], tombstones: consent.Tombstones
) -> tuple[list[Message], dict[int, list[int]]]:
    """As if those who were erased had never said anything; what was skipped is numbered anew."""
    left, numbered = [], dict(skips)
    for frame in frames:
        remains = consent.strip(frame.data, frame.position, tombstones)
        left.append(msgspec.structs.replace(frame, data=remains.data))
        skipped = skips.get(frame.position, [])
        if remains.gone and skipped:
            gone = set(remains.gone)
            numbered[frame.position] = [
                ordinal - bisect_left(remains.gone, ordinal) for ordinal in skipped if ordinal not in gone
            ]
    return left, numbered


def _spoken(frames: list[Message]) -> list[tuple[Message, set[bytes]]]:
    """Of which projects each frame speaks; of none when it is damaged, as the stores found too."""
    spoken = []
    for frame in frames:
        try:
            projects = set(_core.frame_projects(frame.data))
        except ValueError:
            projects = set()
        spoken.append((frame, projects))
    return spoken


def _away(error: BaseException) -> bool:
    return isinstance(error, Unavailable) or is_away(error) or bus.is_away(error)
