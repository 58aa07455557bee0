"""NATS: the log (JetStream), wakes and questions (core NATS).

**The log.** A record is on disk when `append` returns: the stream's server syncs each publish before it answers, which
is checked at start (F-N6). One fsync for each event would cap ingest at a few thousand a second, so records of many
requests share one message (`lane`). What reads the log is a stage (`stage`), fed by pull requests (`pull`).

**Wakes** carry no truth: a lost one costs its receiver a second. **Questions** have a deadline, and whoever answers
them is a service (`answering`).
"""

from sendora.kernel.bus.answering import Answering
from sendora.kernel.bus.checks import BusRefused, connect, examine, refusals
from sendora.kernel.bus.client import DEAD, EVENTS, KEEP_S, LIFECYCLE, Bus, is_away
from sendora.kernel.bus.position import LANE, SYSTEM, Message, Position, parse_position, position_text
from sendora.kernel.bus.pull import Gap
from sendora.kernel.bus.stage import StageRunner
from sendora.kernel.bus.tail import Missing, Tail, tail

__all__ = [
    "DEAD",
    "EVENTS",
    "KEEP_S",
    "LANE",
    "LIFECYCLE",
    "SYSTEM",
    "Answering",
    "Bus",
    "BusRefused",
    "Gap",
    "Message",
    "Missing",
    "Position",
    "StageRunner",
    "Tail",
    "connect",
    "examine",
    "is_away",
    "parse_position",
    "position_text",
    "refusals",
    "tail",
]
