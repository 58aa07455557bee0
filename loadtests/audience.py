"""Audience evaluation beside columnar engines and Postgres: the rule R* over a million and over ten million people.

Every engine holds the same people and events and answers the same question with the same meaning; the answers are
compared as sorted id lists before anything is timed. What is timed is the count, on two threads everywhere, one engine
after the other and over again. The peers are tuned where it costs them nothing: DuckDB's and Polars' wide tables hold
enumerations, the last sight of both events and, for exactly this window, the number of purchases (ours answers any
window). `duckdb_join` and `postgres` evaluate the rule over the events themselves, as the naive design does.

`audience.visible`: 50,000 changes of a trait a second in frames of 10 ms, while another thread evaluates R* over and
over: from a frame's turn to the end of the first evaluation that was begun with it.
"""

import asyncio
import ctypes
import hashlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median_high
from typing import Any, Final
from uuid import UUID

import asyncpg
import duckdb
import polars as pl
import pyarrow as pa

from loadtests.crowd import (
    COUNTRIES,
    DAYS_30_S,
    LOCALES,
    NOW_S,
    PLANS,
    RULE,
    TAGS,
    TYPES,
    WINDOW_30D_S,
    WINDOW_90D_S,
    Crowd,
)  # fmt: skip
from loadtests.harness import QUICK
from loadtests.results import Figure, Sample, figure, publish
from sendora import _core
from sendora.kernel.embedded import Embedded
from sendora.kernel.pg import copy_in

THREADS: Final = 2
ROUNDS: Final = 7
TURN_S: Final = 0.2
SLOW_ROUNDS: Final = 3
"""Of engines that take seconds."""
NOW_MS: Final = NOW_S * 1_000
ORG, PROJECT = UUID(int=1).bytes, UUID(int=2).bytes

VISIBLE_RATE: Final = 50_000
VISIBLE_FRAME_S: Final = 0.01
VISIBLE_SECONDS: Final = 5
VISIBLE_ROUNDS: Final = 3

Ask = Callable[[], int]
Ids = Callable[[], list[str]]


class Engine:
    """How to count, and who is counted."""

    def __init__(self, count: Ask, ids: Ids, rounds: int = ROUNDS) -> None:
        self.count = count
        self.ids = ids
        self.rounds = rounds
        self.samples: list[Sample] = []

    def time(self) -> None:
        """One turn: counts for a fifth of a second, at least one; their mean."""
        began, before, counts = time.perf_counter(), time.process_time(), 0
        while counts == 0 or time.perf_counter() - began < TURN_S:
            self.count()
            counts += 1
        seconds, cpu = time.perf_counter() - began, time.process_time() - before
        self.samples.append(Sample(seconds * 1_000 / counts, cpu * 1e6 / counts))


def main(arguments: list[str]) -> None:
    """Arguments: numbers of people; without any, a million and ten million (QUICK=1: a million)."""
    sizes = [int(one) for one in arguments] or ([1_000_000] if QUICK else [1_000_000, 10_000_000])
    figures: list[Figure] = []
    for people in sizes:
        figures += _compare(people)
    figures.append(_visible(sizes[0]))
    publish("audience", figures)


def _compare(people: int) -> list[Figure]:
    crowd = Crowd(people)
    began = time.perf_counter()
    index = build(crowd)
    loaded_s = time.perf_counter() - began
    print(f"{people:,} people and {people * 10:,} events indexed in {loaded_s:.1f} s", file=sys.stderr)
    engines = {"ours": _ours(index), **_duckdb(crowd), "polars": _polars(crowd)}
    with tempfile.TemporaryDirectory(prefix="sendora-bench-") as name:
        embedded = None
        if people <= 1_000_000:
            Path(name).chmod(0o755)
            embedded = Embedded(Path(name))
            embedded.start()
            engines["postgres"] = asyncio.run(_postgres(embedded, crowd))
        try:
            answers = {engine: _digest(one.ids()) for engine, one in engines.items()}
            same = len(set(answers.values())) == 1
            members = engines["ours"].count()
            print(f"{members:,} members; the same people in all engines: {same}", file=sys.stderr)
            for one in engines.values():
                one.count()
            for turn in range(ROUNDS):
                for one in engines.values():
                    if turn < one.rounds:
                        one.time()
        finally:
            if embedded is not None:
                embedded.stop()
    ours = engines.pop("ours")
    saved_s, opened_s, size = _snapshot(index)
    label = f"{people // 1_000_000}m"
    note = (
        f"R* holds for {members:,}; goals: 5x duckdb_wide, 50x duckdb_join, 3x polars, 500x postgres"
        f"{', 40 ms' if people >= 10_000_000 else ''}; {people * 10:,} events; snapshot of {size / 1e6:,.0f} MB written"
        f" in {saved_s:.1f} s, opened in {opened_s:.1f} s; {_load()}"
    )
    return [
        figure(
            f"audience.{label}",
            "ms for the exact count of R*",
            ours.samples,
            {name: one.samples for name, one in engines.items()},
            goal=40 if people >= 10_000_000 else None,
            stretch=12 if people >= 10_000_000 else None,
            goals={name: GOALS[name][0] for name in engines},
            stretches={name: GOALS[name][1] for name in engines},
            same_answer=same,
            higher_is_better=False,
            note=note,
        )
    ]


