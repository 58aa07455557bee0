"""Token buckets in a real Valkey, alone without it, and idempotency keys in Postgres."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from tests.conftest import eventually

from sendora.kernel import config, wire
from sendora.kernel.clock import FixedClock, SystemClock
from sendora.kernel.embedded import Embedded
from sendora.kernel.errors import Conflict, Forbidden, NotFound, PayloadTooLarge, RateLimited, Unavailable
from sendora.kernel.ids import OrgId, new_id
from sendora.kernel.kv import Kv, KvAway
from sendora.kernel.life import Kernel
from sendora.kernel.limits import SLICES_PER_SECOND, Grant, Idempotency, Limiter, Stored
from sendora.kernel.pg import Database

Take = Callable[..., Awaitable[Grant]]


@pytest.fixture
async def kv(servers: Embedded, settings: config.Settings) -> AsyncIterator[Kv]:
    opened = await Kv.open(settings.redis)
    yield opened
    await opened.close()


@pytest.fixture
async def away() -> AsyncIterator[Kv]:
    """A Redis that nobody serves."""
    opened = await Kv.open(config.Redis(url="redis://127.0.0.1:1/0"))
    yield opened
    await opened.close()


def key() -> UUID:
    return new_id()


async def test_a_bucket_holds_its_burst_and_not_one_more(kv: Kv) -> None:
    """B034: refused is refused whole, and says when to come again."""
    limiter, one = Limiter(kv, SystemClock()), key()
    for _ in range(10):
        await limiter.take(one, 1, 1, 10)
    with pytest.raises(RateLimited) as refused:
        await limiter.take(one, 1, 1, 10)
    assert refused.value.retry_after == 1


async def test_a_refused_request_takes_nothing(kv: Kv) -> None:
    """C95: n more than what is left is refused as a whole; what is left can still be taken to the last token."""
    limiter, one = Limiter(kv, SystemClock()), key()
    await limiter.take(one, 60, 1, 100)
    with pytest.raises(RateLimited) as refused:
        await limiter.take(one, 50, 1, 100)
    assert refused.value.retry_after is not None
    assert 9 <= refused.value.retry_after <= 10
    await limiter.take(one, 40, 1, 100)
    with pytest.raises(RateLimited):
        await limiter.take(one, 2, 1, 100)


async def test_what_never_fits_is_too_large(kv: Kv) -> None:
    """C95: n beyond the burst is 413, at once and without touching the bucket."""
    limiter, one = Limiter(kv, SystemClock()), key()
    with pytest.raises(PayloadTooLarge):
        await limiter.take(one, 101, 1, 100)
    assert (await limiter.take(one, 100, 1, 100)).remaining == 0


async def test_only_what_is_leased_is_spent_without_asking(kv: Kv) -> None:
    """A lease is spent to its last token and no further, and a refusal to spend takes nothing."""
    limiter, one = Limiter(kv, SystemClock()), key()
    assert limiter.spend(one, 1, 100, 100) is None, "nothing is leased yet"
    await limiter.take(one, 1, 100, 100)
    # A slice is a twentieth of a second's tokens: 5, of which one is gone.
    assert limiter.spend(one, 5, 100, 100) is None
    spent = limiter.spend(one, 4, 100, 100)
    assert spent is not None
    assert spent.limit == 100
    assert spent.remaining >= 95
    assert limiter.spend(one, 1, 100, 100) is None
    assert limiter.spend(one, 101, 100, 100) is None


async def test_two_processes_share_one_bucket(kv: Kv) -> None:
    """The sum of what two limiters admit is the burst, and at most a slice of each more."""
    first, second, one = Limiter(kv, SystemClock()), Limiter(kv, SystemClock()), key()
    rate, burst = 200, 1_000
    admitted = 0
    for limiter in (first, second) * 1_200:
        try:
            await limiter.take(one, 1, rate, burst)
            admitted += 1
        except RateLimited:
            pass
    # The test itself takes a moment in which the bucket fills.
    assert burst <= admitted <= burst + 2 * rate // SLICES_PER_SECOND + 2 * rate


@pytest.mark.parametrize("served", [True, False])
async def test_some_of_what_there_is(kv: Kv, away: Kv, served: bool) -> None:
    """A part is given where it is worth it, and what is to be spared stays for whoever does not spare it."""
    limiter, account = Limiter(kv if served else away, FixedClock(SystemClock().now())), str(key())
    rate = 1e-6
    assert await limiter.some(account, 10, 60, rate, 100, spare=10) == 60
    assert await limiter.some(account, 31, 60, rate, 100, spare=10) == 0, "30 are left for those who spare 10"
    assert await limiter.some(account, 10, 60, rate, 100, spare=10) == 30
    assert await limiter.some(account, 1, 60, rate, 100, spare=10) == 0
    assert await limiter.some(account, 1, 60, rate, 100) == 10


async def test_redis_is_asked_by_the_slice(kv: Kv) -> None:
    """A busy key costs Redis about twenty calls for a second's tokens."""
    limiter, one, calls = Limiter(kv, SystemClock()), key(), 0
    ask = limiter._ask

    async def counted(keys: Any, arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return await ask(keys, arguments)

    limiter._ask = counted
    await asyncio.gather(*(limiter.take(one, 1, 1_000, 5_000) for _ in range(1_000)))
    assert calls <= SLICES_PER_SECOND + 1


async def test_concurrent_takes_never_exceed_the_burst(kv: Kv) -> None:
    limiter, one = Limiter(kv, SystemClock()), key()
    taken = await asyncio.gather(*(limiter.take(one, 7, 1, 700) for _ in range(150)), return_exceptions=True)
    assert sum(isinstance(result, Grant) for result in taken) == 100
    assert all(isinstance(result, Grant | RateLimited) for result in taken)


async def test_the_headers_numbers(kv: Kv) -> None:
    """C11: the limit is what the bucket holds; the reset is when it is full again."""
    clock = FixedClock(SystemClock().now())
    limiter, one = Limiter(kv, clock), key()
    now = clock.now().timestamp()
    assert limiter.peek(one, 10, 100) == Grant(100, 100, limiter.peek(one, 10, 100).reset_at)
    grant = await limiter.take(one, 50, 10, 100)
    assert (grant.limit, grant.remaining) == (100, 50)
    assert now + 5 <= grant.reset_at <= now + 6
    assert limiter.peek(one, 10, 100) == grant


async def test_a_script_that_the_server_forgot_is_sent_again(kv: Kv) -> None:
    limiter, one = Limiter(kv, SystemClock()), key()
    await limiter.take(one, 1, 1, 10)
    await kv.call(lambda: kv._client.script_flush())
    await limiter.take(one, 1, 1, 10)
    assert not kv.away


async def test_alone_without_redis(away: Kv) -> None:
    """F-R1: each process goes on with the full rate; the refusals are the same."""
    clock = FixedClock(SystemClock().now())
    limiter, one = Limiter(away, clock), key()
    await limiter.take(one, 100, 10, 100)
    with pytest.raises(RateLimited):
        await limiter.take(one, 1, 10, 100)
    clock.advance(1.0)
    await limiter.take(one, 10, 10, 100)
    with pytest.raises(RateLimited):
        await limiter.take(one, 1, 10, 100)
    assert away.away


async def test_a_server_that_comes_back_is_found(servers: Embedded, settings: config.Settings, away: Kv) -> None:
    """The breaker closes by itself, and what Redis then says counts."""
    good = await Kv.open(settings.redis)
    try:
        good._trip(ConnectionError("for the test"))
        with pytest.raises(KvAway):
            await good.call(good._ping)
        await eventually(lambda: not good.away)
        assert await good.check()
    finally:
        await good.close()
    assert not await away.check()


async def test_a_server_that_hangs_costs_fifty_milliseconds_once() -> None:
    """F-R4: one request pays for finding out, and the breaker spares the others."""

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    opened = await Kv.open(config.Redis(url=f"redis://127.0.0.1:{port}/0"))
    try:
        limiter, one = Limiter(opened, SystemClock()), key()
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(200):
            await limiter.take(one, 1, 1_000, 5_000)
        assert loop.time() - began < 0.5
    finally:
        await opened.close()
        server.close()


# -- idempotency -----------------------------------------------------------------------------------------------------


@pytest.fixture
def keys(db: Database) -> Idempotency:
    return Idempotency(db)


def org() -> OrgId:
    return OrgId(new_id())


async def test_the_second_request_gets_the_first_answer(keys: Idempotency) -> None:
    """C89: one run for each key and org."""
    runs = 0

    async def once() -> Stored:
        nonlocal runs
        runs += 1
        return Stored(201, b"made")

    mine, other = org(), org()
    assert await keys.run(mine, "k", b"f", once) == Stored(201, b"made")
    assert await keys.run(mine, "k", b"f", once) == Stored(201, b"made")
    assert runs == 1
    await keys.run(other, "k", b"f", once)
    assert runs == 2


async def test_another_request_under_the_same_key_is_a_conflict(keys: Idempotency) -> None:
    """C89: the fingerprint decides."""
    mine = org()
    await keys.run(mine, "k", b"one", _answer(200))
    with pytest.raises(Conflict) as conflict:
        await keys.run(mine, "k", b"two", _answer(200))
    assert conflict.value.details["reason"] == "idempotency_mismatch"


async def test_a_request_in_flight_is_a_conflict(keys: Idempotency) -> None:
    """C89: nobody waits for the first one."""
    mine, entered, leave = org(), asyncio.Event(), asyncio.Event()

    async def slow() -> Stored:
        entered.set()
        await leave.wait()
        return Stored(200, b"slow")

    first = asyncio.create_task(keys.run(mine, "k", b"f", slow))
    await entered.wait()
    with pytest.raises(Conflict) as conflict:
        await keys.run(mine, "k", b"f", _answer(200))
    assert conflict.value.details["reason"] == "idempotency_in_flight"
    leave.set()
    assert (await first).body == b"slow"
    assert (await keys.run(mine, "k", b"f", _answer(200))).body == b"slow"


async def test_which_refusals_are_kept(keys: Idempotency) -> None:
    """C92: a 404 is kept, 403 and 429 and 5xx are not."""
    for problem, kept in (
        (NotFound("Audience"), True),
        (Forbidden(), False),
        (RateLimited(1), False),
        (Unavailable(), False),
    ):
        mine = org()

        async def fail(problem: Exception = problem) -> Stored:
            raise problem

        with pytest.raises(type(problem)):
            await keys.run(mine, "k", b"f", fail)
        again = await keys.run(mine, "k", b"f", _answer(200))
        assert again == (Stored(404, wire.failure(problem)) if kept else Stored(200, b"ok"))


async def test_a_fault_or_a_cancelled_request_releases_the_key(keys: Idempotency) -> None:
    """C92: the next one runs."""
    mine, entered = org(), asyncio.Event()

    async def fault() -> Stored:
        raise RuntimeError("a fault of ours")

    async def forever() -> Stored:
        entered.set()
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(RuntimeError):
        await keys.run(mine, "k", b"f", fault)
    task = asyncio.create_task(keys.run(mine, "k", b"f", forever))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await keys.run(mine, "k", b"f", _answer(200))).status == 200


