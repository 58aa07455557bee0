"""The only table of statuses and steps.

A send is `scheduled` until it is due, `queued` until its first chunk is committed, `sending` until every chunk is
closed, and then one of `sent`, `failed`, `suppressed` (C96). `DELETE` cancels what is scheduled (B097). One that is
being stopped is `sending` until its last recipient has an outcome (`sends.stopped_at`), and takes no step but its end.
A retry of those whom a closed one has failed opens it again. The statuses are also the CHECK of `sends.status`, and
tests hold the two together; nobody else writes a status.
"""

from collections.abc import Mapping
from typing import Final

STEPS: Final[Mapping[str, Mapping[str, str]]] = {
    "scheduled": {"claim": "queued", "cancel": "cancelled"},
    "queued": {
        "plan": "sending",
        "pause": "paused",
        "stop": "sending",
        "close_sent": "sent",
        "close_failed": "failed",
        "close_suppressed": "suppressed",
    },
    "sending": {
        "pause": "paused",
        "stop": "sending",
        "close_sent": "sent",
        "close_failed": "failed",
        "close_suppressed": "suppressed",
    },
    "paused": {"resume": "sending", "stop": "sending"},
    "sent": {"reopen": "sending"},
    "failed": {"reopen": "sending"},
    "suppressed": {},
    "cancelled": {},
}
"""status -> step -> status."""

STATUSES: Final = tuple(STEPS)

FINAL_STATES: Final = ("accepted", "rejected", "suppressed", "expired", "unknown")
"""Where a recipient ends; `targeted` is their sum and what is open."""


def origins(step: str) -> list[str]:
    """The statuses from which a step may be taken: the guard of its UPDATE."""
    return [status for status, steps in STEPS.items() if step in steps]


def destination(step: str) -> str:
    """Where a step leads; the same from every status that has it."""
    (status,) = {steps[step] for steps in STEPS.values() if step in steps}
    return status


def closing_step(accepted: int, rejected: int, expired: int, unknown: int, targeted: int) -> str:
    """The step that closes a send whose every recipient has ended (C96)."""
    if accepted or not targeted:
        return "close_sent"
    if rejected or expired or unknown:
        return "close_failed"
    return "close_suppressed"
