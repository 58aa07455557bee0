"""Ingest figures: batched and single events acknowledged after fsync, drained to Postgres, beside a bare Granian echo.

Everything runs on this machine: the generator, the API, the log, the store. The rate limiter stays on (the keys carry a
raised limit), and every figure counts what the store has accounted for, not what was answered with 200.
"""

import asyncio
import os
import statistics
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
from loadtests.results import Figure, Sample, figure, publish, side
from sendora.cluster import Cluster, free_port
from sendora.kernel.ids import new_id
from sendora.modules import orgs

ROUNDS: Final = 2 if QUICK else 3
SECONDS: Final = 3.0 if QUICK else 10.0
BACKLOG_SECONDS: Final = 5.0 if QUICK else 15.0
"""Of batches as fast as the API takes them; what the store has not taken by then is the backlog that it is timed on."""
FSYNC_BYTES: Final = 8 * 1024
"""About a frame of single events at half load."""
FSYNCS: Final = 300
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
            batch_echoes: list[Sample] = []
            latencies: list[Sample] = []
            halves: dict[float, list[Sample]] = {0.5: [], 0.99: []}
            fsyncs: list[Sample] = []
            answered = 0
            for _ in range(ROUNDS):
                requests = [post("/api/v1/events", keys.public_key, _event()) for _ in range(20_000)]
                run, cpu = await _run(port, requests, seconds, CONNECTIONS, api)
                answered += _good(run, "201")
                singles.append(Sample(run.rate, cpu / run.requests))
                run, cpu = await _run(echo_port, requests, seconds, CONNECTIONS, peer)
                echoes.append(Sample(run.rate, cpu / run.requests))
                run, cpu = await _run(port, requests, seconds, CONNECTIONS, api, singles[-1].figure / 2, open_loop=True)
                answered += _good(run, "201")
                for share, samples in halves.items():
                    samples.append(Sample(run.percentile(share), cpu / run.requests))
                fsyncs.append(await asyncio.to_thread(_fsync, folder))
                batch = [post("/api/v1/events/batch", keys.public_key, _batch()) for _ in range(300)]
                run, cpu = await _run(port, batch, seconds, 16, api)
                answered += _good(run, "200") * BATCH
                echoed, echo_cpu = await _run(echo_port, batch, seconds, 16, peer)
                events = echoed.requests * BATCH
                batch_echoes.append(Sample(events / echoed.seconds, echo_cpu / events))
                events = run.requests * BATCH
                batches.append(Sample(events / run.seconds, cpu / events))
                latencies.append(Sample(run.percentile(0.5), cpu / events))
                answered_at = time.monotonic()
                await asyncio.to_thread(_drained, cluster.url, keys.secret_key, answered)
                print(f"drained in {time.monotonic() - answered_at:.1f} s after the round")
            backlog, stored, answered = await _backlog(cluster, keys, port, answered)
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
            {"echo": batch_echoes},
            goal=150_000,
            stretch=250_000,
            same_answer=honest,
            note="echo: a bare Granian ASGI app that reads the same bytes",
        ),
        figure(
            "ingest.stored",
            "events/s drained to Postgres from a backlog",
            [stored],
            {},
            goal=80_000,
            stretch=110_000,
            same_answer=honest,
            note=backlog,
        ),
        figure(
            "ingest.single",
            "requests/s",
            singles,
            {"echo": echoes},
            goal=None,
            goals={"echo": 0.45},
            stretches={"echo": 0.7},
            same_answer=honest,
            note=f"echo: a bare Granian ASGI app that answers as many bytes; {CONNECTIONS} connections on both",
        ),
        *(
            figure(
                f"ingest.latency_p{share * 100:.0f}",
                "ms from when a request was due to its answer after fsync, open loop at half load",
                samples,
                {"fsync": fsyncs},
                goal=None,
                goals={"fsync": 1 / most},
                stretches={"fsync": 1 / best},
                same_answer=honest,
                higher_is_better=False,
                note=f"{side(samples).median / side(fsyncs).median:.3g} times the median write and fdatasync of"
                f" {FSYNC_BYTES} bytes on the same file system; the goal is {most} times, the stretch {best}",
            )
            for (share, samples), most, best in zip(halves.items(), (8, 40), (3, 10), strict=True)
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


async def _backlog(cluster: Cluster, keys: Any, port: int, answered: int) -> tuple[str, Sample, int]:
    """Batches as fast as they are taken, then how fast the store eats what it was left behind with."""
    worker = psutil.Process(cluster.roles["worker"].pid)
    batch = [post("/api/v1/events/batch", keys.public_key, _batch()) for _ in range(2_000)]
    run, _ = await _run(port, batch, BACKLOG_SECONDS, 16, worker)
    answered += _good(run, "200") * BATCH
    before = cpu_us(worker)
    began = time.monotonic()
    behind = answered - _accounting(cluster.url, keys.secret_key)["accepted"]
    await asyncio.to_thread(_drained, cluster.url, keys.secret_key, answered)
    took_s = time.monotonic() - began
    note = f"{behind:,} events were behind when the load ended; profiles ate the same log beside the storer"
    return note, Sample(behind / took_s, (cpu_us(worker) - before) / max(1, behind)), answered


def _fsync(folder: Path) -> Sample:
    """The median of a frame-sized append made durable, in ms: what no acknowledgement can be faster than."""
    block = b"x" * FSYNC_BYTES
    times: list[float] = []
    with (folder / "fsync.probe").open("wb", buffering=0) as file:
        spent = time.process_time()
        for _ in range(FSYNCS):
            began = time.perf_counter()
            file.write(block)
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - began) * 1_000)
        spent = time.process_time() - spent
    return Sample(statistics.median(times), spent / FSYNCS * 1e6)


async def _run(
    port: int,
    requests: list[bytes],
    seconds: float,
    connections: int,
    server: psutil.Process,
    rate: float | None = None,
    *,
    open_loop: bool = False,
) -> tuple[Result, float]:
    before = cpu_us(server)
    run = await asyncio.to_thread(
        drive,
        "127.0.0.1",
        port,
        requests,
        seconds=seconds,
        connections=connections,
        rate=rate,
        open_loop=open_loop,
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
