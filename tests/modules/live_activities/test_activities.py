"""Activities over HTTP: tokens, states, ends, starts, and who may ask."""

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.api import Api
from tests.make import Make, Org
from tests.modules.live_activities.conftest import ORDER, PATH, Live, token

from sendora.kernel.life import Kernel
from sendora.kernel.pg import Database
from sendora.modules import live_activities, orgs
from sendora.modules.live_activities.model import URGENT_PER_HOUR

REQUESTS: tuple[tuple[str, str, Any], ...] = (
    ("POST", f"{PATH}/start-token", {**ORDER, "pushToken": "a" * 64}),
    ("POST", f"{PATH}/push-to-start-token", {"userId": "ada", "activityType": "Order", "pushToken": "a" * 64}),
    ("GET", PATH, None),
    (
        "POST",
        PATH,
        {
            "userIds": ["ada"],
            "activityType": "Order",
            "externalId": "o",
            "attributes": {},
            "contentState": {},
            "alert": {"title": "T", "body": "B"},
        },
    ),
    ("PATCH", f"{PATH}/{uuid4()}/update", {"contentState": {}}),
    ("DELETE", f"{PATH}/{uuid4()}", None),
)


@pytest.mark.rule("B042", "C17", "B002")
@pytest.mark.parametrize("plan", ["free", "starter"])
async def test_every_route_needs_growth(api: Api, make: Make, db: Database, plan: Any) -> None:
    """B042, C17: all of them, reading too, in both forms of the URL, so that no activity ever exists below Growth."""
    org = await make.org(plan)
    for method, path, body in REQUESTS:
        for form in (None, org.id):
            refused = await api.request(method, path, body, key=org.sk, org=form)
            assert (refused.status, refused.code) == (402, "tier_required"), (method, path, refused)
            assert refused.details["requiredPlan"] == "growth"
    for table in ("live_activities", "live_activity_starters"):
        assert not await db.fetchval(f"SELECT count(*) FROM {table} WHERE org_id = $1", org.id)


@pytest.mark.rule("B042", "B014")
async def test_growth_is_enough_and_public_keys_only_register(api: Api, make: Make) -> None:
    org = await make.org("growth")
    answers = [await api.request(method, path, body, key=org.sk, org=org.id) for method, path, body in REQUESTS]
    assert [answer.status for answer in answers] == [201, 200, 200, 412, 404, 404]
    answers = [await api.request(method, path, body, key=org.pk) for method, path, body in REQUESTS]
    assert [answer.status for answer in answers] == [201, 200, 403, 403, 403, 403]
    reader = await make.key(org, scopes=("live_activities:read",))
    answers = [await api.request(method, path, body, key=reader) for method, path, body in REQUESTS[2:]]
    assert [answer.status for answer in answers] == [200, 403, 403, 403]


# -- tokens


@pytest.mark.rule("B129", "B256", "C41")
async def test_a_token_is_registered_and_rotates(live: Live, db: Database) -> None:
    """B129, B256: the app's public key reports what ActivityKit gives it; the same key of the customer's is the same
    activity; C41: iOS unless it says Android."""
    first = await live.register()
    assert (first.status, first.data["status"]) == (201, "active")
    newest = token()
    again = await live.register(pushToken=newest.upper(), environment="sandbox", bundleId="com.example.beta")
    assert (again.status, again.data) == (201, first.data)
    row = await db.fetchrow("SELECT * FROM live_activities WHERE id = $1", UUID(first.data["id"]))
    assert row is not None
    assert (row["token"], row["platform"]) == (newest, "ios")
    assert (row["environment"], row["bundle_id"]) == ("sandbox", "com.example.beta")
    await live.register(pushToken=newest)
    assert await db.fetchval("SELECT environment FROM live_activities WHERE id = $1", row["id"]) == "sandbox"

    other = await live.register(externalId="order-2", platform="android", pushToken=f"fcm:{uuid4().hex}")
    assert other.data["id"] != first.data["id"]
    assert {one["id"]: one["platform"] for one in await live.listed()} == {
        first.data["id"]: "ios",
        other.data["id"]: "android",
    }
    assert (await live.api.get("/push/tokens", key=live.org.sk)).data == [], "no device of push's (B129)"


