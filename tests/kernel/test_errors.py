"""The catalogue of problems."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from sendora.kernel import errors, wire
from sendora.kernel.errors import Problem

RESETS = datetime(2026, 12, 1, tzinfo=UTC)

CATALOGUE: list[tuple[Problem, int, str, dict[str, Any]]] = [
    (
        errors.ValidationFailed({"title": ["Required"]}),
        400,
        "VALIDATION_ERROR",
        {"fieldErrors": {"title": ["Required"]}},
    ),
    (errors.Unauthorized(), 401, "UNAUTHORIZED", {}),
    (errors.TierRequired("growth"), 402, "tier_required", {"requiredPlan": "growth", "status": "PAYMENT_REQUIRED"}),
    (errors.ScopeRequired("push:write"), 403, "scope_required", {"requiredScope": "push:write", "status": "FORBIDDEN"}),
    (errors.Forbidden(), 403, "FORBIDDEN", {}),
    (errors.NotFound("Send"), 404, "NOT_FOUND", {}),
    (errors.MethodNotAllowed(allow=["GET"]), 405, "METHOD_NOT_ALLOWED", {}),
    (errors.Conflict("Taken.", "duplicate"), 409, "CONFLICT", {"reason": "duplicate"}),
    (errors.PreconditionFailed("No APNs key."), 412, "PRECONDITION_FAILED", {}),
    (errors.PayloadTooLarge(), 413, "PAYLOAD_TOO_LARGE", {}),
    (errors.RateLimited(3), 429, "RATE_LIMIT", {}),
    (
        errors.QuotaExceeded("events", 10_000, 10_001, RESETS),
        429,
        "QUOTA_EXCEEDED",
        {"metric": "events", "limit": 10_000, "used": 10_001, "resetsAt": "2026-12-01T00:00:00.000Z"},
    ),
    (errors.Internal(), 500, "INTERNAL", {}),
    (errors.Unavailable(), 503, "UNAVAILABLE", {}),
]


@pytest.mark.rule("B017", "B018", "B024", "B025", "B026", "B027", "B028", "B029", "B031", "C12", "C13", "C14")
@pytest.mark.parametrize(("problem", "status", "code", "details"), CATALOGUE, ids=lambda value: str(value)[:20])
def test_each_problem_has_its_status_code_and_details(
    problem: Problem, status: int, code: str, details: dict[str, Any]
) -> None:
    """B018, C12 to C14: the envelope of every failure."""
    assert problem.status == status
    answer = msgspec.json.decode(wire.failure(problem))
    error: dict[str, Any] = {"code": code, "message": problem.message}
    if details:
        error["details"] = details
    assert answer == {"success": False, "error": error}
    assert problem.message


def test_the_catalogue_is_complete() -> None:
    ours = [problem for problem in errors.problems() if problem.__module__ == errors.__name__]
    assert {type(problem) for problem, *_ in CATALOGUE} == set(ours)


def test_a_room_may_name_a_problem_but_not_change_a_code_s_status() -> None:
    meaning: dict[str, int] = {}
    for problem in errors.problems():
        assert meaning.setdefault(problem.code, problem.status) == problem.status


@pytest.mark.rule("B031", "B032")
def test_what_may_be_repeated_says_when() -> None:
    assert errors.RateLimited(3).headers == {"Retry-After": "3"}
    assert errors.Unavailable().headers == {"Retry-After": "1"}
    assert errors.NotFound().headers == {}
