"""The Python client against the real app: its calls, its pages, its errors, and what it does when something fails."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
from tests.api import Api, serve
from tests.make import Make, Org
from tests.modules.push.conftest import APNS

from sendora.app import MODULES, bind
from sendora.client import Sendora, SendoraError, backoff_s
from sendora.kernel.bus import Answering, StageRunner
from sendora.kernel.life import Kernel, Service, running


class Wire(httpx.AsyncBaseTransport):
    """The app itself, behind a line that can be told to fail. Remembers what came."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.requests: list[httpx.Request] = []
        self.faults: deque[httpx.Response | Exception] = deque()
        self.lost = 0
        """Answers that get lost on their way back."""
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.faults:
            fault = self.faults.popleft()
            if isinstance(fault, Exception):
                raise fault
            return fault
        answer = await self._inner.handle_async_request(request)
        if self.lost:
            self.lost -= 1
            raise httpx.ReadTimeout("lost")
        return answer

    def bodies(self, path: str) -> list[Any]:
        return [msgspec.json.decode(one.content) for one in self.requests if one.url.path == f"/api/v1{path}"]


@pytest.fixture(scope="module")
async def api(kernel: Kernel) -> AsyncIterator[Api]:
    bind()
    services: list[Service] = []
    for module in MODULES:
        services += [StageRunner(kernel, consumer) for consumer in module.consumers]
        services += [Answering(kernel, answer) for answer in module.answers]
    async with serve(kernel, MODULES) as served, running(kernel, services):
        yield served


@pytest.fixture
async def org(kernel: Kernel, api: Api) -> Org:
    return await Make(kernel, api).org()


@pytest.fixture
def wire(api: Api) -> Wire:
    return Wire(api._client._transport)


