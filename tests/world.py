"""A world for stories: a cluster of real processes, the simulator as the oracle, and an org with both of its keys.

    async with cluster("flows") as running, settle(running) as world:
        await world.configure()
        await world.device("ok-phone", userId="ada")
        send = await world.send(userIds=["ada"], title="Hello", body="Ada")
        await world.ended(send)
        [push] = await world.pushed(send)

Flows share one cluster for each file and make an org for each story; chaos has a cluster for each test, because it
breaks it.
"""

import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import asyncpg
import httpx
import msgspec
from tests.api import Answer, Api
from tests.conftest import eventually

from sendora.cluster import Cluster
from sendora.demo.check import Report, check
from sendora.demo.client import Client, spread
from sendora.modules import orgs

LIMIT = orgs.RateLimit(per_second=50_000, burst=100_000)

CLOSED = ("sent", "failed", "suppressed", "cancelled")

TRIES = 10

POLL_S = 0.05
"""Between two questions to the API: the cluster that is asked shares two cores with whoever asks."""

Platform = Literal["ios", "android", "web"]
TRANSPORTS: dict[Platform, str] = {"ios": "apns", "android": "fcm", "web": "webpush"}


class Pushed(msgspec.Struct, frozen=True, rename="camel"):
    """A request that reached a provider: a line of the simulator's log."""

    at: int
    """Milliseconds since 1970."""
    transport: str
    token: str
    send_id: str | None
    delivery_id: str | None
    id: str | None
    status: int | None
    """None when it was never answered."""
    title: str | None
    body: str | None
    payload: str | None = None
    """The whole of it as the device gets it, with the simulator's switch `logPayloads`; and the headers."""
    headers: dict[str, str] = {}


