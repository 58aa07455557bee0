"""What every route inherits: keys, scopes, tiers, bodies, envelopes, headers, both forms of a path, the document.

A room is made up here and served in-process by the real callable, over real servers.
"""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import asyncpg
import httpx
import msgspec
import pytest
from litestar import Request
from litestar.params import HeaderParameter, QueryParameter

from sendora.kernel.errors import (
    Conflict,
    NotFound,
    PreconditionFailed,
    ValidationFailed,
)
from sendora.kernel.http import (
    HotRequest,
    HotResponse,
    Paged,
    Principal,
    Reply,
    build_app,
    delete,
    get,
    hot_route,
    post,
    put,
    require_tier,
    take,
)
from sendora.kernel.http.app import GC_THRESHOLD, Door
from sendora.kernel.ids import KeyId, OrgId, ProjectId, new_id, parse_id
from sendora.kernel.life import Kernel
from sendora.kernel.wire import UNSET, Listed, Page, UnsetType, Wire, WireIn, success

ORG = OrgId(new_id())
ELSEWHERE = new_id()


class ThingIn(WireIn, frozen=True, kw_only=True):
    display_name: Annotated[str, msgspec.Meta(min_length=1, max_length=20)]
    weights: Sequence[int] = ()
    premium: bool = False
    note: str | UnsetType | None = UNSET


class Thing(Wire, frozen=True, kw_only=True):
    id: str
    display_name: str


runs = 0


@post("/things", scope="things:write", status=201, operation="createThing", summary="Make a thing", idempotent=True)
async def create(kernel: Kernel, principal: Principal, data: ThingIn) -> Thing:
    """A thing like any other."""
    global runs
    runs += 1
    if data.premium:
        require_tier(principal, "business")
    return Thing(id=str(runs), display_name=data.display_name)


@get("/things", scope="things:read", operation="listThings", summary="All things")
async def list_things(
    page: Page,
    sort_by: Literal["name", "age"] = "name",
    min_age: Annotated[int, QueryParameter(ge=0)] = 0,
    max_age: Annotated[int, msgspec.Meta(le=99)] = 9,
    of_kind: Annotated[str, msgspec.Meta(max_length=5)] | None = None,
    mood: Annotated[str, HeaderParameter(name="x-mood")] = "good",
) -> Paged[Thing]:
    rows = [Thing(id=str(n), display_name=f"{sort_by} {min_age} {max_age} {mood}") for n in range(page.size)]
    return Paged.of(Listed(rows, 45), page)


@get("/things/{thing_id}", scope="things:read", public_key=True, operation="getThing", summary="One thing")
async def one(thing_id: str) -> Thing:
    if parse_id(thing_id) is None:
        raise NotFound("Thing")
    return Thing(id=thing_id, display_name="found")


@put("/things/{thing_id}", scope="things:write", operation="putThing", summary="Upsert")
async def upsert(thing_id: str, data: ThingIn) -> Reply[Thing]:
    made = thing_id == "new"
    return Reply(
        data=Thing(id=thing_id, display_name=data.display_name), status=201 if made else 200, headers={"ETag": "x"}
    )


@delete("/things/{thing_id}", scope="things:write", role="ADMIN", operation="deleteThing", summary="Gone")
async def remove(thing_id: str) -> None:
    return None


@post(
    "/things/send",
    scope="things:send",
    operation="sendThing",
    summary="412",
    limited=False,
    raises=(PreconditionFailed,),
)
async def send(kernel: Kernel, principal: Principal, request: Request[Any, Any, Any]) -> dict[str, bool]:
    if "x-ready" not in request.headers:
        raise PreconditionFailed("Configure a provider first.")
    await take(kernel, principal)
    return {"sent": True}


@get("/things/paid", scope="things:read", tier="growth", operation="paid", summary="402")
async def paid() -> dict[str, bool]:
    return {"paid": True}


@get("/things/any", scope=None, operation="anySecret", summary="Secret keys only, no scope")
async def any_secret() -> dict[str, bool]:
    return {"ok": True}


