"""Devices: registering, signing out, listing, and what a registration may not say."""

import asyncio
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api import Api
from tests.conftest import eventually
from tests.make import Make, Org
from tests.modules.push.conftest import subscription

from sendora import _core
from sendora.kernel.errors import Unavailable, ValidationFailed
from sendora.kernel.pg import Database
from sendora.modules.push.gather import Gatherer
from sendora.modules.push.model.tokens import RegistrationIn, registration


def device() -> str:
    return uuid4().hex * 2


@pytest.mark.rule("B082", "B083", "C94")
async def test_registering_again_changes_the_row(api: Api, org: Org) -> None:
    """B082: one row for each (org, token); B083: what is said changes, what is not said stays."""
    token = device()
    first = await api.post(
        "/push/tokens", {"token": token, "platform": "ios", "userId": "u1", "locale": "en"}, key=org.pk
    )
    assert first.status == 200 and first.data["isActive"] is True
    again = await api.post(
        "/push/tokens", {"token": token, "platform": "ios", "userId": "u2", "timezone": "Europe/Vienna"}, key=org.pk
    )
    assert again.data["id"] == first.data["id"]
    assert (again.data["userId"], again.data["locale"], again.data["timezone"]) == ("u2", "en", "Europe/Vienna")
    listed = await api.get("/push/tokens", key=org.sk)
    assert listed.pagination["total"] == 1
    assert listed.data[0] == again.data


@pytest.mark.rule("B082")
async def test_the_case_of_an_apns_token_says_nothing(api: Api, org: Org) -> None:
    """B082: Apple's tokens are bytes written as hexadecimal."""
    token = device()
    first = await api.post("/push/tokens", {"token": token, "platform": "ios"}, key=org.pk)
    again = await api.post("/push/tokens", {"token": token.upper(), "platform": "ios"}, key=org.pk)
    assert again.data["id"] == first.data["id"]


@pytest.mark.rule("B083", "B086", "C36")
@pytest.mark.parametrize(
    ("said", "active"), [({}, False), ({"userId": "u1"}, False), ({"userId": "u2"}, True), ({"reactivate": True}, True)]
)
async def test_only_a_new_owner_or_a_wish_wakes_a_device(
    api: Api, org: Org, said: dict[str, object], active: bool
) -> None:
    """B086: signing out is at once; C36: registering again leaves it so, unless for somebody else or on request."""
    body = {"token": device(), "platform": "android"}
    made = await api.post("/push/tokens", {**body, "userId": "u1"}, key=org.pk)
    out = await api.delete(f"/push/tokens/{made.data['id']}", key=org.pk)
    assert (out.status, out.data) == (200, {"id": made.data["id"], "isActive": False})
    again = await api.post("/push/tokens", {**body, **said}, key=org.pk)
    assert again.data["isActive"] is active


async def test_a_change_of_hands_moves_the_shard_and_the_moment(api: Api, org: Org, db: Database) -> None:
    """The shard is the owner's, `owner_since` the moment of the change and of nothing else."""
    body = {"token": device(), "platform": "android"}

    async def row() -> tuple[int, object, object]:
        found = await db.fetchrow("SELECT * FROM push_tokens WHERE org_id = $1 AND token = $2", org.id, body["token"])
        assert found is not None
        return found["shard"], found["owner_since"], found["registered_at"]

    await api.post("/push/tokens", {**body, "userId": "u1"}, key=org.pk)
    first = await row()
    await api.post("/push/tokens", {**body, "userId": "u1", "locale": "de"}, key=org.pk)
    same = await row()
    assert first[:2] == same[:2] and first[2] != same[2]
    await api.post("/push/tokens", {**body, "userId": "u-2"}, key=org.pk)
    other = await row()
    assert other[0] == _core.shards(org.project.bytes, ["u-2"])[0]
    assert other[1] != same[1]


