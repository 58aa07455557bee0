"""A floor of its own: a database that only these tests use, a provider, a channel, and time that a test may push on."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest
from tests.conftest import eventually
from tests.delivery.channel import NAME, LoopChannel
from tests.delivery.provider import Plain

from sendora.delivery import failpoint
from sendora.delivery.account import Accountant
from sendora.delivery.dispatch import Dispatcher
from sendora.delivery.lanes import PlainLanes
from sendora.delivery.phases import Class, Delivery, Send, Submission
from sendora.delivery.plan import Planner
from sendora.delivery.report import Reconciliation, reconcile
from sendora.delivery.store import find_send
from sendora.delivery.submit import submit
from sendora.kernel.config import Settings
from sendora.kernel.embedded import Embedded
from sendora.kernel.ids import OrgId, ProjectId, new_id
from sendora.kernel.life import Kernel, Service
from sendora.kernel.metrics import Metrics
from sendora.kernel.outbound import Outbound
from sendora.kernel.pg import Database, migrate

FAR = 10**15
"""A position that every send's log position lies below: the stores are never waited for, unless a test wants it."""

DEAD_PORT = "127.0.0.1:9"
"""Where nobody listens."""


@pytest.fixture(scope="session")
async def delivery_db(servers: Embedded, settings: Settings) -> AsyncIterator[Database]:
    name = f"t_{new_id().hex}"
    admin = await asyncpg.connect(servers.postgres_url("postgres"))
    await admin.execute(f"CREATE DATABASE {name}")
    postgres = msgspec.structs.replace(settings.postgres, url=servers.postgres_url(name))
    await migrate(postgres)
    db = await Database.open(postgres)
    yield db
    await db.close()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


class Floor:
    """What a test holds in its hands."""

    def __init__(self, kernel: Kernel, provider: Plain) -> None:
        self.kernel = kernel
        self.db = kernel.db
        self.provider = provider
        self.channel = LoopChannel(provider)
        self.channels = {NAME: self.channel}
        self.org = OrgId(new_id())
        self.project = ProjectId(new_id())

    def with_dispatch(self, **changes: Any) -> "Floor":
        """The same floor under other settings of dispatch."""
        settings = self.kernel.settings
        dispatch = msgspec.structs.replace(settings.dispatch, **changes)
        self.kernel = dataclasses.replace(self.kernel, settings=msgspec.structs.replace(settings, dispatch=dispatch))
        return self

    def dispatcher(self, spec: str = "auto", **options: Any) -> Dispatcher:
        return Dispatcher(self.kernel, self.channels, PlainLanes(self.kernel), spec, **options)

    def planner(self) -> Planner:
        return Planner(self.kernel, self.channels)

    def accountant(self) -> Accountant:
        return Accountant(self.kernel, self.channels)

    async def submit(self, recipients: Sequence[UUID], **options: Any) -> Send:
        return await submit(self.kernel, self.asked(recipients, **options))

    def asked(
        self,
        recipients: Sequence[UUID],
        *,
        class_: Class = "bulk",
        delivery: Delivery = "at_least_once",
        org: OrgId | None = None,
        ttl_s: int = 3_600,
        scheduled_for: datetime | None = None,
        content: dict[str, Any] | None = None,
        late_s: int | None = None,
        local_at: datetime | None = None,
        zones: Mapping[UUID, str] | None = None,
    ) -> Submission:
        """`zones`: of recipients, where each has the send in their own."""
        target: dict[str, Any] = {"recipients": [str(one) for one in recipients]}
        if zones:
            target["zones"] = {str(one): zone for one, zone in zones.items()}
        return Submission(
            org=org or self.org,
            project=self.project,
            channel=NAME,
            class_=class_,
            delivery=delivery,
            target=target,
            content=content or {},
            scheduled_for=scheduled_for,
            ttl_s=ttl_s,
            token_count=len(recipients),
            late_s=late_s,
            local_at=local_at,
        )

    async def status(self, send: Send) -> str:
        found = await find_send(self.db, send.org, send.id)
        assert found is not None
        return found.status

    async def balance(self, send: Send) -> Reconciliation:
        return await reconcile(self.kernel, send.org, send.id)

    async def closed(self, send: Send, timeout_s: float = 30.0) -> Reconciliation:
        """Wait for the end of a send; what waits for a later time is brought forward, since a test does not."""

        async def ended() -> bool:
            await self.bring_forward()
            return await self.status(send) in ("sent", "failed", "suppressed")

        await eventually(ended, timeout_s)
        return await self.balance(send)

    async def bring_forward(self) -> None:
        moved = await self.db.execute(
            "UPDATE chunks SET due_at = now() WHERE closed_at IS NULL AND due_at > now() AND NOT planned"
        )
        if moved != "UPDATE 0":
            for shard in range(64):
                await self.kernel.bus.wake(f"wake.{shard}")

    async def bring_all_forward(self) -> None:
        """Also what the planner made and a fault has put back."""
        await self.db.execute("UPDATE chunks SET due_at = now() WHERE closed_at IS NULL")
        for shard in range(64):
            await self.kernel.bus.wake(f"wake.{shard}")

    async def leases_run_out(self) -> None:
        """Ten seconds after a death."""
        await self.db.execute("UPDATE shard_leases SET lease_until = '-infinity'")
        await self.db.execute("UPDATE sends SET plan_until = '-infinity'")
        await self.db.execute("DELETE FROM dispatchers")

    async def states(self, send: Send) -> dict[UUID, tuple[str, bool]]:
        """Each recipient's end and whether it was repeated; fails when somebody ended twice."""
        rows = await self.db.fetch(
            "SELECT recipient, state, repeated FROM deliveries"
            " WHERE org_id = $1 AND send_id = $2 AND state <> 'deferred'",
            send.org,
            send.id,
        )
        ends = {row["recipient"]: (row["state"], row["repeated"]) for row in rows}
        assert len(ends) == len(rows), "somebody ended twice"
        return ends


