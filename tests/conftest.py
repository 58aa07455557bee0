"""The servers that tests run against, and how tests wait.

One set of real servers (PostgreSQL, NATS, Valkey) for the whole session, migrated once. Tests do not clean up: each
makes an org of its own, and nothing of one org is seen by another. A test that kills servers or needs a database to
itself asks for one (`fresh_database`, or an `Embedded` of its own).
"""

import asyncio
import inspect
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, overload

import asyncpg
import hypothesis
import msgspec
import pytest

from sendora.kernel.config import Postgres, Settings, load
from sendora.kernel.embedded import Embedded
from sendora.kernel.ids import new_id
from sendora.kernel.life import Kernel, open_kernel
from sendora.kernel.pg import Database, migrate

# How long an example takes is the machine's affair, not the test's.
hypothesis.settings.register_profile("house", deadline=None)
hypothesis.settings.load_profile("house")

T = TypeVar("T")

POLL_S = 0.01


@overload
async def eventually(predicate: Callable[[], Awaitable[T]], timeout_s: float = ..., poll_s: float = ...) -> T: ...
@overload
async def eventually(predicate: Callable[[], T], timeout_s: float = ..., poll_s: float = ...) -> T: ...
async def eventually(predicate: Callable[[], Any], timeout_s: float = 10.0, poll_s: float = POLL_S) -> Any:
    """Ask until the answer is true, and return it; fail when the deadline has passed.

    The only way that a test waits: it is over as soon as what it waits for has happened. An AssertionError of the
    predicate counts as "not yet", so that it may say what is missing.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        said: object
        try:
            answer = predicate()
            value: Any = await answer if inspect.isawaitable(answer) else answer
            if value:
                return value
            said = value
        except AssertionError as error:
            said = error
        if loop.time() > deadline:
            pytest.fail(f"not within {timeout_s:g} s: {inspect.getsource(predicate).strip()}\nlast: {said!r}")
        await asyncio.sleep(poll_s)


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """Not pytest's own temporary folder: run by root, PostgreSQL runs as nobody and may not enter that."""
    folder = Path(tempfile.mkdtemp(prefix="sendora-tests-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def servers(server_folder: Path) -> Iterator[Embedded]:
    """Shared by all: not to be killed. A test that kills makes its own."""
    embedded = Embedded(server_folder / "shared")
    embedded.start()
    yield embedded
    embedded.stop()


@pytest.fixture(scope="session")
async def settings(servers: Embedded) -> Settings:
    settings = load(
        {
            **servers.environment,
            "SENDORA_LOG__LEVEL": "warning",
            "SENDORA_LOG__FORMAT": "console",
            "SENDORA_AUDIENCES__MEMORY_MB": "0",
        }
    )
    await migrate(settings.postgres)
    return settings


@pytest.fixture(scope="session")
async def kernel(settings: Settings) -> AsyncIterator[Kernel]:
    async with open_kernel(settings) as opened:
        yield opened


@pytest.fixture(scope="session")
def db(kernel: Kernel) -> Database:
    return kernel.db


@pytest.fixture
async def fresh_database(servers: Embedded, settings: Settings) -> AsyncIterator[Postgres]:
    """The settings of an empty database that nobody else uses."""
    name = f"t_{new_id().hex}"
    admin = await asyncpg.connect(servers.postgres_url("postgres"))
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        yield msgspec.structs.replace(settings.postgres, url=servers.postgres_url(name))
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


@pytest.fixture
async def fresh_migrated(fresh_database: Postgres) -> AsyncIterator[Database]:
    """A migrated database that nobody else uses."""
    await migrate(fresh_database)
    db = await Database.open(fresh_database)
    yield db
    await db.close()