GOALS: Final = {"duckdb_wide": (5, 12), "duckdb_join": (50, 300), "polars": (3, 10), "postgres": (500, 5_000)}
"""How many times better, and the stretch."""


def _load() -> str:
    """Of a busy machine, long runs suffer more than short ones."""
    return f"load average of the machine {os.getloadavg()[1]:.1f}"


def _digest(ids: list[str]) -> str:
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


# -- the engines -----------------------------------------------------------------------------------------------------


def build(crowd: Crowd) -> _core.Index:
    index = _core.Index()
    for chunk in crowd.people_rows():
        index.load_people(chunk)
    for chunk in crowd.event_rows():
        index.load_events(chunk)
    index.loaded(0)
    return index


def _ours(index: _core.Index) -> Engine:
    rule = _core.Rule(RULE)

    def ids() -> list[str]:
        members = index.ask(rule, NOW_MS).members()
        return [members[at + 6 : at + 16].decode() for at in range(19, len(members) - 2, 16)]

    return Engine(lambda: index.ask(rule, NOW_MS).count, ids)


def wide(crowd: Crowd) -> dict[str, Any]:
    """One column for each leaf."""
    tags = pa.array([list(tags) for tags in TAGS], pa.list_(pa.string()))
    return {
        "id": names(crowd),
        "plan": _enum(crowd.plan, PLANS),
        "country": _enum(crowd.country, COUNTRIES),
        "locale": _enum(crowd.locale, LOCALES),
        "tag": tags.take(pa.array(crowd.tag)),
        "feature_used_at": pa.array(crowd.last("feature_used")),
        "churned_at": pa.array(crowd.last("churned")),
        "purchases_30d": pa.array(crowd.count_since("purchase", DAYS_30_S)),
    }


def names(crowd: Crowd) -> pa.Array:
    data = crowd.names(0, crowd.people).reshape(-1)
    return (
        pa.Array.from_buffers(pa.binary(10), crowd.people, [None, pa.py_buffer(data)])
        .cast(pa.binary())
        .cast(pa.string())
    )


def _enum(codes: Any, values: Any) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(list(values)))


WIDE: Final = f"""
  FROM people
 WHERE plan = 'pro' AND country IN ('US', 'CA') AND (locale = 'en' OR list_contains(tag, 'vip'))
   AND feature_used_at >= {WINDOW_30D_S} AND NOT churned_at >= {WINDOW_90D_S} AND purchases_30d >= 3"""

JOIN: Final = f"""
  FROM people p
 WHERE plan = 'pro' AND country IN ('US', 'CA') AND (locale = 'en' OR list_contains(tag, 'vip'))
   AND EXISTS (SELECT 1 FROM events e WHERE e.person = p.row AND type = 'feature_used' AND second >= {WINDOW_30D_S})
   AND NOT EXISTS (SELECT 1 FROM events e WHERE e.person = p.row AND type = 'churned' AND second >= {WINDOW_90D_S})
   AND (SELECT count(*) FROM events e WHERE e.person = p.row AND type = 'purchase' AND second >= {DAYS_30_S}) >= 3"""


