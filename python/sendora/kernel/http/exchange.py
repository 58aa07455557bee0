"""One request and what its answer carries besides the body: the request id (B019), the rate headers (C11), who asked.

The exchange travels in a context variable, so that a handler can take tokens without being handed the request, and so
that both doors (Litestar and the hot table) put the same headers on every answer.
"""

import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from random import getrandbits
from typing import Final

from sendora.kernel.http.principal import Principal
from sendora.kernel.life import Kernel
from sendora.kernel.limits import Grant

REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""A client's own id is kept if it is this tame; anything else could forge log lines or headers."""

EXPOSED: Final = (
    "X-Request-ID, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, Retry-After, X-Sendora-Position"
)
"""What a browser's script may read of an answer from another origin."""

Headers = list[tuple[str, str]]


def texts(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """ASGI's headers by their lower-case names. Of one that was sent twice the last counts."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}


class Exchange:
    """What is known of the request under way."""

    __slots__ = ("cross_origin", "given", "grant", "principal", "received", "request_id")

    def __init__(self, given: Mapping[str, str]) -> None:
        self.given = given
        self.cross_origin = "origin" in given
        self.principal: Principal | None = None
        self.grant: Grant | None = None
        self.received = 0
        """Bytes of the body, once it has been read."""
        theirs = given.get("x-request-id")
        # It names and guards nothing, so it need not be a secret: no system call for each request.
        self.request_id = theirs if theirs and REQUEST_ID.fullmatch(theirs) else f"{getrandbits(128):032x}"

    def headers(self, kernel: Kernel | None) -> Headers:
        """What goes onto the answer, whichever door it leaves by."""
        added: Headers = [("x-request-id", self.request_id)]
        if self.cross_origin:
            # Any origin: the key in the request is what counts, and without credentials mode no cookie ever comes along
            # (B252).
            added += (("access-control-allow-origin", "*"), ("access-control-expose-headers", EXPOSED))
        grant = self.grant
        if grant is None and self.principal is not None and kernel is not None:
            # Refused before a token was taken: the answer still says how the bucket stands.
            who = self.principal
            grant = kernel.limiter.peek(who.key_id, who.per_second, who.burst)
        if grant is not None:
            added += (
                ("x-ratelimit-limit", str(grant.limit)),
                ("x-ratelimit-remaining", str(grant.remaining)),
                ("x-ratelimit-reset", str(grant.reset_at)),
            )
        return added


_current: ContextVar[Exchange] = ContextVar("exchange")


def begin(exchange: Exchange) -> None:
    """Each request runs in a context of its own, so nothing needs to be put back."""
    _current.set(exchange)


def current() -> Exchange | None:
    return _current.get(None)


def received() -> int | None:
    """Bytes of the body of the request under way; None where there is no request."""
    exchange = current()
    return None if exchange is None else exchange.received


async def take(kernel: Kernel, principal: Principal, n: int = 1) -> Grant:
    """Take n tokens from the key's bucket, or raise RateLimited or PayloadTooLarge with nothing taken (C95).

    For the handlers that know n themselves (`limited=False` and hot routes): after every other check, since a 412 must
    consume nothing (B030, C87).
    """
    rate, burst = principal.per_second, principal.burst
    grant = kernel.limiter.spend(principal.key_id, n, rate, burst)
    if grant is None:
        grant = await kernel.limiter.take(principal.key_id, n, rate, burst)
    exchange = current()
    if exchange is not None:
        exchange.grant = grant
    return grant
