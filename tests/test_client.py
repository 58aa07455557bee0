"""The server client against the running program, and against a server that has its troubles."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from tests.world import World, cluster, settle

from sendora import client
from sendora.client import Sendora, SendoraError

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
async def world() -> AsyncIterator[World]:
    async with cluster("client") as running, settle(running) as settled:
        await settled.configure()
        yield settled


@pytest.fixture
async def sendora(world: World) -> AsyncIterator[Sendora]:
    async with Sendora(world.cluster.url, world.keys.secret_key) as opened:
        yield opened


async def test_a_story(world: World, sendora: Sendora) -> None:
    """Who somebody is, what they did, an audience of it, a send to it, and what became of each recipient."""
    await world.device("ok-ada", userId="ada")
    await world.device("gone-ada", "ios", userId="ada")
    await sendora.identify("ada", {"plan": "pro"}, email="ada@example.com")
    tracked = await sendora.track("purchase", user_id="ada", properties={"amount": 49.9})
    assert tracked["eventType"] == "purchase"
    rules = {"all": [{"trait": "plan", "op": "eq", "value": "pro"}]}
    audience = await sendora.create_audience("buyers", rules=rules)
    assert audience["id"] in [one["id"] async for one in sendora.audiences()]
    send = await sendora.push(audience_id=audience["id"], title="Thank you", body="!", ttl_seconds=600)
    await world.ended(send["id"])
    assert (await sendora.reconciliation(send["id"]))["targeted"] == 2
    [rejected] = [one async for one in sendora.recipients(send["id"], state="rejected")]
    trace = await sendora.trace(send["id"], rejected["recipientId"])
    assert (trace["userId"], trace["reason"]) == ("ada", "Unregistered")
    assert (await sendora.profile("ada"))["traits"] == {"plan": "pro"}
    assert (await sendora.explain("ada", audience_id=audience["id"]))["member"] is True
    assert (await sendora.preview(rules))["count"] == 1
    assert (await sendora.why_not("ada", send_id=send["id"]))["recipients"]
    assert send["id"] in [one["id"] async for one in sendora.sends()]


@pytest.mark.rule("C89")
async def test_the_same_send_once(sendora: Sendora) -> None:
    """With the caller's own key, whoever asks again."""
    said = {"user_ids": ["ada"], "title": "T", "body": "B"}
    first, second = [await sendora.push(idempotency_key="order-1", **said) for _ in range(2)]
    assert first == second
    assert (await sendora.push(**said))["id"] != first["id"]


async def test_a_running_send_is_held(world: World, sendora: Sendora) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    send = await sendora.push(user_ids=["ada"], title="T", body="B", scheduled_for=tomorrow)
    with pytest.raises(SendoraError) as refused:
        await sendora.stop(send["id"])
    assert (refused.value.status, refused.value.code) == (409, "CONFLICT")
    assert (await sendora.cancel(send["id"]))["status"] == "cancelled"


async def test_many_events_in_few_requests(sendora: Sendora) -> None:
    """By number and by bytes."""
    few = [{"event_type": "seen", "user_id": "bob"} for _ in range(1_500)]
    assert [one["accepted"] for one in await sendora.track_many(few)] == [1_000, 500]
    large = [{"event_type": "seen", "user_id": "bob", "properties": {"text": "x" * 200_000}} for _ in range(5)]
    assert [one["accepted"] for one in await sendora.track_many(large)] == [4, 1]


async def test_every_page(sendora: Sendora) -> None:
    for number in range(3):
        await sendora.create_audience(f"page-{number}", rules={"all": []})
    listed = [one["id"] async for one in sendora.pages("/audiences")]
    assert len(listed) == len(set(listed)) >= 3


async def test_refusals_are_told(sendora: Sendora) -> None:
    """The envelope's words, and the id that finds the request in the logs."""
    with pytest.raises(SendoraError) as refused:
        await sendora.push(title="nobody")
    assert (refused.value.status, refused.value.code) == (400, "VALIDATION_ERROR")
    assert "userIds" in refused.value.field_errors
    assert refused.value.request_id
    with pytest.raises(ValueError, match="secret key"):
        Sendora("http://127.0.0.1", "pk_prod_whatever")
    assert "sk_" not in repr(sendora)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """What would have been waited."""
    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(client, "asyncio", type("Waiting", (), {"sleep": staticmethod(wait)}))
    yield waited


@pytest.mark.rule("B031", "B032")
async def test_troubles(waits: list[float]) -> None:
    """Waits grow by two with a fifth of jitter, or are what the server asks for; what is not harmless is tried once."""
    asked: list[dict[str, Any]] = []
    answers: list[tuple[int, dict[str, str]]] = []

    async def answer(request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else None
        asked.append({"path": request.path, "key": request.headers.get("idempotency-key"), "body": body})
        status, headers = answers.pop(0)
        failed = {"success": False, "error": {"code": "X", "message": "no"}}
        said = {"success": True, "data": {}} if status < 300 else failed
        return web.json_response(said, status=status, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    try:
        async with Sendora(f"http://127.0.0.1:{port}", "sk_test_x") as sendora:
            answers += [(503, {}), (500, {}), (429, {"retry-after": "7"}), (200, {})]
            await sendora.push(user_ids=["a"], title="t")
            assert len({one["key"] for one in asked}) == 1, "one key for all tries"
            assert 0.8 <= waits[0] <= 1.2
            assert 1.6 <= waits[1] <= 2.4
            assert waits[2] == 7
            asked.clear()
            answers += [(502, {}), (200, {})]
            await sendora.track("seen", user_id="a")
            assert asked[0]["body"] == asked[1]["body"], "the same event id and time"
            assert asked[0]["body"]["eventId"]
            asked.clear()
            answers += [(500, {})]
            with pytest.raises(SendoraError):
                await sendora.create_audience("made twice it would be two", rules={"all": []})
            assert len(asked) == 1
            answers += [(503, {})] * 4
            with pytest.raises(SendoraError) as refused:
                await sendora.profile("a")
            assert (refused.value.status, refused.value.code) == (503, "X")
    finally:
        await runner.cleanup()
    async with Sendora(f"http://127.0.0.1:{port}", "sk_test_x", retries=1) as sendora:
        with pytest.raises(SendoraError) as unreachable:
            await asyncio.wait_for(sendora.profile("a"), 10)
    assert (unreachable.value.status, unreachable.value.code) == (0, "UNREACHABLE")
