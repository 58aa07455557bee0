"""Device receipts: what they may say, whom they count for, and what is told of them."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api import Api
from tests.conftest import eventually
from tests.make import Make, Org
from tests.modules.push.conftest import APNS

from sendora.kernel.bus import Message, Position
from sendora.kernel.errors import Problem
from sendora.kernel.ids import NIL
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Database
from sendora.modules.push.lifecycle import DELIVERED, RECEIPTS, ReceiptSaid, ReceiptsSaid
from sendora.modules.push.model.receipts import RECEIPTS_MAX, receipts_of
from sendora.modules.push.people import erase
from sendora.modules.push.receipts import record_receipts

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
async def told(kernel: Kernel) -> AsyncIterator[list[dict[str, Any]]]:
    """What is told of receipts while the test runs, each id once as the stream keeps it."""
    heard: dict[str, dict[str, Any]] = {}

    async def listen(message: Any) -> None:
        heard.setdefault(message.headers["Nats-Msg-Id"], msgspec.json.decode(message.data))

    class Heard(list[dict[str, Any]]):
        def __iter__(self) -> Any:
            return iter(heard.values())

    subscription = await kernel.bus.client.subscribe(DELIVERED, cb=listen)
    await kernel.bus.client.flush()
    yield Heard()
    await subscription.unsubscribe()


async def asked(api: Api, org: Org, *users: str) -> str:
    await api.put("/push/providers/apns", APNS, key=org.sk)
    answer = await api.post("/push/send", {"userIds": list(users), "title": "T"}, key=org.sk)
    assert answer.status == 200, answer
    id_: str = answer.data["id"]
    return id_


async def delivered(api: Api, org: Org, send: str) -> int:
    shown = (await api.get(f"/push/sends/{send}", key=org.sk)).data
    n: int = shown["counts"]["delivered"]
    return n


@pytest.mark.rule("C93", "C94", "C38", "B101")
async def test_receipts(api: Api, org: Org, make: Make, told: list[dict[str, Any]]) -> None:
    """C93: `delivered` is said on receipts alone, once for each recipient however often it tells; C38: by either id."""
    ada, bob = [await make.token(org, uuid4().hex * 2, userId=user) for user in ("ada", "bob")]
    send, silent = await asked(api, org, "ada", "bob"), await asked(api, org, "ada")
    assert await delivered(api, org, send) == 0
    assert (await api.get("/push/sends/stats", key=org.sk)).data["deliveryRate"] is None
    ids = {user: UUID(send).hex + UUID(one["id"]).hex for user, one in (("ada", ada), ("bob", bob))}
    at = datetime.now(UTC)
    one = await api.post(
        "/push/receipts", {"sendId": send, "deliveryId": ids["ada"], "deliveredAt": at.isoformat()}, key=org.pk
    )
    assert (one.status, one.data) == (200, {"accepted": 1, "rejected": 0, "errors": []})
    both = [{"sendId": send, "deliveryId": ids["ada"]}, {"sendId": ids["bob"], "eventId": "e1"}, {"sendId": send}]
    for body in (both, {"receipts": both}):
        several = await api.post("/push/receipts", body, key=org.sk)
        assert (several.status, several.data["accepted"]) == (200, 3)
    await eventually(lambda: _is(delivered(api, org, send), 2))
    stats = (await api.get("/push/sends/stats", key=org.sk)).data
    assert stats["delivered"] == 2
    listed = await api.get("/push/sends", key=org.sk, status="delivered")
    assert [(row["id"], row["counts"]["delivered"]) for row in listed.data] == [(send, 2)]
    assert listed.pagination["total"] == 1
    assert await delivered(api, org, silent) == 0

    def events() -> list[tuple[str, str | None, str | None]]:
        return [
            (one["send"], one["recipient"], one["userId"])
            for message in told
            if message["org"] == str(org.id)
            for one in message["receipts"]
        ]

    await eventually(lambda: len(events()) >= 3)
    assert sorted(events(), key=str) == sorted(
        [(send, ada["id"], "ada"), (send, bob["id"], "bob"), (send, None, None)], key=str
    )


@pytest.mark.rule("C93")
async def test_a_device_that_only_knows_the_send(api: Api, org: Org) -> None:
    """Somebody has it, and that is one."""
    send = await asked(api, org, "nobody")
    for _ in range(3):
        assert (await api.post("/push/receipts", {"sendId": send}, key=org.pk)).status == 200
    await eventually(lambda: _is(delivered(api, org, send), 1))


@pytest.mark.rule("C94", "C03")
async def test_a_receipt_of_nothing_is_dropped(api: Api, org: Org, make: Make, db: Database) -> None:
    """C94: 200 without a look-up; another org's send, another project's device and a made-up one count for nobody."""
    other = await make.org()
    theirs, ours = await asked(api, other, "x"), await asked(api, org, "x")
    foreign = await make.token(other, uuid4().hex * 2, userId="x")
    device = await make.token(org, uuid4().hex * 2, userId="x")
    for send, recipient in (
        (theirs, device["id"]),
        (str(uuid4()), device["id"]),
        (ours, str(uuid4())),
        (ours, foreign["id"]),
    ):
        said = await api.post("/push/receipts", {"sendId": UUID(send).hex + UUID(recipient).hex}, key=org.pk)
        assert said.status == 200
    last = UUID(ours).hex + UUID(device["id"]).hex
    assert (await api.post("/push/receipts", {"sendId": last}, key=org.pk)).status == 200
    await eventually(lambda: _is(delivered(api, org, ours), 1))
    rows = await db.fetch("SELECT recipient FROM push_receipts WHERE org_id = ANY($1)", [org.id, other.id])
    assert [row["recipient"] for row in rows] == [UUID(device["id"])]


@pytest.mark.rule("C94")
@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"sendId"}),
        ({"sendId": "x"}, {"sendId"}),
        ({"sendId": 7}, {"sendId"}),
        ({"sendId": "é" * 64}, {"sendId"}),
        ({"sendId": str(uuid4()), "deliveryId": "0" * 64}, {"deliveryId"}),
        ({"sendId": str(uuid4()), "deliveryId": str(uuid4())}, {"deliveryId"}),
        ({"sendId": str(uuid4()), "deliveredAt": "yesterday"}, {"deliveredAt"}),
        ({"sendId": str(uuid4()), "deliveredAt": "2026-01-01T00:00:00"}, {"deliveredAt"}),
        ({"sendId": str(uuid4()), "deliveredAt": "1999-01-01T00:00:00Z"}, {"deliveredAt"}),
        ({"sendId": str(uuid4()), "deliveredAt": "9999-01-01T00:00:00Z"}, {"deliveredAt"}),
        ({"sendId": str(uuid4()), "eventId": "a b"}, {"eventId"}),
        ({"sendId": str(uuid4()), "eventId": "x" * 65}, {"eventId"}),
        ({"sendId": str(uuid4()), "more": 1}, {"more"}),
        ([], {"receipts"}),
        ({"receipts": []}, {"receipts"}),
        ({"receipts": 7}, {"receipts"}),
        ([{"sendId": "x"}, 7], {"receipts.0.sendId", "receipts.1.body"}),
        (7, {"body"}),
        (None, {"body"}),
        (b"{", {"body"}),
        (b"", {"body"}),
    ],
)
async def test_what_is_no_receipt(api: Api, org: Org, body: Any, fields: set[str]) -> None:
    """C94: when nothing of it is right it is a bad request, told by field."""
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    refused = await api.post("/push/receipts", content, key=org.pk)
    assert set(refused.fields) == fields, refused


@pytest.mark.rule("C94")
async def test_a_bad_item_does_not_fail_its_neighbours(api: Api, org: Org) -> None:
    said = await api.post("/push/receipts", [{"sendId": "x"}, {"sendId": str(uuid4())}], key=org.pk)
    assert (said.status, said.data["accepted"], said.data["rejected"]) == (200, 1, 1)
    ((error,),) = [said.data["errors"]]
    assert (error["index"], set(error["fieldErrors"])) == (0, {"sendId"})


@pytest.mark.rule("C94")
async def test_too_many_receipts(api: Api, org: Org) -> None:
    """413 beyond 1,000 or a megabyte."""
    many = [{"sendId": str(uuid4())}] * (RECEIPTS_MAX + 1)
    assert (await api.post("/push/receipts", many, key=org.pk)).status == 413
    assert (await api.post("/push/receipts", many[1:], key=org.pk)).data["accepted"] == RECEIPTS_MAX
    assert (await api.post("/push/receipts", [{"sendId": "x" * 2_000_000}], key=org.pk)).status == 413


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["receipts", "sendId", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.binary(max_size=60) | JSON.map(msgspec.json.encode))
def test_any_body_is_taken_or_refused(body: bytes) -> None:
    """Hostile input is normal: a Problem, never anything else."""
    try:
        passed, refused = receipts_of(body, NOW)
    except Problem as problem:
        assert problem.status in (400, 413)
    else:
        assert passed and all(one.at == NOW for one in passed) and isinstance(refused, list)


def test_a_clock_that_runs_ahead_is_read_as_now() -> None:
    send = str(uuid4())
    body = msgspec.json.encode({"sendId": send, "deliveredAt": (NOW + timedelta(hours=3)).isoformat()})
    ((receipt,), _) = receipts_of(body, NOW)
    assert (receipt.send, receipt.recipient, receipt.at) == (UUID(send), NIL, NOW)


@pytest.mark.rule("C93", "B160")
async def test_receipts_that_are_read_again(
    api: Api, kernel: Kernel, org: Org, make: Make, told: list[dict[str, Any]]
) -> None:
    """Once for each recipient, whatever is delivered again and whoever else reads at the same time."""
    devices = [(await make.token(org, uuid4().hex * 2, userId="ada"))["id"] for _ in range(20)]
    send = await asked(api, org, "ada")
    said = [
        ReceiptSaid(org=org.id, project=org.project, send=UUID(send), recipient=UUID(one), at="2026-01-01T00:00:00Z")
        for one in devices
    ]
    halves = [
        Message(RECEIPTS, msgspec.json.encode(ReceiptsSaid(receipts=part)), Position(1), 1)
        for part in (said[:15], said[5:])
    ]
    await asyncio.gather(*(record_receipts(kernel, [half]) for half in halves), record_receipts(kernel, halves))
    await record_receipts(kernel, halves[::-1])
    assert await delivered(api, org, send) == 20
    await kernel.bus.client.flush()
    events = [one["recipient"] for message in told if message["org"] == str(org.id) for one in message["receipts"]]
    assert sorted(events) == sorted(devices)
    row = await kernel.db.fetchrow(
        "SELECT min(r.delivered_at) >= min(s.created_at) AS sane FROM push_receipts r"
        " JOIN sends s ON s.id = r.send_id WHERE r.send_id = $1",
        UUID(send),
    )
    assert row is not None and row["sane"], "nobody has it before it was asked for"


async def test_an_erasure_takes_receipts_along(api: Api, kernel: Kernel, org: Org, make: Make) -> None:
    """The rows go, the number stays."""
    device = await make.token(org, uuid4().hex * 2, userId="ada")
    send = await asked(api, org, "ada")
    await api.post("/push/receipts", {"sendId": UUID(send).hex + UUID(device["id"]).hex}, key=org.pk)
    await eventually(lambda: _is(delivered(api, org, send), 1))
    await erase(kernel, org.id, org.project, "ada")
    assert await kernel.db.fetchval("SELECT count(*) FROM push_receipts WHERE org_id = $1", org.id) == 0
    assert await delivered(api, org, send) == 1


async def _is(asked: Any, wanted: int) -> bool:
    got = await asked
    assert got == wanted, got
    return True
