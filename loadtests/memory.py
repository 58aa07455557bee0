"""Memory of a million people in the audience index, beside DuckDB with the same people.

Each side is built in a process of its own from the same generator; what it holds is what the process has grown by when
everything that was only needed to build it is gone and the allocator has given back what it does not use. `duckdb`
holds people and their events, of which any rule can be answered, as ours can; `duckdb_wide` only the columns of R*.
"""

import gc
import multiprocessing
from collections.abc import Callable
from typing import Any, Final

import psutil

from loadtests import audience
from loadtests.crowd import Crowd
from loadtests.harness import QUICK
from loadtests.results import Sample, figure, publish

PEOPLE: Final = 1_000_000
ROUNDS: Final = 1 if QUICK else 3
GOAL_MB: Final = 120


def main(arguments: list[str]) -> None:
    people = int(arguments[0]) if arguments else PEOPLE
    samples: dict[str, list[Sample]] = {name: [] for name in SIDES}
    parts: dict[str, int] = {}
    for _ in range(ROUNDS):
        for name in SIDES:
            grown, found = _in_a_process(name, people)
            samples[name].append(Sample(grown / 1e6 * 1_000_000 / people, 0.0))
            parts = found or parts
    shares = ", ".join(f"{name} {size / 1e6 * 1_000_000 / people:.1f}" for name, size in parts.items() if size)
    publish(
        "memory",
        [
            figure(
                "memory.per_million",
                "MB a million people (4 traits, 10 events of 5 types each)",
                samples.pop("ours"),
                dict(samples),
                goal=GOAL_MB,
                stretch=64,
                goals={"duckdb": 2},
                same_answer=True,
                higher_is_better=False,
                note=f"growth of the process; of ours, by its own account: {shares}",
            )
        ],
    )


def _ours(crowd: Crowd) -> Any:
    return audience.build(crowd)


def _duckdb(crowd: Crowd) -> Any:
    connection = audience.connect()
    audience.make_wide(connection, crowd)
    connection.execute(
        "ALTER TABLE people DROP feature_used_at; ALTER TABLE people DROP churned_at;"
        " ALTER TABLE people DROP purchases_30d; CREATE TABLE kept AS SELECT * FROM people; DROP TABLE people"
    )
    audience.make_events(connection, crowd)
    return connection


def _duckdb_wide(crowd: Crowd) -> Any:
    connection = audience.connect()
    audience.make_wide(connection, crowd)
    return connection


SIDES: Final[dict[str, Callable[[Crowd], Any]]] = {"ours": _ours, "duckdb": _duckdb, "duckdb_wide": _duckdb_wide}


def _in_a_process(name: str, people: int) -> tuple[int, dict[str, int]]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, name, people))
    process.start()
    sender.close()
    try:
        grown, parts = receiver.recv()
        return int(grown), parts
    finally:
        process.join()


def _measure(sender: Any, name: str, people: int) -> None:
    SIDES[name](Crowd(1_000))  # what the libraries themselves take when they begin to work
    before = _resident()
    crowd = Crowd(people)
    held = SIDES[name](crowd)
    del crowd
    grown = _resident() - before
    sender.send((grown, held.memory() if name == "ours" else {}))


def _resident() -> int:
    gc.collect()
    audience.trim()
    return int(psutil.Process().memory_info().rss)
