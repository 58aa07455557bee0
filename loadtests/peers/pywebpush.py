"""pywebpush, as its README says: one call of `webpush` for each subscription, under one open session.

What it does for each message: a key pair and the encryption (http_ece over OpenSSL), a VAPID signature, the headers,
and on the wire an HTTP/1.1 request. `push_async` is the fastest form that it offers: `WebPusher.send_async` on aiohttp
under a proof that was signed once. Threads do not help it, processes do as far as there are cores.
"""

import asyncio
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import aiohttp
import requests
from py_vapid import Vapid
from pywebpush import WebPusher, WebPushException, webpush

TTL_S: Final = 3_600
URGENCY: Final = {"urgency": "normal"}
PROOF_LIFE_S: Final = 12 * 3_600

AT_A_TIME: Final = 20
"""Messages under way of `push_async`, each on a connection of its own; with 5 it waits more, with 100 it is slower."""

Message = tuple[dict[str, Any], str]
"""A subscription as its browser gave it, and what it is sent."""


class Kept(requests.Session):
    """A session that hands no request to the network and answers 201, for the figure without a wire."""

    def __init__(self) -> None:
        super().__init__()
        self.last: tuple[dict[str, str], bytes] = {}, b""
        self._taken = requests.Response()
        self._taken.status_code = 201
        self._taken._content = b""

    def post(self, url: str | bytes, data: Any = None, json: Any = None, **more: Any) -> requests.Response:
        self.last = dict(more["headers"]), data
        return self._taken


def signer(pem: str) -> Vapid:
    return Vapid.from_pem(pem.encode())


def session(ca_file: str) -> requests.Session:
    """One that keeps its connection, and does without the environment's proxies and trust."""
    made = requests.Session()
    made.trust_env, made.verify = False, ca_file
    return made


def session_async(ca_file: str) -> aiohttp.ClientSession:
    trust = ssl.create_default_context(cafile=ca_file)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust))


def push(messages: Sequence[Message], key: Vapid, subject: str, session: requests.Session) -> None:
    """Raises WebPushException at the first that is not taken."""
    for subscription, data in messages:
        webpush(
            subscription,
            data,
            vapid_private_key=key,
            vapid_claims={"sub": subject},
            ttl=TTL_S,
            headers=URGENCY,
            requests_session=session,
        )


async def push_async(messages: Sequence[Message], headers: Mapping[str, str], session: aiohttp.ClientSession) -> None:
    """Raises WebPushException at the first that is not taken."""
    left = iter(messages)

    async def one_after_another() -> None:
        for subscription, data in left:
            pusher = WebPusher(subscription, aiohttp_session=session)
            answer = await pusher.send_async(data, headers, ttl=TTL_S, timeout=None)
            if answer.status not in (200, 201, 202):
                raise WebPushException(f"{answer.status}")

    await asyncio.gather(*(one_after_another() for _ in range(AT_A_TIME)))


def proven(key: Vapid, subject: str, origin: str) -> dict[str, str]:
    """The headers of every message to one push service: its proof lasts for half a day, as `webpush` has it."""
    claims = {"aud": origin, "sub": subject, "exp": int(time.time()) + PROOF_LIFE_S}
    return {**key.sign(claims), **URGENCY}
