"""What is told of sends: counters, lists, statistics, and the events of the lifecycle."""

import asyncio
from typing import Any
from uuid import UUID

import msgspec
from tests.conftest import eventually
from tests.delivery import provider as behaves
from tests.delivery.channel import NAME
from tests.delivery.conftest import Floor, serving
from tests.delivery.provider import recipient

from sendora.delivery.account import account_chunks, close_sends
from sendora.delivery.ledger import make_partition
from sendora.delivery.phases import Send
from sendora.delivery.recipients import Person, Recipient, recipients
from sendora.delivery.report import counts, health, list_sends, stats
from sendora.delivery.store import find_send
from sendora.kernel.ids import OrgId, ProjectId, SendId, new_id
from sendora.kernel.wire import Listed, Page, encode

MIXED = [behaves.OK] * 6 + [behaves.GONE] * 3 + [behaves.INACTIVE] * 2 + [behaves.ALWAYS_CUT]


async def ended(floor: Floor, *behaviours: int) -> tuple[Send, list[UUID]]:
    who = [recipient(one) for one in behaviours]
    send = await floor.submit(who)
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        await floor.closed(send)
    return send, who


async def test_the_balance_in_the_words_of_the_api(floor: Floor) -> None:
    """C96: camelCase, reasons by state, the parts add up."""
    send, _ = await ended(floor, *MIXED)
    said = msgspec.json.decode(encode(await floor.balance(send)))
    assert said == {
        "targeted": 12,
        "accepted": 6,
        "rejected": 3,
        "suppressed": 2,
        "expired": 0,
        "unknown": 1,
        "open": 0,
        "repeated": 0,
        "unreachable": 0,
        "reasons": {"rejected": {"http_410": 3}, "suppressed": {"inactive_token": 2}, "unknown": {"no_answer": 1}},
        "variants": {},
        "audienceAsOf": said["audienceAsOf"],
    }
    assert said["audienceAsOf"] is not None


async def test_the_balance_holds_while_it_runs(floor: Floor) -> None:
    """Promise 2: at any instant, also before anything was sent."""
    send = await floor.submit([recipient(behaves.OK) for _ in range(20)])
    assert (await floor.balance(send)).targeted == 0
    async with serving(floor.planner()):

        async def planned() -> bool:
            said = await floor.balance(send)
            return said.targeted == said.open == 20

        await eventually(planned)


async def test_counters_agree_with_the_ledger(floor: Floor) -> None:
    send, _ = await ended(floor, *MIXED)
    found = (await counts(floor.kernel, floor.org, [send]))[send.id]
    said = await floor.balance(send)
    for name in type(found).__struct_fields__:
        assert getattr(found, name) == getattr(said, name), name


async def listed(floor: Floor, send: Send, page: Page | None = None, **asked: Any) -> Listed[Recipient]:
    """Of the send as it stands now."""
    fresh = await find_send(floor.db, send.org, send.id)
    assert fresh is not None
    return await recipients(floor.kernel, fresh, page=page or Page(size=100), **asked)


async def test_the_recipients_behind_each_number(floor: Floor) -> None:
    """C96: as many rows as the balance says, by state, by reason and by both; page by page everybody once."""
    send, who = await ended(floor, *MIXED)
    for state, n in (("accepted", 6), ("rejected", 3), ("suppressed", 2), ("unknown", 1), ("expired", 0), ("open", 0)):
        said = await listed(floor, send, state=state)
        assert (len(said.rows), said.total, {row.state for row in said.rows}) == (n, n, {state} if n else set())
    every = await listed(floor, send)
    assert sorted(row.recipient for row in every.rows) == sorted(who)
    pages = [await listed(floor, send, Page(number, 5)) for number in (1, 2, 3, 9)]
    assert [len(page.rows) for page in pages] == [5, 5, 2, 0]
    assert {page.total for page in pages} == {12}
    assert [row for page in pages for row in page.rows] == every.rows
    for asked, n in (
        ({"reason": "http_410"}, 3),
        ({"reason": "http_410", "state": "suppressed"}, 0),
        ({"reason": "http_410", "state": "accepted"}, 0),
        ({"variant": "a"}, 0),
        ({"reason": "unspecified"}, 0),
    ):
        said = await listed(floor, send, **asked)
        assert (len(said.rows), said.total) == (n, n), asked


