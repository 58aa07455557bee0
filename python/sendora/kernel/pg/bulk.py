"""Binary COPY, in and out: how batches cross from PostgreSQL to the library without a Python object for each row."""

import re
from collections.abc import AsyncIterable, Callable, Sequence
from typing import Any, Final

from sendora.kernel.pg.database import Connection

_COUNT: Final = re.compile(r"COPY (\d+)")


async def copy_in(
    connection: Connection, table: str, columns: Sequence[str], data: bytes | AsyncIterable[bytes]
) -> int:
    """COPY the library's `pgcopy` bytes into a table (temporary ones too); how many rows went in.

    The bytes are wrapped because asyncpg takes plain `bytes` for the name of a file.
    """
    source: Any = memoryview(data) if isinstance(data, bytes) else data
    return _count(await connection.copy_to_table(table, source=source, columns=columns, format="binary"))


async def copy_out(connection: Connection, sql: str, *args: Any, sink: Callable[[bytes], object]) -> int:
    """COPY a query's rows out in binary, feeding each piece to the sink as it comes; how many rows came.

    The pieces are cut anywhere. COPY takes no parameters, so asyncpg puts the arguments into the text as literals that
    PostgreSQL itself has quoted: `$1` wants a cast where its type does not follow from the context.
    """

    async def feed(piece: bytes) -> None:
        # asyncpg hands on a bytearray; the library reads bytes.
        sink(bytes(piece))

    return _count(await connection.copy_from_query(sql, *args, output=feed, format="binary"))


def _count(status: str) -> int:
    match = _COUNT.fullmatch(status)
    if match is None:
        raise RuntimeError(f"not a COPY status: {status}")
    return int(match[1])
