"""Makers: one for each noun. What can be made through the API is made through it."""

import random
import struct
from typing import Any, Literal
from uuid import UUID, uuid4

import msgspec
from tests.api import Answer, Api

from sendora.kernel.ids import OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.modules import orgs

UNLIMITED = orgs.RateLimit(per_second=100_000, burst=1_000_000)
"""For tests that are about something else than limits."""


class Org(msgspec.Struct, frozen=True):
    """An org of its own for a test, with a project and a key of each kind."""

    id: OrgId
    project: ProjectId
    plan: orgs.Plan
    sk: str
    pk: str


class Make:
    def __init__(self, kernel: Kernel, api: Api) -> None:
        self._kernel = kernel
        self._api = api

    async def org(self, plan: orgs.Plan = "business", limit: orgs.RateLimit = UNLIMITED) -> Org:
        db = self._kernel.db
        org = await orgs.create_org(db, "Test", plan)
        project = await orgs.create_project(db, org, "test")
        sk = await orgs.create_key(db, org, project, kind="sk", limit=limit, plan=plan)
        pk = await orgs.create_key(db, org, project, kind="pk", limit=limit, plan=plan)
        return Org(org, project, plan, sk.key, pk.key)

    async def key(
        self,
        org: Org,
        kind: Literal["pk", "sk"] = "sk",
        *,
        scopes: tuple[str, ...] | None = None,
        role: orgs.Role | None = None,
        limit: orgs.RateLimit = UNLIMITED,
        environment: str = "prod",
        project: ProjectId | None = None,
    ) -> str:
        minted = await orgs.create_key(
            self._kernel.db,
            org.id,
            project or org.project,
            kind=kind,
            limit=limit,
            plan=org.plan,
            environment=environment,
            scopes=scopes,
            role=role,
        )
        return minted.key

    async def profile(self, org: Org, external_id: str | None = None, **given: Any) -> dict[str, Any]:
        """An identify, and the profile when it can be read. `given`: email, traits, locale, timezone, anonymousId."""
        external_id = external_id or f"user-{uuid4().hex[:12]}"
        said = await self._api.post("/identify", {"userId": external_id, **given}, key=org.sk)
        assert said.status == 200, said
        found = await self._api.get(f"/profiles/{said.data['id']}", key=org.sk, after=said.position)
        assert found.status == 200, found
        profile: dict[str, Any] = found.data
        return profile

    async def token(self, org: Org, token: str | None = None, platform: str = "ios", **given: Any) -> dict[str, Any]:
        """A registered device. `given`: userId, locale, timezone, bundleId and so on."""
        body = {"token": token or f"ok-{uuid4().hex}", "platform": platform, **given}
        said = await self._api.post("/push/tokens", body, key=org.pk)
        assert said.status in (200, 201), said
        registered: dict[str, Any] = said.data
        return registered

    async def events(self, org: Org, *events: dict[str, Any]) -> Answer:
        """Events that have been stored when this returns."""
        filled = [{"module": "test", **event} for event in events]
        said = await self._api.post("/events/batch", {"events": filled}, key=org.sk)
        assert said.status == 200 and said.data["rejected"] == 0, said
        seen = await self._api.get("/events/accounting", key=org.sk, after=said.position)
        assert int(seen.data["position"].partition("-")[2]) >= int(said.position.partition("-")[2]), seen
        return said


def random_text(length: int, seed: int) -> str:
    """Text that does not compress: what makes a key of an index too long."""
    return random.Random(seed).randbytes(length // 2).hex()


def raw_record(org: UUID, project: UUID, at_ms: int, *, event_type: str, person: str = "u") -> bytes:
    """A record of the log made by hand, with its length: one that the check would not have let through."""

    def short(text: str | None) -> bytes:
        return b"\xff\xff" if text is None else struct.pack("<H", len(text)) + text.encode()

    texts = (event_type, "m", person, None, None, None, "prod", str(uuid4()))
    body = b"\x01" + org.bytes + project.bytes + struct.pack("<qq", at_ms, at_ms)
    body += b"".join(short(text) for text in texts) + struct.pack("<I", 2) + b"{}"
    return struct.pack("<I", len(body)) + body
