"""A send in each recipient's own zone: one plan, and chunks that are due when their recipients' clocks say so."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from tests.conftest import eventually
from tests.delivery import provider as behaves
from tests.delivery.conftest import Floor, crash, serving
from tests.delivery.provider import recipient

from sendora.delivery import failpoint
from sendora.delivery.control import retry_failed
from sendora.delivery.phases import Send
from sendora.delivery.recurrence import EARLIEST, instant, zone_of
from sendora.kernel.clock import iso

ZONES = ("Pacific/Kiritimati", "Asia/Kolkata", "Asia/Calcutta", "UTC", "Pacific/Niue")
"""The first and nearly the last to see a day, two names of one zone, and one between."""


def due(local: datetime, zone: str) -> datetime:
    return instant(local, zone_of(zone))


def crowd(n: int) -> list[UUID]:
    return [UUID(bytes=bytes([5]) + recipient(behaves.OK).bytes[1:]) for _ in range(n)]


async def own_zone(floor: Floor, who: Sequence[UUID], local: datetime, **options: Any) -> Send:
    zones = {one: ZONES[n % len(ZONES)] for n, one in enumerate(who)}
    return await floor.submit(who, scheduled_for=instant(local, EARLIEST), local_at=local, zones=zones, **options)


async def planned(floor: Floor, send: Send) -> bool:
    return await floor.db.fetchval("SELECT planned_at IS NOT NULL FROM sends WHERE id = $1", send.id) is True


async def due_of_everybody(floor: Floor, send: Send) -> dict[UUID, tuple[datetime, datetime]]:
    rows = await floor.db.fetch("SELECT recipients, due_at, own_at FROM chunks WHERE send_id = $1", send.id)
    found = {one: (row["due_at"], row["own_at"]) for row in rows for one in row["recipients"]}
    assert len(found) == sum(len(row["recipients"]) for row in rows), "somebody is planned twice"
    return found


def an_hour_ago_at_the_earliest() -> datetime:
    """Nobody else's clock shows it for another nine hours."""
    return datetime.now(EARLIEST).replace(tzinfo=None, microsecond=0) - timedelta(hours=1)


@pytest.mark.rule("B096", "C91")
async def test_everybody_is_due_at_their_own_time(floor: Floor) -> None:
    """One plan; who is due later waits in the queue as a chunk; for whom the time has passed at the call it is now."""
    local = an_hour_ago_at_the_earliest()
    who = crowd(2_500)
    send = await own_zone(floor, who, local)
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        await eventually(lambda: planned(floor, send))
        first = [one for n, one in enumerate(who) if n % len(ZONES) == 0]

        async def sent() -> bool:
            balance = await floor.balance(send)
            assert balance.accepted == len(first), balance
            return True

        await eventually(sent, 30)
        balance = await floor.balance(send)
    assert (balance.targeted, balance.open) == (2_500, 2_000)
    assert {one for one, n in floor.provider.seen.items() if n} == set(first)
    found = await due_of_everybody(floor, send)
    now = await floor.db.fetchval("SELECT now()")
    kolkata = due(local, "Asia/Kolkata")
    for n, one in enumerate(who):
        due_at, own_at = found[one]
        assert own_at == due(local, ZONES[n % len(ZONES)])
        assert due_at == own_at if own_at > now else due_at >= send.created_at
    chunks = await floor.db.fetch("SELECT size FROM chunks WHERE send_id = $1 AND own_at = $2", send.id, kolkata)
    assert len(chunks) <= 3 and sum(row["size"] for row in chunks) == 1_000, "zones of one time share chunks"
    assert await floor.status(send) == "sending"


@pytest.mark.parametrize(("point", "n"), [("plan.mid_insert", 2), ("plan.after_commit", 1), ("plan.after_commit", 2)])
async def test_after_a_planners_death_nobody_is_planned_twice_or_missed(floor: Floor, point: str, n: int) -> None:
    """F-L1 to F-L4, also when their zones have changed in between: whoever is planned keeps their time."""
    who = crowd(3_000)
    send = await own_zone(floor, who, an_hour_ago_at_the_earliest())
    await crash(point, floor.planner(), n=n)
    failpoint.disarm()
    before = await due_of_everybody(floor, send)
    await floor.leases_run_out()
    zones = {str(one): "America/Lima" for one in who}
    await floor.db.execute("UPDATE sends SET target = jsonb_set(target, '{zones}', $2) WHERE id = $1", send.id, zones)
    async with serving(floor.planner()):
        await eventually(lambda: planned(floor, send))
    after = await due_of_everybody(floor, send)
    assert set(after) == set(who)
    assert {one: after[one] for one in before} == before


