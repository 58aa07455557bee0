"""Redis or Valkey: token buckets and nothing else, so nothing in it is truth (design.md 6).

Because nothing in it is truth, it may be away: a call gets 50 ms, and one that fails opens a breaker. While it is open
every call fails at once and the caller goes on alone (limits.py); a ping in the background closes it again, so that a
slow server costs one request its 50 ms and not each of them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from sendora.kernel import config

T = TypeVar("T")

BUDGET_S: Final = 0.05
"""What a call may cost: a local server answers in a fraction of a millisecond, and an ingest request has better to
do."""

PROBE_S: Final = 1.0
"""How often a server that was away is asked again."""

OPENING_S: Final = 2.0
"""The first connection may need a TLS handshake."""

CONNECTIONS_MAX: Final = 16
"""A process asks for one slice at a time for each key, so a few connections carry any load."""

log: Final = structlog.get_logger(__name__)


class KvAway(Exception):
    """Redis is away or slow."""


class Kv:
    """A client that never makes anybody wait."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._open = False
        self._probing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, settings: config.Redis) -> "Kv":
        """Connects if it can; a server that is away at the start is as harmless as one that goes away later."""
        pool = BlockingConnectionPool.from_url(
            settings.url,
            max_connections=CONNECTIONS_MAX,
            timeout=BUDGET_S,
            # A connection that died in the pool is replaced once; waiting is the breaker's business.
            retry=Retry(NoBackoff(), 1),
        )
        kv = cls(Redis(connection_pool=pool))
        try:
            async with asyncio.timeout(OPENING_S):
                await kv._ping()
        except (RedisError, OSError, TimeoutError) as error:
            kv._trip(error)
        return kv

    async def close(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
            with suppress(asyncio.CancelledError):
                await self._probing
        await self._client.aclose(close_connection_pool=True)

    @property
    def away(self) -> bool:
        """Whether the breaker is open."""
        return self._open

    def script(self, source: str) -> Callable[[Sequence[str], Sequence[Any]], Awaitable[Any]]:
        """A Lua script, sent by its hash; a server that does not know it (restart, SCRIPT FLUSH) is told it again."""
        script = self._client.register_script(source)

        async def run(keys: Sequence[str], arguments: Sequence[Any]) -> Any:
            return await self.call(lambda: script(keys=list(keys), args=list(arguments)))

        return run

    async def call(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer within 50 ms, or KvAway."""
        if self._open:
            raise KvAway
        try:
            async with asyncio.timeout(BUDGET_S):
                return await ask()
        except (RedisError, OSError, TimeoutError) as error:
            self._trip(error)
            raise KvAway from error

    async def check(self) -> bool:
        """For /readyz."""
        try:
            await self.call(self._ping)
        except KvAway:
            return False
        return True

    async def _ping(self) -> None:
        await self._client.ping()

    def _trip(self, error: BaseException) -> None:
        if not self._open:
            log.warning("redis_away", error=repr(error))
            self._open = True
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._probe(), name="kv probe")

    async def _probe(self) -> None:
        while self._open:
            await asyncio.sleep(PROBE_S)
            with suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(BUDGET_S):
                    await self._ping()
                self._open = False
                log.info("redis_back")
