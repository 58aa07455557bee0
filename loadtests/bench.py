"""`make bench NAME=...`: each figure beside its peer, in one run, in turn."""

import importlib
import sys
from typing import Final

NAMES: Final = ("ingest", "broadcast", "fairness", "audience", "memory")


def main() -> int:
    names = sys.argv[1:2] or NAMES
    for name in names:
        if name not in NAMES:
            print(f"unknown benchmark {name!r}; there are: {', '.join(NAMES)}", file=sys.stderr)
            return 2
        importlib.import_module(f"loadtests.{name}").main(sys.argv[2:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
