"""Pull requests: a batch of what is there now, or the first message that comes.

Two kinds of request that always end by themselves: `no_wait` brings what is there and a status, and one for a single
message lingers. (nats-py's `fetch` mixes both and may hold a message back until its time is over.)
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

LINGER_S: Final = 1.0
"""How long a pull waits for the first message; also how long an idle stage takes to notice that it should stop."""

ANSWER_S: Final = 3.0
"""A pull that is not ended by then got lost with a connection."""

BATCH_BYTES_MAX: Final = 16 * 1024 * 1024
"""Sixteen full frames; twice the largest message that the server takes if that is more."""

ENDS: Final = frozenset({"404", "408"})
"""No messages; the request's time is over."""

ALIVE: Final = "100"


class Gap(Exception):
    """Deliveries are missing, or the JetStream consumer is gone: whoever pulls must begin anew."""


class Pull:
    """One consumer's messages."""

    def __init__(self, client: Client, inbox: str, subscription: Subscription, stream: str, consumer: str) -> None:
        self._client = client
        self._inbox = inbox
        self._subscription = subscription
        self._requests = 0
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._bytes_max = max(BATCH_BYTES_MAX, 2 * client.max_payload)

    async def fetch(self, most: int) -> list[Msg]:
        """At least one message and at most so many, or none within a second. Raises Gap."""
        got = await self._request(most, {"no_wait": True, "max_bytes": self._bytes_max}, ANSWER_S)
        if got:
            return got
        got = await self._request(1, {"expires": int(LINGER_S * 1e9)}, LINGER_S + ANSWER_S)
        if got and most > 1:
            # More may have come with the one that ended the wait.
            with suppress(Gap):
                got += await self._request(most - 1, {"no_wait": True, "max_bytes": self._bytes_max}, ANSWER_S)
        return got

    async def _request(self, batch: int, options: dict[str, Any], timeout_s: float) -> list[Msg]:
        got: list[Msg] = []
        # A reply subject for each request: a status that comes late belongs to a request that is over.
        self._requests += 1
        reply = f"{self._inbox}.{self._requests}"
        try:
            await self._client.publish(self._subject, json.dumps({"batch": batch, **options}).encode(), reply)
            while len(got) < batch:
                message = await self._subscription.next_msg(timeout_s)
                status = _status(message)
                if status is None:
                    got.append(message)
                elif message.subject != reply:
                    continue
                elif status[0] in ENDS or "MaxBytes" in status[1] or "Batch Completed" in status[1]:
                    break
                elif status[0] != ALIVE:
                    raise Gap(" ".join(status))
        except (nats.errors.Error, OSError) as error:
            if not got:
                raise Gap(repr(error)) from error
        except Gap:
            # What did come is good; the next request will say the same again.
            if not got:
                raise
        return got


@asynccontextmanager
async def pull(client: Client, stream: str, consumer: str) -> AsyncIterator[Pull]:
    """With an inbox of its own, so that nothing that an earlier pull asked for can arrive here."""
    inbox = client.new_inbox()
    subscription = await client.subscribe(f"{inbox}.*")
    try:
        yield Pull(client, inbox, subscription, stream, consumer)
    finally:
        with suppress(nats.errors.Error, OSError):
            await subscription.unsubscribe()


def _status(message: Msg) -> tuple[str, str] | None:
    if message.data or not message.headers or "Status" not in message.headers:
        return None
    return message.headers["Status"], message.headers.get("Description", "")
