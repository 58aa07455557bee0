"""A secret key that acts in several orgs (C98): whom it acts for, who may let it in, and who may end it."""

import dataclasses
from uuid import UUID, uuid4

import pytest
from tests.api import Answer, Api
from tests.conftest import eventually
from tests.make import Make, Org

from sendora.kernel.errors import NotFound
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Database
from sendora.modules import orgs
from sendora.modules.orgs import service
from sendora.modules.orgs.model import MintKey

EVENT = {"eventType": "opened", "module": "analytics"}


def prefix_of(key: str) -> str:
    return key[:16]


async def minted(api: Api, org: Org, *further: Org, key: str, **given: object) -> Answer:
    body = {"type": "sk", "environment": "prod", "orgs": [str(one.id) for one in further], **given}
    return await api.post("/api-keys", body, key=key, org=org.id)


@pytest.fixture
async def other(make: Make) -> Org:
    return await make.org("free")


@pytest.fixture
async def shared(kernel: Kernel, make: Make, org: Org, other: Org) -> str:
    """A key of `org` that the operator has let into `other`."""
    key = await make.key(org)
    await orgs.grant(kernel, prefix_of(key), other.id, None)
    return key


@pytest.mark.rule("B002", "C03", "C98")
async def test_only_the_explicit_form_works(api: Api, make: Make, org: Org, other: Org, shared: str) -> None:
    """C98: the auto form is a 400 at both doors, an org outside of the list a 404 (C03)."""
    stranger = await make.org()
    for path, method, body in (
        ("/usage", "GET", None),
        ("/profiles", "GET", None),
        ("/events", "POST", EVENT),
        ("/events/batch", "POST", {"events": [EVENT]}),
        ("/identify", "POST", {"userId": "u"}),
        ("/push/tokens", "POST", {"token": "t", "platform": "ios"}),
    ):
        auto = await api.request(method, path, body, key=shared)
        assert list(auto.fields) == ["orgId"], (path, auto)
        for foreign in (stranger.id, uuid4(), "nonsense"):
            assert (await api.request(method, path, body, key=shared, org=foreign)).code == "NOT_FOUND"
        for own in (org.id, other.id):
            assert (await api.request(method, path, body, key=shared, org=own)).status in (200, 201), path


@pytest.mark.rule("C87", "C98")
async def test_scope_is_refused_before_the_org_is_asked_for(api: Api, kernel: Kernel, make: Make, org: Org) -> None:
    """C87: what the key lacks anywhere comes first; its plan is known only when the org is."""
    reader = await make.key(org, scopes=("profiles:read",))
    starter = await make.org("free")
    await orgs.grant(kernel, prefix_of(reader), starter.id, None)
    for path in ("/events", "/api-keys"):
        assert (await api.post(path, EVENT, key=reader)).code == "scope_required"
    assert (await api.get("/profiles", key=reader)).code == "VALIDATION_ERROR"


@pytest.mark.rule("B016", "B038", "B045", "C95", "C98", "C99")
async def test_it_acts_with_what_the_org_has(
    api: Api, make: Make, kernel: Kernel, org: Org, other: Org, shared: str
) -> None:
    """The plan, the quota, the project and the settings are those of the org that is named; the bucket is the key's."""
    here = (await api.get("/usage", key=shared, org=org.id)).data
    there = (await api.get("/usage", key=shared, org=other.id)).data
    assert (here["plan"], here["eventQuota"]) == ("business", None)
    assert (there["plan"], there["eventQuota"]) == ("free", 10_000)
    rule = {"name": "all", "rules": {"all": []}}
    assert (await api.post("/audiences", rule, key=shared, org=org.id)).status == 201
    assert (await api.post("/audiences", rule, key=shared, org=other.id)).code == "tier_required"

    tracked = await api.post("/events", EVENT, key=shared, org=other.id)
    assert tracked.status == 201

    async def counted() -> bool:
        return bool((await api.get("/usage", key=shared, org=other.id)).data["eventsThisMonth"] == 1)

    await eventually(counted)
    for own, place in ((org, org.project), (other, other.project)):
        accounting = await api.get("/events/accounting", key=shared, org=own.id)
        assert accounting.data["projectId"] == str(place)
    assert (await api.get("/usage", key=org.sk)).data["eventsThisMonth"] == 0

    await kernel.db.execute(
        "INSERT INTO usage_months (org_id, month, events) VALUES ($1, date_trunc('month', now()), 10000)"
        " ON CONFLICT (org_id, month) DO UPDATE SET events = 10000",
        (full := await make.org("free")).id,
    )
    await orgs.grant(kernel, prefix_of(shared), full.id, None)
    assert (await api.post("/events", EVENT, key=shared, org=full.id)).code == "QUOTA_EXCEEDED"
    assert (await api.post("/events", EVENT, key=shared, org=org.id)).status == 201
    patched = await api.patch("/settings", {"ai_lifecycle_classifier_enabled": True}, key=shared, org=other.id)
    assert patched.status == 200
    assert (await api.get("/settings", key=org.sk)).data["ai_lifecycle_classifier_enabled"] is False
    assert (await api.get("/settings", key=other.sk)).data["ai_lifecycle_classifier_enabled"] is True


