"""A cluster, a headless browser, and a site that stands between them: its page, its worker file, and what of the API it
lets through. The API is reached from another origin than the page's, as in life."""

from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from tests.chrome import Chrome, Target, chrome, found
from tests.world import World, cluster, settle

from sendora.cluster import Cluster

PAGE = "<!doctype html><title>Shop</title><a id=own href='/orders?token=secret#top'>own</a> <a id=far href='https://example.com/'>far</a>"


class Call(msgspec.Struct, frozen=True):
    """A request of the browser's to the API, and what it was answered with."""

    method: str
    path: str
    body: Any
    status: int
    answer: Any


class Site:
    """Two origins: `pages` is the shop's, `api` is Sendora's, with a relay in front that remembers and can refuse."""

    def __init__(self, api: str, session: aiohttp.ClientSession) -> None:
        self.pages = ""
        self.api = ""
        self.calls: list[Call] = []
        self.faults: deque[tuple[int, Mapping[str, str]]] = deque()
        """(status, headers) of the next answers. 0: one that says nothing of CORS, as a proxy's own would; the page
        never sees it, as if the line were dead."""
        self.away = False
        self._upstream = api
        self._session = session

    def to(self, path: str, method: str = "POST") -> list[Call]:
        """What was answered by the API itself, and well."""
        return [one for one in self.calls if (one.path, one.method) == (path, method) and one.status < 300]

    @property
    def events(self) -> list[dict[str, Any]]:
        """All that the API has taken, in order."""
        return [event for one in self.to("/events/batch") for event in one.body["events"]]

    def named(self, event_type: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["eventType"] == event_type]

    async def page(self, request: web.Request) -> web.Response:
        if request.path == "/sw.js":
            text = f'importScripts("{self.api}/sdk/sw.js");'
            return web.Response(text=text, content_type="text/javascript")
        return web.Response(text=PAGE, content_type="text/html")

    async def relay(self, request: web.Request) -> web.StreamResponse:
        body, path = await request.read(), request.path.removeprefix("/api/v1")
        asks = request.path.startswith("/api/") and request.method != "OPTIONS"
        status, headers = 0, {}
        if asks and (self.away or self.faults):
            status, headers = (0, {}) if self.away else self.faults.popleft()
            self._note(request.method, path, body, status or 502, b"")
            shown = {"access-control-allow-origin": "*"} if status else {}
            return web.Response(status=status or 502, headers={**shown, **headers})
        kept = {
            name: value for name, value in request.headers.items() if name.lower() not in ("host", "content-length")
        }
        async with self._session.request(
            request.method, self._upstream + request.path_qs, data=body or None, headers=kept
        ) as answer:
            content = await answer.read()
            if asks:
                self._note(request.method, path, body, answer.status, content)
            given = {
                name: value
                for name, value in answer.headers.items()
                if name.lower() not in ("content-length", "transfer-encoding", "date", "server")
            }
            return web.Response(status=answer.status, body=content, headers=given)

    def _note(self, method: str, path: str, body: bytes, status: int, answer: bytes) -> None:
        read = msgspec.json.decode
        self.calls.append(Call(method, path, read(body) if body else None, status, read(answer) if answer else None))


@asynccontextmanager
async def served(handler: Any) -> AsyncIterator[str]:
    app = web.Application(client_max_size=4 * 2**20)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Chrome]:
    if found() is None:
        pytest.skip("no Chromium on PATH")
    async with chrome() as started:
        yield started


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Cluster]:
    async with cluster("sdk") as started:
        yield started


@pytest.fixture
async def world(running: Cluster) -> AsyncIterator[World]:
    async with settle(running) as settled:
        yield settled
    running.check()


@pytest.fixture
async def site(world: World) -> AsyncIterator[Site]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        site = Site(world.cluster.url, session)
        async with served(site.page) as pages, served(site.relay) as api:
            site.pages, site.api = pages, api
            yield site


class Shop:
    """A page of the site with the SDK in it."""

    def __init__(self, target: Target, site: Site, key: str) -> None:
        self.target = target
        self._site = site
        self._key = key

    async def run(self, body: str, *args: Any) -> Any:
        """Statements of JavaScript, with `sendora` and what is `given`; what they return."""
        return await self.target.run(f"async (...given) => {{ const sendora = window.sendora; {body} }}", *args)

    async def start(self, **options: Any) -> None:
        """init() in the document that is open; `sendora` from then on. Errors gather in `window.errors`."""
        await self.target.run(
            """async (api, options) => {
              window.errors = [];
              const { init } = await import(`${api}/sdk/sendora.js`);
              const onError = (error) => window.errors.push(`${error.code}: ${error.message}`);
              window.sendora = init({ ...options, onError });
            }""",
            self._site.api,
            {"publicKey": self._key, "autoTrack": False, **options},
        )

    async def waiting(self) -> int:
        """Entries in the queue."""
        return int(
            await self.target.run("() => Object.keys(localStorage).filter((key) => key.includes(':queue:')).length")
        )


@pytest.fixture
async def shop(browser: Chrome, site: Site, world: World) -> AsyncIterator[Shop]:
    """A new visitor."""
    target = await browser.page(f"{site.pages}/")
    yield Shop(target, site, world.keys.public_key)
    await target.close()