@pytest.mark.rule("B082")
async def test_a_token_in_another_org_is_another_device(api: Api, make: Make) -> None:
    """B082: (org, token), so nobody can take a device away from another tenant."""
    one, other = await make.org(), await make.org()
    body = {"token": device(), "platform": "ios"}
    first = await api.post("/push/tokens", body, key=one.pk)
    second = await api.post("/push/tokens", body, key=other.pk)
    assert first.data["id"] != second.data["id"]
    gone = await api.delete(f"/push/tokens/{first.data['id']}", key=other.sk)
    assert (gone.status, gone.code) == (404, "NOT_FOUND")


@pytest.mark.rule("B082", "C94")
async def test_many_at_once_are_one_row_each(api: Api, org: Org) -> None:
    """C94: gathered registrations answer each its own; the same token many times at once is one row."""
    tokens = [device() for _ in range(20)]
    answers = await asyncio.gather(
        *(
            api.post("/push/tokens", {"token": token, "platform": "ios", "userId": f"u{n}"}, key=org.pk)
            for n in range(5)
            for token in tokens
        )
    )
    assert {answer.status for answer in answers} == {200}
    assert all(answer.data["token"] == tokens[index % 20] for index, answer in enumerate(answers))
    assert len({answer.data["id"] for answer in answers}) == 20
    assert (await api.get("/push/tokens", key=org.sk)).pagination["total"] == 20


async def test_the_list_filters(api: Api, org: Org) -> None:
    """By user and by state, newest first."""
    one = await api.post("/push/tokens", {"token": device(), "platform": "ios", "userId": "a"}, key=org.pk)
    two = await api.post("/push/tokens", {"token": device(), "platform": "ios", "userId": "b"}, key=org.pk)
    await api.delete(f"/push/tokens/{two.data['id']}", key=org.pk)
    assert [row["id"] for row in (await api.get("/push/tokens", key=org.sk)).data] == [two.data["id"], one.data["id"]]
    assert [row["id"] for row in (await api.get("/push/tokens", key=org.sk, userId="a")).data] == [one.data["id"]]
    inactive = await api.get("/push/tokens", key=org.sk, isActive="false")
    assert [row["id"] for row in inactive.data] == [two.data["id"]]
    beyond = await api.get("/push/tokens", key=org.sk, page=3, pageSize=1)
    assert (beyond.data, beyond.pagination["total"]) == ([], 2)
    refused = await api.get("/push/tokens", key=org.pk)
    assert (refused.status, refused.code) == (403, "scope_required")


@pytest.mark.rule("C42")
async def test_a_browser_registers_its_subscription(api: Api, org: Org, db: Database) -> None:
    """The endpoint is the token, the keys are kept; C42: the first one makes the key pair."""
    said = subscription(uuid4().hex)
    for body in (
        {"token": said["endpoint"], "platform": "web", "subscription": said},
        {"token": said, "platform": "web"},
    ):
        made = await api.post("/push/tokens", body, key=org.pk)
        assert (made.status, made.data["token"]) == (200, said["endpoint"]), made
    kept = await db.fetchval("SELECT subscription FROM push_tokens WHERE org_id = $1", org.id)
    assert kept == said["keys"]
    assert (
        await db.fetchval("SELECT count(*) FROM push_providers WHERE org_id = $1 AND provider = 'vapid'", org.id) == 1
    )


