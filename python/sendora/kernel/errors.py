"""What can go wrong for a caller: one class for each code of the catalogue.

A room raises a Problem; the HTTP rim turns it into the failure envelope (B017, B018). Nothing else becomes an answer:
any other exception is a fault of ours and ends as `INTERNAL`. A room may subclass a Problem to give it a name and a
message of its own, never to give a new meaning to a code. This file is free of IO, so that pure models can raise.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar


class Problem(Exception):
    """An answer that is not a success."""

    code: ClassVar[str]
    status: ClassVar[int]

    def __init__(
        self,
        message: str,
        details: Mapping[str, Any] | None = None,
        *,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = dict(details or {})
        self.retry_after = retry_after
        self.headers: dict[str, str] = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)


class ValidationFailed(Problem):
    """The body, the query or a path parameter is not what the route takes (B024). A field is a dotted path such as
    `variants.0.weight`; what concerns the body as a whole stands under `body`."""

    code = "VALIDATION_ERROR"
    status = 400

    def __init__(self, field_errors: Mapping[str, Sequence[str]], message: str = "The request is not valid.") -> None:
        self.field_errors: dict[str, list[str]] = {field: list(said) for field, said in field_errors.items()}
        super().__init__(message, {"fieldErrors": self.field_errors})


class Unauthorized(Problem):
    """No key, or one that is unknown, expired or revoked (B025): the same answer, so that nothing can be probed."""

    code = "UNAUTHORIZED"
    status = 401

    def __init__(self, message: str = "A valid API key is required.") -> None:
        super().__init__(message)


class TierRequired(Problem):
    """The plan does not include the route or the field (C12)."""

    code = "tier_required"
    status = 402

    def __init__(self, plan: str, message: str | None = None) -> None:
        super().__init__(
            message or f"This needs the {plan} plan.", {"requiredPlan": plan, "status": "PAYMENT_REQUIRED"}
        )


class ScopeRequired(Problem):
    """The key is valid and lacks the scope (B026, C12)."""

    code = "scope_required"
    status = 403

    def __init__(self, scope: str) -> None:
        super().__init__(f"This needs the scope {scope}.", {"requiredScope": scope, "status": "FORBIDDEN"})


class Forbidden(Problem):
    """The key is valid and its role does not reach (B026)."""

    code = "FORBIDDEN"
    status = 403

    def __init__(self, message: str = "Your role does not allow this.") -> None:
        super().__init__(message)


class NotFound(Problem):
    """Missing, or not yours: the same answer (B027, C03)."""

    code = "NOT_FOUND"
    status = 404

    def __init__(self, what: str = "Resource") -> None:
        super().__init__(f"{what} not found.")


class MethodNotAllowed(Problem):
    """The path is one of ours, the method is not."""

    code = "METHOD_NOT_ALLOWED"
    status = 405

    def __init__(self, message: str = "The method is not allowed here.", allow: Sequence[str] = ()) -> None:
        super().__init__(message, headers={"Allow": ", ".join(allow)} if allow else None)


class Conflict(Problem):
    """The request meets a state that excludes it (B028); `reason` is for programs."""

    code = "CONFLICT"
    status = 409

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message, {"reason": reason})


class PreconditionFailed(Problem):
    """Something must be configured first (B029). Raised before anything is counted or written (B030)."""

    code = "PRECONDITION_FAILED"
    status = 412

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message, {"reason": reason} if reason is not None else None)


class PayloadTooLarge(Problem):
    """Too many bytes, too many events, or more than the bucket could ever hold (C14, C94, C95)."""

    code = "PAYLOAD_TOO_LARGE"
    status = 413

    def __init__(self, message: str = "The request is too large.") -> None:
        super().__init__(message)


class RateLimited(Problem):
    """The key's bucket is empty; nothing was taken from it (B031, C95)."""

    code = "RATE_LIMIT"
    status = 429

    def __init__(self, retry_after: int = 1, message: str = "Too many requests.") -> None:
        super().__init__(message, retry_after=retry_after)


class QuotaExceeded(Problem):
    """A quota of the plan is used up (C13)."""

    code = "QUOTA_EXCEEDED"
    status = 429

    def __init__(self, metric: str, limit: int, used: int, resets_at: datetime) -> None:
        resets = resets_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        super().__init__(
            f"The quota of {limit} {metric} is used up.",
            {"metric": metric, "limit": limit, "used": used, "resetsAt": resets},
        )


class Internal(Problem):
    """A fault of ours. Nothing raises it: the HTTP rim answers with it when something else was raised."""

    code = "INTERNAL"
    status = 500

    def __init__(self, message: str = "Something went wrong on our side.") -> None:
        super().__init__(message)


class Unavailable(Problem):
    """A server that the request needs is away; the same request may succeed later (B032)."""

    code = "UNAVAILABLE"
    status = 503

    def __init__(self, retry_after: int = 1, message: str = "The service is temporarily unavailable.") -> None:
        super().__init__(message, retry_after=retry_after)


def problems() -> list[type[Problem]]:
    """The catalogue: every class of Problem that has been imported, rooms' own included, by status and code."""
    found: list[type[Problem]] = []
    queue: list[type[Problem]] = [Problem]
    while queue:
        children = queue.pop().__subclasses__()
        found += children
        queue += children
    return sorted(set(found), key=lambda problem: (problem.status, problem.code, problem.__name__))
