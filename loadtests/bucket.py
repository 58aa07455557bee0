"""A/B buckets of ten million people beside a `hashlib` loop: the same list of strings in, the same bytes out.

Both sides get Python strings and their time counts everything, ours also the reading of them. The loop is what a
service would write: one digest for each person, its integer mod 100. QUICK=1 takes half a million.
"""

import hashlib
import os
import time
from collections.abc import Callable
from typing import Final, TypeVar
from uuid import UUID

from loadtests.results import Sample, figure, publish
from sendora import _core

ROUNDS: Final = 3
PEOPLE: Final = 500_000 if os.environ.get("QUICK") else 10_000_000
TEST: Final = str(UUID(int=0x0198_F3A0_0000_7000_8000_0000_0000_0001))

T = TypeVar("T")


def main(_: list[str]) -> None:
    # Ids of 36 characters as SDKs make them: with the test's id 72 bytes, two blocks of SHA-256.
    people = [str(UUID(int=(number * 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835) % 2**128)) for number in range(PEOPLE)]
    ours: list[Sample] = []
    loop: list[Sample] = []
    same = True
    for _round in range(ROUNDS):
        mine, sample = timed(lambda: _core.buckets(TEST, people), PEOPLE)
        ours.append(sample)
        theirs, sample = timed(lambda: by_hashlib(people), PEOPLE)
        loop.append(sample)
        same = same and mine == theirs
    each = ", ".join(
        f"{engine} {timed(lambda engine=engine: _core.buckets(TEST, people, engine), PEOPLE)[1].figure / 1e6:.1f}M"
        for engine in _core.hash_engines()
    )
    row = figure(
        "bucket.10m",
        "buckets/s",
        ours,
        {"hashlib": loop},
        goal=None,
        goals={"hashlib": 10},
        stretches={"hashlib": 25},
        same_answer=same,
        note=f"{PEOPLE:,} ids, two blocks each, on {os.cpu_count()} cores against one; {each}",
    )
    publish("bucket", [row])


def by_hashlib(people: list[str]) -> bytes:
    sha256, test = hashlib.sha256, TEST
    return bytes([int.from_bytes(sha256((test + person).encode()).digest(), "big") % 100 for person in people])


def timed(work: Callable[[], T], n: int) -> tuple[T, Sample]:
    """What it gave; operations a second and CPU time for each."""
    began, cpu = time.perf_counter(), time.process_time()
    answer = work()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return answer, Sample(n / seconds, cpu / n * 1e6)
