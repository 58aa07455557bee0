"""The arithmetic of A/B tests: against scipy, its own symmetries, and a reader who looks all the time."""

from collections.abc import Callable, Iterator
from functools import cache
from math import sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sendora.modules.push.model import evidence
from sendora.modules.push.model.evidence import ALPHA, CONCENTRATION, EXPOSURE_MIN, PRIOR, Trials, decided, difference

RUNS = 2_000
SEED = 20_260_101

LOOKS = sorted({*range(1, 60), *(round(60 * 1.12**n) for n in range(40))})
"""At everybody of the first sixty, then ever more rarely, up to five thousand people."""


@st.composite
def trials(draw: st.DrawFn, people_min: int = 0, people_max: int = 10**9) -> Trials:
    people = draw(st.integers(people_min, people_max))
    return Trials(draw(st.integers(0, people)), people)


rate = cache(evidence.rate)
"""Thousands of runs meet the same counts again and again."""

alphas = st.floats(1e-6, 0.5)


def runs(*rates: float | Callable[[int], float]) -> Iterator[list[list[Trials]]]:
    """For each run and look: what was seen of each variant; all variants have grown alike."""
    chance = np.random.default_rng(SEED)
    people = np.arange(LOOKS[-1])
    levels = [np.vectorize(one)(people) if callable(one) else np.full(len(people), one) for one in rates]
    at = np.array(LOOKS) - 1
    for _ in range(RUNS):
        opened = [(chance.random(len(people)) < level).cumsum()[at] for level in levels]
        yield [[Trials(int(seen[look]), people) for seen in opened] for look, people in enumerate(LOOKS)]


@given(trials(people_max=10_000), alphas)
def test_bounds_are_where_the_mixture_refutes(seen: Trials, alpha: float) -> None:
    """The beta-binomial likelihood of scipy over the binomial one is 1 / alpha at each bound, and less between them."""
    bounds = evidence.rate(seen, alpha)
    mixed = stats.betabinom.logpmf(seen.successes, seen.people, PRIOR, PRIOR)

    def ratio(p: float) -> float:
        return float(mixed - stats.binom.logpmf(seen.successes, seen.people, p))

    edge = -np.log(alpha)
    if seen.successes:
        assert ratio(bounds.lower) == pytest.approx(edge, abs=1e-6)
    if seen.successes < seen.people:
        assert ratio(bounds.upper) == pytest.approx(edge, abs=1e-6)
    if seen.people:
        assert ratio(seen.successes / seen.people) < edge


@given(trials(), alphas)
def test_bounds_stand_around_what_was_seen(seen: Trials, alpha: float) -> None:
    bounds = evidence.rate(seen, alpha)
    share = seen.successes / seen.people if seen.people else 0.5
    assert 0 <= bounds.lower <= share <= bounds.upper <= 1
    assert (bounds.lower == 0) is (seen.successes == 0)
    assert (bounds.upper == 1) is (seen.successes == seen.people)


@given(trials(people_min=1), alphas)
def test_one_more_success_moves_both_bounds_up(seen: Trials, alpha: float) -> None:
    if seen.successes < seen.people:
        fewer, more = evidence.rate(seen, alpha), evidence.rate(Trials(seen.successes + 1, seen.people), alpha)
        assert fewer.lower <= more.lower and fewer.upper <= more.upper


@given(trials(), alphas, alphas)
def test_more_confidence_is_wider(seen: Trials, one: float, other: float) -> None:
    narrow, wide = evidence.rate(seen, max(one, other)), evidence.rate(seen, min(one, other))
    assert wide.lower <= narrow.lower and narrow.upper <= wide.upper


@given(trials(people_max=10**6), alphas)
def test_failures_mirror_successes(seen: Trials, alpha: float) -> None:
    bounds = evidence.rate(seen, alpha)
    mirrored = evidence.rate(Trials(seen.people - seen.successes, seen.people), alpha)
    assert (mirrored.lower, mirrored.upper) == pytest.approx((1 - bounds.upper, 1 - bounds.lower), abs=1e-9)


@given(st.integers(0, 20), st.integers(1, 20))
def test_ten_times_as_many_people_tell_more(successes: int, failures: int) -> None:
    few, many = [evidence.rate(Trials(successes * times, (successes + failures) * times)) for times in (10, 100)]
    assert many.upper - many.lower < few.upper - few.lower


@given(trials(), trials(), alphas)
def test_a_difference_has_two_sides(one: Trials, other: Trials, alpha: float) -> None:
    there, back = difference(one, other, alpha), difference(other, one, alpha)
    assert (there.lower, there.upper) == (-back.upper, -back.lower)
    assert -1 <= there.lower <= there.upper <= 1
    mine, theirs = evidence.rate(one, alpha), evidence.rate(other, alpha)
    assert there.lower <= mine.lower - theirs.upper and mine.upper - theirs.lower <= there.upper


