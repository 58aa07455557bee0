"""HMAC-SHA256 of webhook bodies beside `hmac.digest`: 350 bytes each, one key, a list in and a list out.

`hmac.digest` is the fastest that the standard library has: one call into OpenSSL. QUICK=1 takes a tenth.
"""

import hmac
from typing import Final

from loadtests.batch import beside
from loadtests.harness import QUICK
from loadtests.results import publish
from sendora import _core

ROUNDS: Final = 5
BODIES: Final = 50_000 if QUICK else 500_000
BYTES: Final = 350
KEY: Final = bytes(range(32))


def main(_: list[str]) -> None:
    bodies = [b"%0*d" % (BYTES, number) for number in range(BODIES)]
    row = beside(
        "sign.350b",
        "signatures/s",
        f"{BODIES:,} bodies of {BYTES} bytes",
        n=BODIES,
        rounds=ROUNDS,
        ours=lambda engine=None: _core.hmac_sha256(KEY, bodies, engine),
        peer=("hmac", lambda: [hmac.digest(KEY, body, "sha256") for body in bodies]),
        goal=4,
        stretch=10,
    )
    publish("sign", [row])
