"""A person is forgotten: looked for in every place where anything is kept, before and after (B069, design 6).

The search takes whatever there is: all tables with all columns, all streams, all keys of Valkey, the snapshots of the
audience index, the logs of the processes and the metrics. A new table is searched without a word here; a new sealed
column fails the test until it is said how it is opened.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import nats.js.errors
import pytest
from tests.conftest import eventually
from tests.make import raw_record
from tests.world import World, cluster, settle

from sendora.cluster import Cluster
from sendora.kernel import bus
from sendora.kernel.ids import OrgId, profile_id
from sendora.kernel.life import Kernel, open_kernel

LATER: Final = timedelta(days=30)

SEALED: Final = {
    "push_providers": lambda row: f"push_providers.sealed.{row['id']}",
    "push_grants": lambda row: f"push_grants.sealed.{row['provider_id']}",
    "audit_keys": lambda row: "audit_keys.sealed",
    "deletion_requests": lambda row: f"deletion_requests.sealed.{row['hash'].hex()}",
}
"""Under which name each table's sealed column opens."""

READERS: Final = ["events", "profiles"]


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Cluster]:
    async with cluster("erasure", extra={"SENDORA_AUDIENCES__SNAPSHOT_S": "1"}) as started:
        yield started


class Search:
    """Where some texts can be found: as they are, and in hexadecimal as PostgreSQL shows bytes."""

    def __init__(self, world: World, kernel: Kernel, texts: list[str]) -> None:
        self._world = world
        self._kernel = kernel
        self._needles = {text: (text.encode(), text.encode().hex().encode()) for text in texts}

    async def everywhere(self) -> dict[str, set[str]]:
        """The texts found, by place; places without any are left out."""
        found: dict[str, set[str]] = {}
        for part in (self.tables, self.sealed, self.streams, self.keys, self.files, self.metrics):
            found |= await part()
        return {place: texts for place, texts in found.items() if texts}

    async def tables(self) -> dict[str, set[str]]:
        names = await self._world.fetch(
            "SELECT c.oid::regclass::text AS name FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace"
            " AND c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition"
        )
        found = {}
        for name in (row["name"] for row in names):
            rows = await self._world.fetch(f"SELECT t::text AS row FROM {name} t")
            found[name] = self._in("\n".join(row["row"] for row in rows).encode())
        assert {"events", "deliveries", "push_tokens", "exports"} <= found.keys()
        return found

    async def sealed(self) -> dict[str, set[str]]:
        columns = await self._world.fetch(
            "SELECT table_name FROM information_schema.columns WHERE table_schema = 'public' AND column_name = 'sealed'"
        )
        found = {}
        for table in (row["table_name"] for row in columns):
            opened = b""
            for row in await self._world.fetch(f"SELECT * FROM {table} WHERE sealed IS NOT NULL"):
                opened += await self._kernel.vault.open(OrgId(row["org_id"]), SEALED[table](row), row["sealed"])
            found[f"sealed {table}"] = self._in(opened)
        return found

    async def streams(self) -> dict[str, set[str]]:
        found = {}
        for info in await self._kernel.bus.stream.streams_info():
            name = str(info.config.name)
            data = b""
            for position in range(max(info.state.first_seq, 1), info.state.last_seq + 1):
                try:
                    message = await self._kernel.bus.stream.get_msg(name, position)
                except nats.js.errors.NotFoundError:
                    continue
                data += (message.data or b"") + repr(message.headers).encode() + str(message.subject).encode()
            found[f"stream {name}"] = self._in(data)
        return found

    async def keys(self) -> dict[str, set[str]]:
        client: Any = self._kernel.kv._client
        data = b""
        async for key in client.scan_iter():
            dumped = {"hash": client.hgetall, "string": client.get}[(await client.type(key)).decode()]
            data += key + repr(await dumped(key)).encode()
        assert b"bucket:" in data, "the search finds nothing at all"
        return {"valkey": self._in(data)}

    async def files(self) -> dict[str, set[str]]:
        folder = self._world.cluster.folder
        return {
            place: self._in(b"".join(file.read_bytes() for file in sorted((folder / place).glob("*"))))
            for place in ("audiences", "logs")
        }

    async def metrics(self) -> dict[str, set[str]]:
        async with httpx.AsyncClient(base_url=self._world.cluster.url, trust_env=False) as client:
            return {"metrics": self._in((await client.get("/metrics")).content)}

    def _in(self, data: bytes) -> set[str]:
        return {text for text, ways in self._needles.items() if any(way in data for way in ways)}


