"""HMAC-SHA256 of webhook bodies beside `hmac.digest`: 350 bytes each, one key, a list in and a list out.

`hmac.digest` is the fastest that the standard library has: one call into OpenSSL. QUICK=1 takes a tenth.
"""

import hmac
import os
from typing import Final

from loadtests.bucket import timed
from loadtests.results import Sample, figure, publish
from sendora import _core

ROUNDS: Final = 5
BODIES: Final = 50_000 if os.environ.get("QUICK") else 500_000
BYTES: Final = 350
KEY: Final = bytes(range(32))


def main(_: list[str]) -> None:
    bodies = [b"%0350d" % number for number in range(BODIES)]
    ours: list[Sample] = []
    library: list[Sample] = []
    same = True
    for _round in range(ROUNDS):
        mine, sample = timed(lambda: _core.hmac_sha256(KEY, bodies), BODIES)
        ours.append(sample)
        theirs, sample = timed(lambda: [hmac.digest(KEY, body, "sha256") for body in bodies], BODIES)
        library.append(sample)
        same = same and mine == theirs
    each = ", ".join(
        f"{engine} {timed(lambda engine=engine: _core.hmac_sha256(KEY, bodies, engine), BODIES)[1].figure / 1e6:.2f}M"
        for engine in _core.hash_engines()
    )
    row = figure(
        "sign.350b",
        "signatures/s",
        ours,
        {"hmac": library},
        goal=None,
        goals={"hmac": 4},
        stretches={"hmac": 10},
        same_answer=same,
        note=f"{BODIES:,} bodies of {BYTES} bytes, on {os.cpu_count()} cores against one; {each}",
    )
    publish("sign", [row])
