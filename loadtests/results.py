"""One row for each figure: ours, the peers, the ratios; printed, kept under `results/`, shown in the README.

A ratio says how much better ours is, so 2 is twice as good for a rate, a time and a size alike. A goal is a bound on
our own figure (`goal`), a ratio to a peer (`goals`), or both; `stretch` and `stretches` are the same further out. A row
whose sides did not give the same answer meets nothing.
"""

import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from loadtests.harness import QUICK

FOLDER: Final = Path(__file__).parent / "results"
README: Final = Path(__file__).parents[1] / "README.md"
BEGIN: Final = "<!-- figures begin -->"
END: Final = "<!-- figures end -->"

COLUMNS: Final = ("figure", "unit", "ours (min to max)", "CPU us/op", "peers (x ratio)", "goal", "met?", "note")

SOURCES: Final = ("rust", "python", "migrations", "loadtests/*.py", "loadtests/peers", "Cargo.lock")
"""A change here makes a figure another one than the commit's; a result or the README does not."""

WIDTH: Final = 180
"""Of the table where no terminal says otherwise."""

REQUIRED: Final = frozenset(
    ("name", "unit", "ours", "peers", "ratios", "same_answer", "goal", "machine", "commit", "date")
)
"""What stands in every row, even when it is null."""


class Sample(msgspec.Struct, frozen=True):
    """One run of one side: a figure, and CPU time of the system under test for each operation."""

    figure: float
    cpu_us_per_op: float