@pytest.fixture
async def sendora(org: Org, wire: Wire) -> AsyncIterator[Sendora]:
    async with Sendora("http://sendora.test", org.sk, transport=wire) as client:
        yield client


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the client would have slept, instead of it."""
    asked: list[float] = []

    async def note(seconds: float) -> None:
        asked.append(seconds)

    monkeypatch.setattr("sendora.client.asyncio", type("Clock", (), {"sleep": staticmethod(note)}))
    return asked


async def test_a_public_key_is_for_browsers(org: Org) -> None:
    with pytest.raises(ValueError, match="secret key") as refused:
        Sendora("http://sendora.test", org.pk)
    assert org.pk not in str(refused.value)


@pytest.mark.rule("B055", "C27", "C94")
async def test_events(sendora: Sendora, wire: Wire) -> None:
    """An id and a module of their own; bad ones are told by their place and fail no neighbour; any number will do."""
    said = await sendora.track("order.placed", {"amount": 49.99, "id": uuid4()}, user_id="u_1")
    assert (said["eventType"], UUID(said["id"]).version) == ("order.placed", 7)
    [sent] = wire.bodies("/events")
    assert (sent["module"], sent["eventId"], sent["userId"]) == ("analytics", said["id"], "u_1")

    bad = {3, 1_500, *range(2_000, 2_100)}
    events = [{"eventType": "" if n in bad else "seen", "userId": "u_1"} for n in range(2_100)]
    told = await sendora.track_many(iter(events))
    assert (told["accepted"], told["rejected"]) == (2_100 - len(bad), len(bad))
    assert {one["index"] for one in told["errors"]} == bad
    batches = wire.bodies("/events/batch")
    assert [len(batch["events"]) for batch in batches] == [1_000, 1_000, 100]
    assert len({event["eventId"] for batch in batches for event in batch["events"]}) == 2_100

    large = [{"eventType": "large", "properties": {"text": "x" * 200_000}}] * 12
    assert (await sendora.track_many(large))["accepted"] == 12
    assert await sendora.track_many([]) == {"accepted": 0, "rejected": 0, "errors": []}
    with pytest.raises(TypeError, match="not JSON"):
        await sendora.track("odd", {"set": {1}})


@pytest.mark.rule("C29")
async def test_people(sendora: Sendora, wire: Wire) -> None:
    said = await sendora.identify("u_1", {"plan": "pro", "email": "trait@example.com"}, email="user@example.com")
    assert said["externalId"] == "u_1"
    [sent] = wire.bodies("/identify")
    assert (sent["email"], sent["traits"]["email"]) == ("user@example.com", "trait@example.com")
    with pytest.raises(SendoraError) as refused:
        await sendora.profiles.get("nobody/../../usage")
    assert (refused.value.status, refused.value.code) == (404, "NOT_FOUND")
    assert [row async for row in sendora.profiles.list(external_id="nobody")] == []


async def test_audiences_and_their_pages(sendora: Sendora, wire: Wire, kernel: Kernel, api: Api, org: Org) -> None:
    """A list is read page by page, and no further than it is wanted."""
    rules = {"all": [{"trait": "plan", "op": "eq", "value": "pro"}]}
    made = await asyncio.gather(*(sendora.audiences.create(f"a {n}", rules) for n in range(101)))
    assert {row["id"] async for row in sendora.audiences.list()} == {one["id"] for one in made}
    pages = [one.url.params["page"] for one in wire.requests if one.method == "GET"]
    assert pages == ["1", "2"]
    async for _ in sendora.audiences.list():
        break
    assert len([one for one in wire.requests if one.method == "GET"]) == 3
    audience = made[0]["id"]
    assert (await sendora.audiences.update(audience, name="b"))["name"] == "b"
    assert (await sendora.audiences.get(audience))["name"] == "b"
    assert (await sendora.audiences.preview(rules))["count"] == 0
    await Make(kernel, api).profile(org, "u_1", traits={"plan": "pro"})
    assert (await sendora.audiences.explain("u_1", rules=rules))["member"] is True
    assert (await sendora.audiences.explain("u_1", audience_id=audience))["member"] is True
    await sendora.audiences.delete(audience)
    with pytest.raises(SendoraError, match="NOT_FOUND"):
        await sendora.audiences.get(audience)
    with pytest.raises(SendoraError) as refused:
        await sendora.audiences.create("bad", {"all": [{"trait": "x", "op": "nonsense"}]})
    assert refused.value.code == "VALIDATION_ERROR" and refused.value.field_errors
    assert refused.value.request_id and refused.value.request_id in str(refused.value)


@pytest.mark.rule("B032")
async def test_a_send_whose_answer_got_lost_is_one_send(
    sendora: Sendora, wire: Wire, api: Api, org: Org, waits: list[float]
) -> None:
    """Each call has a key of its own, and its tries share it."""
    at = datetime.now(UTC) + timedelta(days=30)
    assert (await api.put("/push/providers/apns", APNS, key=org.sk)).status == 200
    wire.lost = 2
    sent = await sendora.push.send(user_ids=["u_1"], title="T", body="B", scheduled_for=at)
    assert len(waits) == 2
    keys = [one.headers["idempotency-key"] for one in wire.requests]
    assert len(keys) == 3 and len(set(keys)) == 1
    assert [row["id"] async for row in sendora.push.sends()] == [sent["id"]]
    other = await sendora.push.send(user_ids=["u_1"], title="T", body="B", scheduled_for=at)
    assert other["id"] != sent["id"]
    balance = await sendora.push.reconciliation(sent["id"])
    assert balance["targeted"] == balance["open"]
    for verb in (sendora.push.pause, sendora.push.resume, sendora.push.stop, sendora.push.retry_failed):
        with pytest.raises(SendoraError, match="CONFLICT"):
            await verb(sent["id"])
    assert [row async for row in sendora.push.recipients(sent["id"], state="accepted")] == []
    assert (await sendora.push.cancel(sent["id"]))["status"] == "cancelled"
    assert (await sendora.push.get(sent["id"]))["status"] == "cancelled"


def answer(status: int, **headers: str) -> httpx.Response:
    return httpx.Response(status, headers=headers, json={"success": False, "error": {"code": "X", "message": "no"}})


@pytest.mark.rule("B031", "B032")
@pytest.mark.parametrize("fault", [429, 500, 502, 503, 504, httpx.ConnectError("refused"), httpx.ReadTimeout("late")])
async def test_tries_again(sendora: Sendora, wire: Wire, waits: list[float], fault: int | Exception) -> None:
    """Three times, with waits that double from a second; then the error is the caller's."""
    wire.faults.extend(answer(fault) if isinstance(fault, int) else fault for _ in range(3))
    said = await sendora.track("late")
    assert [event["eventId"] for event in wire.bodies("/events")] == [said["id"]] * 4
    assert all(0.8 * 2**n <= seconds <= 1.2 * 2**n for n, seconds in enumerate(waits))
    wire.faults.extend(answer(fault) if isinstance(fault, int) else fault for _ in range(4))
    with pytest.raises(SendoraError) as refused:
        await sendora.track("too late")
    assert refused.value.status == (fault if isinstance(fault, int) else 0)
    assert len(waits) == 6


@pytest.mark.rule("B031")
async def test_waits_as_long_as_it_is_told(sendora: Sendora, wire: Wire, waits: list[float]) -> None:
    """A wait beyond a minute is for the caller to arrange."""
    wire.faults.append(answer(429, **{"retry-after": "17"}))
    await sendora.track("a")
    assert waits == [17.0]
    wire.faults.append(answer(429, **{"retry-after": "3600"}))
    with pytest.raises(SendoraError) as refused:
        await sendora.track("b")
    assert refused.value.retry_after_s == 3_600
    assert waits == [17.0]
    wire.faults.extend([answer(400), httpx.Response(502, content=b"<html>")])
    with pytest.raises(SendoraError, match="X: no"):
        await sendora.track("c")
    await sendora.track("d")


@pytest.mark.rule("B031")
@pytest.mark.parametrize(("n", "base_s"), [(0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (40, 60)])
def test_backoff(n: int, base_s: float) -> None:
    """From a second to a minute, give or take a fifth."""
    drawn = [backoff_s(n) for _ in range(1_000)]
    assert 0.8 * base_s <= min(drawn) < 0.9 * base_s
    assert 1.1 * base_s < max(drawn) <= 1.2 * base_s


async def test_the_key_is_not_told(sendora: Sendora, org: Org, wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    wire.faults.append(answer(401))
    with pytest.raises(SendoraError) as refused:
        await sendora.track("a")
    said = f"{refused.value!r} {refused.value} {sendora!r} {vars(refused.value)} {caplog.text}"
    assert org.sk not in said
