"""The demo's SDK: what an app's backend would do with the public API, over a handful of keep-alive connections."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import aiohttp
import msgspec

CONNECTIONS: Final = 32
"""Requests in flight: enough that the log's group commits fill, few enough to be one SDK gateway."""

BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Waits after 429 and 503 when the answer names none; a retry carries the same event ids, so it is harmless."""


T = TypeVar("T")


class Refused(RuntimeError):
    """The API refused a request that the demo believes to be right."""


class Client:
    """One API key's view of the API."""

    def __init__(self, url: str, key: str) -> None:
        self._url = f"{url}/api/v1"
        self.headers = {"x-api-key": key, "content-type": "application/json"}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS), timeout=aiohttp.ClientTimeout(total=60)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(self, method: str, path: str, body: object | None = None) -> tuple[Any, dict[str, str]]:
        """(data, headers) of a successful answer; 429 and 503 are waited out, anything else raises Refused."""
        if self._session is None:
            raise RuntimeError("the client is not open")
        payload = None if body is None else msgspec.json.encode(body)
        for wait_s in (*BACKOFF_S, None):
            async with self._session.request(method, self._url + path, data=payload, headers=self.headers) as response:
                text = await response.read()
                if response.status < 300:
                    return msgspec.json.decode(text)["data"], dict(response.headers)
                if response.status not in (429, 503) or wait_s is None:
                    raise Refused(f"{method} {path}: {response.status} {text.decode(errors='replace')[:500]}")
                await asyncio.sleep(float(response.headers.get("Retry-After", wait_s)))
        raise AssertionError("unreachable")

    async def get(self, path: str) -> Any:
        return (await self.call("GET", path))[0]

    async def post(self, path: str, body: object) -> Any:
        return (await self.call("POST", path, body))[0]

    async def put(self, path: str, body: object) -> Any:
        return (await self.call("PUT", path, body))[0]


async def spread(items: Iterable[T], work: Callable[[T], Awaitable[None]], done: Callable[[int], None]) -> None:
    """Run `work` over all items, CONNECTIONS at a time; `done(1)` after each."""
    source = iter(items)

    async def one() -> None:
        for item in source:
            await work(item)
            done(1)

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(one())


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