@pytest.mark.rule("B066", "B068", "B069", "C69", "C71")
async def test_a_person_is_forgotten_everywhere(running: Cluster) -> None:
    """Before: found in every place that keeps people. After: nowhere but in the log, and there until it forgets; not
    after a replay of all of it either, nor in an index that is made anew. Whoever comes by the name is somebody new."""
    async with settle(running) as world, open_kernel(running.settings) as kernel:
        await world.configure()
        mark = uuid4().hex[:10]
        ada, anon = f"ada-{mark}", f"anon-{mark}"
        email, trait, bought = f"{mark}@example.com", f"trait-{mark}", f"bought-{mark}"
        words = f"Dear {mark}"
        audience = await everybody_who_looked(world)
        devices = await seed(world, ada, anon, email, trait, bought)
        names = [ada, anon, email, trait, bought, words, str(profile_id(world.keys.project, ada))]
        search = Search(world, kernel, [*names, *devices])
        await sends(world, ada, words, devices)
        await world.fetch(
            "INSERT INTO event_days (org_id, project_id, event_type, person, day, count, first_at, last_at)"
            " VALUES ($1, $2, 'look', $3, '2025-01-01', 1, now(), now())",
            world.keys.org,
            world.keys.project,
            anon,
        )
        await world.fetch(
            "INSERT INTO bad_rows (org_id, id, project_id, position, record, reason) VALUES ($1, $2, $3, 1, $4, 'x')",
            world.keys.org,
            uuid4(),
            world.keys.project,
            raw_record(world.keys.org, world.keys.project, 1, event_type="e", person=ada)[4:],
        )
        await world.server.post("/data-io/export", {"module": "all", "filter": {"profileId": ada}})
        await snapshot_holds(running, ada, True)
        client: Any = kernel.kv._client
        await client.set(f"planted:{mark}", ada)

        before = await search.everywhere()
        assert before["profiles"] == {ada, anon, email, trait, str(profile_id(world.keys.project, ada))}
        assert before["events"] == {ada, anon, trait, bought}
        assert before["event_days"] == {anon}
        assert before["bad_rows"] == {ada}
        assert before["push_tokens"] == {ada, *devices}
        assert before["deliveries"] == {ada}
        assert before["sends"] == {ada, words, devices[0]}
        assert before["schedules"] == {ada, words}
        assert before["exports"] == {str(profile_id(world.keys.project, ada))}
        assert before["stream EVENTS"] == {ada, anon, email, trait, bought}
        assert before["stream LIFECYCLE"] == {ada}
        assert {ada, trait} <= before["audiences"]
        assert before["valkey"] == {ada}
        assert before.keys().isdisjoint({"audit_log", "logs", "metrics", "deletion_requests", "erased_names"})
        await client.delete(f"planted:{mark}")

        asked = await world.server.post("/consent/deletion-request", {"userId": ada, "scope": "all"})
        request = await completed(world, asked["id"])
        head = await kernel.bus.head()
        assert request["deleted"]["profiles"] == 2
        assert all(request["deleted"][room] > 0 for room in ("events", "push", "data_io")), request
        await snapshot_holds(running, ada, False)
        await gone(search, running)
        assert await size(world, audience) == 1, "the others are there"

        # A replay of all that the log still holds brings nobody back.
        stored = await world.server.get("/events/accounting")
        await replay(world)
        assert await size(world, audience) == 1
        await snapshot_holds(running, ada, False)
        await gone(search, running)
        again = await world.server.get("/events/accounting")
        assert again["stored"] == stored["stored"], "whoever was erased is not stored a second time"
        assert again["accepted"] == again["stored"] + again["duplicate"] + again["bad"]

        # The log forgets by itself; here its time is brought forward.
        stream = kernel.bus.stream
        await stream.purge_stream(bus.EVENTS, seq=head + 1)
        await stream.purge_stream(bus.LIFECYCLE)
        assert await search.everywhere() == {}

        # Whoever comes now is somebody new.
        person = await identified(world, {"userId": ada, "traits": {"plan": "free"}})
        assert (person["traits"], person["email"]) == ({"plan": "free"}, None)
        assert request["completedAt"] < person["createdAt"]
        await track(world, ada, "look")

        async def counted() -> bool:
            return await size(world, audience) == 2

        await eventually(counted)
        running.check()


async def everybody_who_looked(world: World) -> str:
    """An audience, its index, and a member of it who stays."""
    await world.app.post("/identify", {"userId": "bob", "traits": {"plan": "pro"}})
    await world.device("ok-bob", userId="bob")
    await track(world, "bob", "look")
    rules = {"all": [{"event": "look", "op": "occurred"}]}
    audience: str = (await world.server.post("/audiences", {"name": "all", "rules": rules}))["id"]
    return audience