@get("/things/broken/{how}", scope=None, operation="broken", summary="Faults")
async def broken(how: str) -> dict[str, bool]:
    if how == "fault":
        raise RuntimeError("a secret inside")
    if how == "postgres":
        raise asyncpg.ConnectionDoesNotExistError("gone")
    raise Conflict("Taken.", "taken")


@hot_route("/beats", scope="things:write", body=ThingIn, answer=Thing, status=201, operation="beat", summary="Hot")
async def beat(kernel: Kernel, principal: Principal, request: HotRequest) -> HotResponse:
    """The body counts its own tokens."""
    if not request.body:
        raise ValidationFailed({"body": ["Empty"]})
    await take(kernel, principal, len(request.body))
    return HotResponse(201, success({"size": len(request.body)}), [("x-sendora-position", "0-1")])


class Room(msgspec.Struct):
    name: str = "things"
    routes: Sequence[Any] = (create, list_things, one, upsert, remove, send, paid, any_secret, broken, beat.handler)
    hot: Sequence[Any] = (beat.hot,)


def principal(**changes: Any) -> Principal:
    default = Principal(
        org=ORG,
        project=ProjectId(new_id()),
        key_id=KeyId(new_id()),
        prefix="sk_prod_x",
        kind="sk",
        environment="prod",
        scopes=frozenset({"things:read", "things:write", "things:send"}),
        role="ADMIN",
        plan="starter",
        per_second=1_000,
        burst=5_000,
    )
    return msgspec.structs.replace(default, **changes)


KEYS = {
    "sk": principal(),
    "pk": principal(kind="pk", role=None, scopes=frozenset({"things:read", "things:write"})),
    "reader": principal(scopes=frozenset({"things:read"})),
    "editor": principal(role="EDITOR"),
    "business": principal(plan="business"),
}


async def authenticate(kernel: Kernel, key: str) -> Principal | None:
    found = KEYS.get(key.partition(":")[0])
    if found is None:
        return None
    if ":" in key:
        # A bucket of its own: "sk:10" is the key with a burst of ten and next to no rate.
        burst = int(key.rpartition(":")[2])
        return msgspec.structs.replace(found, key_id=_bucket_of(key), per_second=1, burst=burst)
    return found


_buckets: dict[str, KeyId] = {}


def _bucket_of(key: str) -> KeyId:
    return _buckets.setdefault(key, KeyId(new_id()))


@asynccontextmanager
async def alive(app: Door) -> AsyncIterator[None]:
    """The ASGI lifespan, as Granian runs it."""
    said: asyncio.Queue[Any] = asyncio.Queue()
    heard: asyncio.Queue[Any] = asyncio.Queue()
    serving = asyncio.create_task(
        app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, said.get, heard.put)
    )
    await said.put({"type": "lifespan.startup"})
    assert (await heard.get())["type"] == "lifespan.startup.complete"
    try:
        yield
    finally:
        await said.put({"type": "lifespan.shutdown"})
        assert (await heard.get())["type"] == "lifespan.shutdown.complete"
        await serving


@pytest.fixture(scope="module")
async def app(kernel: Kernel) -> AsyncIterator[Door]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Kernel]:
        yield kernel

    built = build_app(opened, [Room()], authenticate)
    async with alive(built):
        yield built


@pytest.fixture(scope="module")
async def api(app: Door) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://sendora.test/api/v1") as client:
        yield client


def by(key: str) -> dict[str, str]:
    return {"x-api-key": key}


def error_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    body = answer.json()
    assert (answer.status_code, body["success"], body["error"]["code"]) == (status, False, code), body
    assert answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = body["error"].get("details", {})
    return found


GOOD = {"displayName": "a"}


# -- the envelope ----------------------------------------------------------------------------------------------------


