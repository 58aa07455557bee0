"""The storer: every accepted event is stored, recognised, or kept with its reason, whatever is delivered how often."""

import asyncio
import dataclasses
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from tests.api import Api
from tests.make import Make, Org, random_text, raw_record

from sendora import _core
from sendora.kernel.bus import Message
from sendora.kernel.clock import FixedClock, millis
from sendora.kernel.config import Postgres
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Database, migrate, month_of
from sendora.kernel.pg.positions import reached, rewind
from sendora.modules.events import STORER, jobs
from sendora.modules.events.consumers import store_events

NOW_MS = millis(datetime(2026, 6, 15, 12, tzinfo=UTC))


class Store:
    """A database of its own, and frames handed to the storer by hand."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.db = kernel.db
        self.org, self.project = uuid4(), uuid4()
        self.position = 0

    def records(self, *events: dict[str, Any]) -> bytes:
        body = msgspec.json.encode([{"eventType": "e", "module": "m", **event} for event in events])
        checked = _core.check_events(body, self.org.bytes, self.project.bytes, "prod", NOW_MS, True)
        assert checked.rejected == 0, checked.errors
        return checked.records

    def message(self, *parts: bytes) -> Message:
        self.position += 1
        return Message("events.0", _core.frame(parts), self.position, 1)

    async def eat(self, *messages: Message) -> None:
        await store_events(self.kernel, list(messages))

    async def counts(self) -> tuple[int, int, int, int]:
        row = await self.db.fetchrow("SELECT * FROM event_counts WHERE org_id = $1", self.org)
        assert row is not None
        assert row["accepted"] == row["stored"] + row["duplicate"] + row["bad"]
        rows = await self.db.fetchval("SELECT count(*) FROM events WHERE org_id = $1", self.org)
        bad = await self.db.fetchval("SELECT count(*) FROM bad_rows WHERE org_id = $1", self.org)
        usage = await self.db.fetchval("SELECT sum(events) FROM usage_months WHERE org_id = $1", self.org)
        assert (rows, bad, usage) == (row["stored"], row["bad"], row["stored"])
        return row["accepted"], row["stored"], row["duplicate"], row["bad"]


@pytest.fixture
async def store(kernel: Kernel, fresh_database: Postgres) -> AsyncIterator[Store]:
    await migrate(fresh_database)
    db = await Database.open(fresh_database)
    try:
        yield Store(dataclasses.replace(kernel, db=db))
    finally:
        await db.close()


@pytest.mark.rule("C94")
async def test_a_retry_meets_itself(store: Store) -> None:
    """C94: the same eventId and timestamp are one event, in one batch or months later; anything else is another."""
    first = {"eventId": "a", "timestamp": "2026-03-31T23:59:59.999Z"}
    await store.eat(store.message(store.records(first, first, {**first, "timestamp": "2026-04-01T00:00:00Z"})))
    assert await store.counts() == (3, 2, 1, 0)
    await store.eat(store.message(store.records(first), store.records(first, {**first, "eventId": "b"})))
    assert await store.counts() == (6, 3, 3, 0)
    nameless = {"timestamp": "2026-03-31T23:59:59.999Z"}
    await store.eat(store.message(store.records(nameless, nameless)))
    assert await store.counts() == (8, 5, 3, 0), "without an eventId a duplicate is never recognised"


async def test_one_project_cannot_shadow_another(store: Store) -> None:
    """The same eventId and time in two projects, and in two orgs, are different events."""
    event = {"eventId": "a", "timestamp": "2026-05-01T00:00:00Z"}
    parts = [store.records(event)]
    first = store.org
    store.project = uuid4()
    parts.append(store.records(event))
    store.org = uuid4()
    parts.append(store.records(event))
    await store.eat(store.message(*parts))
    assert await store.db.fetchval("SELECT count(*) FROM events") == 3
    rows = await store.db.fetch("SELECT accepted, stored FROM event_counts")
    assert [tuple(row) for row in rows] == [(1, 1)] * 3
    assert await store.db.fetchval("SELECT events FROM usage_months WHERE org_id = $1", first) == 2


async def test_redelivery_changes_nothing(store: Store) -> None:
    """F-N3, F-N4: the same frames again, alone, in part, or with new ones behind them."""
    one = store.message(store.records({"eventId": "1"}, {}))
    two = store.message(store.records({"eventId": "2"}))
    three = store.message(store.records({"eventId": "3"}))
    await store.eat(one, two)
    before = await store.counts()
    await store.eat(one, two)
    await store.eat(two)
    assert await store.counts() == before == (3, 3, 0, 0)
    await store.eat(one, two, three)
    assert await store.counts() == (4, 4, 0, 0)
    assert await reached(store.db, STORER) == 3


async def test_two_storers_at_once(store: Store) -> None:
    """F-N3: a holder that does not know that it lost its lease stores nothing twice."""
    messages = [store.message(store.records(*({"eventId": f"{n}-{i}"} for i in range(50)))) for n in range(4)]
    await asyncio.gather(*(store.eat(*messages) for _ in range(4)))
    assert await store.counts() == (200, 200, 0, 0)


async def test_what_was_left_out_of_a_frame_is_told(store: Store) -> None:
    """By the ordinals of the frame, profile changes not counted; a frame that was stored whole has no row."""
    change = _core.profile_record(store.org.bytes, store.project.bytes, "u", NOW_MS, traits=b"{}")
    one = {"eventId": "a", "timestamp": "2026-05-01T00:00:00Z"}
    frames = [
        store.message(store.records(one, {})),
        store.message(store.records({}), change, store.records(one, {}, one)),
        store.message(store.records({})),
        store.message(record(store, event_type=random_text(9_000, 1)), store.records({}, one)),
    ]
    await store.eat(*frames[:3])
    await store.eat(*frames[2:])
    rows = await store.db.fetch("SELECT position, ordinals FROM event_skips ORDER BY position")
    assert [tuple(row) for row in rows] == [(2, [1, 3]), (4, [0, 2])]
    assert await store.counts() == (10, 6, 3, 1)


async def test_a_log_that_begins_again_leaves_nothing_of_the_old_one(store: Store) -> None:
    one = {"eventId": "a", "timestamp": "2026-05-01T00:00:00Z"}
    await store.eat(store.message(store.records(one, one)))
    await rewind(store.db, STORER)
    store.position = 0
    await store.eat(store.message(store.records({})))
    assert await store.db.fetchval("SELECT count(*) FROM event_skips") == 0


async def test_what_was_left_out_is_forgotten_with_the_log(store: Store) -> None:
    one = {"eventId": "a", "timestamp": "2026-05-01T00:00:00Z"}
    await store.eat(store.message(store.records(one, one)), store.message(store.records(one)))
    await store.db.execute("UPDATE event_skips SET at = now() - interval '74 hours' WHERE position = 1")
    await jobs.forget_skips(store.kernel)
    assert await store.db.fetchval("SELECT array_agg(position) FROM event_skips") == [2]


@pytest.mark.rule("C94")
async def test_a_row_that_postgres_refuses(store: Store) -> None:
    """F-I7, F-P6, C94: its neighbours are stored, it is kept byte for byte, with the reason and where it stood."""
    poison = [record(store, event_type=random_text(9_000, n)) for n in (1, 2)]
    frames = [
        store.message(store.records(*({"eventId": f"a{i}"} for i in range(40)))),
        store.message(store.records({"eventId": "b"}), poison[0], store.records({"eventId": "c"}), poison[1]),
        store.message(store.records(*({"eventId": f"d{i}"} for i in range(57)))),
    ]
    await store.eat(*frames)
    assert await store.counts() == (101, 99, 0, 2)
    rows = await store.db.fetch("SELECT project_id, position, record, reason FROM bad_rows ORDER BY id")
    assert [row["record"] for row in rows] == [part[4:] for part in poison]
    assert all(row["position"] == 2 and row["project_id"] == store.project for row in rows)
    assert all(row["reason"].startswith("54000: index row") for row in rows)
    await store.eat(*frames)
    assert await store.counts() == (101, 99, 0, 2)


async def test_a_frame_of_nothing_but_poison(store: Store) -> None:
    await store.eat(store.message(*(record(store, event_type=random_text(9_000, n)) for n in range(9))))
    assert await store.counts() == (9, 0, 0, 9)


async def test_a_row_that_came_in_between(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that appears between the question and the COPY goes through the temporary table, with poison beside it."""
    await store.eat(store.message(store.records({"eventId": "a", "timestamp": "2026-06-01T00:00:00Z"})))
    # The question is what races; a storer that hears "nothing known" is a storer that asked too early.
    monkeypatch.setattr("sendora.modules.events.store.known", nothing_known)
    twice = {"eventId": "a", "timestamp": "2026-06-01T00:00:00Z"}
    await store.eat(
        store.message(store.records(twice, {"eventId": "b"}), record(store, event_type=random_text(9_000, 3)))
    )
    assert await store.counts() == (4, 2, 1, 1)