async def test_one_person_in_a_send(floor: Floor) -> None:
    """By any of their names; where the ledger has none, by addresses that were theirs; never somebody else's."""
    send, who = await ended(floor, *MIXED)
    ada, bob = who[0], who[6]
    names = Person([f"u-{ada}", f"u-{bob}", "nobody"])
    assert sorted(row.recipient for row in (await listed(floor, send, person=names)).rows) == sorted((ada, bob))
    refused = await listed(floor, send, person=names, state="rejected")
    assert [row.recipient for row in refused.rows] == [bob]
    page = await listed(floor, send, Page(2, 1), person=names)
    assert (len(page.rows), page.total) == (1, 2)
    nobody = Person(["x"], [ada])
    assert (await listed(floor, send, person=nobody)).total == 0, "it has another name"
    await floor.db.execute("UPDATE deliveries SET user_id = NULL WHERE recipient = $1", ada)
    assert [row.recipient for row in (await listed(floor, send, person=nobody)).rows] == [ada]


async def test_who_is_open_is_listed_too(floor: Floor) -> None:
    """After those who have ended, and page by page everybody once."""
    who = [recipient(behaves.OK) for _ in range(30)]
    send = await floor.submit(who)
    async with serving(floor.planner()):

        async def planned() -> bool:
            return (await floor.balance(send)).targeted == 30

        await eventually(planned)
    await make_partition(floor.kernel, send.id)
    taken = await floor.db.fetch(
        "INSERT INTO deliveries (org_id, send_id, shard, seq, position, recipient, state, attempt, repeated, at)"
        " SELECT org_id, send_id, shard, seq, 0, recipients[1], 'accepted', 1, false, now() FROM chunks"
        " WHERE send_id = $1 ORDER BY shard LIMIT 7 RETURNING recipient",
        send.id,
    )
    accepted = await listed(floor, send, state="accepted")
    assert sorted(row.recipient for row in accepted.rows) == sorted(row["recipient"] for row in taken)
    opened = await listed(floor, send, state="open")
    assert (accepted.total, opened.total, len(opened.rows)) == (7, 23, 23)
    one = Person(["x"], [opened.rows[0].recipient])
    assert [row.state for row in (await listed(floor, send, person=one)).rows] == ["open"]
    pages = [await listed(floor, send, Page(number, 4)) for number in range(1, 10)]
    rows = [row for page in pages for row in page.rows]
    assert sorted(row.recipient for row in rows) == sorted(who)
    assert [row.state for row in rows] == ["accepted"] * 7 + ["open"] * 23


async def test_lists_are_of_one_project_newest_first(floor: Floor) -> None:
    """B101."""
    sends = [await floor.submit([]) for _ in range(3)]
    await floor.db.execute("UPDATE sends SET status = 'sent' WHERE id = $1", sends[0].id)
    found = await list_sends(floor.kernel, floor.org, floor.project, NAME, page=Page(1, 2))
    assert ([send.id for send in found.rows], found.total) == ([sends[2].id, sends[1].id], 3)
    found = await list_sends(floor.kernel, floor.org, floor.project, NAME, page=Page(), statuses=["sent"])
    assert [send.id for send in found.rows] == [sends[0].id]
    for org, project, channel in (
        (OrgId(new_id()), floor.project, NAME),
        (floor.org, ProjectId(new_id()), NAME),
        (floor.org, floor.project, "smoke"),
    ):
        assert (await list_sends(floor.kernel, org, project, channel, page=Page())).total == 0


async def test_statistics_count_recipients(floor: Floor) -> None:
    """B101, C48, C96: recipients, the scheduled ones as far as they are named."""
    await ended(floor, *MIXED)
    await ended(floor, behaves.OK)
    await floor.submit([recipient(behaves.OK)] * 4, scheduled_for=floor.kernel.clock.now().replace(year=2099))
    said = await stats(floor.kernel, floor.org, floor.project, NAME)
    assert (said.targeted, said.scheduled, said.accepted, said.rejected) == (13, 4, 7, 3)
    assert (said.suppressed, said.unknown, said.expired, said.open) == (2, 1, 0, 0)
    nobody = await stats(floor.kernel, floor.org, ProjectId(new_id()), NAME)
    assert nobody.targeted == nobody.accepted == 0


