"""Outcomes as the library settles and writes them, against `retry.settle` and `ledger`."""

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendora import _core
from sendora.delivery import ledger, retry
from sendora.delivery.phases import TRIES_MAX, Chunk, Delivery, Outcome
from sendora.kernel.clock import from_millis, millis
from sendora.kernel.ids import OrgId, SendId, new_id
from sendora.kernel.life import Kernel
from sendora.kernel.pg import copy_in

NOW_MS = 1_780_000_000_250
TEXT_MAX = 500
RECIPIENT = UUID(int=3)
Ruling = tuple[str, str | None, str | None, int | None, bool, bool]


def chunk(**said: Any) -> Chunk:
    given: dict[str, Any] = {
        "org": OrgId(UUID(int=1)), "send": SendId(new_id()), "shard": 7, "seq": 70_000, "class_": "bulk", "attempt": 2,
        "repeated": False, "size": 9, "started": 0, "due_at": from_millis(NOW_MS),
    }  # fmt: skip
    return Chunk(**(given | said))


def outcome(said: Ruling, position: int = 0, recipient: UUID = RECIPIENT, **more: Any) -> Outcome:
    state, reason, provider_id, due_ms, repeated, counted = said
    return Outcome(
        position=position,
        recipient=recipient,
        user_id=more.get("user_id"),
        state=state,  # type: ignore[arg-type]
        reason=reason,
        variant=more.get("variant"),
        provider_id=provider_id,
        due_at=None if due_ms is None else from_millis(due_ms),
        repeated=repeated,
        counted=counted,
    )


def ruling(one: Outcome) -> Ruling:
    due_ms = None if one.due_at is None else millis(one.due_at)
    return one.state, one.reason, one.provider_id, due_ms, one.repeated, one.counted


STATES = ["accepted", "rejected", "suppressed", "expired", "unknown", "deferred"]
DELIVERIES: list[Delivery] = ["at_least_once", "at_most_once"]


def test_settling_over_its_whole_domain() -> None:
    """Promise 3, in every combination of what was said, what is owed, and what is left of the send."""
    dues = [NOW_MS, NOW_MS - NOW_MS % 1_000, NOW_MS - NOW_MS % 1_000 + 1]
    ends_us = [(NOW_MS + 749) * 1_000, (NOW_MS + 750) * 1_000, (NOW_MS + 750) * 1_000 + 1, NOW_MS * 1_000 + 10**9]
    n = 0
    for state, reason, repeated, counted, attempt, delivery, unanswered, sent, due_ms, end_us in product(
        STATES, [None, "", "busy"], [False, True], [False, True], [1, TRIES_MAX - 1, TRIES_MAX], DELIVERIES,
        [None, "no_answer", "worker_lost"], [False, True], dues, ends_us,
    ):  # fmt: skip
        said: Ruling = state, reason, "id", due_ms if state == "deferred" else None, repeated, counted
        expires_at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=end_us)
        expected = retry.settle(
            outcome(said), chunk(attempt=attempt), delivery=delivery, expires_at=expires_at, unanswered=unanswered,
            sent=sent,
        )  # fmt: skip
        at_most_once, expires_ms = delivery == "at_most_once", -(-end_us // 1_000)
        assert _core.settle(said, attempt, at_most_once, expires_ms, unanswered, sent) == ruling(expected), said
        n += 1
    assert n == 31_104


texts = st.none() | st.text(max_size=12) | st.text("é\0x", min_size=490, max_size=510)
rulings = st.tuples(
    st.sampled_from(STATES[:-1]), texts, texts, st.none(), st.booleans(), st.booleans()
) | st.tuples(
    st.just("deferred"), st.sampled_from(["busy", "UNAVAILABLE"]), texts,
    st.sampled_from([NOW_MS, NOW_MS + 1_000]), st.booleans(), st.booleans(),
)  # fmt: skip
batches = st.lists(st.tuples(rulings, st.uuids(), texts, texts), max_size=8)


def written(said: list[Any], part: Chunk) -> tuple[_core.OutcomeBatch, list[Outcome]]:
    outcomes = [
        outcome(ruled, position, recipient, user_id=user, variant=variant)
        for position, (ruled, recipient, user, variant) in enumerate(said)
    ]
    return ledger.batched(part, outcomes), outcomes


def row(part: Chunk, one: Outcome, at: datetime) -> tuple[Any, ...]:
    """What asyncpg is given for the same row."""

    def text(value: str | None) -> str | None:
        return None if value is None else value[:TEXT_MAX].replace("\0", "")

    return (
        part.org, part.send, part.shard, part.seq, one.position, one.recipient, text(one.user_id), one.state,
        text(one.reason), text(one.variant), one.provider, text(one.provider_id), part.attempt, one.repeated, at,
    )  # fmt: skip


@given(batches)
def test_counts_and_who_goes_on(said: list[Any]) -> None:
    """As `Flight._count` and `Ledger._follow_up` do it."""
    part = chunk()
    batch, outcomes = written(said, part)
    assert {(state, reason): n for state, reason, n in batch.counts()} == dict(
        Counter((one.state, one.reason or "") for one in outcomes)
    )
    groups: dict[tuple[int, bool, int], list[bytes]] = defaultdict(list)
    for one in outcomes:
        if one.due_at is not None:
            groups[part.attempt + one.counted, one.repeated, millis(one.due_at)].append(one.recipient.bytes)
    found = {(attempt, repeated, due): ids for attempt, repeated, due, ids in batch.follow_up()}
    assert found == {key: b"".join(ids) for key, ids in groups.items()}
    assert (len(batch), batch.first_position()) == (len(outcomes), 0 if outcomes else None)


@pytest.mark.rule("C93")
async def test_rows_are_the_ledgers(kernel: Kernel) -> None:
    """What PostgreSQL reads from two batches behind one another is what the ledger's own COPY writes."""
    cases: list[list[Any]] = []

    @settings(max_examples=40, database=None)
    @given(batches)
    def collect(said: list[Any]) -> None:
        cases.append(said)

    collect()
    at = datetime(2026, 5, 28, 20, 26, 40, 123_456, tzinfo=UTC)
    at_us = round((at - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
    async with kernel.db.acquire() as connection:
        for said in cases:
            ours, theirs, beside = chunk(), chunk(), chunk()
            await ledger.make_partition(kernel, ours.send)
            batch, outcomes = written(said, ours)
            await connection.copy_records_to_table(
                "deliveries", records=[row(theirs, one, at) for one in outcomes], columns=ledger.COLUMNS
            )
            copied = _core.copy_outcomes([batch, written(said, beside)[0]], at_us)
            await copy_in(connection, "deliveries", ledger.COLUMNS, copied)
            found = await rows(connection, theirs.send)
            assert await rows(connection, ours.send) == await rows(connection, beside.send) == found


async def rows(connection: Any, send: UUID) -> list[tuple[Any, ...]]:
    found: list[asyncpg.Record] = await connection.fetch(
        f"SELECT {', '.join(ledger.COLUMNS)} FROM deliveries WHERE send_id = $1 ORDER BY position",
        send,
    )
    return [tuple(value for name, value in row.items() if name != "send_id") for row in found]
