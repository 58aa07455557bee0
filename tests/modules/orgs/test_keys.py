"""API keys over HTTP: who gets in, minting, listing, revoking, the audit log."""

import dataclasses
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from tests.api import Api
from tests.conftest import eventually
from tests.make import Make, Org

from sendora.kernel.clock import FixedClock
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Database
from sendora.modules import orgs
from sendora.modules.orgs import store
from sendora.modules.orgs.keyring import FRESH_S
from sendora.modules.orgs.model import PUBLIC_SCOPES, SECRET_SCOPES, mint

EVENT = {"eventType": "opened", "module": "analytics"}


@pytest.mark.rule("B006", "B019", "B025")
async def test_only_a_living_key_gets_in(api: Api, org: Org) -> None:
    """B006, B025: absent, malformed, mistyped and unknown keys are one and the same 401, at both doors."""
    typo = org.sk[:-1] + ("0" if org.sk[-1] != "0" else "1")
    keys = [None, "", "nonsense", typo, mint("sk", "prod").text, "x" * 5_000]
    for key in keys:
        for answer in (await api.get("/usage", key=key), await api.post("/events", EVENT, key=key)):
            assert (answer.status, answer.code) == (401, "UNAUTHORIZED"), (key, answer)
            assert answer.headers["x-request-id"]
    bearer = await api.get("/usage", headers={"authorization": f"Bearer {org.sk}"})
    assert bearer.status == 401


async def test_the_right_prefix_does_not_prove_a_key(api: Api, org: Org, db: Database) -> None:
    """A key with a living key's public part, and a right check of its own, is still unknown."""
    forged = mint("sk", "prod")
    row = "UPDATE api_keys SET prefix = $1 WHERE prefix = $2"
    await db.execute(row, forged.prefix, org.sk[:16])
    assert (await api.get("/usage", key=forged.text)).status == 401


@pytest.mark.rule("B002", "B003", "C02", "C03")
async def test_both_forms_of_a_path(api: Api, org: Org, make: Make) -> None:
    """B002, C02, C03: the explicit form answers the same; an org that is not the key's does not exist."""
    other = await make.org()
    assert (await api.get("/usage", key=org.sk)).data == (await api.get("/usage", key=org.sk, org=org.id)).data
    assert (await api.post("/events", EVENT, key=org.pk, org=org.id)).status == 201
    for foreign in (other.id, uuid4(), "nonsense", str(org.id).replace("-", "")):
        for answer in (
            await api.get("/usage", key=org.sk, org=foreign),
            await api.get("/api-keys", key=org.sk, org=foreign),
            await api.post("/events", EVENT, key=org.sk, org=foreign),
            await api.post("/identify", {"userId": "u"}, key=org.sk, org=foreign),
        ):
            assert (answer.status, answer.code) == (404, "NOT_FOUND"), (foreign, answer)


@pytest.mark.rule("B009", "B014", "C04")
async def test_a_public_key_lacks_scopes(api: Api, org: Org) -> None:
    """B009, B014: refused by scope, before the body is looked at."""
    for method, path in (
        ("GET", "/api-keys"),
        ("POST", "/api-keys"),
        ("DELETE", f"/api-keys/{uuid4()}"),
        ("GET", "/usage"),
        ("GET", "/audit-log"),
        ("GET", "/events/accounting"),
        ("GET", "/profiles"),
        ("GET", "/profiles/somebody"),
        ("PATCH", "/profiles/somebody"),
        ("DELETE", "/profiles/somebody"),
    ):
        answer = await api.request(method, path, b"{not json" if method in ("POST", "PATCH") else None, key=org.pk)
        assert (answer.status, answer.code) == (403, "scope_required"), (path, answer)


@pytest.mark.rule("B010", "B015", "C10", "C21")
async def test_minting_and_listing(api: Api, org: Org) -> None:
    """B015, C21: the key is shown once; the list has every key with its scopes."""
    minted = await api.post("/api-keys", {"type": "sk", "environment": "dev", "name": "server"}, key=org.sk)
    assert minted.status == 201, minted
    assert minted.data["scopes"] == list(SECRET_SCOPES)
    assert (minted.data["role"], minted.data["environment"]) == ("ADMIN", "dev")
    assert minted.data["key"].startswith(minted.data["prefix"] + "_")
    public = await api.post("/api-keys", {"type": "pk", "environment": "prod"}, key=org.sk)
    assert set(public.data["scopes"]) == set(PUBLIC_SCOPES)
    assert public.data["role"] is None
    custom = await api.post(
        "/api-keys", {"type": "sk", "environment": "prod", "scopes": ["audiences:read"], "role": "VIEWER"}, key=org.sk
    )
    assert (custom.data["scopes"], custom.data["role"]) == (["audiences:read"], "VIEWER")

    listed = await api.get("/api-keys", key=org.sk)
    shown = {key["id"]: key for key in listed.data}
    assert len(shown) == 5
    assert shown[custom.data["id"]]["scopes"] == ["audiences:read"]
    assert all("key" not in key and "hash" not in key for key in listed.data)
    assert minted.data["key"] not in listed.body.decode()

    tracked = await api.post("/events", EVENT, key=minted.data["key"])
    assert (tracked.status, tracked.data["environment"]) == (201, "dev")