def make_wide(connection: duckdb.DuckDBPyConnection, crowd: Crowd) -> None:
    given = pa.table(wide(crowd))
    connection.register("given", given)
    for name, values in (("plan", PLANS), ("country", COUNTRIES), ("locale", LOCALES)):
        connection.execute(f"CREATE TYPE {name}_name AS ENUM ({', '.join(repr(value) for value in values)})")
    connection.execute(
        "CREATE TABLE people AS SELECT id, (row_number() OVER () - 1)::INTEGER AS row, plan::plan_name AS plan,"
        " country::country_name AS country, locale::locale_name AS locale, tag, feature_used_at, churned_at,"
        " purchases_30d FROM given"
    )
    connection.unregister("given")


def make_events(connection: duckdb.DuckDBPyConnection, crowd: Crowd) -> None:
    connection.execute(f"CREATE TYPE type_name AS ENUM ({', '.join(repr(value) for value in TYPES)})")
    connection.execute("CREATE TABLE events (person INTEGER, type type_name, second UINTEGER)")
    for types, seconds in zip(crowd.types, crowd.seconds, strict=True):
        given = pa.table({"type": _enum(types, TYPES), "second": pa.array(seconds)})
        connection.register("given", given)
        connection.execute(
            "INSERT INTO events SELECT (row_number() OVER () - 1)::INTEGER, type::type_name, second FROM given"
        )
        connection.unregister("given")


def connect() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": THREADS})


def _duckdb(crowd: Crowd) -> dict[str, Engine]:
    connection = connect()
    make_wide(connection, crowd)
    make_events(connection, crowd)

    def engine(query: str, rounds: int) -> Engine:
        def count() -> int:
            row = connection.execute(f"SELECT count(*) {query}").fetchone()
            assert row is not None
            return int(row[0])

        def ids() -> list[str]:
            return [row[0] for row in connection.execute(f"SELECT id {query} ORDER BY id").fetchall()]

        return Engine(count, ids, rounds)

    return {"duckdb_wide": engine(WIDE, ROUNDS), "duckdb_join": engine(JOIN, SLOW_ROUNDS)}


def _polars(crowd: Crowd) -> Engine:
    frame = pl.DataFrame(
        {name: pl.from_arrow(column) for name, column in wide(crowd).items() if isinstance(column, pa.Array)}
    ).with_columns(
        plan=pl.col("plan").cast(pl.Enum(list(PLANS))),
        country=pl.col("country").cast(pl.Enum(list(COUNTRIES))),
        locale=pl.col("locale").cast(pl.Enum(list(LOCALES))),
    )
    held = frame.lazy().filter(
        (pl.col("plan") == "pro")
        & ((pl.col("country") == "US") | (pl.col("country") == "CA"))
        & ((pl.col("locale") == "en") | pl.col("tag").list.contains("vip"))
        & (pl.col("feature_used_at") >= WINDOW_30D_S)
        & ~(pl.col("churned_at") >= WINDOW_90D_S)
        & (pl.col("purchases_30d") >= 3)
    )
    return Engine(
        lambda: int(held.select(pl.len()).collect().item()),
        lambda: held.select(pl.col("id").sort()).collect()["id"].to_list(),
    )


POSTGRES: Final = """
  FROM profiles p
 WHERE traits->>'plan' = 'pro' AND traits->>'country' IN ('US', 'CA')
   AND (traits->>'locale' = 'en' OR traits->'tag' ? 'vip')
   AND EXISTS (SELECT FROM events WHERE person = external_id AND event_type = 'feature_used' AND occurred_at >= $1)
   AND NOT EXISTS (SELECT FROM events WHERE person = external_id AND event_type = 'churned' AND occurred_at >= $2)
   AND (SELECT count(*) FROM events
         WHERE person = external_id AND event_type = 'purchase' AND occurred_at >= $3) >= 3"""


