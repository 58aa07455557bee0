"""The Door: what happens to a request before and after a handler. Its protocol is ASGI; `front` adds the server's own.

    Door      request id, preflight, the surface that the credential chooses, the hot table, headers of every answer
    Litestar  two routers with one list of handlers: /api/v1 and /api/v1/orgs/{org_id} (B002, C02)
    guard     401, then 403 and 402 by what the route declares, then 404 for somebody else's organisation; a key of
              several that names none is a 400 (C98), since nothing tells its plan
    handler   body 400, then what routes.py says

The kernel is opened in the lifespan of the app, so that a server's worker process opens it after it was forked.
"""

import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol
from urllib.parse import unquote_to_bytes

from litestar import Litestar, Request, Response, Router
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler

from sendora.kernel import wire
from sendora.kernel.errors import NotFound, Problem, ScopeRequired, Unauthorized, ValidationFailed
from sendora.kernel.http.assets import handlers as asset_handlers
from sendora.kernel.http.binding import Incoming
from sendora.kernel.http.body import read_body
from sendora.kernel.http.document import configuration, postman
from sendora.kernel.http.exchange import Exchange, Headers, begin, current, texts
from sendora.kernel.http.faults import problem_of
from sendora.kernel.http.health import handlers as health_handlers
from sendora.kernel.http.hot import Hot, HotRequest, HotResponse
from sendora.kernel.http.principal import Principal, act_for, authorise, require_tier
from sendora.kernel.http.routes import NEEDS, ORG, Handler
from sendora.kernel.life import Kernel
from sendora.kernel.metrics import Metrics

API: Final = "/api/v1"
ORGS: Final = "/api/v1/orgs/"

GC_THRESHOLD: Final = 50_000
"""Containers made between two looks of the collector. A request makes dozens and leaves no cycle behind, so CPython's
default of 700 means a look every few requests for nothing."""

KEY_MAX: Final = 256
"""Our keys are a fifth of this; a longer one is not worth a look-up."""

PREFLIGHT: Final[Headers] = [
    ("access-control-allow-origin", "*"),
    ("access-control-allow-methods", "GET, POST, PUT, PATCH, DELETE"),
    ("access-control-allow-headers", "x-api-key, content-type, idempotency-key, x-request-id"),
    # A day: what browsers cap it at or more. The answer never changes.
    ("access-control-max-age", "86400"),
]

Authenticate = Callable[[Kernel, str], Awaitable[Principal | None]]
"""Who holds this key; None if nobody does. Given by app.py: the kernel knows no table of keys."""

Meters = tuple[Callable[[float], None], Callable[[float], None]]
"""Counts an answer, and observes its seconds."""

Found = tuple[Hot, str | None]
"""A row of the hot table, and the organisation that the explicit form names."""

Open = Callable[[], AbstractAsyncContextManager[Kernel]]


class Room(Protocol):
    """What this file wants of a Module."""

    @property
    def name(self) -> str: ...
    @property
    def routes(self) -> Sequence[Any]: ...
    @property
    def hot(self) -> Sequence[Any]: ...


def build_app(open: Open, modules: Sequence[Room], authenticate: Authenticate) -> "Door":
    """The Sendora surface of these rooms, as an ASGI callable with lifespan."""
    routes: list[Handler] = [route for module in modules for route in module.routes]
    for route in routes:
        if NEEDS not in route.opt:
            raise TypeError(f"{route}: declare routes with the decorators of kernel.http, which say who may call them")
    hot = {(row.method, row.path): row for module in modules for row in module.hot}

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with open() as kernel:
            app.state.kernel = door.kernel = kernel
            # What is there now stays: the collector need not look at it again and again while requests come and go.
            gc.collect()
            gc.freeze()
            gc.set_threshold(GC_THRESHOLD)
            yield

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        needs = handler.opt.get(NEEDS)
        exchange = current()
        if needs is None or exchange is None:
            raise Unauthorized
        principal = await identify(connection.app.state.kernel, authenticate, exchange)
        authorise(principal, needs)
        acting = act_for(principal, connection.path_params.get(ORG))
        require_tier(acting or principal, needs.tier)
        if acting is None:
            raise NotFound("Organisation")
        exchange.principal = acting
        check_text(connection.scope["path"], connection.scope["query_string"])

    app = Litestar(
        route_handlers=[
            Router(path, route_handlers=module.routes, guards=[guard], tags=[module.name])
            for path in (API, f"{API}/orgs/{{{ORG}:str}}")
            for module in modules
            if module.routes
        ]
        + [
            *health_handlers(),
            postman,
            *asset_handlers(),
        ],
        lifespan=[lifespan],
        exception_handlers={HTTPException: _fail, Exception: _fail},
        request_class=Incoming,
        openapi_config=configuration(),
        # Logging is set up by the process, not by a library in it.
        logging_config=None,
    )
    door = Door(app, hot, authenticate)
    return door


