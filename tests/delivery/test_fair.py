"""Turns and windows: arithmetic of who is next."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendora.delivery.fair import TENANTS_MAX, Turns, Window
from sendora.kernel.ids import OrgId, new_id

A, B, C = (OrgId(new_id()) for _ in range(3))


def test_tenants_who_wait_get_equal_shares() -> None:
    """Promise 5: one tenant's broadcast does not starve another."""
    turns, served = Turns(), Counter[OrgId]()
    for _ in range(300):
        org = turns.pick([A, B, C])
        amount = 1_000 if org == A else 100
        turns.charge(org, amount)
        served[org] += amount
    assert max(served.values()) - min(served.values()) <= 1_000


def test_idling_saves_up_nothing() -> None:
    turns = Turns()
    for _ in range(50):
        turns.charge(turns.pick([A]), 1_000)
    picks = []
    for _ in range(6):
        org = turns.pick([A, B])
        turns.charge(org, 1_000)
        picks.append(org)
    assert picks.count(A) == picks.count(B) == 3


def test_tenants_of_long_ago_are_forgotten() -> None:
    turns = Turns()
    for _ in range(3 * TENANTS_MAX):
        turns.charge(turns.pick([OrgId(new_id())]), 5)
    assert len(turns._tags) <= TENANTS_MAX + 2


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 300)), min_size=1, max_size=30), st.integers(1, 100))
@settings(max_examples=50, deadline=None)
def test_a_window_never_grants_more_than_it_has_and_forgets_nobody(asked: list[tuple[int, int]], size: int) -> None:
    async def play() -> None:
        window = Window(size)
        orgs = [A, B, C]

        async def use(org: OrgId, want: int) -> int:
            got = 0
            while got < want:
                part = await window.take(org, want - got)
                assert 1 <= part <= want - got
                assert window.taken <= size
                await asyncio.sleep(0)
                window.give(part)
                got += part
            return got

        done = await asyncio.gather(*(use(orgs[who], want) for who, want in asked))
        assert list(done) == [want for _, want in asked]
        assert window.taken == 0

    asyncio.run(play())


async def test_who_stops_waiting_gives_back() -> None:
    window = Window(10)
    assert await window.take(A, 10) == 10
    waiting = asyncio.create_task(window.take(B, 5))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    window.give(10)
    assert await window.take(C, 10) == 10


async def test_who_is_cancelled_with_the_grant_in_hand_gives_it_back() -> None:
    window = Window(10)
    await window.take(A, 10)
    waiting = asyncio.create_task(window.take(B, 10))
    await asyncio.sleep(0)
    window.give(10)  # Granted to B, whose task has not run yet.
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert window.taken == 0


def test_giving_back_too_much_is_a_fault() -> None:
    with pytest.raises(AssertionError):
        Window(1).give(1)
