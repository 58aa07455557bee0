"""A provider to send to: a real server on the loopback device, whose answer each recipient's id decides.

`Plain` speaks HTTP/1.1. The last byte of a recipient's id names what becomes of it, so a test can say what a ledger
must hold by looking at the ids alone, and the server's log says what really arrived.
"""

import asyncio
import contextlib
from collections import Counter
from uuid import UUID, uuid4

from sendora.kernel.ids import new_id

OK, GONE, INACTIVE, BUSY_ONCE, CUT_ONCE, ALWAYS_BUSY, ALWAYS_CUT, EXPIRED_KEY = range(8)
"""Accepted; refused for good;
never asked (suppressed); 503, then accepted; read and cut off, then accepted; 503 for ever; cut off for ever; 401
until the credential is renewed."""


def recipient(behaviour: int) -> UUID:
    return UUID(bytes=uuid4().bytes[:15] + bytes([behaviour]))


def behaviour(recipient: UUID) -> int:
    return recipient.bytes[15]


class Plain:
    """Counts every request before it answers."""

    def __init__(self) -> None:
        self.seen: Counter[UUID] = Counter()
        self.hold: asyncio.Event | None = None
        """While it is there and not set, nobody gets an answer but those spared."""
        self.spared: set[UUID] = set()
        self.mended: set[UUID] = set()
        """Accepted from now on, whatever their ids say."""
        self.key = "1"
        self.open_requests = 0
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while await self._answer(reader, writer):
                pass
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in head[1:] if line}
        await reader.readexactly(int(headers.get("content-length", "0")))
        who = UUID(head[0].split()[1].rpartition("/")[2])
        self.seen[who] += 1
        self.open_requests += 1
        try:
            if self.hold is not None and who not in self.spared:
                await self.hold.wait()
        finally:
            self.open_requests -= 1
        status = self._status(who, headers.get("authorization", ""))
        if status is None:
            return False
        body = f'{{"id": "{new_id()}"}}'.encode()
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        return True

    def _status(self, who: UUID, key: str) -> int | None:
        first = self.seen[who] == 1
        if who in self.mended:
            return 200
        match behaviour(who):
            case 1:
                return 410
            case 3:
                return 503 if first else 200
            case 4:
                return None if first else 200
            case 5:
                return 503
            case 6:
                return None
            case 7:
                return 200 if key == self.key else 401
        return 200