@pytest.fixture
async def floor(kernel: Kernel, delivery_db: Database) -> AsyncIterator[Floor]:
    provider = Plain()
    await provider.start()
    await delivery_db.execute(
        "TRUNCATE sends, send_news, schedules, plan_positions, chunks, deliveries, send_counts, dispatchers,"
        " log_positions"
    )
    await delivery_db.execute("UPDATE shard_leases SET lease_until = '-infinity', holder = NULL")
    await delivery_db.execute(
        "INSERT INTO log_positions (consumer, lane, position) VALUES ('events', 0, $1), ('profiles', 0, $1)", FAR
    )
    allowed = msgspec.structs.replace(kernel.settings.outbound, allow=(provider.url.removeprefix("http://"), DEAD_PORT))
    outbound = Outbound(msgspec.structs.replace(kernel.settings, outbound=allowed))
    metrics = Metrics()
    floor = Floor(dataclasses.replace(kernel, db=delivery_db, outbound=outbound, metrics=metrics), provider)
    # The plain provider speaks HTTP/1.1, where each request in flight is a connection: a hundred are enough.
    yield floor.with_dispatch(connections=1)
    failpoint.disarm()
    await outbound.close()
    await provider.stop()


@asynccontextmanager
async def serving(*services: Service) -> AsyncIterator[list[asyncio.Task[None]]]:
    """The services run while the block does; then they drain. One that failed fails the test."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(service.run(stop), name=service.name) for service in services]
    try:
        yield tasks
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def crash(point: str, *services: Service, n: int = 1) -> None:
    """Run the services until one of them dies at the point; the others are cut off without a word, as by a kill."""
    failpoint.arm(f"{point}:raise@n={n}")
    stop = asyncio.Event()
    tasks = [asyncio.create_task(service.run(stop), name=service.name) for service in services]
    done, _ = await asyncio.wait(tasks, timeout=20.0, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert done, f"nobody came by {point}"
    assert any(isinstance(end, failpoint.Crash) for end in ends), ends
