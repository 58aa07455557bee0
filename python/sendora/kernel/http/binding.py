"""Between Litestar and a room's handler: what the handler takes, from where, and what happens just before it runs."""

import dataclasses
import functools
import hashlib
import inspect
import operator
import re
import types
import typing
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response
from litestar.dto import AbstractDTO
from litestar.enums import RequestEncodingType
from litestar.params import BodyKwarg, ParameterKwarg, PathParameter, QueryParameter
from litestar.types import Empty

from sendora.kernel import wire
from sendora.kernel.errors import Unauthorized, ValidationFailed
from sendora.kernel.http.body import read_body
from sendora.kernel.http.envelope import documented, response_of
from sendora.kernel.http.exchange import current, take, texts
from sendora.kernel.http.principal import Principal
from sendora.kernel.life import Kernel
from sendora.kernel.limits import Idempotency, Stored
from sendora.kernel.wire import Page

Function = Callable[..., Awaitable[Any]]

BODY: Final = "body"
"""Where a handler's body type stands in Litestar's `opt`; `bytes` for the body as it came."""

BOUNDS: Final = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length", "description")
"""What msgspec.Meta and Litestar's parameters call by the same names."""

IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
"""Visible ASCII; clients send UUIDs, mostly bare, by the draft in quotes."""


def endpoint_of(
    function: Function, path: str, status: int, limited: bool, idempotent: bool
) -> tuple[Callable[..., Awaitable[Any]], Any]:
    """The function that Litestar calls, under a signature that it can read, and the body's type."""
    hints = typing.get_type_hints(
        function,
        # A room may import these for type checkers only.
        globalns={"Kernel": Kernel, "Principal": Principal, "Page": Page, **getattr(function, "__globals__", {})},
        include_extras=True,
    )
    given = inspect.signature(function).parameters
    in_path = set(re.findall(r"{(\w+)", path))
    takes_kernel, takes_principal, takes_page = "kernel" in given, "principal" in given, "page" in given
    takes_request = "request" in given

    shown: dict[str, Any] = {"request": Request[Any, Any, Any]}
    defaults: dict[str, Any] = {}
    for name, parameter in given.items():
        if name in ("kernel", "principal", "page", "request"):
            continue
        if name == "data":
            shown[name] = body_of(hints[name])
        elif name in in_path:
            shown[name] = _path_of(hints[name])
        else:
            shown[name] = _query(name, hints[name])
        if parameter.default is not inspect.Parameter.empty:
            defaults[name] = parameter.default
    if takes_page:
        shown["page_number"] = Annotated[int | None, QueryParameter(name="page", description="From 1.")]
        size = QueryParameter(name="pageSize", description="1 to 100; 20 by default.")
        shown["page_size"] = Annotated[int | None, size]
        defaults |= {"page_number": None, "page_size": None}
    shown["return"] = documented(hints.get("return", Any))

    async def endpoint(request: Request[Any, Any, Any], **arguments: Any) -> Any:
        kernel, principal = who(request)
        if takes_page:
            arguments["page"] = Page.of(arguments.pop("page_number"), arguments.pop("page_size"))
        if takes_kernel:
            arguments["kernel"] = kernel
        if takes_principal:
            arguments["principal"] = principal
        if takes_request:
            arguments["request"] = request
        key = idempotency_key(request) if idempotent else None
        if limited:
            await take(kernel, principal)
        if key is None:
            return response_of(await function(**arguments), status)

        ran = False

        async def once() -> Stored:
            nonlocal ran
            ran = True
            made = response_of(await function(**arguments), status)
            return Stored(made.status_code or status, made.content)

        stored = await Idempotency(kernel.db).run(principal.org, key, await fingerprint(request), once)
        if not ran:
            kernel.metrics.count("idempotency_replayed")
        return Response(stored.body, status_code=stored.status, media_type="application/json")

    endpoint.__name__ = getattr(function, "__name__", "endpoint")
    endpoint.__module__ = function.__module__
    endpoint.__annotations__ = shown
    endpoint.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=hint,
                default=defaults.get(name, inspect.Parameter.empty),
            )
            for name, hint in shown.items()
            if name != "return"
        ],
        return_annotation=shown["return"],
    )
    return endpoint, hints.get("data")