async def nothing_known(connection: Any, keys: bytes) -> list[int]:
    return []


async def test_a_failed_batch_leaves_nothing(store: Store) -> None:
    """F-P2, F-P5: rows, counts and position are one transaction."""
    await store.db.execute("ALTER TABLE event_counts RENAME TO event_counts_gone")
    message = store.message(store.records({"eventId": "a"}))
    with pytest.raises(Exception, match="event_counts"):
        await store.eat(message)
    assert await store.db.fetchval("SELECT count(*) FROM events") == 0
    assert await reached(store.db, STORER) == 0
    await store.db.execute("ALTER TABLE event_counts_gone RENAME TO event_counts")
    await store.eat(message)
    assert await store.counts() == (1, 1, 0, 0)


async def test_a_broken_frame_is_an_error(store: Store) -> None:
    """A frame whose checksum is wrong is not stored in part."""
    message = store.message(store.records({"eventId": "a"}))
    flipped = bytes([*message.data[:-10], message.data[-10] ^ 1, *message.data[-9:]])
    with pytest.raises(ValueError, match="checksum"):
        await store.eat(Message("events.0", flipped, 1, 1))
    assert await store.db.fetchval("SELECT count(*) FROM events") == 0


async def test_profile_changes_are_no_events(store: Store) -> None:
    change = _core.profile_record(store.org.bytes, store.project.bytes, "u", NOW_MS, email="u@example.com")
    await store.eat(store.message(change))
    assert await store.db.fetchval("SELECT count(*) FROM event_counts") == 0
    await store.eat(store.message(change, store.records({}), change))
    assert await store.counts() == (1, 1, 0, 0)