async def test_a_lock_and_an_answer_expire(keys: Idempotency, db: Database) -> None:
    """C89: after 30 s of silence another may take over, and after 24 h the key is free. The late one
    overwrites nothing."""
    mine, entered, leave = org(), asyncio.Event(), asyncio.Event()

    async def late() -> Stored:
        entered.set()
        await leave.wait()
        return Stored(200, b"late")

    first = asyncio.create_task(keys.run(mine, "k", b"f", late))
    await entered.wait()
    await db.execute("UPDATE idempotency_keys SET locked_until = now() - interval '1 s' WHERE org_id = $1", mine)
    assert (await keys.run(mine, "k", b"f", _answer(201))).status == 201
    leave.set()
    await first
    assert (await keys.run(mine, "k", b"f", _answer(202))).status == 201
    await db.execute("UPDATE idempotency_keys SET expires_at = now() WHERE org_id = $1", mine)
    assert (await keys.run(mine, "k", b"another", _answer(203))).status == 203
    await db.execute("UPDATE idempotency_keys SET expires_at = now() WHERE org_id = $1", mine)
    await keys.sweep()
    assert await db.fetchval("SELECT count(*) FROM idempotency_keys WHERE org_id = $1", mine) == 0


async def test_many_at_once_run_once(keys: Idempotency, kernel: Kernel) -> None:
    """C89: of twenty at the same time one runs; the others get its answer or a conflict."""
    runs, mine = 0, org()

    async def once() -> Stored:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        return Stored(200, b"ok")

    results = await asyncio.gather(*(keys.run(mine, "k", b"f", once) for _ in range(20)), return_exceptions=True)
    assert runs == 1
    assert all(isinstance(result, Stored | Conflict) for result in results)


def _answer(status: int) -> Callable[[], Awaitable[Stored]]:
    async def answer() -> Stored:
        return Stored(status, b"ok")

    return answer
