"""From a committed send to a ledger that balances, through real requests and made-up deaths."""

import asyncio
import random
from collections import Counter
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import eventually
from tests.delivery import provider as behaves
from tests.delivery.conftest import DEAD_PORT, Floor, crash, serving
from tests.delivery.provider import behaviour, recipient

from sendora.delivery import failpoint
from sendora.delivery.flight import BLAME_S
from sendora.delivery.lanes.plain import STREAMS
from sendora.delivery.phases import TRIES_MAX, Class, Delivery
from sendora.delivery.report import Reconciliation
from sendora.delivery.store import Due, claim_chunks
from sendora.kernel.ids import OrgId, new_id


def people(*behaviours: int) -> list[UUID]:
    return [recipient(one) for one in behaviours]


def assert_balanced(said: Reconciliation, targeted: int) -> None:
    """Promise 2."""
    assert said.targeted == targeted
    ended = said.accepted + said.rejected + said.suppressed + said.expired + said.unknown
    assert said.targeted == ended + said.open
    assert sum(sum(reasons.values()) for reasons in said.reasons.values()) == ended - said.accepted


EXPECTED: dict[Delivery, dict[int, tuple[str, bool]]] = {
    "at_least_once": {
        behaves.OK: ("accepted", False),
        behaves.GONE: ("rejected", False),
        behaves.INACTIVE: ("suppressed", False),
        behaves.BUSY_ONCE: ("accepted", False),
        behaves.CUT_ONCE: ("accepted", True),
        behaves.ALWAYS_BUSY: ("rejected", False),
        behaves.ALWAYS_CUT: ("unknown", False),
        behaves.EXPIRED_KEY: ("accepted", False),
    },
    "at_most_once": {
        behaves.OK: ("accepted", False),
        behaves.GONE: ("rejected", False),
        behaves.INACTIVE: ("suppressed", False),
        behaves.BUSY_ONCE: ("accepted", False),
        behaves.CUT_ONCE: ("unknown", False),
        behaves.ALWAYS_BUSY: ("rejected", False),
        behaves.ALWAYS_CUT: ("unknown", False),
        behaves.EXPIRED_KEY: ("accepted", False),
    },
}

REQUESTS: dict[Delivery, dict[int, int]] = {
    "at_least_once": {0: 1, 1: 1, 2: 0, 3: 2, 4: 2, 5: TRIES_MAX, 6: TRIES_MAX, 7: 1},
    "at_most_once": {0: 1, 1: 1, 2: 0, 3: 2, 4: 1, 5: TRIES_MAX, 6: 1, 7: 1},
}
"""What the provider sees of each behaviour (with the key in order)."""


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=120),
    st.sampled_from(["at_least_once", "at_most_once"]),
    st.sampled_from(["bulk", "now"]),
)
async def test_every_send_balances_whatever_providers_say(
    floor: Floor, behaviours: list[int], delivery: Delivery, class_: Class
) -> None:
    """Promise 2 as a property: random answers, deferrals and silences; each recipient ends once and as it must."""
    who = people(*behaviours)
    send = await floor.submit(who, delivery=delivery, class_=class_)
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        said = await floor.closed(send)
    assert_balanced(said, len(who))
    assert said.open == 0
    ends = await floor.states(send)
    assert ends == {one: EXPECTED[delivery][behaviour(one)] for one in who}
    assert said.repeated == behaviours.count(behaves.CUT_ONCE) * (delivery == "at_least_once")
    seen = {one: floor.provider.seen[one] for one in who}
    assert seen == {one: REQUESTS[delivery][behaviour(one)] for one in who}


async def test_an_audience_is_sent_to_once_and_told_of(floor: Floor) -> None:
    """B094, C96: a broadcast over all shards and several chunks of one shard closes as `sent`, with its counts."""
    who = people(*[behaves.OK] * 400, *[behaves.INACTIVE] * 20)
    floor.channel.unreachable = 7
    send = await floor.submit(who)
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        said = await floor.closed(send)
    assert (said.accepted, said.suppressed, said.unreachable, said.open) == (400, 20, 7, 0)
    assert said.reasons == {"suppressed": {"inactive_token": 20}}
    assert await floor.status(send) == "sent"
    assert all(floor.provider.seen[one] == 1 for one in who if behaviour(one) == behaves.OK)


