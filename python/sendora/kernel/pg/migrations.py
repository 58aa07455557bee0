"""Migrations: plain SQL files, forward only, applied in the order of their names.

A file is `NNNN_<room>_<what>.sql`. Each is one transaction, together with the row in `schema_migrations` that remembers
its name and the digest of its bytes; a file that changed after it was applied is refused, because the databases out
there would differ from then on. Whoever migrates holds an advisory lock, so that any number of processes may try at
once. A file whose first line is `-- transaction: false` runs outside of one, statement by statement (CREATE INDEX
CONCURRENTLY).
"""

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg

from sendora.kernel.config import Postgres
from sendora.kernel.pg.database import Connection, connect

LOCK: Final = 0x53454E44_4F5241
"""The advisory lock of migrations: "SENDORA" in ASCII."""

_FILE: Final = re.compile(r"(?P<number>\d{4})_[a-z0-9_]+\.sql")
_BARE: Final = "-- transaction: false"

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name       text PRIMARY KEY,
    digest     bytea NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


class MigrationError(Exception):
    """The files and the database do not fit, or a statement failed; the message names the file."""


class Migration(NamedTuple):
    name: str
    digest: bytes
    sql: str


async def migrate(settings: Postgres, directory: Path | None = None) -> list[str]:
    """Apply what is missing; the names of what was applied now."""
    files = _read(directory or _directory())
    async with _locked(settings) as connection:
        await connection.execute(_TABLE)
        waiting = await _waiting(connection, files)
        for migration in waiting:
            await _apply(connection, migration)
        return [migration.name for migration in waiting]


async def pending(settings: Postgres, directory: Path | None = None) -> list[str]:
    """What `migrate` would apply now."""
    files = _read(directory or _directory())
    connection = await connect(settings)
    try:
        if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
            return [migration.name for migration in files]
        return [migration.name for migration in await _waiting(connection, files)]
    finally:
        await connection.close()


def _directory() -> Path:
    """In an installed package the files lie inside of it, in a checkout at the top of the repository."""
    package = Path(__file__).resolve().parents[2]
    for candidate in (package / "migrations", package.parents[1] / "migrations"):
        if candidate.is_dir():
            return candidate
    raise MigrationError("no migrations found; name their directory")


def _read(directory: Path) -> list[Migration]:
    migrations: list[Migration] = []
    numbers: dict[str, str] = {}
    for path in sorted(directory.glob("*.sql")):
        match = _FILE.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name}: expected NNNN_<room>_<what>.sql")
        if match["number"] in numbers:
            raise MigrationError(f"{path.name} and {numbers[match['number']]} have the same number")
        numbers[match["number"]] = path.name
        data = path.read_bytes()
        migrations.append(Migration(path.stem, hashlib.sha256(data).digest(), data.decode()))
    if not migrations:
        raise MigrationError(f"no migrations in {directory}")
    return migrations


@asynccontextmanager
async def _locked(settings: Postgres) -> AsyncIterator[Connection]:
    connection = await connect(settings)
    try:
        # A migration may take long, and so may waiting for another process that migrates.
        await connection.execute("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK, timeout=None)
        yield connection
    finally:
        await connection.close()  # Ends the session, and with it the lock.


async def _waiting(connection: Connection, files: list[Migration]) -> list[Migration]:
    rows = await connection.fetch("SELECT name, digest FROM schema_migrations ORDER BY name")
    applied: dict[str, bytes] = {row["name"]: row["digest"] for row in rows}
    waiting = []
    for migration in files:
        if migration.name not in applied:
            waiting.append(migration)
        elif applied[migration.name] != migration.digest:
            raise MigrationError(f"{migration.name} was changed after it had been applied; write a new file instead")
        elif waiting:
            raise MigrationError(
                f"{waiting[0].name} stands before {migration.name}, which is applied already; give it a later number"
            )
    return waiting


async def _apply(connection: Connection, migration: Migration) -> None:
    try:
        if migration.sql.startswith(_BARE):
            for statement in migration.sql.split(";\n"):
                if statement.strip():
                    await connection.execute(statement, timeout=None)
            await _remember(connection, migration)
            return
        async with connection.transaction():
            await connection.execute(migration.sql, timeout=None)
            await _remember(connection, migration)
    except asyncpg.PostgresError as error:
        raise MigrationError(f"{migration.name}: {error}") from error


async def _remember(connection: Connection, migration: Migration) -> None:
    await connection.execute(
        "INSERT INTO schema_migrations (name, digest) VALUES ($1, $2)", migration.name, migration.digest
    )
