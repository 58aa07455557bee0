"""What every benchmark needs: turns, CPU time, and peers that may not be there.

Two sides are measured in turn (A B A B), so that whatever else the machine does falls on both. CPU time for each
operation stands beside every rate: on two cores the generator takes half of the box, and CPU time does not lie.
"""

import asyncio
import importlib
import os
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Final, TypeVar

import psutil

QUICK: Final = os.environ.get("QUICK", "") not in ("", "0")
"""All benchmarks in ten minutes: about one minute each, with less data and fewer rounds."""

BUILT: Final = Path(__file__).parents[1] / ".cache" / "peers"

T = TypeVar("T")

CORES: Final = 2
"""The machine that the goals are for."""

DEBIAN: Final = {"h2load": "nghttp2-client", "nghttpd": "nghttp2-server", "openssl": "openssl"}


def in_turn(rounds: int, sides: Mapping[str, Callable[[], T]], *, warm: bool = True) -> dict[str, list[T]]:
    """Run each side once to warm up, then all of them in turn, `rounds` times; the samples by side."""
    if warm:
        for run in sides.values():
            run()
    samples: dict[str, list[T]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            samples[name].append(run())
    return samples


async def in_turn_async(
    rounds: int, sides: Mapping[str, Callable[[], Awaitable[T]]], *, warm: bool = True
) -> dict[str, list[T]]:
    """`in_turn` for sides that wait."""
    if warm:
        for run in sides.values():
            await run()
    samples: dict[str, list[T]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            samples[name].append(await run())
    return samples


def on_two_cores() -> None:
    """This process and all that it starts from now on: a larger machine measures what the goals are said for."""
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:CORES]))


def cpu_us(process: psutil.Process | int | None = None) -> float:
    """User and system time of a process (this one by default) and its living children so far, in microseconds."""
    root = process if isinstance(process, psutil.Process) else psutil.Process(process)
    total = 0.0
    for each in (root, *root.children(recursive=True)):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:  # A child that has just ended, such as a PostgreSQL backend.
            continue
        total += times.user + times.system
    return total * 1e6


class Spent:
    """`with Spent() as spent:` measures a block: seconds, and CPU time of this process and its children."""

    seconds: float
    cpu_us: float

    def __init__(self, process: psutil.Process | int | None = None) -> None:
        self._process = process

    def __enter__(self) -> "Spent":
        self._cpu_us, self._began = cpu_us(self._process), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began
        self.cpu_us = cpu_us(self._process) - self._cpu_us


async def output(*command: str) -> bytes:
    """What a program printed; RuntimeError when it failed."""
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    said, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return said


def library(name: str) -> ModuleType | None:
    """A peer that is a Python package; None, with a word, where the extra `bench` is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"{name}: skipped, not installed (make .venv/bench)")
        return None


def tool(name: str) -> str | None:
    """A peer that is a program of the system; None, with a word, where it is not."""
    found = shutil.which(name)
    if found is None:
        print(f"{name}: skipped, not found (Debian: apt-get install {DEBIAN.get(name, name)})")
    return found


def go_program(source: Path) -> Path | None:
    """A peer that is a Go program, built once; None, with a word, where there is no Go toolchain or no module proxy."""
    go = shutil.which("go")
    if go is None:
        print(f"{source.name}: skipped, no Go toolchain on PATH (https://go.dev/dl)")
        return None
    built = BUILT / source.name
    built.parent.mkdir(parents=True, exist_ok=True)
    made = subprocess.run([go, "build", "-o", str(built), "."], cwd=source, capture_output=True, text=True, check=False)
    if made.returncode:
        print(f"{source.name}: skipped, it does not build: {made.stderr.strip()[-300:]}")
        return None
    return built
