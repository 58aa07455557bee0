"""Rows of the scoreboard: what a ratio means, when a goal is met, and what a results file must hold."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests import results
from loadtests.results import Figure, Sample, faults, figure, ratio, side

POSITIVE = st.floats(1e-6, 1e9)


def row(ours: float, peers: dict[str, float] | None = None, **given: Any) -> Figure:
    sides = {name: [Sample(value, 1.0)] for name, value in (peers or {}).items()}
    defaults: dict[str, Any] = {"goal": None, "same_answer": True}
    return figure("x.y", "things/s", [Sample(ours, 2.0)], sides, **(defaults | given))


def test_a_side_is_median_range_and_median_cpu() -> None:
    found = side([Sample(3, 30), Sample(1, 10), Sample(2, 1)])
    assert (found.median, found.min, found.max, found.cpu_us_per_op) == (2, 1, 3, 10)
    assert side([Sample(0.000123456, 0.0123456)]).median == 0.00012346


@given(POSITIVE, POSITIVE)
def test_a_ratio_above_one_is_better_for_rates_and_times(ours: float, peer: float) -> None:
    rate, time = ratio(ours, peer, higher_is_better=True), ratio(ours, peer, higher_is_better=False)
    if ours > peer * 1.001:
        assert rate > 1 > time
    if ours == peer:
        assert rate == time == 1
    assert rate * time == pytest.approx(1, rel=1e-3)


def test_goals_are_bounds_and_ratios() -> None:
    assert row(10).met == ""
    assert row(10, goal=10).met == "yes"
    assert row(9, goal=10).met == "no"
    assert row(9, goal=10, higher_is_better=False).met == "yes"
    assert row(10, {"a": 2}, goals={"a": 5}).met == "yes"
    assert row(10, {"a": 3}, goals={"a": 5}).met == "no"
    assert row(10, {"a": 50}, goals={"a": 5}, higher_is_better=False).met == "yes"
    assert row(10, {"a": 2}, goal=11, goals={"a": 5}).met == "no"


def test_a_peer_that_is_missing_is_not_beaten() -> None:
    assert row(10, {"a": 2}, goals={"a": 5, "b": 1}).met == "in part: a peer is missing"
    assert row(10, {"a": 3}, goals={"a": 5, "b": 1}).met == "no"
    assert figure("x.y", "", [Sample(1, 1)], {"a": []}, goal=None, same_answer=True).peers == {}


def test_another_answer_meets_nothing() -> None:
    assert row(10, goal=1, same_answer=False).met == "no: answers differ"


def test_a_kept_file_reads_back() -> None:
    text = msgspec.json.encode([row(10, {"a": 4}, goal=1, goals={"a": 2}, stretch=20, stretches={"a": 3})])
    assert faults("x", text) == []
    assert msgspec.json.decode(text, type=list[Figure])[0].ratios == {"a": 2.5}


@pytest.mark.parametrize("key", sorted(results.REQUIRED))
def test_each_required_key_is_missed(key: str) -> None:
    raw = msgspec.to_builtins([row(10, {"a": 4})])
    del raw[0][key]
    assert faults("x", msgspec.json.encode(raw)) == [f"x: a row without {key}"]


def test_what_does_not_fit_is_told() -> None:
    def changed(**change: object) -> list[str]:
        return faults("x", msgspec.json.encode([msgspec.to_builtins(row(10, {"a": 4})) | change]))

    assert "says" not in "".join(changed())
    assert "the figures say 2.5" in changed(ratios={"a": 0.4})[0]
    assert "not the same" in changed(ratios={})[0]
    assert "is not called" in changed(name="z.y")[0]
    assert "outside" in changed(ours={"median": 3, "min": 4, "max": 5, "cpu_us_per_op": 0})[0]
    assert "nowhere" in changed(commit="")[0]
    assert faults("x", b"[]") == ["x: no row"]
    assert faults("x", b"{")[0].startswith("x: ")


def test_the_kept_results_are_whole() -> None:
    assert results.check() == []


def test_the_readme_gets_a_line_for_each_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, readme = tmp_path / "results", tmp_path / "README.md"
    folder.mkdir()
    readme.write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
    monkeypatch.setattr(results, "FOLDER", folder)
    monkeypatch.setattr(results, "README", readme)
    rows = [row(123456, {"echo": 61728}, goals={"echo": 3}, stretches={"echo": 4}, note="a|b")]
    (folder / "x.json").write_bytes(msgspec.json.encode(rows))
    results.write_readme()
    once = readme.read_text()
    ours, peer = "123,460 (123,460 to 123,460) | 2", "echo: 61,728 (x2), 1 us"
    assert f"| x.y | things/s | {ours} | {peer} | x3 echo (stretch x4) | no | a/b |" in once.splitlines()
    assert once.startswith("before\n") and once.endswith(f"{results.END}\nafter\n") and "old" not in once
    results.write_readme()
    assert readme.read_text() == once
