"""One index in this process: a project's, or a part of it by person.

It is the library's columnar index with what it needs around it: where it comes from (a snapshot and the log, or
Postgres), the counted streams that rules with conditions on properties ask for, and the answers it gives. What it
cannot answer exactly it leaves to whoever evaluates rows; a few people whom it is unsure of it has decided by rows
itself.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import nats.js.errors

from sendora import _core
from sendora.kernel import bus
from sendora.kernel.bus import Message
from sendora.kernel.clock import from_millis
from sendora.kernel.ids import OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Lease
from sendora.modules.audiences import bound, contacts, rows, snapshots, store
from sendora.modules.audiences.model import Leaf, Question, Reply, excluding
from sendora.modules.audiences.snapshots import Snapshot

MEGABYTE: Final = 1_000_000

MEASURE_S: Final = 10.0

NEVER: Final = -1
"""The position of a snapshot that was not taken."""

NOTHING: Final = _core.frame([])
"""A frame without records: it moves an index on over frames that say nothing of its project."""

NOT_READY: Final = Reply(ready=False)


class Slot(NamedTuple):
    """What an index is of."""

    org: OrgId
    project: ProjectId
    part: int
    parts: int

    @property
    def lease(self) -> str:
        return f"audience.{self.project}.{self.part}-{self.parts}"

    @property
    def subject(self) -> str:
        return f"ask.audiences.index.{self.project}.{self.part}-{self.parts}"


class TooLarge(Exception):
    """It would take more memory than this process has for indexes."""


class Held:
    """An index under its lease. Until it is loaded there is nothing to ask."""

    def __init__(self, kernel: Kernel, slot: Slot, lease: Lease) -> None:
        self.slot = slot
        self.lease = lease
        self.index: _core.Index | None = None
        self.cuts = 0
        """`event_cuts` when it was loaded."""
        self.asked_at = kernel.clock.monotonic()
        self.is_doubtful = False
        """While it was being loaded something happened that it may have missed."""
        self._kernel = kernel
        self._log = 0
        self._saved = NEVER
        self._filling: asyncio.Task[None] | None = None
        self._streams: dict[str, float] = {}
        self._measured: tuple[float, int] | None = None

    # -- where it comes from -----------------------------------------------------------------------------------------

    async def load(self, folder: Path | None, bytes_max: int) -> None:
        """Raises TooLarge."""
        info = await self._kernel.bus.stream.stream_info(bus.EVENTS)
        self._log = 0 if info.created is None else int(info.created.timestamp() * 1_000)
        self.cuts = (await store.cuts(self._kernel.db, [(self.slot.org, self.slot.project)])).get(self.slot.project, 0)
        index = None
        if folder is not None:
            index = await asyncio.to_thread(self._open, folder)
        if index is not None:
            reached = (await store.stored(self._kernel.db)).both
            there = info.state.first_seq - 1 <= index.position <= reached
            if not there or await self._last_dead() > index.position:
                index = None
        if index is not None:
            self._saved = index.position
            self._kernel.metrics.count("audience_index_loads", change="snapshot")
        else:
            self._saved = NEVER
            index = await self._from_postgres(bytes_max)
            self._kernel.metrics.count("audience_index_loads", change="postgres")
        self._measured = None
        self.index = index

    async def _last_dead(self) -> int:
        """The last frame that a store gave up: in the log and in no table, so no snapshot is carried on over it."""
        found = 0
        for reader in store.READERS:
            with suppress(nats.js.errors.NotFoundError):
                dead = await self._kernel.bus.stream.get_last_msg(bus.DEAD, f"dead.{reader}")
                found = max(found, int((dead.headers or {}).get("Sendora-Position", 0)))
        return found

    def _open(self, folder: Path) -> _core.Index | None:
        wanted = self._snapshot()
        snapshots.sweep(folder, wanted)
        path = folder / wanted.file
        try:
            return _core.Index.open(str(path))
        except OSError:
            return None
        except ValueError as error:
            self._kernel.log.warning("audience_snapshot_refused", project=str(self.slot.project), error=str(error))
            path.unlink(missing_ok=True)
            return None

    async def _from_postgres(self, bytes_max: int) -> _core.Index:
        slot = self.slot
        index = _core.Index(slot.part, slot.parts)

        def fits() -> None:
            if sum(index.memory().values()) > bytes_max:
                raise TooLarge(str(slot.project))

        async with self._kernel.db.acquire() as connection, store.snapshot(connection):
            at = await store.stored(connection)
            self.cuts = (await store.cuts(connection, [(slot.org, slot.project)])).get(slot.project, 0)
            await store.load(connection, slot.org, slot.project, index, fits)
        await asyncio.to_thread(index.loaded, at.events, at.profiles)
        return index

    def size(self) -> int:
        """Bytes that it takes; measured now and then, because a large one is long to walk."""
        index, now = self.index, self._kernel.clock.monotonic()
        if index is None:
            return 0
        if self._measured is None or now - self._measured[0] >= MEASURE_S:
            self._measured = now, sum(index.memory().values())
        return self._measured[1]

    @property
    def is_dirty(self) -> bool:
        """Whether it has moved on since its last snapshot."""
        return self.index is not None and self.index.position != self._saved

    async def save(self, folder: Path) -> None:
        index = self.index
        if index is None:
            return
        position = index.position
        try:
            await asyncio.to_thread(self._write, index, folder)
        except OSError as error:
            # It costs the next start some time, and nobody an answer.
            self._kernel.log.warning("audience_snapshot_failed", error=repr(error))
        else:
            self._saved = position

    def _write(self, index: _core.Index, folder: Path) -> None:
        index.save(str(snapshots.path_of(folder, self._snapshot())))
        snapshots.sweep(folder, self._snapshot())

    def _snapshot(self) -> Snapshot:
        return Snapshot(self.slot.project, self.slot.part, self.slot.parts, self.cuts, self._log)

    def forget(self, folder: Path | None) -> None:
        """What it knows is not so any more, and its snapshot neither."""
        self.index = None
        if folder is not None:
            (folder / self._snapshot().file).unlink(missing_ok=True)

    def close(self) -> None:
        self.index = None
        if self._filling is not None:
            self._filling.cancel()

    # -- the log -----------------------------------------------------------------------------------------------------

    def apply(self, frames: Sequence[tuple[Message, set[bytes]]], skips: dict[int, list[int]]) -> None:
        """In a thread. Frames in order, each with the projects that it speaks of."""
        index = self.index
        if index is None:
            return
        project = self.slot.project.bytes
        ours = [frame for frame, projects in frames if project in projects and frame.position > index.position]
        if ours:
            positions = [frame.position for frame in ours]
            index.apply(project, [frame.data for frame in ours], positions, [skips.get(at, []) for at in positions])
        last = frames[-1][0].position
        if index.position < last:
            index.apply(project, [NOTHING], [last], [[]])

    # -- asking ------------------------------------------------------------------------------------------------------

    async def answer(self, question: Question) -> tuple[Reply, bytes]:
        """What is asked for, and the members when they are wanted; not ready when rows must tell."""
        index = self.index
        if index is None:
            return NOT_READY, b""
        self.asked_at = self._kernel.clock.monotonic()
        rule = excluding(question.rules, question.excluded)
        wanted = index.streams_wanted(rule)
        for key in _core.Index().streams_wanted(rule):
            if key not in wanted:
                self._streams[key] = self.asked_at
        if wanted:
            self._fill(index, rule)
            return NOT_READY, b""
        began = self._kernel.clock.monotonic()
        answered = await self._answer(index, rule, question)
        if answered is None:
            return NOT_READY, b""
        took = self._kernel.clock.monotonic() - began
        purpose = PURPOSES[question.want]
        self._kernel.metrics.observe("audience_seconds", took, purpose=purpose)
        return answered

    async def _answer(self, index: _core.Index, rule: _core.Rule, question: Question) -> tuple[Reply, bytes] | None:
        slot, now_ms = self.slot, question.as_of_ms
        found = await asyncio.to_thread(index.ask, rule, now_ms)
        count, decided = found.count, b""
        if found.undecided:
            if found.undecided > rows.SOME_MAX or question.want in ("preview", "page"):
                return None
            names = _core.member_names(found.candidates(), 0, rows.SOME_MAX)
            more, decided = await rows.decide(self._kernel, slot.org, slot.project, rule, from_millis(now_ms), names)
            count += more
        purpose, engine = PURPOSES[question.want], "both" if found.undecided else "index"
        reply, members = Reply(count=count), b""
        if question.want == "members":
            members = await asyncio.to_thread(found.members) + decided
        elif question.want == "page":
            sorted_ = await asyncio.to_thread(found.members)
            reply = Reply(count=count, names=tuple(_core.member_names(sorted_, question.offset, question.size)))
        elif question.want == "preview":
            plain = excluding(question.rules, ())
            _, open_, steps = await asyncio.to_thread(index.preview, plain, now_ms)
            if open_ or any(alone is None for _, alone, _ in steps):
                return None
            leaves = tuple(Leaf(path=path, alone=alone or 0, remaining=left) for path, alone, left in steps)
            people = await asyncio.to_thread(found.members)
            if question.without:
                count, people = await contacts.leave_out(
                    self._kernel.db, slot.org, slot.project, people, question.without
                )
            addresses = await bound.addresses_of(self._kernel, slot.org, slot.project, people)
            reply = Reply(count=count, leaves=leaves, addresses=addresses)
        self._kernel.metrics.count("audience_evaluations", purpose=purpose, engine=engine)
        return reply, members

    # -- counted streams ---------------------------------------------------------------------------------------------

    def _fill(self, index: _core.Index, rule: _core.Rule) -> None:
        """In the background, one rule at a time; until then rows answer."""
        if self._filling is None or self._filling.done():
            self._filling = asyncio.create_task(self._fill_streams(index, rule), name="audiences.fill")

    async def _fill_streams(self, index: _core.Index, rule: _core.Rule) -> None:
        for key in index.streams_wanted(rule):
            if not self._register(index, key):
                return
            try:
                async with self._kernel.db.acquire() as connection, store.snapshot(connection):
                    at = await store.stored(connection)

                    def sink(piece: bytes, key: str = key) -> None:
                        index.load_stream(key, piece)

                    await store.load_stream(connection, self.slot.org, self.slot.project, rule.event_types(), sink)
                await asyncio.to_thread(index.stream_loaded, key, at.events)
            except Exception as error:
                # What was half read cannot be gone on with; whoever asks next begins anew, with a new index.
                self._kernel.log.warning("audience_stream_failed", project=str(self.slot.project), error=repr(error))
                self.index = None if self.index is index else self.index
                return

    def _register(self, index: _core.Index, key: str) -> bool:
        """False when there are as many as it holds, and nobody can tell which of them is idle."""
        try:
            index.register_stream(key)
        except ValueError:
            if not self._streams:
                return False
            # The one that was not asked for the longest time makes room.
            oldest = min(self._streams, key=self._streams.__getitem__)
            del self._streams[oldest]
            index.unregister_stream(oldest)
            index.register_stream(key)
        self._streams[key] = self._kernel.clock.monotonic()
        return True


PURPOSES: Final[dict[str, rows.Purpose]] = {"count": "size", "preview": "preview", "members": "send", "page": "list"}
