"""The Door behind a real server: what Granian hands over in RSGI, and what then goes over the wire.

A made-up room (front_app.py) is served on a loopback port by a process like that of `sendora api`.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from tests.conftest import eventually
from tests.kernel.front_app import READ_S
from tests.raw import Answered, ask, chunk, connect, head

from sendora.cluster import free_port
from sendora.kernel.config import Settings
from sendora.kernel.embedded import Embedded, guarded

SK = ("x-api-key", "sk")
BEATS = "/api/v1/beats"
CHUNKED = ("transfer-encoding", "chunked")


class Server:
    """A Granian of the test's own."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log

    @property
    def said(self) -> str:
        return self._log.read_text()

    async def counted(self, route: str, status: int) -> float:
        """How many answers the metrics know of."""
        text = (await ask(self.port, "GET", "/metrics")).body.decode()
        wanted = f'sendora_http_requests_total{{route="{route}",status="{status}"}} '
        return sum(float(line.removeprefix(wanted)) for line in text.splitlines() if line.startswith(wanted))


@asynccontextmanager
async def serve(servers: Embedded, folder: Path, **environment: str) -> AsyncIterator[Server]:
    """Not necessarily up yet."""
    port = free_port()
    log = folder / f"front-{port}.log"
    arguments = ["--interface", "rsgi", "--factory", "--host", "127.0.0.1", "--port", str(port), "--no-ws"]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *guarded([sys.executable, "-m", "granian", *arguments, "--loop", "uvloop", "tests.kernel.front_app:api"]),
            env={**os.environ, **servers.environment, "SENDORA_LOG__FORMAT": "console", **environment},
            stdout=output,
            stderr=output,
        )
    try:
        yield Server(process, port, log)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), 20)


async def up(server: Server) -> bool:
    assert server.process.returncode is None, server.said
    try:
        return (await ask(server.port, "GET", "/livez")).status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
async def server(servers: Embedded, settings: Settings, server_folder: Path) -> AsyncIterator[Server]:
    async with serve(servers, server_folder) as started:
        await eventually(lambda: up(started), 30)
        yield started


@pytest.fixture
def port(server: Server) -> int:
    return server.port


# -- answers -----------------------------------------------------------------------------------------------------------


async def test_a_hot_answer(port: int) -> None:
    """Everything that goes over the wire: nothing twice, nothing missing."""
    answer = await ask(port, "POST", f"{BEATS}?a=%20b&a=c", SK, ("X-Request-Id", "mine-1"), body=b"{}")
    assert answer.status == 201
    assert answer.json["data"]["size"] == 2
    assert answer.json["data"]["query"] == "a=%20b&a=c"
    assert [name for name, _ in answer.headers] == [
        "content-type", "x-sendora-position", "x-request-id", "x-ratelimit-limit", "x-ratelimit-remaining",
        "x-ratelimit-reset", "server", "content-length", "date",
    ]  # fmt: skip
    assert answer.header("content-type") == "application/json"
    assert answer.header("x-request-id") == "mine-1"
    assert answer.header("x-sendora-position") == "0-1"


async def test_headers_of_a_request(port: int) -> None:
    """Of one that was sent twice the last counts; one that is not ASCII is there, and is nobody's key."""
    sent = (("X-Mood", "good"), ("x-mood", "bad"), ("x-empty", ""), ("x-name", b"caf\xe9"), ("x-utf", "é".encode()))
    seen = (await ask(port, "POST", BEATS, SK, *sent, body=b"{}")).json["data"]["headers"]
    assert (seen["x-mood"], seen["x-empty"]) == ("bad", "")
    assert not seen["x-name"].isascii()
    assert not seen["x-utf"].isascii()
    assert seen["host"] == "sendora.test"
    for key in (b"sk\xe9", b"\xff\xfe"):
        refused = await ask(port, "POST", BEATS, ("x-api-key", key), body=b"{}")
        assert (refused.status, refused.code) == (401, "UNAUTHORIZED")
    coded = await ask(port, "POST", BEATS, SK, ("content-encoding", b"gz\xe9p"), body=b"{}")
    assert (coded.status, coded.code) == (400, "VALIDATION_ERROR")
    cold = (await ask(port, "POST", "/api/v1/read", SK, *sent, body=b"{}")).json["data"]["headers"]
    assert [value for name, value in cold if name == "x-mood"] == ["good", "bad"]
    assert {"x-empty", "x-name", "x-utf"} <= {name for name, _ in cold}


