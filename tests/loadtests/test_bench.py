"""`make bench`: which benchmarks there are, and what becomes of the others when one fails."""

import subprocess
import sys
import types
from typing import Any

import pytest

from loadtests import bench
from loadtests.batch import beside
from loadtests.harness import Spent, in_turn, in_turn_async, output
from loadtests.results import Sample
from loadtests.sender import Sent, together


def test_names_are_files_and_unknown_ones_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"ingest", "broadcast", "fairness"} <= set(bench.there()) <= set(bench.NAMES)
    assert bench.main(["nonesuch"]) == 2
    assert "ingest" in capsys.readouterr().err


def test_one_that_fails_stops_no_other(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[str] = []

    def run(command: list[str], **_: Any) -> Any:
        ran.append(command[-1])
        return types.SimpleNamespace(returncode=int(command[-1] == "broadcast"))

    monkeypatch.setattr(bench, "there", lambda: ["ingest", "broadcast", "fairness"])
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(bench.results, "show", lambda rows: None)
    assert bench.main([]) == 1
    assert ran == ["ingest", "broadcast", "fairness"]
    said = capsys.readouterr().out
    assert "FAILED (1)" in said and said.count("done") == 2


async def test_sides_are_run_in_turn_after_a_warm_up() -> None:
    order: list[str] = []

    def run(name: str) -> int:
        order.append(name)
        return len(order)

    async def wait(name: str) -> int:
        return run(name)

    assert in_turn(2, {"a": lambda: run("a"), "b": lambda: run("b")}) == {"a": [3, 5], "b": [4, 6]}
    assert order == list("ababab")
    order.clear()
    await in_turn_async(2, {"a": lambda: wait("a"), "b": lambda: wait("b")}, warm=False)
    assert order == list("abab")


def test_cpu_time_counts_children() -> None:
    burn = (
        "import time\ninput()\nend = time.process_time() + 0.2\nwhile time.process_time() < end: ...\nprint()\ninput()"
    )
    with subprocess.Popen([sys.executable, "-u", "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None
        with Spent() as spent:
            child.stdin.write(b"\n")
            child.stdin.flush()
            assert child.stdout.readline() == b"\n"
        assert spent.cpu_us > 100_000
        child.communicate(b"\n")


def test_processes_of_one_run_add_up() -> None:
    assert together([Sent(100, 2.0, 1_000.0), Sent(300, 3.0, 3_000.0)]) == Sample(150.0, 10.0)


async def test_a_program_that_fails_is_not_read() -> None:
    assert await output(sys.executable, "-c", "print('so')") == b"so\n"
    with pytest.raises(RuntimeError, match="ended with 3"):
        await output(sys.executable, "-c", "print('so'); raise SystemExit(3)")


@pytest.mark.parametrize("same", [True, False])
def test_a_batch_counts_only_with_its_answer(same: bool) -> None:
    def row(engine: str | None = None) -> list[int]:
        return [1, 2]

    theirs = [1, 2] if same else [2, 1]
    found = beside("x.y", "things/s", "two", n=2, rounds=1, ours=row, peer=("loop", lambda: theirs), goal=0, stretch=0)
    assert (found.same_answer, found.met) == ((True, "yes") if same else (False, "no: answers differ"))