async def seed(world: World, ada: str, anon: str, email: str, trait: str, bought: str) -> list[str]:
    """Her profile, a former one, events under both names, and devices; gives the devices' tokens."""
    await world.app.post("/events", {"eventType": "look", "module": "m", "anonymousId": anon})
    old = await world.device(f"ok-{anon}", userId=anon)
    await identified(world, {"userId": ada, "anonymousId": anon, "email": email, "traits": {"t": trait}})
    await world.app.post(
        "/events", {"eventType": "look", "module": "m", "userId": ada, "properties": {"what": bought, "who": ada}}
    )
    new = await world.device(f"ok-{ada}", "ios", userId=ada)
    browser = await world.device(f"ok-web-{ada}", "web", userId=ada)
    await world.server.call("PATCH", f"/profiles/{ada}", {"traits": {"t": trait}})
    return [new["token"], old["token"], browser["token"]]


async def sends(world: World, ada: str, words: str, devices: list[str]) -> None:
    """One that she got, one that waits for her and others, one that was cancelled, one to her device alone; and one
    that comes every day, to her and others, and to her alone."""
    send = await world.send(userIds=[ada], title=words, body="B")
    assert (await world.ended(send))["counts"]["accepted"] == 3
    assert (await world.report(send)).complaints == []
    await world.app.post("/push/track-open", {"sendId": str(send)})
    later = (datetime.now(UTC) + LATER).isoformat()
    await world.send(userIds=[ada, "bob"], scheduledFor=later)
    cancelled = await world.send(userIds=[ada], title=words, scheduledFor=later)
    await world.server.call("DELETE", f"/push/sends/{cancelled}")
    await world.send(tokens=[devices[0]], scheduledFor=later)
    daily = {"at": later[:19], "zone": "recipient", "rrule": "FREQ=DAILY"}
    await world.send(userIds=[ada, "bob"], schedule=daily)
    await world.send(userIds=[ada], title=words, schedule=daily)


async def identified(world: World, said: dict[str, Any]) -> dict[str, Any]:
    """The profile as it is then."""
    _, headers = await world.app.call("POST", "/identify", said)
    found: dict[str, Any] = await world.server.get(f"/profiles/{said['userId']}?after={headers['x-sendora-position']}")
    return found


async def track(world: World, user: str, event_type: str) -> None:
    await world.app.post("/events", {"eventType": event_type, "module": "m", "userId": user})


async def completed(world: World, request: str) -> dict[str, Any]:
    async def done() -> dict[str, Any]:
        shown: dict[str, Any] = await world.server.get(f"/consent/deletion-requests/{request}")
        assert shown["status"] == "completed", shown
        return shown

    return await eventually(done, 30.0, 0.1)


async def size(world: World, audience: str) -> int | None:
    shown = await world.server.get(f"/audiences/{audience}")
    found: int | None = shown["estimatedSize"]
    return found


async def snapshot_holds(running: Cluster, name: str, wanted: bool) -> None:
    """Until a snapshot of the index has been taken that holds the name, or one has been taken and none holds it."""
    folder = running.folder / "audiences"

    def holds() -> bool:
        files = [file.read_bytes() for file in existing(folder)]
        assert files, "no snapshot yet"
        return any(name.encode() in data for data in files) is wanted

    async def asked() -> bool:
        return await asyncio.to_thread(holds)

    await eventually(asked, 30.0, 0.1)


def existing(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.index")) if folder.is_dir() else []


async def gone(search: Search, running: Cluster) -> None:
    """In no place but in the log, which cannot be rewritten."""
    found = await search.everywhere()
    assert found.keys() <= {f"stream {bus.EVENTS}", f"stream {bus.LIFECYCLE}"}, found


async def replay(world: World) -> None:
    """The stores begin again at the log's first message, in a worker that knows nothing."""
    running = world.cluster
    await running.roles["worker"].stop()
    reached = await world.fetch("SELECT min(position) AS position FROM log_positions WHERE consumer = ANY($1)", READERS)
    await world.fetch("UPDATE log_positions SET position = 0 WHERE consumer = ANY($1)", READERS)
    await running.roles["worker"].start()

    async def passed() -> bool:
        now = await world.fetch("SELECT min(position) AS position FROM log_positions WHERE consumer = ANY($1)", READERS)
        assert now[0]["position"] >= reached[0]["position"], now
        return True

    await eventually(passed, 30.0, 0.1)
