"""A broadcast to a million devices, from the call to the last outcome in Postgres, everything on two cores.

60 % FCM and 40 % APNs. Beside it, in turn, the program `peers/apns2` (the sender of gorush, see there) is fed a list
of as many APNs tokens and keeps no record of anything. The answer is right when the simulator's log has each device
exactly once and the reconciliation balances at the same number.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final
from uuid import UUID

from loadtests.fleet import Fleet, fleet
from loadtests.harness import QUICK, on_two_cores
from loadtests.peers import gorush
from loadtests.results import Figure, Sample, figure, publish

FULL: Final = 1_000_000
"""What the goals are for."""

DEVICES: Final = 100_000 if QUICK else FULL
ROUNDS: Final = 1 if QUICK else 3
WITHIN_S: Final = 900.0

GOAL_S: Final = 40.0
STRETCH_S: Final = 14.0
GOAL_FIRST_MS: Final = 500.0


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="broadcast")
    parser.add_argument("--devices", type=int, default=DEVICES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    on_two_cores()
    with tempfile.TemporaryDirectory(prefix="sendora-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        publish("broadcast", asyncio.run(_measure(folder, options.devices, options.rounds)))


async def _measure(folder: Path, devices: int, rounds: int) -> list[Figure]:
    ours: list[Sample] = []
    firsts: list[Sample] = []
    peers: list[Sample] = []
    honest = True
    async with fleet(folder, devices) as (tenant,):
        for _ in range(rounds):
            sample, first, exact = await _ours(tenant, devices)
            ours.append(sample)
            firsts.append(first)
            honest &= exact
            peer = await gorush.run(tenant.cluster, devices)
            if peer is not None:
                peers.append(Sample(peer.seconds, peer.cpu_us_per_push))
    part = devices / FULL
    scaled = "" if part == 1 else f"; the goal is {GOAL_S:g} s for a million, by the device"
    return [
        figure(
            "broadcast.total",
            f"s for {devices:,} devices, call to last outcome durable",
            ours,
            {"gorush": peers},
            goal=GOAL_S * part,
            stretch=STRETCH_S * part,
            same_answer=honest,
            higher_is_better=False,
            note=f"CPU is that of the whole cluster without the simulator, for each device; {gorush.NOTE}{scaled}",
        ),
        figure(
            "broadcast.first",
            f"ms from the call to the first push at the provider, {devices:,} devices",
            firsts,
            {},
            goal=GOAL_FIRST_MS,
            same_answer=honest,
            higher_is_better=False,
        ),
    ]


async def _ours(tenant: Fleet, devices: int) -> tuple[Sample, Sample, bool]:
    before = tenant.cpu_s()
    began = time.time()
    send = await tenant.broadcast()
    ended = await tenant.settled(send, within_s=WITHIN_S)
    after = tenant.cpu_s()
    used = {name: after[name] - before.get(name, 0.0) for name in after}
    print(json.dumps({"seconds": round(ended - began, 2), "cpu_s": {k: round(v, 2) for k, v in used.items()}}))
    first_ms, exact = await _check(tenant, send, devices)
    cpu_us = sum(spent for name, spent in used.items() if name != "simulator") * 1e6 / devices
    return Sample(ended - began, cpu_us), Sample(first_ms - began * 1_000, 0.0), exact


async def _check(tenant: Fleet, send: UUID, devices: int) -> tuple[float, bool]:
    """The instant of the first push in ms, and whether each device was asked once and the balance says the same."""
    first = float("inf")
    seen: Counter[str] = Counter()
    for request in await tenant.requests({str(send)}):
        first = min(first, request.at)
        seen[request.token] += 1
    balance = await tenant.balance(send)
    exact = len(seen) == sum(seen.values()) == devices == balance["accepted"] == balance["targeted"]
    if not exact:
        print(f"{len(seen)} devices in {sum(seen.values())} requests; the ledger says {balance}")
    return first, exact