async def test_success_and_pages(api: httpx.AsyncClient) -> None:
    """B017, B023, C10, C88: data under `data`, 201 for what was made, pages from 1 of 20."""
    made = await api.post("/things", json=GOOD, headers=by("sk"))
    assert made.status_code == 201
    assert made.json()["success"] is True
    assert made.json()["data"]["displayName"] == "a"
    listed = (await api.get("/things?page=2&sortBy=age&minAge=3", headers={**by("sk"), "x-mood": "bad"})).json()
    assert listed["pagination"] == {"page": 2, "pageSize": 20, "total": 45, "hasMore": True}
    assert listed["data"][0] == {"id": "0", "displayName": "age 3 9 bad"}
    last = (await api.get("/things?page=3", headers=by("sk"))).json()
    assert last["pagination"]["hasMore"] is False
    replied = await api.put("/things/new", json=GOOD, headers=by("sk"))
    assert (replied.status_code, replied.headers["etag"]) == (201, "x")
    assert (await api.put("/things/old", json=GOOD, headers=by("sk"))).status_code == 200
    gone = await api.delete("/things/old", headers=by("sk"))
    assert (gone.status_code, gone.json()["success"]) == (200, True)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("page=0", "page"),
        ("page=-1", "page"),
        ("page=x", "page"),
        ("page=99999999999999999999999999", "page"),
        ("pageSize=101", "pageSize"),
        ("pageSize=0", "pageSize"),
        ("pageSize=1.5", "pageSize"),
        ("sortBy=size", "sortBy"),
        ("minAge=-1", "minAge"),
        ("minAge=", "minAge"),
        ("maxAge=100", "maxAge"),
        ("ofKind=sixsix", "ofKind"),
        ("sortBy=%00", "query"),
        ("sortBy=%ff", "query"),
        ("sortBy=%ed%a0%80", "query"),
    ],
)
async def test_a_query_that_is_not_valid(api: httpx.AsyncClient, query: str, field: str) -> None:
    """B024, C88: 400, and the field as the caller wrote it."""
    details = error_of(await api.get(f"/things?{query}", headers=by("sk")), 400, "VALIDATION_ERROR")
    assert field in details["fieldErrors"], details


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"null", "body"),
        (b"[]", "body"),
        (b'"text"', "body"),
        (b'{"displayName": 1}', "displayName"),
        (b'{"displayName": ""}', "displayName"),
        (b"{}", "displayName"),
        (b'{"displayName": "a", "weights": [1, "x"]}', "weights.1"),
        (b'{"displayName": "a", "surprise": 1}', "surprise"),
        (b'{"displayName": "a", "displayName": "b"}', "displayName"),
        (b'{"displayName": "\\u0000"}', "displayName"),
        (b'{"displayName": "\\ud800"}', "displayName"),
        (b'{"displayName": "\xff"}', None),
        (b'{"displayName": "a", "weights": [1e999]}', None),
        (b'{"displayName": "a", "weights": ' + b"[" * 40_000 + b"]" * 40_000 + b"}", None),
        (b"displayName=a", "body"),
        ("{}".encode("utf-16"), None),
    ],
)
async def test_a_body_that_is_not_valid(api: httpx.AsyncClient, body: bytes, field: str | None) -> None:
    """B024, reliability.md 3.7: 400 with the field, whatever the bytes are; both doors read the same."""
    details = error_of(await api.post("/things", content=body, headers=by("sk")), 400, "VALIDATION_ERROR")
    if field is not None:
        assert field in details["fieldErrors"], details


async def test_unknown_paths_and_methods(api: httpx.AsyncClient) -> None:
    """Every failure has the envelope, also where no route is."""
    error_of(await api.get("/nothing/here", headers=by("sk")), 404, "NOT_FOUND")
    error_of(await api.get("/../../etc/passwd"), 404, "NOT_FOUND")
    refused = await api.patch("/things", json={}, headers=by("sk"))
    error_of(refused, 405, "METHOD_NOT_ALLOWED")
    assert sorted(refused.headers["allow"].split(", ")) == ["GET", "POST"]
    error_of(await api.get("/beats", headers=by("sk")), 405, "METHOD_NOT_ALLOWED")


async def test_what_is_not_an_id_is_not_found(api: httpx.AsyncClient) -> None:
    """B027."""
    for path in ("/things/x", "/things/%F0%9F%98%80", "/things/" + "a" * 5_000):
        error_of(await api.get(path, headers=by("sk")), 404, "NOT_FOUND")
    error_of(await api.get("/things/a%00b", headers=by("sk")), 400, "VALIDATION_ERROR")