@pytest.mark.rule("B092", "B276")
@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"token": "ExponentPushToken[xxxxxxxxxxxxxxxxxxxxxx]", "platform": "ios"}, "token"),
        ({"token": "a b", "platform": "android"}, "token"),
        ({"token": "../3/device", "platform": "ios"}, "token"),
        ({"token": "x" * 3_000, "platform": "android"}, "token"),
        ({"token": "", "platform": "android"}, "token"),
        ({"token": "x", "platform": "windows"}, "platform"),
        ({"platform": "ios"}, "token"),
        ({"token": "x", "platform": "ios", "timezone": "Mars/Olympus"}, "timezone"),
        ({"token": "x", "platform": "ios", "locale": "not a locale"}, "locale"),
        ({"token": "x", "platform": "ios", "bundleId": "a/b"}, "bundleId"),
        ({"token": "x", "platform": "ios", "projectId": str(uuid4())}, "projectId"),
        ({"token": "x", "platform": "ios", "orgId": str(uuid4())}, "orgId"),
        ({"token": "x", "platform": "ios", "environment": "staging"}, "environment"),
        ({"token": "x", "platform": "ios", "isActive": True}, "isActive"),
        ({"token": "x", "platform": "ios", "deviceId": ""}, "deviceId"),
        ({"token": "x", "platform": "ios", "deviceId": "x" * 257}, "deviceId"),
        ({"token": "https://fcm.googleapis.com/x", "platform": "web"}, "subscription"),
        (
            {"token": {**subscription("a"), "endpoint": "https://evil.example/x"}, "platform": "web"},
            "subscription.endpoint",
        ),
        (
            {"token": {**subscription("a"), "endpoint": "http://127.0.0.1/x"}, "platform": "web"},
            "subscription.endpoint",
        ),
        (
            {"token": {**subscription("a"), "keys": {"p256dh": "AAAA", "auth": "AAAA"}}, "platform": "web"},
            "token.keys.p256dh",
        ),
        ({"token": "x", "platform": "ios", "subscription": subscription("a")}, "subscription"),
        ({"token": "other", "platform": "web", "subscription": subscription("a")}, "token"),
    ],
)
async def test_what_is_no_device(api: Api, org: Org, said: dict[str, object], field: str) -> None:
    """B092, B276 among them: Expo's tokens are refused with the reason."""
    refused = await api.post("/push/tokens", said, key=org.pk)
    assert field in refused.fields, refused
    if "Expo" in str(said.get("token")):
        assert "Expo" in refused.fields["token"][0]
    assert (await api.get("/push/tokens", key=org.sk)).pagination["total"] == 0


@given(st.dictionaries(st.sampled_from(["token", "userId", "locale", "timezone", "appVersion"]), st.text(max_size=50)))
def test_a_registration_is_refused_or_sound(said: dict[str, str]) -> None:
    """Whatever is typed, the answer is a registration or a ValidationFailed."""
    fields = {"token": "x", **said}
    asked = RegistrationIn(
        token=fields["token"],
        platform="android",
        user_id=fields.get("userId"),
        locale=fields.get("locale"),
        timezone=fields.get("timezone"),
        app_version=fields.get("appVersion"),
    )
    project = uuid4()
    try:
        sound = registration(asked, project, project)
    except ValidationFailed as refused:
        assert refused.field_errors
    else:
        assert sound.token.isascii() and sound.token.isprintable() and " " not in sound.token


async def test_a_gatherer_serves_all_that_wait_with_one_batch() -> None:
    """The first goes at once; who comes while it runs shares the second batch, in order; a failure is everybody's."""
    batches: list[list[int]] = []
    go = asyncio.Event()

    async def work(batch: "list[int]") -> list[int]:
        batches.append(list(batch))
        await go.wait()
        if 13 in batch:
            raise ValueError("thirteen")
        return [n * 2 for n in batch]

    gatherer: Gatherer[int, int] = Gatherer(work, batch_max=3, waiting_max=5)  # type: ignore[arg-type]
    first = asyncio.create_task(gatherer.submit(1))
    await eventually(lambda: batches)
    rest = [asyncio.create_task(gatherer.submit(n)) for n in (2, 3, 4, 5, 13)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await gatherer.submit(99)
    go.set()
    assert await first == 2
    said = await asyncio.gather(*rest, return_exceptions=True)
    assert said[:3] == [4, 6, 8]
    assert all(isinstance(one, ValueError) for one in said[3:])
    assert batches == [[1], [2, 3, 4], [5, 13]]
