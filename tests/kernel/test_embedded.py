"""Servers from wheels: start, kill, restart, and no orphans."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import msgspec
import nats
import pytest
from tests.conftest import eventually

from sendora.kernel import embedded as embedded_servers
from sendora.kernel.config import load, master_key
from sendora.kernel.embedded import NAMES, Embedded, EmbeddedError, Name


@pytest.fixture(scope="module")
def embedded(server_folder: Path) -> Iterator[Embedded]:
    own = Embedded(server_folder / "embedded")
    own.start()
    yield own
    own.stop()


async def _rows(embedded: Embedded, sql: str) -> object:
    connection = await asyncpg.connect(embedded.postgres_url())
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_the_environment_makes_settings(embedded: Embedded) -> None:
    settings = load(embedded.environment)
    assert len(master_key(settings.vault)) == 32
    assert await _rows(embedded, "SELECT current_setting('fsync') || current_setting('max_connections')") == "on200"
    assert await _rows(embedded, "SELECT current_setting('data_checksums') || current_setting('jit')") == "onoff"


def test_the_log_writes_every_publish_to_disk(embedded: Embedded) -> None:
    with urllib.request.urlopen(f"{load(embedded.environment).nats.monitoring_url}/varz") as answer:
        varz = msgspec.json.decode(answer.read())
    assert varz["jetstream"]["config"]["sync_always"] is True
    assert varz["max_payload"] == 4 * 1024 * 1024
    assert varz["host"] == "127.0.0.1"


async def test_no_standard_port_and_no_open_door(embedded: Embedded) -> None:
    settings = load(embedded.environment)
    assert not settings.nats.url.endswith(":4222")
    with pytest.raises(nats.errors.Error):
        await nats.connect("nats://" + settings.nats.url.rpartition("@")[2], allow_reconnect=False, connect_timeout=2)
    folder = embedded.data_dir / "run"
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("how", ["kill", "restart"])
async def test_postgres_keeps_what_was_committed(embedded: Embedded, how: str) -> None:
    await _rows(embedded, f"CREATE TABLE kept_{how} AS SELECT 7 AS n")
    _again(embedded, "postgres", how)
    assert await _rows(embedded, f"SELECT n FROM kept_{how}") == 7


@pytest.mark.parametrize("how", ["kill", "restart"])
async def test_nats_keeps_what_was_acknowledged(embedded: Embedded, how: str) -> None:
    url = load(embedded.environment).nats.url
    client = await nats.connect(url)
    await client.jetstream().add_stream(name=how, subjects=[f"{how}.>"])
    position = (await client.jetstream().publish(f"{how}.x", b"kept")).seq
    await client.close()
    _again(embedded, "nats", how)
    client = await nats.connect(url)  # The same port.
    assert (await client.jetstream().get_msg(how, position)).data == b"kept"
    await client.close()


@pytest.mark.parametrize("how", ["kill", "restart"])
def test_valkey_comes_back_empty_on_the_same_socket(embedded: Embedded, how: str) -> None:
    def ask(line: bytes) -> bytes:
        path = load(embedded.environment).redis.url.removeprefix("unix://").partition("?")[0]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(line + b"\r\n")
            return client.recv(100)

    assert ask(b"SET a 1") == b"+OK\r\n"
    _again(embedded, "valkey", how)
    assert ask(b"GET a") == b"$-1\r\n"


async def test_a_paused_server_does_not_answer_and_then_does(embedded: Embedded) -> None:
    connection = await asyncpg.connect(embedded.postgres_url())
    embedded.pause("postgres")
    with pytest.raises(TimeoutError):
        await connection.fetchval("SELECT 1", timeout=0.1)
    embedded.resume("postgres")
    assert await _rows(embedded, "SELECT 1") == 1
    await connection.close()
    embedded.pause("postgres")
    embedded.restart("postgres")
    assert await _rows(embedded, "SELECT 1") == 1


def test_a_folder_belongs_to_one(embedded: Embedded) -> None:
    with pytest.raises(EmbeddedError, match="in use"):
        Embedded(embedded.data_dir).start()


def test_a_second_start_finds_its_data_and_its_key(server_folder: Path) -> None:
    first = Embedded(server_folder / "twice")
    key = first.start()["SENDORA_VAULT__KEY"]
    first.stop()
    second = Embedded(server_folder / "twice")
    assert second.start()["SENDORA_VAULT__KEY"] == key
    assert second.start() == second.environment  # Starting what runs is nothing.
    second.stop()
    assert not (server_folder / "twice" / "run" / "valkey.sock").exists()


def test_a_long_path_gets_its_sockets_elsewhere(server_folder: Path) -> None:
    own = Embedded(server_folder / ("long" * 30))
    own.start()
    sockets = Path(own.postgres_url().partition("host=")[2])
    assert sockets.is_dir()
    own.stop()
    assert not sockets.exists()


async def test_a_wheel_behind_a_closed_door(server_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a clone that root made in a folder of its own (`mktemp -d`): `nobody` runs a copy. An ordinary user may
    enter what is theirs."""
    closed = server_folder / "closed"
    closed.mkdir(mode=0o700)
    programs = embedded_servers._copied(embedded_servers._postgres_programs(), closed / "wheel")
    monkeypatch.setattr(embedded_servers, "_postgres_programs", lambda: programs)
    own = Embedded(server_folder / "behind")
    for _ in range(2):  # The copy is made anew.
        own.start()
        assert await _rows(own, "SELECT count(*) > 0 FROM pg_timezone_names") is True
        program = Path(f"/proc/{own.pid('postgres')}/exe").readlink()
        assert program.is_relative_to(own.data_dir if os.geteuid() == 0 else closed)
        own.stop()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_no_server_outlives_its_starter(server_folder: Path, number: signal.Signals) -> None:
    """Started from a thread that has ended, which Linux must not take for the parent's end."""
    folder = server_folder / f"orphans-{number.name}"
    program = f"""
import asyncio, sys, signal
from pathlib import Path
from sendora.kernel.embedded import Embedded, NAMES
embedded = Embedded(Path({str(folder)!r}))
asyncio.run(asyncio.to_thread(embedded.start))
print(*(embedded.pid(name) for name in NAMES), flush=True)
signal.pause()
"""
    starter = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pids = [int(word) for word in starter.stdout.readline().split()]
    assert len(pids) == len(NAMES)
    assert all(_alive(pid) for pid in pids)
    starter.send_signal(number)
    starter.wait()
    starter.stdout.close()
    await eventually(_none_alive(pids))


def test_a_server_that_cannot_start_says_why(server_folder: Path) -> None:
    own = Embedded(server_folder / "broken")
    own.start()
    own.stop()
    (own.data_dir / "postgres" / "data" / "PG_VERSION").write_text("9.1\n")
    with pytest.raises(EmbeddedError, match=r"postgres ended with 1:\n(?s:.*)not compatible"):
        own.start()
    with pytest.raises(KeyError):
        own.pid("nats")  # What had come up was stopped again.


def _again(embedded: Embedded, name: Name, how: str) -> None:
    pid = embedded.pid(name)
    if how == "kill":
        embedded.kill(name)
        assert not _alive(pid)
    embedded.restart(name)
    assert embedded.pid(name) != pid


def _alive(pid: int) -> bool:
    """Running, and not merely waiting for its parent to read its end (nobody may, in a container)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _none_alive(pids: list[int]) -> Callable[[], bool]:
    return lambda: not any(_alive(pid) for pid in pids)


def test_only_linux_counts_threads(embedded: Embedded) -> None:
    """The guard has become the server: its parent is this process."""
    for name in NAMES:
        status = Path(f"/proc/{embedded.pid(name)}/status").read_text()
        assert f"PPid:\t{os.getpid()}" in status