@pytest.mark.rule("B129")
async def test_a_token_has_one_activity(live: Live) -> None:
    """Whoever registers it has it, as with a device: the activity that had it before has none any more."""
    shared = token()
    first = await live.begun(pushToken=shared)
    second = await live.begun(pushToken=shared, userId="bob", externalId="order-2")
    assert [one["id"] for one in await live.listed()] == [second]
    (gone,) = await live.listed(status="invalidated")
    assert (gone["id"], gone["reason"]) == (first, "token_moved")
    assert (await live.update(first)).details["reason"] == "invalidated"
    revived = await live.register(pushToken=shared)
    assert (revived.data["id"], revived.data["status"]) == (first, "active")
    assert [one["id"] for one in await live.listed()] == [first]


@pytest.mark.rule("B129", "B132")
async def test_what_is_over_is_not_begun_again_by_a_late_word(live: Live) -> None:
    """The token of an activity that was ended says nothing new; another token is another activity."""
    old = token()
    first = await live.begun(pushToken=old)
    await live.end(first)
    late = await live.register(pushToken=old)
    assert late.data == {"id": first, "status": "ended"}
    assert await live.listed() == []
    second = await live.begun()
    assert [one["id"] for one in await live.listed()] == [second] != [first]


@pytest.mark.rule("B129", "C69")
async def test_a_takeover_is_followed(live: Live, make: Make) -> None:
    """C69: what somebody had before signing in is theirs afterwards: the same activity, whatever name is said."""
    before = await live.begun(userId="anon-1")
    await make.profile(live.org, "ada", anonymousId="anon-1")
    for name in ("ada", "anon-1"):
        assert await live.begun(userId=name) == before
        assert [one["id"] for one in await live.listed(userId=name)] == [before]
    assert await live.listed(userId="bob") == []


