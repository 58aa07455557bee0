"""Requests a second to a neutral HTTP/2 server: the native lanes beside `httpx[http2]` and beside nghttp2's own h2load.

The server is `nghttpd` of Debian (nghttp2-server), which none of the three was written against; h2load is a load
generator in C that builds its frames once, so it is a ceiling and not a client. Each side runs as a process of its own,
with 4 connections and 100 requests at a time on each, the same body and as many header fields; CPU is that of the
client's process.
"""

import asyncio
import json
import re
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Final

import httpx

from loadtests.certificates import issue
from loadtests.harness import QUICK
from loadtests.results import Figure, Sample, figure, publish
from sendora import _core
from sendora.cluster import free_port
from sendora.kernel.ids import new_id

ROUNDS: Final = 1 if QUICK else 3
REQUESTS: Final = {"ours": 40_000, "httpx": 2_000, "h2load": 100_000} if QUICK else {
    "ours": 300_000, "httpx": 10_000, "h2load": 500_000
}  # fmt: skip
CONNECTIONS: Final = 4
STREAMS: Final = 100
CHUNK: Final = 1_000
BODY: Final = json.dumps({"aps": {"alert": {"title": "Hello", "body": "Something is new for you"}}, "id": "0" * 64})
HEADERS: Final = {
    "apns-topic": "com.example.app",
    "apns-push-type": "alert",
    "apns-priority": "10",
    "authorization": "bearer " + "x" * 200,
}


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["ours"]:
        asyncio.run(_ours(arguments[1], arguments[2], int(arguments[3])))
    elif arguments[:1] == ["httpx"]:
        asyncio.run(_httpx(arguments[1], arguments[2], int(arguments[3])))
    elif shutil.which("nghttpd") is None or shutil.which("h2load") is None:
        print("dispatch: skipped, it needs nghttpd and h2load (Debian: nghttp2-server, nghttp2-client)")
    else:
        publish("dispatch", [_measure()])


def _measure() -> Figure:
    samples: dict[str, list[Sample]] = {"ours": [], "httpx": [], "h2load": []}
    with tempfile.TemporaryDirectory(prefix="sendora-bench-") as name:
        folder = Path(name)
        ca_file, chain, key = issue(folder)
        (folder / "www/3/device").mkdir(parents=True)
        (folder / "www/3/device" / ("a" * 64)).write_text("{}")
        (folder / "body").write_text(BODY)
        port = free_port()
        server = subprocess.Popen(
            ["nghttpd", "-n1", "-m1000", f"--htdocs={folder / 'www'}", str(port), str(key), str(chain)],
            stdout=subprocess.DEVNULL,
        )
        url = f"https://localhost:{port}/3/device/{'a' * 64}"
        try:
            _wait(port)
            for _ in range(ROUNDS):
                for side in ("ours", "httpx"):
                    command = [sys.executable, "-m", "loadtests.bench", "dispatch", side, url, str(ca_file)]
                    said = json.loads(subprocess.check_output([*command, str(REQUESTS[side])]).splitlines()[0])
                    sample = Sample(said["requests"] / said["seconds"], said["cpuUs"] / said["requests"])
                    samples[side].append(sample)
                samples["h2load"].append(_h2load(url, folder / "body"))
        finally:
            server.terminate()
            server.wait()
    ours = samples.pop("ours")
    return figure(
        "dispatch.requests",
        "requests/s",
        ours,
        samples,
        goal=None,
        goals={"httpx": 40, "h2load": 0.5},
        stretches={"httpx": 150, "h2load": 1},
        same_answer=True,
        note="httpx[http2] with as many connections and streams; the server shares the cores",
    )


def _h2load(url: str, body: Path) -> Sample:
    fields = [part for name, value in HEADERS.items() for part in ("-H", f"{name}: {value}")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    n = REQUESTS["h2load"]
    said = subprocess.check_output(
        ["h2load", "-t1", f"-c{CONNECTIONS}", f"-m{STREAMS}", f"-n{n}", f"--data={body}", *fields, url], text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = re.search(r"finished in .*?, ([\d.]+) req/s", said)
    if found is None:
        raise RuntimeError("h2load said something else than before")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Sample(float(found[1]), cpu_s * 1e6 / n)


async def _ours(url: str, ca_file: str, requests: int) -> None:
    port = int(url.split(":")[2].partition("/")[0])
    config = {"connections": CONNECTIONS, "streams": STREAMS, "caFiles": [ca_file], "exempt": [["localhost", port]]}
    lanes = _core.Lanes(json.dumps(config))
    heard = asyncio.Event()
    asyncio.get_running_loop().add_reader(lanes.fileno(), heard.set)
    batch = lanes.batch(1, "bulk", new_id().bytes)
    batch.deadline(600)
    fields = list(HEADERS.items())
    body = BODY.encode()

    async def send(n: int) -> None:
        sent = ended = 0
        while ended < n:
            while sent < n and sent - ended < 4 * CHUNK:
                size = min(CHUNK, n - sent)
                batch.submit([(sent + i, "apns:1", url, fields, body) for i in range(size)])
                sent += size
            await heard.wait()
            heard.clear()
            for _, replies in lanes.drain():
                for reply in replies:
                    if not 200 <= reply[2] < 300:
                        raise RuntimeError(f"{reply}")
                ended += len(replies)

    await send(100)
    _report(requests, await _timed(send(requests)))
    lanes.close()


async def _httpx(url: str, ca_file: str, requests: int) -> None:
    context = ssl.create_default_context(cafile=ca_file)
    clients = [httpx.AsyncClient(http2=True, verify=context) for _ in range(CONNECTIONS)]
    body = BODY.encode()

    async def send(n: int) -> None:
        left = iter(range(n))

        async def worker(client: httpx.AsyncClient) -> None:
            for _ in left:
                (await client.post(url, headers=HEADERS, content=body)).raise_for_status()

        for client in clients:  # Each connection stands before many want it.
            await client.post(url, headers=HEADERS, content=body)
        await asyncio.gather(*(worker(client) for client in clients for _ in range(STREAMS)))

    _report(requests, await _timed(send(requests)))


async def _timed(work: Coroutine[None, None, None]) -> tuple[float, float]:
    began, used = time.perf_counter(), time.process_time()
    await work
    return time.perf_counter() - began, time.process_time() - used


def _report(requests: int, spent: tuple[float, float]) -> None:
    print(json.dumps({"requests": requests, "seconds": spent[0], "cpuUs": spent[1] * 1e6}))


def _wait(port: int) -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            socket.create_connection(("localhost", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("nghttpd does not listen")
