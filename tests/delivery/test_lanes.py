"""What lanes say of a request's fate: `unsent` only when it is proved (reliability.md 2.1).

Two levels: `core`, which both implementations keep, and `transport`, for the native one alone.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import msgspec
import pytest
from tests.conftest import eventually
from tests.delivery.conftest import DEAD_PORT

from loadtests.certificates import issue
from sendora.delivery.channel import Connection
from sendora.delivery.lanes import BREAKER_FAILURES, BREAKER_S, LANES_MAX, PROMISED, NativeLanes, PlainLanes
from sendora.delivery.lanes.plain import STREAMS
from sendora.delivery.lanes.standing import TELL_S
from sendora.delivery.phases import BLOCKED, Call, Chunk, Class, Outcome, Reply
from sendora.kernel.errors import Unavailable
from sendora.kernel.ids import OrgId, SendId, new_id
from sendora.kernel.life import Kernel
from sendora.kernel.outbound import Outbound


class Http2:
    """HTTP/2 over TLS as providers speak it; the path says what becomes of a request."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.most = 0
        self.connections = 0
        self.answer = asyncio.Event()
        self.answer.set()
        self._now = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, folder: Path) -> None:
        self.ca_file, chain, secret = issue(folder)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(chain, secret)
        context.set_alpn_protocols(["h2"])
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.origin = f"localhost:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        paths: dict[int, str] = {}
        with contextlib.suppress(ConnectionError, asyncio.CancelledError, h2.exceptions.ProtocolError):
            while data := await reader.read(65_536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived) and event.headers is not None:
                        fields = {bytes(key): bytes(value) for key, value in event.headers}
                        paths[event.stream_id or 0] = fields[b":path"].decode()
                    if isinstance(event, h2.events.StreamEnded):
                        stream = event.stream_id or 0
                        task = asyncio.create_task(self._reply(connection, writer, stream, paths.pop(stream)))
                        self._tasks.add(task)
                        task.add_done_callback(self._tasks.discard)
                writer.write(connection.data_to_send())
        writer.close()

    async def _reply(
        self, connection: h2.connection.H2Connection, writer: asyncio.StreamWriter, stream: int, path: str
    ) -> None:
        self.seen.append(path)
        self._now += 1
        self.most = max(self.most, self._now)
        await self.answer.wait()
        self._now -= 1
        match path.split("/")[1]:
            case "cut":
                writer.transport.abort()
                return
            case "reset":
                connection.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
            case "goaway" if self.seen.count(path) == 1:
                # Only the first stream was read, says the server, so that this one may be sent again.
                connection.close_connection(last_stream_id=1)
            case "refused" if self.seen.count(path) == 1:
                connection.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
            case "always-refused":
                connection.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
            case "silent":
                return
            case "refused":
                connection.send_headers(stream, [(":status", "200")], end_stream=True)
            case "goaway":
                connection.send_headers(stream, [(":status", "200")], end_stream=True)
            case "endless":
                connection.send_headers(stream, [(":status", "200")])
                with contextlib.suppress(h2.exceptions.ProtocolError):
                    while connection.local_flow_control_window(stream) >= 16_384:
                        connection.send_data(stream, b"x" * 16_384)
            case status:
                connection.send_headers(stream, [(":status", status), ("apns-id", "7"), ("retry-after", "3")])
                connection.send_data(stream, b'{"reason": "R"}', end_stream=True)
        writer.write(connection.data_to_send())


class Notes:
    """The `Sending` of these tests: an outcome carries the reply that it was read from."""

    capped = False

    def __init__(self) -> None:
        self.replies: dict[int, Reply] = {}
        self.unreadable: set[int] = set()

    async def rows(self, connection: Connection, chunk: Chunk) -> bytes:
        raise NotImplementedError

    def decide(self, rows: bytes, caps: Any, now_ms: int) -> Any:
        raise NotImplementedError

    async def build(self, decided: Any, chunk: Chunk) -> tuple[Sequence[Call], Sequence[Outcome]]:
        raise NotImplementedError

    async def renew(self, call: Call, reply: Reply) -> bool:
        raise NotImplementedError

    def read(self, call: Call, reply: Reply, chunk: Chunk, now_ms: int) -> Outcome:
        if call.position in self.unreadable:
            raise ValueError("an answer that nobody foresaw")
        self.replies[call.position] = reply
        state = "accepted" if reply.status == 200 else "rejected"
        return Outcome(position=call.position, recipient=new_id(), user_id=None, state=state)  # type: ignore[arg-type]


