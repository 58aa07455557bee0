"""A chunk as a shipment: the library's outcomes against those of the builders and readers in Python."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.api import Api
from tests.make import Make, Org
from tests.modules.push.conftest import APNS
from tests.modules.push.test_channel import CHANNEL, asked, chunk_of, devices

from sendora import _core
from sendora.delivery.channel import Shipped
from sendora.delivery.lanes import NativeLanes
from sendora.delivery.phases import Chunk, Send
from sendora.kernel.clock import millis
from sendora.kernel.life import Kernel
from sendora.modules.push.channel import PushSending


@pytest.fixture
async def shop(api: Api, org: Org) -> Org:
    assert (await api.put("/push/providers/apns", APNS, key=org.sk)).status == 200
    return org


@pytest.fixture
async def lanes(kernel: Kernel) -> AsyncIterator[NativeLanes]:
    async with NativeLanes(kernel) as lanes:
        yield lanes


@asynccontextmanager
async def shipped(
    kernel: Kernel, lanes: NativeLanes, send: Send, chunk: Chunk
) -> AsyncIterator[tuple[PushSending, Shipped]]:
    sending = await CHANNEL.open(kernel, send)
    assert sending.ships
    async with kernel.db.acquire() as connection:
        rows = await sending.rows(connection, chunk)
    yield sending, await sending.ship(lanes.core, chunk, rows, None, millis(datetime.now(UTC)))


async def counted(shipment: _core.Shipment) -> dict[tuple[str, str], int]:
    """State and reason of everybody, once all have one."""
    found: dict[tuple[str, str], int] = {}
    while True:
        outcomes, _ended, _renewing, left, _halted = shipment.take()
        for state, reason, n in outcomes.counts():
            found[state, reason] = found.get((state, reason), 0) + n
        if not left:
            return found
        await asyncio.sleep(0.01)


@pytest.mark.rule("C43")
async def test_who_is_not_sent_to_has_an_outcome_at_once(
    api: Api, kernel: Kernel, make: Make, shop: Org, lanes: NativeLanes
) -> None:
    """C43: no credential for Android; an inactive device is suppressed; nobody waits for a lane to hear so."""
    ios, off = await devices(make, shop, "anna", "anna")
    (android,) = await devices(make, shop, "anna", platform="android")
    await api.delete(f"/push/tokens/{off}", key=shop.pk)
    send = await asked(api, kernel, shop, userIds=["anna"])
    chunk = await chunk_of(kernel, send, [ios, off, android, uuid4()])
    async with shipped(kernel, lanes, send, chunk) as (_, made):
        outcomes, ended, renewing, left, halted = made.shipment.take()
        assert {(state, reason): n for state, reason, n in outcomes.counts()} == {
            ("suppressed", "inactive_token"): 1,
            ("suppressed", "token_removed"): 1,
            ("rejected", "no_credential"): 1,
        }
        assert (ended, renewing, left, halted) == ([], [], 1, [])
        shipment = made.shipment
        assert (shipment.waiting(), shipment.mark(1)) == (1, 1)
        ((lane, n),) = shipment.lanes(10)
        assert (lane.split(":")[0], n) == ("apns", 1)
        assert (shipment.fit({lane: 5}), shipment.fit({}), shipment.fit({lane: 0})) == (1, 0, 0)


async def test_a_closed_gate_lets_nothing_of_a_shipment_leave(
    api: Api, kernel: Kernel, make: Make, shop: Org, lanes: NativeLanes
) -> None:
    """F-D4: without a deadline it is unsent, which is proved, and it goes on later without having been tried."""
    whom = await devices(make, shop, *["anna"] * 3)
    send = await asked(api, kernel, shop, userIds=["anna"])
    chunk = await chunk_of(kernel, send, whom)
    async with shipped(kernel, lanes, send, chunk) as (_, made):
        made.shipment.admit(3)
        outcomes = await counted(made.shipment)
        assert {state for state, _ in outcomes} == {"deferred"}
        assert sum(outcomes.values()) == 3


@pytest.mark.parametrize(("delivery", "expected"), [("at_most_once", ("unknown", "worker_lost")), (None, None)])
async def test_who_may_have_been_sent_is_repeated_only_where_the_send_allows_it(
    api: Api,
    kernel: Kernel,
    make: Make,
    shop: Org,
    lanes: NativeLanes,
    delivery: str | None,
    expected: tuple[str, str] | None,
) -> None:
    """Promise 3: below the mark without an outcome."""
    whom = await devices(make, shop, *["anna"] * 3)
    said: dict[str, Any] = {"delivery": delivery} if delivery else {}
    send = await asked(api, kernel, shop, userIds=["anna"], **said)
    chunk = await chunk_of(kernel, send, whom)
    await kernel.db.execute("UPDATE chunks SET started = 2 WHERE send_id = $1", send.id)
    marked = Chunk(**{name: getattr(chunk, name) for name in chunk.__struct_fields__} | {"started": 2})
    async with shipped(kernel, lanes, send, marked) as (_, made):
        outcomes, _, _, left, _ = made.shipment.take()
        if expected is None:
            assert (len(outcomes), left, made.shipment.waiting()) == (0, 3, 3)
        else:
            assert outcomes.counts() == [(*expected, 2)]
            assert (left, made.shipment.waiting(), made.shipment.mark(1)) == (1, 1, 3)


async def test_a_refused_renewal_leaves_the_refusal(
    api: Api, kernel: Kernel, make: Make, shop: Org, lanes: NativeLanes
) -> None:
    """Nobody waits for a token: then a renewal changes nothing, whatever it brings."""
    whom: list[UUID] = await devices(make, shop, "anna")
    send = await asked(api, kernel, shop, userIds=["anna"])
    async with shipped(kernel, lanes, send, await chunk_of(kernel, send, whom)) as (sending, made):
        ((lane, _),) = made.shipment.lanes(1)
        await sending.renew_shipped(made, [lane])
        assert made.shipment.take()[3] == 1
