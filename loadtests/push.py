"""Pushes to the simulator over the native lanes: CPU time of the sender beside gorush's sender, and what a long round
trip and a provider that closes connections leave of the rate.

Measured is the sender alone, as a worker has it: chunks of recipients are decided on, rendered, sent and their answers
read. Rates of the disturbed runs are compared with undisturbed ones in turn; the simulator shares the cores with the
sender.
"""

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from loadtests import sender
from loadtests.harness import QUICK
from loadtests.letters import Letters
from loadtests.peers import gorush
from loadtests.results import Figure, Sample, figure, publish
from sendora.cluster import Cluster
from sendora.kernel.ids import new_id
from sendora.modules.push.grants import apns_token
from sendora.modules.push.model.providers import Apns

ROUNDS: Final = 1 if QUICK else 5
PUSHES: Final = 20_000 if QUICK else 200_000
FLIGHTS: Final = 8
"""Chunks under way at a time: twice what the streams of all connections hold, so that none waits for the next chunk."""
GOALS: Final = {"push.cpu": (3.0, 10.0), "push.rtt50": (0.95, 0.99), "push.goaway": (0.90, 0.97)}
CALM: Final = {"delayMs": None, "goawayEvery": None}
SWITCHES: Final = {"push.rtt50": {"delayMs": 50}, "push.goaway": {"goawayEvery": 1_000}}


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["sender"]:
        asyncio.run(_sender(Path(arguments[1])))
        return
    with tempfile.TemporaryDirectory(prefix="sendora-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        publish("push", asyncio.run(_measure(folder)))


async def _measure(folder: Path) -> list[Figure]:
    calm: list[Sample] = []
    peers: list[Sample] = []
    disturbed: dict[str, list[Sample]] = {name: [] for name in SWITCHES}
    async with Cluster(folder, dispatchers=1) as cluster:
        await _prepare(cluster, folder)
        for _ in range(ROUNDS):
            calm.append(await _run(cluster, folder, CALM))
            for name, switches in SWITCHES.items():
                disturbed[name].append(await _run(cluster, folder, CALM | switches))
            await cluster.ask_simulator("POST", "/_/switches", CALM)
            peer = await gorush.run(cluster, PUSHES, connections=sender.CONNECTIONS)
            if peer is not None:
                peers.append(Sample(peer.cpu_us_per_push, peer.cpu_us_per_push))
    cpu = figure(
        "push.cpu",
        "us of CPU for a push",
        [Sample(sample.cpu_us_per_op, sample.cpu_us_per_op) for sample in calm],
        {"gorush": peers} if peers else {},
        goal=None,
        goals={"gorush": GOALS["push.cpu"][0]},
        stretches={"gorush": GOALS["push.cpu"][1]},
        same_answer=True,
        higher_is_better=False,
        note=gorush.NOTE,
    )
    rates = [
        figure(
            name,
            "pushes/s",
            samples,
            {"undisturbed": calm},
            goal=None,
            goals={"undisturbed": GOALS[name][0]},
            stretches={"undisturbed": GOALS[name][1]},
            same_answer=True,
            note=f"simulator with {json.dumps(SWITCHES[name])}",
        )
        for name, samples in disturbed.items()
    ]
    return [cpu, *rates]


class Task(msgspec.Struct, frozen=True):
    """What the sender is told."""

    url: str
    ca_file: str
    secret: Apns
    bearer: str
    tokens: list[str]


async def _prepare(cluster: Cluster, folder: Path) -> None:
    apns = (await cluster.ask_simulator("GET", "/_/credentials"))["apns"]
    secret = Apns(
        p8=apns["p8Key"],
        key_id=apns["keyId"],
        team_id=apns["teamId"],
        bundle_ids=[apns["bundleId"]],
        environment="production",
    )
    tokens = await sender.mint(cluster, "apns", [f"ok-ours{n}" for n in range(PUSHES)])
    bearer = apns_token(secret, int(time.time()))
    task = Task(cluster.simulator_url, str(cluster.simulator_ca), secret, bearer, tokens)
    (folder / "task.json").write_bytes(msgspec.json.encode(task))


async def _run(cluster: Cluster, folder: Path, switches: dict[str, Any]) -> Sample:
    await cluster.ask_simulator("POST", "/_/switches", switches)
    return sender.together([await sender.run("push", str(folder / "task.json"))])


async def _sender(file: Path) -> None:
    task = msgspec.json.decode(file.read_bytes(), type=Task)
    letters = Letters(new_id(), task.secret, task.tokens, bearer=task.bearer, url=task.url)
    await sender.carry(letters, range(PUSHES), url=task.url, ca_file=task.ca_file, flights=FLIGHTS)
