"""The writer: all or nothing, once, and only under the lease."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from tests.conftest import eventually
from tests.delivery import provider as behaves
from tests.delivery.conftest import Floor, serving
from tests.delivery.provider import recipient

from sendora.delivery import store
from sendora.delivery.ledger import Ledger, ShardLost, batched
from sendora.delivery.phases import Chunk, Outcome, State
from sendora.delivery.shards import Shards
from sendora.kernel.ids import SendId


class Desk:
    """A ledger with its shards, and one claimed chunk of ten."""

    def __init__(self, floor: Floor, shards: Shards, ledger: Ledger, chunk: Chunk) -> None:
        self.floor = floor
        self.shards = shards
        self.ledger = ledger
        self.chunk = chunk
        self.epoch = shards.epoch(chunk.shard) or -1

    def outcome(self, position: int, state: State = "accepted", **more: Any) -> Outcome:
        return Outcome(position=position, recipient=recipient(behaves.OK), user_id="u", state=state, **more)

    def record(self, *outcomes: Outcome, closed: bool = False) -> asyncio.Future[None]:
        return self.ledger.record(self.chunk, self.epoch, batched(self.chunk, outcomes), closed=closed)

    async def rows(self) -> int:
        count: int = await self.floor.db.fetchval("SELECT count(*) FROM deliveries WHERE send_id = $1", self.chunk.send)
        return count

    async def row(self) -> asyncpg.Record:
        row = await self.floor.db.fetchrow(
            "SELECT * FROM chunks WHERE send_id = $1 AND shard = $2 AND seq = $3",
            self.chunk.send,
            self.chunk.shard,
            self.chunk.seq,
        )
        assert row is not None
        return row


@asynccontextmanager
async def desk(floor: Floor, flush_s: float = 0.005) -> AsyncIterator[Desk]:
    shards = Shards(floor.kernel, "me", None)
    await shards.tick()
    ledger = Ledger(floor.kernel, shards, flush_s=flush_s, flush_rows=1_000)
    one = recipient(behaves.OK)
    same_shard = [type(one)(bytes=one.bytes[:1] + recipient(behaves.OK).bytes[1:]) for _ in range(9)]
    send = await floor.submit([one, *same_shard])
    async with serving(floor.planner()):

        async def planned() -> bool:
            return await floor.db.fetchval("SELECT planned_at IS NOT NULL FROM sends WHERE id = $1", send.id) is True

        await eventually(planned)
    (due,) = await store.due_chunks(floor.db, shards.serving(), 10)
    (claim,) = await store.claim_chunks(floor.db, "me", [due], [shards.epoch(due.shard) or -1])
    stop = asyncio.Event()
    running = asyncio.create_task(ledger.run(stop))
    yield Desk(floor, shards, ledger, claim.chunk)
    stop.set()
    await running


async def test_marks_and_outcomes_and_closing(floor: Floor) -> None:
    async with desk(floor) as at:
        await at.ledger.mark(at.chunk, at.epoch, 4)
        assert (await at.row())["started"] == 4
        await at.ledger.mark(at.chunk, at.epoch, 2)
        assert (await at.row())["started"] == 4, "marks only rise"
        await at.record(*(at.outcome(i) for i in range(4)))
        assert await at.rows() == 4
        assert (await at.row())["closed_at"] is None
        await at.record(*(at.outcome(i) for i in range(4, 10)), closed=True)
        assert (await at.row())["closed_at"] is not None


@pytest.mark.rule("F-S6")
async def test_the_restore_fence_is_told_of_every_commit(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk that was taken up before a backup was made may go on for long after it."""
    async with desk(floor) as at:
        told: list[SendId] = []
        monkeypatch.setattr(floor.kernel.fence, "note", told.append)
        await at.ledger.mark(at.chunk, at.epoch, 1)
        assert told == [at.chunk.send], "before the bytes may leave"
        await at.record(at.outcome(0))
        assert told == [at.chunk.send] * 2