@pytest.mark.rule("C98")
async def test_a_person_of_one_org_is_nobody_in_the_other(
    api: Api, make: Make, org: Org, other: Org, shared: str
) -> None:
    person = await make.profile(org, "ada")
    assert (await api.get(f"/profiles/{person['id']}", key=shared, org=org.id)).status == 200
    assert (await api.get(f"/profiles/{person['id']}", key=shared, org=other.id)).code == "NOT_FOUND"
    assert (await api.get("/profiles/ada", key=shared, org=other.id)).code == "NOT_FOUND"


@pytest.mark.rule("C98")
async def test_a_key_mints_others_as_far_as_it_reaches(api: Api, make: Make, org: Org, other: Org, shared: str) -> None:
    """An administrator of both orgs has both orgs' word; one of a single org has not, whatever it names."""
    stranger = await make.org()
    for further in (other, stranger):
        assert (await minted(api, org, further, key=org.sk)).code == "NOT_FOUND"
    assert (await minted(api, org, other, stranger, key=shared)).code == "NOT_FOUND"
    body = {"type": "sk", "environment": "prod", "orgs": [str(org.id)]}
    assert (await api.post("/api-keys", body, key=other.sk)).code == "NOT_FOUND"

    there = await minted(api, other, org, other, key=shared, scopes=["events.read", "settings:read"], role="VIEWER")
    assert there.status == 201, there
    assert (there.data["orgId"], there.data["orgs"]) == (str(other.id), [str(org.id)])
    assert there.data["projectId"] == str(other.project)
    key = there.data["key"]
    for own in (org, other):
        accounting = await api.get("/events/accounting", key=key, org=own.id)
        assert accounting.data["projectId"] == str(own.project)
    assert (await api.get("/usage", key=key)).code == "VALIDATION_ERROR"
    alone = await minted(api, org, key=shared)
    assert alone.data["orgs"] == []
    assert (await api.get("/usage", key=alone.data["key"])).status == 200, "a key of one org needs no explicit form"

    for own, action in ((other, "key.minted"), (org, "key.granted")):
        log = await api.get("/audit-log", key=own.sk, resource=f"key:{there.data['id']}")
        assert [(line["action"], line["actor"]) for line in log.data] == [(action, prefix_of(shared))]


@pytest.mark.rule("B018", "C98")
async def test_orgs_that_are_not_valid(api: Api, org: Org, shared: str) -> None:
    for given in (
        {"type": "pk", "orgs": [str(org.id)]},
        {"type": "pk", "orgs": []},
        {"type": "sk", "orgs": [str(uuid4()) for _ in range(100)]},
        {"type": "sk", "orgs": str(org.id)},
    ):
        answer = await api.post("/api-keys", {"environment": "prod", **given}, key=shared, org=org.id)
        assert list(answer.fields) == ["orgs"], answer
    bad = await api.post("/api-keys", {"type": "sk", "environment": "prod", "orgs": ["x"]}, key=org.sk)
    assert list(bad.fields) == ["orgs.0"], bad


@pytest.mark.rule("B015", "C98")
async def test_each_org_sees_the_key_and_what_is_its_own_of_it(api: Api, org: Org, other: Org, shared: str) -> None:
    at_home = {row["prefix"]: row for row in (await api.get("/api-keys", key=org.sk)).data}[prefix_of(shared)]
    assert (at_home["orgId"], at_home["orgs"]) == (str(org.id), [str(other.id)])
    assert at_home["projectId"] == str(org.project)
    guest = {row["prefix"]: row for row in (await api.get("/api-keys", key=other.sk)).data}[prefix_of(shared)]
    assert (guest["id"], guest["orgId"], guest["orgs"]) == (at_home["id"], str(org.id), [str(other.id)])
    assert guest["projectId"] == str(other.project)
    assert guest["scopes"] == at_home["scopes"]
    assert str(org.project) not in (await api.get("/api-keys", key=other.sk)).body.decode()


