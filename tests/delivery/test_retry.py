"""Waits, and what the ledger says at the end of them (providers.md 3.6, promise 3)."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendora.delivery.phases import TRIES_MAX, Chunk, Delivery, Outcome, State
from sendora.delivery.retry import JITTER, Schedule, retry_after_s, round_up, settle, wait_s
from sendora.kernel.ids import OrgId, SendId, new_id

NOW = datetime(2026, 11, 20, 12, 0, 0, 250_000, tzinfo=UTC)
FLAT = Schedule(base_s=900.0, doubling=False, jitter=False)
DOUBLING = Schedule(base_s=10.0, doubling=True, jitter=False)


def chunk(attempt: int = 1) -> Chunk:
    return Chunk(
        org=OrgId(new_id()),
        send=SendId(new_id()),
        shard=0,
        seq=0,
        class_="bulk",
        attempt=attempt,
        repeated=False,
        size=1,
        started=0,
        due_at=NOW,
    )


def outcome(state: State, **more: Any) -> Outcome:
    return Outcome(position=0, recipient=new_id(), user_id="u", state=state, **more)


def settled(
    given: Outcome,
    *,
    attempt: int = 1,
    delivery: Delivery = "at_least_once",
    unanswered: str | None = None,
    lasts_s: float = 3_600,
    sent: bool = True,
) -> Outcome:
    expires_at = NOW + timedelta(seconds=lasts_s)
    return settle(given, chunk(attempt), delivery=delivery, expires_at=expires_at, unanswered=unanswered, sent=sent)


@pytest.mark.rule("C96")
def test_tries_begin_anew_with_a_retry() -> None:
    """C96: both the end of the tries and the waits count from the first one since."""
    retried = msgspec.structs.replace(chunk(TRIES_MAX + 2), first_attempt=TRIES_MAX + 1)
    assert retried.tries == 2
    last = msgspec.structs.replace(retried, attempt=2 * TRIES_MAX)
    ends = [
        settle(
            outcome("deferred", due_at=NOW),
            of,
            delivery="at_least_once",
            expires_at=NOW + timedelta(1),
            unanswered=None,
        ).state
        for of in (retried, last)
    ]
    assert ends == ["deferred", "rejected"]


@pytest.mark.parametrize(("attempt", "flat", "doubling"), [(1, 900, 10), (2, 900, 20), (4, 900, 80)])
def test_schedules(attempt: int, flat: float, doubling: float) -> None:
    assert wait_s(FLAT, attempt, None, 0.5) == flat
    assert wait_s(DOUBLING, attempt, None, 0.5) == doubling


def test_retry_after_wins() -> None:
    assert wait_s(FLAT, 1, 1.0, 0.9) == 1.0
    assert wait_s(FLAT, 1, 0.0, 0.9) == 0.0


@given(st.floats(0, 1, exclude_max=True), st.integers(1, TRIES_MAX))
def test_jitter_only_stretches_and_is_coarse(chance: float, attempt: int) -> None:
    jittered = Schedule(base_s=10.0, doubling=True)
    wait = wait_s(jittered, attempt, None, chance)
    plain = wait_s(DOUBLING, attempt, None, chance)
    assert plain <= wait <= plain * (1 + JITTER)
    assert (wait / plain - 1) / JITTER * 8 == pytest.approx(round((wait / plain - 1) / JITTER * 8))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        ("Fri, 20 Nov 2026 12:01:00 GMT", 59.75),
        ("Fri, 20 Nov 2026 11:00:00 GMT", 0.0),
        ("99999999999999999999999", 86_400.0),
        ("soon", None),
        ("-5", None),
        ("٣", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_as_a_number_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header, NOW) == seconds


def test_due_times_are_whole_seconds_never_earlier() -> None:
    assert round_up(NOW) == NOW.replace(second=1, microsecond=0)
    assert round_up(NOW.replace(microsecond=0)) == NOW.replace(microsecond=0)


def test_a_deferral_goes_on() -> None:
    ended = settled(outcome("deferred", reason="busy", due_at=NOW))
    assert (ended.state, ended.repeated, ended.due_at) == ("deferred", False, NOW.replace(second=1, microsecond=0))


def test_the_tries_end() -> None:
    assert settled(outcome("deferred", due_at=NOW), attempt=TRIES_MAX - 1).state == "deferred"
    ended = settled(outcome("deferred", reason="busy", due_at=NOW), attempt=TRIES_MAX)
    assert (ended.state, ended.reason) == ("rejected", "retries_exhausted")


def test_quiet_hours_are_no_try() -> None:
    assert settled(outcome("deferred", due_at=NOW, counted=False), attempt=TRIES_MAX).state == "deferred"


def test_the_time_of_the_send_ends() -> None:
    ended = settled(outcome("deferred", reason="busy", due_at=NOW + timedelta(seconds=60)), lasts_s=30)
    assert (ended.state, ended.reason) == ("expired", "ttl")


@pytest.mark.parametrize("how", ["tries", "time"])
def test_what_was_never_answered_stays_unknown_at_the_end(how: str) -> None:
    """Promise 3: a write without an answer is `unknown`, whatever was refused later."""
    given = outcome("deferred", reason="busy", due_at=NOW + timedelta(seconds=60))
    ended = settled(
        given,
        attempt=TRIES_MAX if how == "tries" else 1,
        lasts_s=3_600 if how == "tries" else 30,
        unanswered="no_answer",
    )
    assert (ended.state, ended.reason) == ("unknown", "no_answer")


def test_at_most_once_never_goes_on_after_silence() -> None:
    """Promise 3: `at_most_once` leaves them."""
    ended = settled(outcome("deferred", reason="no_answer", repeated=True, due_at=NOW), delivery="at_most_once")
    assert (ended.state, ended.reason, ended.due_at) == ("unknown", "no_answer", None)
    assert settled(outcome("deferred", due_at=NOW), delivery="at_most_once").state == "deferred"


def test_at_least_once_goes_on_and_says_so() -> None:
    ended = settled(outcome("deferred", reason="no_answer", repeated=True, due_at=NOW))
    assert (ended.state, ended.repeated) == ("deferred", True)
    accepted = settled(outcome("accepted"), attempt=2, unanswered="no_answer")
    assert (accepted.state, accepted.repeated) == ("accepted", True)


@pytest.mark.parametrize("state", ["suppressed", "expired"])
def test_who_is_not_sent_again_stays_unknown(state: State) -> None:
    ended = settled(outcome(state, reason="x"), unanswered="worker_lost")
    assert (ended.state, ended.reason) == ("unknown", "worker_lost")
    assert settled(outcome(state, reason="x")).state == state


def test_who_cannot_be_sent_again_stays_unknown() -> None:
    """A refusal of ours says nothing of the write before it; the provider's does."""
    assert settled(outcome("rejected", reason="no_credential"), unanswered="worker_lost", sent=False).state == "unknown"
    assert settled(outcome("rejected", reason="no_credential"), sent=False).state == "rejected"
    answered = settled(outcome("rejected", reason="Unregistered"), unanswered="worker_lost")
    assert (answered.state, answered.repeated) == ("rejected", True)


