"""A cluster with a fleet of devices, for the benchmarks of sends.

People and devices are written straight into their tables, because registering a million of them through the API would
measure ingest for minutes. Everything after that goes through the API: credentials, the audience, the sends.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
import httpx
import msgspec
import psutil
import uuid_utils

from loadtests.harness import cpu_us
from sendora import _core
from sendora.cluster import Cluster
from sendora.kernel.ids import new_id
from sendora.modules import orgs

FCM_PART: Final = 0.6
"""The rest is APNs: the mix of the figure."""

BATCH: Final = 10_000
"""As many tokens as the simulator mints at a time."""
EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
LIMIT: Final = orgs.RateLimit(per_second=100_000, burst=100_000)
UNBOUND: Final = {"SENDORA_DISPATCH__FCM_PER_MINUTE": "0"}
"""The simulator has no quota: what is measured is what the sender can do. With Google's own 10,000 a second 600,000
devices take a minute, whoever sends."""


class Fleet:
    """The org, its keys and its devices, on a running cluster."""

    def __init__(self, cluster: Cluster, keys: orgs.Bootstrapped, http: httpx.AsyncClient) -> None:
        self.cluster = cluster
        self.keys = keys
        self.audience = ""
        self._http = http

    async def call(self, method: str, path: str, body: object | None = None) -> Any:
        answer = await self._http.request(method, f"/api/v1{path}", json=body)
        if answer.is_error:
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        return answer.json()["data"]

    async def configure(self) -> None:
        minted = await self.cluster.ask_simulator("GET", "/_/credentials")
        await self.call("PUT", "/push/providers/apns", minted["apns"])
        await self.call("PUT", "/push/providers/fcm", {"serviceAccount": minted["fcm"]["serviceAccount"]})

    async def fill(self, devices: int) -> None:
        """One person for each device, `u0`, `u1`, ..; then the audience of everybody, evaluated once."""
        connection = await asyncpg.connect(self.cluster.settings.postgres.url)
        try:
            for low in range(0, devices, BATCH):
                await self._place(connection, range(low, min(low + BATCH, devices)))
            await connection.execute("VACUUM (ANALYZE) profiles")
            await connection.execute("VACUUM (ANALYZE) push_tokens")
        finally:
            await connection.close()
        self.audience = (await self.call("POST", "/audiences", {"name": "everybody", "rules": {"all": []}}))["id"]
        deadline = time.monotonic() + 120
        while (await self.call("GET", f"/audiences/{self.audience}"))["estimatedSize"] != devices:
            if time.monotonic() > deadline:
                raise RuntimeError("the audience was not counted within two minutes")
            await asyncio.sleep(0.5)

    async def _place(self, connection: asyncpg.Connection, numbers: range) -> None:
        org, project = self.keys.org, self.keys.project
        people = [f"u{n}" for n in numbers]
        tokens: dict[int, str] = {}
        for transport in ("apns", "fcm"):
            mine = [n for n in numbers if transport_of(n) == transport]
            body = {"transport": transport, "tokens": [f"ok-{n}" for n in mine]}
            tokens |= zip(mine, (await self.cluster.ask_simulator("POST", "/_/mint", body))["tokens"], strict=True)
        namespace = uuid_utils.UUID(str(project))
        await connection.copy_records_to_table(
            "profiles",
            records=[
                (org, project, name, UUID(str(uuid_utils.uuid5(namespace, name))), "{}", EPOCH, EPOCH)
                for name in people
            ],
            columns=["org_id", "project_id", "external_id", "id", "traits", "created_at", "last_seen_at"],
        )
        shards = _core.shards(project.bytes, people)
        await connection.copy_records_to_table(
            "push_tokens",
            records=[
                (org, new_id(), project, tokens[n], PLATFORMS[transport_of(n)], name, EPOCH, shard, "en", EPOCH)
                for n, name, shard in zip(numbers, people, shards, strict=True)
            ],
            columns=[
                "org_id", "id", "project_id", "token", "platform", "user_id", "owner_since", "shard", "locale",
                "registered_at",
            ],
        )  # fmt: skip

    async def broadcast(self) -> UUID:
        body = {"title": "Hello", "body": "Something is new for you", "audienceId": self.audience}
        return UUID((await self.call("POST", "/push/send", body))["id"])

    async def begun(self, send: UUID, within_s: float = 60.0) -> float:
        """The instant (`time.time()`) at which the first outcomes were committed."""
        return await self._until(BEGUN, [send], within_s)

    async def settled(self, *sends: UUID, within_s: float) -> float:
        """The instant (`time.time()`) at which every outcome of the sends was committed."""
        return await self._until(SETTLED, list(sends), within_s)

    async def planned_ms(self, send: UUID) -> float:
        """The instant at which the last of its chunks stood in the queue."""
        connection = await asyncpg.connect(self.cluster.settings.postgres.url)
        try:
            planned_at: datetime = await connection.fetchval("SELECT planned_at FROM sends WHERE id = $1", send)
        finally:
            await connection.close()
        return planned_at.timestamp() * 1_000

    async def balance(self, send: UUID) -> dict[str, int]:
        """The numbers of the reconciliation, which are checked to balance."""
        row = await self.call("GET", f"/push/sends/{send}/reconciliation")
        numbers = {name: row[name] for name in ("targeted", *OUTCOMES)}
        if numbers["targeted"] != sum(numbers[name] for name in OUTCOMES):
            raise RuntimeError(f"the send {send} does not balance: {row}")
        return numbers

    async def _until(self, question: str, sends: list[UUID], within_s: float) -> float:
        """Asked every 50 ms."""
        connection = await asyncpg.connect(self.cluster.settings.postgres.url)
        try:
            deadline = time.monotonic() + within_s
            while time.monotonic() < deadline:
                if await connection.fetchval(question, self.keys.org, sends):
                    return time.time()
                self.cluster.check()
                await asyncio.sleep(0.05)
        finally:
            await connection.close()
        raise RuntimeError(f"the sends were not so far after {within_s:.0f} s")

    async def requests(self, sends: set[str] | None) -> Iterator["Request"]:
        """The simulator's log of these sends, or of all."""
        await self.cluster.ask_simulator("POST", "/_/flush", {})
        return (
            request
            for line in self.cluster.simulator_log.open("rb")
            if (request := msgspec.json.decode(line, type=Request)) and (sends is None or request.send_id in sends)
        )

    def cpu_s(self) -> Mapping[str, float]:
        """CPU time of each process of the cluster so far, servers included."""
        used = {name: cpu_us(role.pid) / 1e6 for name, role in self.cluster.roles.items()}
        ours = {role.pid for role in self.cluster.roles.values()}
        for child in psutil.Process().children():
            if child.pid not in ours:
                used[child.name()] = used.get(child.name(), 0.0) + cpu_us(child) / 1e6
        return used