@pytest.mark.parametrize(
    ("behaviours", "status"),
    [([behaves.GONE, behaves.INACTIVE], "failed"), ([behaves.INACTIVE] * 2, "suppressed"), ([behaves.OK], "sent")],
)
async def test_how_it_closes(floor: Floor, behaviours: list[int], status: str) -> None:
    """C96."""
    send = await floor.submit(people(*behaviours))
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        await floor.closed(send)
    assert await floor.status(send) == status


async def test_a_wake_that_is_lost_costs_a_poll(floor: Floor) -> None:
    """Design 4: a lost wake costs a second, never a send."""
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        # Committed behind everybody's back: nobody is woken for it.
        await floor.db.execute(
            "INSERT INTO sends (org_id, id, project_id, channel, class, delivery, status, target, content,"
            " log_position, expires_at) VALUES ($1, $2, $3, 'loop', 'bulk', 'at_least_once', 'queued', $4, '{}', 0,"
            " now() + interval '1 hour')",
            floor.org,
            (send_id := new_id()),
            floor.project,
            {"recipients": [str(one) for one in people(behaves.OK, behaves.OK)]},
        )

        async def sent() -> bool:
            return bool(await floor.db.fetchval("SELECT status = 'sent' FROM sends WHERE id = $1", send_id))

        assert await eventually(sent, 15)


DEATHS = [
    ("dispatch.before_mark", 1),
    ("dispatch.after_mark", 2),
    ("dispatch.after_write", 20),
    ("dispatch.after_answer", 20),
    ("ledger.before_commit", 3),
    ("ledger.after_commit", 3),
    ("shard.after_lease", 1),
]


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
@pytest.mark.parametrize(("point", "n"), DEATHS)
async def test_after_any_death_nobody_is_lost_and_only_the_unknown_are_repeated(
    floor: Floor, point: str, n: int, delivery: Delivery
) -> None:
    """F-D1, F-D2, F-D3, promise 3: what was sent twice is listed by name, is no more than W, and is nobody under
    `at_most_once`."""
    window = 64
    floor.with_dispatch(window_bulk=window)
    who = people(*[behaves.OK] * 300)
    send = await floor.submit(who, delivery=delivery)
    async with serving(floor.planner()):
        await eventually(lambda: _planned(floor, send.id))
    await crash(point, floor.dispatcher(), n=n)
    failpoint.disarm()
    await floor.leases_run_out()

    doubtful = await floor.db.fetchval(
        "SELECT coalesce(sum(started), 0) FROM chunks WHERE send_id = $1 AND closed_at IS NULL", send.id
    ) - await floor.db.fetchval(
        "SELECT count(*) FROM deliveries d JOIN chunks c USING (org_id, send_id, shard, seq)"
        " WHERE c.send_id = $1 AND c.closed_at IS NULL AND d.position < c.started",
        send.id,
    )
    assert doubtful <= window
    async with serving(floor.dispatcher(), floor.accountant()):
        said = await floor.closed(send)

    assert_balanced(said, len(who))
    assert said.open == 0
    twice = {one for one, seen in floor.provider.seen.items() if seen > 1}
    ends = await floor.states(send)
    if delivery == "at_most_once":
        assert not twice
        assert said.unknown <= window
        assert all(floor.provider.seen[one] == 1 for one in who if ends[one][0] == "accepted")
    else:
        assert said.accepted == len(who)
        assert all(floor.provider.seen[one] >= 1 for one in who)
        assert twice <= {one for one, end in ends.items() if end == ("accepted", True)}
        assert said.repeated <= window


async def _planned(floor: Floor, send: UUID) -> bool:
    return await floor.db.fetchval("SELECT planned_at IS NOT NULL FROM sends WHERE id = $1", send) is True


async def warm(floor: Floor) -> None:
    """A lane takes one request at a time until the first success; this is it."""
    assert (await floor.closed(await floor.submit(people(behaves.OK)))).accepted == 1


async def test_the_window_bounds_what_is_on_the_wire(floor: Floor) -> None:
    """Promise 3: never more than W without a recorded outcome, whatever is due."""
    floor.with_dispatch(window_bulk=50)
    who = people(*[behaves.OK] * 400)
    worker = floor.dispatcher()
    most = 0
    async with serving(floor.planner(), worker, floor.accountant()):
        await warm(floor)
        floor.provider.hold = asyncio.Event()
        send = await floor.submit(who)
        await eventually(lambda: worker.windows["bulk"].taken >= 25)
        marked = await floor.db.fetchval("SELECT sum(started) FROM chunks WHERE send_id = $1", send.id)
        assert marked <= 50
        assert sum(floor.provider.seen[one] for one in who) <= 50
        floor.provider.hold.set()

        async def ended() -> bool:
            nonlocal most
            most = max(most, worker.windows["bulk"].taken)
            return await floor.status(send) == "sent"

        await eventually(ended, 20)
    assert most <= 50
    assert worker.windows["bulk"].taken == 0