async def test_many_registrations_at_once(live: Live) -> None:
    """Of one key at the same time: one activity, and one of the tokens; of one token: one activity that has it."""
    answers = await asyncio.gather(*(live.register() for _ in range(8)))
    assert {answer.status for answer in answers} == {201}
    assert len({answer.data["id"] for answer in answers}) == 1
    shared = token()
    answers = await asyncio.gather(*(live.register(externalId=f"o-{n}", pushToken=shared) for n in range(8)))
    assert {answer.status for answer in answers} == {201}
    assert len(await live.listed()) == 2
    both = [token(), token()]
    answers = await asyncio.gather(
        *(live.register(externalId=f"x-{n % 2}", pushToken=both[(n // 2) % 2]) for n in range(12)),
        *(live.register_starter(deviceId=f"x-{n % 2}", pushToken=both[(n // 2) % 2]) for n in range(12)),
    )
    assert {answer.status for answer in answers} <= {200, 201}


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"userId": ""}, "userId"),
        ({"userId": None}, "userId"),
        ({"activityType": "x" * 257}, "activityType"),
        ({"externalId": ""}, "externalId"),
        ({"pushToken": "../3/device"}, "pushToken"),
        ({"pushToken": "x" * 2_001}, "pushToken"),
        ({"pushToken": "ExponentPushToken[xxx]"}, "pushToken"),
        ({"pushToken": "a b", "platform": "android"}, "pushToken"),
        ({"platform": "web"}, "platform"),
        ({"environment": "staging"}, "environment"),
        ({"bundleId": "a/b"}, "bundleId"),
        ({"status": "active"}, "status"),
    ],
)
async def test_what_is_no_registration(live: Live, said: dict[str, Any], field: str) -> None:
    refused = await live.register(**said)
    assert field in refused.fields, refused
    if field not in ("externalId", "status") and "platform" not in said:
        assert field in (await live.register_starter(**said)).fields
    assert await live.listed() == []


async def test_a_start_token_is_one_for_each_device_and_type(live: Live, make: Make, db: Database) -> None:
    """The newer one replaces the older one; a token that changes hands leaves its former owner; takeovers count."""
    newest = token()
    first = await live.register_starter(deviceId="phone")
    again = await live.register_starter(deviceId="phone", pushToken=newest, environment="sandbox")
    assert (first.status, first.data) == (200, again.data)
    others = [
        await live.register_starter(deviceId="tablet"),
        await live.register_starter(),
        await live.register_starter(deviceId="phone", activityType="Ride"),
        await live.register_starter(deviceId="phone", userId="bob", pushToken=newest),
    ]
    assert len({answer.data["id"] for answer in others}) == 4
    rows = await db.fetch("SELECT * FROM live_activity_starters WHERE org_id = $1", live.org.id)
    assert {str(row["id"]) for row in rows} == {answer.data["id"] for answer in others}
    assert [row["user_id"] for row in rows if row["token"] == newest] == ["bob"]

    await live.register_starter(userId="anon-7", deviceId="pad")
    await make.profile(live.org, "carl", anonymousId="anon-7")
    await live.register_starter(userId="carl", deviceId="pad")
    names = await db.fetch(
        "SELECT user_id FROM live_activity_starters WHERE device_id = 'pad' AND org_id = $1", live.org.id
    )
    assert [row["user_id"] for row in names] == ["carl"]


# -- updates


@pytest.mark.rule("B130", "B132")
async def test_an_update_is_committed_with_its_place(live: Live, db: Database) -> None:
    """B130: the state, its timestamp and the send that carries it; timestamps always rise, also within a second."""
    id_ = await live.begun()
    answers = [await live.update(id_, {"step": step}) for step in range(5)]
    assert {answer.status for answer in answers} == {200}
    stamps = [answer.data["timestamp"] for answer in answers]
    assert sorted(set(stamps)) == stamps
    assert answers[-1].data | {"sendId": None, "timestamp": None} == {
        "id": id_,
        "status": "active",
        "contentState": {"step": 4},
        "sendId": None,
        "timestamp": None,
        "priority": 10,
    }
    (row,) = await live.listed()
    assert (row["contentState"], row["timestamp"]) == ({"step": 4}, stamps[-1])
    send = await db.fetchrow("SELECT * FROM sends WHERE id = $1", UUID(answers[-1].data["sendId"]))
    assert send is not None
    assert (send["channel"], send["class"], send["token_count"]) == ("live_activities", "now", 1)
    assert "step" not in str(send["content"]), "an erasure finds what was said in this room alone"
    assert 7.9 < (send["expires_at"] - send["created_at"]).total_seconds() / 3_600 <= 8
    balance = await live.api.get(f"/push/sends/{send['id']}/reconciliation", key=live.org.sk)
    assert balance.status == 200, "an update is explained as every send is"


@pytest.mark.rule("B130")
async def test_concurrent_updates_have_an_order(live: Live, db: Database) -> None:
    """Twenty at once are twenty timestamps, and what the list shows is what the newest says."""
    id_ = await live.begun()
    answers = await asyncio.gather(*(live.update(id_, {"n": n}) for n in range(20)))
    assert {answer.status for answer in answers} == {200}
    by_stamp = {answer.data["timestamp"]: answer.data["contentState"] for answer in answers}
    assert len(by_stamp) == 20
    (row,) = await live.listed()
    assert row["contentState"] == by_stamp[max(by_stamp)]
    rows = await db.fetch("SELECT stamp, content_state FROM live_activity_updates WHERE activity_id = $1", UUID(id_))
    assert {row["stamp"]: row["content_state"] for row in rows} == by_stamp


@pytest.mark.rule("B130")
async def test_the_budget_of_priority_ten(live: Live) -> None:
    """Beyond the budget of the hour an update without an alert is priority 5; one with an alert is always 10, and
    counts. Another activity has its own."""
    id_, other = await live.begun(), await live.begun(externalId="order-2")
    alert = {"title": "T", "body": "B"}
    priorities = [
        (await live.update(id_, **({"alert": alert} if n % 2 else {}))).data["priority"] for n in range(URGENT_PER_HOUR)
    ]
    assert priorities == [10] * URGENT_PER_HOUR
    assert (await live.update(id_)).data["priority"] == 5
    assert (await live.update(id_, alert=alert)).data["priority"] == 10
    assert (await live.update(other)).data["priority"] == 10


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"contentState": None}, "contentState"),
        ({"contentState": "text"}, "contentState"),
        ({"contentState": {"text": "x" * 4_096}}, "body"),
        ({"alert": {"title": "T"}}, "alert.body"),
        ({"alert": {"title": "", "body": "B"}}, "alert.title"),
        ({"alert": "text"}, "alert"),
        ({"staleDate": "tomorrow"}, "staleDate"),
        ({"staleDate": "2026-01-01T00:00:00"}, "staleDate"),
        ({"relevanceScore": "high"}, "relevanceScore"),
        ({"timestamp": 1}, "timestamp"),
    ],
)
async def test_what_is_no_update(live: Live, db: Database, said: dict[str, Any], field: str) -> None:
    for platform, address in (("ios", token()), ("android", f"fcm:{uuid4().hex}")):
        id_ = await live.begun(platform=platform, pushToken=address)
        body = {"contentState": {"step": 1}, **said}
        refused = await live.api.patch(f"{PATH}/{id_}/update", body, key=live.org.sk)
        assert field in refused.fields, refused
    assert not await db.fetchval("SELECT count(*) FROM sends WHERE org_id = $1", live.org.id)


