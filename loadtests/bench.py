"""`make bench`: each figure beside its peers, in one run, in turn.

Without a name all benchmarks run, each in a process of its own: one that fails takes no other with it, and what one
leaves in memory is not in the way of the next. `--list` names them, `--check` reads the kept results.
"""

import importlib
import importlib.util
import subprocess
import sys
import time
from typing import Final

from loadtests import results

NAMES: Final = (
    "ingest",
    "audience",
    "memory",
    "bucket",
    "sign",
    "dispatch",
    "push",
    "webpush",
    "broadcast",
    "fairness",
)
"""`loadtests/NAME.py` has `main(arguments)`, which publishes rows called `NAME.something`. In the order of a message's
life, and only imported when it runs."""

USAGE: Final = f"make bench NAME=one of: {', '.join(NAMES)} (ARGS=... for one; QUICK=1 for all in ten minutes)"


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--list"]:
        print("\n".join(there()))
        return 0
    if arguments[:1] == ["--check"]:
        return _check()
    if not arguments:
        return _all()
    name, *rest = arguments
    if name not in NAMES:
        print(f"unknown benchmark {name!r}; {USAGE}", file=sys.stderr)
        return 2
    if name not in there():
        print(f"{name} is not written yet", file=sys.stderr)
        return 2
    began = time.monotonic()
    importlib.import_module(f"loadtests.{name}").main(rest)
    print(f"{name}: {time.monotonic() - began:.0f} s")
    return 0


def there() -> list[str]:
    return [name for name in NAMES if importlib.util.find_spec(f"loadtests.{name}") is not None]


def _all() -> int:
    began = time.monotonic()
    ended: dict[str, tuple[int, float]] = {}
    for name in there():
        print(f"-- {name}", flush=True)
        at = time.monotonic()
        code = subprocess.run([sys.executable, "-m", "loadtests.bench", name], check=False).returncode
        ended[name] = code, time.monotonic() - at
    rows = [row for name, (code, _) in ended.items() if not code for row in results.kept().get(name, [])]
    results.show(rows)
    for name, (code, seconds) in ended.items():
        print(f"{name:10} {'done' if not code else f'FAILED ({code})':12} {seconds:6.0f} s")
    print(f"{'all':10} {'':12} {time.monotonic() - began:6.0f} s")
    return 1 if any(code for code, _ in ended.values()) or _check() else 0


def _check() -> int:
    found = results.check()
    for fault in found:
        print(fault, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