async def test_a_transactional_send_overtakes_a_broadcast(floor: Floor) -> None:
    """Promise 5: the broadcast holds its whole window and does not move; a login code arrives meanwhile."""
    floor.with_dispatch(window_bulk=50)
    worker = floor.dispatcher()
    async with serving(floor.planner(), worker, floor.accountant()):
        await warm(floor)
        hold = floor.provider.hold = asyncio.Event()
        broadcast = await floor.submit(people(*[behaves.OK] * 300))
        await eventually(lambda: worker.windows["bulk"].taken >= 25)
        waiting = people(behaves.OK)
        floor.provider.spared.update(waiting)
        code = await floor.submit(waiting, class_="now")
        said = await floor.closed(code)
        assert said.accepted == 1
        assert (await floor.balance(broadcast)).accepted == 0
        hold.set()


async def test_one_tenants_broadcast_does_not_starve_another(floor: Floor) -> None:
    """Promise 5."""
    floor.with_dispatch(window_bulk=20)
    big = await floor.submit(people(*[behaves.OK] * 3_000))
    other = OrgId(new_id())
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        await eventually(lambda: floor.provider.seen.total() > 0)
        small = await floor.submit(people(*[behaves.OK] * 20), org=other)
        assert (await floor.closed(small)).accepted == 20
        assert await floor.status(big) == "sending"


async def test_a_paused_send_keeps_its_chunks(floor: Floor) -> None:
    """Pause is a column of the send; what was not claimed stays where it is, and goes on when it runs again."""
    who = people(*[behaves.OK] * 30)
    send = await floor.submit(who)
    async with serving(floor.planner()):
        await eventually(lambda: _planned(floor, send.id))
    await floor.db.execute("UPDATE sends SET status = 'paused' WHERE id = $1", send.id)
    other = await floor.submit(people(behaves.OK))
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        await floor.closed(other)
        assert not any(floor.provider.seen[one] for one in who)
        # Nor is it taken up by who has read the queue just before.
        key = await floor.db.fetchrow("SELECT send_id, shard, seq FROM chunks WHERE send_id = $1", send.id)
        assert key is not None
        lease = await floor.db.fetchrow("SELECT holder, epoch FROM shard_leases WHERE shard = $1", key["shard"])
        assert lease is not None
        due = Due(floor.org, send.id, key["shard"], key["seq"], "bulk", 1, 0)
        assert not await claim_chunks(floor.db, lease["holder"], [due], [lease["epoch"]])
        await floor.db.execute("UPDATE sends SET status = 'sending' WHERE id = $1", send.id)
        assert (await floor.closed(send)).accepted == 30


async def test_an_expired_credential_is_renewed_once_and_fails_nobody(floor: Floor) -> None:
    """F-V7: one refresh, nobody fails, nobody is a repetition."""
    floor.provider.key = "2"
    send = await floor.submit(people(*[behaves.EXPIRED_KEY] * 40))
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        said = await floor.closed(send)
    assert (said.accepted, said.repeated) == (40, 0)
    assert floor.channel.renewed == 1


async def test_a_credential_that_is_away_makes_chunks_wait(floor: Floor) -> None:
    """F-V10: pause, not fail; and waiting is not held against the chunk."""
    floor.channel.away = True
    send = await floor.submit(people(*[behaves.OK] * 5))
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):

        async def waits() -> bool:
            rows = await floor.db.fetch(
                "SELECT due_at > now() AS later, claims FROM chunks WHERE send_id = $1", send.id
            )
            return bool(rows) and all(row["later"] and row["claims"] == 0 for row in rows)

        await eventually(waits)
        assert not floor.provider.seen
        floor.channel.away = False
        await floor.db.execute("UPDATE chunks SET due_at = now() WHERE send_id = $1", send.id)
        assert (await floor.closed(send)).accepted == 5


