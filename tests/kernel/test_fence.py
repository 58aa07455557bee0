"""The restore fence: what is new starts, what belongs together goes on, and everything else waits for an operator."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import asyncpg
import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from nats.js.kv import KeyValue
from tests.conftest import eventually

from sendora.kernel import bus
from sendora.kernel.config import Postgres
from sendora.kernel.embedded import Embedded
from sendora.kernel.fence import KEY, Fence, Fenced, Mark, Reading, Register, judge
from sendora.kernel.ids import NIL, new_id
from sendora.kernel.life import Kernel
from sendora.kernel.metrics import Metrics
from sendora.kernel.pg import Database, migrate

TICK_S = 0.02


class Site:
    """A database and a bucket of its own, in which clusters come and go."""

    def __init__(self, kernel: Kernel, postgres: Postgres, db: Database, bucket: str) -> None:
        self.kernel = kernel
        self.postgres = postgres
        self.db = db
        self.bucket = bucket

    @property
    def register(self) -> Register:
        return Register(self.db, self.kernel.bus.stream, 1, self.bucket)

    def beside(self, db: Database) -> Register:
        """Another database with the same log."""
        return Register(db, self.kernel.bus.stream, 1, self.bucket)

    def fence(self) -> Fence:
        log = structlog.get_logger("test")
        return Fence(self.register, Metrics(), log, beat_s=TICK_S, look_s=TICK_S)

    async def entries(self) -> KeyValue:
        return await self.kernel.bus.stream.key_value(self.bucket)

    async def dump(self) -> dict[str, Any]:
        """What a backup would hold of it."""
        row = await self.db.fetchrow("SELECT * FROM cluster")
        assert row is not None
        return dict(row)

    async def restore(self, dumped: dict[str, Any]) -> None:
        columns = ", ".join(f"{name} = ${place}" for place, name in enumerate(dumped, 1))
        await self.db.execute(f"UPDATE cluster SET {columns}", *dumped.values())


@pytest.fixture
async def site(kernel: Kernel, fresh_database: Postgres) -> AsyncIterator[Site]:
    await migrate(fresh_database)
    db = await Database.open(fresh_database)
    bucket = f"fence_{new_id().hex}"
    try:
        yield Site(kernel, fresh_database, db, bucket)
    finally:
        await db.close()


class Warnings:
    """A log that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warning(self, event: str, **more: object) -> None:
        self.said.append(event)


class Work:
    """A stage: what it does is that it is there."""

    name = "work"

    def __init__(self, runs: list[str]) -> None:
        self._runs = runs

    async def run(self, stop: asyncio.Event) -> None:
        self._runs.append("begun")
        await stop.wait()
        self._runs.append("drained")


@asynccontextmanager
async def at_work(fence: Fence, runs: list[str]) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(fence.run(stop))
        group.create_task(Fenced(fence, "work", lambda: Work(runs)).run(stop))
        yield
        stop.set()


async def test_the_first_start_makes_both(site: Site) -> None:
    """However many processes start at once, one identity comes of it, and none of them is fenced."""
    assert await site.register.look() is None
    found = await asyncio.gather(*(site.register.settle() for _ in range(8)))
    assert found == [None] * 8
    reading = await site.register.read()
    assert reading.ours == reading.theirs is not None
    assert reading.told
    assert reading.ours.epoch == 1
    assert await site.register.settle() is None


async def test_looking_changes_nothing(site: Site) -> None:
    assert await site.register.look() is None
    reading = await site.register.read()
    assert (reading.ours, reading.theirs) == (None, None)


async def test_a_beat_raises_both_and_never_the_bucket_alone(site: Site) -> None:
    """Processes beat at once; the bucket ends where Postgres does, with the highest send."""
    await site.register.settle()
    sends = sorted(new_id() for _ in range(20))
    await asyncio.gather(*(site.register.beat(send) for send in sends))
    reading = await site.register.read()
    assert reading.ours is not None and reading.ours.beat == 20
    assert reading.ours.send == sends[-1]
    assert reading.theirs is not None and reading.theirs.beat <= 20
    await site.register.beat(sends[0])
    reading = await site.register.read()
    assert reading.theirs == reading.ours
    assert reading.ours is not None and reading.ours.send == sends[-1]


async def test_a_process_that_died_between_the_two_is_no_fence(site: Site) -> None:
    """Postgres first: a beat that never reached the bucket leaves the database ahead."""
    await site.register.settle()
    await site.db.execute("UPDATE cluster SET beat = beat + 1, nonce = $1, send = $2", new_id(), new_id())
    assert await site.register.look() is None
    assert await site.register.beat(NIL)


