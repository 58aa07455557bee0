"""Leases of shards: shares, hand-over, epochs, deadlines."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.delivery.conftest import Floor

from sendora.delivery.phases import SHARDS
from sendora.delivery.shards import LEASE_S, SAFETY_S, Shards, elapsed, parse, share


class Ticking:
    """A clock that a test pushes."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def worker(
    floor: Floor,
    name: str,
    spec: str = "auto",
    busy: Callable[[int], bool] = lambda shard: False,
    clock: Callable[[], float] = elapsed,
) -> Shards:
    return Shards(floor.kernel, name, parse(spec), busy=busy, clock=clock)


@given(st.integers(1, 200))
def test_shares_are_fair_and_complete(workers: int) -> None:
    shares = [share(workers, rank) for rank in range(workers)]
    assert sum(shares) == SHARDS
    assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize(("spec", "shards"), [("auto", None), ("0-2", {0, 1, 2}), ("0-1,40", {0, 1, 40}), ("63", {63})])
def test_which_shards_are_wanted(spec: str, shards: set[int] | None) -> None:
    assert parse(spec) == shards


@pytest.mark.parametrize("spec", ["", "64", "5-3", "a", "-1", "0-64"])
def test_shards_that_do_not_exist(spec: str) -> None:
    with pytest.raises(ValueError, match=r"shards are|invalid literal"):
        parse(spec)


async def test_one_worker_takes_all_and_a_second_one_half(floor: Floor) -> None:
    """F-D6: leases move within two rounds of ticks, and at no time do two workers serve one shard."""
    first, second = worker(floor, "a"), worker(floor, "b")
    await first.tick()
    assert first.serving() == list(range(SHARDS))
    await second.tick()
    assert second.held() == []
    await first.tick()
    await second.tick()
    assert len(first.held()) == len(second.held()) == SHARDS // 2
    assert not set(first.held()) & set(second.held())
    await first.release()
    await second.tick()
    assert second.held() == list(range(SHARDS))


async def test_many_workers_at_once_never_overlap(floor: Floor) -> None:
    workers = [worker(floor, f"w{i}") for i in range(5)]
    for _ in range(4):
        await asyncio.gather(*(one.tick() for one in workers))
        held = [shard for one in workers for shard in one.held()]
        assert len(held) == len(set(held))
    assert sorted(held) == list(range(SHARDS))
    assert {len(one.held()) for one in workers} == {12, 13}


async def test_a_busy_shard_is_let_go_when_its_chunks_are_recorded(floor: Floor) -> None:
    working = set(range(SHARDS))
    first, second = worker(floor, "a", busy=working.__contains__), worker(floor, "b")
    await first.tick()
    await second.tick()
    await first.tick()
    assert len(first.held()) == SHARDS
    assert len(first.serving()) == SHARDS // 2
    leaving = set(range(SHARDS)) - set(first.serving())
    assert all(first.is_leaving(shard) for shard in leaving)
    working -= leaving
    await first.tick()
    await second.tick()
    assert set(second.held()) == leaving


async def test_a_drain_lets_go_and_takes_nothing(floor: Floor) -> None:
    """F-D7: what has nothing in flight moves at once."""
    busy = {3}
    first, second = worker(floor, "a", busy=busy.__contains__), worker(floor, "b")
    await first.tick()
    first.close()
    await first.tick()
    assert (first.held(), first.serving()) == ([3], [])
    await second.tick()
    assert second.held() == [shard for shard in range(SHARDS) if shard != 3]
    await first.release()
    await second.tick()
    assert second.held() == list(range(SHARDS))


async def test_a_fixed_range_takes_what_it_names(floor: Floor) -> None:
    one = worker(floor, "a", "0-3,60")
    await one.tick()
    assert one.held() == [0, 1, 2, 3, 60]


async def test_taking_over_raises_the_epoch(floor: Floor) -> None:
    first, second = worker(floor, "a", "7"), worker(floor, "b", "7")
    await first.tick()
    epoch = first.epoch(7)
    assert epoch is not None
    await second.tick()
    assert second.epoch(7) is None
    await floor.leases_run_out()
    await second.tick()
    assert second.epoch(7) == epoch + 1
    lost: list[int] = []
    first._lost = lost.extend
    await first.tick()
    assert lost == [7]
    assert not first.is_mine(7, epoch)


async def test_the_deadline_comes_before_the_leases_end(floor: Floor) -> None:
    """F-D4: a worker that was stopped finds its deadline over before it sends anything, whatever PostgreSQL says."""
    clock = Ticking()
    one = worker(floor, "a", "7", clock=clock)
    await one.tick()
    epoch = one.epoch(7)
    assert epoch is not None
    clock.now += LEASE_S - SAFETY_S - 0.01
    assert one.is_mine(7, epoch)
    clock.now += 0.02
    assert not one.is_mine(7, epoch)
    assert one.serving() == []
    await one.tick()  # Nobody took it meanwhile; it is taken anew, and what the old epoch has sent is void.
    assert one.epoch(7) == epoch + 1


async def test_renewing_moves_the_deadline(floor: Floor) -> None:
    clock = Ticking()
    one = worker(floor, "a", "7", clock=clock)
    await one.tick()
    epoch = one.epoch(7)
    assert epoch is not None
    for _ in range(10):
        clock.now += 3.0
        await one.tick()
        assert one.is_mine(7, epoch)


async def test_a_dead_workers_share_is_taken_over(floor: Floor) -> None:
    dead, alive = worker(floor, "dead"), worker(floor, "alive")
    await dead.tick()
    await alive.tick()
    await floor.leases_run_out()
    await alive.tick()
    assert alive.held() == list(range(SHARDS))


def test_the_clock_does_not_run_backwards() -> None:
    assert elapsed() <= elapsed()