async def test_a_mark_does_not_wait_for_the_clock(floor: Floor) -> None:
    """Outcomes may wait for company, bytes that are ready to leave may not."""
    async with desk(floor, flush_s=60.0) as at:
        written = at.record(at.outcome(0))
        await asyncio.wait_for(at.ledger.mark(at.chunk, at.epoch, 1), 5)
        assert written.done()


async def test_what_goes_on_is_committed_with_what_it_follows(floor: Floor) -> None:
    """Design 4: by due time, try and repetition; the numbers go on where the planner's end."""
    now = floor.kernel.clock.now().replace(microsecond=0)
    soon, later = now + timedelta(seconds=5), now + timedelta(seconds=900)
    async with desk(floor) as at:
        await at.record(
            at.outcome(0, "deferred", due_at=soon),
            at.outcome(1, "deferred", due_at=soon),
            at.outcome(2, "deferred", due_at=later),
            at.outcome(3, "deferred", due_at=soon, repeated=True),
            at.outcome(4, "deferred", due_at=soon, counted=False),
            *(at.outcome(i) for i in range(5, 10)),
            closed=True,
        )
        rows = await floor.db.fetch(
            "SELECT seq, size, attempt, repeated, due_at FROM chunks WHERE send_id = $1 AND NOT planned ORDER BY seq",
            at.chunk.send,
        )
        assert [row["seq"] for row in rows] == [1, 2, 3, 4]
        assert {(row["size"], row["attempt"], row["repeated"], row["due_at"]) for row in rows} == {
            (2, 2, False, soon),
            (1, 2, False, later),
            (1, 2, True, soon),
            (1, 1, False, soon),
        }
        last = await floor.db.fetchval("SELECT seq FROM plan_positions WHERE send_id = $1", at.chunk.send)
        assert last == 5