async def test_a_restored_database_is_behind(site: Site) -> None:
    await site.register.settle()
    await site.register.beat(first := new_id())
    backup = await site.dump()
    await site.register.beat(last := new_id())
    await site.restore(backup)
    fault = await site.register.settle()
    assert fault is not None and "behind the log" in fault
    assert str(first) in fault and str(last) in fault, "both with their times, so that an operator can tell"
    assert await site.register.beat(new_id()) is False, "what beats all the same is told to look"
    assert await site.register.look() is not None


async def test_an_emptied_bucket_beside_a_full_database(site: Site) -> None:
    await site.register.settle()
    await site.register.beat(new_id())
    for empty in (
        lambda entries: entries.delete(KEY),
        lambda entries: site.kernel.bus.stream.purge_stream(f"KV_{site.bucket}"),
        lambda entries: site.kernel.bus.stream.delete_key_value(site.bucket),
    ):
        await empty(await site.entries())
        assert await site.register.beat(new_id()) is False, "who is at work does not fill it again"
        fault = await site.register.settle()
        assert fault is not None and "new or was emptied" in fault
        await site.register.confirm()
        assert await site.register.settle() is None


async def test_a_database_that_has_sent_is_not_taken_for_a_new_one(
    fresh_database: Postgres, kernel: Kernel, tmp_path: Path
) -> None:
    """One from before there was a fence: the migration gives it an identity, and an operator has to look once."""
    for file in (Path(__file__).parents[2] / "migrations").glob("*.sql"):
        if file.name < "0017":
            shutil.copy(file, tmp_path)
    await migrate(fresh_database, tmp_path)
    db = await Database.open(fresh_database)
    try:
        await db.execute(
            "INSERT INTO sends (org_id, id, project_id, channel, class, delivery, status, target, content,"
            " log_position, expires_at)"
            " VALUES ($1, $2, $1, 'push', 'now', 'at_least_once', 'sent', '{}', '{}', 0, now())",
            new_id(),
            send := new_id(),
        )
        await migrate(fresh_database)
        register = Register(db, kernel.bus.stream, 1, f"fence_{new_id().hex}")
        fault = await register.settle()
        assert fault is not None and str(send) in fault
        await register.confirm()
        assert await register.settle() is None
    finally:
        await db.close()


async def test_a_new_database_beside_a_log_in_use(site: Site, servers: Embedded) -> None:
    await site.register.settle()
    theirs = (await site.register.read()).theirs
    assert theirs is not None
    await site.db.execute("DELETE FROM cluster")
    fault = await site.register.look()
    assert fault is not None and "the database is new" in fault
    fault = await site.register.settle()
    assert fault is not None and str(theirs.id) in fault and "the log to cluster" in fault
    raised = await site.register.confirm()
    assert raised.id != theirs.id and raised.epoch == theirs.epoch + 1
    assert await site.register.settle() is None


@asynccontextmanager
async def copied(site: Site, servers: Embedded) -> AsyncIterator[Database]:
    """A copy of the whole database, made by PostgreSQL."""
    name = f"t_{new_id().hex}"
    source = await site.db.fetchval("SELECT current_database()")
    await site.db.close()
    admin = await asyncpg.connect(servers.postgres_url("postgres"))
    try:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {source}")
        site.db = await Database.open(site.postgres)
        copy = await Database.open(msgspec.structs.replace(site.postgres, url=servers.postgres_url(name)))
        try:
            yield copy
        finally:
            await copy.close()
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


async def test_a_second_cluster_on_a_copy(site: Site, servers: Embedded) -> None:
    """With a log of its own it finds an empty bucket; with the same log one of the two goes on, and no more."""
    await site.register.settle()
    await site.register.beat(new_id())
    async with copied(site, servers) as copy:
        alone = Register(copy, site.kernel.bus.stream, 1, f"fence_{new_id().hex}")
        fault = await alone.settle()
        assert fault is not None and "new or was emptied" in fault

        beside = site.beside(copy)
        assert await beside.settle() is None, "nothing has happened since: nobody can tell"
        assert await site.register.beat(new_id())
        assert await beside.beat(new_id()) is False
        fault = await beside.look()
        assert fault is not None and "both are copies of one" in fault
        assert await site.register.look() is None

        raised = await beside.confirm()
        assert await beside.settle() is None
        fault = await site.register.settle()
        assert fault is not None and f"the log has epoch {raised.epoch}" in fault
        assert await site.register.beat(new_id()) is False
        assert await beside.look() is None, "what the old one does changes nothing"


