"""A whole cluster on one machine: the embedded servers, and a process for each role.

`sendora dev`, the demo, the load test and the chaos tests start the same thing. A role is an ordinary `sendora ROLE`
process with its settings in the environment, exactly as an operator would run it; only processes that were started
here are ever ended. The simulator comes first, because the others must trust its certificate and may dial it.
"""

import asyncio
import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from sendora.kernel.config import Settings, load
from sendora.kernel.embedded import Embedded, guarded
from sendora.kernel.pg import migrate

READY_WITHIN_S: Final = 60.0
"""A cold first start of PostgreSQL (initdb) and seven Python processes on two busy cores take about ten seconds."""

STOP_WITHIN_S: Final = 20.0
"""A drain is at most a request's timeout and two seconds; then SIGKILL, and the ledger says what that did."""


class RoleDied(RuntimeError):
    """A process of the cluster ended before it was told to; carries the end of its log."""


class Role:
    """One process of the cluster."""

    def __init__(self, name: str, arguments: list[str], environment: Mapping[str, str], log: Path | None) -> None:
        self.name = name
        self.log = log
        self._arguments = arguments
        self._environment = environment
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        output = None if self.log is None else self.log.open("ab")
        try:
            command = guarded([sys.executable, "-m", "sendora", *self._arguments])
            self.process = await asyncio.create_subprocess_exec(
                *command, env=self._environment, stdout=output, stderr=output
            )
        finally:
            if output is not None:
                output.close()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def pid(self) -> int:
        if self.process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self.process.pid

    @property
    def memory_mb(self) -> float:
        """Resident memory of the process and its children."""
        pids = [self.pid]
        for pid in pids:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                pids += map(int, task.read_text().split())
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    async def kill(self) -> None:
        """SIGKILL: what a crash of the process looks like."""
        if self.process is not None and self.alive:
            self.process.send_signal(signal.SIGKILL)
            await self.process.wait()

    async def stop(self) -> None:
        if self.process is None or not self.alive:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), STOP_WITHIN_S)
        except TimeoutError:
            await self.kill()

    def tail(self, lines: int = 20) -> str:
        if self.log is None or not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Cluster:
    """Embedded servers, migrations, simulator and roles under one data folder."""

    def __init__(
        self,
        folder: Path,
        *,
        dispatchers: int = 1,
        simulator: bool = True,
        logs_to_terminal: bool = False,
        extra: Mapping[str, str] | None = None,
        port: int = 0,
    ) -> None:
        self.folder = folder
        self.servers = Embedded(folder / "servers")
        self.roles: dict[str, Role] = {}
        self.environment: dict[str, str] = {}
        self._dispatchers = dispatchers
        self._simulator = simulator
        self._logs_to_terminal = logs_to_terminal
        self._extra = dict(extra or {})
        self._port = port or free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def simulator_url(self) -> str:
        return str(self._simulator_ready()["url"])

    @property
    def simulator_ca(self) -> Path:
        return Path(str(self._simulator_ready()["caFile"]))

    @property
    def simulator_log(self) -> Path:
        return self.folder / "simulator" / "requests.jsonl"

    @property
    def settings(self) -> Settings:
        return load(self.environment)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        served = await asyncio.to_thread(self.servers.start)
        plain = {name: value for name, value in os.environ.items() if not name.startswith("SENDORA_")}
        self.environment = {
            **plain,
            **served,
            "SENDORA_HTTP__HOST": "127.0.0.1",
            "SENDORA_HTTP__PORT": str(self._port),
            "SENDORA_HTTP__BASE_URL": self.url,
            "SENDORA_AUDIENCES__SNAPSHOT_DIR": str(self.folder / "audiences"),
            **({"SENDORA_LOG__FORMAT": "console"} if self._logs_to_terminal else {}),
            **self._extra,
        }
        await migrate(self.settings.postgres)
        if self._simulator:
            await self._start_simulator()
        for name, arguments in (
            ("api", ["api"]),
            ("worker", ["worker"]),
            *((f"dispatch-{number}", ["dispatch"]) for number in range(1, self._dispatchers + 1)),
            ("scheduler", ["scheduler"]),
        ):
            await self.add(name, arguments)
        await self._ready()

    async def add(self, name: str, arguments: list[str], extra: Mapping[str, str] | None = None) -> Role:
        """Start one more process of the cluster."""
        log = None if self._logs_to_terminal else self.folder / "logs" / f"{name}.log"
        role = Role(name, arguments, {**self.environment, **(extra or {})}, log)
        self.roles[name] = role
        await role.start()
        return role

    async def stop(self) -> None:
        """Drain the roles, then the simulator, then the servers."""
        simulator = self.roles.pop("simulator", None)
        await asyncio.gather(*(role.stop() for role in self.roles.values()))
        if simulator is not None:
            await simulator.stop()
        await asyncio.to_thread(self.servers.stop)

    def check(self) -> None:
        """Raise RoleDied when a process has ended on its own."""
        for role in self.roles.values():
            if not role.alive:
                raise RoleDied(f"{role.name} ended early:\n{role.tail()}")

    async def ask_simulator(self, method: str, path: str, body: object | None = None) -> Any:
        """Call one of the simulator's own endpoints, such as `/_/credentials` or `/_/mint`."""
        trust = ssl.create_default_context(cafile=str(self.simulator_ca))
        async with httpx.AsyncClient(verify=trust, trust_env=False, timeout=60) as client:
            answer = await client.request(method, self.simulator_url + path, json=body)
            answer.raise_for_status()
            return answer.json() if answer.content else None

    async def _start_simulator(self) -> None:
        folder = self.folder / "simulator"
        folder.mkdir(exist_ok=True)
        port = free_port()
        self.environment |= {
            "SENDORA_SIMULATOR__PORT": str(port),
            "SENDORA_SIMULATOR__LOG_FILE": str(self.simulator_log),
            "SENDORA_SIMULATOR__CERTIFICATE_DIR": str(folder),
            "SENDORA_SIMULATOR__READY_FILE": str(folder / "ready.json"),
        }
        await self.add("simulator", ["simulator"])
        await self._until(lambda: (folder / "ready.json").exists(), "the simulator")
        url = self.simulator_url
        self.environment |= {
            "SENDORA_OUTBOUND__ALLOW": f"127.0.0.1:{port}",
            "SENDORA_OUTBOUND__CA_FILE": str(self.simulator_ca),
            "SENDORA_OUTBOUND__PUSH_SERVICES": f"127.0.0.1:{port}",
            "SENDORA_OUTBOUND__TOKEN_ENDPOINTS": f"{url}/token",
            "SENDORA_PUSH__APNS_PRODUCTION_URL": url,
            "SENDORA_PUSH__APNS_SANDBOX_URL": f"{url}/sandbox",
            "SENDORA_PUSH__FCM_URL": url,
        }

    def _simulator_ready(self) -> dict[str, object]:
        ready: dict[str, object] = json.loads((self.folder / "simulator" / "ready.json").read_text())
        return ready

    async def _ready(self) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            deadline = asyncio.get_running_loop().time() + READY_WITHIN_S
            while asyncio.get_running_loop().time() < deadline:
                self.check()
                try:
                    if (await client.get(f"{self.url}/readyz")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.1)
        raise RoleDied(f"the API was not ready in {READY_WITHIN_S:.0f} s:\n{self.roles['api'].tail()}")

    async def _until(self, ready: Callable[[], bool], what: str) -> None:
        deadline = asyncio.get_running_loop().time() + READY_WITHIN_S
        while not ready():
            self.check()
            if asyncio.get_running_loop().time() > deadline:
                raise RoleDied(f"{what} was not ready in {READY_WITHIN_S:.0f} s")
            await asyncio.sleep(0.05)


def free_port() -> int:
    """A port that was free a moment ago; whoever binds it finds out if that is no longer so."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
