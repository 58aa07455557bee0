"""When to try again, and when to stop: arithmetic, without a clock or chance of its own.

A provider's Retry-After wins over every schedule (providers.md 3.6). What waits is a chunk row with `due_at`, so waits
are made coarse on purpose: recipients that are due together travel together. A wait ends in one of three ways: a next
try, the end of the tries, or the end of the send's time; and whoever was written to without an answer stays `unknown`,
whatever later tries were refused, because that first write may have arrived.
"""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from sendora.delivery.phases import TRIES_MAX, Chunk, Delivery, Outcome

RETRY_AFTER_MAX_S: Final = 86_400.0
"""A provider that names a longer wait is read as a day; the send's own end comes first in nearly every case."""

JITTER: Final = 0.25
"""A wait is stretched by up to a quarter, so that a wave of refusals does not come back as one wave."""

JITTER_STEPS: Final = 8
"""In so few steps that the recipients of one refusal stay in few chunks."""


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """Waits before the 2nd, 3rd, .. try when the provider names none."""

    base_s: float
    doubling: bool
    jitter: bool = True


def wait_s(schedule: Schedule, tries: int, retry_after_s: float | None, chance: float) -> float:
    """Seconds before the next try, after try number `tries` (from 1) was refused; `chance` lies in [0, 1)."""
    if retry_after_s is not None:
        return min(max(retry_after_s, 0.0), RETRY_AFTER_MAX_S)
    wait = schedule.base_s * (2 ** (tries - 1) if schedule.doubling else 1)
    if schedule.jitter:
        wait *= 1 + JITTER * int(chance * JITTER_STEPS) / JITTER_STEPS
    return wait


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Retry-After as seconds: a number, or an HTTP date; None when it is absent or is neither."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), RETRY_AFTER_MAX_S)
    at = _http_date(text)
    return None if at is None else min(max((at - now).total_seconds(), 0.0), RETRY_AFTER_MAX_S)


def _http_date(text: str) -> datetime | None:
    """One of the three forms of RFC 9110, to the letter: what email would read besides is nothing that HTTP says."""
    try:
        at = parsedate_to_datetime(text).replace(tzinfo=UTC)
    except ValueError:
        return None
    forms = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y")
    return at if at.year >= 1970 and text in [at.strftime(form) for form in forms] else None


def round_up(due_at: datetime) -> datetime:
    """To the next whole second: what is due within one second shares a chunk."""
    return due_at if not due_at.microsecond else due_at.replace(microsecond=0) + timedelta(seconds=1)


def settle(
    outcome: Outcome,
    chunk: Chunk,
    *,
    delivery: Delivery,
    expires_at: datetime,
    unanswered: str | None,
    sent: bool = True,
) -> Outcome:
    """What the ledger says of an outcome, with its history.

    `unanswered` names why an earlier write of this recipient stands without an answer (`worker_lost`, `no_answer`),
    None when there is none. Promise 3: such a recipient may be repeated by `at_least_once` only, and then the outcome
    says so; when it is not sent again (suppressed or expired meanwhile, or `sent` is False: no request could be built)
    or the tries end, it is `unknown`.
    """
    repeated = unanswered is not None
    if outcome.state == "deferred":
        return _deferral(outcome, chunk, delivery=delivery, expires_at=expires_at, unanswered=unanswered)
    if unanswered is not None and (not sent or outcome.state in ("suppressed", "expired")):
        return _unknown(outcome, unanswered)
    if outcome.state == "unknown" and outcome.reason is None:
        outcome = msgspec.structs.replace(outcome, reason="no_answer")
    return msgspec.structs.replace(outcome, repeated=repeated, due_at=None)


def _deferral(
    outcome: Outcome, chunk: Chunk, *, delivery: Delivery, expires_at: datetime, unanswered: str | None
) -> Outcome:
    if outcome.due_at is None:
        raise ValueError("a deferral says when to go on")
    if outcome.repeated and unanswered is None:
        unanswered = outcome.reason or "no_answer"
    if unanswered is not None and delivery == "at_most_once":
        return _unknown(outcome, unanswered)
    exhausted = outcome.counted and chunk.tries >= TRIES_MAX
    due_at = round_up(outcome.due_at)
    if not exhausted and due_at < expires_at:
        return msgspec.structs.replace(outcome, due_at=due_at, repeated=unanswered is not None)
    if unanswered is not None:
        return _unknown(outcome, unanswered)
    state, reason = ("rejected", "retries_exhausted") if exhausted else ("expired", "ttl")
    return msgspec.structs.replace(outcome, state=state, reason=reason, due_at=None)


def _unknown(outcome: Outcome, reason: str) -> Outcome:
    return msgspec.structs.replace(outcome, state="unknown", reason=reason, due_at=None, repeated=False)
