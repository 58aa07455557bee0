"""One request, one answer: what `sendora api` says over the wire in RSGI is what the ASGI door says in this process."""

import os
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest
from tests.api import Api, serve
from tests.conftest import eventually
from tests.make import Make, Org

from sendora.app import MODULES
from sendora.cluster import Role, free_port
from sendora.kernel.config import Settings
from sendora.kernel.embedded import Embedded
from sendora.kernel.ids import new_id
from sendora.kernel.life import Kernel

EVENT = b'{"eventType": "opened", "module": "app", "userId": "ada"}'

VARIES = re.compile(
    rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"  # ids
    rb"|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"  # times
)

VARYING = ("x-request-id", "x-ratelimit-remaining", "x-ratelimit-reset", "x-sendora-position")
"""There in both answers or in none, but never with the same value."""

SERVERS = ("connection", "date", "server")
"""Headers that are not ours. The server hangs up after a refusal whose body nobody has read."""

Said = tuple[int, list[tuple[str, str]], bytes]


@pytest.fixture(scope="module")
async def live(servers: Embedded, settings: Settings, server_folder: Path) -> AsyncIterator[Api]:
    port = free_port()
    environment = {**os.environ, **servers.environment, "SENDORA_HTTP__HOST": "127.0.0.1"}
    role = Role("api", ["api"], {**environment, "SENDORA_HTTP__PORT": str(port)}, server_folder / "api.log")
    await role.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:

        async def up() -> bool:
            assert role.alive, role.tail()
            try:
                return (await client.get("/readyz")).status_code == 200
            except httpx.TransportError:
                return False

        try:
            await eventually(up, 30)
            yield Api(client)
        finally:
            await role.stop()


@pytest.fixture(scope="module")
async def inside(kernel: Kernel) -> AsyncIterator[Api]:
    async with serve(kernel, MODULES) as served:
        yield served


@pytest.fixture(scope="module")
async def org(kernel: Kernel, inside: Api) -> Org:
    return await Make(kernel, inside).org()


@pytest.fixture(scope="module")
async def reader(kernel: Kernel, inside: Api, org: Org) -> str:
    return await Make(kernel, inside).key(org, scopes=("profiles:read",))


Headers = Sequence[tuple[str, str | bytes]]