async def test_a_chunk_that_always_fails_is_parked_by_name(floor: Floor) -> None:
    """F-M6: set aside after 5 owners; what was not sent is rejected, and the neighbours are not held up."""
    floor.channel.wrong = True
    who = people(behaves.OK, behaves.OK)
    send = await floor.submit(who)
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):

        async def parked() -> bool:
            await floor.db.execute("UPDATE chunks SET due_at = now() WHERE closed_at IS NULL")
            await floor.kernel.bus.wake(f"wake.{who[0].bytes[0] & 63}")
            return await floor.status(send) == "failed"

        await eventually(parked, 30)
        floor.channel.wrong = False
        neighbour = await floor.submit(people(behaves.OK))
        assert (await floor.closed(neighbour)).accepted == 1
    said = await floor.balance(send)
    assert said.reasons == {"rejected": {"parked": 2}}
    assert not any(floor.provider.seen[one] for one in who)


async def test_a_chunk_that_fails_waits_longer_each_time(floor: Floor) -> None:
    """A fault that passes within half a minute rejects nobody: 1, 2, 5, 10, 30 s by PostgreSQL's clock, then parked."""
    floor.channel.wrong = True
    send = await floor.submit(people(behaves.OK))
    waited: list[float] = []
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        for _ in BLAME_S:
            select = "SELECT extract(epoch FROM due_at - now()) FROM chunks WHERE send_id = $1 AND claims = $2"

            async def waits(select: str = select) -> float:
                left = await floor.db.fetchval(select, send.id, len(waited) + 1)
                return max(float(left or 0), 0.0)

            waited.append(await eventually(waits))
            await floor.bring_all_forward()
        floor.channel.wrong = False
        assert (await floor.closed(send)).reasons == {"rejected": {"parked": 1}}
    assert all(most - 1 < left <= most for left, most in zip(waited, BLAME_S, strict=True)), waited


async def test_a_chunk_is_parked_although_nothing_of_its_month_was_ever_recorded(floor: Floor) -> None:
    """F-M6 on the first of the month: the partition is made by whoever writes first."""
    floor.channel.wrong = True
    send = await floor.submit(people(behaves.OK))
    partitions = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'deliveries'::regclass"
    for row in await floor.db.fetch(partitions):
        await floor.db.execute(f"DROP TABLE {row[0]}")
    floor.db.partitions.clear()
    async with serving(floor.planner()):
        await eventually(lambda: _planned(floor, send.id))
    await floor.db.execute("UPDATE chunks SET claims = 5 WHERE send_id = $1", send.id)
    async with serving(floor.dispatcher(), floor.accountant()):
        assert (await floor.closed(send)).reasons == {"rejected": {"parked": 1}}
    assert await floor.db.fetchval("SELECT claims FROM chunks WHERE send_id = $1", send.id) == 6, "at the first go"


async def test_suspects_fly_one_at_a_time(floor: Floor) -> None:
    """F-M6: beside a chunk that kills its workers others must not be parked; a fresh one is not held up."""
    worker = floor.dispatcher()
    async with serving(floor.planner(), floor.accountant()):
        async with serving(floor.dispatcher()):
            await warm(floor)
        send = await floor.submit(people(*[behaves.OK] * 12))
        await eventually(lambda: _planned(floor, send.id))
        await floor.db.execute("UPDATE chunks SET claims = 2 WHERE send_id = $1", send.id)
        fresh = people(behaves.OK)
        most = 0

        async def ended() -> bool:
            nonlocal most
            most = max(most, sum(flight.chunk.send == send.id for flight in worker._flights.values()))
            return await floor.status(send) == "sent"

        floor.provider.hold = asyncio.Event()
        floor.provider.spared.update(fresh)
        floor.channel.lanes[(other := OrgId(new_id()))] = "loop:2"
        async with serving(worker):
            await eventually(lambda: floor.provider.open_requests)
            assert (await floor.closed(await floor.submit(fresh, org=other))).accepted == 1
            assert not await ended()
            floor.provider.hold.set()
            await eventually(ended, 40, poll_s=0.001)
    assert most == 1


async def test_a_tenant_whose_provider_hangs_leaves_the_others_a_way(floor: Floor) -> None:
    """Promise 5: whatever is in flight of one tenant, another's first chunk is taken up at once and goes out."""
    floor.with_dispatch(window_bulk=400)
    hangs = [UUID(bytes=bytes([i % 2]) + recipient(behaves.OK).bytes[1:]) for i in range(2_000)]
    other = OrgId(new_id())
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        await warm(floor)
        floor.provider.hold = asyncio.Event()
        await floor.submit(hangs)
        await eventually(lambda: floor.provider.open_requests == STREAMS)
        who = people(behaves.OK)
        floor.provider.spared.update(who)
        floor.channel.lanes[other] = "loop:2"
        code = await floor.submit(who, org=other)
        assert (await floor.closed(code, 8)).accepted == 1
        assert floor.provider.open_requests == STREAMS, "still hanging"
        floor.provider.hold.set()


