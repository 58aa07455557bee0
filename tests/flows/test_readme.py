"""A newcomer follows the README: `sendora dev`, then its API commands; a push reaches the simulator."""

import asyncio
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

from sendora.cluster import free_port

README = Path(__file__).parents[2] / "README.md"
HEADING = "## The API in five curls"
READY_WITHIN_S = 90.0


async def test_the_api_commands_of_the_readme(tmp_path_factory: object) -> None:
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"sendora-readme-{os.getpid()}"  # noqa: S108
    folder.mkdir(mode=0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SENDORA_")}
    cluster = await asyncio.create_subprocess_exec(
        "env",
        "--ignore-signal=INT",  # As a script's background process begins.
        sys.executable,
        "-m",
        "sendora",
        "dev",
        "--data",
        str(folder),
        "--port",
        str(free_port()),
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await _ready(folder / "env", cluster)
        script = "set -euo pipefail\n" + commands().replace(".cache/dev", str(folder))
        shell = await asyncio.create_subprocess_exec(
            "bash", "-c", script, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, error = await asyncio.wait_for(shell.communicate(), 60)
        assert shell.returncode == 0, error.decode()
        answers = [json.loads(line) for line in out.decode().splitlines() if line.startswith("{")]
        assert len(answers) >= 5
        assert all(answer["success"] for answer in answers), answers
        reconciliation, trace, why_not = (answer["data"] for answer in answers[-3:])
        assert (trace["state"], trace["reproduced"]) == ("accepted", True)
        assert (why_not["member"], why_not["reason"]) == (True, None)
        assert (reconciliation["targeted"], reconciliation["accepted"], reconciliation["open"]) == (1, 1, 0)
        log = (folder / "simulator" / "requests.jsonl").read_text()
        assert '"Hello Ada"' in log, "the simulator took the rendered push"
    finally:
        cluster.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(cluster.wait(), 60)
        except TimeoutError:
            cluster.kill()
            raise


def commands() -> str:
    """The shell blocks of the README's section, in order."""
    section = README.read_text().split(HEADING, 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert blocks, "the section has no commands"
    return "\n".join(blocks)


async def _ready(marker: Path, cluster: asyncio.subprocess.Process) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not marker.exists():
        assert cluster.returncode is None, "sendora dev ended early"
        assert time.monotonic() < deadline, "sendora dev was not ready"
        await asyncio.sleep(0.1)
