"""What a key may do by its kind, its scopes and its plan, and what every answer says of its limits."""

import asyncio
import re
from typing import Any
from uuid import uuid4

import pytest
from tests.api import Api
from tests.make import Make, Org

from sendora.app import MODULES
from sendora.kernel.http.principal import PLANS
from sendora.kernel.http.routes import NEEDS
from sendora.modules import orgs
from sendora.modules.orgs.model import PUBLIC_SCOPES, SECRET_SCOPES

EVENT = {"eventType": "opened", "module": "analytics"}


def gated() -> list[tuple[str, str, str]]:
    """(method, path, plan) of every route that is not on every plan."""
    return [
        (method, re.sub(r"{[^}]+}", str(uuid4()), path), route.opt[NEEDS].tier)
        for module in MODULES
        for route in module.routes
        for path in route.paths
        for method in route.http_methods
        if method != "OPTIONS" and route.opt[NEEDS].tier != "free"
    ]


@pytest.mark.rule("B001")
async def test_everything_is_json_below_one_path(api: Api, org: Org) -> None:
    """B001: successes and failures at both doors, and nothing of the API anywhere else."""
    for said in (
        await api.get("/usage", key=org.sk),
        await api.get("/usage"),
        await api.get("/nowhere", key=org.sk),
        await api.post("/events", EVENT, key=org.pk),
        await api.post("/events", b"{", key=org.pk),
    ):
        assert said.headers["content-type"] == "application/json"
        assert said.envelope["success"] is (said.status < 400)
    for outside in ("/usage", "/api/usage", "/api/v2/usage", "/v1/usage"):
        assert (await api.plain("GET", outside, [("x-api-key", org.sk)])).status_code == 404


@pytest.mark.rule("B012")
async def test_sending_is_for_secret_keys(api: Api, org: Org, make: Make) -> None:
    """B012: a scope for each channel, in every secret key's default, and no public key can be given one."""
    sending = {"push:send", "email:send", "sms:send"}
    assert sending <= set(SECRET_SCOPES) and not sending & set(PUBLIC_SCOPES)
    for scope in sending:
        body = {"type": "pk", "environment": "prod", "scopes": [scope]}
        assert list((await api.post("/api-keys", body, key=org.sk)).fields) == ["scopes.0"]
    send = {"userIds": ["nobody"], "title": "T", "body": "B"}
    without = await make.key(org, scopes=tuple(scope for scope in SECRET_SCOPES if scope != "push:send"), role="ADMIN")
    for key in (org.pk, without):
        refused = await api.post("/push/send", send, key=key)
        assert (refused.status, refused.code) == (403, "scope_required")
        assert refused.details["requiredScope"] == "push:send"
    only = await make.key(org, scopes=("push:send",))
    assert (await api.post("/push/send", send, key=only)).status not in (401, 403)


@pytest.mark.rule("B013", "C19", "C22")
async def test_people_and_audiences_are_for_secret_keys(api: Api, org: Org, make: Make) -> None:
    """B013, C19, C22: reading and writing apart, and a public key reads nobody."""
    person = await make.profile(org)
    rule = {"name": "all", "rules": {"all": []}}
    asked: list[tuple[str, str, Any, str]] = [
        ("GET", "/audiences", None, "audiences:read"),
        ("POST", "/audiences", rule, "audiences:write"),
        ("GET", "/profiles", None, "profiles:read"),
        ("GET", f"/profiles/{person['id']}", None, "profiles:read"),
        ("PATCH", f"/profiles/{person['id']}", {"traits": {"a": 1}}, "profiles:write"),
    ]
    scopes = {scope for *_, scope in asked}
    keys = {scope: await make.key(org, scopes=(scope,)) for scope in scopes}
    for method, path, body, needed in asked:
        assert needed in SECRET_SCOPES and needed not in PUBLIC_SCOPES
        refused = await api.request(method, path, body, key=org.pk)
        assert (refused.code, refused.details["requiredScope"]) == ("scope_required", needed), path
        for scope, key in keys.items():
            answer = await api.request(method, path, body, key=key)
            assert (answer.status < 300) is (scope == needed), (path, scope, answer)


@pytest.mark.rule("C22")
async def test_what_a_public_key_may(api: Api, org: Org) -> None:
    """C22: it reports, registers, and reads the key that its browser subscribes with."""
    assert (await api.post("/events", EVENT, key=org.pk)).status == 201
    assert (await api.post("/identify", {"userId": "u"}, key=org.pk)).status == 200
    token = {"token": f"t-{uuid4().hex}", "platform": "android"}
    assert (await api.post("/push/tokens", token, key=org.pk)).status in (200, 201)
    assert (await api.get("/push/vapid", key=org.pk)).status == 200
    assert (await api.get("/push/tokens", key=org.pk)).code == "scope_required"


@pytest.mark.rule("B038", "B039", "C12", "C87")
async def test_each_plan_includes_the_ones_before_it(api: Api, make: Make) -> None:
    """B038, C12: 402 names the plan that a route needs, before the body is looked at; from that plan on it is none."""
    routes = gated()
    assert {path for _, path, _ in routes} >= {"/audiences", "/push/templates", "/push/ab-tests"}
    for plan in PLANS:
        key = (await make.org(plan)).sk
        for method, path, tier in routes:
            answer = await api.request(method, path, None if method in ("GET", "DELETE") else b"{", key=key)
            if PLANS.index(plan) < PLANS.index(tier):  # type: ignore[arg-type]
                assert (answer.status, answer.code) == (402, "tier_required"), (plan, path, answer)
                assert answer.details == {"requiredPlan": tier, "status": "PAYMENT_REQUIRED"}
            else:
                assert answer.status in (200, 400, 404), (plan, path, answer)


@pytest.mark.rule("B034", "C95")
async def test_the_limit_of_a_key(api: Api, org: Org) -> None:
    """B034, C95: 1,000 a second and 5,000 at once, for every key that was minted without a limit of its own."""
    for kind in ("pk", "sk"):
        minted = (await api.post("/api-keys", {"type": kind, "environment": "prod"}, key=org.sk)).data
        assert minted["rateLimit"] == {"perSecond": 1_000, "burst": 5_000}
        answer = await api.post("/events", EVENT, key=minted["key"])
        assert answer.headers["x-ratelimit-limit"] == "5000"


@pytest.mark.rule("B031", "C11")
async def test_every_answer_tells_of_the_bucket(api: Api, make: Make) -> None:
    """C11: at both doors, of refusals too; the code of this surface is RATE_LIMIT, with Retry-After."""
    org = await make.org(limit=orgs.RateLimit(per_second=1, burst=2))
    for path, method, body in (("/usage", "GET", None), ("/events", "POST", EVENT)):
        key = await make.key(org, limit=orgs.RateLimit(per_second=1, burst=2))
        answers = await asyncio.gather(*(api.request(method, path, body, key=key) for _ in range(20)))
        refused = [answer for answer in answers if answer.status >= 400]
        assert refused and len(refused) < 20
        for answer in refused:
            assert (answer.status, answer.code) == (429, "RATE_LIMIT")
            assert int(answer.headers["retry-after"]) >= 1
        for answer in (*answers, await api.post("/api-keys", b"{", key=key)):
            assert answer.headers["x-ratelimit-limit"] == "2"
            assert 0 <= int(answer.headers["x-ratelimit-remaining"]) <= 2
            assert int(answer.headers["x-ratelimit-reset"]) > 0
            assert answer.headers["x-request-id"]