async def test_targets(port: int) -> None:
    """Escapes in a path are undone before it is looked up; what is not UTF-8 is refused."""
    assert (await ask(port, "POST", "/api/v1/be%61ts", SK, body=b"{}")).status == 201
    assert (await ask(port, "POST", f"http://elsewhere.test{BEATS}", SK, body=b"{}")).status == 201
    assert (await ask(port, "GET", "/api/v1/cold/%C3%A9", SK)).json["data"]["how"] == "é"
    for target in (f"{BEATS}?q=%ff", f"{BEATS}?q=%00", "/api/v1/cold/%ff", "/api/v1/cold/a%00"):
        refused = await ask(port, "POST" if "beats" in target else "GET", target, SK)
        assert (refused.status, refused.code) == (400, "VALIDATION_ERROR"), target
    assert (await ask(port, "POST", f"{BEATS}?q=\xc3\xa9", SK, body=b"{}")).json["data"]["query"] == "q=\xc3\xa9"
    for target in ("/api/v1/be%ffats", "/api/v1/orgs/%ff/beats", "/", "//", "/api/v1"):
        answer = await ask(port, "POST", target, SK, body=b"{}")
        assert (answer.status, answer.code) == (404, "NOT_FOUND"), target
    # The server's own refusal: those bytes are no HTTP.
    assert (await ask(port, "POST", b"/api/v1/\xff", SK)).status == 400


async def test_answers_without_a_body(port: int) -> None:
    for how, status in (("none", 204), ("same", 304)):
        answer = await ask(port, "GET", f"/api/v1/cold/{how}", SK)
        assert (answer.status, answer.body, answer.header("content-length")) == (status, b"", None)
        assert answer.header("x-request-id")
    preflight = await ask(port, "OPTIONS", BEATS, ("origin", "https://shop.example"))
    assert (preflight.status, preflight.header("access-control-allow-origin")) == (204, "*")
    async with connect(port) as wire:
        await wire.send(head("HEAD", BEATS, SK))
        refused = await wire.answer(bodiless=True)
        assert (refused.status, refused.header("allow")) == (405, "POST")
        assert int(refused.header("content-length") or 0) > 0
        # No body came: the next answer begins where the last head ended.
        await wire.send(head("GET", "/livez"))
        assert (await wire.answer()).json == {"status": "alive"}


async def test_a_connection_serves_many_requests(port: int) -> None:
    """Hot and cold in turn, and sent without waiting for the answers."""
    async with connect(port) as wire:
        hot = head("POST", BEATS, SK, ("content-length", "2")) + b"{}"
        cold = head("POST", "/api/v1/read", SK, CHUNKED) + chunk(b"{}") + chunk(b"")
        await wire.send(hot + cold + hot + cold)
        assert [(await wire.answer()).status for _ in range(4)] == [201, 200, 201, 200]