class Open:
    """A gate that lets everybody through, up to a limit."""

    def __init__(self, limit: int = 1_000_000) -> None:
        self.limit = limit
        self.outcomes: list[Outcome] = []
        self.is_open = True
        self.fresh: Call | Exception | None = None

    async def admit(self, want: int, mark: Callable[[int], int]) -> int:
        granted = min(want, self.limit)
        self.limit -= granted
        return granted

    def open(self) -> bool:
        return self.is_open

    def open_s(self) -> float:
        return 60.0 if self.is_open else 0.0

    async def again(self, call: Call, reply: Reply) -> Call | None:
        if isinstance(self.fresh, Exception):
            raise self.fresh
        return self.fresh

    def done(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes += outcomes


class Tower:
    def __init__(self, kernel: Kernel, server: Http2, kind: str) -> None:
        self.now = 100.0
        self.server = server
        self.kernel = kernel
        self._kind = kind
        self.breaker_s = BREAKER_S if kind == "plain" else 0.5
        self.places = kernel.settings.dispatch.connections * STREAMS
        """Requests that may be on a lane whose credential is accepted."""
        self.lanes = self.make()
        self.sending = Notes()
        self.gate = Open()

    def make(self, **options: Any) -> PlainLanes | NativeLanes:
        if self._kind == "plain":
            return PlainLanes(self.kernel, clock=lambda: self.now, **options)
        # Real time passes in Rust; so many streams as the plain ones have.
        return NativeLanes(self.kernel, breaker_s=self.breaker_s, streams=STREAMS, **options)

    async def remake(self, **options: Any) -> None:
        await self.lanes.close()
        self.lanes = self.make(**options)

    async def allow(self, **dispatch: Any) -> None:
        changed = msgspec.structs.replace(self.kernel.settings.dispatch, **dispatch)
        settings = msgspec.structs.replace(self.kernel.settings, dispatch=changed)
        self.kernel = dataclasses.replace(self.kernel, settings=settings)
        await self.remake()

    async def cool(self) -> None:
        """Until the circuit is half open."""
        self.now += BREAKER_S
        await eventually(lambda: self.lanes.held_s("apns:1") == 0)

    def holds(self) -> bool:
        return 0 < self.lanes.held_s("apns:1") <= self.breaker_s

    def count(self) -> int:
        """Lanes that are there."""
        return len(self.lanes._lanes) if isinstance(self.lanes, PlainLanes) else len(self.lanes.core.standing())

    def busy(self) -> bool:
        if isinstance(self.lanes, PlainLanes):
            return self.lanes._lanes["apns:1"].busy
        return any(window.taken for window in self.lanes._windows["apns:1"].values())

    def calls(self, *paths: str, lane: str = "apns:1") -> list[Call]:
        return [
            Call(position=i, lane=lane, url=f"https://{self.server.origin}/{path}/{i}", headers={}, body=b"{}")
            for i, path in enumerate(paths)
        ]

    async def run(self, *calls: Call, class_: Class = "bulk") -> dict[int, Reply]:
        await self.lanes.run(self.sending, calls, chunk(class_), self.gate)
        return self.sending.replies


def chunk(class_: Class = "bulk") -> Chunk:
    return Chunk(
        org=OrgId(new_id()),
        send=SendId(new_id()),
        shard=0,
        seq=0,
        class_=class_,
        attempt=1,
        repeated=False,
        size=1_000,
        started=0,
        due_at=datetime.datetime.now(datetime.UTC),
    )


@pytest.fixture(params=["plain", "native"])
async def tower(kernel: Kernel, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Tower]:
    server = Http2()
    await server.start(tmp_path)
    allowed = msgspec.structs.replace(
        kernel.settings.outbound, allow=(server.origin, DEAD_PORT), ca_file=str(server.ca_file)
    )
    settings = msgspec.structs.replace(kernel.settings, outbound=allowed)
    outbound = Outbound(settings, kernel.metrics)
    tower = Tower(dataclasses.replace(kernel, settings=settings, outbound=outbound), server, request.param)
    yield tower
    await tower.lanes.close()
    await outbound.close()
    await server.stop()


async def test_an_answer_comes_back_as_it_was(tower: Tower) -> None:
    replies = await tower.run(*tower.calls("200", "410", "503"))
    assert [(replies[i].fate, replies[i].status) for i in range(3)] == [
        ("answered", 200),
        ("answered", 410),
        ("answered", 503),
    ]
    assert replies[1].body == b'{"reason": "R"}'
    assert replies[1].headers["retry-after"] == "3"


async def test_a_refused_connection_is_proved_unsent(tower: Tower) -> None:
    (call,) = tower.calls("200")
    replies = await tower.run(msgspec.structs.replace(call, url=f"https://{DEAD_PORT}/200/0"))
    assert replies[0].fate == "unsent"


async def test_an_address_that_may_not_be_dialled_is_unsent_and_says_so(tower: Tower) -> None:
    """F-W4 for a Web Push endpoint: nothing leaves."""
    (call,) = tower.calls("200")
    replies = await tower.run(msgspec.structs.replace(call, url="https://127.0.0.1:1/x"))
    assert (replies[0].fate, replies[0].detail[:7]) == ("unsent", "blocked")


async def test_what_may_not_be_dialled_is_counted_by_why(tower: Tower) -> None:
    (call,) = tower.calls("200")
    for url, reason in (("https://127.0.0.1:443/x", "address"), ("https://8.8.8.8:25/x", "port")):
        before = tower.kernel.metrics.value("outbound_blocked", reason=reason)
        await tower.run(*(msgspec.structs.replace(call, position=i, url=url) for i in range(3)))
        assert tower.kernel.metrics.value("outbound_blocked", reason=reason) == before + 3


async def test_what_stands_is_told_and_falls_to_zero_with_its_lane(tower: Tower) -> None:
    """An operator sees which provider is away while it is, and no connection of a lane that has ended."""

    def told(name: Literal["lane_connections", "lane_open_breakers"]) -> dict[str, float]:
        return {provider: tower.kernel.metrics.value(name, provider=provider) for provider in ("apns", "fcm")}

    tower.breaker_s = 2 * TELL_S  # Long enough to be seen.
    await tower.remake()
    await tower.run(*tower.calls("200"))
    dead = [
        msgspec.structs.replace(call, url=f"https://{DEAD_PORT}/200/0")
        for call in tower.calls(*["200"] * BREAKER_FAILURES, lane="fcm:1")
    ]
    await tower.run(*dead)
    await eventually(lambda: told("lane_connections") == {"apns": 1, "fcm": 0})
    await eventually(lambda: told("lane_open_breakers") == {"apns": 0, "fcm": 1})
    tower.now += BREAKER_S
    await eventually(lambda: told("lane_open_breakers") == {"apns": 0, "fcm": 0})
    assert told("lane_connections") == {"apns": 1, "fcm": 0}
    await tower.lanes.close()
    assert told("lane_connections") == {"apns": 0, "fcm": 0}


async def test_what_a_goaway_proves_unread_is_sent_again_at_once(tower: Tower) -> None:
    """F-V3: on another connection, and it is no repetition."""
    await tower.run(*tower.calls("200"))
    replies = await tower.run(*tower.calls("goaway"))
    assert (replies[0].fate, replies[0].status) == ("answered", 200)
    assert tower.server.connections == 2


@pytest.mark.parametrize("path", ["cut", "reset"])
async def test_what_breaks_after_it_was_written_is_unknown(tower: Tower, path: str) -> None:
    """F-V4."""
    replies = await tower.run(*tower.calls(path))
    assert replies[0].fate == "unknown"
    assert tower.server.seen == [f"/{path}/0"]


async def test_a_silent_provider_is_unknown_after_a_while(tower: Tower) -> None:
    """F-V6; the others on the connection are not held up."""
    await tower.remake(call_s=0.3)
    await tower.run(*tower.calls("200"))
    replies = await tower.run(*tower.calls("silent", "200"))
    assert (replies[0].fate, replies[1].status) == ("unknown", 200)


async def test_an_endless_answer_is_cut(tower: Tower) -> None:
    replies = await tower.run(*tower.calls("endless"))
    assert replies[0].status == 200
    assert len(replies[0].body) <= 65_536


async def test_one_request_at_a_time_until_the_first_success(tower: Tower) -> None:
    """Providers.md 1.2: APNs takes one stream until a credential has proved itself; 403 proves nothing."""
    await tower.run(*tower.calls("403", "403", "403"))
    assert tower.server.most == 1
    tower.server.answer.clear()
    running = asyncio.create_task(tower.run(*tower.calls(*["200"] * 30)))
    await eventually(lambda: len(tower.server.seen) == 4)
    tower.server.answer.set()
    await running
    tower.server.answer.clear()
    running = asyncio.create_task(tower.run(*tower.calls(*["200"] * 30)))
    await eventually(lambda: len(tower.server.seen) == 3 + 30 + 30)
    tower.server.answer.set()
    await running
    assert tower.server.most == 30


async def test_a_lane_opens_another_connection_when_one_is_full(tower: Tower) -> None:
    await tower.run(*tower.calls("200"))
    assert tower.server.connections == 1
    tower.server.answer.clear()
    running = asyncio.create_task(tower.run(*tower.calls(*["200"] * (STREAMS + 20))))
    await eventually(lambda: len(tower.server.seen) == 1 + STREAMS + 20)
    tower.server.answer.set()
    await running
    assert tower.server.connections == 2


async def test_transactional_calls_go_first(tower: Tower) -> None:
    """Promise 5, on the lane itself: what waits for a place is overtaken."""
    tower.server.answer.clear()
    broadcast = asyncio.create_task(tower.run(*tower.calls(*["200"] * 5)))
    await eventually(lambda: len(tower.server.seen) == 1)
    code = msgspec.structs.replace(tower.calls("200")[0], url=f"https://{tower.server.origin}/200/code")
    gate = Open()
    urgent = asyncio.create_task(tower.lanes.run(Notes(), [code], chunk("now"), gate))
    await eventually(lambda: gate.limit == 999_999)
    tower.server.answer.set()
    await asyncio.gather(broadcast, urgent)
    assert tower.server.seen.index("/200/code") == 1


async def test_the_circuit_opens_and_closes(tower: Tower) -> None:
    calls = [
        msgspec.structs.replace(call, url=f"https://{DEAD_PORT}/200/0")
        for call in tower.calls(*["200"] * (BREAKER_FAILURES + 5))
    ]
    replies = await tower.run(*calls)
    assert {reply.fate for reply in replies.values()} == {"unsent"}
    assert len(replies) < len(calls), "what was not admitted waits as it is"
    assert [reply.detail for reply in replies.values()].count("breaker") == len(replies) - BREAKER_FAILURES
    assert tower.holds()
    assert tower.lanes.held_s("apns:2") == 0
    await tower.cool()
    # Half open: one more failure is enough, one success closes it.
    await tower.run(calls[0])
    assert tower.holds()
    await tower.cool()
    await tower.run(*tower.calls("200"))
    await tower.run(*calls[:3])
    assert tower.lanes.held_s("apns:1") == 0


async def test_an_address_that_may_not_be_dialled_says_nothing_of_the_lane(tower: Tower) -> None:
    """Nobody was asked: each of them hears why, and the circuit stays closed."""
    calls = [
        msgspec.structs.replace(call, url="https://127.0.0.1:1/x")
        for call in tower.calls(*["200"] * (BREAKER_FAILURES + 5))
    ]
    replies = await tower.run(*calls)
    assert len(replies) == len(calls)
    assert {reply.detail[: len(BLOCKED)] for reply in replies.values()} == {BLOCKED}
    assert tower.lanes.held_s("apns:1") == 0


@pytest.mark.parametrize("proved", [False, True])
async def test_a_lane_that_stands_still_holds_a_small_part_of_the_window(tower: Tower, proved: bool) -> None:
    """Promise 5: what is admitted for it is twice what may be on it, so the window is left to the lanes of others."""
    if proved:
        await tower.run(*tower.calls("200"))
    tower.server.answer.clear()
    places = tower.places if proved else 1
    calls = tower.calls(*["200"] * 300)
    gate = Open()
    running = [asyncio.create_task(tower.lanes.run(Notes(), calls, chunk(), gate)) for _ in range(3)]
    seen = len(tower.server.seen)
    await eventually(lambda: len(tower.server.seen) - seen == places)
    assert 1_000_000 - gate.limit == PROMISED * places
    urgent = Open()
    code = asyncio.create_task(tower.lanes.run(Notes(), calls[:1], chunk("now"), urgent))
    await eventually(lambda: urgent.limit == 999_999)
    tower.server.answer.set()
    await asyncio.gather(*running, code)
    assert len(gate.outcomes) == 900
    assert not tower.busy()


async def test_a_chunk_of_several_lanes_waits_for_none_with_places_of_another_in_hand(tower: Tower) -> None:
    """Two chunks that begin on different lanes, each of which promises two places."""
    left, right = tower.calls(*["403"] * 40), tower.calls(*["403"] * 40, lane="fcm:1")
    mixed = [(left, right)[i % 2][i] for i in range(40)]
    other = [(right, left)[i % 2][i] for i in range(40)]
    gate = Open()
    async with asyncio.timeout(20):
        await asyncio.gather(*(tower.lanes.run(Notes(), calls, chunk(), gate) for calls in (mixed, other) * 3))
    assert Counter(outcome.position for outcome in gate.outcomes) == dict.fromkeys(range(40), 6)


async def test_workers_share_what_an_account_may_send(tower: Tower) -> None:
    """providers.md 2.4: Google counts messages by minute and project, whoever sends them."""
    await tower.allow(fcm_per_minute=1)
    account, other = f"fcm:{new_id()}", tower.make()
    one, two = tower.calls("200", "200", lane=account)
    await tower.lanes.run(Notes(), [one], chunk(), Open(limit=0))
    assert tower.server.seen == []
    await tower.run(one)
    assert tower.server.seen == ["/200/0"], "what the gate did not admit was not spent"
    gate = Open()
    waits = asyncio.create_task(other.run(Notes(), [two], chunk(), gate))
    # Another account has a bucket of its own, and Apple counts nothing.
    await tower.run(*tower.calls("200", lane=f"fcm:{new_id()}"))
    await tower.run(*tower.calls("200", "200"))
    assert len(tower.server.seen) == 4
    assert not waits.done()
    # A worker that drains does not wait for the next minute.
    gate.is_open = False
    async with asyncio.timeout(10):
        await waits
    assert (gate.outcomes, len(tower.server.seen)) == ([], 4)
    await other.close()


async def test_a_quota_is_waited_for_and_somebody_who_waits_comes_first(tower: Tower) -> None:
    await tower.allow(fcm_per_minute=600)  # Ten at once, of which a broadcast leaves one; then ten a second.
    lane = f"fcm:{new_id()}"
    gate, urgent = Open(), Open()
    async with asyncio.timeout(20):
        broadcast = asyncio.create_task(tower.lanes.run(Notes(), tower.calls(*["200"] * 20, lane=lane), chunk(), gate))
        await eventually(lambda: len(gate.outcomes) >= 9)
        await tower.lanes.run(Notes(), tower.calls("200", lane=lane), chunk("now"), urgent)
        assert len(gate.outcomes) < 20
        await broadcast
    assert (len(gate.outcomes), len(urgent.outcomes)) == (20, 1)
    assert len(tower.server.seen) == 21


async def test_a_closed_gate_lets_nothing_leave(tower: Tower) -> None:
    """F-D4: the deadline is asked right before each request."""
    tower.gate.is_open = False
    replies = await tower.run(*tower.calls("200", "200"))
    assert {reply.fate for reply in replies.values()} == {"unsent"}
    assert tower.server.seen == []


async def test_only_what_the_gate_admits_leaves(tower: Tower) -> None:
    tower.gate = Open(limit=7)
    await tower.run(*tower.calls(*["200"] * 20))
    assert sorted(outcome.position for outcome in tower.gate.outcomes) == list(range(7))
    assert len(tower.server.seen) == 7


async def test_an_expired_credential_is_tried_again_in_place(tower: Tower) -> None:
    """F-V7."""
    tower.gate.fresh = tower.calls("200")[0]
    replies = await tower.run(*tower.calls("401"))
    assert replies[0].status == 200
    assert tower.server.seen == ["/401/0", "/200/0"]


async def test_a_credential_that_cannot_be_renewed_now_leaves_the_refusal(tower: Tower) -> None:
    tower.gate.fresh = Unavailable()
    replies = await tower.run(*tower.calls("401"))
    assert replies[0].status == 401


async def test_an_answer_that_cannot_be_read_takes_nobody_with_it(tower: Tower) -> None:
    await tower.run(*tower.calls("200"))
    tower.gate = Open()
    tower.sending.unreadable = {2}
    with pytest.raises(ValueError, match="nobody foresaw"):
        await tower.run(*tower.calls(*["200"] * 5))
    assert sorted(outcome.position for outcome in tower.gate.outcomes) == [0, 1, 3, 4]


async def test_web_push_has_a_bounded_number_of_lanes(tower: Tower) -> None:
    """At most 256, and a new one takes the place of an idle one."""
    (call,) = tower.calls("200")
    for i in range(LANES_MAX + 10):
        await tower.run(msgspec.structs.replace(call, lane=f"webpush:https://x{i}"))
        tower.now += 0.001
    assert tower.count() == LANES_MAX
    if isinstance(tower.lanes, PlainLanes):
        assert tower.server.connections == 1  # Their client is one; its pool goes by the real origin.
        tower.now += 1_000
        await tower.run(msgspec.structs.replace(call, lane="webpush:https://late"))
        assert tower.count() == 1


async def test_when_all_lanes_are_busy_a_new_one_waits_its_turn(tower: Tower) -> None:
    await tower.remake(lanes_max=1)
    tower.server.answer.clear()
    running = asyncio.create_task(tower.run(*tower.calls("200")))
    await eventually(lambda: len(tower.server.seen) == 1)
    notes = Notes()
    await tower.lanes.run(notes, tower.calls("200", lane="fcm:1"), chunk(), Open())
    assert (notes.replies[0].fate, notes.replies[0].detail) == ("unsent", "lanes_busy")
    tower.server.answer.set()
    await running


native = pytest.mark.parametrize("tower", ["native"], indirect=True)
"""The transport level."""


@native
async def test_what_is_refused_unread_is_sent_again_but_not_for_ever(tower: Tower) -> None:
    """F-V5: and it is no repetition."""
    replies = await tower.run(*tower.calls("200", "refused", "refused", "always-refused"))
    assert [replies[i].status for i in range(3)] == [200, 200, 200]
    assert (replies[3].fate, replies[3].detail) == ("unsent", "refused_unread")


@native
async def test_a_provider_that_stands_still_opens_the_circuit(tower: Tower) -> None:
    """F-V6: nobody knows what became of them, and nobody else is sent there for a while."""
    await tower.remake(call_s=0.3)
    await tower.run(*tower.calls("200"))
    replies = await tower.run(*tower.calls(*["silent"] * BREAKER_FAILURES))
    assert {reply.fate for reply in replies.values()} == {"unknown"}
    assert tower.holds()


@native
async def test_requests_are_counted_by_provider_and_status(tower: Tower) -> None:
    before = tower.kernel.metrics.value("lane_requests", provider="apns", status=410)
    await tower.run(*tower.calls("200", "410", "410"))
    assert tower.kernel.metrics.value("lane_requests", provider="apns", status=410) == before + 2
    assert "lane_seconds" in tower.kernel.metrics.text().decode()
