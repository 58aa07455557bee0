"""Ingest figures: batched and single events acknowledged after fsync, drained to Postgres, beside a bare Granian echo.

Everything runs on this machine: the generator, the API, the log, the store. The rate limiter stays on (the keys carry a
raised limit), and every figure counts what the store has accounted for, not what was answered with 200.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from loadtests.generator import Result, drive, post
from loadtests.harness import QUICK, cpu_us
from loadtests.results import Figure, Sample, figure, publish
from sendora.cluster import Cluster, free_port
from sendora.kernel.ids import new_id
from sendora.modules import orgs

ROUNDS: Final = 2 if QUICK else 3
SECONDS: Final = 3.0 if QUICK else 10.0
DRAIN_SECONDS: Final = 15.0 if QUICK else 60.0
DRAIN_RATE: Final = 50_000
"""Events a second offered for that minute: more than the goal, less than the API could take."""
BATCH: Final = 100
CONNECTIONS: Final = 256
"""In flight in both single-event runs. Ours waits for an fsync and shares it with whoever else waits, so the ratio
grows with the connections (about 0.25 at 64, 0.35 at 512); a fleet of SDKs keeps more of them open than this."""
LIMIT: Final = orgs.RateLimit(per_second=1_000_000, burst=1_000_000)


def main(arguments: list[str]) -> None:
    seconds = float(arguments[0]) if arguments else SECONDS
    with tempfile.TemporaryDirectory(prefix="sendora-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        publish("ingest", asyncio.run(_measure(folder, seconds)))


async def _measure(folder: Path, seconds: float) -> list[Figure]:
    async with Cluster(folder, simulator=False, dispatchers=1) as cluster:
        keys = await orgs.bootstrap(cluster.settings, "Bench", "business", "bench", LIMIT)
        port = int(cluster.url.rpartition(":")[2])
        echo_port = free_port()
        echo = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "granian",
                "--interface",
                "asgi",
                "--host",
                "127.0.0.1",
                "--port",
                str(echo_port),
                "--workers",
                "1",
                "--loop",
                "uvloop",
                "--no-ws",
                "loadtests.echo:app",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            await asyncio.to_thread(_wait, echo_port)
            api = psutil.Process(cluster.roles["api"].pid)
            peer = psutil.Process(echo.pid)
            singles: list[Sample] = []
            echoes: list[Sample] = []
            batches: list[Sample] = []
            latencies: list[Sample] = []
            answered = 0
            for _ in range(ROUNDS):
                requests = [post("/api/v1/events", keys.public_key, _event()) for _ in range(20_000)]
                run, cpu = await _run(port, requests, seconds, CONNECTIONS, api)
                answered += _good(run, "201")
                singles.append(Sample(run.rate, cpu / run.requests))
                run, cpu = await _run(echo_port, requests, seconds, CONNECTIONS, peer)
                echoes.append(Sample(run.rate, cpu / run.requests))
                batch = [post("/api/v1/events/batch", keys.public_key, _batch()) for _ in range(300)]
                run, cpu = await _run(port, batch, seconds, 16, api)
                answered += _good(run, "200") * BATCH
                events = run.requests * BATCH
                batches.append(Sample(events / run.seconds, cpu / events))
                latencies.append(Sample(run.percentile(0.5), cpu / events))
                answered_at = time.monotonic()
                await asyncio.to_thread(_drained, cluster.url, keys.secret_key, answered)
                print(f"drained in {time.monotonic() - answered_at:.1f} s after the round")
            steady, stored, answered = await _steady(cluster, keys, port, answered)
            accounting = _accounting(cluster.url, keys.secret_key)
        finally:
            echo.terminate()
            echo.wait()
    honest = accounting["accepted"] == answered == accounting["stored"] + accounting["duplicate"] + accounting["bad"]
    return [
        figure(
            "ingest.batch",
            "events/s acknowledged after fsync, 100 a request",
            batches,
            {},
            goal=40_000,
            same_answer=honest,
        ),
        figure(
            "ingest.stored",
            f"events/s drained to Postgres for {DRAIN_SECONDS:.0f} s",
            [stored],
            {},
            goal=40_000,
            same_answer=honest,
            note=steady,
        ),
        figure(
            "ingest.single",
            "requests/s",
            singles,
            {"echo": echoes},
            goal=None,
            goals={"echo": 0.30},
            same_answer=honest,
            note=f"echo: a bare Granian ASGI app that answers as many bytes; {CONNECTIONS} connections on both",
        ),
        figure(
            "ingest.batch_p50",
            "ms at full closed-loop load",
            latencies,
            {},
            goal=None,
            same_answer=honest,
            higher_is_better=False,
        ),
    ]


async def _steady(cluster: Cluster, keys: Any, port: int, answered: int) -> tuple[str, Sample, int]:
    """A minute of batches; how many events the store had taken when the minute ended, and how long the rest took."""
    before = _accounting(cluster.url, keys.secret_key)["accepted"]
    worker = psutil.Process(cluster.roles["worker"].pid)
    batch = [post("/api/v1/events/batch", keys.public_key, _batch()) for _ in range(2_000)]
    run, cpu = await _run(port, batch, DRAIN_SECONDS, 8, worker, DRAIN_RATE / BATCH)
    answered += _good(run, "200") * BATCH
    behind = answered - _accounting(cluster.url, keys.secret_key)["accepted"]
    began = time.monotonic()
    await asyncio.to_thread(_drained, cluster.url, keys.secret_key, answered)
    tail_s = time.monotonic() - began
    events = answered - before
    note = (
        f"{events / run.seconds:,.0f} events/s offered for {run.seconds:.0f} s; {behind:,} were behind at its end"
        f" and stored {tail_s:.1f} s later"
    )
    return note, Sample(events / (run.seconds + tail_s), cpu / events), answered


async def _run(
    port: int,
    requests: list[bytes],
    seconds: float,
    connections: int,
    server: psutil.Process,
    rate: float | None = None,
) -> tuple[Result, float]:
    before = cpu_us(server)
    run = await asyncio.to_thread(
        drive, "127.0.0.1", port, requests, seconds=seconds, connections=connections, rate=rate
    )
    return run, cpu_us(server) - before


def _good(run: Result, status: str) -> int:
    wrong = {code: count for code, count in run.statuses.items() if code != status}
    if wrong:
        raise RuntimeError(f"expected {status}, got also {wrong}")
    return run.requests


def _event() -> bytes:
    return msgspec.json.encode(_payload())


def _batch() -> bytes:
    return msgspec.json.encode({"events": [_payload() for _ in range(BATCH)]})


def _payload() -> dict[str, Any]:
    """About 300 bytes. No eventId: the same prepared request is sent many times, and each is an event of its own."""
    return {
        "eventType": "purchase",
        "module": "analytics",
        "userId": f"user-{new_id().int % 50_000}",
        "deviceId": str(new_id()),
        "properties": {
            "amount": 49.9,
            "currency": "EUR",
            "sku": "A-1001",
            "items": 3,
            "coupon": None,
            "path": "/checkout",
        },
    }


def _accounting(url: str, key: str) -> Any:
    request = urllib.request.Request(f"{url}/api/v1/events/accounting", headers={"x-api-key": key})
    with urllib.request.urlopen(request, timeout=10) as response:
        return msgspec.json.decode(response.read())["data"]


def _drained(url: str, key: str, answered: int) -> None:
    deadline = time.monotonic() + 300
    while _accounting(url, key)["accepted"] < answered:
        if time.monotonic() > deadline:
            raise RuntimeError("the store did not catch up in five minutes")
        time.sleep(0.1)


def _wait(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1)
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the echo server did not start")
