"""Another organisation's data, never: every route with somebody else's ids, in both URL forms.

An organisation fills its rooms, all with one rare word. Another one then asks for each of those things by its real id,
and for every list; it is told that there is nothing, and no answer holds the word or an id. Routes are read from the
rooms, so a new one is tested from its first day; a new kind of id needs a line in `things`.
"""

from typing import Any

import pytest
from tests.api import Api
from tests.contract.coverage import PARAMETER
from tests.make import Make, Org
from tests.modules.push.conftest import APNS

from sendora.app import MODULES
from sendora.kernel.life import Kernel

WORD = "zanzibar"
"""In everything that the first organisation says."""

WORDS = {
    "POST": b'{"name":"n","rules":{"all":[]},"userId":"u","scope":"all","module":"profiles","userIds":["u"]}',
    "PUT": b"{}",
    "PATCH": b'{"name":"n"}',
}
"""Bodies that get as far as the look-up where a route asks for no more; a 400 tells nothing either."""

QUERIES = {"/profiles/{profile_id}/why-not": "?sendId={send_id}"}
"""Of routes that ask nobody without one."""


async def things(api: Api, make: Make, org: Org) -> dict[str, str]:
    """One of each, by the name that paths have for it."""

    async def made(path: str, body: dict[str, Any], key: str = org.sk) -> str:
        answer = await api.post(path, body, key=key)
        assert answer.status in (200, 201), (path, answer)
        id_: str = answer.data["id"]
        return id_

    await api.put("/push/providers/apns", {**APNS, "bundleId": f"com.{WORD}.app"}, key=org.sk)
    profile = await make.profile(org, f"{WORD}-ada", email=f"{WORD}@example.com", traits={"word": WORD})
    token = await make.token(org, f"ok-{WORD}", userId=f"{WORD}-ada")
    listed = await made("/audiences", {"name": WORD, "type": "list"})
    await api.post(f"/audiences/{listed}/contacts", {"userIds": [f"{WORD}-ada"]}, key=org.sk)
    content = {"title": WORD, "body": WORD}
    test = {"name": WORD, "status": "active", "variants": [{"key": WORD, "weight": 100}]}
    fence = {"name": WORD, "latitude": 1, "longitude": 1, "radiusMeters": 100, "triggers": ["enter"]}
    activity = {"userId": f"{WORD}-ada", "activityType": WORD, "externalId": WORD, "pushToken": "cd" * 32}
    weekly = {"at": "2026-01-05T09:00:00", "zone": "UTC", "rrule": "FREQ=WEEKLY"}
    said = {"userIds": [f"{WORD}-ada"], **content, "schedule": weekly}
    return {
        "schedule_id": (await api.post("/push/send", said, key=org.sk)).data["scheduleId"],
        "audience_id": listed,
        "user_id": f"{WORD}-ada",
        "profile_id": profile["id"],
        "token_id": token["id"],
        "recipient_id": token["id"],
        "template_id": await made("/push/templates", {"name": WORD, **content}),
        "test_id": await made("/push/ab-tests", test),
        "send_id": await made("/push/send", {"userIds": [f"{WORD}-ada"], **content}),
        "geofence_id": await made("/push/geofences", fence),
        "activity_id": await made("/push/live-activities/start-token", {**activity, "platform": "ios"}, key=org.pk),
        "export_id": await made("/data-io/export", {"module": "profiles"}),
        "request_id": await made("/consent/deletion-request", {"userId": f"{WORD}-eve", "scope": "all"}),
        "key_id": (await api.get("/api-keys", key=org.sk)).data[0]["id"],
        "provider": "apns",
    }


@pytest.fixture(scope="module")
async def theirs(everything: Api, kernel: Kernel) -> tuple[Org, dict[str, str]]:
    make = Make(kernel, everything)
    org = await make.org()
    return org, await things(everything, make, org)


def routes() -> list[tuple[str, str]]:
    return [
        (str(method), PARAMETER.sub(r"{\1}", path))
        for module in MODULES
        for route in module.routes
        for path in route.paths
        for method in sorted(route.http_methods - {"OPTIONS", "HEAD"})
    ]


