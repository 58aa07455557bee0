"""The rule of lifecycle stages (B064, C68). The nightly job that sets them is the audiences' to test."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendora.modules.profiles.model import AT_RISK_AFTER, CHURNED_AFTER, NEW_FOR, stage_of

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SPANS = st.timedeltas(min_value=timedelta(), max_value=timedelta(days=400))


@pytest.mark.rule("B064", "C68")
@given(known=SPANS, away=SPANS)
def test_stages_follow_each_other(known: timedelta, away: timedelta) -> None:
    """Each window's first instant already counts; whoever is not seen again goes through the stages in their order."""
    created, seen = NOW - max(known, away), NOW - away
    stage = stage_of(created, seen, NOW)
    assert (stage == "churned") is (away >= CHURNED_AFTER)
    assert (stage == "at_risk") is (AT_RISK_AFTER <= away < CHURNED_AFTER)
    assert (stage == "new") is (away < AT_RISK_AFTER and max(known, away) < NEW_FOR)
    order = ("new", "active", "at_risk", "churned")
    later = [order.index(stage_of(created, seen, NOW + timedelta(days=days))) for days in (0, 5, 25, 60, 200)]
    assert later == sorted(later) and order[later[0]] == stage


def test_a_clock_that_is_behind_the_event() -> None:
    """An event of the near future is no reason to be at risk."""
    assert stage_of(NOW, NOW + timedelta(hours=1), NOW) == "new"