async def test_delivery_health(floor: Floor) -> None:
    """B102: reasons of the last 7 days, most frequent first, and the last 10 failures."""
    await ended(floor, *MIXED, *[behaves.GONE] * 9)
    said = await health(floor.kernel, floor.org, floor.project, NAME)
    assert [(top.reason, top.count) for top in said.top_failure_reasons] == [("http_410", 12), ("no_answer", 1)]
    assert [(top.reason, top.count) for top in said.top_suppression_reasons] == [("inactive_token", 2)]
    assert len(said.recent_failures) == 10
    assert {failure.state for failure in said.recent_failures} <= {"rejected", "unknown"}
    await floor.db.execute("UPDATE send_counts SET day = day - 7")
    await floor.db.execute("UPDATE deliveries SET at = at - interval '7 days'")
    later = await health(floor.kernel, floor.org, floor.project, NAME)
    assert (later.top_failure_reasons, later.recent_failures) == ([], [])


async def test_outcomes_are_told_once_for_each_chunk(floor: Floor) -> None:
    """Design 4: outcomes are events; what is told again after a death carries the same id."""
    heard: list[tuple[str, Any, str]] = []

    async def hear(message: Any) -> None:
        heard.append((message.subject, msgspec.json.decode(message.data), message.headers["Nats-Msg-Id"]))

    subscription = await floor.kernel.bus.client.subscribe(f"lifecycle.{NAME}.>", cb=hear)
    send, who = await ended(floor, *MIXED)
    mine = await eventually(lambda: _all_told(heard, send.id))
    await subscription.unsubscribe()
    told = [outcome for subject, data, _ in mine if subject.endswith("outcomes") for outcome in data["outcomes"]]
    assert sorted(UUID(outcome["recipient"]) for outcome in told) == sorted(who)
    assert {outcome["state"] for outcome in told} == {"accepted", "rejected", "suppressed", "unknown"}
    ids = [msg_id for _, _, msg_id in mine]
    assert len(ids) == len(set(ids))
    ((closed, _),) = [(data, msg_id) for subject, data, msg_id in mine if subject.endswith("closed")]
    assert (closed["status"], closed["targeted"], closed["accepted"]) == ("sent", 12, 6)
    chunk = next(data for subject, data, _ in mine if subject.endswith("outcomes"))
    assert f"{send.id}.{chunk['shard']}.{chunk['seq']}" in ids
    assert chunk["org"] == str(floor.org)
    assert chunk["project"] == str(floor.project)


def _all_told(heard: list[tuple[str, Any, str]], send: SendId) -> list[tuple[str, Any, str]]:
    mine = [(subject, data, msg_id) for subject, data, msg_id in heard if data["send"] == str(send)]
    return mine if any(subject.endswith("closed") for subject, _, _ in mine) else []


async def test_several_accountants_count_once(floor: Floor) -> None:
    send = await floor.submit([recipient(behaves.OK) for _ in range(200)])
    async with serving(floor.planner(), floor.dispatcher()):

        async def recorded() -> bool:
            return (await floor.balance(send)).accepted == 200

        await eventually(recorded, 20)

    async def account() -> None:
        while await account_chunks(floor.kernel, [NAME]):
            pass

    await asyncio.gather(*(account() for _ in range(4)))
    await asyncio.gather(*(close_sends(floor.kernel, [NAME]) for _ in range(4)))
    assert await floor.db.fetchval("SELECT sum(n) FROM send_counts WHERE send_id = $1", send.id) == 200
    assert await floor.status(send) == "sent"


async def test_a_channel_that_is_not_known_here_is_left_alone(floor: Floor) -> None:
    send = await floor.submit([recipient(behaves.OK)])
    async with serving(floor.planner(), floor.dispatcher()):

        async def recorded() -> bool:
            return (await floor.balance(send)).accepted == 1

        await eventually(recorded)
    assert await account_chunks(floor.kernel, ["smoke"]) == 0
    assert await close_sends(floor.kernel, ["smoke"]) == 0
    assert await floor.status(send) == "sending"
