"""The channel as delivery asks it, what comes back, and what the clock does."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from tests.conftest import eventually
from tests.make import Make
from tests.modules.live_activities.conftest import Live, Told, tell, token

from sendora.delivery.account import Ended, Outcomes
from sendora.delivery.phases import Call, Chunk, Outcome, Reply, Send
from sendora.delivery.submit import find_send
from sendora.kernel import pg
from sendora.kernel.bus import Message, Position
from sendora.kernel.clock import millis
from sendora.kernel.ids import SendId
from sendora.kernel.life import Kernel
from sendora.modules import push
from sendora.modules.live_activities import jobs
from sendora.modules.live_activities.channel import NAME, LiveChannel, LiveSending
from sendora.modules.live_activities.consumers import record

CHANNEL = LiveChannel()


async def send_of(kernel: Kernel, live: Live, id_: str) -> Send:
    return await find_send(kernel, live.org.id, SendId(UUID(id_)))


async def recipients(kernel: Kernel, send: Send) -> tuple[list[UUID], int]:
    """Whom the channel names, as the planner asks it."""
    async with kernel.db.acquire() as connection:
        await connection.execute(
            "CREATE TEMPORARY TABLE plan_targets (shard smallint NOT NULL, recipient uuid NOT NULL,"
            " PRIMARY KEY (shard, recipient))"
        )

        async def ready() -> None:
            raise AssertionError("there are never so many")

        try:
            targets = await CHANNEL.recipients(kernel, connection, send, ready)
            rows = await connection.fetch("SELECT recipient FROM plan_targets ORDER BY recipient")
        finally:
            await connection.execute("DROP TABLE plan_targets")
    return [row["recipient"] for row in rows], targets.unreachable


class Built(msgspec.Struct):
    sending: LiveSending
    chunk: Chunk
    calls: list[push.Posted]
    outcomes: dict[UUID, tuple[str, str | None]]
    """(state, reason) of those who are not sent to."""
    waits: list[Outcome]


async def build(kernel: Kernel, send: Send, whom: Sequence[UUID], attempt: int = 1) -> Built:
    """What a worker does with a chunk of these, up to the wire."""
    seq = await kernel.db.fetchval("SELECT count(*) FROM chunks WHERE send_id = $1", send.id)
    due_at = await kernel.db.fetchval(
        "INSERT INTO chunks (org_id, send_id, shard, seq, class, attempt, planned, recipients, due_at)"
        " VALUES ($1, $2, 0, $3, 'now', $4, true, $5, now() + interval '1 day') RETURNING due_at",
        send.org,
        send.id,
        seq,
        attempt,
        list(whom),
    )
    chunk = Chunk(
        org=send.org,
        send=send.id,
        shard=0,
        seq=seq,
        class_="now",
        attempt=attempt,
        repeated=False,
        size=len(whom),
        started=0,
        due_at=due_at,
    )
    sending = await CHANNEL.open(kernel, send)
    assert not sending.ships and not sending.capped
    async with kernel.db.acquire() as connection:
        rows = await sending.rows(connection, chunk)
    decided = sending.decide(rows, None, millis(datetime.now(UTC)))
    calls, refused = await sending.build(decided, chunk)
    outcomes = {UUID(bytes=row[1]): (row[3], row[4]) for row in decided.stays()}
    outcomes |= {one.recipient: (one.state, one.reason) for one in refused}
    assert all(isinstance(call, push.Posted) for call in calls)
    return Built(sending, chunk, list(calls), outcomes, list(refused))  # type: ignore[arg-type]


async def recorded(kernel: Kernel, send: Send, activity: str, state: str) -> None:
    """As the ledger says it."""
    await pg.partition(kernel.db, "deliveries", pg.month_of(datetime.now(UTC)))
    await kernel.db.execute(
        "INSERT INTO deliveries (org_id, send_id, shard, seq, position, recipient, state, attempt, repeated, at)"
        " VALUES ($1, $2, 63, 9, 0, $3, $4, 1, false, now())",
        send.org,
        send.id,
        UUID(activity),
        state,
    )


def answer(call: Call, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> Reply:
    return Reply(position=call.position, fate="answered", status=status, body=body, headers=headers or {})


def outcomes(
    live: Live,
    send: str,
    *ended: tuple[str, str, str | None],
    at: datetime | None = None,
    provider_id: str | None = None,
) -> Message:
    """(activity, state, reason)."""
    message = Outcomes(
        org=live.org.id,
        project=live.org.project,
        send=UUID(send),
        shard=0,
        seq=0,
        outcomes=[
            Ended(
                recipient=UUID(activity),
                user_id=None,
                state=state,
                reason=reason,
                variant=None,
                provider="apns",
                provider_id=provider_id,
                attempt=1,
                repeated=False,
                at=at or datetime.now(UTC),
            )
            for activity, state, reason in ended
        ],
    )
    return Message("lifecycle.live_activities.outcomes", msgspec.json.encode(message), Position(1), 1)


async def age(kernel: Kernel, activity: str, hours: float) -> None:
    """Time is moved, not slept through."""
    await kernel.db.execute(
        "UPDATE live_activities SET created_at = created_at - $2::interval, started_at = started_at - $2::interval,"
        " token_at = token_at - $2::interval WHERE id = $1",
        UUID(activity),
        timedelta(hours=hours),
    )


# -- requests


@pytest.mark.rule("B130", "B100")
async def test_an_update_is_a_request_to_apple(kernel: Kernel, live: Live) -> None:
    """B130: push-type liveactivity, the topic of the bundle, the activity's own token as it is now, and a timestamp
    that the API told."""
    id_ = await live.begun(bundleId="com.example.orders")
    said = (await live.update(id_, {"step": 2}, alert={"title": "T", "body": "B"})).data
    newest = token()
    await live.begun(pushToken=newest, environment="sandbox")
    send = await send_of(kernel, live, said["sendId"])
    assert send.delivery == "at_least_once"
    assert (send.channel, await recipients(kernel, send)) == (NAME, ([UUID(id_)], 0))
    built = await build(kernel, send, [UUID(id_)])
    (call,) = built.calls
    assert call.url == f"{kernel.settings.push.apns_sandbox_url}/3/device/{newest}"
    assert call.lane.startswith("apns:") and call.lane.endswith(":sandbox"), "a lane of push's"
    headers = {name: value for name, value in call.headers.items() if name not in ("authorization", "apns-id")}
    assert headers == {
        "apns-topic": "com.example.orders.push-type.liveactivity",
        "apns-push-type": "liveactivity",
        "apns-priority": "10",
        "apns-expiration": headers["apns-expiration"],
    }
    assert abs(int(headers["apns-expiration"]) - int(send.expires_at.timestamp())) <= 1
    body = msgspec.json.decode(call.body)
    assert body["aps"]["timestamp"] == said["timestamp"]
    assert body["aps"]["content-state"] == {"step": 2}
    assert body["sendoraDeliveryId"] == send.id.hex + UUID(id_).hex
    assert call.user_id is None, "the ledger names nobody"
    taken = built.sending.read(call, answer(call, 200, headers={"apns-id": "x"}), built.chunk, 0)
    assert (taken.state, taken.recipient, taken.provider) == ("accepted", UUID(id_), "apns:sandbox")


@pytest.mark.rule("B130")
async def test_beyond_the_budget_the_header_says_five(kernel: Kernel, live: Live) -> None:
    id_ = await live.begun()
    for _ in range(12):
        await live.update(id_)
    said = (await live.update(id_)).data
    built = await build(kernel, await send_of(kernel, live, said["sendId"]), [UUID(id_)])
    assert [call.headers["apns-priority"] for call in built.calls] == ["5"] == [str(said["priority"])]


@pytest.mark.rule("B130")
@pytest.mark.parametrize(("state", "dropped"), [("accepted", True), ("unknown", True), ("rejected", False)])
async def test_a_retry_after_a_newer_update(kernel: Kernel, live: Live, state: str, dropped: bool) -> None:
    """The latest state wins: when the second was taken, or may have been, the first is not sent after it. One that
    nobody took takes nothing away."""
    id_ = await live.begun()
    first, second = [await send_of(kernel, live, (await live.update(id_)).data["sendId"]) for _ in range(2)]
    assert len((await build(kernel, first, [UUID(id_)])).calls) == 1
    await recorded(kernel, second, id_, state)
    late = await build(kernel, first, [UUID(id_)], attempt=2)
    assert len(late.calls) == (0 if dropped else 1)
    assert late.outcomes == ({UUID(id_): ("suppressed", "superseded")} if dropped else {})
    newest = await build(kernel, await send_of(kernel, live, (await live.end(id_)).data["sendId"]), [UUID(id_)])
    assert msgspec.json.decode(newest.calls[0].body)["aps"]["event"] == "end"


async def test_activities_are_judged_as_they_are_now(kernel: Kernel, live: Live) -> None:
    """A dead token is not asked again, an erased activity not at all; an update before the end still goes."""
    lost, gone, ended = [await live.begun(externalId=f"order-{n}") for n in range(3)]
    sends = [await send_of(kernel, live, (await live.update(one)).data["sendId"]) for one in (lost, gone, ended)]
    await live.end(ended)
    await record(kernel, [outcomes(live, str(sends[0].id), (lost, "rejected", "Unregistered"))])
    await kernel.db.execute("DELETE FROM live_activity_updates WHERE activity_id = $1", UUID(gone))
    assert (await build(kernel, sends[1], [UUID(gone)])).outcomes == {UUID(gone): ("suppressed", "token_removed")}
    await kernel.db.execute("DELETE FROM live_activities WHERE id = $1", UUID(gone))
    assert await recipients(kernel, sends[1]) == ([], 0)
    for send, one, reason in ((sends[0], lost, "inactive_token"), (sends[1], gone, "token_removed")):
        assert (await build(kernel, send, [UUID(one)])).outcomes == {UUID(one): ("suppressed", reason)}
    assert len((await build(kernel, sends[2], [UUID(ended)])).calls) == 1


async def test_a_start_goes_to_the_start_token(kernel: Kernel, live: Live, make: Make) -> None:
    """With type and attributes, priority 10, and the start token's own environment; not to whoever has told a token
    meanwhile."""
    started = token()
    await live.register_starter(pushToken=started, environment="sandbox", bundleId="com.example.orders")
    await live.register_starter(userId="bob")
    said = (await live.start(["ada", "bob", "nobody"], staleDate="2030-01-01T00:00:00Z")).data
    send = await send_of(kernel, live, said["id"])
    assert send.delivery == "at_most_once", "a second one would be a second activity"
    whom, unreachable = await recipients(kernel, send)
    assert (len(whom), unreachable) == (2, 1)
    by_user = {one["userId"]: UUID(one["id"]) for one in await live.listed(status="starting")}
    await live.register(userId="bob")
    built = await build(kernel, send, whom)
    assert built.outcomes == {by_user["bob"]: ("suppressed", "already_started")}
    (call,) = built.calls
    assert call.url.endswith(f"/3/device/{started}") and call.lane.endswith(":sandbox")
    assert call.headers["apns-topic"] == "com.example.orders.push-type.liveactivity"
    aps = msgspec.json.decode(call.body)["aps"]
    assert (aps["event"], aps["attributes-type"], aps["attributes"]) == ("start", "OrderAttributes", {"number": 7})
    assert abs(aps["timestamp"] - datetime.now(UTC).timestamp()) < 60
    assert (aps["content-state"], aps["stale-date"]) == ({"step": 0}, 1_893_456_000)


async def test_an_update_waits_for_the_token_of_a_start(kernel: Kernel, live: Live) -> None:
    """Without a try: nothing can be sent before the device has said where to."""
    await live.register_starter()
    await live.start(["ada"])
    (starting,) = await live.listed(status="starting")
    send = await send_of(kernel, live, (await live.update(starting["id"])).data["sendId"])
    (wait,) = (await build(kernel, send, [UUID(starting["id"])])).waits
    assert (wait.state, wait.reason, wait.counted) == ("deferred", "token_awaited", False)
    assert wait.due_at is not None and 0 < (wait.due_at - datetime.now(UTC)).total_seconds() <= 60
    await live.begun()
    assert len((await build(kernel, send, [UUID(starting["id"])])).calls) == 1


# -- what comes back


@pytest.mark.rule("B131")
async def test_the_stream_is_told(kernel: Kernel, live: Live, told: Told) -> None:
    """B131: started when the device says so, updated when the provider took it, ended; each once, however often the
    jobs run and outcomes are read."""
    await live.register_starter()
    start = (await live.start(["ada"])).data
    (starting,) = await live.listed(status="starting")
    await record(kernel, [outcomes(live, start["id"], (starting["id"], "accepted", None))])
    await tell(kernel)
    assert told == [], "that Apple took the start says nothing of the device"
    id_ = await live.begun()
    await live.begun()
    await tell(kernel)
    update = (await live.update(id_)).data["sendId"]
    for _ in range(2):
        await record(kernel, [outcomes(live, update, (id_, "accepted", None))])
    end = (await live.end(id_)).data["sendId"]
    for _ in range(2):
        await record(kernel, [outcomes(live, end, (id_, "accepted", None))])
        await tell(kernel)

    await eventually(lambda: len(told) >= 3)
    assert [event for event, _ in told] == [
        "push.live_activity_started",
        "push.live_activity_updated",
        "push.live_activity_ended",
    ]
    for (_, said), status in zip(told, ("active", "active", "ended"), strict=True):
        assert (said["activityId"], said["userId"], said["externalId"]) == (id_, "ada", "order-1")
        assert said["status"] == status
    assert [said["sendId"] for _, said in told] == [None, update, None]


@pytest.mark.rule("B131")
async def test_what_happened_between_two_looks_is_told_in_order(kernel: Kernel, live: Live, told: Told) -> None:
    id_ = await live.begun()
    await live.end(id_)
    await tell(kernel)
    await eventually(lambda: len(told) >= 2)
    assert [event for event, _ in told] == ["push.live_activity_started", "push.live_activity_ended"]


@pytest.mark.rule("B131", "B087")
@pytest.mark.parametrize("reason", ["Unregistered", "ExpiredToken", "BadDeviceToken", "UNREGISTERED"])
async def test_a_dead_token_invalidates(kernel: Kernel, live: Live, told: Told, reason: str) -> None:
    """B131: told once with the reason; a later registration revives the activity, and that is told too."""
    mine = token()
    id_ = await live.begun(pushToken=mine)
    await tell(kernel)
    send = (await live.update(id_)).data["sendId"]
    for _ in range(2):
        await record(kernel, [outcomes(live, send, (id_, "rejected", reason))])
        await tell(kernel)
    assert [one["reason"] for one in await live.listed(status="invalidated")] == [reason]
    assert (await live.update(id_)).details["reason"] == "invalidated"
    assert (await live.register(pushToken=mine)).data == {"id": id_, "status": "active"}
    await tell(kernel)
    await eventually(lambda: len(told) >= 3)
    assert [event for event, _ in told] == [
        "push.live_activity_started",
        "push.live_activity_invalidated",
        "push.live_activity_started",
    ]
    assert told[1][1]["reason"] == reason


@pytest.mark.rule("B087")
async def test_what_says_nothing_of_the_token(kernel: Kernel, live: Live) -> None:
    """A refusal for other reasons; a 410 of before the token rotated, by Apple's own instant; an end that failed."""
    id_, other = await live.begun(), await live.begun(externalId="order-2")
    send = (await live.update(id_)).data["sendId"]
    before = datetime.now(UTC) - timedelta(minutes=1)
    await record(
        kernel,
        [
            outcomes(live, send, (id_, "rejected", "PayloadTooLarge"), (id_, "expired", "ttl"), (id_, "unknown", None)),
            outcomes(live, send, (id_, "suppressed", "superseded")),
            outcomes(live, send, (id_, "rejected", "Unregistered"), at=before),
            outcomes(live, send, (id_, "rejected", "Unregistered"), provider_id=f"x@{millis(before)}"),
        ],
    )
    assert {one["id"] for one in await live.listed()} == {id_, other}
    end = (await live.end(other)).data["sendId"]
    await record(kernel, [outcomes(live, end, (other, "rejected", "Unregistered"))])
    assert [one["id"] for one in await live.listed(status="ended")] == [other]


