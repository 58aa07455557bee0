"""The table of statuses, and the database's own list of them."""

import re
from pathlib import Path

import pytest

from sendora.delivery.phases import SHARDS
from sendora.delivery.state import FINAL_STATES, STATUSES, STEPS, closing_step, destination, origins

MIGRATION = (Path(__file__).parents[2] / "migrations" / "0006_delivery_sends.sql").read_text()


def _check(table: str, column: str) -> set[str]:
    found = re.search(
        rf"CREATE TABLE {table} .*?\b{column}\s+text NOT NULL CHECK \({column} IN\s*\((.*?)\)\)", MIGRATION, re.DOTALL
    )
    assert found is not None
    return set(re.findall(r"'(\w+)'", found[1]))


def test_the_statuses_are_those_of_the_database() -> None:
    """C96: eight statuses, in the table of steps and in the CHECK alike."""
    assert set(STATUSES) == _check("sends", "status")
    assert len(STATUSES) == 8


def test_the_states_are_those_of_the_ledger() -> None:
    """C96: five ends, and `deferred` for whoever goes on."""
    assert {*FINAL_STATES, "deferred"} == _check("deliveries", "state")
    assert f"BETWEEN 0 AND {SHARDS - 1}" in MIGRATION


def test_every_step_leads_to_one_status_that_exists() -> None:
    steps = {step for of in STEPS.values() for step in of}
    for step in steps:
        assert destination(step) in STATUSES
        assert origins(step)


def test_what_leaves_an_end() -> None:
    """B097: what is dispatched cannot be cancelled, only what is scheduled; C96: only a retry opens a closed send."""
    assert [status for status in STATUSES if not STEPS[status]] == ["suppressed", "cancelled"]
    assert [STEPS[status] for status in ("sent", "failed")] == [{"reopen": "sending"}] * 2
    assert origins("cancel") == ["scheduled"]


def test_where_control_begins_and_leads() -> None:
    """C96: what runs can be paused, what is paused goes on, and whatever has begun can be stopped."""
    assert {step: (origins(step), destination(step)) for step in ("pause", "resume", "stop")} == {
        "pause": (["queued", "sending"], "paused"),
        "resume": (["paused"], "sending"),
        "stop": (["queued", "sending", "paused"], "sending"),
    }


@pytest.mark.parametrize(
    ("ended", "step"),
    [
        ((1, 9, 0, 0, 10), "close_sent"),
        ((0, 0, 0, 0, 0), "close_sent"),
        ((0, 1, 0, 0, 5), "close_failed"),
        ((0, 0, 1, 0, 5), "close_failed"),
        ((0, 0, 0, 1, 5), "close_failed"),
        ((0, 0, 0, 0, 5), "close_suppressed"),
    ],
)
def test_how_a_send_closes(ended: tuple[int, int, int, int, int], step: str) -> None:
    """C96: `sent` if anything was accepted or nobody was targeted, else `failed`, else `suppressed`."""
    assert closing_step(*ended) == step
