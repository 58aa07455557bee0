"""Failpoints do what the crash tests believe they do; a process of its own dies for it."""

import signal
import subprocess
import sys

import pytest

from sendora.delivery import failpoint
from sendora.delivery.failpoint import Crash, arm, armed, disarm, hit


@pytest.fixture(autouse=True)
def _disarmed() -> None:
    disarm()


@pytest.mark.parametrize(
    "spec", ["nowhere:kill", "plan.after_wake", "plan.after_wake:sing", "plan.after_wake:kill@n=0"]
)
def test_a_failpoint_that_does_not_exist_is_an_error(spec: str) -> None:
    with pytest.raises(ValueError, match="no such failpoint"):
        arm(spec)


def test_it_counts_and_happens_once() -> None:
    arm("plan.after_wake:raise@n=3, plan.mid_insert:raise")
    hit("plan.after_wake")
    hit("plan.after_wake")
    with pytest.raises(Crash):
        hit("plan.after_wake")
    hit("plan.after_wake")
    assert not armed("plan.after_wake")
    assert armed("plan.mid_insert")


def test_the_environment_arms_it_and_a_kill_is_a_kill() -> None:
    code = "from sendora.delivery.failpoint import hit; hit('plan.after_wake'); hit('plan.after_wake'); print('alive')"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={failpoint.VARIABLE: "plan.after_wake:kill@n=2"},
        capture_output=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    assert b"alive" not in ended.stdout