async def test_a_start_that_came_to_nobody(kernel: Kernel, live: Live, told: Told) -> None:
    """Its activity is invalidated with the reason, and may be started again; a dead start token is not used twice."""
    await live.register_starter()
    first = (await live.start(["ada"])).data["id"]
    (starting,) = await live.listed(status="starting")
    await record(kernel, [outcomes(live, first, (starting["id"], "expired", "ttl"))])
    await tell(kernel)
    await eventually(lambda: told)
    assert [(event, said["reason"]) for event, said in told] == [("push.live_activity_invalidated", "ttl")]
    second = (await live.start(["ada"])).data
    assert second["tokenCount"] == 1
    (starting,) = await live.listed(status="starting")
    await record(kernel, [outcomes(live, second["id"], (starting["id"], "rejected", "Unregistered"))])
    third = (await live.start(["ada"])).data
    assert third["tokenCount"] == 0, "its token is gone"


# -- the clock


@pytest.mark.rule("B131")
async def test_orphans_expire(kernel: Kernel, live: Live, told: Told) -> None:
    """After eight hours iOS has ended an activity by itself, so nothing is sent; an Android one gets its end. Younger
    ones live on, and a start that nobody answered is given up."""
    apple, young = await live.begun(), await live.begun(externalId="order-2")
    google = await live.begun(externalId="order-3", platform="android", pushToken=f"fcm:{token()}")
    await live.update(google, {"step": 4})
    await live.register_starter()
    await live.start(["ada"], externalId="order-4")
    (starting,) = await live.listed(status="starting")
    for one, hours in ((apple, 8.1), (google, 8.1), (young, 7.9), (starting["id"], 1.2)):
        await age(kernel, one, hours)
    await jobs.expire(kernel)
    await jobs.expire(kernel)
    assert {one["id"]: one["reason"] for one in await live.listed(status="expired")} == {
        apple: "lifetime",
        google: "lifetime",
    }
    assert [one["id"] for one in await live.listed()] == [young]
    assert [one["reason"] for one in await live.listed(status="invalidated")] == ["never_started"]
    said = await kernel.db.fetch(
        "SELECT activity_id, content_state FROM live_activity_updates WHERE org_id = $1 AND event = 'end'", live.org.id
    )
    assert [(str(row["activity_id"]), row["content_state"]) for row in said] == [(google, {"step": 4})]
    assert (await live.update(apple)).details["reason"] == "expired"
    assert (await live.end(apple)).data == {"id": apple, "status": "expired", "sendId": None}
    await tell(kernel)
    await eventually(lambda: len(told) >= 6)
    ended = {said["activityId"]: said["reason"] for event, said in told if event == "push.live_activity_ended"}
    assert ended == {apple: "lifetime", google: "lifetime"}


