"""Whether this process lives, whether it can serve, and what it has counted. Outside of keys, limits and the document.

/livez says only that the event loop turns: a restart cures nothing that another server lacks. /readyz is 503 while
PostgreSQL or NATS is away, since nothing can be promised then; without Redis limits go on locally, so it is `degraded`.
So it is behind the restore fence: requests are taken, and nothing goes out until an operator has looked.
"""

import asyncio
from typing import Any, Final

from litestar import Request, Response, get

from sendora.kernel import wire
from sendora.kernel.errors import Problem
from sendora.kernel.life import Kernel

CHECK_S: Final = 2.0
"""A server that needs longer for a trivial question is away."""


def handlers() -> list[Any]:
    @get("/livez", include_in_schema=False)
    async def livez() -> Response[bytes]:
        return Response(wire.encode({"status": "alive"}), media_type="application/json")

    @get("/readyz", include_in_schema=False)
    async def readyz(request: Request[Any, Any, Any]) -> Response[bytes]:
        return await _ready(request.app.state.kernel)

    @get("/metrics", include_in_schema=False)
    async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
        return Response(
            request.app.state.kernel.metrics.text(),
            media_type="text/plain; version=0.0.4; charset=utf-8",
        )

    return [livez, readyz, metrics]


async def _ready(kernel: Kernel) -> Response[bytes]:
    postgres, nats, redis, fence = await asyncio.gather(
        _postgres(kernel), _nats(kernel), kernel.kv.check(), _fence(kernel)
    )
    serving = postgres and nats
    sound = serving and redis and kernel.bus.durable and fence == "open"
    parts = {"postgres": _word(postgres), "nats": _word(nats), "redis": _word(redis), "fence": fence}
    if nats and not kernel.bus.durable:
        # The operator vouches for it; nothing has shown that a publish survives a power cut (F-N6).
        parts["nats"] = "trusted"
    return Response(
        wire.encode({"status": "ready" if sound else "degraded" if serving else "away", "parts": parts}),
        status_code=200 if serving else 503,
        media_type="application/json",
    )


async def _postgres(kernel: Kernel) -> bool:
    try:
        async with asyncio.timeout(CHECK_S):
            await kernel.db.fetchval("SELECT 1")
    except Exception:  # whatever it is, Postgres does not serve
        return False
    return True


async def _nats(kernel: Kernel) -> bool:
    try:
        async with asyncio.timeout(CHECK_S):
            await kernel.bus.head()
    except (Problem, TimeoutError):
        return False
    return True


async def _fence(kernel: Kernel) -> str:
    try:
        async with asyncio.timeout(CHECK_S):
            return "open" if await kernel.fence.register.look() is None else "standing"
    except Exception:  # one of the two servers that it stands in
        return "unknown"


def _word(up: bool) -> str:
    return "up" if up else "away"
