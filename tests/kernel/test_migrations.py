"""Migrations: once each, whoever comes first, and never a changed file."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from sendora.kernel.config import Postgres
from sendora.kernel.pg import MigrationError, connect, migrate, pending


def _write(folder: Path, **files: str) -> Path:
    for name, sql in files.items():
        (folder / f"{name[1:]}.sql").write_text(sql)
    return folder


async def _value(settings: Postgres, sql: str) -> object:
    connection = await connect(settings)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_the_real_ones_apply_once(fresh_database: Postgres) -> None:
    waiting = await pending(fresh_database)
    assert waiting[0] == "0001_kernel_base"
    assert await migrate(fresh_database) == waiting
    assert await migrate(fresh_database) == []
    assert await pending(fresh_database) == []


async def test_two_at_once_apply_each_file_once(fresh_database: Postgres, tmp_path: Path) -> None:
    folder = _write(
        tmp_path,
        _0001_kernel_a="CREATE TABLE a (n int); INSERT INTO a SELECT 1 FROM pg_sleep(0.05);",
        _0002_kernel_b="INSERT INTO a VALUES (2);",
    )
    done = await asyncio.gather(*(migrate(fresh_database, folder) for _ in range(4)))
    assert sorted(map(len, done)) == [0, 0, 0, 2]
    assert await _value(fresh_database, "SELECT count(*) FROM a") == 2


async def test_a_file_that_fails_leaves_nothing_and_names_itself(fresh_database: Postgres, tmp_path: Path) -> None:
    bad = "CREATE TABLE b (n int); SELEC 1;"
    folder = _write(tmp_path, _0001_kernel_a="CREATE TABLE a (n int);", _0002_kernel_b=bad)
    with pytest.raises(MigrationError, match="0002_kernel_b: syntax error"):
        await migrate(fresh_database, folder)
    assert await pending(fresh_database, folder) == ["0002_kernel_b"]
    assert await _value(fresh_database, "SELECT to_regclass('b')") is None
    _write(tmp_path, _0002_kernel_b="CREATE TABLE b (n int);")
    assert await migrate(fresh_database, folder) == ["0002_kernel_b"]


async def test_a_changed_file_and_a_late_one_are_refused(fresh_database: Postgres, tmp_path: Path) -> None:
    folder = _write(tmp_path, _0001_kernel_a="CREATE TABLE a (n int);", _0003_kernel_c="CREATE TABLE c (n int);")
    await migrate(fresh_database, folder)
    _write(tmp_path, _0002_kernel_b="SELECT 1;")
    with pytest.raises(MigrationError, match="0002_kernel_b stands before 0003_kernel_c"):
        await migrate(fresh_database, folder)
    (folder / "0002_kernel_b.sql").unlink()
    _write(tmp_path, _0001_kernel_a="CREATE TABLE a (n bigint);")
    with pytest.raises(MigrationError, match="0001_kernel_a was changed"):
        await pending(fresh_database, folder)


async def test_an_index_may_be_made_outside_of_a_transaction(fresh_database: Postgres, tmp_path: Path) -> None:
    bare = "-- transaction: false\nCREATE INDEX CONCURRENTLY a_n ON a (n);\nCREATE INDEX CONCURRENTLY a_m ON a (n);\n"
    folder = _write(tmp_path, _0001_kernel_a="CREATE TABLE a (n int);", _0002_kernel_b=bare)
    assert await migrate(fresh_database, folder) == ["0001_kernel_a", "0002_kernel_b"]
    assert await _value(fresh_database, "SELECT count(*) FROM pg_indexes WHERE tablename = 'a'") == 2


@pytest.mark.parametrize(
    ("names", "said"),
    [(["1_kernel_a"], "expected NNNN"), (["0001_a", "0001_b"], "same number"), ([], "no migrations")],
)
async def test_files_that_are_misnamed_are_refused(
    fresh_database: Postgres, tmp_path: Path, names: list[str], said: str
) -> None:
    _write(tmp_path, **{f"_{name}": "SELECT 1" for name in names})
    with pytest.raises(MigrationError, match=said):
        await migrate(fresh_database, tmp_path)


async def test_a_database_that_is_not_there_is_an_error_of_postgres(fresh_database: Postgres) -> None:
    nowhere = Postgres(url=fresh_database.url.replace("/t_", "/nowhere_"))
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await migrate(nowhere)