@pytest.mark.rule("B026", "C12", "C19", "C21")
async def test_a_custom_key_can_do_what_it_holds(api: Api, org: Org, make: Make) -> None:
    """C19, C21: a subset of scopes and a role of its own; a missing role is FORBIDDEN, not scope_required."""
    reader = await make.key(org, scopes=("profiles:read",))
    assert (await api.get("/profiles", key=reader)).status == 200
    assert (await api.post("/events", EVENT, key=reader)).code == "scope_required"
    assert (await api.patch("/profiles/x", {}, key=reader)).code == "scope_required"
    editor = await make.key(org, scopes=("keys:write", "settings:read"), role="EDITOR")
    for answer in (
        await api.post("/api-keys", {"type": "pk", "environment": "prod"}, key=editor),
        await api.get("/audit-log", key=editor),
    ):
        assert (answer.status, answer.code) == (403, "FORBIDDEN"), answer
    admin = await make.key(org, scopes=("keys:write",), role="ADMIN")
    beyond = await api.post("/api-keys", {"type": "sk", "environment": "prod"}, key=admin)
    assert (beyond.status, beyond.code) == (403, "scope_required"), "a key must not mint more than it holds"


@pytest.mark.rule("B018", "B024")
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"environment": "prod"}, "type"),
        ({"type": "sk"}, "environment"),
        ({"type": "root", "environment": "prod"}, "type"),
        ({"type": "sk", "environment": "PROD"}, "environment"),
        ({"type": "sk", "environment": "prod", "scopes": ["push:send", "nonsense"]}, "scopes.1"),
        ({"type": "pk", "environment": "prod", "scopes": ["push:send"]}, "scopes.0"),
        ({"type": "pk", "environment": "prod", "role": "ADMIN"}, "role"),
        ({"type": "sk", "environment": "prod", "role": "OWNER"}, "role"),
        ({"type": "sk", "environment": "prod", "name": ""}, "name"),
        ({"type": "sk", "environment": "prod", "rateLimit": {"perSecond": 0, "burst": 1}}, "rateLimit.perSecond"),
        ({"type": "sk", "environment": "prod", "rateLimit": {"perSecond": 1, "burst": 10**9}}, "rateLimit.burst"),
        ({"type": "sk", "environment": "prod", "rateLimit": {"perSecond": 1}}, "rateLimit.burst"),
        ({"type": "sk", "environment": "prod", "projectId": "x"}, "projectId"),
        ({"type": "sk", "environment": "prod", "surprise": 1}, "surprise"),
        ([], "body"),
    ],
)
async def test_bodies_that_are_not_valid(api: Api, org: Org, body: object, field: str) -> None:
    """B018, B024."""
    answer = await api.post("/api-keys", body, key=org.sk)
    assert list(answer.fields) == [field], answer


@pytest.mark.rule("B041", "C87", "C95")
async def test_custom_limits_are_a_business_feature(api: Api, make: Make) -> None:
    """B041, C95; C87: the field's tier comes after the body and before what it refers to."""
    growth = await make.org("growth")
    body = {"type": "sk", "environment": "prod", "rateLimit": {"perSecond": 7, "burst": 9}, "projectId": str(uuid4())}
    refused = await api.post("/api-keys", body, key=growth.sk)
    assert (refused.status, refused.code) == (402, "tier_required"), refused
    assert refused.details["requiredPlan"] == "business"
    business = await make.org("business")
    assert (await api.post("/api-keys", body, key=business.sk)).code == "NOT_FOUND"
    minted = await api.post("/api-keys", {**body, "projectId": str(business.project)}, key=business.sk)
    assert minted.data["rateLimit"] == {"perSecond": 7, "burst": 9}
    assert (await api.get("/usage", key=minted.data["key"])).headers["x-ratelimit-limit"] == "9"