async def test_http_2(port: int) -> None:
    """Its pseudo-header stands for `host`; a body there has a length or has not."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"{"
        yield b"}"

    async with httpx.AsyncClient(http1=False, http2=True, trust_env=False, base_url=f"http://127.0.0.1:{port}") as http:
        for content in (b"{}", parts()):
            answer = await http.post(BEATS, content=content, headers=[SK])
            assert (answer.http_version, answer.status_code) == ("HTTP/2", 201)
            assert answer.json()["data"]["size"] == 2
        shown = (await http.get("/api/v1/cold/x", headers=[SK])).json()["data"]
        assert shown["host"] == f"127.0.0.1:{port}"
        assert shown["url"] == f"http://127.0.0.1:{port}/api/v1/cold/x"
        assert shown["client"][0] == "127.0.0.1"


async def test_http_1_0(port: int) -> None:
    async with connect(port) as wire:
        await wire.send(b"POST /api/v1/beats HTTP/1.0\r\nx-api-key: sk\r\ncontent-length: 2\r\n\r\n{}")
        assert (await wire.answer()).status == 201
        assert await wire.closed()
    async with connect(port) as wire:
        await wire.send(b"GET /livez HTTP/1.0\r\n\r\n")
        assert (await wire.answer()).status == 200


# -- bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [BEATS, "/api/v1/read"])
async def test_bodies_of_every_length(port: int, path: str, settings: Settings) -> None:
    """Declared or in chunks, in one packet or in several, up to the limit and not beyond (C14)."""
    limit = settings.http.max_body_bytes
    for body in (b"", b"{}", b"x" * limit):
        answer = await ask(port, "POST", path, SK, ("content-length", "0") if not body else ("x-a", "b"), body=body)
        size = answer.json["data"]["size"]
        assert (answer.status < 300, size) == (True, len(body))
        async with connect(port) as wire:
            parts = [chunk(body[at : at + 100_000]) for at in range(0, len(body), 100_000)]
            await wire.send(head("POST", path, SK, CHUNKED), *parts, chunk(b""))
            assert (await wire.answer()).json["data"]["size"] == len(body)
    async with connect(port) as wire:
        await wire.send(head("POST", path, SK, ("content-length", str(limit + 1))))
        refused = await wire.answer()
        assert (refused.status, refused.code) == (413, "PAYLOAD_TOO_LARGE")
    async with connect(port) as wire:
        await wire.send(head("POST", path, SK, CHUNKED), *[chunk(b"x" * 65_536)] * (limit // 65_536 + 1))
        refused = await wire.answer()
        assert (refused.status, refused.code) == (413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("path", [BEATS, "/api/v1/read"])
async def test_a_length_that_lies(server: Server, path: str, settings: Settings) -> None:
    """Shorter than declared: 400, and the connection is of no more use. Longer: the rest is the next request."""
    async with connect(server.port) as wire:
        await wire.send(head("POST", path, SK, ("content-length", "9")) + b"{}")
        wire.half_close()
        refused = await wire.answer()
        assert (refused.status, refused.code) == (400, "VALIDATION_ERROR")
        assert "closed before" in refused.body.decode()
        assert await wire.closed()
    async with connect(server.port) as wire:
        await wire.send(head("POST", path, SK, ("content-length", "2")) + b"{}nonsense\r\n\r\n")
        assert (await wire.answer()).status < 300
        assert (await wire.answer()).status == 400
        assert await wire.closed()
    # Chunks win over a length (RFC 9112, 6.3), and so does their limit.
    async with connect(server.port) as wire:
        await wire.send(head("POST", path, SK, ("content-length", "2"), CHUNKED) + chunk(b"{  }") + chunk(b""))
        assert (await wire.answer()).json["data"]["size"] == 4
    many = settings.http.max_body_bytes // 65_536 + 1
    async with connect(server.port) as wire:
        await wire.send(head("POST", path, SK, ("content-length", "2"), CHUNKED), *[chunk(b"x" * 65_536)] * many)
        assert (await wire.answer()).status == 413


@pytest.mark.parametrize("path", [BEATS, "/api/v1/read"])
async def test_bodies_that_never_come(port: int, path: str) -> None:
    """reliability.md 3.7: a body has its time, however it was announced."""
    for parts in (
        (head("POST", path, SK, ("content-length", "9")), b"{"),
        (head("POST", path, SK, CHUNKED), chunk(b"{")),
    ):
        async with connect(port) as wire:
            began = asyncio.get_running_loop().time()
            await wire.send(*parts)
            refused = await wire.answer()
            assert (refused.status, refused.code) == (400, "VALIDATION_ERROR")
            assert "did not arrive" in refused.body.decode()
            assert asyncio.get_running_loop().time() - began > READ_S / 2


async def test_a_body_is_asked_for_when_it_is_wanted(port: int) -> None:
    """`Expect: 100-continue` is answered with 100 when the head was good, and with the refusal alone when not."""
    expecting = (("content-length", "2"), ("expect", "100-continue"))
    for path in (BEATS, "/api/v1/read"):
        async with connect(port) as wire:
            await wire.send(head("POST", path, SK, *expecting))
            assert (await wire.answer()).status == 100
            await wire.send(b"{}")
            assert (await wire.answer()).status < 300
        async with connect(port) as wire:
            await wire.send(head("POST", path, *expecting))
            refused = await wire.answer()
            assert (refused.status, refused.code) == (401, "UNAUTHORIZED")


async def test_clients_that_leave(server: Server) -> None:
    """While the body is read, or while it is worked on: what happened is counted, and the next one is served."""
    before = await server.counted(BEATS, 400), await server.counted(BEATS, 201)
    async with connect(server.port) as wire:
        await wire.send(head("POST", BEATS, SK, ("content-length", "9")) + b"{")
    async with connect(server.port) as wire:
        await wire.send(head("POST", BEATS, SK, ("content-length", "4")) + b"slow")
        await eventually(lambda: "slow" in server.said)
    async with connect(server.port) as wire:
        await wire.send(head("POST", BEATS, SK, CHUNKED), chunk(b"{"))

    async def counted() -> bool:
        after = await server.counted(BEATS, 400), await server.counted(BEATS, 201)
        # What breaks off in chunks cannot be told from what ends (front.py), and is 201 in this room.
        return after == (before[0] + 1, before[1] + 2)

    await eventually(counted)
    assert "unexpected_error" not in server.said.partition("slow")[2]


# -- faults ------------------------------------------------------------------------------------------------------------


async def test_faults(server: Server) -> None:
    """B032: ours is a 500 in the envelope that tells nothing, logged under its id and counted; never the server's."""
    for ask_for, route in (
        (lambda: ask(server.port, "POST", BEATS, SK, ("x-request-id", "hot-1"), body=b"fault"), BEATS),
        (lambda: ask(server.port, "GET", "/api/v1/cold/fault", SK, ("x-request-id", "cold-1")), "/api/v1/cold/{how}"),
    ):
        before = await server.counted(route, 500)
        fault: Answered = await ask_for()
        assert (fault.status, fault.code) == (500, "INTERNAL")
        assert b"secret" not in fault.body
        assert fault.header("x-ratelimit-limit") == "5000"
        assert await server.counted(route, 500) == before + 1
        assert fault.header("x-request-id") in server.said
    away = await ask(server.port, "POST", BEATS, SK, body=b"away")
    assert (away.status, away.code, away.header("retry-after")) == (503, "UNAVAILABLE", "1")
    assert "Application callable raised" not in server.said


