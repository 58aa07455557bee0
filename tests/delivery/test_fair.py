"""Turns and windows: arithmetic of who is next."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendora.delivery.fair import TENANTS_MAX, Turns, Window
from sendora.kernel.ids import OrgId, new_id

CHUNK = 1_000
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


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[set[int], int]]:
    """Who waits beside A and B at each pick, and how much the one who is picked is given."""
    beside = st.sets(st.integers(2, 5), max_size=4)
    return draw(st.lists(st.tuples(beside, st.integers(1, CHUNK)), min_size=1, max_size=200))


@given(histories())
@settings(deadline=None)
def test_whoever_waits_all_the_time_is_never_further_behind_than_two_chunks(
    history: list[tuple[set[int], int]],
) -> None:
    """Promise 5, over every interval and whoever else comes and goes: A and B differ by a chunk of each."""
    turns, names = Turns(), [A, B, *(OrgId(new_id()) for _ in range(4))]
    lead = least = most = 0  # What A has had more than B, and the range of it.
    for beside, amount in history:
        org = turns.pick([A, B, *(names[i] for i in sorted(beside))])
        turns.charge(org, amount)
        lead += amount * ((org == A) - (org == B))
        least, most = min(least, lead), max(most, lead)
    assert most - least <= 2 * CHUNK


@given(histories(), st.integers(1, 6))
@settings(deadline=None)
def test_whoever_comes_new_waits_for_one_turn_of_each_other_at_most(
    history: list[tuple[set[int], int]], others: int
) -> None:
    """However much the others have had, and however long they have been there."""
    turns, names = Turns(), [A, B, *(OrgId(new_id()) for _ in range(4))]
    for beside, amount in history:
        turns.charge(turns.pick([A, B, *(names[i] for i in sorted(beside))]), amount)
    waiting, picks = [*names[:others], C], 0
    while (org := turns.pick(waiting)) != C:
        turns.charge(org, CHUNK)
        picks += 1
    assert picks <= others


@given(st.integers(1, 400), st.integers(1, 40), st.integers(1, 300), st.integers(1, 60))
@settings(max_examples=50, deadline=None)
def test_whoever_waits_for_a_window_is_next_when_the_one_that_holds_it_gives_back(
    size: int, takers: int, large: int, small: int
) -> None:
    """A holds all of it and has many more in line; B, who comes last, is before them."""

    async def play() -> None:
        window = Window(size)
        order: list[OrgId] = []

        async def use(org: OrgId, want: int) -> None:
            got = await window.take(org, want)
            order.append(org)
            await asyncio.sleep(0)
            window.give(got)

        held = await window.take(A, size)
        line = [asyncio.create_task(use(A, large)) for _ in range(takers)]
        await asyncio.sleep(0)
        line.append(asyncio.create_task(use(B, small)))
        await asyncio.sleep(0)
        while held:  # Bit by bit, as outcomes are committed.
            window.give(part := min(held, 7))
            held -= part
            await asyncio.sleep(0)
        await asyncio.gather(*line)
        assert order[0] == B
        assert window.taken == 0

    asyncio.run(play())


async def test_a_place_is_given_back_whatever_happens() -> None:
    window = Window(1)
    with pytest.raises(KeyError):
        async with window.place(A):
            assert window.taken == 1
            raise KeyError
    assert window.taken == 0


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