async def test_a_commit_whose_answer_was_lost_is_not_written_twice(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-P2: the connection dies during COMMIT; the batch was written, and is recognised."""
    async with desk(floor) as at:
        tries = 0
        transaction = at.ledger._transaction

        async def cut(batch: list[Any], again: bool) -> None:
            nonlocal tries
            tries += 1
            assert again == (tries > 1)
            if tries == 1:
                futures = [list(entry.futures) for entry in batch]
                for entry in batch:
                    entry.futures.clear()
                await transaction(batch, again)
                for entry, kept in zip(batch, futures, strict=True):
                    entry.futures += kept
                raise ConnectionResetError("the answer to COMMIT never came")
            await transaction(batch, again)

        monkeypatch.setattr(at.ledger, "_transaction", cut)
        soon = floor.kernel.clock.now() + timedelta(seconds=5)
        await at.record(at.outcome(0), at.outcome(1, "deferred", due_at=soon))
        assert tries == 2
        assert await at.rows() == 2
        assert await floor.db.fetchval("SELECT count(*) FROM chunks WHERE send_id = $1", at.chunk.send) == 2


async def test_a_lost_shard_takes_only_its_own_with_it(floor: Floor) -> None:
    """F-D4: 0 rows of the guard = everything of that shard is dropped, and nobody goes on believing."""
    async with desk(floor) as at:
        await floor.db.execute(
            "UPDATE shard_leases SET holder = 'another', epoch = epoch + 1 WHERE shard = $1", at.chunk.shard
        )
        with pytest.raises(ShardLost):
            await at.record(at.outcome(0))
        assert await at.rows() == 0
        assert not at.shards.is_mine(at.chunk.shard, at.epoch)
        assert len(at.shards.held()) == 63
        with pytest.raises(ShardLost):
            await at.ledger.mark(at.chunk, at.epoch, 5)
        assert (await at.row())["started"] == 0


async def test_an_epoch_of_before_is_as_good_as_none(floor: Floor) -> None:
    async with desk(floor) as at:
        with pytest.raises(ShardLost):
            await at.ledger.mark(at.chunk, at.epoch - 1, 5)


async def test_providers_words_are_hostile_input(floor: Floor) -> None:
    """A reason with U+0000, half a surrogate pair or a megabyte is recorded as what can be."""
    async with desk(floor) as at:
        await at.record(at.outcome(0, "rejected", reason="a\0b\ud800" + "x" * 1_000_000, provider_id="ü"))
        row = await floor.db.fetchrow("SELECT reason, provider_id FROM deliveries WHERE send_id = $1", at.chunk.send)
        assert row is not None
        assert row["reason"][:4] == "ab?x"
        assert len(row["reason"]) <= 500
        assert row["provider_id"] == "ü"


async def test_what_postgres_refuses_does_not_take_the_others_with_it(floor: Floor) -> None:
    async with desk(floor) as at:
        await at.record(at.outcome(0))
        send = await floor.submit([recipient(behaves.OK)])
        async with serving(floor.planner()):

            async def planned() -> bool:
                return len(await store.due_chunks(floor.db, at.shards.serving(), 10)) == 2

            await eventually(planned)
        (due,) = [one for one in await store.due_chunks(floor.db, at.shards.serving(), 10) if one.send == send.id]
        epoch = at.shards.epoch(due.shard) or -1
        (claim,) = await store.claim_chunks(floor.db, "me", [due], [epoch])
        again = at.record(at.outcome(0))  # A second outcome of one recipient: refused, whoever is wrong.
        other = at.ledger.record(claim.chunk, epoch, batched(claim.chunk, [at.outcome(0)]), closed=True)
        await other
        with pytest.raises(asyncpg.UniqueViolationError):
            await again
        assert await at.rows() == 1


async def test_a_chunk_whose_outcomes_were_refused_is_not_closed_without_them(floor: Floor) -> None:
    """Promise 2: nobody is lost to a row that PostgreSQL did not take; what came later is recorded all the same."""
    async with desk(floor) as at:
        refused = at.record(at.outcome(0), at.outcome(0))
        with pytest.raises(asyncpg.PostgresError):
            await refused
        await at.record(*(at.outcome(i) for i in range(1, 10)), closed=True)
        assert (await at.row())["closed_at"] is None
        assert await at.rows() == 9
        await at.ledger.put_back(at.chunk, at.epoch, 0.0, blame=True)
        # Its next owner has what is left.
        await at.record(at.outcome(0), closed=True)
        assert (await at.row())["closed_at"] is not None
        assert await at.rows() == 10


async def test_a_chunk_waits_also_when_its_outcomes_are_refused(floor: Floor) -> None:
    """Both in one transaction: the chunk must not come back at once, and not stay closed to its next owner."""
    async with desk(floor) as at:
        refused = at.record(at.outcome(0), at.outcome(0), closed=True)
        with pytest.raises(asyncpg.PostgresError):
            await at.ledger.put_back(at.chunk, at.epoch, 60.0, blame=True)
        with pytest.raises(asyncpg.PostgresError):
            await refused

        async def waits() -> bool:
            return (await at.row())["due_at"] > floor.kernel.clock.now() + timedelta(seconds=50)

        await eventually(waits)
        await at.record(at.outcome(0), closed=True)
        assert (await at.row())["closed_at"] is not None


async def test_putting_back_takes_the_blame_or_not(floor: Floor) -> None:
    async with desk(floor) as at:
        await at.ledger.put_back(at.chunk, at.epoch, 60.0, blame=False)
        row = await at.row()
        assert row["claims"] == 0
        assert row["due_at"] > floor.kernel.clock.now() + timedelta(seconds=50)
        await floor.db.execute("UPDATE chunks SET claims = 3")
        await at.ledger.put_back(at.chunk, at.epoch, 1.0, blame=True)
        assert (await at.row())["claims"] == 3


async def test_the_end_of_a_ledger_leaves_nobody_waiting(floor: Floor) -> None:
    async with desk(floor, flush_s=60.0) as at:
        waiting = at.record(at.outcome(0))
    await waiting  # Stopping flushes what there is.
    assert await at.rows() == 1