async def _postgres(embedded: Embedded, crowd: Crowd) -> Engine:
    """Traits as jsonb, events as rows, and the index that serves this query best."""
    url = embedded.postgres_url()
    connection = await asyncpg.connect(url)
    await connection.execute(
        "CREATE UNLOGGED TABLE profiles (external_id text PRIMARY KEY, email text, traits jsonb NOT NULL,"
        " lifecycle text, merged_into text);"
        "CREATE UNLOGGED TABLE events (person text NOT NULL, event_type text NOT NULL,"
        " occurred_at timestamptz NOT NULL, properties jsonb)"
    )
    columns = ["external_id", "email", "traits", "lifecycle", "merged_into"]
    await copy_in(connection, "profiles", columns, b"".join(crowd.people_rows()))
    await copy_in(
        connection, "events", ["person", "event_type", "occurred_at", "properties"], b"".join(crowd.event_rows())
    )
    await connection.execute("CREATE INDEX ON events (person, event_type, occurred_at)")
    await connection.execute("VACUUM ANALYZE")
    await connection.close()
    since = [_instant(second) for second in (WINDOW_30D_S, WINDOW_90D_S, DAYS_30_S)]

    async def ask(what: str, order: str = "") -> list[Any]:
        connection = await asyncpg.connect(url)
        try:
            return list(await connection.fetch(f"SELECT {what} {POSTGRES} {order}", *since, timeout=600))
        finally:
            await connection.close()

    return Engine(
        lambda: int(asyncio.run(ask("count(*)"))[0][0]),
        lambda: [row[0] for row in asyncio.run(ask("external_id", 'ORDER BY external_id COLLATE "C"'))],
        SLOW_ROUNDS,
    )


def _instant(second: int) -> Any:
    from sendora.kernel.clock import from_millis

    return from_millis(second * 1_000)


# -- snapshots and freshness -----------------------------------------------------------------------------------------


def _snapshot(index: _core.Index) -> tuple[float, float, int]:
    with tempfile.TemporaryDirectory(prefix="sendora-bench-") as name:
        path = Path(name) / "index"
        began = time.perf_counter()
        index.save(str(path))
        saved = time.perf_counter()
        opened = _core.Index.open(str(path))
        ended = time.perf_counter()
        assert len(opened) == len(index)
        return saved - began, ended - saved, path.stat().st_size


def _visible(people: int) -> Figure:
    index = build(Crowd(people))
    per_frame = round(VISIBLE_RATE * VISIBLE_FRAME_S)
    plans = [b'{"plan":"%s"}' % plan.encode() for plan in PLANS]
    frames: list[bytes] = []
    for number in range(round(VISIBLE_SECONDS / VISIBLE_FRAME_S)):
        records = [
            _core.profile_record(
                ORG, PROJECT, f"u{(number * per_frame + n) * 7_919 % people:09}", NOW_MS, traits=plans[n % len(plans)]
            )
            for n in range(per_frame)
        ]
        frames.append(_core.frame(records))
    rounds = [_watch(index, frames, per_frame) for _ in range(VISIBLE_ROUNDS)]
    changes = len(frames) * per_frame
    _, *others = zip(*rounds, strict=True)
    median, worst, asked = (median_high(of_round) for of_round in others)
    return figure(
        "audience.visible",
        "ms until a change of a trait is in an evaluation, p99",
        [one[0] for one in rounds],
        {},
        goal=200,
        stretch=50,
        same_answer=True,
        higher_is_better=False,
        note=(
            f"{changes:,} changes at {VISIBLE_RATE:,} a second over {people:,} people, {asked:,} evaluations beside"
            f" them; median {median:.1f} ms, worst {worst:.1f} ms; from a frame's turn, so without the log's hop;"
            f" {_load()}"
        ),
    )


def _watch(index: _core.Index, frames: list[bytes], per_frame: int) -> tuple[Sample, float, float, int]:
    """(p99 with the processor time of a change, median, worst, evaluations)."""
    rule, first = _core.Rule(RULE), index.position
    turns: list[float] = []
    done = threading.Event()

    def feed() -> None:
        began = time.perf_counter()
        for number, frame in enumerate(frames):
            turn = began + number * VISIBLE_FRAME_S
            while (wait := turn - time.perf_counter()) > 0:
                time.sleep(wait)
            turns.append(turn)
            index.apply(PROJECT, [frame], [first + number + 1], [[]])
        done.set()

    feeder = threading.Thread(target=feed)
    before = time.process_time()
    feeder.start()
    waits: list[float] = []
    seen = asked = 0
    while seen < len(frames):
        position = index.position - first
        index.ask(rule, NOW_MS)
        asked += 1
        now = time.perf_counter()
        waits += [(now - turn) * 1_000 for turn in turns[seen:position]]
        seen = position
        if not done.is_set():
            time.sleep(0.001)
    feeder.join()
    cpu = time.process_time() - before
    waits.sort()
    p99 = Sample(waits[int(0.99 * len(waits))], cpu * 1e6 / (len(frames) * per_frame))
    return p99, waits[len(waits) // 2], waits[-1], asked


def trim() -> None:
    """Give freed memory back, so that what is left is what is held."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
