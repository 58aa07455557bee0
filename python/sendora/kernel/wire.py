"""JSON on the wire: structs in and out, the envelope, pages.

Every answer is `{success, data?, pagination?, error?}` (B017, B018). Names are camelCase outside and snake_case inside;
the change happens once, on the base struct. A body is judged before it is decoded: `_core.check_json` refuses what
PostgreSQL could not store or two parsers would read differently (NaN, duplicate keys, lone surrogates, depth), and only
then msgspec decodes it into a struct. Whatever is wrong becomes `details.fieldErrors` with a dotted path (B024).
"""

import re
from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from sendora import _core
from sendora.kernel.errors import Problem, ValidationFailed

__all__ = [
    "UNSET",
    "Listed",
    "Page",
    "Pagination",
    "UnsetType",
    "Wire",
    "WireIn",
    "decode",
    "encode",
    "failure",
    "success",
]

PAGE_SIZE: Final = 20
PAGE_SIZE_MAX: Final = 100
"""C88."""

PAGE_NUMBER_MAX: Final = 100_000
"""The database walks over every row that a page skips, and offset must stay a 64-bit number; ten million rows deep is
further than anybody reads."""

BODY: Final = "body"
"""The field under which an error of the body as a whole stands."""

T = TypeVar("T")


class Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What crosses a door, or goes out on the wire."""


class WireIn(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request body: a field that we do not know is an error, not a silent nothing."""


class Pagination(Wire, frozen=True, kw_only=True):
    """C88."""

    page: int
    page_size: int
    total: int
    has_more: bool


class Page(msgspec.Struct, frozen=True):
    """Which part of a list is asked for; the first page is 1."""

    number: int = 1
    size: int = PAGE_SIZE

    @classmethod
    def of(cls, number: int | None, size: int | None) -> "Page":
        """From the query's `page` and `pageSize`; raises ValidationFailed out of bounds (C88)."""
        errors: dict[str, list[str]] = {}
        if number is not None and not 1 <= number <= PAGE_NUMBER_MAX:
            errors["page"] = [f"Must be between 1 and {PAGE_NUMBER_MAX}"]
        if size is not None and not 1 <= size <= PAGE_SIZE_MAX:
            errors["pageSize"] = [f"Must be between 1 and {PAGE_SIZE_MAX}"]
        if errors:
            raise ValidationFailed(errors)
        return cls(1 if number is None else number, PAGE_SIZE if size is None else size)

    @property
    def offset(self) -> int:
        return (self.number - 1) * self.size

    def pagination(self, total: int) -> Pagination:
        return Pagination(page=self.number, page_size=self.size, total=total, has_more=self.offset + self.size < total)


class Listed(msgspec.Struct, Generic[T], frozen=True):
    """One page of rows, and how many there are in all."""

    rows: Sequence[T]
    total: int


def decode(body: bytes, type_: type[T]) -> T:
    """Judge and decode a request body; raises ValidationFailed."""
    judged = _core.check_json(body)
    if judged is not None:
        path, message = judged
        raise ValidationFailed({path or BODY: [message]})
    try:
        return msgspec.json.decode(body, type=type_)
    except msgspec.ValidationError as error:
        raise ValidationFailed(_field_errors(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Not reached while check_json is at least as strict as msgspec; if they ever differ, the caller still gets a
        # 400.
        raise ValidationFailed({BODY: ["Malformed JSON"]}) from None


def encode(value: object) -> bytes:
    return _encoder.encode(value)


def success(data: object, pagination: Pagination | None = None) -> bytes:
    return _encoder.encode(_Success(data=data, pagination=UNSET if pagination is None else pagination))


def failure(problem: Problem) -> bytes:
    return _encoder.encode(
        _Failure(
            error=_Error(code=problem.code, message=problem.message, details=problem.details or UNSET),
        )
    )


class _Success(Wire, frozen=True, kw_only=True):
    success: bool = True
    data: Any
    pagination: Pagination | UnsetType = UNSET


class _Error(Wire, frozen=True, kw_only=True):
    code: str
    message: str
    details: dict[str, Any] | UnsetType


class _Failure(Wire, frozen=True, kw_only=True):
    success: bool = False
    error: _Error


_encoder: Final = msgspec.json.Encoder()

_LOCATED: Final = re.compile(r"(?P<message>.*?)(?: - at `(?P<key>key in )?\$(?P<path>.*)`)?", re.DOTALL)
_STEP: Final = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+)\]|\[\.\.\.\]")
_MISSING: Final = re.compile(r"Object missing required field `(?P<field>[^`]*)`")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<field>.*)`", re.DOTALL)

_JSON_NAMES: Final = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "uuid": "UUID"}
"""msgspec speaks Python; callers speak JSON."""


def _field_errors(said: str) -> dict[str, list[str]]:
    """msgspec's one sentence as a field and a message: "Expected `int`, got `str` - at `$.variants[0].weight`"."""
    match = _LOCATED.fullmatch(said)
    message, path = (said, "") if match is None else (match["message"], match["path"] or "")
    steps = [step["name"] or step["index"] or "*" for step in _STEP.finditer(path)]
    if missing := _MISSING.fullmatch(message):
        steps.append(missing["field"])
        message = "Required"
    elif unknown := _UNKNOWN.fullmatch(message):
        steps.append(unknown["field"])
        message = "Unknown field"
    else:
        message = re.sub(r"`(\w+)`", lambda name: _JSON_NAMES.get(name[1], name[1]), message).replace("`", "")
    return {".".join(steps) or BODY: [message]}