@pytest.mark.rule("B002", "B027", "C03")
async def test_their_things_are_not_there(everything: Api, kernel: Kernel, theirs: tuple[Org, dict[str, str]]) -> None:
    them, ids = theirs
    us = await Make(kernel, everything).org()
    asked = 0
    for method, path in routes():
        if not PARAMETER.search(path):
            continue
        whole = (path + QUERIES.get(path, "")).format(**ids)
        refusals = {404} if method in ("GET", "DELETE") else {400, 404}
        for org in (None, us.id, them.id):
            for key, allowed in ((us.sk, refusals), (us.pk, {403, *refusals})):
                answer = await everything.request(method, whole, WORDS.get(method), key=key, org=org)
                assert answer.status in allowed, (method, whole, org, answer)
                _says_nothing(answer.body, them, ids, whole)
                asked += 1
    assert asked > 150


@pytest.mark.rule("B027", "C03")
async def test_their_things_are_in_no_list(everything: Api, kernel: Kernel, theirs: tuple[Org, dict[str, str]]) -> None:
    """Nor behind a filter that names one of them."""
    them, ids = theirs
    us = await Make(kernel, everything).org()
    filters = {
        "userId": ids["user_id"], "audienceId": ids["audience_id"], "projectId": str(them.project),
        "externalId": ids["user_id"], "email": f"{WORD}@example.com", "resource": f"audience:{ids['audience_id']}",
    }  # fmt: skip
    for method, path in routes():
        if method != "GET" or PARAMETER.search(path):
            continue
        for org in (None, us.id):
            for query in ({}, *({name: value} for name, value in filters.items())):
                answer = await everything.request(method, path, key=us.sk, org=org, **query)
                assert answer.status in (200, 400, 404), (path, query, answer)
                _says_nothing(answer.body, them, {}, str(query))
        refused = await everything.request(method, path, key=us.sk, org=them.id)
        assert refused.status == 404, (path, refused)


@pytest.mark.rule("B027", "C03")
async def test_their_ids_refer_to_nothing(everything: Api, kernel: Kernel, theirs: tuple[Org, dict[str, str]]) -> None:
    """In bodies: what a request names must be the caller's own."""
    them, ids = theirs
    us = await Make(kernel, everything).org()
    await everything.put("/push/providers/apns", APNS, key=us.sk)
    said = {"title": "T", "body": "B"}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/push/send", {**said, "audienceId": ids["audience_id"]}),
        ("/push/send", {**said, "userIds": ["u"], "excludeAudienceIds": [ids["audience_id"]]}),
        ("/push/send", {**said, "userIds": ["u"], "templateId": ids["template_id"]}),
        ("/push/send", {**said, "userIds": ["u"], "abTestId": ids["test_id"]}),
        ("/push/send", {**said, "userIds": ["u"], "projectId": str(them.project)}),
        ("/push/send", {**said, "userIds": ["u"], "orgId": str(them.id)}),
        ("/audiences/preview", {"rules": {"all": []}, "excludeAudienceIds": [ids["audience_id"]]}),
        ("/audiences/explain", {"userId": ids["user_id"], "rules": {"all": []}}),
        ("/audiences/explain", {"userId": ids["profile_id"], "audienceId": ids["audience_id"]}),
        ("/data-io/export", {"module": "profiles", "filter": {"profileId": ids["profile_id"]}}),
        ("/push/geofences/event", {"geofenceId": ids["geofence_id"], "event": "enter", "userId": "u"}),
        ("/events", {"eventType": "e", "module": "m", "projectId": str(them.project)}),
        ("/push/tokens", {"token": "ok-ours", "platform": "ios", "projectId": str(them.project)}),
    ]
    for path, body in bodies:
        for org in (None, us.id):
            answer = await everything.post(path, body, key=us.sk, org=org)
            assert answer.status in (400, 404), (path, body, answer)
            _says_nothing(answer.body, them, ids, str(body))
    restored = await everything.post("/push/tokens/restore", {"tokenIds": [ids["token_id"]]}, key=us.sk)
    assert restored.data["restored"] == 0
    # A raw token of theirs is no address of ours.
    sent = await everything.post("/push/send", {**said, "tokens": [f"ok-{WORD}"]}, key=us.sk)
    assert (sent.status, (await everything.get("/push/tokens", key=us.sk)).data) == (200, [])


def _says_nothing(body: bytes, them: Org, ids: dict[str, str], asked: str) -> None:
    """But for what the question itself said."""
    said = body.decode()
    assert WORD not in said.replace(asked, "") or WORD in asked, said
    secrets = {str(them.id), str(them.project), *ids.values()} - {"apns"}
    assert not [secret for secret in secrets if secret in said and secret not in asked], said