async def test_faults_and_absent_servers(api: httpx.AsyncClient) -> None:
    """B032: ours is a 500 that tells nothing; a server that is away is 503 with Retry-After."""
    fault = await api.get("/things/broken/fault", headers=by("sk"))
    error_of(fault, 500, "INTERNAL")
    assert "secret" not in fault.text
    away = await api.get("/things/broken/postgres", headers=by("sk"))
    error_of(away, 503, "UNAVAILABLE")
    assert away.headers["retry-after"] == "1"
    assert error_of(await api.get("/things/broken/x", headers=by("sk")), 409, "CONFLICT") == {"reason": "taken"}


# -- who may -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", ["/things", "/beats", "/beats/"])
async def test_without_a_good_key(api: httpx.AsyncClient, door: str) -> None:
    """B006, B025: one answer for every kind of bad key, before anything else is looked at."""
    for headers in (
        {},
        {"x-api-key": ""},
        {"x-api-key": "wrong"},
        {"x-api-key": "a" * 10_000},
        {"authorization": "Bearer sok_live_x"},
        {"authorization": "Bearer sk"},
    ):
        error_of(await api.post(door, content=b"{", headers=headers), 401, "UNAUTHORIZED")
    for raw in ("sk\u00e9".encode("latin-1"), b"\xff\xfe"):
        error_of(await api.post(door, content=b"{", headers=[(b"x-api-key", raw)]), 401, "UNAUTHORIZED")


async def test_scopes(api: httpx.AsyncClient) -> None:
    """B009, B014, B026, C12, C19: by scope, also where a route only wants a secret key."""
    details = error_of(await api.post("/things", json=GOOD, headers=by("reader")), 403, "scope_required")
    assert details["requiredScope"] == "things:write"
    error_of(await api.post("/beats", json=GOOD, headers=by("reader")), 403, "scope_required")
    error_of(await api.post("/beats/", json=GOOD, headers=by("reader")), 403, "scope_required")
    error_of(await api.get("/things", headers=by("pk")), 403, "scope_required")
    error_of(await api.get("/things/any", headers=by("pk")), 403, "scope_required")
    error_of(await api.post("/things/send", headers=by("pk")), 403, "scope_required")
    assert (await api.get(f"/things/{new_id()}", headers=by("pk"))).status_code == 200
    assert (await api.get("/things/any", headers=by("reader"))).status_code == 200


async def test_roles(api: httpx.AsyncClient) -> None:
    """B026, C21: a role that does not reach is FORBIDDEN."""
    error_of(await api.delete("/things/x", headers=by("editor")), 403, "FORBIDDEN")
    assert (await api.delete("/things/x", headers=by("sk"))).status_code == 200


async def test_tiers(api: httpx.AsyncClient) -> None:
    """B038, C12: 402 of the route before the body, of a field after it."""
    details = error_of(await api.get("/things/paid", headers=by("sk")), 402, "tier_required")
    assert details["requiredPlan"] == "growth"
    assert (await api.get("/things/paid", headers=by("business"))).status_code == 200
    premium = {**GOOD, "premium": True}
    assert error_of(await api.post("/things", json=premium, headers=by("sk")), 402, "tier_required")
    assert (await api.post("/things", json=premium, headers=by("business"))).status_code == 201


async def test_the_order_of_checks(api: httpx.AsyncClient) -> None:
    """C87: 401, 403, 402 before the body; 400 before the limit; 412 takes nothing (B030)."""
    error_of(await api.post("/things", content=b"{", headers=by("wrong")), 401, "UNAUTHORIZED")
    error_of(await api.post("/things", content=b"{", headers=by("reader")), 403, "scope_required")
    empty = by("sk:1")
    assert (await api.post("/things", json=GOOD, headers=empty)).status_code == 201
    error_of(await api.post("/things", content=b"{", headers=empty), 400, "VALIDATION_ERROR")
    error_of(await api.post("/things", json=GOOD, headers=empty), 429, "RATE_LIMIT")
    error_of(await api.post("/things/send", headers=empty), 412, "PRECONDITION_FAILED")
    unspent = by("sk:2")
    for _ in range(5):
        error_of(await api.post("/things/send", headers=unspent), 412, "PRECONDITION_FAILED")
    ready = {**unspent, "x-ready": "1"}
    assert (await api.post("/things/send", headers=ready)).status_code == 200
    assert (await api.post("/things/send", headers=ready)).status_code == 200
    error_of(await api.post("/things/send", headers=ready), 429, "RATE_LIMIT")


