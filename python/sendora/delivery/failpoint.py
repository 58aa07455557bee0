"""Named places where a test may end the process: deterministic crashes instead of luck (one for each step of the
floor).

`SENDORA_FAILPOINT="dispatch.after_write:kill@n=137"` kills the process at the 137th time that it comes by. Several are
separated by commas. `kill` is SIGKILL, `stop` is SIGSTOP (for whoever sends SIGCONT), `raise` throws `Crash`, which
ends a service as a kill would, without its process: nothing is flushed, released or said.
"""

import os
import re
import signal
from typing import Final

import msgspec

VARIABLE: Final = "SENDORA_FAILPOINT"

POINTS: Final = (
    "plan.before_evaluate",
    "plan.mid_insert",
    "plan.after_commit",
    "plan.after_wake",
    "dispatch.before_mark",
    "dispatch.after_mark",
    "dispatch.after_write",
    "dispatch.after_answer",
    "dispatch.mid_end",
    "ledger.before_commit",
    "ledger.after_commit",
    "shard.after_lease",
)

_SPEC: Final = re.compile(r"([a-z_.]+):(kill|stop|raise)(?:@n=([1-9][0-9]*))?")


class Crash(BaseException):
    """The end of a process, thrown. Not an Exception: nobody recovers from being killed."""


class _Armed(msgspec.Struct):
    action: str
    left: int


_armed: dict[str, _Armed] = {}


def arm(spec: str) -> None:
    """Set points; raises ValueError for one that does not exist, so that a test cannot wait for nothing."""
    for part in filter(None, (part.strip() for part in spec.split(","))):
        found = _SPEC.fullmatch(part)
        if found is None or found[1] not in POINTS:
            raise ValueError(f"{VARIABLE}: no such failpoint: {part}")
        _armed[found[1]] = _Armed(found[2], int(found[3] or 1))


def disarm() -> None:
    _armed.clear()


def armed(point: str) -> bool:
    """For places where coming by is not free."""
    return point in _armed


def hit(point: str) -> None:
    if not _armed:
        return
    at = _armed.get(point)
    if at is None:
        return
    at.left -= 1
    if at.left:
        return
    del _armed[point]
    if at.action == "raise":
        raise Crash(point)
    os.kill(os.getpid(), signal.SIGKILL if at.action == "kill" else signal.SIGSTOP)


# Whatever starts the process, its environment arms it.
arm(os.environ.get(VARIABLE, ""))