async def test_what_is_long_over_is_forgotten(kernel: Kernel, live: Live) -> None:
    """Thirty days after its end, with what it said; what lives is never old."""
    await live.register_starter(userId="ada")
    await live.register_starter(userId="bob")
    await live.start(["ada"], externalId="order-0")
    shared = (await live.start(["ada", "bob"], externalId="order-1")).data["id"]
    other = (await live.listed(status="starting", userId="bob"))[0]["id"]
    old, recent, living = [await live.begun(externalId=f"order-{n}") for n in range(3)]
    for one in (old, recent, other):
        await live.end(one)
    for one, days in ((old, 31), (other, 31), (recent, 29)):
        await kernel.db.execute(
            "UPDATE live_activities SET ended_at = ended_at - $2::interval WHERE id = $1",
            UUID(one),
            timedelta(days=days),
        )
    await kernel.db.execute("UPDATE live_activities SET created_at = 'epoch' WHERE id = $1", UUID(living))
    await jobs.collect(kernel)

    async def left(table: str, column: str) -> set[Any]:
        rows = await kernel.db.fetch(f"SELECT {column} AS id FROM {table} WHERE org_id = $1", live.org.id)
        return {str(row["id"]) for row in rows}

    assert await left("live_activities", "id") == {recent, living}
    assert await left("live_activity_updates", "activity_id") == {recent}
    assert await left("live_activity_starts", "send_id") == {shared}
