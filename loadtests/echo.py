"""The peer of single-event ingest: an ASGI app that reads the body and answers with as many bytes as ours does."""

from typing import Any

ANSWER = b'{"success":true,"data":{"id":"0198f3a0-0000-7000-8000-000000000000","eventType":"purchase"}}' + b" " * 70


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})