async def test_a_stage_waits_and_goes_on_by_itself(site: Site) -> None:
    """The fence falls under a stage at work: it drains, waits, says so in the metric, and begins anew when lifted."""
    runs: list[str] = []
    fence = site.fence()
    async with at_work(fence, runs):
        await eventually(lambda: runs == ["begun"])
        fence.note(last := new_id())

        async def told() -> bool:
            theirs = (await site.register.read()).theirs
            return theirs is not None and theirs.send == last

        await eventually(told)
        backup = await site.dump()
        fence.note(new_id())
        await eventually(_beaten(site, backup["beat"]))
        await site.restore(backup)
        await eventually(lambda: runs == ["begun", "drained"])
        assert fence._metrics.value("fence_standing") == 1
        await site.register.confirm()
        await eventually(lambda: runs == ["begun", "drained", "begun"])
        assert fence._metrics.value("fence_standing") == 0
    assert runs == ["begun", "drained", "begun", "drained"]


def _beaten(site: Site, beat: int) -> Any:
    async def beaten() -> bool:
        theirs = (await site.register.read()).theirs
        return theirs is not None and theirs.beat > beat

    return beaten


async def test_a_stage_that_starts_fenced_never_begins(site: Site) -> None:
    """Zero before the operator's word; nothing is written by those who wait."""
    await site.register.settle()
    await site.register.beat(new_id())
    await (await site.entries()).delete(KEY)
    runs: list[str] = []
    fence = site.fence()
    before = await site.dump()
    async with at_work(fence, runs):
        fence.note(new_id())
        await eventually(lambda: fence._metrics.value("fence_standing") == 1)
        assert runs == []
        assert await site.dump() == before
        await site.register.confirm()
        await eventually(lambda: runs == ["begun"])


async def test_who_cannot_look_does_not_begin(site: Site) -> None:
    """NATS goes away before the first look: the stage waits, and the fence neither stands nor falls."""
    client = await bus.connect(site.kernel.settings.nats, "test")
    await client.close()
    fence = Fence(
        Register(site.db, client.jetstream(), 1, site.bucket),
        Metrics(),
        cast(Any, log := Warnings()),
        beat_s=TICK_S,
        look_s=TICK_S,
    )
    runs: list[str] = []
    async with at_work(fence, runs):
        await eventually(lambda: log.said.count("fence.away") > 2)
        assert runs == [] and fence.closed.is_set()
        fence.register = site.register
        await eventually(lambda: runs == ["begun"])


async def test_nothing_is_written_while_nothing_moves(site: Site) -> None:
    fence = site.fence()
    async with at_work(fence, []):
        await eventually(fence.opened.is_set)
        before = await site.dump()
    assert await site.dump() == before


async def test_what_was_taken_up_last_is_told_at_the_end(site: Site) -> None:
    """A process that is stopped in order leaves no gap."""
    fence = site.fence()
    last = NIL
    async with at_work(fence, []):
        await eventually(fence.opened.is_set)
        for _ in range(50):
            fence.note(last := new_id())
    assert (await site.dump())["send"] == last
    reading = await site.register.read()
    assert reading.theirs is not None and reading.theirs.send == last


IDS = st.sampled_from([new_id() for _ in range(3)])
SENDS = st.one_of(st.just(NIL), IDS)
MARKS = st.builds(Mark, id=IDS, epoch=st.integers(1, 2), beat=st.integers(0, 3), nonce=IDS, send=SENDS)


@given(ours=MARKS, theirs=MARKS, told=st.booleans())
def test_only_what_belongs_together_is_let_through(ours: Mark, theirs: Mark, told: bool) -> None:
    """Whatever the two sides say: the same identity, and Postgres no further back, or there is a fence."""
    stands = judge(Reading(ours=ours, theirs=theirs, told=told)) is not None
    same = (ours.id, ours.epoch) == (theirs.id, theirs.epoch)
    behind = theirs.beat > ours.beat or theirs.send > ours.send
    forked = theirs.beat == ours.beat and theirs.nonce != ours.nonce
    assert stands == (not same or behind or forked)


@given(mark=MARKS, later=st.integers(1, 5), nonce=IDS)
def test_a_database_ahead_of_its_log_goes_on(mark: Mark, later: int, nonce: UUID) -> None:
    ahead = msgspec.structs.replace(mark, beat=mark.beat + later, nonce=nonce)
    assert judge(Reading(ours=ahead, theirs=mark, told=True)) is None
    assert judge(Reading(ours=mark, theirs=mark, told=True)) is None
    assert judge(Reading(ours=mark, theirs=ahead, told=True)) is not None
    assert judge(Reading(ours=mark, theirs=None, told=True)) is not None
    assert judge(Reading(ours=mark, theirs=None, told=False)) is None