def who(request: Request[Any, Any, Any]) -> tuple[Kernel, Principal]:
    exchange = current()
    if exchange is None or exchange.principal is None:
        raise Unauthorized
    return request.app.state.kernel, exchange.principal


def idempotency_key(request: Request[Any, Any, Any]) -> str | None:
    """The request's Idempotency-Key, bare or in quotes (C89)."""
    sent = request.headers.get("idempotency-key")
    if sent is None:
        return None
    key = sent.strip()
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not IDEMPOTENCY_KEY.fullmatch(key):
        raise ValidationFailed({"Idempotency-Key": ["Must be 1 to 255 visible ASCII characters"]})
    return key


async def fingerprint(request: Request[Any, Any, Any]) -> bytes:
    """What the request asks, in either form of its path (B002): two requests with one key must ask the same (C89)."""
    path = re.sub(r"^/api/v1/orgs/[^/]+/", "/api/v1/", request.scope["path"])
    asked = hashlib.sha256()
    for part in (request.method.encode(), path.encode(), request.scope["query_string"], await request.body()):
        asked.update(len(part).to_bytes(8, "big"))
        asked.update(part)
    return asked.digest()


class Incoming(Request[Any, Any, Any]):
    """Litestar's request, but the body is read by our rules."""

    async def body(self) -> bytes:
        if self._body is Empty:
            limit = self.app.state.kernel.settings.http.max_body_bytes
            self._body = await read_body(texts(self.scope["headers"]), self.receive, limit)
            if (exchange := current()) is not None:
                exchange.received = len(self._body)
        return self._body


class Body(AbstractDTO[Any]):
    """Litestar's seam for whoever wants to decode bodies himself: the bytes go through wire.decode, and the document
    still shows the handler's own type."""

    @classmethod
    def create_for_field_definition(cls, field_definition: Any, handler_id: str, backend_cls: Any = None) -> None:
        """There is no transfer model to prepare."""

    @classmethod
    def is_supported_model_type_field(cls, field_definition: Any) -> bool:
        return True

    @classmethod
    def generate_field_definitions(cls, model_type: Any) -> Any:
        return iter(())

    @classmethod
    def detect_nested_field(cls, field_definition: Any) -> bool:
        return False

    @classmethod
    def create_openapi_schema(cls, field_definition: Any, handler_id: str, schema_creator: Any) -> Any:
        return schema_creator.for_field_definition(field_definition)

    def decode_bytes(self, value: bytes) -> Any:
        wanted = self.asgi_connection.route_handler.opt[BODY]
        return value if wanted is bytes else wire.decode(value, wanted)


def body_of(hint: Any) -> Any:
    return Annotated[hint, BodyKwarg(media_type=RequestEncodingType.JSON)]


def _path_of(hint: Any) -> Any:
    return Annotated[hint, PathParameter()]


def _unwrapped(hint: Any) -> tuple[Any, ...]:
    """A hint and what it is annotated with, be it as a whole or a member of a union, as in `Annotated[..] | None`."""
    if typing.get_origin(hint) is Annotated:
        return typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [_unwrapped(member) for member in typing.get_args(hint)]
        bare = functools.reduce(operator.or_, (member for member, *_ in members))
        return bare, *(one for _, *more in members for one in more)
    return (hint,)


def _query(name: str, hint: Any) -> Any:
    """A query parameter is camelCase on the wire; a marker for a header or with a name of its own stays as it is."""
    first, *rest = name.split("_")
    wire_name = first + "".join(word.capitalize() for word in rest)
    inner, *extras = _unwrapped(hint)
    bounds: dict[str, Any] = {}
    for extra in extras:
        if isinstance(extra, msgspec.Meta):
            # Litestar reads bounds from its own marker only.
            bounds |= {bound: value for bound in BOUNDS if (value := getattr(extra, bound)) is not None}
        elif isinstance(extra, QueryParameter) and extra.name is None:
            return Annotated[inner, dataclasses.replace(extra, name=wire_name)]
        elif isinstance(extra, ParameterKwarg):
            return hint
    return Annotated[inner, QueryParameter(name=wire_name, **bounds)]
