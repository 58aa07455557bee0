"""How much a key may ask for (B034, C95), and requests that may be repeated (C89, C92).

**Token buckets.** One bucket for each API key, and for each account at a provider (`delivery/lanes/quota.py`), lies in
Redis, where a Lua script fills it by the server's own clock. For a key a process does not ask for each request: it
leases a slice of a twentieth of a second's tokens (or as many as the request needs) and spends it at home. What it
leased it does not give back, so the cluster may admit at most one slice for each process beyond the bucket. A request
for n tokens gets all or nothing: n more than what is left is refused and takes nothing; n more than the bucket could
ever hold is 413, since waiting would not help.

When Redis is away each process goes on alone with a bucket of the full rate. It does not know how many processes there
are, so this is the rate times the number of processes at worst; the promise of twice the rate holds for the usual two.

**Idempotency keys** are rows in Postgres, since they are truth: a key holds what was asked (a fingerprint) and what was
answered. The answer is kept for 24 hours if asking again would only give the same: 2xx and 4xx, but not 401, 403 and
429.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from sendora.kernel import wire
from sendora.kernel.clock import Clock
from sendora.kernel.errors import Conflict, PayloadTooLarge, Problem, RateLimited
from sendora.kernel.ids import OrgId
from sendora.kernel.kv import Kv, KvAway
from sendora.kernel.metrics import Metrics
from sendora.kernel.pg import Database

SLICES_PER_SECOND: Final = 20
"""A busy process asks Redis so often for each key; a slice is what one process may spend beyond the bucket."""

BUCKETS_MAX: Final = 100_000
"""Keys that a process remembers, the least recently used first to go: about 40 MB. A forgotten one loses its slice,
never gains."""

LOCK_S: Final = 30
"""How long a request may be in flight before another with its key may take over (C89)."""

KEEP_S: Final = 24 * 3600
"""How long an answer is kept (C89)."""

NOT_KEPT: Final = frozenset({401, 403, 429})
"""Refusals that a changed key or a moment's wait undoes (C92)."""

BUCKET: Final = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local rate, burst, need, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local spare = tonumber(ARGV[5])
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = tonumber(kept[1]) or burst
local since = math.max(0, now - (tonumber(kept[2]) or now))
tokens = math.min(burst, tokens + since * rate / 1000000)
local granted = 0
if tokens - spare >= need then
    granted = math.floor(math.min(tokens - spare, want))
    tokens = tokens - granted
end
redis.call('HSET', KEYS[1], 'tokens', tokens, 'at', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(burst / rate * 1000) + 60000)
return {granted, math.floor(tokens)}
"""
"""Time is microseconds of the server, below 2^53. A bucket that nobody touches for as long as it takes to fill is the
same as none, so it may expire."""


class Grant(msgspec.Struct, frozen=True):
    """How a key's bucket stands; `remaining` is an estimate, since other processes hold slices of it."""

    limit: int
    remaining: int
    reset_at: int
    """When the bucket will be full, in seconds since 1970."""


