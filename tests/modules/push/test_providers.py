"""Credentials: checked, sealed, never shown; the org's one VAPID key pair."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.api import Api
from tests.make import Make, Org
from tests.modules.push.conftest import ACCOUNT, APNS, P8, RSA, pem

from sendora.kernel.life import Kernel
from sendora.kernel.pg import Database
from sendora.modules import push
from sendora.modules.push import credentials
from sendora.modules.push.model.providers import APPS_MAX, Apns, Fcm
from sendora.modules.push.model.tokens import decode_key


def certified(days: int) -> dict[str, object]:
    """The body of a request with a certificate that ends in so many days."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Apple Push Services: com.example.app")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    text = certificate.public_bytes(serialization.Encoding.PEM).decode()
    return {**dict.fromkeys(APNS), "certificate": text, "privateKey": pem(key), "bundleId": "com.example.app"}


CERTIFIED = certified(days=30)


@pytest.mark.rule("B022", "B277", "C51")
async def test_apns_is_stored_and_shown_without_its_key(api: Api, org: Org, kernel: Kernel, db: Database) -> None:
    """B022: sealed at rest, and no answer ever holds the key; B277, C51: over the API, not from a dashboard alone."""
    put = await api.put("/push/providers/apns", {**APNS, "bundleIds": ["com.example.two"]}, key=org.sk)
    assert put.status == 200, put
    shown = put.data["apns"]
    assert (shown["keyId"], shown["teamId"]) == ("ABC123DEFG", "TEAM123456")
    assert shown["bundleIds"] == ["com.example.app", "com.example.two"]
    assert b"PRIVATE KEY" not in put.body
    assert (await api.get("/push/providers", key=org.sk)).data == put.data
    sealed = await db.fetchval("SELECT sealed FROM push_providers WHERE org_id = $1", org.id)
    assert b"PRIVATE" not in sealed
    found = (await credentials.find(kernel, org.id, org.project, "apns")).rest
    assert found is not None and isinstance(found.secret, Apns) and found.secret.p8 == P8


@pytest.mark.rule("B022", "B089")
async def test_a_certificate_in_place_of_a_key(api: Api, org: Org, db: Database) -> None:
    """Shown by when it ends; stored anew it replaces the key."""
    await api.put("/push/providers/apns", APNS, key=org.sk)
    put = await api.put("/push/providers/apns", certified(days=30), key=org.sk)
    assert put.status == 200, put
    shown = put.data["apns"]
    assert (shown["keyId"], shown["teamId"], shown["bundleIds"]) == (None, None, ["com.example.app"])
    left = datetime.fromisoformat(shown["certificateExpiresAt"]) - datetime.now(UTC)
    assert timedelta(days=29) < left < timedelta(days=30)
    assert b"PRIVATE KEY" not in put.body
    sealed = await db.fetchval("SELECT sealed FROM push_providers WHERE org_id = $1", org.id)
    assert b"PRIVATE" not in sealed
    assert b"CERTIFICATE" not in sealed


@pytest.mark.rule("B091")
async def test_the_fcm_project_comes_from_the_file(api: Api, org: Org, kernel: Kernel) -> None:
    """B091."""
    put = await api.put("/push/providers/fcm", {"serviceAccount": ACCOUNT}, key=org.sk)
    assert put.data["fcm"]["projectId"] == "shop-1234", put
    assert b"PRIVATE KEY" not in put.body
    found = (await credentials.find(kernel, org.id, org.project, "fcm")).rest
    assert found is not None and isinstance(found.secret, Fcm) and found.secret.private_key == RSA


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"p8Key": "not a key"}, "p8Key"),
        ({"p8Key": pem(ec.generate_private_key(ec.SECP384R1()))}, "p8Key"),
        ({"p8Key": RSA}, "p8Key"),
        ({"keyId": "short"}, "keyId"),
        ({"teamId": "WITH-DASH1"}, "teamId"),
        ({"bundleId": None}, "bundleId"),
        ({"bundleId": "a b"}, "bundleIds"),
        ({"environment": "staging"}, "environment"),
        ({"certificate": "x"}, "certificate"),
        (CERTIFIED | {"privateKey": None}, "privateKey"),
        (CERTIFIED | {"certificate": None}, "certificate"),
        (CERTIFIED | {"certificate": P8}, "certificate"),
        (CERTIFIED | {"privateKey": P8}, "privateKey"),
        (CERTIFIED | {"privateKey": "none"}, "privateKey"),
        (certified(days=-1), "certificate"),
        (CERTIFIED | {"bundleId": None}, "bundleId"),
        ({"projectId": str(uuid4())}, "projectId"),
    ],
)
async def test_what_is_no_apns_credential(api: Api, org: Org, said: dict[str, object], field: str) -> None:
    """Refused when it is stored, so that no send finds out."""
    refused = await api.put("/push/providers/apns", {**APNS, **said}, key=org.sk)
    assert field in refused.fields, refused
    assert (await api.get("/push/providers", key=org.sk)).data["apns"] is None


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"private_key": P8}, "serviceAccount.private_key"),
        ({"private_key": None}, "serviceAccount.private_key"),
        ({"project_id": "../other"}, "serviceAccount.project_id"),
        ({"client_email": 7}, "serviceAccount.client_email"),
        ({"token_uri": "http://169.254.169.254/token"}, "serviceAccount.token_uri"),
        ({"token_uri": "https://oauth2.googleapis.com/token?x"}, "serviceAccount.token_uri"),
        ({"type": "authorized_user"}, "serviceAccount.type"),
    ],
)
async def test_what_is_no_fcm_credential(api: Api, org: Org, said: dict[str, object], field: str) -> None:
    """A client's file names the token endpoint: only a known one is ever dialled."""
    refused = await api.put("/push/providers/fcm", {"serviceAccount": {**ACCOUNT, **said}}, key=org.sk)
    assert field in refused.fields, refused