async def test_what_waited_for_its_lane_until_the_end_of_the_send_is_not_sent(floor: Floor) -> None:
    """F-V2: decided in time, and its turn comes after the send's end."""
    who = people(*[behaves.OK] * 300)
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        await warm(floor)
        floor.provider.hold = asyncio.Event()
        send = await floor.submit(who, ttl_s=5)
        await eventually(lambda: floor.provider.open_requests == STREAMS)
        await eventually(lambda: floor.kernel.clock.now() > send.expires_at)
        floor.provider.hold.set()
        said = await floor.closed(send)
    assert (said.accepted, said.expired, said.repeated) == (STREAMS, 300 - STREAMS, 0)
    assert sum(floor.provider.seen[one] for one in who) == STREAMS


async def test_a_provider_that_is_down_is_left_alone_and_costs_no_rows(floor: Floor) -> None:
    """The circuit opens; what waits for it waits as chunks, and goes out when the provider is back."""
    url, floor.provider.url = floor.provider.url, f"http://{DEAD_PORT}"
    who = people(*[behaves.OK] * 64)
    send = await floor.submit(who)
    worker = floor.dispatcher()
    async with serving(floor.planner(), worker, floor.accountant()):

        async def waits() -> bool:
            held = await floor.db.fetchval(
                "SELECT count(*) FROM chunks WHERE send_id = $1 AND closed_at IS NULL AND due_at > now()", send.id
            )
            return held > 0 and worker.windows["bulk"].taken == 0

        await eventually(waits)
        floor.provider.url = url
        said = await floor.closed(send, 40)
    assert (said.accepted, said.repeated) == (64, 0)
    assert all(floor.provider.seen[one] == 1 for one in who)


async def test_whoever_lost_the_shard_writes_nothing(floor: Floor) -> None:
    """F-D4: an epoch that has moved on makes every mark and outcome of the former owner void."""
    who = people(*[behaves.OK] * 40)
    worker = floor.dispatcher()
    async with serving(floor.planner(), worker, floor.accountant()) as tasks:
        await warm(floor)
        floor.provider.hold = asyncio.Event()
        send = await floor.submit(who)
        await eventually(lambda: floor.provider.open_requests == 40)
        await floor.db.execute("UPDATE shard_leases SET holder = 'somebody else', epoch = epoch + 1")
        floor.provider.hold.set()
        await eventually(lambda: worker.windows["bulk"].taken == 0)
        assert await floor.db.fetchval("SELECT count(*) FROM deliveries WHERE send_id = $1", send.id) == 0
        assert not any(task.done() for task in tasks)
    assert not await floor.db.fetchval(
        "SELECT count(*) FROM chunks WHERE send_id = $1 AND closed_at IS NOT NULL", send.id
    )
    assert floor.kernel.metrics.value("dispatch_lease_lost") > 0

    await floor.leases_run_out()
    floor.provider.hold = None
    async with serving(floor.dispatcher(), floor.accountant()):
        said = await floor.closed(send)
    assert (said.accepted, said.repeated) == (40, 40)


async def test_a_drain_loses_and_repeats_nobody(floor: Floor) -> None:
    """F-D7: SIGTERM in the middle: what is on the wire is recorded, the rest goes to the next worker at once."""
    floor.with_dispatch(window_bulk=30)
    who = people(*[behaves.OK] * 300)
    send = await floor.submit(who)
    async with serving(floor.planner(), floor.dispatcher()):
        await eventually(lambda: floor.provider.seen.total() >= 50)
    assert floor.provider.seen.total() < 300
    assert await floor.db.fetchval("SELECT count(*) FROM shard_leases WHERE holder IS NOT NULL") == 0
    assert await floor.db.fetchval("SELECT max(claims) FROM chunks WHERE closed_at IS NULL") == 0
    async with serving(floor.dispatcher(), floor.accountant()):
        said = await floor.closed(send)
    assert (said.accepted, said.repeated) == (300, 0)
    assert all(floor.provider.seen[one] == 1 for one in who)


