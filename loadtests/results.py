"""One object for each figure: ours, the peers, the ratios; printed as a table and kept under `results/`."""

import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

FOLDER: Final = Path(__file__).parent / "results"
README: Final = Path(__file__).parents[1] / "README.md"
BEGIN: Final = "<!-- figures begin -->"
END: Final = "<!-- figures end -->"


class Sample(msgspec.Struct, frozen=True):
    """One run of one side: a figure, and CPU time of the system under test for each operation."""

    figure: float
    cpu_us_per_op: float


class Side(msgspec.Struct, frozen=True):
    median: float
    min: float
    max: float
    cpu_us_per_op: float


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    unit: str
    ours: Side
    peers: dict[str, Side]
    ratios: dict[str, float]
    """How much better ours is: a rate is ours / peer, a time or a size peer / ours."""
    same_answer: bool
    goal: float | None
    machine: str
    commit: str
    date: str
    note: str = ""


def side(samples: Sequence[Sample]) -> Side:
    figures = [sample.figure for sample in samples]
    return Side(
        round(statistics.median(figures), 3),
        round(min(figures), 3),
        round(max(figures), 3),
        round(statistics.median(sample.cpu_us_per_op for sample in samples), 2),
    )


def figure(
    name: str,
    unit: str,
    ours: Sequence[Sample],
    peers: dict[str, Sequence[Sample]],
    *,
    goal: float | None,
    same_answer: bool,
    higher_is_better: bool = True,
    note: str = "",
) -> Figure:
    mine, others = side(ours), {peer: side(samples) for peer, samples in peers.items()}
    return Figure(
        name=name,
        unit=unit,
        ours=mine,
        peers=others,
        ratios={
            peer: round(mine.median / other.median if higher_is_better else other.median / mine.median, 3)
            for peer, other in others.items()
        },
        same_answer=same_answer,
        goal=goal,
        machine=machine(),
        commit=commit(),
        date=datetime.now(UTC).date().isoformat(),
        note=note,
    )


def publish(name: str, figures: Sequence[Figure]) -> None:
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
    _write_readme()
    table = Table("figure", "unit", "ours (min..max)", "CPU us/op", "goal", "peers", title=f"{machine()}, {commit()}")
    for row in figures:
        peers = ", ".join(f"{peer} {other.median:,.0f} (x{row.ratios[peer]})" for peer, other in row.peers.items())
        table.add_row(
            row.name,
            row.unit,
            f"{row.ours.median:,.1f} ({row.ours.min:,.1f}..{row.ours.max:,.1f})",
            f"{row.ours.cpu_us_per_op:,.2f}",
            "" if row.goal is None else f"{row.goal:,g}",
            peers,
        )
    console = Console()
    console.print(table)
    for row in figures:
        if row.note:
            console.print(f"{row.name}: {row.note}")


def _write_readme() -> None:
    """Put the rows of all kept results between the README's markers."""
    lines = ["| figure | unit | ours | CPU us/op | goal | peers | |", "|---|---|---|---|---|---|---|"]
    said: set[str] = set()
    for file in sorted(FOLDER.glob("*.json")):
        for row in msgspec.json.decode(file.read_bytes(), type=list[Figure]):
            peers = ", ".join(f"{peer}: {other.median:,.0f} (x{row.ratios[peer]})" for peer, other in row.peers.items())
            goal = "" if row.goal is None else f"{row.goal:,g}"
            lines.append(
                f"| {row.name} | {row.unit} | {row.ours.median:,.1f} ({row.ours.min:,.1f} to {row.ours.max:,.1f}) |"
                f" {row.ours.cpu_us_per_op:,.2f} | {goal} | {peers} | {row.note} |"
            )
            said.add(f"{row.machine}; commit {row.commit}, {row.date}")
    block = "\n".join([BEGIN, "", *lines, "", *(f"Measured on {one}." for one in sorted(said)), "", END])
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    README.write_text(before + block + rest.partition(END)[2])


def machine() -> str:
    """The processor's name, the cores and the memory; the host's name is nobody's business."""
    name = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores {name}, {gigabytes:.0f} GB"


def commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=FOLDER.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"