async def test_the_lifetime_counts_from_their_own_time(floor: Floor) -> None:
    """Long after the send's own lifetime, and still in their own; and past their own, although it is one send."""
    local = an_hour_ago_at_the_earliest()
    early, late, retried, gone = (recipient(one) for one in (behaves.OK, behaves.OK, behaves.BUSY_ONCE, behaves.OK))
    zones = {early: "Pacific/Kiritimati", late: "UTC", retried: "UTC", gone: "Pacific/Niue"}
    send = await floor.submit(
        list(zones), scheduled_for=instant(local, EARLIEST), local_at=local, zones=zones, ttl_s=600
    )
    async with serving(floor.planner()):
        await eventually(lambda: planned(floor, send))
    # Thirteen hours later it is time where clocks show UTC; and let it be long past in Niue.
    await floor.db.execute(
        "UPDATE sends SET created_at = created_at - interval '13 h', scheduled_for = scheduled_for - interval '13 h',"
        " expires_at = expires_at - interval '13 h'"
    )
    await floor.db.execute(
        "UPDATE chunks SET due_at = now(), own_at = own_at - interval '13 h' * CASE WHEN own_at = $1 THEN 2 ELSE 1 END",
        due(local, "Pacific/Niue"),
    )
    async with serving(floor.dispatcher(), floor.accountant()):
        balance = await floor.closed(send)
    assert balance.reasons == {"expired": {"ttl": 2}}
    assert {one: state for one, (state, _) in (await floor.states(send)).items()} == {
        early: "expired",
        late: "accepted",
        retried: "accepted",
        gone: "expired",
    }
    kept = await floor.db.fetchval("SELECT own_at FROM chunks WHERE send_id = $1 AND NOT planned", send.id)
    assert kept == due(local, "UTC") - timedelta(hours=13), "who goes on takes their time along"


async def test_how_late_counts_from_their_own_time(floor: Floor) -> None:
    """Who is due later has as long as who was due first, and not a moment longer; a retry is counted for all from the
    retry, and takes nothing from those whose time is yet to come."""
    local = an_hour_ago_at_the_earliest()
    first, now, past, ahead = (recipient(behaves.OK) for _ in range(4))
    zones = {first: "Pacific/Kiritimati", now: "UTC", past: "Asia/Tokyo", ahead: "Pacific/Niue"}
    send = await floor.submit(
        list(zones), scheduled_for=instant(local, EARLIEST), local_at=local, zones=zones, late_s=900
    )
    assert send.late_at == send.begins_at + timedelta(seconds=900) and send.begins_at == send.created_at
    async with serving(floor.planner()):
        await eventually(lambda: planned(floor, send))
    # Clocks in UTC show it now, those in Tokyo did nine hours ago, and nobody has been sent to.
    await floor.db.execute(
        "UPDATE sends SET created_at = created_at - $1::interval, scheduled_for = scheduled_for - $1,"
        " expires_at = expires_at - $1, late_at = late_at - $1",
        timedelta(hours=13),
    )
    await floor.db.execute(
        "UPDATE chunks SET own_at = own_at - $1::interval, due_at = greatest(own_at - $1, now())", timedelta(hours=13)
    )
    async with serving(floor.dispatcher(), floor.accountant()):

        async def ended() -> bool:
            assert set(await floor.states(send)) == {first, now, past}
            assert await floor.db.fetchval("SELECT count(*) FROM chunks WHERE NOT accounted") == 1
            return True

        await eventually(ended)
        states = {one: state for one, (state, _) in (await floor.states(send)).items()}
        assert states == {first: "expired", now: "accepted", past: "expired"}
        assert (await floor.balance(send)).reasons == {"expired": {"late": 2}}
        _, retried = await retry_failed(floor.kernel, floor.org, send.id)
        assert retried == 2

        async def again() -> bool:
            assert (await floor.balance(send)).accepted == 3
            return True

        await eventually(again)
        own_at = await floor.db.fetchval("SELECT own_at FROM chunks WHERE closed_at IS NULL")
        assert own_at == due(local, "Pacific/Niue") - timedelta(hours=13)
        # Eleven hours on, a quarter of one and a second too late.
        await floor.db.execute(
            "UPDATE sends SET created_at = created_at - $1::interval, scheduled_for = scheduled_for - $1,"
            " retried_at = retried_at - $1, expires_at = expires_at - $1, late_at = late_at - $1",
            timedelta(hours=12),
        )
        await floor.db.execute(
            "UPDATE chunks SET due_at = now(), own_at = now() - interval '901 s' WHERE closed_at IS NULL"
        )
        assert (await floor.closed(send)).reasons == {"expired": {"late": 1}}


def test_a_lifetime_is_never_counted_from_before_the_call() -> None:
    """Arithmetic of `Send.as_due`: for whom it was too late at the call it is now, as for any send."""
    at = datetime(2026, 11, 28, 12, tzinfo=UTC)
    hour = timedelta(hours=1)
    for scheduled in (at - 3 * hour, at + 3 * hour):
        begins = max(at, scheduled)
        for late in (None, begins + hour / 2):
            send = a_send(begins_at=begins, expires_at=begins + hour, late_at=late)
            assert send.as_due(None) is send
            for own in (at - 9 * hour, at, at + hour, at + 26 * hour):
                due = send.as_due(own)
                assert due.expires_at == max(own, begins) + hour, iso(own)
                assert due.late_at == (late and max(own, begins) + hour / 2), iso(own)


def a_send(**given: Any) -> Send:
    fields: dict[str, Any] = dict.fromkeys(Send.__struct_fields__)
    return Send(**{**fields, **given})
