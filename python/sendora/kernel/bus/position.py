"""Where something stands in the log, and a message of it."""

import re
from typing import Final, NewType

import msgspec

LANE: Final = 0
"""One lane until one is too slow: a lane is one stream leader's speed, and order holds within a lane."""

SYSTEM: Final = "events.system"
"""The subject of what the system itself says of somebody (B049). It is of the same stream, so a position is one of the
log whatever the subject, and whoever wants these alone need not read the rest."""

Position = NewType("Position", int)
"""The stream's sequence. As text it names its lane: "0-4711"."""


class Message(msgspec.Struct, frozen=True):
    """A message as a consumer gets it."""

    subject: str
    data: bytes
    position: int
    deliveries: int
    """1 for the first time."""


def position_text(position: Position) -> str:
    return f"{LANE}-{position}"


def parse_position(text: str) -> Position | None:
    """The position that a client sent back, or None if it is none."""
    found = re.fullmatch(rf"{LANE}-(\d{{1,18}})", text, re.ASCII)
    return None if found is None else Position(int(found[1]))
