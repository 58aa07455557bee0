"""What goes back: the envelope, for the caller (B017, B018) and for the document."""

import typing
from collections.abc import Mapping, Sequence
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec
from litestar import Response
from litestar.datastructures import ResponseHeader
from litestar.openapi.datastructures import ResponseSpec

from sendora.kernel import wire
from sendora.kernel.errors import Problem
from sendora.kernel.wire import Listed, Page, Pagination, Wire

T = TypeVar("T")


class Paged(msgspec.Struct, Generic[T], frozen=True):
    """One page of a list."""

    rows: Sequence[T]
    pagination: Pagination

    @classmethod
    def of(cls, listed: Listed[T], page: Page) -> "Paged[T]":
        return cls(listed.rows, page.pagination(listed.total))


class Reply(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """An answer whose status or headers depend on what happened; `status` None is the route's own."""

    data: T
    status: int | None = None
    headers: Mapping[str, str] = {}
    pagination: Pagination | None = None


class Envelope(Wire, Generic[T], frozen=True, kw_only=True):
    """What a success looks like, for the document (B017)."""

    success: Literal[True]
    data: T


class PagedEnvelope(Wire, Generic[T], frozen=True, kw_only=True):
    success: Literal[True]
    data: list[T]
    pagination: Pagination


class ErrorBody(Wire, frozen=True, kw_only=True):
    code: str
    message: str
    details: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class Failure(Wire, frozen=True, kw_only=True):
    """What every failure looks like, for the document (B018)."""

    success: Literal[False]
    error: ErrorBody


RATE_HEADERS: Final = (
    ResponseHeader(name="X-Request-ID", description="Names this request in our logs.", documentation_only=True),
    ResponseHeader(name="X-RateLimit-Limit", description="What the key's bucket holds.", documentation_only=True),
    ResponseHeader(
        name="X-RateLimit-Remaining",
        description="An estimate of what is left: processes lease tokens in slices.",
        documentation_only=True,
    ),
    ResponseHeader(
        name="X-RateLimit-Reset",
        description="When the bucket will be full again, in seconds since 1970.",
        documentation_only=True,
    ),
)


def response_of(result: Any, status: int) -> Response[bytes]:
    headers: Mapping[str, str] = {}
    if isinstance(result, Response):
        return result
    if isinstance(result, Paged):
        body = wire.success(result.rows, result.pagination)
    elif isinstance(result, Reply):
        body = wire.success(result.data, result.pagination)
        status = result.status or status
        headers = result.headers
    else:
        body = wire.success(result)
    return Response(body, status_code=status, media_type="application/json", headers=dict(headers))


def documented(result: Any) -> Any:
    """The envelope around what a handler says that it returns."""
    origin, inner = typing.get_origin(result), typing.get_args(result)
    if origin is Paged:
        return PagedEnvelope[inner[0]]  # type: ignore[valid-type]
    if origin is Reply:
        return Envelope[inner[0]]  # type: ignore[valid-type]
    if isinstance(result, type) and issubclass(result, Response):
        return Response[bytes]
    return Envelope[result]


def successes(answers: Mapping[int, Any]) -> dict[int, ResponseSpec]:
    """What a route answers under other statuses than its own, for the document."""
    return {
        status: ResponseSpec(documented(answer), description="Success", generate_examples=False)
        for status, answer in answers.items()
    }


def failures(raised: set[type[Problem]]) -> dict[int, ResponseSpec]:
    by_status: dict[int, set[str]] = {}
    for problem in raised:
        by_status.setdefault(problem.status, set()).add(problem.code)
    return {
        status: ResponseSpec(Failure, description=", ".join(sorted(codes)), generate_examples=False)
        for status, codes in sorted(by_status.items())
    }
