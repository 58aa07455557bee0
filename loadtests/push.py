"""Pushes to the simulator over the native lanes: CPU time of the sender beside gorush's sender, and what a long round
trip and a provider that closes connections leave of the rate.

Measured is the sender alone: requests carry one provider token, are sent, and their answers are read in batches.
Rates of the disturbed runs are compared with undisturbed ones in turn; the simulator shares the cores with the sender.
"""

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from joserfc import jwt
from joserfc.jwk import ECKey

from loadtests import sender
from loadtests.harness import QUICK
from loadtests.peers import gorush
from loadtests.results import Figure, Sample, figure, publish
from sendora.cluster import Cluster
from sendora.kernel.ids import new_id

ROUNDS: Final = 1 if QUICK else 5
PUSHES: Final = 10_000 if QUICK else 50_000
CHUNK: Final = 500
AHEAD: Final = 4_000
"""Pushes that wait or are on the wire: about what a worker's windows let through."""
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


async def _prepare(cluster: Cluster, folder: Path) -> None:
    apns = (await cluster.ask_simulator("GET", "/_/credentials"))["apns"]
    claims = {"iss": apns["teamId"], "iat": int(time.time())}
    key = ECKey.import_key(apns["p8Key"])
    bearer = jwt.encode({"alg": "ES256", "kid": apns["keyId"]}, claims, key, algorithms=["ES256"])
    task = {
        "url": cluster.simulator_url,
        "ca": str(cluster.simulator_ca),
        "tokens": await sender.mint(cluster, "apns", [f"ok-ours{n}" for n in range(PUSHES)]),
        "body": json.dumps(gorush.PAYLOAD),
        "headers": {
            "authorization": f"bearer {bearer}",
            "apns-topic": apns["bundleId"],
            "apns-push-type": "alert",
            "apns-priority": "10",
        },
    }
    (folder / "task.json").write_text(json.dumps(task))


async def _run(cluster: Cluster, folder: Path, switches: dict[str, Any]) -> Sample:
    await cluster.ask_simulator("POST", "/_/switches", switches)
    return sender.together([await sender.run("push", str(folder / "task.json"))])


async def _sender(file: Path) -> None:
    task = json.loads(file.read_text())
    lanes, heard = sender.open_lanes(task["url"], task["ca"])
    batch = lanes.batch(1, "bulk", new_id().bytes)
    batch.deadline(sender.OPEN_S)
    fields = list(task["headers"].items())
    body = task["body"].encode()
    calls = [(i, "apns:1", f"{task['url']}/3/device/{token}", fields, body) for i, token in enumerate(task["tokens"])]

    async def send(waiting: list[Any]) -> None:
        sent = ended = 0
        while ended < len(waiting):
            while sent < len(waiting) and sent - ended <= AHEAD - CHUNK:
                batch.submit(waiting[sent : sent + CHUNK])
                sent += CHUNK
            await heard.wait()
            heard.clear()
            for _, replies in lanes.drain():
                refused = [reply for reply in replies if reply[2] != 200]
                if refused:
                    raise RuntimeError(f"{len(refused)} of {len(replies)} were not accepted: {refused[0]}")
                ended += len(replies)

    await send(calls[:1])  # The first success lets the others go.
    with sender.told(len(calls) - 1):
        await send(calls[1:])
    lanes.close()