class World:
    """A cluster, an org in it, and both of its keys at work: `app` with the public one, `server` with the secret one.
    They insist on success; `ask` takes any answer."""

    def __init__(self, cluster: Cluster, keys: orgs.Bootstrapped, app: Client, server: Client, api: Api) -> None:
        self.cluster = cluster
        self.keys = keys
        self.app = app
        self.server = server
        self._api = api

    async def ask(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        """With the secret key. `options`: headers, query."""
        return await self._api.request(method, path, body, key=self.keys.secret_key, **options)

    async def configure(self) -> None:
        """Store what an operator downloads from Apple's and Google's consoles."""
        credentials = await self.cluster.ask_simulator("GET", "/_/credentials")
        await self.server.put("/push/providers/apns", credentials["apns"])
        await self.server.put("/push/providers/fcm", {"serviceAccount": credentials["fcm"]["serviceAccount"]})

    async def policies(self, **changed: Any) -> None:
        await self.server.call("PATCH", "/push/settings", changed)

    async def device(self, grammar: str, platform: Platform = "android", **given: Any) -> dict[str, Any]:
        """Register a device whose token says what the simulator will do. `given`: userId, locale, timezone, ..."""
        minted = await self.cluster.ask_simulator(
            "POST", "/_/mint", {"transport": TRANSPORTS[platform], "tokens": [grammar]}
        )
        (token,) = minted["tokens"]
        address = {"token": token["endpoint"], "subscription": token} if platform == "web" else {"token": token}
        registered: dict[str, Any] = await self.app.post("/push/tokens", {**address, "platform": platform, **given})
        return registered

    async def devices(self) -> dict[str, dict[str, Any]]:
        """All of the org, by id."""
        return {device["id"]: device for device in await self.server.get("/push/tokens?pageSize=100")}

    async def fleet(self, devices: int, grammar: str) -> None:
        """So many people with a device each, every other one of Apple's; `grammar` as in `ok~5`."""
        await self.configure()

        async def register(number: int) -> None:
            user, platform = f"user-{number}", ("ios", "android")[number % 2]
            await self.app.post("/identify", {"userId": user, "traits": {}})
            await self.app.post("/push/tokens", {"token": f"{grammar}-{number}", "platform": platform, "userId": user})

        await spread(range(devices), register, lambda _: None)

    async def asked(self, number: int, within_s: float, holding: bytes = b"\n") -> None:
        """Until so many requests have reached the providers; `holding`: of those whose line in the log has this."""
        log = self.cluster.simulator_log
        await eventually(lambda: log.exists() and log.read_bytes().count(holding) >= number, within_s, 0.02)

    async def everybody(self) -> str:
        """An audience of all people there are."""
        audience = await self.server.post("/audiences", {"name": "everybody", "rules": {"all": []}})
        id_: str = audience["id"]
        return id_

    async def send(self, **said: Any) -> UUID:
        requested = await self.server.post("/push/send", {"title": "T", "body": "B", **said})
        return UUID(requested["id"])

    async def ended(self, send: UUID, within_s: float = 15.0) -> dict[str, Any]:
        """The send, once it has closed."""

        async def closed() -> dict[str, Any]:
            shown: dict[str, Any] = await self.server.get(f"/push/sends/{send}")
            assert shown["status"] in CLOSED, shown
            return shown

        return await eventually(closed, within_s, POLL_S)

    async def sent(self, **said: Any) -> UUID:
        """A send that has closed."""
        send = await self.send(**said)
        await self.ended(send)
        return send

    async def balance(self, send: UUID) -> dict[str, Any]:
        balance: dict[str, Any] = await self.server.get(f"/push/sends/{send}/reconciliation")
        return balance

    async def pushed(self, *sends: UUID) -> list[Pushed]:
        """What the providers were asked to deliver of these sends, in order."""
        await self.cluster.ask_simulator("POST", "/_/flush", {})
        wanted = {send.hex for send in sends}
        with self.cluster.simulator_log.open("rb") as lines:
            requests = [msgspec.json.decode(line, type=Pushed) for line in lines]
        return [one for one in requests if one.delivery_id is not None and one.delivery_id[:32] in wanted]

    async def accepted_twice(self, send: UUID) -> int:
        """How many devices a provider accepted more than once."""
        taken = Counter(request.delivery_id for request in await self.pushed(send) if request.status == 200)
        return sum(times > 1 for times in taken.values())

    async def report(self, *sends: UUID) -> Report:
        """The ledger against the simulator's log, row by row."""
        await self.cluster.ask_simulator("POST", "/_/flush", {})
        return await check(self.cluster.settings.postgres.url, self.cluster.simulator_log, list(sends))

    async def told(self, sample: str) -> float | None:
        """What `/metrics` says of a sample, named with its labels as it stands there; None when it says nothing. Other
        processes than the API are heard where the cluster has PROMETHEUS_MULTIPROC_DIR in its `extra`."""
        async with httpx.AsyncClient(base_url=self.cluster.url, trust_env=False) as client:
            lines = [line.rpartition(" ") for line in (await client.get("/metrics")).text.splitlines()]
        return next((float(value) for name, _, value in lines if name == sample), None)

    async def fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        """What no door shows, from the database."""
        connection = await asyncpg.connect(self.cluster.settings.postgres.url)
        try:
            return await connection.fetch(sql, *args)
        finally:
            await connection.close()

    async def bring_forward(self, send: UUID) -> None:
        """Whoever waits in the queue is due now: hours of waiting are moved, not slept. Workers lock chunks in the
        order of what they record, so that it may take more than one try."""
        sql = "UPDATE chunks SET due_at = now() WHERE send_id = $1 AND closed_at IS NULL"
        for _ in range(TRIES):
            with suppress(asyncpg.DeadlockDetectedError):
                await self.fetch(sql, send)
                return
        raise AssertionError("deadlocks all the time")


@asynccontextmanager
async def cluster(name: str, dispatchers: int = 1, extra: Mapping[str, str] | None = None) -> AsyncIterator[Cluster]:
    """Under a folder of its own, that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=f"sendora-{name}-") as temporary:
        folder = Path(temporary)
        # Run by root, PostgreSQL runs as nobody, who must be able to pass through.
        folder.chmod(0o755)
        async with Cluster(folder, dispatchers=dispatchers, extra=extra) as running:
            yield running


@asynccontextmanager
async def settle(running: Cluster) -> AsyncIterator[World]:
    """A new org, that sees nothing of the others."""
    keys = await orgs.bootstrap(running.settings, "Stories", "business", "stories", LIMIT)
    async with (
        Client(running.url, keys.public_key) as app,
        Client(running.url, keys.secret_key) as server,
        httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=60) as client,
    ):
        yield World(running, keys, app, server, Api(client))
