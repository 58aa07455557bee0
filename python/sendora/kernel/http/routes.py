"""How a room declares a route: the decorators, what a handler may take, and what it may give back.

    @post("/audiences", scope="audiences:write", status=201, operation="createAudience", summary="Save an audience")
    async def create(kernel: Kernel, principal: Principal, data: AudienceIn) -> Audience: ...

A handler takes by name, all optional: `kernel`, `principal`, `page` (a wire.Page, from `page` and `pageSize`, C88),
`request` (Litestar's), `data` (the body's type, decoded by wire.decode), the `{names}` of its path as str, and anything
else as a query parameter, snake_case here and camelCase on the wire. It returns what stands under `data` in the
envelope (a Wire struct, a list, a dict, None), a `Paged`, or a `Reply` when status or headers depend on what happened;
it raises Problems. The order of checks is C87: key, scope, role and tier before the body is looked at, the rate limit
last, just before the handler. A handler with checks of its own that must come before the limit (412, B030) says
`limited=False` and calls `take` itself.
"""

import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, cast

import litestar
from litestar import Request, Response
from litestar.handlers import HTTPRouteHandler

from sendora.kernel.errors import (
    Conflict,
    NotFound,
    PayloadTooLarge,
    Problem,
    RateLimited,
    ScopeRequired,
    TierRequired,
    Unauthorized,
    Unavailable,
    ValidationFailed,
)
from sendora.kernel.http.binding import BODY, Body, Function, body_of, endpoint_of, who
from sendora.kernel.http.envelope import RATE_HEADERS, Envelope, failures, successes
from sendora.kernel.http.exchange import texts
from sendora.kernel.http.hot import Hot, HotHandle, HotRequest, HotRoute
from sendora.kernel.http.principal import Plan, Requirement, Role

Handler = HTTPRouteHandler

NEEDS: Final = "needs"
"""Where a handler's requirement stands in Litestar's `opt`."""

ORG: Final = "org_id"
"""The path parameter of the explicit form (B002)."""

ALWAYS: Final[tuple[type[Problem], ...]] = (
    ValidationFailed,
    Unauthorized,
    ScopeRequired,
    NotFound,
    RateLimited,
    Unavailable,
)
"""What any route may answer."""


class _Declare(typing.Protocol):
    """The signature that the five decorators share."""

    def __call__(
        self,
        path: str,
        *,
        scope: str | None,
        tier: Plan = "free",
        role: Role | None = None,
        public_key: bool = False,
        status: int = 200,
        limited: bool = True,
        idempotent: bool = False,
        raises: Sequence[type[Problem]] = (),
        operation: str,
        summary: str,
    ) -> Callable[[Function], Handler]:
        """`scope` None: any valid key (of a kind that is allowed). `public_key`: pk may call it too (B009, B014).

        `limited`: take one token just before the handler. `idempotent`: honour Idempotency-Key (C89). `raises`:
        Problems beyond the usual ones, for the document. `operation`: the id in the document, unique.
        """


def _decorator(method: str) -> _Declare:
    make = getattr(litestar, method)

    def declare(
        path: str,
        *,
        scope: str | None,
        tier: Plan = "free",
        role: Role | None = None,
        public_key: bool = False,
        status: int = 200,
        limited: bool = True,
        idempotent: bool = False,
        raises: Sequence[type[Problem]] = (),
        operation: str,
        summary: str,
    ) -> Callable[[Function], Handler]:
        needs = Requirement(scope=scope, role=role, tier=tier, public_key=public_key)

        def wrap(function: Function) -> Handler:
            endpoint, body = endpoint_of(function, path, status, limited, idempotent)
            may_raise = {*ALWAYS, *raises}
            if tier != "free":
                may_raise.add(TierRequired)
            if body is not None:
                may_raise.add(PayloadTooLarge)
            if idempotent:
                may_raise.add(Conflict)
            return cast(
                Handler,
                make(
                    _litestar_path(path),
                    status_code=status,
                    opt={NEEDS: needs, BODY: body},
                    dto=None if body is None else Body,
                    return_dto=None,
                    operation_id=_operation_id(operation),
                    summary=summary,
                    description=inspect.getdoc(function),
                    response_headers=RATE_HEADERS,
                    responses=failures(may_raise),
                    sync_to_thread=None,
                )(endpoint),
            )

        return wrap

    return declare


get: Final = _decorator("get")
post: Final = _decorator("post")
put: Final = _decorator("put")
patch: Final = _decorator("patch")
delete: Final = _decorator("delete")


def hot_route(
    path: str,
    *,
    scope: str | None,
    body: Any,
    answer: Any,
    status: int = 200,
    also: Mapping[int, Any] = MappingProxyType({}),
    raises: Sequence[type[Problem]] = (),
    operation: str,
    summary: str,
) -> Callable[[HotHandle], HotRoute]:
    """Both doors of one function: `hot` for the table, `handler` for the document and for every odd spelling of the
    path.

    `body`, `answer` and `also` (what it answers under other statuses) are types for the document only: the function
    gets raw bytes and gives a whole envelope. Public keys may call it. It takes its tokens itself:
    `await take(kernel, principal, n)`.
    """

    def wrap(function: HotHandle) -> HotRoute:
        async def endpoint(request: Request[Any, Any, Any], data: Any) -> Any:
            kernel, principal = who(request)
            query = request.scope["query_string"].decode("latin-1")
            given = HotRequest(data, query, texts(request.scope["headers"]))
            answered = await function(kernel, principal, given)
            return Response(
                answered.body,
                status_code=answered.status,
                media_type="application/json",
                headers=dict(answered.headers),
            )

        endpoint.__doc__ = function.__doc__
        endpoint.__annotations__ = {
            "request": Request[Any, Any, Any],
            "data": body_of(body),
            "return": Envelope[answer],
        }
        handler = litestar.post(
            _litestar_path(path),
            status_code=status,
            opt={NEEDS: Requirement(scope=scope, public_key=True), BODY: bytes},
            dto=Body,
            return_dto=None,
            operation_id=_operation_id(operation),
            summary=summary,
            description=inspect.getdoc(function),
            response_headers=RATE_HEADERS,
            responses={**successes(also), **failures({*ALWAYS, PayloadTooLarge, *raises})},
        )(endpoint)
        return HotRoute(Hot(method="POST", path=path, handle=function, scope=scope), handler)

    return wrap


def _litestar_path(path: str) -> str:
    return re.sub(r"{(\w+)}", r"{\1:str}", path)


def _operation_id(operation: str) -> Any:
    """Both forms of a path are in the document, and ids must be unique in it."""

    def name(handler: Any, method: Any, components: Sequence[Any]) -> str:
        explicit = any(getattr(component, "name", None) == ORG for component in components)
        return f"{operation}InOrg" if explicit else operation

    return name