REQUESTS: dict[str, tuple[str, str, Headers, bytes | None]] = {
    "hot, good": ("POST", "/api/v1/events", [("x-api-key", "{sk}")], EVENT),
    "hot, explicit": ("POST", "/api/v1/orgs/{org}/events", [("x-api-key", "{sk}")], EVENT),
    "hot, another org": ("POST", f"/api/v1/orgs/{new_id()}/events", [("x-api-key", "{sk}")], EVENT),
    "hot, no org": ("POST", "/api/v1/orgs/%ff/events", [("x-api-key", "{sk}")], EVENT),
    "hot, batch": ("POST", "/api/v1/events/batch", [("x-api-key", "{sk}")], b"[" + EVENT + b',{"eventType":1}]'),
    "hot, identify": ("POST", "/api/v1/identify", [("x-api-key", "{sk}")], b'{"userId": "ada"}'),
    "hot, by litestar": ("POST", "/api/v1/events/", [("x-api-key", "{sk}")], EVENT),
    "hot, escaped": ("POST", "/api/v1/%65vents", [("x-api-key", "{sk}")], EVENT),
    "hot, from a browser": ("POST", "/api/v1/events", [("x-api-key", "{sk}"), ("origin", "https://a.example")], EVENT),
    "hot, own id": ("POST", "/api/v1/events", [("x-api-key", "{sk}"), ("x-request-id", "mine")], EVENT),
    "hot, wild id": ("POST", "/api/v1/events", [("x-api-key", "{sk}"), ("x-request-id", b"\xe9")], EVENT),
    "hot, not JSON": ("POST", "/api/v1/events", [("x-api-key", "{sk}")], b"{"),
    "hot, not UTF-8": ("POST", "/api/v1/events", [("x-api-key", "{sk}")], b'{"eventType": "\xff"}'),
    "hot, empty": ("POST", "/api/v1/events", [("x-api-key", "{sk}")], b""),
    "hot, too large": (
        "POST",
        "/api/v1/events",
        [("x-api-key", "{sk}")],
        EVENT[:-1] + b', "properties": {"a": "%b"}}' % (b"x" * 300_000),
    ),
    "hot, packed": ("POST", "/api/v1/events", [("x-api-key", "{sk}"), ("content-encoding", "gzip")], EVENT),
    "hot, packed strangely": ("POST", "/api/v1/events", [("x-api-key", "{sk}"), ("content-encoding", b"\xe9")], EVENT),
    "hot, no key": ("POST", "/api/v1/events", [], EVENT),
    "hot, wrong key": ("POST", "/api/v1/events", [("x-api-key", "sk_prod_x")], EVENT),
    "hot, strange key": ("POST", "/api/v1/events", [("x-api-key", b"\xff\xfe")], EVENT),
    "hot, bearer": ("POST", "/api/v1/events", [("authorization", "Bearer x")], EVENT),
    "hot, no scope": ("POST", "/api/v1/events", [("x-api-key", "{reader}")], EVENT),
    "hot, two keys": ("POST", "/api/v1/events", [("x-api-key", "{sk}"), ("x-api-key", "wrong")], EVENT),
    "hot, two keys, the last good": ("POST", "/api/v1/events", [("x-api-key", "wrong"), ("x-api-key", "{sk}")], EVENT),
    "hot, query": ("POST", "/api/v1/events?a=%20&b=%C3%A9", [("x-api-key", "{sk}")], EVENT),
    "hot, query not UTF-8": ("POST", "/api/v1/events?a=%ff", [("x-api-key", "{sk}")], EVENT),
    "hot, query with NUL": ("POST", "/api/v1/events?a=%00", [("x-api-key", "{sk}")], EVENT),
    "hot, GET": ("GET", "/api/v1/events", [("x-api-key", "{sk}")], None),
    "hot, HEAD": ("HEAD", "/api/v1/events", [("x-api-key", "{sk}")], None),
    "hot, OPTIONS": ("OPTIONS", "/api/v1/events", [("origin", "https://a.example")], None),
    "cold, good": ("GET", "/api/v1/audiences?pageSize=1", [("x-api-key", "{sk}")], None),
    "cold, explicit": ("GET", "/api/v1/orgs/{org}/audiences", [("x-api-key", "{sk}")], None),
    "cold, another org": ("GET", f"/api/v1/orgs/{new_id()}/audiences", [("x-api-key", "{sk}")], None),
    "cold, not JSON": ("POST", "/api/v1/audiences", [("x-api-key", "{sk}")], b"{"),
    "cold, no key": ("GET", "/api/v1/audiences", [], None),
    "cold, strange key": ("GET", "/api/v1/audiences", [("x-api-key", b"\xff\xfe")], None),
    "cold, no scope": ("GET", "/api/v1/audiences", [("x-api-key", "{reader}")], None),
    "cold, two ids": (
        "POST",
        "/api/v1/push/send",
        [("x-api-key", "{sk}"), ("idempotency-key", "a b"), ("idempotency-key", "c")],
        b"{}",
    ),
    "cold, strange id": ("POST", "/api/v1/push/send", [("x-api-key", "{sk}"), ("idempotency-key", b"\xe9")], b"{}"),
    "cold, query not UTF-8": ("GET", "/api/v1/audiences?status=%ff", [("x-api-key", "{sk}")], None),
    "cold, path not UTF-8": ("GET", "/api/v1/profiles/%ff", [("x-api-key", "{sk}")], None),
    "cold, path with NUL": ("GET", "/api/v1/profiles/a%00", [("x-api-key", "{sk}")], None),
    "cold, HEAD": ("HEAD", "/api/v1/audiences", [("x-api-key", "{sk}")], None),
    "cold, PATCH": ("PATCH", "/api/v1/audiences", [("x-api-key", "{sk}")], b"{}"),
    "cold, OPTIONS": ("OPTIONS", "/api/v1/nothing", [], None),
    "cold, nothing there": ("GET", "/api/v1/nothing/here", [("x-api-key", "{sk}")], None),
    "cold, outside": ("GET", "/../etc/passwd", [], None),
    "cold, alive": ("GET", "/livez", [], None),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_both_protocols_answer_alike(inside: Api, live: Api, org: Org, reader: str, name: str) -> None:
    """B002, B006, B017, B018, B019, B025, B252: status, headers and body."""
    method, target, headers, content = REQUESTS[name]
    keys = {"{sk}": org.sk, "{reader}": reader}
    sent = [(name, keys.get(value, value) if isinstance(value, str) else value) for name, value in headers]
    target = target.replace("{org}", str(org.id))
    asgi = await inside.plain(method, target, sent, content)
    wire = await live.plain(method, target, sent, content)
    if method == "HEAD":
        # Whose body the server cuts off, after it has told its length.
        assert wire.content == b""
        assert _said(asgi)[:2] == _said(wire)[:2]
    else:
        assert _said(asgi) == _said(wire)
    assert wire.status_code != 500


def _said(answer: httpx.Response) -> Said:
    headers = [
        (name.lower(), "" if name.lower() in VARYING and value != "mine" else value)
        for name, value in answer.headers.multi_items()
        if name.lower() not in SERVERS
    ]
    return answer.status_code, sorted(headers), VARIES.sub(b"-", answer.content)
