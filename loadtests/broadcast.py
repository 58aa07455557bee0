"""A broadcast to a million devices, from the call to the last outcome in Postgres, everything on this machine.

60 % FCM and 40 % APNs. Beside it the program `peers/apns2` (the sender of gorush, see there) is fed a list of as many
APNs tokens and keeps no record of anything. The simulator's log says whether everybody got exactly one push.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from loadtests.fleet import Fleet, fleet
from loadtests.peers import gorush
from loadtests.results import Figure, Sample, figure, publish

DEVICES: Final = 1_000_000
QUICK_DEVICES: Final = 100_000
ROUNDS: Final = 2
WITHIN_S: Final = 600.0


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="broadcast")
    parser.add_argument("--devices", type=int, default=DEVICES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="sendora-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        publish("broadcast", asyncio.run(_measure(folder, options.devices, options.rounds)))


async def _measure(folder: Path, devices: int, rounds: int) -> list[Figure]:
    ours: list[Sample] = []
    firsts: list[Sample] = []
    peers: list[Sample] = []
    honest = True
    async with fleet(folder, devices) as cluster:
        for _ in range(rounds):
            sample, first, exact = await _ours(cluster, devices)
            ours.append(sample)
            firsts.append(first)
            honest &= exact
            peer = await gorush.run(cluster.cluster, devices)
            if peer is not None:
                peers.append(Sample(peer.seconds, peer.cpu_us_per_push))
    named = {"gorush": peers} if peers else {}
    return [
        figure(
            "broadcast.total",
            f"s for {devices:,} devices, call to last outcome durable",
            ours,
            named,
            goal=40 * devices / DEVICES,
            same_answer=honest,
            higher_is_better=False,
            note=f"CPU of the whole cluster without the simulator; {gorush.NOTE}",
        ),
        figure(
            "broadcast.first",
            "ms from the call to the first push at the provider",
            firsts,
            {},
            goal=500,
            same_answer=honest,
            higher_is_better=False,
        ),
    ]


async def _ours(cluster: Fleet, devices: int) -> tuple[Sample, Sample, bool]:
    before = cluster.cpu_s()
    began = time.time()
    send = await cluster.broadcast()
    ended = await cluster.settled(send, WITHIN_S)
    after = cluster.cpu_s()
    used = {name: after[name] - before.get(name, 0.0) for name in after}
    print(json.dumps({"seconds": round(ended - began, 2), "cpu_s": {k: round(v, 2) for k, v in used.items()}}))
    first, exact = await _check(cluster, send, devices)
    sender = sum(spent for name, spent in used.items() if name != "simulator")
    cpu_us = sender * 1e6 / devices
    return Sample(ended - began, cpu_us), Sample(first - began * 1_000, cpu_us), exact


async def _check(cluster: Fleet, send: Any, devices: int) -> tuple[float, bool]:
    """The instant of the first push in ms, and whether each device was asked once and the balance says the same."""
    first = float("inf")
    seen: Counter[str] = Counter()
    for request in await cluster.requests({str(send)}):
        first = min(first, request.at)
        seen[request.token] += 1
    row = await cluster.call("GET", f"/push/sends/{send}/reconciliation")
    exact = len(seen) == sum(seen.values()) == devices == row["accepted"] == row["targeted"]
    if not exact:
        print(f"{len(seen)} devices in {sum(seen.values())} requests; the ledger says {row}")
    return first, exact
