"""The restore fence: a database that was restored from a backup, or a copy of one, sends nothing on its own (F-S6).

Its queue is one of the past: what it holds as waiting has gone out since, or another cluster sends it. So the identity
of the cluster stands twice, in Postgres and in a bucket of JetStream: id, epoch, and a beat that rises while something
is planned or sent, with the highest id of a send. They must match, and Postgres must not be behind. Whatever else is
found is a fence: stages that make or send messages wait, and say so in the log, in `/readyz` and in `fence_standing`.
`sendora doctor` explains it, `sendora doctor --confirm-epoch` raises the epoch of both; then every process goes on by
itself, and a cluster that still holds the old epoch is the one that stands still.

    nothing in either                      the first start: both are made, no fence
    an empty bucket beside a full database the log is new or was emptied: a restored database, or a copy with a new log
    another id or epoch                    a database and a log that do not belong together
    the log's beat is above                the database is behind: restored in place, or a failover lost commits
    the same beat with another nonce       two databases that went on from one copy use one log

Eats: what the planner and the dispatcher take up, and each mark and outcome that the ledger commits (`note`, two
assignments; nothing is written on their path).
Gives: a beat, first in Postgres, then in the bucket, so that the bucket is never ahead of a database that is whole.
Bounded by: one beat a second for each busy process, none while nothing moves; a look every 5 s.
Acks when: never; a beat that fails is made up by the next one.
If it dies: what went out in the last second may be unmarked. That is the gap: a backup is not recognised as one of the
past if all that went out after it went out in the last second before the cluster was lost, or while NATS was away (a
process that has looked goes on without it, and makes the beat up afterwards).
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol
from uuid import UUID

import msgspec
from asyncpg import Record
from nats.js import JetStreamContext, api
from nats.js.errors import BadRequestError, BucketNotFoundError, KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue
from structlog.typing import FilteringBoundLogger

from sendora.kernel import bus
from sendora.kernel.clock import from_millis, iso
from sendora.kernel.errors import Unavailable
from sendora.kernel.ids import NIL, id_millis, new_id
from sendora.kernel.metrics import Metrics
from sendora.kernel.pg import Database
from sendora.kernel.pg import is_away as postgres_is_away

BUCKET: Final = "SENDORA_CLUSTER"
KEY: Final = "identity"

BEAT_S: Final = 1.0
"""The gap (see above)."""

LOOK_S: Final = 5.0
"""How long a process goes on beside a database that was restored under it, or after another one was confirmed; a fence
that was lifted is seen as soon."""

TRIES: Final = 5
"""Processes that beat at once meet in the bucket; who loses looks again, and mostly finds a higher beat there."""

REMEDY: Final = (
    "Nothing is planned or sent. Find out which database and which log are to go on, and that nothing else works on "
    "them; what this database holds as waiting goes out (again) unless it is cancelled first. "
    "Then run `sendora doctor --confirm-epoch`."
)

_COLUMNS: Final = "id, epoch, beat, nonce, send, told"

_FIND: Final = f"SELECT {_COLUMNS} FROM cluster"

# Whoever comes first decides; everybody else reads that one's row.
_MAKE: Final = f"""
INSERT INTO cluster ({_COLUMNS}) VALUES ($1, 1, 0, $2, $3, false) ON CONFLICT DO NOTHING
"""

_TOLD: Final = "UPDATE cluster SET told = true WHERE id = $1"

_BEAT: Final = f"""
UPDATE cluster SET beat = beat + 1, nonce = $1, send = greatest(send, $2)
RETURNING {_COLUMNS}
"""

_RAISE: Final = f"""
UPDATE cluster
   SET epoch = greatest(epoch, $1) + 1, beat = greatest(beat, $2) + 1, nonce = $3, send = greatest(send, $4),
       told = true
RETURNING {_COLUMNS}
"""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster's identity, and how far its dispatch has come: the row in Postgres, and the entry of the bucket."""

    id: UUID
    epoch: int
    beat: int
    nonce: UUID
    send: UUID


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """Both sides, the bucket read first: the database may only be further by then."""

    ours: Mark | None
    """In Postgres."""
    theirs: Mark | None
    """In the bucket."""
    told: bool
    """Whether Postgres has made the bucket already."""


class Working(Protocol):
    """A service, as in life.py."""

    @property
    def name(self) -> str: ...

    async def run(self, stop: asyncio.Event) -> None: ...


