"""A pool of connections, and what it means that PostgreSQL is away.

A released connection is not reset by a round trip, as asyncpg would: nothing here leaves state behind in a session
(settings are `SET LOCAL`, locks and temporary tables end with their transaction), and the round trip would cost as much
as the shortest of our queries. An open transaction is rolled back all the same.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import asyncpg
import msgspec
from asyncpg.pool import PoolConnectionProxy

from sendora.kernel.config import Postgres

if TYPE_CHECKING:
    Connection: TypeAlias = PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
else:
    Connection = PoolConnectionProxy
    Pool = asyncpg.Pool

ACQUIRE_TIMEOUT_S: Final = 10.0
"""A request waits no longer than this for a connection; then it is 503, and the queue before the pool stays short."""

CLOSE_TIMEOUT_S: Final = 5.0
"""What is still running at the end of a drain has had its time."""

GRACE_S: Final = 5.0
"""How much longer than the server's own statement timeout we wait for its word: past that the network is gone."""

IDLE_TRANSACTION_TIMEOUT: Final = "60s"
"""A process that stands still inside a transaction (SIGSTOP, a paused machine) must not hold its locks for ever."""

JSONB_VERSION: Final = b"\x01"
"""The first byte of jsonb in PostgreSQL's binary format."""

Isolation = Literal["read_committed", "repeatable_read", "serializable"]


class Database:
    """The pool. Its methods take a connection for one statement; `transaction()` for several."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.partitions: set[tuple[str, int]] = set()
        """Partitions known to be there; see partitions.py."""

    @classmethod
    async def open(cls, settings: Postgres) -> "Database":
        pool = await asyncpg.create_pool(
            min_size=0,  # asyncpg would log a traceback for each try to keep more while the server is away.
            max_size=settings.pool_size,
            init=_init,
            reset=_no_reset,
            **_arguments(settings),
        )
        try:
            await pool.fetchval("SELECT 1")
        except BaseException:
            pool.terminate()
            raise
        return cls(pool)

    async def close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.pool.close()
        except TimeoutError:
            self.pool.terminate()

    async def fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        async with self.acquire() as connection:
            rows: list[asyncpg.Record] = await connection.fetch(sql, *args)
            return rows

    async def fetchrow(self, sql: str, *args: Any) -> asyncpg.Record | None:
        async with self.acquire() as connection:
            return await connection.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        async with self.acquire() as connection:
            return await connection.fetchval(sql, *args)

    async def execute(self, sql: str, *args: Any) -> str:
        async with self.acquire() as connection:
            return await connection.execute(sql, *args)

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        async with self.pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
            yield connection

    @asynccontextmanager
    async def transaction(self, isolation: Isolation = "read_committed") -> AsyncIterator[Connection]:
        async with self.acquire() as connection, connection.transaction(isolation=isolation):
            yield connection


async def connect(settings: Postgres) -> "asyncpg.Connection[asyncpg.Record]":
    """A connection of one's own, outside of any pool: for LISTEN and for migrations. The caller closes it."""
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(**_arguments(settings))
    await _init(connection)
    return connection


def is_away(exc: BaseException) -> bool:
    """Whether the server is away, or unable for now: the caller may come back (503), nothing is wrong with the request.

    asyncpg tells a lost connection in several ways: as PostgreSQL's class 08, as the bare OSError, as its own timeout,
    and as an InterfaceError of which the same class is also used for a wrong number of arguments.
    """
    if isinstance(exc, asyncpg.InterfaceError):
        said = str(exc)
        return any(part in said for part in _GONE)
    return isinstance(exc, _AWAY)


_AWAY: Final = (
    asyncpg.PostgresConnectionError,  # class 08
    asyncpg.InsufficientResourcesError,  # class 53: out of disk, memory or connections
    asyncpg.OperatorInterventionError,  # class 57: shutdown, restart, starting up, statement timeout
    asyncpg.PostgresSystemError,  # class 58: the disk failed
    asyncpg.ReadOnlySQLTransactionError,  # a primary that became a standby
    asyncpg.IdleInTransactionSessionTimeoutError,
    OSError,
    TimeoutError,
)

_GONE: Final = ("connection is closed", "pool is clos", "connection has been released", "connection was closed")


def _arguments(settings: Postgres) -> dict[str, Any]:
    return {
        "dsn": settings.url,
        "timeout": settings.connect_timeout_ms / 1_000,
        "command_timeout": settings.statement_timeout_ms / 1_000 + GRACE_S,
        "statement_cache_size": settings.statement_cache,
        "server_settings": {
            "application_name": "sendora",
            "statement_timeout": str(settings.statement_timeout_ms),
            "idle_in_transaction_session_timeout": IDLE_TRANSACTION_TIMEOUT,
            "TimeZone": "UTC",
        },
    }


async def _init(connection: Any) -> None:
    # In binary format: bytes go straight from msgspec to the wire, and COPY of records uses the same codec.
    await connection.set_type_codec("jsonb", encoder=_jsonb, decoder=_from_jsonb, schema="pg_catalog", format="binary")


async def _no_reset(connection: Any) -> None:
    """See the head of this file."""


def _jsonb(value: Any) -> bytes:
    return JSONB_VERSION + msgspec.json.encode(value)


def _from_jsonb(data: bytes) -> Any:
    return msgspec.json.decode(memoryview(data)[len(JSONB_VERSION) :])