@pytest.mark.rule("B267")
@pytest.mark.parametrize("p", [0.03, 0.5])
def test_a_reader_who_looks_all_the_time_is_seldom_wrong(p: float) -> None:
    """In at most 5% of 2,000 tests is the true rate ever outside, at any of a hundred looks; the ordinary interval of
    95% (Wilson), looked at as often, is wrong in far more."""
    wrong = ordinary = 0
    for run in runs(p):
        bounds = [rate(seen) for (seen,) in run]
        wrong += any(not one.lower <= p <= one.upper for one in bounds)
        ordinary += any(not low <= p <= high for low, high in (wilson(seen) for (seen,) in run))
    assert wrong <= ALPHA * RUNS
    assert ordinary > 4 * ALPHA * RUNS


@cache
def wilson(seen: Trials) -> tuple[float, float]:
    z, n, share = 1.959964, seen.people, seen.successes / seen.people
    middle, half = share + z * z / (2 * n), z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


@pytest.mark.rule("B267")
def test_a_difference_is_seldom_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "rate", rate)
    true = 0.05 - 0.15
    bounds = ([difference(one, other) for one, other in run] for run in runs(0.05, 0.15))
    assert sum(any(not one.lower <= true <= one.upper for one in run) for run in bounds) <= ALPHA * RUNS


@pytest.mark.rule("B267")
@pytest.mark.parametrize("p", [0.1, lambda n: 0.02 if n < 400 else 0.1], ids=["steady", "drifting"])
def test_equal_variants_are_seldom_decided(monkeypatch: pytest.MonkeyPatch, p: Any) -> None:
    """In at most 5% of 2,000 tests of three equal variants is one ever named, looked at all the time; not even when
    later people open five times as often, which meets all variants alike."""
    monkeypatch.setattr(evidence, "rate", rate)
    named = sum(any(decided(dict(zip("abc", seen, strict=True))) for seen in run) for run in runs(p, p, p))
    assert named <= ALPHA * RUNS


@pytest.mark.rule("B267")
def test_a_better_variant_is_found_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "rate", rate)
    found = [
        [key for seen in run if (key := decided(dict(zip("abc", seen, strict=True))))] for run in runs(0.1, 0.16, 0.08)
    ]
    assert sum(bool(keys) and keys[0] != "b" for keys in found) <= ALPHA * RUNS
    assert sum(bool(keys) and keys[-1] == "b" for keys in found) > 0.9 * RUNS


def test_what_cannot_be_decided() -> None:
    sure, never = Trials(1_000, 1_000), Trials(0, 1_000)
    assert decided({"a": never, "b": sure}) == "b"
    assert decided({"a": sure, "b": sure}) is None
    assert decided({"b": sure}) is None and decided({}) is None
    few = EXPOSURE_MIN - 1
    assert decided({"a": never, "b": Trials(few, few)}) is None
    assert decided({"a": never, "b": Trials(few + 1, few + 1)}) == "b"


# -- sample ratio

weights = st.lists(st.integers(1, 100), min_size=1, max_size=6)


@given(weights, st.data())
def test_the_sample_ratio_is_a_dirichlet_mixture(shares: list[int], data: st.DataObject) -> None:
    """scipy's Dirichlet-multinomial likelihood over the multinomial one."""
    counts = data.draw(st.lists(st.integers(0, 1_000), min_size=len(shares), max_size=len(shares)))
    wanted = np.array(shares) / sum(shares)
    ratio = stats.dirichlet_multinomial.logpmf(counts, CONCENTRATION * wanted, sum(counts)) - stats.multinomial.logpmf(
        counts, sum(counts), wanted
    )
    keys = [str(number) for number in range(len(shares))]
    said = evidence.sample_ratio(dict(zip(keys, counts, strict=True)), dict(zip(keys, shares, strict=True)))
    assert said.p_value == pytest.approx(min(1.0, np.exp(-ratio)), rel=1e-6, abs=1e-300)
    assert said.mismatch is (said.p_value <= evidence.MISMATCH_ALPHA)


def test_nobody_belongs_to_a_weight_of_nothing() -> None:
    said = {"a": 100, "b": 0}
    assert evidence.sample_ratio(said, {"a": 100, "b": 0}).p_value == 1
    stray = evidence.sample_ratio({**said, "b": 1}, {"a": 100, "b": 0})
    assert (stray.p_value, stray.mismatch) == (0, True)
    assert not evidence.sample_ratio({"a": 0, "b": 0}, {"a": 50, "b": 50}).mismatch


@pytest.mark.rule("B267")
def test_the_alarm_is_seldom_false_and_never_late() -> None:
    """p falls to 5% in at most 5% of 2,000 tests whose weights were kept, looked at after every 20 of 2,000 people;
    where a tenth of a variant is lost, the alarm comes."""
    chance = np.random.default_rng(SEED)
    wanted = {"a": 40, "b": 40, "holdout": 20}
    low = 0
    for _ in range(RUNS):
        seen = chance.multinomial(20, [0.4, 0.4, 0.2], size=100).cumsum(axis=0)
        low += any(
            evidence.sample_ratio(dict(zip(wanted, map(int, counts), strict=True)), wanted).p_value <= 0.05
            for counts in seen
        )
    assert low <= 0.05 * RUNS
    assert evidence.sample_ratio({"a": 40_000, "b": 36_000, "holdout": 20_000}, wanted).mismatch