def judge(reading: Reading) -> str | None:
    """Why the fence stands; None: the two belong together, or there is nothing yet."""
    ours, theirs = reading.ours, reading.theirs
    if theirs is None:
        if ours is None or not reading.told:
            return None
        return f"the log is new or was emptied, and the database belongs to cluster {_said(ours)}"
    if ours is None:
        return f"the database is new, and the log belongs to cluster {_said(theirs)}"
    if ours.id != theirs.id:
        return f"the database belongs to cluster {_said(ours)}, and the log to cluster {_said(theirs)}"
    if ours.epoch != theirs.epoch:
        return f"the database has epoch {ours.epoch} of cluster {ours.id}, and the log has epoch {theirs.epoch}"
    if theirs.beat > ours.beat or theirs.send > ours.send:
        return (
            f"the database is behind the log: it has seen {_last(ours)} (beat {ours.beat}), the log {_last(theirs)} "
            f"(beat {theirs.beat}) of cluster {ours.id}"
        )
    if theirs.beat == ours.beat and theirs.nonce != ours.nonce:
        return f"another database of cluster {ours.id} works with this log: both are copies of one"
    return None


class Register:
    """Both places where the identity stands."""

    def __init__(self, db: Database, stream: JetStreamContext, replicas: int, bucket: str = BUCKET) -> None:
        self._db = db
        self._stream = stream
        self._replicas = replicas
        self._bucket = bucket

    async def read(self) -> Reading:
        """Changes nothing."""
        entries = await self._found()
        theirs = None if entries is None else (await self._entry(entries))[0]
        row = await self._db.fetchrow(_FIND)
        if row is None:
            return Reading(ours=None, theirs=theirs, told=False)
        return Reading(ours=_mark(row), theirs=theirs, told=row["told"])

    async def look(self) -> str | None:
        """Why the fence stands. Asked again before it is said: between the two reads of the first start another process
        may have finished it."""
        if judge(await self.read()) is None:
            return None
        return judge(await self.read())

    async def settle(self) -> str | None:
        """`look`, and at the first start of all make what is missing."""
        reading = await self.read()
        if reading.ours is None:
            # A database without a row is a new one, also where the log is not; then their ids differ.
            await self._db.execute(_MAKE, new_id(), new_id(), NIL)
            reading = await self.read()
        if reading.ours is not None and not reading.told:
            await self._tell(reading.ours, makes=True)
            if (told := (await self.read()).theirs) is not None and told.id == reading.ours.id:
                await self._db.execute(_TOLD, told.id)
        return await self.look()

    async def beat(self, send: UUID) -> bool:
        """Raise the beat in both. False: something else, or something higher, stands in the bucket, so that it is time
        for another look."""
        row = await self._db.fetchrow(_BEAT, new_id(), send)
        return row is not None and await self._tell(_mark(row))

    async def confirm(self) -> Mark:
        """Raise the epoch in both, above either: the word of the operator. Raises Unavailable when another cluster
        writes into the bucket all the time; then nothing is lifted, and it may be asked again."""
        reading = await self.read()
        if reading.ours is None:
            await self._db.execute(_MAKE, new_id(), new_id(), NIL)
        theirs = reading.theirs or Mark(id=NIL, epoch=0, beat=0, nonce=NIL, send=NIL)
        raised = _mark(await self._db.fetchrow(_RAISE, theirs.epoch, theirs.beat, new_id(), theirs.send))
        if not await self._tell(raised, makes=True, confirmed=True):
            raise Unavailable(message="Another cluster works with this log; stop it, and confirm again.")
        return raised

    async def _tell(self, ours: Mark, *, makes: bool = False, confirmed: bool = False) -> bool:
        """Whether the bucket holds now what Postgres has. What is another's or higher stays, unless it is confirmed.
        `makes`: the entry, too, where there is none; a beat must not, or it would lift the fence of an emptied log."""
        entries = await self._entries() if makes else await self._found()
        if entries is None:
            return False
        for _ in range(TRIES):
            theirs, revision = await self._entry(entries)
            if theirs is None and not makes:
                return False
            if theirs is not None and not confirmed and not _follows(ours, theirs):
                return theirs == ours
            with suppress(KeyWrongLastSequenceError):
                await entries.update(KEY, msgspec.json.encode(ours), last=revision)
                return True
        return False

    async def _found(self) -> KeyValue | None:
        try:
            return await self._stream.key_value(self._bucket)
        except BucketNotFoundError:
            return None

    async def _entries(self) -> KeyValue:
        if (entries := await self._found()) is not None:
            return entries
        # Not read from a replica, which may be behind.
        made = api.KeyValueConfig(
            bucket=self._bucket, storage=api.StorageType.FILE, replicas=self._replicas, direct=False
        )
        with suppress(BadRequestError):  # Another process was first.
            await self._stream.create_key_value(made)
        return await self._stream.key_value(self._bucket)

    async def _entry(self, entries: KeyValue) -> tuple[Mark | None, int]:
        """What stands in the bucket, and the revision that an update must name; 0 for a key that never was."""
        try:
            entry = await entries.get(KEY)
        except KeyNotFoundError as missing:
            return None, (missing.entry.revision or 0) if missing.entry is not None else 0
        return msgspec.json.decode(entry.value or b"", type=Mark), entry.revision or 0


