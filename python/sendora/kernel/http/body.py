"""Request bodies: how many bytes, how long they may take, in which coding (C14, reliability.md 3.7).

The bytes are counted while they arrive: a body that is too large is refused without being read to its end, and one that
trickles holds a connection for ten seconds at most.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from sendora.kernel.errors import PayloadTooLarge, ValidationFailed

READ_S: Final = 10.0
"""A megabyte in ten seconds is slower than any phone network that still works; slower is an attack or dead."""


async def read_body(given: Mapping[str, str], receive: Any, bytes_max: int) -> bytes:
    """The whole body, or the Problem that it is."""
    declared = _declared(given)
    if declared is not None and declared > bytes_max:
        raise PayloadTooLarge(f"A body may have {bytes_max} bytes.")
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a body is read by a task")
    # asyncio.timeout does the same and costs several times as much, on every request.
    expired: list[bool] = []
    alarm = asyncio.get_running_loop().call_later(READ_S, _expire, task, expired)
    try:
        return await _gather(receive, bytes_max)
    except asyncio.CancelledError:
        if expired and not task.uncancel():
            raise ValidationFailed({"body": [f"The body did not arrive within {READ_S:.0f} seconds."]}) from None
        raise
    finally:
        alarm.cancel()


def _expire(task: "asyncio.Task[object]", expired: list[bool]) -> None:
    expired.append(True)
    task.cancel()


def _declared(given: Mapping[str, str]) -> int | None:
    """The declared length, after refusing every content coding but `identity`: nothing here unpacks, so nothing can be
    made to swell."""
    coding = given.get("content-encoding")
    if coding is not None and coding.strip().lower() not in ("", "identity"):
        raise ValidationFailed({"Content-Encoding": ["Only identity is taken: send the body uncompressed."]})
    length = given.get("content-length")
    if length is None:
        return None
    if not (length.isascii() and length.isdigit()):
        raise ValidationFailed({"Content-Length": ["Expected a number."]})
    # Nineteen digits are beyond any body, and int() of thousands would itself take time.
    return int(length[:19])


async def _gather(receive: Any, bytes_max: int) -> bytes:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > bytes_max:
            raise PayloadTooLarge(f"A body may have {bytes_max} bytes.")
        return body
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] != "http.request":
            raise ValidationFailed({"body": ["The connection closed before the body was complete."]})
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > bytes_max:
            raise PayloadTooLarge(f"A body may have {bytes_max} bytes.")
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()
