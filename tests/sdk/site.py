"""A customer's web site, and an API that answers as it is told, on one address of this machine."""

from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

from sendora.cluster import free_port
from sendora.sdk import BROWSER

PAGE = """<!doctype html><title>Shop</title>
<a id="inside" href="/inside?from=shop#top"><b>Inside</b></a>
<a id="outside" href="https://elsewhere.test/">Outside</a>
<script>document.addEventListener("click", (event) => event.preventDefault())</script>"""

TOKEN = "0198c0de-0000-7000-8000-000000000001"


class Asked(msgspec.Struct, frozen=True):
    """A request that came to the API."""

    method: str
    path: str
    key: str | None
    body: Any

    @property
    def events(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = self.body["events"]
        return listed


class Site:
    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[Asked] = []
        self.planned: deque[tuple[int, Mapping[str, str]]] = deque()
        """Statuses and headers of the next answers; 200 when there are none."""
        self.worker = ""
        """The text of /sw.js."""

    def at(self, path: str) -> list[Asked]:
        return [one for one in self.asked if one.path == path]

    @property
    def events(self) -> list[dict[str, Any]]:
        """All that were sent, as often as they were."""
        return [event for one in self.at("/events/batch") for event in one.events]

    async def page(self, request: web.Request) -> web.Response:
        if request.path == "/sw.js":
            return web.Response(text=self.worker, content_type="text/javascript")
        return web.Response(text=PAGE, content_type="text/html")

    async def sdk(self, request: web.Request) -> web.FileResponse:
        return web.FileResponse(BROWSER / request.match_info["name"])

    async def api(self, request: web.Request) -> web.Response:
        body = await request.read()
        path = "/" + request.match_info["path"]
        self.asked.append(
            Asked(request.method, path, request.headers.get("x-api-key"), msgspec.json.decode(body) if body else None)
        )
        status, headers = self.planned.popleft() if self.planned else (200, {})
        if status >= 400:
            said: dict[str, Any] = {"success": False, "error": {"code": f"PLANNED_{status}", "message": "As planned."}}
        else:
            said = {"success": True, "data": {"id": TOKEN}}
        return web.json_response(said, status=status, headers=headers)


@asynccontextmanager
async def serve() -> AsyncIterator[Site]:
    port = free_port()
    site = Site(f"http://127.0.0.1:{port}")
    app = web.Application(client_max_size=8 * 2**20)
    app.router.add_route("*", "/api/v1/{path:.*}", site.api)
    app.router.add_get("/sdk/{name}", site.sdk)
    app.router.add_get("/{path:.*}", site.page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield site
    finally:
        await runner.cleanup()
