"""A function of the library that hashes a list, beside a loop of the standard library that gives the same."""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from loadtests.harness import in_turn
from loadtests.results import Figure, Sample, figure
from sendora import _core

T = TypeVar("T", covariant=True)


class Hashing(Protocol[T]):
    def __call__(self, engine: str | None = None) -> T:
        """All of the list; `engine` is one of `_core.hash_engines`."""


def beside(
    name: str,
    unit: str,
    what: str,
    *,
    n: int,
    rounds: int,
    ours: Hashing[T],
    peer: tuple[str, Callable[[], T]],
    goal: float,
    stretch: float,
) -> Figure:
    """A row: both sides do all `n` in turn. Their answers are compared once, which is the warm-up as well."""
    against, loop = peer
    same = ours() == loop()
    samples = in_turn(rounds, {"ours": partial(_timed, ours, n), against: partial(_timed, loop, n)}, warm=False)
    engines = {engine: _timed(partial(ours, engine), n).figure for engine in _core.hash_engines()}
    each = ", ".join(f"{engine} {rate / 1e6:.2f}M" for engine, rate in engines.items())
    return figure(
        name,
        unit,
        samples.pop("ours"),
        samples,
        goal=None,
        goals={against: goal},
        stretches={against: stretch},
        same_answer=same,
        note=f"{what}, on {os.cpu_count()} cores against one; {each}",
    )


def _timed(work: Callable[[], object], n: int) -> Sample:
    """Operations a second and CPU time for each."""
    began, cpu = time.perf_counter(), time.process_time()
    work()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return Sample(n / seconds, cpu / n * 1e6)
