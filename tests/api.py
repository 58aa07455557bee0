"""The HTTP verbs: real requests to the real ASGI app, in this process.

    answer = await api.post("/events", {"eventType": "opened", "module": "analytics"}, key=key)
    assert answer.status == 201, answer
    answer.data["id"], answer.headers["x-sendora-position"]

`path` is below /api/v1; `org=` asks in the explicit form. A body is JSON, unless it is bytes: they go out as they are.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx
import msgspec

from sendora.kernel.http import build_app
from sendora.kernel.life import Kernel
from sendora.modules import orgs

API = "/api/v1"


class Answer:
    """An HTTP answer with its envelope opened."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self.body = response.content
        envelope: Any = msgspec.json.decode(response.content) if response.content else {}
        self.envelope: dict[str, Any] = envelope if isinstance(envelope, dict) else {}
        if self.envelope.get("success") is not None:
            assert self.envelope["success"] is (self.status < 400), self.envelope

    @property
    def data(self) -> Any:
        assert "data" in self.envelope, self
        return self.envelope["data"]

    @property
    def pagination(self) -> dict[str, Any]:
        pagination: dict[str, Any] = self.envelope["pagination"]
        return pagination

    @property
    def code(self) -> str | None:
        """The code of a failure."""
        code: str | None = self.envelope.get("error", {}).get("code")
        return code

    @property
    def details(self) -> dict[str, Any]:
        details: dict[str, Any] = self.envelope["error"].get("details", {})
        return details

    @property
    def fields(self) -> dict[str, list[str]]:
        """The field errors of a 400."""
        assert (self.status, self.code) == (400, "VALIDATION_ERROR"), self
        fields: dict[str, list[str]] = self.details["fieldErrors"]
        return fields

    @property
    def position(self) -> str:
        position: str = self.headers["x-sendora-position"]
        return position

    def __repr__(self) -> str:
        return f"{self.status} {self.body[:2_000].decode(errors='replace')}"


class Api:
    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        org: UUID | str | None = None,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> Answer:
        sent = {"content-type": "application/json", **(headers or {})}
        if key is not None:
            sent["x-api-key"] = key
        base = API if org is None else f"{API}/orgs/{org}"
        content = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        params = {name: str(value) for name, value in query.items() if value is not None}
        return Answer(
            await self._client.request(method, base + path, content=content, headers=sent, params=params or None)
        )

    async def plain(
        self, method: str, target: str, headers: Sequence[tuple[str, str | bytes]] = (), content: bytes | None = None
    ) -> httpx.Response:
        """What is said here and no more; `target` from its first slash."""
        sent = [(name.encode(), value.encode() if isinstance(value, str) else value) for name, value in headers]
        return await self._client.request(method, target, headers=sent, content=content)

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.request("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        return await self.request("POST", path, body, **options)

    async def put(self, path: str, body: Any = None, **options: Any) -> Answer:
        return await self.request("PUT", path, body, **options)

    async def patch(self, path: str, body: Any = None, **options: Any) -> Answer:
        return await self.request("PATCH", path, body, **options)

    async def delete(self, path: str, **options: Any) -> Answer:
        return await self.request("DELETE", path, **options)


@asynccontextmanager
async def serve(kernel: Kernel, modules: Any) -> AsyncIterator[Api]:
    """The app of these rooms, on a kernel that is open already."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Kernel]:
        yield kernel

    app = build_app(opened, modules, orgs.authenticate)
    ready, done = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        # A lifespan must end in the task that began it, and a fixture's end runs in another one.
        async with app.litestar.lifespan():
            ready.set()
            await done.wait()

    living = asyncio.create_task(live())
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait((living, waiting), return_when=asyncio.FIRST_COMPLETED)
    try:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://sendora.test", timeout=60) as client:
            yield Api(client)
    finally:
        done.set()
        await living
