"""The pool, jsonb, named SQL, COPY, and what it means that PostgreSQL is away."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import asyncpg
import msgspec
import pytest
from tests.conftest import eventually

from sendora.kernel.config import Postgres, load
from sendora.kernel.embedded import Embedded
from sendora.kernel.pg import Database, copy_in, copy_out, is_away, queries


@pytest.fixture(scope="module")
async def own(settings_postgres: Postgres) -> AsyncIterator[Database]:
    db = await Database.open(settings_postgres)
    yield db
    await db.close()


@pytest.fixture(scope="module")
def settings_postgres(servers: Embedded) -> Postgres:
    return load(servers.environment).postgres


async def test_jsonb_goes_in_and_comes_out_as_values(own: Database) -> None:
    value = {"a": [1, 2.5, None, "ü"], "b": {"c": True}}
    assert await own.fetchval("SELECT $1::jsonb", value) == value
    assert await own.fetchval("SELECT $1::jsonb", msgspec.Raw(b'{"raw":1}')) == {"raw": 1}
    assert await own.fetchval("SELECT $1::jsonb ->> 'a'", {"a": "x"}) == "x"
    assert await own.fetchval("SELECT $1::jsonb", None) is None


async def test_a_transaction_is_whole_or_nothing(own: Database) -> None:
    await own.execute("CREATE TABLE whole (n int)")
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with own.transaction() as connection:
            await connection.execute("INSERT INTO whole VALUES (1)")
            await connection.execute("SELECT 1 / 0")
    assert await own.fetchval("SELECT count(*) FROM whole") == 0


async def test_a_released_connection_carries_no_open_transaction(own: Database) -> None:
    async with own.acquire() as connection:
        pid = await connection.fetchval("SELECT pg_backend_pid()")
        await connection.execute("BEGIN")
    async with own.acquire() as connection:
        assert await connection.fetchval("SELECT pg_backend_pid()") == pid
        assert not connection.is_in_transaction()


async def test_a_statement_that_takes_too_long_ends(settings_postgres: Postgres) -> None:
    db = await Database.open(msgspec.structs.replace(settings_postgres, statement_timeout_ms=1_000))
    try:
        with pytest.raises(asyncpg.QueryCanceledError) as raised:
            await db.fetchval("SELECT pg_sleep(30)")
        assert is_away(raised.value)
    finally:
        await db.close()


async def test_copy_in_and_out_carry_bytes(own: Database) -> None:
    await own.execute("CREATE TABLE copied (id uuid, at timestamptz, doc jsonb)")
    await own.execute(
        "INSERT INTO copied SELECT gen_random_uuid(), now(), jsonb_build_object('n', n) FROM generate_series(1, 5000) n"
    )
    pieces: list[bytes] = []
    async with own.transaction() as connection:
        sent = await copy_out(
            connection, "SELECT * FROM copied WHERE (doc ->> 'n')::int <= $1::int", 3_000, sink=pieces.append
        )
        # Into how many pieces they are cut is up to the network.
        assert sent == 3_000
        assert pieces
        await connection.execute("CREATE TEMP TABLE again (LIKE copied) ON COMMIT DROP")
        assert await copy_in(connection, "again", ["id", "at", "doc"], b"".join(pieces)) == 3_000
        both = "SELECT count(*) FROM (SELECT * FROM copied INTERSECT SELECT * FROM again) both_have"
        assert await connection.fetchval(both) == 3_000

        async def stream() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        assert await copy_in(connection, "again", ["id", "at", "doc"], stream()) == 3_000


async def test_copy_out_quotes_what_a_caller_wrote(own: Database) -> None:
    hostile = "'; DROP TABLE copied; -- \\' $1 $2"
    got: list[bytes] = []
    async with own.acquire() as connection:
        assert await copy_out(connection, "SELECT $1::text, $2::uuid", hostile, UUID(int=7), sink=got.append) == 1
    assert hostile.encode() in b"".join(got)


async def test_a_sink_that_raises_ends_the_copy_and_the_pool_lives_on(own: Database) -> None:
    def sink(piece: bytes) -> None:
        raise ValueError("enough")

    async with own.acquire() as connection:
        with pytest.raises(ValueError, match="enough"):
            await copy_out(connection, "SELECT generate_series(1, 100000)", sink=sink)
    assert await own.fetchval("SELECT 1") == 1


def test_queries_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "queries.sql").write_text(
        "-- Why this room asks.\n-- reads: profiles\n\n"
        "-- name: find_key\n-- By prefix.\nSELECT 1\nWHERE true; -- really\n\n-- About the next one.\n"
        "-- name: other\nSELECT 2;\n-- name: last\nSELECT 3 -- three"
    )
    sql = queries(str(tmp_path / "store.py"))
    room = tmp_path.name
    assert sql.find_key == f"/* {room}.find_key */ -- By prefix.\nSELECT 1\nWHERE true"
    assert sql.other == f"/* {room}.other */ SELECT 2"
    assert sql.last == f"/* {room}.last */ SELECT 3 -- three\n"
    assert dir(sql) == ["find_key", "last", "other"]
    with pytest.raises(AttributeError, match="no statement named missing"):
        _ = sql.missing


@pytest.mark.parametrize(
    "text",
    [
        "-- name: a\n\n-- name: b\nSELECT 1;",
        "-- name: a\nSELECT 1;\n-- name: a\nSELECT 2;",
        "-- name: A-b\nSELECT 1;",
    ],
)
def test_a_file_of_queries_that_is_wrong_is_refused_when_it_is_loaded(tmp_path: Path, text: str) -> None:
    (tmp_path / "queries.sql").write_text(text)
    with pytest.raises(ValueError, match=r"queries\.sql"):
        queries(str(tmp_path / "store.py"))


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"), True),
        (asyncpg.AdminShutdownError("terminating connection"), True),
        (asyncpg.CannotConnectNowError("the database system is starting up"), True),
        (asyncpg.TooManyConnectionsError("sorry"), True),
        (asyncpg.DiskFullError("no space left"), True),
        (asyncpg.InterfaceError("cannot perform operation: connection is closed"), True),
        (asyncpg.InterfaceError("the server expects 1 argument for this query, 0 was passed"), False),
        (asyncpg.UniqueViolationError("duplicate key"), False),
        (asyncpg.DataError("invalid input"), False),
        (ValueError(), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_counts_as_away(error: Exception, away: bool) -> None:
    assert is_away(error) is away


@pytest.mark.rule("B032")
async def test_a_server_that_is_killed_is_away_and_the_pool_comes_back(server_folder: Path) -> None:
    """B032: every error between the kill and the restart is `is_away`, whatever asyncpg was doing."""
    embedded = await asyncio.to_thread(_started, server_folder / "killed")
    try:
        db = await Database.open(load(embedded.environment).postgres)
        sleeping = [asyncio.create_task(db.fetchval("SELECT pg_sleep(60)")) for _ in range(3)]

        async def copying() -> int:
            async with db.acquire() as connection:
                sql = "SELECT repeat('x', 1000) FROM generate_series(1, 10000) a, generate_series(1, 10000) b"
                return await copy_out(connection, sql, sink=lambda piece: None)

        sleeping.append(asyncio.create_task(copying()))
        await eventually(lambda: db.pool.get_size() - db.pool.get_idle_size() == 4)
        await asyncio.to_thread(embedded.kill, "postgres")
        errors = await asyncio.gather(*sleeping, return_exceptions=True)
        for _ in range(3):
            try:
                await db.fetchval("SELECT 1")
            except Exception as error:
                errors.append(error)
        assert len(errors) == 7
        assert [error for error in errors if not (isinstance(error, BaseException) and is_away(error))] == []
        await asyncio.to_thread(embedded.restart, "postgres")

        async def back() -> bool:
            try:
                return bool(await db.fetchval("SELECT 1") == 1)
            except Exception as error:
                assert is_away(error)
                return False

        assert await eventually(back)
        await db.close()
    finally:
        await asyncio.to_thread(embedded.stop)


async def test_instants_are_utc(own: Database) -> None:
    at = await own.fetchval("SELECT '2026-01-01T00:00:00+05'::timestamptz")
    assert at == dt.datetime(2025, 12, 31, 19, tzinfo=dt.UTC)
    assert await own.fetchval("SHOW timezone") == "UTC"


def _started(folder: Path) -> Embedded:
    embedded = Embedded(folder)
    embedded.start()
    return embedded