@pytest.mark.rule("B025", "C98")
async def test_an_org_shows_a_key_the_door(api: Api, kernel: Kernel, make: Make, org: Org, other: Org) -> None:
    """It ends in that org, also in a process that only hears of it; at home it goes on, at last as a key of one org."""
    key = await make.key(org)
    third = await make.org()
    for there in (other, third):
        granted = await orgs.grant(kernel, prefix_of(key), there.id, None)
    elsewhere = dataclasses.replace(kernel, bus=await type(kernel.bus).open(kernel.settings.nats))
    try:
        known = await orgs.authenticate(elsewhere, key)
        assert known is not None and set(known.reach) == {org.id, other.id, third.id}
        for _ in range(2):
            await elsewhere.bus.client.flush()
        gone = await api.delete(f"/api-keys/{granted.id}", key=other.sk)
        assert (gone.status, gone.data) == (200, {"id": str(granted.id), "revoked": True})
        assert (await api.get("/usage", key=key, org=other.id)).code == "NOT_FOUND"
        assert (await api.get("/usage", key=key, org=third.id)).status == 200

        async def heard() -> bool:
            now = await orgs.authenticate(elsewhere, key)
            return now is not None and set(now.reach) == {org.id, third.id}

        await eventually(heard)
    finally:
        await elsewhere.bus.close()
    assert (await api.delete(f"/api-keys/{granted.id}", key=other.sk)).code == "NOT_FOUND"
    assert (await api.delete(f"/api-keys/{granted.id}", key=third.sk)).status == 200
    assert (await api.get("/usage", key=key)).status == 200
    log = await api.get("/audit-log", key=org.sk, resource=f"key:{granted.id}")
    assert [(line["action"], line["actor"]) for line in log.data] == [
        ("key.dismissed", "system"),
        ("key.dismissed", "system"),
        ("key.granted", "operator"),
        ("key.granted", "operator"),
    ]
    assert prefix_of(other.sk) not in log.body.decode()
    there_log = (await api.get("/audit-log", key=other.sk)).data
    assert [line["action"] for line in there_log] == ["key.dismissed", "key.granted"]
    assert there_log[0]["actor"] == prefix_of(other.sk)


@pytest.mark.rule("B025", "C98")
async def test_its_own_org_ends_it_everywhere(api: Api, org: Org, other: Org, shared: str) -> None:
    id_ = next(row["id"] for row in (await api.get("/api-keys", key=org.sk)).data if row["orgs"])
    assert (await api.delete(f"/api-keys/{id_}", key=org.sk)).status == 200
    for own in (org, other):
        assert (await api.get("/usage", key=shared, org=own.id)).status == 401
        assert (await api.post("/events", EVENT, key=shared, org=own.id)).status == 401
        assert (await api.get("/audit-log", key=own.sk)).data[0]["action"] == "key.revoked"
    assert id_ not in {row["id"] for row in (await api.get("/api-keys", key=other.sk)).data}
    assert (await api.delete(f"/api-keys/{id_}", key=other.sk)).code == "NOT_FOUND"


@pytest.mark.rule("C98")
async def test_a_dismissed_key_mints_no_successor(kernel: Kernel, db: Database, other: Org, shared: str) -> None:
    """What a process still believes of a key's reach does not count when another key shall have it."""
    believed = await orgs.authenticate(kernel, shared)
    assert believed is not None and other.id in believed.reach
    body = MintKey(type="sk", environment="prod", orgs=[other.id])
    await service.mint_key(kernel, believed, body)
    await db.execute("DELETE FROM key_grants WHERE org_id = $1", other.id)
    with pytest.raises(NotFound):
        await service.mint_key(kernel, believed, body)


@pytest.mark.rule("C98")
async def test_what_the_operator_may_not_do(kernel: Kernel, make: Make, org: Org, other: Org) -> None:
    """A project must be named where there are several, and everything that is named must be there."""
    second = await orgs.create_project(kernel.db, other.id, "second")
    key = await make.key(org)
    for prefix, there, project, said in (
        (prefix_of(key), other.id, None, "several projects"),
        (prefix_of(key), other.id, org.project, "no project"),
        (prefix_of(key), org.id, None, "belongs to this org"),
        (prefix_of(key), uuid4(), None, "no org"),
        (prefix_of(org.pk), other.id, second, "no living secret key"),
        ("sk_prod_nobody00", other.id, second, "no living secret key"),
    ):
        with pytest.raises(orgs.GrantRefused, match=said):
            await orgs.grant(kernel, prefix, UUID(str(there)), project)
    assert (await orgs.grant(kernel, prefix_of(key), other.id, second)).reach[other.id].project == second
    moved = await orgs.grant(kernel, prefix_of(key), other.id, other.project)
    assert moved.reach[other.id].project == other.project
    assert moved.reach[org.id].project == org.project


@pytest.mark.rule("C98")
async def test_guests_take_places(api: Api, kernel: Kernel, db: Database, make: Make, org: Org, other: Org) -> None:
    """A thousand living keys of an org, whosever they are."""
    await db.execute(
        "INSERT INTO api_keys (org_id, id, prefix, hash, kind, environment, project_id, scopes, rate_per_second,"
        " rate_burst) SELECT $1, gen_random_uuid(), gen_random_uuid()::text, '', 'sk', 'prod', $2, '{}', 1, 1"
        " FROM generate_series(1, 997)",
        other.id,
        other.project,
    )
    key = await make.key(org)
    await orgs.grant(kernel, prefix_of(key), other.id, None)
    full = await api.post("/api-keys", {"type": "pk", "environment": "prod"}, key=other.sk)
    assert (full.status, full.details["reason"]) == (409, "too_many_keys")
    with pytest.raises(orgs.GrantRefused, match="at most 1000 keys"):
        await orgs.grant(kernel, prefix_of(await make.key(org)), other.id, None)
    assert len((await api.get("/api-keys", key=other.sk)).data) == 1_000