class Door:
    """What every request meets first: an ASGI callable, and what `Front` asks when the server speaks RSGI."""

    def __init__(self, app: Litestar, hot: dict[tuple[str, str], Hot], authenticate: Authenticate) -> None:
        self.litestar = app
        self.kernel: Kernel | None = None
        self._hot = hot
        self._authenticate = authenticate
        self._metered: Metrics | None = None
        self._kept: dict[tuple[str, int], Meters] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.litestar(scope, receive, send)
            return
        exchange = Exchange(texts(scope["headers"]))
        if scope["method"] == "OPTIONS":
            await _send(send, HotResponse(204, b"", [*PREFLIGHT, ("x-request-id", exchange.request_id)]))
            return
        found = self.find(scope["method"], scope["path"])
        if found is None:
            await self._answer_cold(exchange, scope, receive, send)
        else:
            await _send(send, await self.answer_hot(found, exchange, scope["path"], scope["query_string"], receive))

    def find(self, method: str, path: str) -> Found | None:
        """The hot row of a request; None for whatever is Litestar's."""
        if method != "POST" or not path.startswith(API):
            return None
        if not path.startswith(ORGS):
            row = self._hot.get((method, path[len(API) :]))
            return None if row is None else (row, None)
        org, slash, rest = path[len(ORGS) :].partition("/")
        row = self._hot.get((method, slash + rest))
        return None if row is None else (row, org)

    async def answer_hot(self, found: Found, exchange: Exchange, path: str, query: bytes, receive: Any) -> HotResponse:
        """The whole answer with all of its headers, whatever a handler raises. `receive` is ASGI's."""
        began = time.perf_counter()
        begin(exchange)
        try:
            answered = await self._handle(found, exchange, path, query, receive)
        except Exception as error:
            problem = problem_of(error, exchange)
            answered = HotResponse(problem.status, wire.failure(problem), _said(problem))
        headers = [_JSON, *answered.headers, *exchange.headers(self.kernel)]
        self._count(API + found[0].path, answered.status, began)
        return HotResponse(answered.status, answered.body, headers)

    async def _handle(self, found: Found, exchange: Exchange, path: str, query: bytes, receive: Any) -> HotResponse:
        row, org = found
        kernel = self.kernel
        if kernel is None:
            raise RuntimeError("a request before the lifespan has begun")
        principal = await identify(kernel, self._authenticate, exchange)
        if row.scope is not None and row.scope not in principal.scopes:
            raise ScopeRequired(row.scope)
        acting = act_for(principal, org)
        if acting is None:
            raise NotFound("Organisation")
        exchange.principal = acting
        check_text(path, query)
        body = await read_body(exchange.given, receive, kernel.settings.http.max_body_bytes)
        exchange.received = len(body)
        return await row.handle(kernel, acting, HotRequest(body, query.decode("latin-1"), exchange.given))

    async def _answer_cold(self, exchange: Exchange, scope: Any, receive: Any, send: Any) -> None:
        began = time.perf_counter()
        begin(exchange)
        status: int | None = None

        async def answer(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_bytes(exchange.headers(self.kernel))]
            await send(message)

        try:
            await self.litestar(scope, receive, answer)
        except Exception as error:
            problem = problem_of(error, exchange)
            if status is None:
                await _send(answer, HotResponse(problem.status, wire.failure(problem), [_JSON, *_said(problem)]))
        # The template and not the path, which callers choose.
        self._count(scope.get("path_template", "unknown"), status or 0, began)

    def _count(self, route: str, status: int, began: float) -> None:
        if self.kernel is None:
            return
        if self._metered is not self.kernel.metrics:
            # Another kernel (tests open several) has metrics of its own.
            self._metered, self._kept = self.kernel.metrics, {}
        meters = self._kept.get((route, status))
        if meters is None:
            meters = self._kept[route, status] = (
                self._metered.counting("http_requests", route=route, status=status),
                self._metered.observing("http_seconds", route=route),
            )
        count, observe = meters
        count(1)
        observe(time.perf_counter() - began)


async def identify(kernel: Kernel, authenticate: Authenticate, exchange: Exchange) -> Principal:
    """The holder of the key, noted in the exchange; raises Unauthorized (B006, B025)."""
    key = exchange.given.get("x-api-key")
    if key is None and "authorization" in exchange.given:
        # The credential chooses the surface (C01). The only one here is Sendora's, which takes no bearer tokens.
        raise Unauthorized("Send the API key in the x-api-key header.")
    if not key or len(key) > KEY_MAX or not key.isascii():
        raise Unauthorized
    principal = await authenticate(kernel, key)
    if principal is None:
        raise Unauthorized
    exchange.principal = principal
    return principal


def check_text(path: str, query: bytes) -> None:
    """Path and query are text that PostgreSQL can hold: UTF-8 without U+0000, so without lone surrogates too."""
    if not query and path.isascii() and "\0" not in path:
        return
    for where, text in (("query", unquote_to_bytes(query) if b"%" in query else query), ("path", path)):
        try:
            raw = text.encode() if isinstance(text, str) else text
            decoded = raw.decode()
        except UnicodeError:
            raise ValidationFailed({where: ["Must be UTF-8"]}) from None
        # A server that meets bytes beyond UTF-8 in a path may hand on the replacement character in their place.
        if "\0" in decoded or (where == "path" and "�" in decoded):
            raise ValidationFailed({where: ["Must be UTF-8 without U+0000"]})


def _fail(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    exchange = current() or Exchange({})
    problem = problem_of(error, exchange)
    return Response(
        wire.failure(problem),
        status_code=problem.status,
        media_type="application/json",
        headers=problem.headers,
    )


_JSON: Final = ("content-type", "application/json")


def _said(problem: Problem) -> Headers:
    return [(name.lower(), value) for name, value in problem.headers.items()]


async def _send(send: Any, answer: HotResponse) -> None:
    headers = _bytes(answer.headers)
    if answer.body:
        headers.append((b"content-length", b"%d" % len(answer.body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def _bytes(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
