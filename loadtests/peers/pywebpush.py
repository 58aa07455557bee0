"""pywebpush, as its README says: one call of `webpush` for each subscription, under one open session.

What it does for each message: a key pair and the encryption (http_ece over OpenSSL), a VAPID signature, the headers.
"""

from collections.abc import Sequence
from typing import Any, Final

import requests
from py_vapid import Vapid
from pywebpush import webpush

TTL_S: Final = 3_600

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


def push(messages: Sequence[Message], pem: str, subject: str, session: requests.Session) -> None:
    """Raises WebPushException at the first that is not taken."""
    key = Vapid.from_pem(pem.encode())
    for subscription, data in messages:
        webpush(
            subscription,
            data,
            vapid_private_key=key,
            vapid_claims={"sub": subject},
            ttl=TTL_S,
            headers={"urgency": "normal"},
            requests_session=session,
        )