async def test_events_of_all_months(store: Store) -> None:
    """Partitions are made on demand, backwards too, and a batch may need many."""
    stamps = [f"{year}-{month:02d}-28T12:00:00Z" for year in (2000, 2013, 2025) for month in range(1, 7)]
    await store.eat(store.message(store.records(*({"timestamp": stamp} for stamp in stamps))))
    assert await store.counts() == (18, 18, 0, 0)
    partitions = await store.db.fetchval("SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass")
    assert partitions == 18


@pytest.mark.parametrize("seed", range(4))
async def test_accounts_balance_whatever_comes(store: Store, seed: int) -> None:
    """C94: accepted = stored + duplicate + bad, over random mixes of retries, poison, redelivery and frames."""
    chance = random.Random(seed)
    tally: Counter[str] = Counter()
    seen: set[str] = set()
    sent: list[Message] = []
    for _ in range(12):
        parts: list[bytes] = []
        for _ in range(chance.randrange(1, 8)):
            if chance.random() < 0.15:
                parts.append(record(store, event_type=random_text(9_000, chance.randrange(10**9))))
                tally["bad"] += 1
                continue
            names = [f"id-{chance.randrange(60)}" for _ in range(chance.randrange(1, 30))]
            tally["duplicate"] += len(names) - len(set(names) - seen)
            tally["stored"] += len(set(names) - seen)
            seen.update(names)
            parts.append(store.records(*({"eventId": name, "timestamp": "2026-06-01T00:00:00Z"} for name in names)))
        sent.append(store.message(*parts))
        batch = [chance.choice(sent) for _ in range(chance.randrange(3))] if chance.random() < 0.5 else []
        await store.eat(*sorted([*batch, sent[-1]], key=lambda message: message.position))
    assert await store.counts() == (
        sum(tally.values()), tally["stored"], tally["duplicate"], tally["bad"],
    )  # fmt: skip