class Fence:
    """What a process knows of the fence, and the service that keeps it so. Closed until the first look."""

    name = "fence"

    def __init__(
        self,
        register: Register,
        metrics: Metrics,
        log: FilteringBoundLogger,
        *,
        beat_s: float = BEAT_S,
        look_s: float = LOOK_S,
    ) -> None:
        self.register = register
        self.opened = asyncio.Event()
        self.closed = asyncio.Event()
        self.closed.set()
        self._metrics = metrics
        self._log = log
        self._beat_s = beat_s
        self._look_s = look_s
        self._said: str | None = None
        self._noted = False
        self._send = NIL

    def note(self, send: UUID) -> None:
        """Something of this send was taken up or went out: the next beat tells."""
        self._noted = True
        if send > self._send:
            self._send = send

    async def run(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not stop.is_set():
            try:
                if self._noted and self.opened.is_set() and not await self._beat():
                    due = loop.time()
                if loop.time() >= due:
                    self._found(await self.register.settle())
                    due = loop.time() + self._look_s
            except Exception as error:
                # A process that has looked goes on: a server that is away says nothing about the other.
                if not is_away(error):
                    raise
                self._log.warning("fence.away", error=repr(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._beat_s):
                    await stop.wait()
        with suppress(Exception):
            # What was taken up last, so that a process that ends in order leaves no gap.
            if self._noted and self.opened.is_set():
                await self._beat()

    async def _beat(self) -> bool:
        # What is noted while it is written belongs to the next one.
        self._noted = False
        try:
            return await self.register.beat(self._send)
        except BaseException:
            self._noted = True
            raise

    def _found(self, fault: str | None) -> None:
        self._metrics.gauge("fence_standing", fault is not None)
        if fault is not None:
            if fault != self._said:
                self._log.error("fence.standing", reason=fault, remedy=REMEDY)
            self.opened.clear()
            self.closed.set()
        else:
            if self._said is not None:
                self._log.warning("fence.lifted")
            self.closed.clear()
            self.opened.set()
        self._said = fault


class Fenced:
    """A service that works while the fence does not stand. It is made anew each time: a stage drains once."""

    def __init__(self, fence: Fence, name: str, make: Callable[[], Working]) -> None:
        self.name = name
        self._fence = fence
        self._make = make

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await _either(stop, self._fence.opened)
            if stop.is_set():
                return
            inner = asyncio.Event()
            ending = asyncio.create_task(self._end(stop, inner), name=f"{self.name} fence")
            try:
                await self._make().run(inner)
            finally:
                ending.cancel()
            if not inner.is_set():
                return

    async def _end(self, stop: asyncio.Event, inner: asyncio.Event) -> None:
        await _either(stop, self._fence.closed)
        inner.set()


def is_away(error: Exception) -> bool:
    """Whether one of the two servers is."""
    return postgres_is_away(error) or bus.is_away(error) or isinstance(error, TimeoutError)


async def _either(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _follows(mark: Mark, before: Mark) -> bool:
    return (mark.id, mark.epoch) == (before.id, before.epoch) and mark.beat > before.beat


def _mark(row: Record | None) -> Mark:
    if row is None:
        raise RuntimeError("the cluster's row has vanished")
    return msgspec.convert(dict(row), Mark)


def _said(mark: Mark) -> str:
    return f"{mark.id} (epoch {mark.epoch}, {_last(mark)})"


def _last(mark: Mark) -> str:
    return "no send" if mark.send == NIL else f"send {mark.send} of {iso(from_millis(id_millis(mark.send)))}"