class Side(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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
    """A bound on `ours.median`."""
    machine: str
    commit: str
    date: str
    note: str = ""
    higher_is_better: bool = True
    stretch: float | None = None
    goals: dict[str, float] = msgspec.field(default_factory=dict)
    """A least ratio by peer."""
    stretches: dict[str, float] = msgspec.field(default_factory=dict)
    quick: bool = False
    """Made with QUICK=1: fewer rounds and less data, for a look and not for the record."""

    @property
    def met(self) -> str:
        """yes, no, in part (a peer of a goal was not there, the rest holds), or nothing without a goal."""
        if not self.same_answer:
            return "no: answers differ"
        if self.goal is None and not self.goals:
            return ""
        own = self.goal is None or _reaches(self.ours.median, self.goal, self.higher_is_better)
        met = own and all(self.ratios[peer] >= least for peer, least in self.goals.items() if peer in self.ratios)
        if not met:
            return "no"
        return "yes" if self.goals.keys() <= self.ratios.keys() else "in part: a peer is missing"


def _reaches(figure: float, bound: float, higher_is_better: bool) -> bool:
    return figure >= bound if higher_is_better else figure <= bound


def side(samples: Sequence[Sample]) -> Side:
    figures = [sample.figure for sample in samples]
    return Side(
        _significant(statistics.median(figures)),
        _significant(min(figures)),
        _significant(max(figures)),
        _significant(statistics.median(sample.cpu_us_per_op for sample in samples)),
    )


def _significant(value: float) -> float:
    """Five digits: more than any run repeats, and enough for a few nanoseconds as for a million events."""
    return float(f"{value:.5g}")


def ratio(ours: float, peer: float, higher_is_better: bool) -> float:
    above, below = (ours, peer) if higher_is_better else (peer, ours)
    return _significant(above / below) if below else 0.0


def figure(
    name: str,
    unit: str,
    ours: Sequence[Sample],
    peers: Mapping[str, Sequence[Sample]],
    *,
    goal: float | None,
    same_answer: bool,
    higher_is_better: bool = True,
    note: str = "",
    goals: Mapping[str, float] | None = None,
    stretch: float | None = None,
    stretches: Mapping[str, float] | None = None,
) -> Figure:
    """A row for here and now. A peer without samples was not there and is left out."""
    mine, others = side(ours), {peer: side(samples) for peer, samples in peers.items() if samples}
    return Figure(
        name=name,
        unit=unit,
        ours=mine,
        peers=others,
        ratios={peer: ratio(mine.median, other.median, higher_is_better) for peer, other in others.items()},
        same_answer=same_answer,
        goal=goal,
        machine=machine(),
        commit=commit(),
        date=datetime.now(UTC).date().isoformat(),
        note=note,
        higher_is_better=higher_is_better,
        stretch=stretch,
        goals=dict(goals or {}),
        stretches=dict(stretches or {}),
        quick=QUICK,
    )


def publish(name: str, figures: Sequence[Figure]) -> None:
    """Keep the rows as `results/NAME.json`, show them, and bring the README's table up to date."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
    write_readme()
    show(figures)


def show(figures: Sequence[Figure]) -> None:
    table = Table(*COLUMNS[:-1], title=f"{machine()}, {commit()}" + (", QUICK" if QUICK else ""))
    for row in figures:
        table.add_row(*cells(row)[:-1])
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(table)
    for row in figures:
        if row.note:
            console.print(f"{row.name}: {row.note}", highlight=False)


def cells(row: Figure) -> tuple[str, ...]:
    """A row under COLUMNS, for the console and the README alike."""
    ours = f"{_number(row.ours.median)} ({_number(row.ours.min)} to {_number(row.ours.max)})"
    peers = "; ".join(
        f"{peer}: {_number(other.median)} (x{row.ratios[peer]:,.3g}), {_number(other.cpu_us_per_op)} us"
        for peer, other in row.peers.items()
    )
    cpu = _number(row.ours.cpu_us_per_op) if row.ours.cpu_us_per_op else ""
    return row.name, row.unit, ours, cpu, peers, _goal(row), row.met, row.note


def _goal(row: Figure) -> str:
    said = [] if row.goal is None else [_number(row.goal) + _further(row.stretch, "")]
    said += [f"x{least:g} {peer}{_further(row.stretches.get(peer), 'x')}" for peer, least in row.goals.items()]
    return ", ".join(said)


def _further(stretch: float | None, sign: str) -> str:
    return "" if stretch is None else f" (stretch {sign}{_number(stretch)})"


def _number(value: float) -> str:
    """Four digits, whole from a thousand on."""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def write_readme() -> None:
    """Put the rows of all kept results between the README's markers; under them where each group was measured."""
    lines = [_line(COLUMNS), _line("---" for _ in COLUMNS)]
    measured: dict[str, list[str]] = {}
    for name, rows in kept().items():
        for row in rows:
            lines.append(_line(cells(row)))
            where = f"on {row.machine}; commit {row.commit}, {row.date}" + (", QUICK" if row.quick else "")
            names = measured.setdefault(where, [])
            if name not in names:
                names.append(name)
    notes = [f"Measured {where}: {', '.join(names)}.\n" for where, names in measured.items()]
    block = "\n".join([BEGIN, "", *lines, "", *notes, END])
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    README.write_text(before + block + rest.partition(END)[2])


def _line(texts: "Sequence[str] | Any") -> str:
    return "| " + " | ".join(text.replace("|", "/").replace("\n", " ") for text in texts) + " |"


def kept() -> dict[str, list[Figure]]:
    """The rows of every results file, by its name."""
    return {
        file.stem: msgspec.json.decode(file.read_bytes(), type=list[Figure]) for file in sorted(FOLDER.glob("*.json"))
    }


def faults(name: str, text: bytes) -> list[str]:
    """What is wrong with a results file; nothing when every row can be read, compared and traced to its commit."""
    found: list[str] = []
    try:
        raw = msgspec.json.decode(text, type=list[dict[str, Any]])
        missing = [f"{name}: a row without {', '.join(sorted(lost))}" for row in raw if (lost := REQUIRED - row.keys())]
        if missing:
            return missing
        rows = msgspec.json.decode(text, type=list[Figure])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        return [f"{name}: {error}"]
    if not rows:
        return [f"{name}: no row"]
    for row in rows:
        where = f"{name}: {row.name}"
        if not row.name.startswith(f"{name}."):
            found.append(f"{where} is not called {name}.*")
        if not (row.ours.min <= row.ours.median <= row.ours.max):
            found.append(f"{where}: the median lies outside the range")
        if row.ratios.keys() != row.peers.keys():
            found.append(f"{where}: ratios and peers are not the same")
            continue
        for peer, other in row.peers.items():
            right = ratio(row.ours.median, other.median, row.higher_is_better)
            if abs(row.ratios[peer] - right) > 0.01 * right:
                found.append(f"{where}: the ratio to {peer} is {row.ratios[peer]}, but the figures say {right}")
        if not (row.machine and row.commit and row.date):
            found.append(f"{where}: measured nowhere")
    return found


def check() -> list[str]:
    return [fault for file in sorted(FOLDER.glob("*.json")) for fault in faults(file.stem, file.read_bytes())]


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
    """The commit, with a plus when what was measured is not quite it."""
    found = _git("rev-parse", "--short", "HEAD")
    return found + ("+" if _git("status", "--porcelain", "--", *SOURCES) else "") if found else "unknown"


def _git(*arguments: str) -> str:
    git = subprocess.run(
        ["git", *arguments], cwd=README.parent, capture_output=True, text=True, check=False
    )  # fmt: skip
    return git.stdout.strip()