@pytest.mark.rule("C94")
async def test_the_same_batch_ten_times_at_once(api: Api, org: Org) -> None:
    """F-I5: through the API, concurrently: rows = distinct ids, and each answer is truthful."""
    body = {
        "events": [
            {"eventType": "e", "module": "m", "eventId": f"i{n}", "timestamp": "2026-05-05T05:05:05Z"}
            for n in range(100)
        ]
    }
    answers = await asyncio.gather(*(api.post("/events/batch", body, key=org.sk) for _ in range(10)))
    assert all(answer.data["accepted"] == 100 for answer in answers)
    last = max((answer.position for answer in answers), key=lambda text: int(text[2:]))
    counted = (await api.get("/events/accounting", key=org.sk, after=last)).data
    assert (counted["accepted"], counted["stored"], counted["duplicate"], counted["bad"]) == (1_000, 100, 900, 0)


async def test_the_account_is_a_projects_own(api: Api, make: Make) -> None:
    one, two = await make.org(), await make.org()
    await make.events(one, {"eventType": "e"})
    await make.events(two, {"eventType": "e"}, {"eventType": "e"})
    assert (await api.get("/events/accounting", key=one.sk)).data["stored"] == 1
    assert (await api.get("/events/accounting", key=two.sk)).data["stored"] == 2


async def test_bad_rows_are_forgotten_after_thirty_days(store: Store) -> None:
    """Design 6: what no erasure can find does not stay."""
    await store.eat(store.message(*(record(store, event_type=random_text(9_000, n)) for n in range(2))))
    await store.db.execute(
        "UPDATE bad_rows SET at = now() - interval '31 days' WHERE id = (SELECT min(id::text)::uuid FROM bad_rows)"
    )
    await jobs.forget_bad_rows(store.kernel)
    assert await store.db.fetchval("SELECT count(*) FROM bad_rows") == 1


async def test_partitions_are_made_ahead(store: Store) -> None:
    clock = FixedClock(datetime(2031, 12, 31, 23, tzinfo=UTC))
    await jobs.make_partitions(dataclasses.replace(store.kernel, clock=clock))
    made = {row[0] for row in await store.db.fetch("SELECT inhrelid::regclass::text FROM pg_inherits")}
    assert {"events_2031_12", "events_2032_01"} <= made
    assert month_of(clock.now()) == 2031 * 12 + 11


async def test_erase_and_export(api: Api, make: Make, org: Org, kernel: Kernel) -> None:
    """House, Module: one person's events, under the names that the person had before."""
    from sendora.modules import events

    assert events.module.erase is not None and events.module.export is not None
    await make.events(org, {"eventType": "before", "anonymousId": "anon"}, {"eventType": "other", "userId": "other"})
    await make.profile(org, "known", anonymousId="anon")
    await make.events(org, {"eventType": "after", "userId": "known", "properties": {"a": [1]}})
    told = [row async for row in events.module.export(kernel, org.id, org.project, "known")]
    assert sorted(row["eventType"] for row in told) == ["after", "before", "user.identified"]
    assert {"a": [1]} in [row["properties"] for row in told]
    await events.module.erase(kernel, org.id, org.project, "known")
    left = await kernel.db.fetch("SELECT event_type FROM events WHERE org_id = $1", org.id)
    assert [row["event_type"] for row in left] == ["other"]
    assert [row async for row in events.module.export(kernel, org.id, org.project, "known")] == []


def record(store: Store, *, event_type: str) -> bytes:
    return raw_record(store.org, store.project, NOW_MS, event_type=event_type)
