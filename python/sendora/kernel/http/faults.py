"""What an exception means for the caller: every one becomes a Problem, and only a fault of ours becomes a 500
(B032)."""

import re
from typing import Any, Final

import structlog
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)

from sendora.kernel import bus, pg
from sendora.kernel.errors import (
    Internal,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    Problem,
    Unavailable,
    ValidationFailed,
)
from sendora.kernel.http.exchange import Exchange
from sendora.kernel.kv import KvAway

log: Final = structlog.get_logger(__name__)


def problem_of(error: Exception, exchange: Exchange) -> Problem:
    """The Problem that the caller hears of; what is not the caller's doing is logged under the request id."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException) and error.status_code < 500:
        return _of_litestar(error)
    about = {"request_id": exchange.request_id}
    if pg.is_away(error) or bus.is_away(error) or isinstance(error, KvAway):
        log.warning("server_away", **about, error=repr(error))
        return Unavailable()
    log.error("unexpected_error", **about, exc_info=error)
    return Internal()


def _of_litestar(error: HTTPException) -> Problem:
    if isinstance(error, NotFoundException):
        return NotFound("Route")
    if isinstance(error, MethodNotAllowedException):
        allow = (error.headers or {}).get("allow", "").split(", ")
        # Litestar lists a set, in the order of the process's own hashes.
        return MethodNotAllowed(allow=sorted(method for method in allow if method not in ("", "OPTIONS")))
    if error.status_code == 413:
        return PayloadTooLarge()
    if isinstance(error, ValidationException):
        return ValidationFailed(_field_errors(error.extra))
    return ValidationFailed({"request": [error.detail]})


def _field_errors(extra: Any) -> dict[str, list[str]]:
    """Litestar's list of {key, message, source} by field. Bodies never come here: wire.decode judges them."""
    errors: dict[str, list[str]] = {}
    for item in extra if isinstance(extra, list) else ():
        key = item.get("key") or "request"
        message = "A JSON body is required" if key == "data" else re.sub(r"`", "", item.get("message") or "Not valid")
        errors.setdefault("body" if key == "data" else _wire_name(key), []).append(message)
    return errors or {"request": ["Not valid"]}


def _wire_name(key: str) -> str:
    """Handlers speak snake_case, callers camelCase; `page_number` is what routes.py calls the query's `page`."""
    if key == "page_number":
        return "page"
    first, *rest = key.split("_")
    return first + "".join(word.capitalize() for word in rest)
