"""The open loop: what falls due is sent, however slow the server is, and its wait is part of its latency."""

import asyncio

from loadtests.generator import drive, post

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

SERVED_S = 0.02
RATE = 200.0
SECONDS = 0.2


async def test_a_stalled_server_cannot_hide_its_queue() -> None:
    """One connection that serves 50 a second, offered 200: the last request was due long before it could be sent."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            await asyncio.sleep(SERVED_S)
            writer.write(ANSWER)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        requests = [post("/", "key", b"{}")]
        run = await asyncio.to_thread(
            drive, "127.0.0.1", port, requests, seconds=SECONDS, connections=1, rate=RATE, open_loop=True
        )
    due = round(SECONDS * RATE)
    assert run.statuses == {"200": due}
    # The server's own time is the least there can be: all of it lies before the last answer.
    assert max(run.latencies_ms) >= (due * SERVED_S - SECONDS) * 1_000