class Request(msgspec.Struct, frozen=True, rename="camel"):
    """A line of the simulator's log."""

    at: int
    token: str
    send_id: str | None = None
    status: int | None = None


@asynccontextmanager
async def fleet(folder: Path, devices: int, *more: int, dispatchers: int = 1) -> AsyncIterator[list[Fleet]]:
    """A tenant for each number of devices, on one cluster."""
    async with Cluster(folder, dispatchers=dispatchers, extra=UNBOUND) as cluster, AsyncExitStack() as stack:
        tenants = []
        for number, size in enumerate((devices, *more)):
            keys = await orgs.bootstrap(cluster.settings, f"Bench {number}", "business", "bench", LIMIT)
            headers = {"x-api-key": keys.secret_key}
            http = httpx.AsyncClient(base_url=cluster.url, headers=headers, trust_env=False, timeout=60)
            tenants.append(Fleet(cluster, keys, await stack.enter_async_context(http)))
            await tenants[-1].configure()
            await tenants[-1].fill(size)
        yield tenants


def transport_of(number: int) -> str:
    return "fcm" if number % 10 < FCM_PART * 10 else "apns"


PLATFORMS: Final = {"apns": "ios", "fcm": "android"}

OUTCOMES: Final = ("accepted", "rejected", "suppressed", "expired", "unknown", "open")

BEGUN: Final = "SELECT EXISTS (SELECT FROM deliveries WHERE org_id = $1 AND send_id = ANY ($2))"

SETTLED: Final = """
    SELECT bool_and(planned_at IS NOT NULL AND NOT EXISTS (
        SELECT FROM chunks c WHERE c.org_id = s.org_id AND c.send_id = s.id AND c.closed_at IS NULL))
      FROM sends s WHERE s.org_id = $1 AND s.id = ANY ($2)
"""
