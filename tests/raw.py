"""HTTP/1.1 byte by byte, for what no client library would send.

async with connect(port) as wire:
    await wire.send(head("POST", "/api/v1/events", ("content-length", "10")), b'{"cut')
    answer = await wire.answer()
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

WITHIN_S = 10.0


class Answered(msgspec.Struct, frozen=True):
    """An answer as it came; header names in lower case, in their order."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        found = [value for known, value in self.headers if known == name]
        assert len(found) < 2, self
        return found[0] if found else None

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str:
        """Of a failure, in its envelope."""
        assert self.json["success"] is False, self
        assert self.header("content-type") == "application/json", self
        assert self.header("x-request-id"), self
        code: str = self.json["error"]["code"]
        return code


class Wire:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, *parts: bytes) -> None:
        """Each in a packet of its own, more or less."""
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()

    async def answer(self, *, bodiless: bool = False) -> Answered:
        """The next one. `bodiless`: to a HEAD, whose content-length speaks of a body that does not come."""
        async with asyncio.timeout(WITHIN_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in head[1:-2])]
            answered = Answered(int(head[0].split()[1]), headers, b"")
            if not bodiless and answered.header("transfer-encoding") == "chunked":
                return msgspec.structs.replace(answered, body=await self._chunks())
            length = 0 if bodiless else int(answered.header("content-length") or 0)
            return msgspec.structs.replace(answered, body=await self._reader.readexactly(length))

    async def closed(self) -> bool:
        """Whether the other side says no more and hangs up."""
        async with asyncio.timeout(WITHIN_S):
            return await self._reader.read() == b""

    def half_close(self) -> None:
        self._writer.write_eof()

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            body += (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)
        return body


@asynccontextmanager
async def connect(port: int) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


def head(method: str, target: str | bytes, *headers: tuple[str, str | bytes]) -> bytes:
    lines = [method.encode() + b" " + _latin(target) + b" HTTP/1.1", b"host: sendora.test"]
    lines += (name.encode() + b": " + _latin(value) for name, value in headers)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def chunk(part: bytes) -> bytes:
    """Of a chunked body; the empty one is its end."""
    return b"%x\r\n%b\r\n" % (len(part), part)


async def ask(
    port: int, method: str, target: str | bytes, *headers: tuple[str, str | bytes], body: bytes = b""
) -> Answered:
    """One request on a connection of its own, its body of a declared length."""
    length = [("content-length", str(len(body)))] if body else []
    async with connect(port) as wire:
        await wire.send(head(method, target, *headers, *length) + body)
        return await wire.answer(bodiless=method == "HEAD")


def _latin(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text
