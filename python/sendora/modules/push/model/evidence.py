"""What the counts of an A/B test say, whenever somebody looks. Pure.

Whoever runs a test looks at it every day and stops when it looks good; an ordinary 95% interval is then wrong far more
often than in one case of twenty. Everything here holds at all times at once: over the whole life of a test the
probability that a bound was wrong at any look is at most alpha, however often one looks and whyever one stops.

All three readings rest on the same fact. The likelihood of the data under a mixture of alternatives, divided by their
likelihood under the hypothesis, is a martingale that starts at 1 if the hypothesis is true, and so ever exceeds
1 / alpha with a probability of at most alpha (Ville's inequality).

- A rate: the alternatives are mixed by a beta distribution; the bounds hold the rates that were not refuted (Robbins,
  "Statistical methods related to the law of the iterated logarithm", Ann. Math. Statist. 41, 1970; in the form of a
  ratio of prior and posterior: Waudby-Smith and Ramdas, "Confidence sequences for sampling without replacement",
  NeurIPS 2020, arXiv:2006.04347).
- A difference of two rates: both bounds at half of alpha, subtracted. Wider than need be, and right without any
  assumption of how two groups arrive.
- Sample ratio: the alternatives are mixed by a Dirichlet distribution around the weights (Lindon and Malek,
  "Anytime-valid inference for multinomial count data", NeurIPS 2022, arXiv:2011.03567).

What is assumed: the people of a variant open independently of each other and at one rate, and whether somebody did is
known for good when that person is counted. To the last `readout` sees: nobody is counted before the time for opening is
over. A rate that drifts moves all variants alike, and does not mislead a difference (the tests simulate it).
"""

from collections.abc import Callable, Mapping
from math import exp, lgamma, log
from typing import Final

import msgspec

ALPHA: Final = 0.05
"""How often a bound, or a decision between all variants of a test, may be wrong in the whole life of a test."""

MISMATCH_ALPHA: Final = 0.001
"""A false alarm stops a good test; a real one (people who are missing) grows by orders of magnitude a day."""

PRIOR: Final = 0.5
"""Of the beta mixture, on both sides: as much weight on rates of a thousandth as on one half, because pushes are opened
by few."""

CONCENTRATION: Final = 1_000.0
"""Of the Dirichlet mixture: deviations of one or two points in a hundred are what broken assignments look like."""

EXPOSURE_MIN: Final = 100
"""People of each variant before a decision. The bounds hold with fewer; a mistake in the making of a test needs some
people to show."""

BISECTIONS: Final = 60
"""Halvings of an interval below 1: what is left is beyond what a float can tell."""


class Bounds(msgspec.Struct, frozen=True):
    """Between 0 and 1 for a rate, between -1 and 1 for a difference."""

    lower: float
    upper: float


class Trials(msgspec.Struct, frozen=True):
    """People, and how many of them did it: 0 <= successes <= people."""

    successes: int
    people: int


class SampleRatio(msgspec.Struct, frozen=True):
    p_value: float
    """At most alpha, at any time, with a probability of at most alpha if the weights were kept."""
    mismatch: bool


def rate(seen: Trials, alpha: float = ALPHA) -> Bounds:
    """Bounds of a Bernoulli rate, valid at all times at once with probability 1 - alpha; nothing is known of nobody."""
    n, k = seen.people, seen.successes
    evidence = _log_beta(PRIOR + k, PRIOR + n - k) - _log_beta(PRIOR, PRIOR)

    def refuted(p: float) -> bool:
        return evidence - _log_power(p, k) - _log_power(1 - p, n - k) >= -log(alpha)

    # Refutation falls towards k / n from both sides; each bound is taken where it is just refuted.
    peak = k / n if n else 0.5
    lower = _border(refuted, 0.0, peak) if k else 0.0
    upper = _border(refuted, 1.0, peak) if k < n else 1.0
    return Bounds(lower, upper)


def difference(one: Trials, control: Trials, alpha: float = ALPHA) -> Bounds:
    """Bounds of the rate of `one` minus the rate of `control`, valid as those of `rate`."""
    mine, theirs = rate(one, alpha / 2), rate(control, alpha / 2)
    return Bounds(mine.lower - theirs.upper, mine.upper - theirs.lower)


def sample_ratio(assigned: Mapping[str, int], weights: Mapping[str, int]) -> SampleRatio:
    """Whether so many people in each variant can come of these weights (any positive sum); both have the same keys.

    Whoever turns up in a variant of weight 0 was not assigned by these weights: p is 0.
    """
    if any(assigned[key] for key, weight in weights.items() if not weight):
        return SampleRatio(0.0, True)
    total, people = sum(weights.values()), sum(assigned.values())
    evidence = lgamma(CONCENTRATION) - lgamma(CONCENTRATION + people)
    for key, weight in weights.items():
        if weight:
            share, n = weight / total, assigned[key]
            mixed = CONCENTRATION * share
            evidence += lgamma(mixed + n) - lgamma(mixed) - n * log(share)
    p_value = exp(-max(evidence, 0.0))
    return SampleRatio(p_value, p_value <= MISMATCH_ALPHA)


def decided(variants: Mapping[str, Trials], alpha: float = ALPHA) -> str | None:
    """The variant whose rate is higher than that of each other one, None while that is open (or there is none other).

    Each variant's bounds take their share of alpha, so that in the whole life of a test the probability of ever naming
    one that is not the best is at most alpha.
    """
    if len(variants) < 2 or any(seen.people < EXPOSURE_MIN for seen in variants.values()):
        return None
    bounds = {key: rate(seen, alpha / len(variants)) for key, seen in variants.items()}
    best = max(bounds, key=lambda key: bounds[key].lower)
    others = (known.upper for key, known in bounds.items() if key != best)
    return best if bounds[best].lower > max(others) else None


def _border(refuted: Callable[[float], bool], outside: float, inside: float) -> float:
    """Where refutation ends between `outside`, which is refuted, and `inside`, which is not."""
    for _ in range(BISECTIONS):
        middle = (outside + inside) / 2
        if refuted(middle):
            outside = middle
        else:
            inside = middle
    return outside


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def _log_power(base: float, exponent: int) -> float:
    return exponent * log(base) if exponent else 0.0
