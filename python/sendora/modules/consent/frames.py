"""Frames of the log without what erased people had said.

Only whoever reads the log a second time comes here: the stores were rewound, or the log was restored from a copy. So it
is plain Python over the format that `rust/core/src/record.rs` describes.
"""

import struct
from typing import Final, NamedTuple

from sendora import _core
from sendora.modules.consent.tombstones import Tombstones

_LENGTH: Final = struct.Struct("<I")
_SHORT: Final = struct.Struct("<H")
_HEAD: Final = struct.Struct("<B16s16sq")
"""kind, org, project, when it was received."""

MAGIC_BYTES: Final = 5
DECLARED_BYTES: Final = 36
CRC_BYTES: Final = 4
INSTANT_BYTES: Final = 8

CHANGE: Final = 3
"""The kind of a record that changes a profile and is no event."""

ABSENT: Final = 0xFFFF

BEFORE_USER: Final = 2
"""Texts of an event before its user: type and module."""


class Remains(NamedTuple):
    """What is left of a frame."""

    data: bytes
    gone: list[int]
    """Ordinals of the events that were left out, among all events of the frame as it was, ascending."""


def strip(frame: bytes, position: int, tombstones: Tombstones) -> Remains:
    """Deletions stay whatever they delete. A damaged frame stays as it is: who reads it finds out."""
    try:
        projects = set(_core.frame_projects(frame))
    except ValueError:
        return Remains(frame, [])
    if projects.isdisjoint(project for _, project in tombstones.projects):
        return Remains(frame, [])
    kept: list[bytes] = []
    gone: list[int] = []
    ordinal = left_out = 0
    for record in _records(frame):
        kind, org, project, received_ms = _HEAD.unpack_from(record)
        ours = (org, project) in tombstones.projects
        name = _person(record, kind) if ours else None
        erased = name is not None and tombstones.cover(org, project, name, position, received_ms)
        if not erased:
            kept.append(_LENGTH.pack(len(record)) + record)
        elif kind != CHANGE:
            gone.append(ordinal)
        left_out += erased
        ordinal += kind != CHANGE
    return Remains(_core.frame([b"".join(kept)]) if left_out else frame, gone)


def _records(frame: bytes) -> list[bytes]:
    (declared,) = _LENGTH.unpack_from(frame, MAGIC_BYTES)
    at = MAGIC_BYTES + _LENGTH.size + declared * DECLARED_BYTES + _LENGTH.size
    records = []
    while at < len(frame) - CRC_BYTES:
        (length,) = _LENGTH.unpack_from(frame, at)
        at += _LENGTH.size
        records.append(frame[at : at + length])
        at += length
    return records


def _person(record: bytes, kind: int) -> bytes | None:
    """userId, else anonymousId, of an event; whom a change changes, unless it deletes."""
    at = _HEAD.size
    if kind == CHANGE:
        return None if record[-1] else _short(record, at)[0]
    at += INSTANT_BYTES
    for _ in range(BEFORE_USER):
        _, at = _short(record, at)
    user, at = _short(record, at)
    return user if user is not None else _short(record, at)[0]


def _short(record: bytes, at: int) -> tuple[bytes | None, int]:
    (length,) = _SHORT.unpack_from(record, at)
    at += _SHORT.size
    return (None, at) if length == ABSENT else (record[at : at + length], at + length)
