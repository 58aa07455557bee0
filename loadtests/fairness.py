"""What others feel of a running broadcast: a transactional send, and a second tenant's own broadcast.

Each transactional send is a `POST /push/send` to one person, one after another. It ends at the instant at which the
simulator had the request, as its log says (ms), and begins before the call, so the API, the plan, the wake, the
decision and the wire are all in it. The second tenant's broadcast is a tenth of the first one's; with turns by deficit
it gets half of the service while both run, so it takes twice as long as alone, however large the other one is.
"""

import argparse
import asyncio
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final
from uuid import UUID

from loadtests.fleet import Fleet, fleet
from loadtests.harness import QUICK, on_two_cores
from loadtests.results import Figure, Sample, figure, publish

DEVICES: Final = 200_000 if QUICK else 1_000_000
SENDS: Final = 100 if QUICK else 300
SMALL_PART: Final = 0.1
WITHIN_S: Final = 600.0
PAUSE_S: Final = 0.02
PEOPLE: Final = 50_000

GOAL: Final = {"idle": 1 / 5}
STRETCH: Final = {"idle": 1 / 2}
GOAL_SHARE: Final = 0.4
"""Of one half, which nobody can be promised more of."""


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="fairness")
    parser.add_argument("--devices", type=int, default=DEVICES)
    parser.add_argument("--sends", type=int, default=SENDS)
    options = parser.parse_args(arguments)
    on_two_cores()
    with tempfile.TemporaryDirectory(prefix="sendora-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        publish("fairness", asyncio.run(_measure(folder, options.devices, options.sends)))


async def _measure(folder: Path, devices: int, sends: int) -> list[Figure]:
    small_devices = int(devices * SMALL_PART)
    async with fleet(folder, devices, small_devices) as (large, small):
        await _transactional(large, 50, devices)  # The lanes' connections and the first plans of statements.
        idle, idle_once = await _transactional(large, sends, devices)
        alone_s, alone_once, _ = await _broadcast(small, small_devices)
        running = await large.broadcast()
        await large.begun(running)
        busy, busy_once = await _transactional(large, sends, devices, during=running)
        # Another one, so that the first tenant's queue is not empty before the second tenant's is.
        other = await large.broadcast()
        await large.begun(other)
        beside_s, beside_once, between = await _broadcast(small, small_devices)
        rivals = sum(between[str(send)] for send in (running, other))
        mine = between.total() - between[""] - rivals
        share = mine / max(mine + rivals, 1)
    rows = [
        figure(
            f"fairness.transactional_{name}",
            f"ms from call to provider, {name}, while a broadcast to {devices:,} runs",
            [Sample(percentile(busy, part), 0.0)],
            {"idle": [Sample(percentile(idle, part), 0.0)]},
            goal=None,
            goals=GOAL,
            stretches=STRETCH,
            same_answer=idle_once and busy_once,
            higher_is_better=False,
            note=f"idle: the same on a cluster with nothing else to do; {len(busy)} sends",
        )
        for name, part in (("p50", 0.5), ("p99", 0.99))
    ]
    return [
        *rows,
        figure(
            "fairness.tenant",
            f"s for a tenant's broadcast to {small_devices:,}, while another's to {devices:,} runs",
            [Sample(beside_s, 0.0)],
            {"alone": [Sample(alone_s, 0.0)]},
            goal=None,
            goals={"alone": GOAL_SHARE},
            stretches={"alone": 0.5},
            same_answer=alone_once and beside_once,
            higher_is_better=False,
            note="alone: the same broadcast without the other tenant",
        ),
        figure(
            "fairness.share",
            "of all requests, the smaller tenant's, while its queue was full: planned, and a tenth still to come",
            [Sample(share, 0.0)],
            {},
            goal=GOAL_SHARE,
            stretch=0.5,
            same_answer=beside_once,
            note=f"{mine:,} requests of {mine + rivals:,}; where planning is slower than sending there are few",
        ),
    ]


async def _transactional(
    tenant: Fleet, n: int, devices: int, *, during: UUID | None = None
) -> tuple[list[float], bool]:
    """Latencies in ms, and whether each was one request; with `during`, of those that ended while that send ran."""
    called: dict[UUID, float] = {}
    for number in range(n):
        at = time.time()
        person = f"u{number * 7 % min(PEOPLE, devices)}"
        body = {"title": "Your code", "body": "123456", "userIds": [person], "class": "now"}
        called[UUID((await tenant.call("POST", "/push/send", body))["id"])] = at
        if during is not None and (await tenant.call("GET", f"/push/sends/{during}"))["status"] == "sent":
            break
        await asyncio.sleep(PAUSE_S)
    await tenant.settled(*called, within_s=WITHIN_S)
    arrived: dict[str, int] = {}
    requests: Counter[str] = Counter()
    for request in await tenant.requests({str(send) for send in called}):
        arrived.setdefault(request.send_id or "", request.at)
        requests[request.send_id or ""] += 1
    once = requests.total() == len(requests) == len(called)
    return [arrived[str(send)] - at * 1_000 for send, at in called.items()], once


async def _broadcast(tenant: Fleet, devices: int) -> tuple[float, bool, Counter[str]]:
    """Seconds from the call to the last outcome, whether each device was asked once, and how many requests each send
    of the cluster had while this one's queue was full: from the end of its plan to its last but a tenth."""
    began = time.time()
    send = str(sent := await tenant.broadcast())
    ended = await tenant.settled(sent, within_s=WITHIN_S)
    log = list(await tenant.requests(None))
    mine = [request for request in log if request.send_id == send]
    instants = sorted(request.at for request in mine)
    first, last = max(instants[0], await tenant.planned_ms(sent)), instants[int(len(instants) * 0.9)]
    between = Counter(request.send_id or "" for request in log if first <= request.at <= last)
    balance = await tenant.balance(sent)
    once = len({request.token for request in mine}) == len(mine) == devices == balance["accepted"]
    return ended - began, once, between


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
