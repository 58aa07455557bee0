"""A/B buckets of ten million people beside a `hashlib` loop: the same list of strings in, the same bytes out.

Both sides get Python strings and their time counts everything, ours also the reading of them. The loop is what a
service would write: one digest for each person, its integer mod 100. QUICK=1 takes half a million.
"""

import hashlib
from typing import Final
from uuid import UUID

from loadtests.batch import beside
from loadtests.harness import QUICK
from loadtests.results import publish
from sendora import _core

ROUNDS: Final = 3
PEOPLE: Final = 500_000 if QUICK else 10_000_000
TEST: Final = str(UUID(int=0x0198_F3A0_0000_7000_8000_0000_0000_0001))


def main(_: list[str]) -> None:
    # Ids of 36 characters as SDKs make them: with the test's id 72 bytes, two blocks of SHA-256.
    people = [str(UUID(int=(number * 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835) % 2**128)) for number in range(PEOPLE)]
    row = beside(
        "bucket.10m",
        "buckets/s",
        f"{PEOPLE:,} ids, two blocks each",
        n=PEOPLE,
        rounds=ROUNDS,
        ours=lambda engine=None: _core.buckets(TEST, people, engine),
        peer=("hashlib", lambda: by_hashlib(people)),
        goal=10,
        stretch=25,
    )
    publish("bucket", [row])


def by_hashlib(people: list[str]) -> bytes:
    sha256, test = hashlib.sha256, TEST
    return bytes([int.from_bytes(sha256((test + person).encode()).digest(), "big") % 100 for person in people])
