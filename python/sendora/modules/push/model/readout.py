"""How an A/B test stands: what was counted, and what may be concluded (B120, B267). Pure.

People are assigned, so people are counted, not devices: a user once, with however many devices and sends; a device
without a user is its own person (C44), and so is each name of somebody who was taken over in the middle of a test.
Somebody is *assigned* when the ledger has a row that names the variant, and *sent* when a provider took at least one
message. Rows count once their chunk is closed: within a running chunk those who are held out are done at once and the
others are not, which would look like a sample ratio that is off.

Whether somebody opened is *settled* FOLLOW_UP after the first message that a provider took; an open after that is
counted, and is none for the rates. Rates and their bounds are of settled people alone, so a test that went out this
morning shows counts today and bounds tomorrow: to compare what has happened so far would be to compare how long ago
people were sent to.

Differences are taken from the *control*, the first variant that has content and a weight. Who is held out gets nothing
and cannot open, so a holdout has counts and a place in the sample ratio but no rates; what a push changed beside opens
is to be read from events.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec

from sendora.kernel.clock import iso
from sendora.kernel.wire import Wire
from sendora.modules.push.model import evidence
from sendora.modules.push.model.content import Variant
from sendora.modules.push.model.evidence import Trials

FOLLOW_UP: Final = timedelta(hours=24)
"""A whole day, so that nobody's hour of reading is left out; nearly all opens come within it."""


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """People of one variant. `delivered` by receipts alone (C93); `opened` and `clicked` at any time, the settled ones
    in time."""

    assigned: int = 0
    sent: int = 0
    delivered: int = 0
    opened: int = 0
    clicked: int = 0
    settled: int = 0
    settled_opened: int = 0
    settled_clicked: int = 0


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """By variant; those that nobody was drawn for are missing."""

    tallies: dict[str, Tally]
    as_of: datetime | None
    """None: it is being counted for the first time."""
    age_s: float = 0.0
    took_s: float = 0.0


class Reading(Wire, frozen=True, kw_only=True):
    """A rate or a difference of two, with bounds that hold however often one looks (`model.evidence`)."""

    estimate: float | None
    """None while nobody is settled."""
    lower: float
    upper: float


class VariantStats(Wire, frozen=True, kw_only=True):
    """B120, in people. The readings are None for a holdout, the differences for the control too."""

    key: str
    weight: int
    holdout: bool
    assigned: int
    sent: int
    delivered: int
    opened: int
    clicked: int
    settled: int
    open_rate: Reading | None
    click_rate: Reading | None
    open_difference: Reading | None
    click_difference: Reading | None


class SampleRatioShown(Wire, frozen=True, kw_only=True):
    """Whether people were assigned as the weights say: when `mismatch` is true, believe no rate of the test."""

    p_value: float
    mismatch: bool


class TestStats(Wire, frozen=True, kw_only=True):
    """The answer of `GET /push/ab-tests/{id}/stats`."""

    variants: list[VariantStats]
    winner_key: str | None
    decided_key: str | None
    """The variant that is opened more often than each other one, beyond doubt; what `autoPromote` acts on."""
    control_key: str | None
    confidence: float
    follow_up_hours: int
    as_of: str | None
    """When this was counted; null while a test that went to millions is counted for the first time: ask again."""
    sample_ratio: SampleRatioShown


def read(variants: list[Variant], winner: str | None, counted: Counted) -> TestStats:
    seen = {one.key: counted.tallies.get(one.key, Tally()) for one in variants}
    control = next((one.key for one in variants if _compared(one)), None)
    ratio = _sample_ratio(variants, seen)
    return TestStats(
        variants=[_variant(one, seen, control) for one in variants],
        winner_key=winner,
        decided_key=decide(variants, counted.tallies),
        control_key=control,
        confidence=1 - evidence.ALPHA,
        follow_up_hours=int(FOLLOW_UP.total_seconds()) // 3_600,
        as_of=None if counted.as_of is None else iso(counted.as_of),
        sample_ratio=SampleRatioShown(p_value=ratio.p_value, mismatch=ratio.mismatch),
    )


def decide(variants: list[Variant], tallies: Mapping[str, Tally]) -> str | None:
    """The winner by opens, which is what title and body bring about. None while it is open, with fewer than
    `evidence.EXPOSURE_MIN` settled people anywhere, and while the sample ratio is off."""
    seen = {one.key: tallies.get(one.key, Tally()) for one in variants}
    if _sample_ratio(variants, seen).mismatch:
        return None
    return evidence.decided({one.key: _opens(seen[one.key]) for one in variants if _compared(one)})


def _variant(one: Variant, seen: Mapping[str, Tally], control: str | None) -> VariantStats:
    tally = seen[one.key]
    rates = not one.holdout
    other = seen[control] if rates and control not in (None, one.key) else None
    return VariantStats(
        key=one.key,
        weight=one.weight,
        holdout=one.holdout,
        assigned=tally.assigned,
        sent=tally.sent,
        delivered=tally.delivered,
        opened=tally.opened,
        clicked=tally.clicked,
        settled=tally.settled,
        open_rate=_rate(_opens(tally)) if rates else None,
        click_rate=_rate(_clicks(tally)) if rates else None,
        open_difference=None if other is None else _difference(_opens(tally), _opens(other)),
        click_difference=None if other is None else _difference(_clicks(tally), _clicks(other)),
    )


def _rate(seen: Trials) -> Reading:
    bounds = evidence.rate(seen)
    return Reading(estimate=_share(seen), lower=bounds.lower, upper=bounds.upper)


def _difference(one: Trials, control: Trials) -> Reading:
    bounds = evidence.difference(one, control)
    mine, theirs = _share(one), _share(control)
    estimate = None if mine is None or theirs is None else mine - theirs
    return Reading(estimate=estimate, lower=bounds.lower, upper=bounds.upper)


def _sample_ratio(variants: list[Variant], seen: Mapping[str, Tally]) -> evidence.SampleRatio:
    return evidence.sample_ratio(
        {key: tally.assigned for key, tally in seen.items()}, {one.key: one.weight for one in variants}
    )


def _compared(variant: Variant) -> bool:
    """Has content, be it the send's (B119), and people to show it to."""
    return variant.weight > 0 and not variant.holdout


def _opens(tally: Tally) -> Trials:
    return Trials(tally.settled_opened, tally.settled)


def _clicks(tally: Tally) -> Trials:
    return Trials(tally.settled_clicked, tally.settled)


def _share(seen: Trials) -> float | None:
    return seen.successes / seen.people if seen.people else None