@pytest.mark.rule("C03")
async def test_a_project_of_another_org_does_not_exist(api: Api, org: Org, make: Make) -> None:
    other = await make.org()
    body = {"type": "pk", "environment": "prod", "projectId": str(other.project)}
    assert (await api.post("/api-keys", body, key=org.sk)).code == "NOT_FOUND"


@pytest.mark.rule("B025")
async def test_revoking_kills_a_key_everywhere(api: Api, org: Org, make: Make, kernel: Kernel) -> None:
    """B025, reliability.md 3.3: here at once, in another process with the wake."""
    key = await make.key(org)
    elsewhere = dataclasses.replace(kernel, bus=await type(kernel.bus).open(kernel.settings.nats))
    try:
        assert await orgs.authenticate(elsewhere, key) is not None
        assert (await api.get("/usage", key=key)).status == 200
        for _ in range(2):
            # By then it is subscribed: the first round trip lets it begin, the second is behind it.
            await elsewhere.bus.client.flush()
        listed = (await api.get("/api-keys", key=org.sk)).data
        id_ = next(row["id"] for row in listed if key.startswith(row["prefix"]))
        revoked = await api.delete(f"/api-keys/{id_}", key=org.sk)
        assert (revoked.status, revoked.data) == (200, {"id": id_, "revoked": True})
        assert (await api.get("/usage", key=key)).status == 401
        assert (await api.post("/events", EVENT, key=key)).status == 401

        async def dead() -> bool:
            return await orgs.authenticate(elsewhere, key) is None

        await eventually(dead)
    finally:
        await elsewhere.bus.close()
    assert (await api.delete(f"/api-keys/{id_}", key=org.sk)).code == "NOT_FOUND"
    assert (await api.delete("/api-keys/nonsense", key=org.sk)).code == "NOT_FOUND"
    assert id_ not in {row["id"] for row in (await api.get("/api-keys", key=org.sk)).data}
    foreign = await make.org()
    theirs = (await api.get("/api-keys", key=foreign.sk)).data[0]["id"]
    assert (await api.delete(f"/api-keys/{theirs}", key=org.sk)).code == "NOT_FOUND"


async def test_a_lost_wake_costs_thirty_seconds(org: Org, make: Make, kernel: Kernel) -> None:
    """reliability.md 3.3: without the wake a revoked key dies by the ring's own clock."""
    key = await make.key(org)
    clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
    deaf = dataclasses.replace(kernel, clock=clock, bus=await type(kernel.bus).open(kernel.settings.nats))
    try:
        assert await orgs.authenticate(deaf, key) is not None
        await kernel.db.execute("UPDATE api_keys SET revoked_at = now() WHERE prefix = $1", key[:16])
        assert await orgs.authenticate(deaf, key) is not None, "known without a look-up"
        clock.advance(FRESH_S)
        assert await orgs.authenticate(deaf, key) is None
    finally:
        await deaf.bus.close()


async def test_a_proven_key_outlives_postgres_for_a_while(org: Org, kernel: Kernel) -> None:
    """F-P1, F-P4: ingest needs no PostgreSQL once the key is known; an unknown key cannot be judged without it."""
    clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
    db = await Database.open(kernel.settings.postgres)
    alone = dataclasses.replace(kernel, clock=clock, db=db, bus=await type(kernel.bus).open(kernel.settings.nats))
    try:
        assert await orgs.authenticate(alone, org.sk) is not None
        await db.close()
        clock.advance(FRESH_S + 1)
        assert await orgs.authenticate(alone, org.sk) is not None
        with pytest.raises(Exception, match="pool is clos"):
            await orgs.authenticate(alone, mint("sk", "prod").text)
        clock.advance(600)
        with pytest.raises(Exception, match="pool is clos"):
            await orgs.authenticate(alone, org.sk)
    finally:
        await alone.bus.close()


async def test_last_used(api: Api, org: Org, db: Database) -> None:
    """`lastUsedAt` appears with the first use, and is written at most once a minute."""

    async def used() -> str | None:
        row = next(row for row in (await api.get("/api-keys", key=org.sk)).data if org.sk.startswith(row["prefix"]))
        at: str | None = row["lastUsedAt"]
        return at

    first = await eventually(used)
    key = await db.fetchrow("SELECT org_id, id FROM api_keys WHERE prefix = $1", org.sk[:16])
    assert key is not None
    await store.touch_key(db, key["org_id"], key["id"])
    assert await used() == first
    await db.execute("UPDATE api_keys SET last_used_at = now() - interval '2 minutes' WHERE id = $1", key["id"])
    await store.touch_key(db, key["org_id"], key["id"])
    again = await used()
    assert again is not None and again >= str(first)