async def test_credentials_are_an_admins(api: Api, org: Org, make: Make) -> None:
    """Scope and role both count (C21); another org sees nothing."""
    editor = await make.key(org, scopes=("push:read", "push:write"), role="EDITOR")
    for answer in (
        await api.get("/push/providers", key=editor),
        await api.put("/push/providers/apns", APNS, key=editor),
        await api.delete("/push/providers/apns", key=editor),
    ):
        assert (answer.status, answer.code) == (403, "FORBIDDEN")
    await api.put("/push/providers/apns", APNS, key=org.sk)
    other = await make.org()
    assert (await api.get("/push/providers", key=other.sk)).data == {
        "apns": None,
        "fcm": None,
        "vapid": None,
        "apps": [],
    }
    gone = await api.delete("/push/providers/apns", key=org.sk)
    assert (gone.status, gone.data) == (200, {"provider": "apns", "app": None, "removed": True})
    again = await api.delete("/push/providers/apns", key=org.sk)
    assert again.status == 404
    assert (await api.delete("/push/providers/nothing", key=org.sk)).status == 404


async def test_an_app_may_have_credentials_of_its_own(api: Api, org: Org, kernel: Kernel) -> None:
    """By bundle id: the app's own before the project's, even where both name it, and the project's for all others."""
    drivers = {**APNS, "keyId": "DRIVERKEY1", "teamId": "DRIVERS001", "bundleId": "com.example.two", "app": "drivers"}
    await api.put("/push/providers/apns", {**APNS, "bundleIds": ["com.example.two"]}, key=org.sk)
    put = await api.put("/push/providers/apns", drivers, key=org.sk)
    assert put.status == 200, put
    android = {"serviceAccount": ACCOUNT, "app": "tv", "bundleIds": ["com.example.a_tv"]}
    listed = (await api.put("/push/providers/fcm", android, key=org.sk)).data
    assert (listed["apns"]["keyId"], listed["fcm"]) == ("ABC123DEFG", None)
    drivers_own, tv = listed["apps"]
    assert (drivers_own["app"], drivers_own["apns"]["keyId"], drivers_own["fcm"]) == ("drivers", "DRIVERKEY1", None)
    assert (tv["app"], tv["apns"], tv["fcm"]["bundleIds"]) == ("tv", None, ["com.example.a_tv"])
    assert (await api.get("/push/providers", key=org.sk)).data == listed

    found = await credentials.find(kernel, org.id, org.project, "apns")
    asked = (None, "com.example.app", "com.example.two", "other")
    apps = {bundle: one.app for bundle in asked if (one := found.of(bundle)) is not None}
    assert apps == {None: "", "com.example.app": "", "com.example.two": "drivers", "other": ""}
    assert (await credentials.find(kernel, org.id, org.project, "fcm")).of("other") is None

    gone = await api.delete("/push/providers/apns?app=drivers", key=org.sk)
    assert (gone.status, gone.data) == (200, {"provider": "apns", "app": "drivers", "removed": True})
    left = (await api.get("/push/providers", key=org.sk)).data
    assert (left["apns"]["keyId"], [one["app"] for one in left["apps"]]) == ("ABC123DEFG", ["tv"])
    for app in ("drivers", "", "a%20b", "x" * 65):
        assert (await api.delete(f"/push/providers/apns?app={app}", key=org.sk)).status == 404, app
    log = await api.get("/audit-log", key=org.sk)
    assert {line["resource"] for line in log.data} >= {"push_provider:apns", "push_provider:apns/drivers"}


