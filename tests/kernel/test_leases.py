"""Leases: one holder, a rising epoch, PostgreSQL's clock."""

import asyncio

import asyncpg
import pytest

from sendora.kernel.ids import new_id
from sendora.kernel.pg import Database, Lease, LeaseLost


def _two(db: Database) -> tuple[Lease, Lease]:
    name = f"test.{new_id()}"
    return Lease(db, name, "one"), Lease(db, name, "other")


async def _expire(db: Database, lease: Lease) -> None:
    await db.execute("UPDATE leases SET lease_until = now() - interval '1 second' WHERE name = $1", lease.name)


async def test_one_holds_it_and_the_epoch_rises_with_every_taking(db: Database) -> None:
    one, other = _two(db)
    assert await one.acquire() == 1
    assert await other.acquire() is None
    assert (one.held, other.held) == (True, False)
    await _expire(db, one)
    assert await other.acquire() == 2
    assert await one.renew() is False
    assert one.held is False
    assert await other.renew() is True


async def test_a_lease_that_ran_out_may_be_renewed_until_somebody_takes_it(db: Database) -> None:
    one, other = _two(db)
    await one.acquire()
    await _expire(db, one)
    assert await one.renew() is True
    assert await other.acquire() is None


async def test_a_released_lease_is_free_at_once_and_a_lost_one_is_not_released(db: Database) -> None:
    one, other = _two(db)
    await one.acquire()
    await one.release()
    assert await other.acquire() == 2
    one.epoch = 1  # What a holder believes that has not noticed.
    await one.release()
    assert await other.renew() is True


async def test_of_many_at_once_one_gets_it(db: Database) -> None:
    name = f"test.{new_id()}"
    leases = [Lease(db, name, f"holder {number}") for number in range(8)]
    epochs = await asyncio.gather(*(lease.acquire() for lease in leases))
    assert [epoch for epoch in epochs if epoch is not None] == [1]


async def test_nothing_is_written_under_a_lost_lease(db: Database) -> None:
    one, other = _two(db)
    await one.acquire()
    async with db.transaction() as connection:
        await one.guard(connection)
        # While a guarded transaction is open nobody can take the lease, not even one that has run out.
        await _expire_blocked(db, one)
    await _expire(db, one)
    await other.acquire()
    with pytest.raises(LeaseLost):
        async with db.transaction() as connection:
            await one.guard(connection)


async def test_a_short_lease_is_not_called_held_at_its_end(db: Database) -> None:
    lease = Lease(db, f"test.{new_id()}", "one", seconds=0.5)
    assert await lease.acquire() == 1
    assert lease.held is False


async def _expire_blocked(db: Database, lease: Lease) -> None:
    """An UPDATE of the row waits for the guard's transaction."""
    async with db.transaction() as connection:
        await connection.execute("SET LOCAL lock_timeout = '50ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            async with connection.transaction():
                await connection.execute("UPDATE leases SET holder = 'thief' WHERE name = $1", lease.name)