class Limiter:
    """Token buckets, spent through leases."""

    def __init__(self, kv: Kv, clock: Clock, metrics: Metrics | None = None) -> None:
        self._clock = clock
        self._metrics = metrics or Metrics()
        self._ask = kv.script(BUCKET)
        self._buckets: OrderedDict[UUID | str, _Bucket] = OrderedDict()

    async def take(self, key_id: UUID, n: int, rate: int, burst: int) -> Grant:
        """Spend n tokens; raises RateLimited or PayloadTooLarge and then has spent none (C95)."""
        if n > burst:
            self._metrics.count("limiter_refused", reason="never")
            raise PayloadTooLarge(f"{n} at once is more than this key may ever send ({burst}).")
        bucket = self._bucket(key_id)
        if bucket.leased < n:
            # One request asks for the next slice, the others of this key wait for it.
            async with bucket.lock:
                if bucket.leased < n:
                    await self._lease(key_id, bucket, n, rate, burst)
        bucket.leased -= n
        return self._grant(bucket, rate, burst)

    def spend(self, key_id: UUID, n: int, rate: int, burst: int) -> Grant | None:
        """Spend n tokens of what is leased already; None, with nothing spent, when that is not enough: then `take`."""
        bucket = self._buckets.get(key_id)
        if bucket is None or bucket.leased < n or n > burst:
            return None
        self._buckets.move_to_end(key_id)
        bucket.leased -= n
        return self._grant(bucket, rate, burst)

    async def some(self, key: str, need: int, want: int, rate: float, burst: int, *, spare: int = 0) -> int:
        """As many of `want` tokens as the bucket has beside `spare`, if that is `need` at least; else none. Nothing is
        leased: what is returned is spent."""
        bucket = self._bucket(key)
        try:
            granted, bucket.left = await self._ask([f"bucket:{key}"], [rate, burst, need, want, spare])
            bucket.alone_at = None
            self._metrics.gauge("limiter_local", 0)
        except KvAway:
            self._metrics.gauge("limiter_local", 1)
            granted = bucket.alone(self._clock.monotonic(), need, rate, burst, want=want, spare=spare)
        return int(granted)

    def peek(self, key_id: UUID, rate: int, burst: int) -> Grant:
        """How the bucket stood when this process last heard of it."""
        bucket = self._buckets.get(key_id)
        return self._grant(bucket if bucket is not None else _Bucket(), rate, burst)

    async def _lease(self, key_id: UUID, bucket: "_Bucket", n: int, rate: int, burst: int) -> None:
        """Bring `leased` to n or more, or raise."""
        # What is here is set aside: a smaller request that comes meanwhile must not spend what this one counts on.
        held, bucket.leased = bucket.leased, 0
        need = n - held
        try:
            granted, bucket.left = await self._ask(
                [f"bucket:{key_id}"], [rate, burst, need, max(need, rate // SLICES_PER_SECOND), 0]
            )
            bucket.alone_at = None
            self._metrics.gauge("limiter_local", 0)
        except KvAway:
            self._metrics.gauge("limiter_local", 1)
            granted = bucket.alone(self._clock.monotonic(), need, rate, burst)
        finally:
            bucket.leased += held
        if granted < need:
            self._metrics.count("limiter_refused", reason="empty")
            raise RateLimited(max(1, math.ceil((need - (bucket.left or 0)) / rate)))
        bucket.leased += granted

    def _bucket(self, key_id: UUID | str) -> "_Bucket":
        bucket = self._buckets.get(key_id)
        if bucket is None:
            bucket = self._buckets[key_id] = _Bucket()
            if len(self._buckets) > BUCKETS_MAX:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key_id)
        return bucket

    def _grant(self, bucket: "_Bucket", rate: int, burst: int) -> Grant:
        left = burst if bucket.left is None else bucket.left
        remaining = min(burst, left + bucket.leased)
        return Grant(burst, remaining, math.ceil(self._clock.now().timestamp() + (burst - remaining) / rate))


class _Bucket:
    """What this process knows and holds of one key's bucket."""

    __slots__ = ("alone_at", "leased", "left", "lock", "tokens")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.leased = 0
        self.left: int | None = None
        """What Redis (or, without it, our own bucket) had left; None before the first answer."""
        self.tokens = 0.0
        self.alone_at: float | None = None
        """When `tokens` was last filled; None while Redis does it."""

    def alone(self, now: float, need: int, rate: float, burst: int, *, want: int | None = None, spare: int = 0) -> int:
        """The script's arithmetic without Redis: starts from what was last known and fills at the full rate."""
        if self.alone_at is None:
            self.tokens = float(burst if self.left is None else self.left)
            self.alone_at = now
        self.tokens = min(float(burst), self.tokens + (now - self.alone_at) * rate)
        self.alone_at = now
        left = int(self.tokens) - spare
        granted = min(left, want or need) if left >= need else 0
        self.tokens -= granted
        self.left = int(self.tokens)
        return granted


class Stored(msgspec.Struct, frozen=True):
    """An answer as it is kept and repeated."""

    status: int
    body: bytes


class Idempotency:
    """At most one run for each key: the second request gets the first one's answer (C89)."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def run(self, org: OrgId, key: str, fingerprint: bytes, fn: Callable[[], Awaitable[Stored]]) -> Stored:
        """The kept answer, or the one that `fn` gives now. A Problem of `fn` is raised, and kept if C92 says so."""
        held = await self._claim(org, key, fingerprint)
        if isinstance(held, Stored):
            return held
        answer: Stored | None = None
        try:
            answer = await fn()
        except Problem as problem:
            answer = Stored(problem.status, wire.failure(problem))
            raise
        finally:
            # Also when the task was cancelled: a key must not stay locked for a request that nobody waits for.
            await asyncio.shield(self._settle(org, key, held, answer))
        return answer

    async def sweep(self) -> None:
        """Forget what has expired."""
        await self._db.execute(_SWEEP)

    async def _claim(self, org: OrgId, key: str, fingerprint: bytes) -> Stored | datetime:
        """The kept answer; or the key is ours until the instant returned, which also names our claim."""
        while True:
            claimed: datetime | None = await self._db.fetchval(_CLAIM, org, key, fingerprint, LOCK_S, KEEP_S)
            if claimed is not None:
                return claimed
            row = await self._db.fetchrow(_FIND, org, key)
            if row is None:
                # Its holder failed and released it between the two statements.
                continue
            if bytes(row["fingerprint"]) != fingerprint:
                raise Conflict("This Idempotency-Key was used for another request.", "idempotency_mismatch")
            if row["status"] is None:
                raise Conflict("A request with this Idempotency-Key is in flight.", "idempotency_in_flight")
            return Stored(row["status"], bytes(row["response"]))

    async def _settle(self, org: OrgId, key: str, held: datetime, answer: Stored | None) -> None:
        if answer is not None and answer.status < 500 and answer.status not in NOT_KEPT:
            await self._db.execute(_KEEP, org, key, held, answer.status, answer.body)
        else:
            await self._db.execute(_RELEASE, org, key, held)


# Takes a free key, one whose answer has expired, or one whose holder has been silent for longer than the lock. The
# clock is Postgres', so that all processes agree.
_CLAIM: Final = """
INSERT INTO idempotency_keys AS kept (org_id, key, fingerprint, locked_until, expires_at)
VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4), now() + make_interval(secs => $5))
ON CONFLICT (org_id, key) DO UPDATE
SET fingerprint = excluded.fingerprint, status = NULL, response = NULL,
    locked_until = excluded.locked_until, expires_at = excluded.expires_at
WHERE kept.expires_at <= now()
   OR (kept.status IS NULL AND kept.locked_until <= now() AND kept.fingerprint = excluded.fingerprint)
RETURNING locked_until
"""

_FIND: Final = "SELECT fingerprint, status, response FROM idempotency_keys WHERE org_id = $1 AND key = $2"

# Only the claim that is ours: whoever outlived his lock must not overwrite the answer of the one who took over.
_KEEP: Final = """
UPDATE idempotency_keys SET status = $4, response = $5
WHERE org_id = $1 AND key = $2 AND locked_until = $3 AND status IS NULL
"""

_RELEASE: Final = """
DELETE FROM idempotency_keys WHERE org_id = $1 AND key = $2 AND locked_until = $3 AND status IS NULL
"""

_SWEEP: Final = "DELETE FROM idempotency_keys WHERE expires_at <= now()"