async def test_both_forms_of_a_path(api: httpx.AsyncClient) -> None:
    """B002, C02, C03: the explicit form is the same route; another org does not exist."""
    for form in (f"/orgs/{ORG}/things", f"/orgs/{ORG}/beats", f"/orgs/{ORG}/beats/"):
        assert (await api.post(form, json=GOOD, headers=by("sk"))).status_code == 201
    for org in (ELSEWHERE, "nonsense", f"{{{ORG}}}", ORG.hex):
        for door in ("things", "beats", "beats/"):
            error_of(await api.post(f"/orgs/{org}/{door}", json=GOOD, headers=by("sk")), 404, "NOT_FOUND")
            error_of(await api.post(f"/orgs/{org}/{door}", json=GOOD, headers=by("wrong")), 401, "UNAUTHORIZED")


# -- headers -----------------------------------------------------------------------------------------------------------


async def test_request_ids(api: httpx.AsyncClient) -> None:
    """B019: a tame id is kept, any other replaced, and there always is one."""
    for door in ("/things", "/beats"):
        kept = await api.post(door, json=GOOD, headers={**by("sk"), "x-request-id": "my-id_1.2"})
        assert kept.headers["x-request-id"] == "my-id_1.2"
        assert kept.headers.get_list("x-request-id") == ["my-id_1.2"]
        for wild in ("", "a b", "x" * 65, 'x"y', "a;b"):
            made = (await api.post(door, json=GOOD, headers={**by("sk"), "x-request-id": wild})).headers["x-request-id"]
            assert made != wild
            assert len(made) == 32


async def test_rate_headers(api: httpx.AsyncClient) -> None:
    """B031, C11, C95: on successes and refusals of both doors; n more than the bucket could hold is 413."""
    headers = by("sk:40")
    first = await api.post("/things", json=GOOD, headers=headers)
    assert (first.headers["x-ratelimit-limit"], first.headers["x-ratelimit-remaining"]) == ("40", "39")
    assert int(first.headers["x-ratelimit-reset"]) > 1_700_000_000
    hot = await api.post("/beats", content=b"x" * 30, headers=headers)
    assert hot.headers["x-ratelimit-remaining"] == "9"
    assert hot.headers["x-sendora-position"] == "0-1"
    empty = await api.post("/beats", content=b"x" * 12, headers=headers)
    error_of(empty, 429, "RATE_LIMIT")
    assert int(empty.headers["retry-after"]) >= 1
    assert empty.headers["x-ratelimit-limit"] == "40"
    error_of(await api.post("/beats", content=b"x" * 41, headers=headers), 413, "PAYLOAD_TOO_LARGE")
    bad = await api.post("/things", content=b"{", headers=headers)
    assert (bad.status_code, bad.headers["x-ratelimit-limit"]) == (400, "40")


async def test_cors(api: httpx.AsyncClient) -> None:
    """B252: a browser of any origin may call with a key, never with cookies."""
    asked = {
        "origin": "https://shop.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "x-api-key,content-type",
    }
    for path in ("/things", "/beats", "/push/track-open"):
        preflight = await api.options(path, headers=asked)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == "*"
        assert "x-api-key" in preflight.headers["access-control-allow-headers"]
        assert "content-type" in preflight.headers["access-control-allow-headers"]
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "access-control-allow-credentials" not in preflight.headers
    for path, key in (("/things", "sk"), ("/beats", "sk"), ("/beats", "wrong"), ("/things", "wrong")):
        answer = await api.post(path, json=GOOD, headers={**by(key), "origin": "https://shop.example"})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers
    assert "access-control-allow-origin" not in (await api.post("/things", json=GOOD, headers=by("sk"))).headers


