"""PostgreSQL's binary COPY format in a few lines: what the tests feed and read."""

import json
import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def rows(data: bytes) -> list[list[bytes | None]]:
    """The fields of every row; fails on anything that is not exactly one whole stream."""
    assert data.startswith(HEADER)
    at, found = len(HEADER), []
    while (columns := struct.unpack_from(">h", data, at)[0]) != -1:
        at += 2
        row: list[bytes | None] = []
        for _ in range(columns):
            length = struct.unpack_from(">i", data, at)[0]
            at += 4
            row.append(None if length < 0 else data[at : at + length])
            at += max(length, 0)
        found.append(row)
    assert at + 2 == len(data)
    return found


def instant(field: bytes | None) -> datetime:
    assert field is not None
    return EPOCH + timedelta(microseconds=struct.unpack(">q", field)[0])


def millis(field: bytes | None) -> int:
    return round((instant(field) - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1))


def jsonb(field: bytes | None) -> Any:
    assert field is not None and field[:1] == b"\x01"
    return json.loads(field[1:])


def texts(field: bytes | None) -> list[str]:
    assert field is not None
    if struct.unpack_from(">i", field)[0] == 0:
        return []
    at, found = 20, []
    for _ in range(struct.unpack_from(">i", field, 12)[0]):
        length = struct.unpack_from(">i", field, at)[0]
        found.append(field[at + 4 : at + 4 + length].decode())
        at += 4 + length
    assert at == len(field)
    return found


class Ms(int):
    """A timestamptz in milliseconds."""


class Int4(int):
    """An int4."""


class Date(int):
    """A date in days since 1970."""


class Json(str):
    """A jsonb."""


def stream(given: Iterable[Sequence[Any]]) -> bytes:
    """A COPY stream of str, UUID, bool, int (int2), `Int4`, `Date`, `Ms`, `Json` and None."""
    out = [HEADER]
    for row in given:
        out.append(struct.pack(">h", len(row)))
        for value in row:
            field = _field(value)
            out.append(struct.pack(">i", -1) if field is None else struct.pack(">i", len(field)) + field)
    return b"".join([*out, b"\xff\xff"])


def _field(value: Any) -> bytes | None:
    match value:
        case None:
            return None
        case bool():
            return bytes([value])
        case Ms():
            return struct.pack(">q", (value - 946_684_800_000) * 1000)
        case Int4():
            return struct.pack(">i", value)
        case Date():
            return struct.pack(">i", value - 10_957)
        case int():
            return struct.pack(">h", value)
        case Json():
            return b"\x01" + value.encode()
        case str():
            return value.encode()
        case UUID():
            return value.bytes
    raise TypeError(value)


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """The data in pieces of these sizes, over and over."""
    pieces, at, i = [], 0, 0
    while at < len(data):
        size = sizes[i % len(sizes)] if sizes else len(data)
        pieces.append(data[at : at + size])
        at, i = at + size, i + 1
    return pieces
