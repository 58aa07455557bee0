"""`make load`: Locust's SDK sessions, headless, against a fresh embedded cluster, and the event accounting after it."""

import argparse
import asyncio
import csv
import os
import sys
import tempfile
from pathlib import Path

import msgspec

from loadtests.ingest import LIMIT
from sendora.cluster import Cluster
from sendora.demo.client import Client
from sendora.modules import orgs

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sendora-load-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        return asyncio.run(_load(folder, options.users, options.seconds))


async def _load(folder: Path, users: int, seconds: int) -> int:
    async with Cluster(folder, simulator=False, dispatchers=1) as cluster:
        keys = await orgs.bootstrap(cluster.settings, "Load", "business", "load", LIMIT)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "locust",
            "-f",
            str(HERE / "locustfile.py"),
            "--headless",
            "-u",
            str(users),
            "-r",
            str(users),
            "-t",
            f"{seconds}s",
            "-H",
            cluster.url,
            "--csv",
            str(folder / "locust"),
            "--only-summary",
            env={**os.environ, "SENDORA_KEY": keys.public_key},
        )
        status = await process.wait()
        with (folder / "locust_stats.csv").open() as lines:
            total = next(row for row in csv.DictReader(lines) if row["Name"] == "Aggregated")
        async with Client(cluster.url, keys.secret_key) as server:
            accounting = await _settled(server)
    summary = {
        "requests": int(total["Request Count"]),
        "failures": int(total["Failure Count"]),
        "requests_per_s": round(float(total["Requests/s"]), 1),
        "p50_ms": float(total["50%"]),
        "p95_ms": float(total["95%"]),
        "p99_ms": float(total["99%"]),
        "accounting": accounting,
    }
    print(msgspec.json.encode(summary).decode())
    balanced = accounting["accepted"] == accounting["stored"] + accounting["duplicate"] + accounting["bad"]
    return 0 if status == 0 and not summary["failures"] and balanced and accounting["accepted"] else 1


async def _settled(server: Client) -> dict[str, int]:
    """The accounting once it has stopped moving."""
    before: dict[str, int] = {}
    while True:
        now = await server.get("/events/accounting")
        if now == before:
            return dict(now)
        before = now
        await asyncio.sleep(1.0)


if __name__ == "__main__":
    sys.exit(main())
