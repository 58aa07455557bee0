"""The hot table: the few routes that stand in front of Litestar.

A decorated Litestar handler costs several times what a bare ASGI callable does, and events come by the million. So
these routes are found by (method, path) in a dict and get the raw body. The same function is also mounted as an
ordinary handler: that puts it into the OpenAPI document, and both doors are tested against each other.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec
from litestar.handlers import HTTPRouteHandler

from sendora.kernel.http.principal import Principal
from sendora.kernel.life import Kernel


class HotRequest(msgspec.Struct, frozen=True):
    """What a hot function gets: nothing is parsed yet, but the body is complete and within its limit."""

    body: bytes
    query: str
    headers: Mapping[str, str]
    """By their lower-case names."""


class HotResponse(msgspec.Struct, frozen=True):
    """A finished answer: `body` is the whole envelope. The kernel adds request id, rate and CORS headers."""

    status: int
    body: bytes
    headers: Sequence[tuple[str, str]] = ()


HotHandle = Callable[[Kernel, Principal, HotRequest], Awaitable[HotResponse]]


class Hot(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the hot table. `path` is below /api/v1, e.g. "/events"; public keys may call it."""

    method: Literal["POST"]
    path: str
    handle: HotHandle
    scope: str | None


class HotRoute(NamedTuple):
    """Both forms of one function: `hot` for Module.hot, `handler` for Module.routes."""

    hot: Hot
    handler: HTTPRouteHandler
