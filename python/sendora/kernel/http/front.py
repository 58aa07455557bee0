"""The Door for a server that speaks RSGI: one object for the request, and one call for the answer.

ASGI makes a dict and a list of pairs of every head, and takes an answer in two awaited messages; of a single event that
was a sixth of its price. So the hot routes are read and answered here directly, and all else goes through the ASGI
callable, message by message. What is decided about a request is decided in the Door, for both protocols alike.

What Granian (2.8) does beyond its specification, and what is relied on: `protocol()` raises when the body breaks off,
while its iterator just ends; headers that are not ASCII are listed by name alone; a request whose client has gone runs
on, and its answer goes nowhere.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]

from sendora.kernel.http.app import Door
from sendora.kernel.http.exchange import Exchange
from sendora.kernel.life import trouble_of

UNREADABLE: Final = "\xff"
"""Stands for the value of a header that is not ASCII: whoever looks for it must not take it for absent."""


class Front:
    """What Granian's worker process calls."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._stop = asyncio.Event()
        self._living: asyncio.Task[None] | None = None

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Opens the kernel before the first connection is taken; what is raised here ends the process."""
        opened = asyncio.Event()
        self._living = living = loop.create_task(self._live(opened))
        waiting = loop.create_task(opened.wait())
        loop.run_until_complete(asyncio.wait((living, waiting), return_when=asyncio.FIRST_COMPLETED))
        waiting.cancel()
        if living.done() and (error := living.exception()) is not None:
            while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                # Litestar's task group wraps what was raised.
                error = error.exceptions[0]
            said = trouble_of(error)
            raise error if said is None else SystemExit(f"sendora: {said}")

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Closes the kernel after the last request: what was taken on is finished."""
        self._stop.set()
        if self._living is not None:
            loop.run_until_complete(self._living)

    async def _live(self, opened: asyncio.Event) -> None:
        # In a task of its own from beginning to end: a cancel scope in it must be left by the task that entered it.
        async with self._door.litestar.lifespan():
            opened.set()
            await self._stop.wait()

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        door, path = self._door, scope.path
        given = _given(scope.headers)
        receive = _Receive(protocol, given)
        found = door.find(scope.method, path)
        if found is None:
            await door(_asgi(scope, path, given), receive, _Send(protocol))
            return
        answered = await door.answer_hot(found, Exchange(given), path, scope.query_string.encode(), receive)
        protocol.response_bytes(answered.status, answered.headers, answered.body)


def _given(headers: Any) -> dict[str, str]:
    given = dict(headers.items())
    if len(given) < len(headers):
        return dict.fromkeys(headers.keys(), UNREADABLE) | given
    return given


def _asgi(scope: Any, path: str, given: Mapping[str, str]) -> dict[str, Any]:
    """The scope of an ASGI server. The path may hold U+FFFD where its bytes were not UTF-8."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in scope.headers.items()]
    headers += ((name.encode("latin-1"), b"\xff") for name, value in given.items() if value is UNREADABLE)
    if scope.authority is not None and "host" not in given:
        # HTTP/2 says it in a pseudo-header.
        headers.append((b"host", scope.authority.encode("latin-1")))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": scope.http_version,
        "method": scope.method,
        "scheme": scope.scheme,
        "path": path,
        "query_string": scope.query_string.encode(),
        "root_path": "",
        "headers": headers,
        "client": _address(scope.client),
        "server": _address(scope.server),
    }


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


class _Receive:
    """The body as ASGI's messages, then the end of the connection."""

    __slots__ = ("_ended", "_parts", "_protocol", "_whole")

    def __init__(self, protocol: Any, given: Mapping[str, str]) -> None:
        self._protocol = protocol
        # The server holds the client to the length that it declared, which was judged before anybody asks for the
        # body; any other body comes part by part, to be counted.
        self._whole = "content-length" in given and "transfer-encoding" not in given
        self._parts: Any = None
        self._ended = False

    async def __call__(self) -> dict[str, Any]:
        if self._ended:
            await self._protocol.client_disconnect()
            return {"type": "http.disconnect"}
        if self._whole:
            self._ended = True
            try:
                return {"type": "http.request", "body": await self._protocol(), "more_body": False}
            except ProtocolClosed:
                return {"type": "http.disconnect"}
        if self._parts is None:
            self._parts = aiter(self._protocol)
        # A body that breaks off ends like a whole one here. No harm is done: there is nobody left to answer, and a
        # part of a JSON object is never another JSON object.
        try:
            part: bytes = await anext(self._parts)
        except StopAsyncIteration:
            self._ended = True
            part = b""
        return {"type": "http.request", "body": part, "more_body": not self._ended}


class _Send:
    """ASGI's messages as one answer, or as a stream when there are several pieces."""

    __slots__ = ("_headers", "_protocol", "_status", "_stream")

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._status = 0
        self._headers: list[tuple[str, str]] = []
        self._stream: Any = None

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]]
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._stream is None:
            if not more:
                self._protocol.response_bytes(self._status, self._headers, body)
                return
            self._stream = self._protocol.response_stream(self._status, self._headers)
        if body:
            # To a client that has gone everything is sent in vain, and that is nobody's fault here.
            with suppress(ProtocolClosed):
                await self._stream.send_bytes(body)
        if not more:
            # Letting go of it is what ends it.
            self._stream = None
