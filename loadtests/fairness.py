"""How long a transactional send takes from the call to the provider, on an idle cluster and during a broadcast.

Each is a `POST /push/send` to one person, one after another. The end is the instant at which the simulator had the
request, as its log says (ms); the beginning is the instant before the call, so the API, the plan, the wake, the
decision and the wire are all in it.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Final
from uuid import UUID

from loadtests.fleet import Fleet, fleet
from loadtests.results import Figure, Sample, figure, publish

DEVICES: Final = 1_000_000
SENDS: Final = 300
WITHIN_S: Final = 600.0
PAUSE_S: Final = 0.02


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="fairness")
    parser.add_argument("--devices", type=int, default=DEVICES)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="sendora-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        publish("fairness", asyncio.run(_measure(folder, options.devices)))


async def _measure(folder: Path, devices: int) -> list[Figure]:
    async with fleet(folder, devices) as cluster:
        await _transactional(cluster, 50, None)  # The lanes' connections and the first plans of statements.
        idle = await _transactional(cluster, SENDS, None)
        send = await cluster.broadcast()
        await cluster.begun(send)
        busy = await _transactional(cluster, SENDS, send)
        await cluster.settled(send, WITHIN_S)
    ratio = percentile(busy, 0.99) / percentile(idle, 0.99)
    return [
        figure(
            "fairness.transactional",
            "ms from call to provider, p99, during a broadcast",
            [Sample(percentile(busy, 0.99), 0.0)],
            {"idle": [Sample(percentile(idle, 0.99), 0.0)]},
            goal=0.2,
            same_answer=len(busy) > 0,
            higher_is_better=False,
            note=f"{ratio:.1f} times the same on the idle cluster; {len(busy)} sends while the broadcast ran;"
            f" p50 {percentile(busy, 0.5):.0f} against {percentile(idle, 0.5):.0f} ms",
        )
    ]


async def _transactional(cluster: Fleet, n: int, during: UUID | None) -> list[float]:
    """Latencies in ms; with `during`, of those that ended while that send was running."""
    called: dict[str, float] = {}
    for number in range(n):
        at = time.time()
        body = {"title": "Your code", "body": "123456", "userIds": [f"u{number * 7 % 50_000}"], "class": "now"}
        called[(await cluster.call("POST", "/push/send", body))["id"]] = at
        if during is not None and (await cluster.call("GET", f"/push/sends/{during}"))["status"] == "sent":
            break
        await asyncio.sleep(PAUSE_S)
    arrived: dict[str, int] = {}
    deadline = time.monotonic() + WITHIN_S
    while len(arrived) < len(called) and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
        for request in await cluster.requests(set(called)):
            arrived.setdefault(request.send_id or "", request.at)
    return [arrived[send] - at * 1_000 for send, at in called.items()]


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
