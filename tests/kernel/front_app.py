"""A made-up room for test_front.py, as a server's worker process makes it: `granian ... tests.kernel.front_app:api`.

It does what it is told in the body (hot) or in the path (cold). What the environment may ask of it: to refuse to start
(FRONT_TEST_REFUSES).
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec
from litestar import Request, Response
from litestar.response import Stream

from sendora.kernel.config import load
from sendora.kernel.errors import Unavailable
from sendora.kernel.http import Front, HotRequest, HotResponse, Principal, body, build_app, get, hot_route, post, take
from sendora.kernel.ids import KeyId, OrgId, ProjectId, new_id
from sendora.kernel.life import Kernel, open_kernel
from sendora.kernel.wire import success

READ_S = 1.0
"""Instead of ten seconds."""

ORG = OrgId(new_id())

WHO = Principal(
    org=ORG,
    project=ProjectId(new_id()),
    key_id=KeyId(new_id()),
    prefix="sk_prod_x",
    kind="sk",
    environment="prod",
    scopes=frozenset({"things:write"}),
    role="ADMIN",
    plan="starter",
    per_second=1_000,
    burst=5_000,
)


async def authenticate(kernel: Kernel, key: str) -> Principal | None:
    return WHO if key == "sk" else None


@hot_route("/beats", scope="things:write", body=dict[str, str], answer=dict[str, str], operation="beat", summary="Hot")
async def beat(kernel: Kernel, principal: Principal, request: HotRequest) -> HotResponse:
    await take(kernel, principal)
    match request.body:
        case b"fault":
            raise RuntimeError("a secret inside")
        case b"away":
            raise asyncpg.ConnectionDoesNotExistError("gone")
        case b"slow":
            print("slow", flush=True)
            await asyncio.sleep(1)
    seen = {"size": len(request.body), "query": request.query, "headers": dict(request.headers)}
    return HotResponse(201, success(seen), [("x-sendora-position", "0-1")])


@post("/read", scope=None, operation="read", summary="Cold")
async def read(request: Request[Any, Any, Any]) -> dict[str, Any]:
    return {
        "size": len(await request.body()),
        "headers": [(str(name), value) for name, value in request.headers.multi_items()],
    }


@get("/cold/{how}", scope=None, operation="cold", summary="Cold")
async def cold(how: str, request: Request[Any, Any, Any]) -> Any:
    match how:
        case "fault":
            raise RuntimeError("a secret inside")
        case "none":
            return Response(b"", status_code=204)
        case "same":
            return Response(b"", status_code=304, headers={"etag": "x"})
        case "stream":
            return Stream(_many(10), media_type="text/plain")
        case "endless":
            return Stream(_many(1_000_000), media_type="text/plain")
        case "late":
            return Stream(_late(), media_type="text/plain")
    return {"how": how, "host": request.headers.get("host"), "url": str(request.url), "client": request.client}


async def _many(n: int) -> AsyncIterator[bytes]:
    for number in range(n):
        yield b"%d," % number
        await asyncio.sleep(0)


async def _late() -> AsyncIterator[bytes]:
    yield b"so far"
    raise RuntimeError("too late for a status")


class Room(msgspec.Struct):
    name: str = "test"
    routes: Sequence[Any] = (beat.handler, read, cold)
    hot: Sequence[Any] = (beat.hot,)


@asynccontextmanager
async def opened() -> AsyncIterator[Kernel]:
    match os.environ.get("FRONT_TEST_REFUSES"):
        case "away":
            raise Unavailable(message="The log is away.")
        case "fault":
            raise RuntimeError("a fault of ours")
    async with open_kernel(load()) as kernel:
        yield kernel
    print("closed", flush=True)


def api() -> Front:
    body.READ_S = READ_S
    return Front(build_app(opened, [Room()], authenticate))