async def test_two_apps_cannot_name_the_same_bundle_id(api: Api, org: Org) -> None:
    """Also where both are stored at the same time; what an app had before is no obstacle to itself."""
    named = [{**APNS, "bundleId": "com.example.x", "app": f"app-{number}"} for number in range(5)]
    answers = await asyncio.gather(*(api.put("/push/providers/apns", one, key=org.sk) for one in named))
    assert sorted(answer.status for answer in answers) == [200, 409, 409, 409, 409]
    (refused, *_) = [answer for answer in answers if answer.status == 409]
    assert (refused.code, refused.details["reason"]) == ("CONFLICT", "bundle_id_taken")
    (app,) = (await api.get("/push/providers", key=org.sk)).data["apps"]
    more = {**APNS, "bundleIds": ["com.example.x", "com.example.y"], "app": app["app"]}
    assert (await api.put("/push/providers/apns", more, key=org.sk)).status == 200


async def test_a_project_has_so_many_apps(api: Api, org: Org) -> None:
    for number in range(APPS_MAX):
        said = {**APNS, "bundleId": f"com.example.a{number}", "app": f"a{number}"}
        assert (await api.put("/push/providers/apns", said, key=org.sk)).status == 200
    again = {**APNS, "bundleId": "com.example.a0", "app": "a0"}
    assert (await api.put("/push/providers/apns", again, key=org.sk)).status == 200
    more = await api.put("/push/providers/apns", {**APNS, "bundleId": "com.example.z", "app": "z"}, key=org.sk)
    assert (more.status, more.details["reason"]) == (409, "too_many_apps")
    assert (await api.put("/push/providers/apns", APNS, key=org.sk)).status == 200


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"app": ""}, "app"),
        ({"app": "../x"}, "app"),
        ({"app": "x" * 65}, "app"),
        ({"app": "tv"}, "bundleIds"),
        ({"app": "tv", "bundleIds": []}, "bundleIds"),
        ({"app": "tv", "bundleIds": ["a b"]}, "bundleIds"),
    ],
)
async def test_what_is_no_app(api: Api, org: Org, said: dict[str, object], field: str) -> None:
    refused = await api.put("/push/providers/fcm", {"serviceAccount": ACCOUNT, **said}, key=org.sk)
    assert field in refused.fields, refused


@pytest.mark.rule("B022")
async def test_the_audit_log_tells_of_credentials_and_policies(api: Api, org: Org) -> None:
    """Who stored, removed and changed what; never a key, and nothing of what was refused."""
    await api.put("/push/providers/apns", APNS, key=org.sk)
    await api.put("/push/providers/apns", {**APNS, "keyId": "short"}, key=org.sk)
    await api.put("/push/providers/fcm", {"serviceAccount": ACCOUNT}, key=org.sk)
    await api.delete("/push/providers/apns", key=org.sk)
    await api.delete("/push/providers/apns", key=org.sk)
    await api.patch("/push/settings", {"freqCapPerUserPerDay": 3, "orgDefaultTimezone": None}, key=org.sk)
    await api.patch("/push/settings", {"orgDefaultTimezone": "Mars/Base"}, key=org.sk)
    log = await api.get("/audit-log", key=org.sk)
    assert [(line["action"], line["resource"]) for line in log.data] == [
        ("push_settings.changed", "settings:push"),
        ("push_provider.removed", "push_provider:apns"),
        ("push_provider.stored", "push_provider:fcm"),
        ("push_provider.stored", "push_provider:apns"),
    ]
    assert log.data[0]["details"] == {"freqCapPerUserPerDay": 3, "orgDefaultTimezone": None}
    assert log.data[2]["details"]["projectId"] == "shop-1234"
    assert "PRIVATE KEY" not in log.body.decode()


@pytest.mark.rule("B090", "C42")
async def test_one_vapid_key_pair_for_an_org(api: Api, org: Org, db: Database) -> None:
    """B090, C42: made by the first call, however many come at once; a public key may ask."""
    answers = await asyncio.gather(*(api.get("/push/vapid", key=org.pk) for _ in range(10)))
    keys = {answer.data["publicKey"] for answer in answers}
    assert len(keys) == 1
    point = decode_key(keys.pop(), 65)
    assert point is not None and point[0] == 4
    assert await db.fetchval("SELECT count(*) FROM push_providers WHERE org_id = $1", org.id) == 1
    assert b"private" not in answers[0].body.lower()


async def test_the_operator_can_examine_all_credentials(api: Api, org: Org, kernel: Kernel, db: Database) -> None:
    """`sendora doctor`: each opens under the vault's key, or is named."""
    await api.put("/push/providers/apns", APNS, key=org.sk)
    opened, broken = await push.examine_credentials(kernel)
    assert opened >= 1 and str(org.id) not in str(broken)
    await db.execute("UPDATE push_providers SET id = $2 WHERE org_id = $1", org.id, uuid4())
    again, broken = await push.examine_credentials(kernel)
    assert again == opened - 1
    assert f"apns of project {org.project} of org {org.id}" in broken
    await db.execute("DELETE FROM push_providers WHERE org_id = $1", org.id)