@given(
    st.sampled_from(["accepted", "rejected", "suppressed", "expired", "unknown", "deferred"]),
    st.booleans(),
    st.booleans(),
    st.integers(1, TRIES_MAX),
    st.sampled_from(["at_least_once", "at_most_once"]),
    st.sampled_from([None, "worker_lost"]),
    st.floats(0, 100),
)
def test_every_outcome_settles(
    state: State,
    repeated: bool,
    counted: bool,
    attempt: int,
    delivery: Delivery,
    unanswered: str | None,
    lasts_s: float,
) -> None:
    """Whoever goes on has a time to go on, is within the tries and the send's time, and never breaks `at_most_once`."""
    given = outcome(
        state,
        due_at=NOW if state == "deferred" else None,
        repeated=repeated and state == "deferred",
        counted=counted,
    )
    ended = settled(given, attempt=attempt, delivery=delivery, unanswered=unanswered, lasts_s=lasts_s)
    if ended.state != "deferred":
        assert ended.due_at is None
        return
    assert ended.due_at is not None
    assert ended.due_at < NOW + timedelta(seconds=lasts_s)
    assert attempt < TRIES_MAX or not counted
    assert not (delivery == "at_most_once" and (repeated or unanswered))
    assert ended.repeated == (repeated or unanswered is not None)