@pytest.mark.rule("B024")
@pytest.mark.parametrize("date", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
async def test_every_date_that_can_be_written(live: Live, date: str) -> None:
    """Also those that no calendar in UTC has."""
    id_ = await live.begun()
    assert (await live.update(id_, staleDate=date, relevanceScore=-1e308)).status == 200
    assert (await live.end(id_, {"dismissalDate": date})).status == 200
    await live.register_starter()
    assert (await live.start(["ada"], staleDate=date, externalId="order-2")).status == 200


@pytest.mark.rule("B027", "C03")
async def test_others_activities_are_not_there(live: Live, make: Make, db: Database) -> None:
    """Another org's, another project's, and what is no id."""
    id_ = await live.begun()
    stranger = Live(live.api, await make.org())
    sibling = await make.key(live.org, project=await orgs.create_project(db, live.org.id, "sibling"))
    for answer in (
        await stranger.update(id_),
        await stranger.end(id_),
        await live.update("not-an-id"),
        await live.end(str(uuid4())),
        await live.api.patch(f"{PATH}/{id_}/update", {"contentState": {}}, key=sibling),
        await live.api.delete(f"{PATH}/{id_}", key=sibling),
    ):
        assert (answer.status, answer.code) == (404, "NOT_FOUND"), answer
    assert (await live.api.get(PATH, key=sibling)).data == []
    assert await stranger.listed() == []
    (row,) = await live.listed()
    assert (row["contentState"], row["status"]) == (None, "active")


# -- ends


@pytest.mark.rule("B132")
async def test_an_end_is_once(live: Live, db: Database) -> None:
    """B132: with or without a body; asked again it says so and sends nothing more; no update comes after it."""
    first, second = await live.begun(), await live.begun(externalId="order-2")
    await live.update(first, {"step": 1})
    ended = await live.end(first)
    assert (ended.status, ended.data["id"], ended.data["status"]) == (200, first, "ended")
    bye = await live.end(second, {"contentState": {"step": 9}, "dismissalDate": "2026-01-01T00:00:00Z"})
    assert bye.status == 200
    said = await db.fetch(
        "SELECT activity_id, content_state, dismiss_s FROM live_activity_updates WHERE org_id = $1 AND event = 'end'",
        live.org.id,
    )
    assert {str(row["activity_id"]): (row["content_state"], row["dismiss_s"] is None) for row in said} == {
        first: ({"step": 1}, True),
        second: ({"step": 9}, False),
    }
    again = await live.end(first, {})
    assert (again.status, again.data) == (200, {"id": first, "status": "ended", "sendId": None})
    refused = await live.update(first)
    assert (refused.status, refused.code, refused.details["reason"]) == (409, "CONFLICT", "ended")
    assert await live.listed() == []
    assert {one["id"] for one in await live.listed(status="ended")} == {first, second}
    assert "dismissalDate" in (await live.end(first, {"dismissalDate": "soon"})).fields


@pytest.mark.rule("B132")
async def test_an_end_and_updates_at_once(live: Live, db: Database) -> None:
    """Whatever the order, the end is the last word: each update is before it, or is refused."""
    id_ = await live.begun()
    *updates, ended = await asyncio.gather(*(live.update(id_, {"n": n}) for n in range(10)), live.end(id_))
    assert ended.status == 200
    assert {answer.status for answer in updates} <= {200, 409}
    events = await db.fetch("SELECT event FROM live_activity_updates WHERE activity_id = $1 ORDER BY stamp", UUID(id_))
    assert [row["event"] for row in events] == ["update"] * sum(one.status == 200 for one in updates) + ["end"]


async def test_a_list_has_pages(live: Live) -> None:
    made = [await live.begun(externalId=f"order-{n}") for n in range(3)]
    page = await live.api.get(PATH, key=live.org.sk, page=2, pageSize=2)
    assert ([one["id"] for one in page.data], page.pagination["total"]) == ([made[0]], 3)
    beyond = await live.api.get(PATH, key=live.org.sk, page=9)
    assert (beyond.data, beyond.pagination["total"]) == ([], 3)
    assert (await live.api.get(PATH, key=live.org.sk, status="gone")).status == 400
    assert "token" not in page.data[0]


# -- starts by push


async def test_a_start_is_once_for_each_person(live: Live, make: Make, db: Database) -> None:
    """At most one activity for each person and externalId, on the device that registered last; who has no token is
    unreachable; who has an activity of that name, or had one, gets none."""
    await make.profile(live.org, "bob", anonymousId="anon-bob")
    await live.register_starter(deviceId="old")
    newest = await live.register_starter(deviceId="new")
    await live.register_starter(userId="anon-bob")
    await live.register_starter(userId="carl")
    await live.begun(userId="carl")
    started = await live.start(["ada", "ada", "bob", "anon-bob", "carl", "nobody"])
    assert (started.status, started.data["tokenCount"], started.data["status"]) == (200, 2, "queued")
    starting = await live.listed(status="starting")
    assert {one["userId"] for one in starting} == {"ada", "bob"}
    row = await db.fetchrow("SELECT * FROM live_activities WHERE org_id = $1 AND user_id = 'ada'", live.org.id)
    assert row is not None and str(row["starter_id"]) == newest.data["id"]
    send = await db.fetchrow("SELECT * FROM sends WHERE id = $1", UUID(started.data["id"]))
    assert send is not None
    assert send["target"]["unreachable"] == 1
    assert set(send["target"]["activities"]) == {one["id"] for one in starting}
    again = await live.start(["ada", "bob", "carl"])
    assert again.data["tokenCount"] == 0
    assert await db.fetchval("SELECT count(*) FROM live_activity_starts WHERE org_id = $1", live.org.id) == 1
    assert (await live.start(["ada"], externalId="order-2")).data["tokenCount"] == 1
    assert (await live.start(["ada"], activityType="Ride")).data["tokenCount"] == 0, "no token of that type"


async def test_two_starts_at_once(live: Live) -> None:
    await live.register_starter()
    answers = await asyncio.gather(*(live.start(["ada"]) for _ in range(6)))
    assert sorted(answer.data["tokenCount"] for answer in answers) == [0, 0, 0, 0, 0, 1]


async def test_the_device_of_a_start_tells_its_token(live: Live) -> None:
    """Until then it is `starting`, and takes updates; an end before that word stays an end."""
    await live.register_starter()
    await live.start(["ada"])
    (starting,) = await live.listed(status="starting")
    assert (await live.update(starting["id"], {"step": 1})).data["status"] == "starting"
    told = await live.register()
    assert told.data == {"id": starting["id"], "status": "active"}
    (active,) = await live.listed()
    assert (active["contentState"], active["startedAt"] is not None) == ({"step": 1}, True)

    await live.start(["ada"], externalId="order-2")
    (second,) = await live.listed(status="starting")
    await live.end(second["id"])
    late = await live.register(externalId="order-2")
    assert late.data == {"id": second["id"], "status": "ended"}


@pytest.mark.rule("B029", "B030", "C43")
async def test_a_start_without_a_credential(api: Api, org: Org, db: Database) -> None:
    """B030: 412 leaves no trace."""
    bare = Live(api, org)
    await bare.register_starter()
    refused = await bare.start(["ada"])
    assert (refused.status, refused.code) == (412, "PRECONDITION_FAILED")
    for table in ("sends", "live_activities"):
        assert not await db.fetchval(f"SELECT count(*) FROM {table} WHERE org_id = $1", org.id)


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"userIds": []}, "userIds"),
        ({"userIds": ["x"] * 10_001}, "userIds"),
        ({"userIds": [""]}, "userIds.*"),
        ({"attributes": None}, "attributes"),
        ({"alert": None}, "alert"),
        ({"attributes": {"text": "x" * 3_000}, "contentState": {"text": "x" * 1_500}}, "body"),
        ({"staleDate": 7}, "staleDate"),
    ],
)
async def test_what_is_no_start(live: Live, said: dict[str, Any], field: str) -> None:
    refused = await live.start(["ada"], **said)
    assert any(name.startswith(field.rstrip(".*")) for name in refused.fields), refused