async def test_workers_come_and_go_in_the_middle_of_a_broadcast(floor: Floor) -> None:
    """F-D6: leases move, work does not: nobody is sent to twice."""
    floor.with_dispatch(window_bulk=40)
    who = people(*[behaves.OK] * 1_200)
    send = await floor.submit(who)
    first, second = floor.dispatcher(), floor.dispatcher()
    async with serving(floor.accountant(), floor.planner(), first):
        await eventually(lambda: floor.provider.seen.total() > 100)
        async with serving(second):
            await eventually(lambda: len(second.shards.held()) >= 30)
            assert not set(first.shards.serving()) & set(second.shards.serving())
            seen = floor.provider.seen.total()
            await eventually(lambda: floor.provider.seen.total() > min(seen + 100, 1_199))
        said = await floor.closed(send)
    assert (said.accepted, said.repeated, said.unknown) == (1_200, 0, 0)
    assert all(floor.provider.seen[one] == 1 for one in who)


async def test_frequency_caps_hold_over_sends_and_owners(floor: Floor) -> None:
    """B111, C37, F-R2: three devices of a person are one send; the next send of the day is suppressed, also by an owner
    that only has the ledger to go by."""
    capped = {"policy": {"capDay": 1}, "person": "ada"}
    shard = b"\x07"
    devices = [UUID(bytes=shard + recipient(behaves.OK).bytes[1:]) for _ in range(3)]
    first = await floor.submit(devices, content=capped)
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        assert (await floor.closed(first)).accepted == 3
    second = await floor.submit(devices, content=capped)
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        said = await floor.closed(second)
    assert said.reasons == {"suppressed": {"frequency_cap": 3}}


async def test_a_send_whose_time_is_over_reaches_nobody(floor: Floor) -> None:
    """F-V2: never after the send's end; and the reason is its time."""
    who = people(*[behaves.OK] * 5)
    send = await floor.submit(who)
    await floor.db.execute("UPDATE sends SET expires_at = now() - interval '1 s' WHERE id = $1", send.id)
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        said = await floor.closed(send)
    assert said.reasons == {"expired": {"ttl": 5}}
    assert not floor.provider.seen


async def test_many_seeds_of_death(floor: Floor) -> None:
    """F-D5 in small: workers die again and again at random steps; nobody is lost, and each repetition is said."""
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    floor.with_dispatch(window_bulk=48)
    who = people(*(chance.choice([behaves.OK] * 6 + [behaves.BUSY_ONCE, behaves.GONE]) for _ in range(600)))
    send = await floor.submit(who)
    async with serving(floor.planner()):
        await eventually(lambda: _planned(floor, send.id))
    points = [point for point, _ in DEATHS if point.startswith(("dispatch", "ledger"))]
    for _ in range(6):
        await crash(chance.choice(points), floor.dispatcher(), n=chance.randrange(1, 12))
        failpoint.disarm()
        await floor.leases_run_out()
        await floor.db.execute("UPDATE chunks SET claims = 0")  # Deaths in a row are the test's doing, not the chunks'.
    async with serving(floor.dispatcher(), floor.accountant()):
        said = await floor.closed(send)
    assert_balanced(said, 600)
    ends = await floor.states(send)
    tries = Counter(dict.fromkeys(who, 1))
    for one in who:
        tries[one] += behaviour(one) == behaves.BUSY_ONCE
    repeated = {one for one in who if floor.provider.seen[one] > tries[one]}
    told = {one for one, (_, twice) in ends.items() if twice}
    assert repeated <= told, f"seed {seed}"
    assert said.open == said.unknown == 0, f"seed {seed}"
    assert len(told) <= 6 * 48, f"seed {seed}"


async def test_quiet_hours_go_on_as_a_chunk_of_the_same_try(floor: Floor) -> None:
    """B108, design 4: deferred by quiet hours, still open, and planned only once."""
    now = floor.kernel.clock.now()
    quiet = {"quietStart": (now.hour - 1) % 24, "quietEnd": (now + timedelta(hours=2)).hour, "defaultZone": "UTC"}
    send = await floor.submit(people(behaves.OK, behaves.OK), ttl_s=6 * 3_600, content={"policy": quiet})
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):

        async def deferred() -> bool:
            rows = await floor.db.fetch(
                "SELECT attempt, due_at > now() AS later FROM chunks WHERE send_id = $1 AND NOT planned", send.id
            )
            return sum(1 for row in rows if row["attempt"] == 1 and row["later"]) == len(rows) > 0

        await eventually(deferred)

        async def all_deferred() -> bool:
            said = await floor.balance(send)
            assert_balanced(said, 2)
            open_chunks = await floor.db.fetchval(
                "SELECT count(*) FROM chunks WHERE send_id = $1 AND planned AND closed_at IS NULL", send.id
            )
            return said.open == 2 and open_chunks == 0

        assert await eventually(all_deferred)
        assert not floor.provider.seen
