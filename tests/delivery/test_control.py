"""Pause, resume, stop and retry: nobody twice, nobody lost, whatever happens at the same time."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import eventually
from tests.delivery import provider as behaves
from tests.delivery.channel import NAME
from tests.delivery.conftest import Floor, crash, serving
from tests.delivery.provider import behaviour, recipient

from sendora.delivery import control
from sendora.delivery.account import account_chunks, close_sends, tell_news
from sendora.delivery.phases import TRIES_MAX, Send
from sendora.delivery.report import counts, reconcile
from sendora.delivery.store import find_send
from sendora.delivery.submit import cancel
from sendora.kernel.errors import Conflict, NotFound
from sendora.kernel.ids import OrgId, ProjectId, new_id

Step = Callable[..., Awaitable[Any]]


def people(*behaviours: int, shard: int | None = None) -> list[UUID]:
    made = [recipient(one) for one in behaviours]
    return made if shard is None else [UUID(bytes=bytes([shard]) + one.bytes[1:]) for one in made]


async def planned(floor: Floor, send: Send) -> None:
    async def ready() -> bool:
        return await floor.db.fetchval("SELECT planned_at IS NOT NULL FROM sends WHERE id = $1", send.id) is True

    await eventually(ready)


async def refused(step: Step, floor: Floor, send: Send) -> str:
    """Why."""
    with pytest.raises(Conflict) as caught:
        await step(floor.kernel, send.org, send.id)
    details: dict[str, Any] = caught.value.details
    reason: str = details["reason"]
    return reason


# -- pause and resume


@pytest.mark.rule("C96")
async def test_a_pause_stops_at_the_window(floor: Floor) -> None:
    """Design 4: once the pause is committed nobody leaves but those whom the window already held; resumed, the send
    goes on with the others, and nobody hears twice."""
    floor.with_dispatch(window_bulk=20)
    floor.provider.hold = asyncio.Event()
    who = people(*[behaves.OK] * 300)
    send = await floor.submit(who)
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        await planned(floor, send)
        await eventually(lambda: floor.provider.open_requests > 0)
        assert (await control.pause(floor.kernel, send.org, send.id)).status == "paused"
        floor.provider.hold.set()

        async def rests() -> bool:
            marked, recorded = await floor.db.fetchrow(  # type: ignore[misc]
                "SELECT (SELECT sum(started) FROM chunks WHERE send_id = $1),"
                " (SELECT count(*) FROM deliveries WHERE send_id = $1)",
                send.id,
            )
            return bool(marked == recorded)

        await eventually(rests)
        heard = sum(floor.provider.seen.values())
        assert 0 < heard <= 20
        said = await floor.balance(send)
        assert (said.accepted, said.open) == (heard, 300 - heard)
        # Whatever the workers do from here on, they do nothing for this send: a second one closes beside it.
        await floor.closed(await floor.submit(people(*[behaves.OK] * 50)))
        assert (await floor.balance(send)).accepted == heard
        assert (await control.resume(floor.kernel, send.org, send.id)).status == "sending"
        said = await floor.closed(send)
    assert (said.accepted, said.repeated, said.open) == (300, 0, 0)
    assert all(floor.provider.seen[one] == 1 for one in who)


@pytest.mark.rule("C96")
async def test_a_pause_while_it_is_planned(floor: Floor) -> None:
    """The plan goes on, nobody is sent to, and the send is none the worse for it."""
    who = people(*[behaves.OK] * 100)
    send = await floor.submit(who)
    await control.pause(floor.kernel, send.org, send.id)
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        await planned(floor, send)
        await floor.closed(await floor.submit(people(behaves.OK)))
        assert (await floor.status(send), sum(floor.provider.seen[one] for one in who)) == ("paused", 0)
        assert (await floor.balance(send)).open == 100
        await control.resume(floor.kernel, send.org, send.id)
        assert (await floor.closed(send)).accepted == 100


@pytest.mark.rule("C96")
async def test_a_paused_send_to_nobody_closes_when_it_is_resumed(floor: Floor) -> None:
    send = await floor.submit([])
    await control.pause(floor.kernel, send.org, send.id)
    async with serving(floor.planner(), floor.accountant()):
        await planned(floor, send)
        await close_sends(floor.kernel, [NAME])
        assert await floor.status(send) == "paused"
        await control.resume(floor.kernel, send.org, send.id)
        await floor.closed(send)
    assert await floor.status(send) == "sent"


@pytest.mark.rule("C96", "C61")
async def test_what_is_refused_and_why(floor: Floor) -> None:
    """409 by the status that was met; another org's and another project's send is not found."""
    later = floor.kernel.clock.now().replace(year=2099)
    scheduled = await floor.submit(people(behaves.OK), scheduled_for=later)
    steps: tuple[Step, ...] = (control.pause, control.resume, control.stop, control.retry_failed)
    for step, reason in zip(steps, ("not_started",) * 3 + ("nothing_to_retry",), strict=True):
        assert await refused(step, floor, scheduled) == reason
    queued = await floor.submit(people(behaves.OK))
    assert await refused(control.resume, floor, queued) == "not_paused"
    await control.pause(floor.kernel, queued.org, queued.id)
    assert await refused(control.pause, floor, queued) == "already_paused"
    await control.stop(floor.kernel, queued.org, queued.id)
    assert (await control.stop(floor.kernel, queued.org, queued.id)).status == "sending", "as often as one likes"
    for step in (control.pause, control.resume):
        assert await refused(step, floor, queued) == "stopping"
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        await floor.closed(queued)
    for step, reason in zip(steps, ("already_closed",) * 3 + ("nothing_to_retry",), strict=True):
        assert await refused(step, floor, queued) == reason
    await cancel(floor.kernel, floor.org, scheduled.id)
    for step in steps[:3]:
        assert await refused(step, floor, scheduled) == "already_cancelled"
    for step in steps:
        with pytest.raises(NotFound):
            await step(floor.kernel, OrgId(new_id()), queued.id)
        with pytest.raises(NotFound):
            await step(floor.kernel, queued.org, queued.id, project=ProjectId(new_id()))


# -- stop


@pytest.mark.rule("C96")
async def test_a_stop_while_it_runs(floor: Floor) -> None:
    """Who is on the wire finishes, the rest is suppressed by name, and the balance holds."""
    floor.with_dispatch(window_bulk=20)
    floor.provider.hold = asyncio.Event()
    who = people(*[behaves.OK] * 300)
    send = await floor.submit(who)
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        await eventually(lambda: floor.provider.open_requests > 0)
        assert (await control.stop(floor.kernel, send.org, send.id)).status == "sending"
        floor.provider.hold.set()
        said = await floor.closed(send)
    heard = sum(floor.provider.seen.values())
    assert 0 < heard <= 20
    assert (said.targeted, said.accepted, said.suppressed, said.open) == (300, heard, 300 - heard, 0)
    assert said.reasons == {"suppressed": {"stopped": 300 - heard}}
    assert await floor.status(send) == "sent"
    assert {one for one, (state, _) in (await floor.states(send)).items() if state == "accepted"} == set(
        floor.provider.seen
    )


@pytest.mark.rule("C96")
@pytest.mark.parametrize("pause", [False, True])
async def test_a_stop_before_it_is_planned(floor: Floor, pause: bool) -> None:
    """Everybody the send was for is named as stopped, be it queued or paused; nobody hears of it."""
    who = people(*[behaves.OK] * 50)
    send = await floor.submit(who)
    if pause:
        await control.pause(floor.kernel, send.org, send.id)
    await control.stop(floor.kernel, send.org, send.id)
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        said = await floor.closed(send)
    assert (said.targeted, said.suppressed, said.open) == (50, 50, 0)
    assert said.reasons == {"suppressed": {"stopped": 50}}
    assert (await floor.status(send), sum(floor.provider.seen.values())) == ("suppressed", 0)


@pytest.mark.rule("C96")
async def test_a_stop_ends_what_waits_for_later(floor: Floor) -> None:
    """Whoever waits for a next try is stopped now and not when it is due; who was written to without an answer may have
    it, and is unknown."""
    who = people(behaves.ALWAYS_BUSY, behaves.CUT_ONCE)
    send = await floor.submit(who)
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):

        async def waiting() -> bool:
            # Before the dispatcher comes by again.
            moved = await floor.db.fetch(
                "UPDATE chunks SET due_at = now() + interval '1 hour'"
                " WHERE send_id = $1 AND attempt > 1 AND closed_at IS NULL RETURNING 1",
                send.id,
            )
            return len(moved) == 2 and all(floor.provider.seen[one] for one in who)

        await eventually(waiting)
        await control.stop(floor.kernel, send.org, send.id)

        async def ended() -> bool:
            return await floor.status(send) == "failed"

        await eventually(ended)
    assert (await floor.balance(send)).reasons == {"suppressed": {"stopped": 1}, "unknown": {"stopped": 1}}


@pytest.mark.rule("C96")
@pytest.mark.parametrize(("point", "n"), [("dispatch.after_write", 5), ("ledger.before_commit", 3)])
async def test_a_stop_is_finished_by_whoever_is_left(floor: Floor, point: str, n: int) -> None:
    """The worker dies with requests on the wire, the send is stopped, and nobody who asked is there any more: the next
    owner of the shards ends it. Whoever was on the wire is unknown, by name."""
    floor.with_dispatch(window_bulk=20)
    send = await floor.submit(people(*[behaves.OK] * 100))
    await crash(point, floor.planner(), floor.dispatcher(), n=n)
    await control.stop(floor.kernel, send.org, send.id)
    await floor.leases_run_out()
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        said = await floor.closed(send)
    assert said.targeted == said.accepted + said.suppressed + said.unknown == 100
    assert set(said.reasons["suppressed"]) == {"stopped"}
    assert set(said.reasons.get("unknown", {})) <= {"worker_lost"}
    ends = await floor.states(send)
    for one, times in floor.provider.seen.items():
        assert times == 1 and ends[one][0] in ("accepted", "unknown")


@pytest.mark.rule("C96")
async def test_a_stop_that_was_half_done(floor: Floor) -> None:
    """The worker dies between two chunks that it closes: what it has closed stays, the rest is closed by the next."""
    who = people(*[behaves.OK] * 200)
    send = await floor.submit(who)
    await control.stop(floor.kernel, send.org, send.id)
    async with serving(floor.planner()):
        await planned(floor, send)
    await crash("dispatch.mid_end", floor.dispatcher(), n=30)
    assert 0 < (await floor.balance(send)).suppressed < 200
    await floor.leases_run_out()
    async with serving(floor.dispatcher(), floor.accountant()):
        assert (await floor.closed(send)).reasons == {"suppressed": {"stopped": 200}}
    assert len(await floor.states(send)) == 200


# -- retry


@pytest.mark.rule("C96")
async def test_a_retry_of_a_closed_send(floor: Floor) -> None:
    """Who failed for a reason that may pass goes on in the same send, one attempt further; who was refused for good
    does not. The ledger keeps both rows and counts one, and so do the counters."""
    who = people(behaves.ALWAYS_BUSY, behaves.ALWAYS_BUSY, behaves.GONE, behaves.OK, behaves.ALWAYS_CUT)
    send = await floor.submit(who)
    services = floor.planner(), floor.dispatcher(), floor.accountant()
    async with serving(*services):
        await floor.closed(send)
        before = await find_send(floor.db, send.org, send.id)
        assert before is not None
        busy, cut = who[:2], who[4]
        for one in (*busy, cut):
            floor.provider.mended.add(one)
        opened, retried = await control.retry_failed(floor.kernel, send.org, send.id)
        assert (opened.status, opened.closed_at, retried) == ("sending", None, 3)
        assert opened.expires_at > before.expires_at, "its time begins anew"
        said = await floor.closed(send)
    assert (said.targeted, said.accepted, said.rejected, said.unknown, said.repeated) == (5, 4, 1, 0, 1)
    assert said.reasons == {"rejected": {"http_410": 1}}
    ends = await floor.states(send)
    assert {one: ends[one] for one in (*busy, cut)} == {
        **dict.fromkeys(busy, ("accepted", False)),
        cut: ("accepted", True),
    }
    attempts = await floor.db.fetch(
        "SELECT attempt FROM deliveries WHERE send_id = $1 AND state = 'accepted' AND recipient = ANY($2)",
        send.id,
        busy,
    )
    assert [row["attempt"] for row in attempts] == [TRIES_MAX + 1] * 2
    await counters_agree(floor, send)
    assert await floor.status(send) == "sent"
    assert await refused(control.retry_failed, floor, send) == "nothing_to_retry"


@pytest.mark.rule("C96")
async def test_unknown_ones_are_left_alone_at_most_once(floor: Floor) -> None:
    send = await floor.submit(people(behaves.CUT_ONCE, behaves.OK), delivery="at_most_once")
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        assert (await floor.closed(send)).unknown == 1
        assert await refused(control.retry_failed, floor, send) == "nothing_to_retry"
    assert (await floor.balance(send)).unknown == 1


@pytest.mark.rule("C96")
async def test_only_the_reasons_that_are_named(floor: Floor) -> None:
    """What is named is taken at its word; what the channel says may pass is taken without being named."""
    who = people(behaves.GONE, behaves.GONE, behaves.ALWAYS_BUSY)
    send = await floor.submit(who)

    async def retry(**said: Any) -> int:
        _, retried = await control.retry_failed(floor.kernel, send.org, send.id, **said)
        await floor.closed(send)
        return retried

    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        await floor.closed(send)
        with pytest.raises(Conflict):
            await retry(reasons=["no_such_reason"])
        assert await retry(reasons=["http_410", "http_410"]) == 2
        assert await retry() == 1
        assert await retry(passing=["http_410"]) == 3
        said = await floor.balance(send)
    assert said.reasons == {"rejected": {"http_410": 2, "retries_exhausted": 1}}
    assert floor.provider.seen[who[2]] == 3 * TRIES_MAX, "each retry has all tries anew"
    await floor.db.execute("UPDATE deliveries SET attempt = 30000 WHERE send_id = $1 AND state = 'rejected'", send.id)
    assert await refused(control.retry_failed, floor, send) == "nothing_to_retry", "an attempt is a small number"
    await counters_agree(floor, send)


@pytest.mark.rule("C96")
async def test_a_retry_of_many(floor: Floor) -> None:
    """More than one transaction's worth of one shard, asked for by several at once: each recipient once."""
    who = people(*[behaves.GONE] * 2_300, shard=5)
    send = await floor.submit(who)
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        await floor.closed(send)
        asked = [control.retry_failed(floor.kernel, send.org, send.id, reasons=["http_410"]) for _ in range(3)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        retried = [answer[1] for answer in answers if isinstance(answer, tuple)]
        assert all(isinstance(answer, tuple | Conflict) for answer in answers), answers
        said = await floor.closed(send)
    assert said.rejected == 2_300
    assert sum(floor.provider.seen.values()) == 2_300 + sum(retried)
    assert sum(retried) >= 2_300
    await counters_agree(floor, send)


@pytest.mark.rule("C96")
async def test_what_expired_has_time_again(floor: Floor) -> None:
    """A retry gives a send the time that it had, and a worker that has it in memory knows."""
    who = people(*[behaves.OK] * 3)
    send = await floor.submit(who, ttl_s=600)
    await floor.db.execute(
        "UPDATE sends SET created_at = now() - interval '1 hour', expires_at = now() - interval '50 minutes'"
    )
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        assert (await floor.closed(send)).reasons == {"expired": {"ttl": 3}}
        assert await floor.status(send) == "failed"
        opened, retried = await control.retry_failed(floor.kernel, send.org, send.id)
        left_s = (opened.expires_at - floor.kernel.clock.now()).total_seconds()
        assert (retried, 590 < left_s <= 600) == (3, True)
        assert (await floor.closed(send)).accepted == 3


# -- too late


@pytest.mark.rule("C96")
async def test_who_would_leave_too_late_is_expired(floor: Floor) -> None:
    """maxLatenessSeconds: counted from when the send was due, whatever its lifetime; by name and with a reason."""
    send = await floor.submit(people(*[behaves.OK] * 70), late_s=60)
    prompt = await floor.submit(people(behaves.OK), late_s=60)
    await floor.db.execute("UPDATE sends SET late_at = now() WHERE id = $1", send.id)
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        assert (await floor.closed(send)).reasons == {"expired": {"late": 70}}
        assert (await floor.closed(prompt)).accepted == 1
    assert (await floor.status(send), sum(floor.provider.seen.values())) == ("failed", 1)


@pytest.mark.rule("C96")
async def test_a_chunk_that_becomes_late_stops_at_the_window(floor: Floor) -> None:
    floor.with_dispatch(window_bulk=20)
    floor.provider.hold = asyncio.Event()
    send = await floor.submit(people(*[behaves.OK] * 100), late_s=2)
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        await eventually(lambda: floor.provider.open_requests > 0)

        async def late() -> bool:
            return bool(await floor.db.fetchval("SELECT late_at < now() FROM sends WHERE id = $1", send.id))

        await eventually(late)
        floor.provider.hold.set()
        said = await floor.closed(send)
    heard = sum(floor.provider.seen.values())
    assert (said.accepted, said.expired) == (heard, 100 - heard)
    assert 0 < heard <= 20
    assert said.reasons == {"expired": {"late": 100 - heard}}


# -- everything at once


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5, 6]), min_size=20, max_size=150),
    st.lists(st.sampled_from(["pause", "resume", "stop", "retry"]), min_size=4, max_size=25),
    st.sampled_from(["at_least_once", "at_most_once"]),
    st.randoms(use_true_random=False),
)
async def test_whatever_callers_do_at_once(
    floor: Floor, behaviours: list[int], steps: list[str], delivery: Any, chance: random.Random
) -> None:
    """Promises 2 and 3 under several callers: every recipient ends once, what was accepted was asked for, and nobody
    was asked twice but those of whom the ledger says so."""
    floor.with_dispatch(window_bulk=15)
    who = people(*behaviours)
    send = await floor.submit(who, delivery=delivery)
    by_name: dict[str, Step] = {
        "pause": control.pause,
        "resume": control.resume,
        "stop": control.stop,
        "retry": control.retry_failed,
    }

    async def caller(theirs: list[str]) -> None:
        for name in theirs:
            for _ in range(chance.randrange(20)):
                await asyncio.sleep(0)
            with suppress(Conflict):
                await by_name[name](floor.kernel, send.org, send.id)

    services = floor.planner(), floor.dispatcher("0-31"), floor.dispatcher("32-63"), floor.accountant()
    async with serving(*services):
        await asyncio.gather(*(caller(steps[start::3]) for start in range(3)))
        with suppress(Conflict):
            await control.resume(floor.kernel, send.org, send.id)
        said = await floor.closed(send)
    ended = said.accepted + said.rejected + said.suppressed + said.expired + said.unknown
    assert (said.targeted, ended, said.open) == (len(who), len(who), 0)
    ends = await floor.states(send)
    assert set(ends) == set(who)
    tries: dict[UUID, list[bool]] = {}
    for row in await floor.db.fetch(
        "SELECT recipient, state, reason, repeated FROM deliveries WHERE send_id = $1 AND state <> 'suppressed'",
        send.id,
    ):
        tries.setdefault(row["recipient"], []).append(row["repeated"])
    for one, (state, repeated) in ends.items():
        asked = floor.provider.seen[one]
        if state == "accepted":
            assert asked >= 1
        if behaviour(one) == behaves.OK:
            assert asked == (1 if state == "accepted" else 0), (state, asked)
        assert asked <= len(tries.get(one, ())), "each request has its row"
        assert not repeated or delivery == "at_least_once"
    await counters_agree(floor, send)