@pytest.mark.rule("C89")
async def test_idempotency_keys(live: Live) -> None:
    """The same update asked for twice is one."""
    id_ = await live.begun()
    headers = {"Idempotency-Key": "tick-1"}
    body = {"contentState": {"step": 1}}
    answers = [await live.api.patch(f"{PATH}/{id_}/update", body, key=live.org.sk, headers=headers) for _ in range(2)]
    assert answers[0].data == answers[1].data


# -- one person


async def test_a_person_is_forgotten(live: Live, make: Make, kernel: Kernel, db: Database) -> None:
    """Under all of their names, with everything they were shown; and told it all before."""
    await make.profile(live.org, "ada-lovelace", anonymousId="anon-1")
    mine, theirs = await live.begun(userId="anon-1"), await live.begun(userId="bob", externalId="order-2")
    await live.register_starter(userId="ada-lovelace")
    await live.register_starter(userId="bob")
    await live.update(mine, {"secret": "ada-likes-tea"})
    await live.update(theirs)
    await live.start(["ada-lovelace"], externalId="order-3", attributes={"secret": "ada-likes-cake"})
    await live.start(["ada-lovelace", "bob"], externalId="order-4")
    module = live_activities.module
    assert module.erase is not None and module.export is not None

    async def exported(name: str) -> list[dict[str, Any]]:
        assert module.export is not None
        return [row async for row in module.export(kernel, live.org.id, live.org.project, name)]

    told = await exported("ada-lovelace")
    assert Counter(key for row in told for key in row) == {
        "liveActivity": 3,
        "liveActivityStart": 2,
        "liveActivityUpdate": 1,
        "pushToStartToken": 1,
    }
    assert "ada-likes-tea" in str(told) and "ada-likes-cake" in str(told)
    for _ in range(2):
        await module.erase(kernel, live.org.id, live.org.project, "ada-lovelace")
    assert await exported("ada-lovelace") == []
    assert len(await exported("bob")) == 5
    left: list[Any] = []
    for table, rows in (
        ("live_activities", 2),
        ("live_activity_updates", 1),
        ("live_activity_starts", 1),
        ("live_activity_starters", 1),
        ("sends", 4),
    ):
        found = await db.fetch(f"SELECT t::text FROM {table} t WHERE org_id = $1", live.org.id)
        assert len(found) == rows, table
        left += found
    assert not any(name in str(left) for name in ("ada-l", "anon-1"))
