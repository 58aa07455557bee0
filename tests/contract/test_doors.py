"""Every door of every room: documented, in both URL forms, closed to strangers, and calm about hostile input.

The routes are read from the rooms themselves, so a new one is tested from its first day. What is asked of each: another
organisation's key sees nothing; no body, however broken, becomes a 500; and each failure is the documented envelope
(B017, B018, B019, B025, B027, C03).
"""

import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from tests.api import Answer, Api
from tests.make import Make

from sendora.app import MODULES, document
from sendora.kernel.errors import problems
from sendora.kernel.http.routes import BODY, NEEDS
from sendora.kernel.life import Kernel

HOSTILE = (
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"{}",
    b'{"name": NaN}',
    b'{"name": 1e999}',
    b'{"name": "\\u0000"}',
    b'{"name": "\\ud800"}',
    b'{"name": "\xff\xfe"}',
    b'{"a": 1, "a": 2}',
    b"[" * 5_000 + b"]" * 5_000,
    b'{"a":' * 40 + b"1" + b"}" * 40,
    b'{"unheardOf": true}',
    b'{"title": {"a": 1}, "userIds": "x", "rules": 7, "variants": 1, "token": [], "events": 3}',
    b'{"rules": {"all": [' + b'{"trait":"a","op":"eq","value":1},' * 2_000 + b'{"trait":"a","op":"eq","value":1}]}}',
    b'{"name": ' + b"9" * 400 + b"}",
)

QUERY = ("page", "pageSize", "status", "userId", "after", "audienceId", "projectId", "isActive", "externalId", "email")

ROUTES = [route for module in MODULES for route in module.routes]
PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")


def test_every_route_says_who_may_call_it_and_has_a_name() -> None:
    names = [route.operation_id for route in ROUTES]
    assert all(names), names
    assert all(NEEDS in route.opt for route in ROUTES)
    operations = [
        operation["operationId"]
        for path in document()["paths"].values()
        for method, operation in path.items()
        if method in ("get", "post", "put", "patch", "delete")
    ]
    assert len(operations) == len(set(operations))


@pytest.mark.rule("B025", "B018", "B019")
async def test_no_key_no_answer(everything: Api) -> None:
    for _, method, path in _routes():
        for key in (None, "sk_prod_nonsense", f"sk_prod_{'a' * 8}_{'b' * 38}"):
            answer = await everything.request(method, _fill(path), b"{}" if method != "GET" else None, key=key)
            assert (answer.status, answer.code) == (401, "UNAUTHORIZED"), (method, path, answer)
            assert answer.headers["x-request-id"]


@pytest.mark.rule("B027", "C03")
async def test_the_explicit_form_of_another_org_is_not_found(everything: Api, kernel: Kernel) -> None:
    ours, theirs = [await Make(kernel, everything).org() for _ in range(2)]
    for _, method, path in _routes():
        answer = await everything.request(
            method, _fill(path), b"{}" if method != "GET" else None, key=ours.sk, org=theirs.id
        )
        assert answer.status == 404, (method, path, answer)


@pytest.mark.rule("B014", "B026")
async def test_a_public_key_is_refused_by_scope(everything: Api, kernel: Kernel) -> None:
    org = await Make(kernel, everything).org()
    refused = 0
    for route, method, path in _routes():
        if not route.opt[NEEDS].public_key:
            answer = await everything.request(method, _fill(path), b"{}" if method != "GET" else None, key=org.pk)
            assert (answer.status, answer.code) == (403, "scope_required"), (method, path, answer)
            refused += 1
    assert refused > 30


@pytest.mark.rule("B024")
async def test_nothing_hostile_becomes_a_500(everything: Api, kernel: Kernel) -> None:
    org = await Make(kernel, everything).org()
    codes = {(problem.status, problem.code) for problem in problems()}
    for route, method, path in _routes():
        if route.opt.get(BODY) is None and method == "GET":
            continue
        for body in HOSTILE:
            answer = await everything.request(method, _fill(path), body, key=org.sk)
            _documented(answer, codes, (method, path, body[:80]))


@pytest.mark.rule("B024", "B027")
async def test_no_path_or_query_becomes_a_500(everything: Api, kernel: Kernel) -> None:
    org = await Make(kernel, everything).org()
    codes = {(problem.status, problem.code) for problem in problems()}
    strange = ("%00", "%ED%A0%80", "..%2f..", "a" * 3_000, "'%22;--", "%F0%9F%92%A9", "0", "-1", "null")
    for _, method, path in _routes():
        for text in strange:
            if PARAMETER.search(path):
                answer = await everything.request(method, PARAMETER.sub(text, path), b"{}", key=org.sk)
                _documented(answer, codes, (method, path, text))
            if method == "GET":
                query = "&".join(f"{name}={text}" for name in QUERY)
                answer = await everything.request(method, f"{_fill(path)}?{query}", key=org.sk)
                _documented(answer, codes, (method, path, text))


@pytest.mark.rule("B017", "B018")
async def test_unknown_paths_and_methods_answer_in_the_envelope(everything: Api, kernel: Kernel) -> None:
    org = await Make(kernel, everything).org()
    assert (await everything.get("/nothing/here", key=org.sk)).code == "NOT_FOUND"
    assert (await everything.put("/audiences", {}, key=org.sk)).status == 405


def _documented(answer: Answer, codes: set[tuple[int, str]], asked: Any) -> None:
    assert answer.status < 500, (asked, answer)
    if answer.status >= 400:
        assert (answer.status, answer.code) in codes, (asked, answer)
        if answer.status == 400:
            assert answer.fields, (asked, answer)


def _routes() -> Iterator[tuple[Any, str, str]]:
    """(handler, method, path below /api/v1)."""
    for route in ROUTES:
        for path in route.paths:
            for method in sorted(route.http_methods - {"OPTIONS", "HEAD"}):
                yield route, str(method), path


def _fill(path: str) -> str:
    return PARAMETER.sub(str(uuid4()), path)
