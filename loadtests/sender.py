"""What sends to the simulator in a process of its own, so that its CPU time is its alone.

A benchmark starts itself as `loadtests.bench NAME sender ...` with `run`; what it sends there stands under `told`.
Ours is `carry`: what a worker does with a chunk, without the reading of it and the ledger.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from loadtests.harness import output
from loadtests.letters import Letters
from loadtests.results import Sample
from sendora import _core
from sendora.cluster import Cluster
from sendora.delivery.phases import CHUNK_SIZE
from sendora.kernel.clock import SystemClock, millis

MINTED_MAX: Final = 10_000
"""Tokens that the simulator mints at a time."""

CONNECTIONS: Final = 4
STREAMS: Final = 1_000
"""What the simulator allows, as APNs does: with a long round trip they are the limit."""

OPEN_S: Final = 600.0
"""Longer than any run: nothing here closes a gate."""

WARM: Final = 100
"""Sends of each process before its clock runs: its connections stand, and the lane knows that its proof is good."""


class Sent(msgspec.Struct, frozen=True):
    """What a sender says of itself."""

    sends: int
    seconds: float
    cpu_us: float


def together(sent: Sequence[Sent]) -> Sample:
    """Sends a second of all processes of one run, and CPU time for each. Their clocks run side by side, and where one
    runs alone for a moment it is the faster for it."""
    sends = sum(one.sends for one in sent)
    return Sample(sum(one.sends / one.seconds for one in sent), sum(one.cpu_us for one in sent) / sends)


async def run(name: str, *arguments: str) -> Sent:
    said = await output(sys.executable, "-m", "loadtests.bench", name, "sender", *arguments)
    return msgspec.json.decode(said.splitlines()[0], type=Sent)


@contextmanager
def told(sends: int) -> Iterator[None]:
    """The block sends so many; prints what `run` reads. All threads of the process count."""
    began, used = time.perf_counter(), time.process_time()
    yield
    sent = Sent(sends, time.perf_counter() - began, (time.process_time() - used) * 1e6)
    print(msgspec.json.encode(sent).decode())


async def mint(cluster: Cluster, transport: str, names: Sequence[str]) -> list[Any]:
    """A token or a subscription for each name, such as `ok-1`."""
    minted: list[Any] = []
    for low in range(0, len(names), MINTED_MAX):
        asked = {"transport": transport, "tokens": names[low : low + MINTED_MAX]}
        minted += (await cluster.ask_simulator("POST", "/_/mint", asked))["tokens"]
    return minted


def open_lanes(url: str, ca_file: str) -> tuple[_core.Lanes, asyncio.Event]:
    """Lanes to the simulator, and what is set when something can be drained."""
    host, _, port = url.removeprefix("https://").rpartition(":")
    config = {"connections": CONNECTIONS, "streams": STREAMS, "caFiles": [ca_file], "exempt": [[host, int(port)]]}
    lanes = _core.Lanes(json.dumps(config))
    heard = asyncio.Event()
    asyncio.get_running_loop().add_reader(lanes.fileno(), heard.set)
    return lanes, heard


async def carry(letters: Letters, numbers: range, *, url: str, ca_file: str, flights: int) -> None:
    """Ours: a chunk is decided on, rendered and sent as one shipment, so many are under way at a time, and outcomes are
    taken in batches."""
    lanes, heard = open_lanes(url, ca_file)
    flying: dict[int, _core.Shipment] = {}

    async def ship(seq: int, rows: bytes) -> None:
        chunk = (letters.org.bytes, letters.send.bytes, 0, seq, 1, 1, 0, False)
        terms = (False, letters.planned_ms, letters.expires_ms, 0)
        now_ms = millis(SystemClock().now())
        made = await asyncio.to_thread(
            _core.Shipment, lanes, letters.note, letters.wire, rows, None, chunk, terms, "bulk", now_ms
        )
        flying[made.number] = made
        made.deadline(OPEN_S)
        made.admit(made.waiting())

    async def all_of(chunks: Sequence[bytes]) -> None:
        left = list(enumerate(chunks))[::-1]
        while left or flying:
            while left and len(flying) < flights:
                await ship(*left.pop())
            await heard.wait()
            heard.clear()
            # Once, however often it was rung for, and not after its end.
            for number in flying.keys() & {number for number, _ in lanes.drain()}:
                outcomes, _, _, unsettled, _ = flying[number].take()
                if any(state != "accepted" for state, _, _ in outcomes.counts()):
                    raise RuntimeError(f"not accepted: {outcomes.counts()}")
                if not unsettled:
                    del flying[number]

    warm, rest = numbers[:WARM], numbers[WARM:]
    await all_of([letters.rows(warm.start, warm.stop)])
    chunks = [letters.rows(low, min(low + CHUNK_SIZE, rest.stop)) for low in range(rest.start, rest.stop, CHUNK_SIZE)]
    with told(len(rest)):
        await all_of(chunks)
    lanes.close()