# -- bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", ["/things", "/beats", "/beats/"])
async def test_large_bodies(app: Door, api: httpx.AsyncClient, kernel: Kernel, door: str) -> None:
    """C14: 413 by the declared length without a byte read, or as soon as too many have come."""
    limit = kernel.settings.http.max_body_bytes
    status, _, asked = await raw(app, door, [(b"content-length", str(limit + 1).encode())], [b"x"])
    assert (status, asked) == (413, 0)
    part = b"x" * 65_536
    status, body, asked = await raw(app, door, [], [part] * 1_000)
    assert (status, asked) == (413, limit // len(part) + 1)
    assert json.loads(body)["error"]["code"] == "PAYLOAD_TOO_LARGE"
    for nonsense in (b"-1", b"x", b"1e3", b""):
        status, _, _ = await raw(app, door, [(b"content-length", nonsense)], [b"{}"])
        assert status == 400
    status, _, _ = await raw(app, door, [(b"content-length", b"9" * 5_000)], [b"{}"])
    assert status == 413
    just = json.dumps({"displayName": "a", "weights": [1] * 10}).encode()
    status, _, _ = await raw(app, door, [(b"content-length", str(len(just)).encode())], [just[:5], just[5:]])
    assert status == 201


@pytest.mark.parametrize("door", ["/things", "/beats"])
async def test_codings_and_cut_bodies(app: Door, api: httpx.AsyncClient, door: str) -> None:
    """reliability.md 3.7: nothing is unpacked, so nothing swells; a body that breaks off is no body."""
    for coding in (b"gzip", b"br", b"deflate, gzip", b"zstd"):
        status, body, asked = await raw(app, door, [(b"content-encoding", coding)], [b"x"])
        assert (status, asked) == (400, 0)
        assert "Content-Encoding" in json.loads(body)["error"]["details"]["fieldErrors"]
    status, _, _ = await raw(app, door, [(b"content-encoding", b"identity")], [b'{"displayName":"a"}'])
    assert status == 201
    status, _, _ = await raw(app, door, [], [b"{", None])
    assert status == 400


async def test_slow_bodies(app: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that trickles is refused at its deadline, at both doors."""
    monkeypatch.setattr("sendora.kernel.http.body.READ_S", 0.05)
    for door in ("/things", "/beats"):
        status, body, _ = await raw(app, door, [], [b"{", ...])
        assert status == 400
        assert "arrive" in body.decode()


async def raw(
    app: Door, path: str, headers: list[tuple[bytes, bytes]], parts: Sequence[bytes | Any | None]
) -> tuple[int, bytes, int]:
    """Status, body and how many parts were asked for. None is a broken connection, ... one that says no more."""
    asked = 0
    sent: list[Any] = []

    async def receive() -> Any:
        nonlocal asked
        part = parts[asked]
        asked += 1
        if part is None:
            return {"type": "http.disconnect"}
        if part is ...:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": part, "more_body": asked < len(parts)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": f"/api/v1{path}",
        "raw_path": f"/api/v1{path}".encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"sendora.test"), (b"x-api-key", b"sk"), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message["body"] for message in sent[1:]), asked


# -- idempotency -------------------------------------------------------------------------------------------------------


async def test_idempotency_keys(api: httpx.AsyncClient, kernel: Kernel) -> None:
    """C89, C92: the same answer again, in quotes or bare and in either form of the path; another body is 409."""
    key, replayed = new_id().hex, kernel.metrics.value("idempotency_replayed")
    first = await api.post("/things", json=GOOD, headers={**by("sk"), "idempotency-key": key})
    again = await api.post("/things", json=GOOD, headers={**by("sk"), "idempotency-key": f'"{key}"'})
    other = await api.post(f"/orgs/{ORG}/things", json=GOOD, headers={**by("sk"), "idempotency-key": key})
    assert first.status_code == again.status_code == other.status_code == 201
    assert first.content == again.content == other.content
    assert kernel.metrics.value("idempotency_replayed") == replayed + 2
    clash = await api.post("/things", json={"displayName": "b"}, headers={**by("sk"), "idempotency-key": key})
    assert error_of(clash, 409, "CONFLICT")["reason"] == "idempotency_mismatch"
    for bad in ("", " ", "x" * 256, "a b"):
        refused = await api.post("/things", json=GOOD, headers={**by("sk"), "idempotency-key": bad})
        assert "Idempotency-Key" in error_of(refused, 400, "VALIDATION_ERROR")["fieldErrors"]
    without = await api.post("/things", json=GOOD, headers=by("sk"))
    assert without.content != first.content


# -- health and the document -------------------------------------------------------------------------------------------


async def test_health(app: Door) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://sendora.test") as client:
        assert (await client.get("/livez")).json() == {"status": "alive"}
        ready = await client.get("/readyz")
        assert ready.status_code == 200
        parts = {"postgres": "up", "nats": "up", "redis": "up", "fence": "open"}
        assert ready.json() == {"status": "ready", "parts": parts}
        metrics = await client.get("/metrics")
        assert metrics.status_code == 200
        assert "sendora_http_requests" in metrics.text
        assert metrics.headers["content-type"].startswith("text/plain")


async def test_the_document(api: httpx.AsyncClient) -> None:
    """B001, B002, B017, B018: OpenAPI 3.1 of both forms; each operation says what it takes, gives and refuses."""
    answer = await api.get("/docs/openapi.json")
    assert answer.status_code == 200
    document = json.loads(answer.content)
    assert document["openapi"].startswith("3.1")
    assert document["info"]["title"] == "Sendora Cloud"
    assert document["info"]["version"] == "1.2.0"
    assert document["components"]["securitySchemes"]["x-api-key"]["in"] == "header"
    assert document["security"] == [{"x-api-key": []}]
    paths = document["paths"]
    assert "/api/v1/things/{thing_id}" in paths
    assert "/api/v1/orgs/{org_id}/things" in paths
    assert "/livez" not in paths
    schemas = document["components"]["schemas"]
    made = paths["/api/v1/things"]["post"]
    assert made["operationId"] == "createThing"
    assert made["summary"] == "Make a thing"
    sent = schemas[_name(made["requestBody"]["content"]["application/json"]["schema"])]
    assert set(sent["properties"]) == {"displayName", "weights", "premium", "note"}
    given = schemas[_name(made["responses"]["201"]["content"]["application/json"]["schema"])]
    assert set(given["properties"]) == {"success", "data"}
    assert set(schemas[_name(given["properties"]["data"])]["properties"]) == {"id", "displayName"}
    assert "X-RateLimit-Remaining" in made["responses"]["201"]["headers"]
    listed = paths["/api/v1/things"]["get"]
    assert {parameter["name"] for parameter in listed["parameters"]} == {
        "page",
        "pageSize",
        "sortBy",
        "minAge",
        "maxAge",
        "ofKind",
        "x-mood",
    }
    hot = paths["/api/v1/beats"]["post"]
    assert _name(hot["requestBody"]["content"]["application/json"]["schema"]).endswith("ThingIn")
    operations = [operation for item in paths.values() for operation in item.values() if "responses" in operation]
    ids = [operation["operationId"] for operation in operations]
    assert len(ids) == len(set(ids)) == 2 * len(Room().routes)
    for operation in operations:
        for status in ("400", "401", "403", "404", "429", "503"):
            schema = operation["responses"][status]["content"]["application/json"]["schema"]
            assert _name(schema).endswith("Failure")
    assert "412" in paths["/api/v1/things/send"]["post"]["responses"]
    assert "402" in paths["/api/v1/things/paid"]["get"]["responses"]


def _name(schema: dict[str, Any]) -> str:
    reference: str = schema["$ref"]
    return reference.rpartition("/")[2]


async def test_a_route_without_a_declared_scope_is_refused() -> None:
    """API5: deny by default; a bare Litestar handler cannot be mounted."""
    import litestar

    @litestar.get("/open")
    async def opened() -> None: ...

    with pytest.raises(TypeError, match="who may call"):
        build_app(lambda: None, [Room(routes=(opened,))], authenticate)  # type: ignore[arg-type, return-value]


async def test_the_collector_leaves_what_was_there_at_the_start_alone(kernel: Kernel) -> None:
    """Else it would look at all modules and routes again and again while requests come and go."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Kernel]:
        yield kernel

    gc.unfreeze()
    gc.set_threshold(700)
    built = build_app(opened, [Room()], authenticate)
    assert gc.get_freeze_count() == 0
    async with alive(built):
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold()[0] == GC_THRESHOLD