async def test_refusals_are_counted(server: Server) -> None:
    before = await server.counted(BEATS, 401), await server.counted("unknown", 404)
    assert (await ask(server.port, "POST", BEATS, body=b"{}")).status == 401
    assert (await ask(server.port, "GET", "/nothing")).status == 404
    assert (await server.counted(BEATS, 401), await server.counted("unknown", 404)) == (before[0] + 1, before[1] + 1)


async def test_streams(server: Server) -> None:
    """An answer in several pieces goes out as they come, and stops when nobody listens."""
    route = "/api/v1/cold/{how}"
    before = await server.counted(route, 200)
    whole = await ask(server.port, "GET", "/api/v1/cold/stream", SK)
    assert (whole.status, whole.body) == (200, b"0,1,2,3,4,5,6,7,8,9,")
    assert whole.header("x-request-id")
    # Too late for another status: what was said stands, and the fault is in the log.
    broken = await ask(server.port, "GET", "/api/v1/cold/late", SK, ("x-request-id", "late-1"))
    assert (broken.status, broken.body) == (200, b"so far")
    await eventually(lambda: "late-1" in server.said)
    async with connect(server.port) as wire:
        await wire.send(head("GET", "/api/v1/cold/endless", SK))
        assert (await wire.answer(bodiless=True)).status == 200  # It has begun, and is left in the middle.

    async def ended() -> bool:
        # Each is counted when its last piece has gone, which may be after it was read.
        return await server.counted(route, 200) == before + 3

    await eventually(ended)


# -- life --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refuses", "said"), [("away", "sendora: The log is away."), ("fault", "RuntimeError: a fault of ours")]
)
async def test_a_start_that_fails(servers: Embedded, server_folder: Path, refuses: str, said: str) -> None:
    """The process ends and says why: an operator's trouble in a line, a fault of ours with its place."""
    async with serve(servers, server_folder, FRONT_TEST_REFUSES=refuses) as server:
        assert await asyncio.wait_for(server.process.wait(), 30) != 0
        assert said in server.said
        assert ("Traceback" in server.said) == (refuses == "fault")
        assert "never retrieved" not in server.said


async def test_a_stop_finishes_what_was_begun(servers: Embedded, settings: Settings, server_folder: Path) -> None:
    """SIGTERM while a request is worked on: it is answered, the kernel is closed, the process ends in order."""
    async with serve(servers, server_folder) as server:
        await eventually(lambda: up(server), 30)
        async with connect(server.port) as wire:
            await wire.send(head("POST", BEATS, SK, ("content-length", "4")) + b"slow")
            await eventually(lambda: "slow" in server.said)
            server.process.send_signal(signal.SIGTERM)
            assert (await wire.answer()).status == 201
        assert await asyncio.wait_for(server.process.wait(), 20) == 0
        assert "closed" in server.said
        assert "Traceback" not in server.said
        assert "never retrieved" not in server.said