async def counters_agree(floor: Floor, send: Send) -> None:
    """What lists and statistics read says the same as the ledger."""
    fresh = await find_send(floor.db, send.org, send.id)
    assert fresh is not None
    folded = (await counts(floor.kernel, send.org, [fresh]))[send.id]
    exact = await reconcile(floor.kernel, send.org, send.id)
    for field in folded.__struct_fields__:
        assert getattr(folded, field) == getattr(exact, field), field
    assert not await floor.db.fetch("SELECT FROM send_counts WHERE send_id = $1 AND n <= 0", send.id)


# -- what is told


@pytest.mark.rule("B160")
async def test_what_is_told_of_sends_themselves(floor: Floor) -> None:
    """B160: asked for, scheduled, cancelled: once each, under an id that is theirs; a send that was opened again closes
    under another one."""
    heard: list[tuple[str, str]] = []

    async def hear(message: Any) -> None:
        heard.append((message.subject.rpartition(".")[2], message.headers["Nats-Msg-Id"]))

    subscription = await floor.kernel.bus.client.subscribe(f"lifecycle.{NAME}.>", cb=hear)
    later = await floor.submit(people(behaves.OK), scheduled_for=floor.kernel.clock.now().replace(year=2099))
    await cancel(floor.kernel, floor.org, later.id)
    at_once = await floor.submit(people(behaves.GONE))
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        await floor.closed(at_once)
        await control.retry_failed(floor.kernel, floor.org, at_once.id, reasons=["http_410"])
        await floor.closed(at_once)
    while await account_chunks(floor.kernel, [NAME]) or await tell_news(floor.kernel, [NAME]):
        pass
    await floor.kernel.bus.client.flush()
    await subscription.unsubscribe()
    ids = [id_ for _, id_ in heard]
    assert len(ids) == len(set(ids))
    assert sorted(event for event, id_ in heard if id_.startswith(str(later.id))) == [
        "cancelled", "scheduled", "send_requested",
    ]  # fmt: skip
    assert sorted(event for event, id_ in heard if id_.startswith(str(at_once.id))) == [
        "closed", "closed", "outcomes", "outcomes", "send_requested",
    ]  # fmt: skip
    assert f"{later.id}.cancelled" in ids and f"{at_once.id}.closed" in ids
    assert not await floor.db.fetch("SELECT FROM send_news")


async def test_news_of_a_channel_that_is_not_known_here_are_kept(floor: Floor) -> None:
    await floor.submit([])
    assert [await tell_news(floor.kernel, [channel]) for channel in ("smoke", NAME, NAME)] == [0, 1, 0]
