"""A/B tests over HTTP: whom they count, what they conclude, when their weights are fixed, and how they complete.

Nothing dispatches here, so the ledger's rows are written as a worker writes them; the flows have real ones. Two days
pass by dating the rows back.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from tests.api import Answer, Api
from tests.conftest import eventually
from tests.make import Make, Org
from tests.modules.push.conftest import APNS
from tests.modules.push.test_channel import built, devices

from sendora.delivery.submit import find_send
from sendora.kernel.ids import SendId
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Database, month_of, partition
from sendora.modules.push import tallies
from sendora.modules.push.model import evidence
from sendora.modules.push.model.evidence import EXPOSURE_MIN, Trials
from sendora.modules.push.promotion import promote
from sendora.modules.push.store.content import SQL

VARIANTS: list[dict[str, Any]] = [
    {"key": "A", "title": "Plain", "weight": 40},
    {"key": "B", "title": "Warm", "weight": 40},
    {"key": "none", "weight": 20, "holdout": True},
]

LONG_AGO = timedelta(hours=48)
SOON = timedelta(hours=1)
"""After a push was sent; within the day that counts."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the ledger, and what its recipient did."""

    variant: str | None
    user: str | None = None
    recipient: UUID = msgspec.field(default_factory=uuid4)
    state: str = "accepted"
    ago: timedelta = LONG_AGO
    delivered: bool = False
    opened_after: timedelta | None = None
    clicked_after: timedelta | None = None


@pytest.fixture
async def shop(api: Api, org: Org) -> Org:
    """An org that may send."""
    assert (await api.put("/push/providers/apns", APNS, key=org.sk)).status == 200
    return org


async def made(api: Api, org: Org, variants: Sequence[dict[str, Any]] = VARIANTS, **said: Any) -> str:
    answer = await api.post(
        "/push/ab-tests", {"name": "words", "status": "active", "variants": list(variants), **said}, key=org.sk
    )
    assert answer.status == 201, answer
    id_: str = answer.data["id"]
    return id_


async def sent(api: Api, org: Org, test: str | None, **said: Any) -> UUID:
    body = {"userIds": ["anna"], "title": "T", "body": "B", **({"abTestId": test} if test else {}), **said}
    answer = await api.post("/push/send", body, key=org.sk)
    assert answer.status == 200, answer
    return UUID(answer.data["id"])


async def ledger(db: Database, org: Org, send: UUID, rows: Sequence[Row], *, closed: bool = True) -> None:
    """Chunks of a send with these outcomes; one that is not closed is still being worked on."""
    low = await db.fetchval("SELECT count(*) FROM chunks WHERE org_id = $1 AND send_id = $2", org.id, send)
    await partition(db, "deliveries", month_of(await db.fetchval("SELECT now()")))
    for seq, start in enumerate(range(0, len(rows), 1_000), low):
        part = rows[start : start + 1_000]
        await db.execute(
            "INSERT INTO chunks (org_id, send_id, shard, seq, class, planned, attempt, recipients, due_at, closed_at,"
            " accounted) VALUES ($1, $2, 0, $3, 'now', true, 1, $4, now(), CASE WHEN $5 THEN now() END, $5)",
            org.id, send, seq, [row.recipient for row in part], closed,
        )  # fmt: skip
        await db.execute(
            "INSERT INTO deliveries (org_id, send_id, shard, seq, position, recipient, user_id, state, variant,"
            " attempt, repeated, at)"
            " SELECT $1, $2, 0, $3, n - 1, recipient, person, state, variant, 1, false, now() - ago"
            " FROM unnest($4::uuid[], $5::text[], $6::text[], $7::text[], $8::interval[])"
            " WITH ORDINALITY AS t (recipient, person, state, variant, ago, n)",
            org.id, send, seq, [row.recipient for row in part], [row.user for row in part],
            [row.state for row in part], [row.variant for row in part], [row.ago for row in part],
        )  # fmt: skip
    delivered = [row.recipient for row in rows if row.delivered]
    await db.execute(
        "INSERT INTO push_receipts (org_id, send_id, recipient, delivered_at)"
        " SELECT $1, $2, recipient, now() FROM unnest($3::uuid[]) AS t (recipient)",
        org.id, send, delivered,
    )  # fmt: skip
    await db.execute(
        "INSERT INTO push_receipt_counts (org_id, send_id, project_id, n) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT (org_id, send_id) DO UPDATE SET n = push_receipt_counts.n + excluded.n",
        org.id, send, org.project, len(delivered),
    )  # fmt: skip
    opened = [row for row in rows if row.opened_after is not None]
    await db.execute(
        "INSERT INTO push_opens (org_id, send_id, recipient, opened_at, clicked_at)"
        " SELECT $1, $2, recipient, now() - ago + opened, now() - ago + clicked"
        " FROM unnest($3::uuid[], $4::interval[], $5::interval[], $6::interval[])"
        " AS t (recipient, ago, opened, clicked)",
        org.id, send, [row.recipient for row in opened], [row.ago for row in opened],
        [row.opened_after for row in opened], [row.clicked_after for row in opened],
    )  # fmt: skip


def crowd(variant: str, people: int, opened: int = 0, **said: Any) -> list[Row]:
    """So many people of a variant, of whom some opened in time."""
    if variant == "none":
        said["state"] = "suppressed"
    return [
        Row(variant=variant, user=f"{variant}-{n}", opened_after=SOON if n < opened else None, **said)
        for n in range(people)
    ]


async def stats(api: Api, org: Org, test: str) -> dict[str, Any]:
    answer = await api.get(f"/push/ab-tests/{test}/stats", key=org.sk)
    assert answer.status == 200, answer
    said: dict[str, Any] = answer.data
    return said


def counts(said: dict[str, Any], *fields: str) -> dict[str, tuple[int, ...]]:
    return {one["key"]: tuple(one[field] for field in fields) for one in said["variants"]}


# -- whom it counts


@pytest.mark.rule("B120", "C44", "C93")
async def test_people_are_counted_and_not_devices(api: Api, db: Database, shop: Org, make: Make) -> None:
    """B120: a user with two devices in two sends is one person, of whom any device opens; a device without a user is
    its own. A row of a chunk that is not closed is not counted yet, nor is a row without a variant."""
    test = await made(api, shop)
    first, second = await sent(api, shop, test), await sent(api, shop, test)
    phone, tablet = uuid4(), uuid4()
    await ledger(
        db,
        shop,
        first,
        [
            Row(variant="A", user="ada", recipient=phone, delivered=True),
            Row(variant="A", user="ada", recipient=tablet, state="rejected"),
            Row(variant="B", user="bert", state="rejected"),
            Row(variant="B", delivered=True),
            Row(variant="B"),
            Row(variant="A", user="late", state="deferred"),
            Row(variant="none", user="nora", state="suppressed"),
            Row(variant=None, user="asleep", state="suppressed"),
        ],
    )
    again = [
        Row(variant="A", user="ada", recipient=tablet, opened_after=SOON, clicked_after=SOON, delivered=True),
        Row(variant="A", user="late", opened_after=timedelta(hours=30)),
        Row(variant="none", user="nora", state="suppressed"),
    ]
    await ledger(db, shop, second, again)
    await ledger(db, shop, second, [Row(variant="B", user="carl", state="accepted")], closed=False)
    elsewhere = await sent(api, shop, await made(api, shop))
    await ledger(db, shop, elsewhere, crowd("A", 5, 5))
    await ledger(db, shop, await sent(api, shop, None), crowd("A", 5, 5))

    said = await stats(api, shop, test)
    assert counts(said, "assigned", "sent", "opened", "clicked", "delivered") == {
        "A": (2, 2, 2, 1, 1),
        "B": (3, 2, 0, 0, 1),
        "none": (1, 0, 0, 0, 0),
    }
    stranger = await make.org()
    assert (await api.get(f"/push/ab-tests/{test}/stats", key=stranger.sk)).status == 404
    explicit = await api.get(f"/push/ab-tests/{test}/stats", key=shop.sk, org=shop.id)
    assert explicit.data | {"asOf": said["asOf"]} == said, "counted a moment later"


@pytest.mark.rule("B120", "B267")
async def test_rates_are_of_people_whose_day_is_over(api: Api, db: Database, shop: Org) -> None:
    """B267: bounds as the arithmetic gives them, of those who were sent to more than a day ago; who opens after a day
    has opened, and not in time. Differences are taken from the first variant with content; a holdout has no rates."""
    test = await made(api, shop)
    before = await stats(api, shop, test)
    unknown = {"estimate": None, "lower": 0.0, "upper": 1.0}
    assert [one["openRate"] for one in before["variants"]] == [unknown, unknown, None]
    assert before["variants"][1]["openDifference"] == {"estimate": None, "lower": -1.0, "upper": 1.0}

    send = await sent(api, shop, test)
    await ledger(db, shop, send, crowd("A", 300, 30) + crowd("B", 280, 140) + crowd("none", 140))
    late = [Row(variant="A", user=f"late-{n}", opened_after=timedelta(hours=25)) for n in range(20)]
    today = [Row(variant="B", user=f"today-{n}", ago=SOON, opened_after=timedelta(minutes=1)) for n in range(40)]
    clicking = [Row(variant="A", user=f"c-{n}", opened_after=SOON, clicked_after=SOON) for n in range(10)]
    await ledger(db, shop, send, late + today + clicking)

    said = await stats(api, shop, test)
    assert counts(said, "weight", "holdout", "assigned", "sent", "opened", "settled") == {
        "A": (40, False, 330, 330, 60, 330),
        "B": (40, False, 320, 320, 180, 280),
        "none": (20, True, 140, 0, 0, 0),
    }
    a, b = Trials(40, 330), Trials(140, 280)
    control, other, holdout = said["variants"]
    for shown, seen in ((control["openRate"], a), (other["openRate"], b), (control["clickRate"], Trials(10, 330))):
        bounds = evidence.rate(seen)
        share = seen.successes / seen.people
        assert shown == {"estimate": share, "lower": bounds.lower, "upper": bounds.upper}
    apart = evidence.difference(b, a)
    assert other["openDifference"] == {"estimate": 140 / 280 - 40 / 330, "lower": apart.lower, "upper": apart.upper}
    assert other["clickDifference"]["estimate"] == 0 - 10 / 330
    assert (control["openDifference"], control["clickDifference"]) == (None, None)
    assert {holdout[field] for field in ("openRate", "clickRate", "openDifference", "clickDifference")} == {None}
    assert (said["controlKey"], said["confidence"], said["followUpHours"]) == ("A", 0.95, 24)
    assert said["decidedKey"] == "B" and said["winnerKey"] is None
    assert said["sampleRatio"]["mismatch"] is False and 0 < said["sampleRatio"]["pValue"] <= 1


@pytest.mark.rule("B267")
async def test_missing_people_raise_the_alarm(api: Api, db: Database, shop: Org) -> None:
    """B267: half of a variant is missing, so what is left is not what was drawn: nothing is decided."""
    test = await made(api, shop)
    await ledger(db, shop, await sent(api, shop, test), crowd("A", 400, 4) + crowd("B", 200, 190) + crowd("none", 200))
    said = await stats(api, shop, test)
    assert said["sampleRatio"]["mismatch"] is True and said["sampleRatio"]["pValue"] < 0.001
    assert said["decidedKey"] is None
    assert said["variants"][1]["openDifference"]["lower"] > 0.8, "the rates are shown all the same"


# -- when its weights are fixed


@pytest.mark.rule("C44", "C61")
async def test_a_send_waits_for_a_change_of_weights(api: Api, db: Database, shop: Org) -> None:
    """C44: a PATCH holds the test while it changes it; a send at the same time is committed only afterwards, and finds
    the new weights, which nobody may change any more."""
    test = await made(api, shop)
    moved = [{"key": "A", "weight": 100}]

    async def sends() -> int:
        n: int = await db.fetchval("SELECT count(*) FROM sends WHERE org_id = $1", shop.id)
        return n

    async def waiting() -> bool:
        return bool(
            await db.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%first_sent_at%'"
            )
        )

    async with db.transaction() as connection:
        # As PATCH does it: locked, looked at, changed.
        await connection.execute("SELECT FROM push_ab_tests WHERE id = $1 FOR UPDATE", UUID(test))
        sending = asyncio.create_task(sent(api, shop, test))
        await eventually(waiting)
        assert await sends() == 0
        await connection.execute("UPDATE push_ab_tests SET variants = $2 WHERE id = $1", UUID(test), moved)
    await sending
    assert await sends() == 1
    found = await api.get(f"/push/ab-tests/{test}", key=shop.sk)
    assert [(one["key"], one["weight"]) for one in found.data["variants"]] == [("A", 100)]
    refused = await api.patch(f"/push/ab-tests/{test}", {"variants": VARIANTS}, key=shop.sk)
    assert (refused.status, refused.code, refused.details["reason"]) == (409, "CONFLICT", "already_dispatched")


@pytest.mark.rule("C44")
async def test_weights_do_not_move_once_a_send_is_accepted(api: Api, shop: Org) -> None:
    """C44: of sends and changes all at once, no change succeeds after the first send was answered, and the last one
    that did stands."""
    test = await made(api, shop)
    first = asyncio.Event()

    async def send() -> None:
        await sent(api, shop, test)
        first.set()

    async def change(weight: int) -> tuple[bool, Answer]:
        after = first.is_set()
        variants = [{"key": "A", "weight": weight}, {"key": "B", "weight": 100 - weight}]
        return after, await api.patch(f"/push/ab-tests/{test}", {"variants": variants}, key=shop.sk)

    async def changes() -> list[tuple[bool, Answer]]:
        said = [await change(weight) for weight in range(1, 10)]
        await first.wait()
        return [*said, *[await change(weight) for weight in range(10, 14)]]

    before = await change(0)
    _, since = await asyncio.gather(asyncio.gather(*(send() for _ in range(4))), changes())
    said = [before, *since]
    assert {answer.status for after, answer in said if after} == {409}
    accepted = [answer for _, answer in said if answer.status == 200]
    found = await api.get(f"/push/ab-tests/{test}", key=shop.sk)
    assert found.data["variants"] == accepted[-1].data["variants"]
    assert found.data["firstSentAt"] is not None
    same = await api.patch(f"/push/ab-tests/{test}", {"variants": found.data["variants"], "name": "n"}, key=shop.sk)
    assert (same.status, same.data["name"]) == (200, "n"), "what stays as it is moves nobody"


@pytest.mark.rule("B117", "C44")
async def test_the_hash_is_the_assignment(api: Api, kernel: Kernel, make: Make, shop: Org) -> None:
    """B117, C44: the whole SHA-256 of test and user as a big-endian number mod 100, on cumulative weights in the order
    of the array; a device without a user by its own id; whoever is held out is not sent to."""
    test = await made(api, shop)
    users: list[str | None] = [*(f"user-{n}" for n in range(40)), *[None] * 20]
    phones = await devices(make, shop, *users)
    send = await find_send(kernel, shop.id, SendId(await sent(api, shop, test)))
    _, _, calls, _ = await built(kernel, send, phones)

    def drawn(person: str) -> str:
        bucket = int.from_bytes(hashlib.sha256((test + person).encode()).digest(), "big") % 100
        return "A" if bucket < 40 else "B" if bucket < 80 else "none"

    expected = {phone: drawn(user or str(phone)) for phone, user in zip(phones, users, strict=True)}
    assert {call.recipient: call.variant for call in calls} == {
        phone: key for phone, key in expected.items() if key != "none"
    }
    assert set(expected.values()) == {"A", "B", "none"}


# -- how it completes


async def winning(
    api: Api, db: Database, org: Org, *, people: int = 150, ago: timedelta = LONG_AGO, **said: Any
) -> str:
    """A test that has been sent, and in which B is opened far more often."""
    test = await made(api, org, **{"autoPromote": True, **said})
    rows = crowd("A", people, people // 20, ago=ago) + crowd("B", people, people // 2, ago=ago)
    await ledger(db, org, await sent(api, org, test), rows + crowd("none", people // 2, ago=ago))
    return test


async def title(api: Api, kernel: Kernel, org: Org, test: str, phone: UUID) -> tuple[str, str | None]:
    """What a later send that names the test says, and for which variant."""
    send = await find_send(kernel, org.id, SendId(await sent(api, org, test)))
    _, _, (call,), _ = await built(kernel, send, [phone])
    return msgspec.json.decode(call.body)["aps"]["alert"]["title"], call.variant


@pytest.mark.rule("B267", "C45", "B121")
async def test_a_decided_test_completes_itself(api: Api, kernel: Kernel, db: Database, make: Make, shop: Org) -> None:
    """B267, C45: `completed` with its winner, a line in the audit log, and later sends use the winner's content for
    everybody, until somebody changes what was decided."""
    (phone,) = await devices(make, shop, "anna")
    test = await winning(api, db, shop)
    path = f"/push/ab-tests/{test}"
    assert (await stats(api, shop, test))["decidedKey"] == "B"
    await promote(kernel)
    found = (await api.get(path, key=shop.sk)).data
    assert (found["status"], found["winnerKey"], found["autoPromote"]) == ("completed", "B", True)
    assert found["promotedAt"] is not None
    assert (await stats(api, shop, test))["winnerKey"] == "B"
    audited = await api.get("/audit-log", key=shop.sk, resource=f"ab_test:{test}")
    assert [(line["actor"], line["action"], line["details"]["winnerKey"]) for line in audited.data] == [
        ("system", "ab_test.promoted", "B")
    ]
    assert await title(api, kernel, shop, test, phone) == ("Warm", None)
    french = UUID((await make.token(shop, uuid4().hex * 2, userId="anna", locale="fr"))["id"])
    translated = {"localizedTitle": {"fr": "Titre"}, "localizedBody": {"fr": "Corps"}}
    send = await find_send(kernel, shop.id, SendId(await sent(api, shop, test, **translated)))
    _, _, (call,), _ = await built(kernel, send, [french])
    assert msgspec.json.decode(call.body)["aps"]["alert"] == {"title": "Warm", "body": "Corps"}, "as in the test"
    await promote(kernel)
    assert (await api.get("/audit-log", key=shop.sk, resource=f"ab_test:{test}")).pagination["total"] == 1

    renamed = await api.patch(path, {"name": "n", "status": "completed", "winnerKey": "B"}, key=shop.sk)
    assert renamed.data["promotedAt"] == found["promotedAt"], "nothing of what was decided has changed"
    assert await title(api, kernel, shop, test, phone) == ("Warm", None)
    assert (await api.patch(path, {"autoPromote": False}, key=shop.sk)).data["promotedAt"] is None
    assert await title(api, kernel, shop, test, phone) == ("T", None)


@pytest.mark.rule("C45", "B118", "B121")
@pytest.mark.parametrize("auto", [False, True])
async def test_a_winner_by_hand_is_for_the_record(api: Api, kernel: Kernel, make: Make, shop: Org, auto: bool) -> None:
    """B121: the winner is declared; B118, C45: paused or completed by hand, the send's own words go out, whatever
    `autoPromote` says, since it was not that which completed the test."""
    (phone,) = await devices(make, shop, "anna")
    test = await made(api, shop, [{"key": "only", "title": "Only", "weight": 100}], autoPromote=auto)
    path = f"/push/ab-tests/{test}"
    assert await title(api, kernel, shop, test, phone) == ("Only", "only")
    await api.patch(path, {"status": "paused"}, key=shop.sk)
    assert await title(api, kernel, shop, test, phone) == ("T", None)
    done = await api.patch(path, {"status": "completed", "winnerKey": "only"}, key=shop.sk)
    assert (done.data["status"], done.data["winnerKey"], done.data["promotedAt"]) == ("completed", "only", None)
    assert await title(api, kernel, shop, test, phone) == ("T", None)
    await api.patch(path, {"status": "active", "winnerKey": None}, key=shop.sk)
    assert await title(api, kernel, shop, test, phone) == ("Only", "only")


@pytest.mark.rule("B267", "C45")
async def test_what_does_not_complete_itself(api: Api, kernel: Kernel, db: Database, shop: Org) -> None:
    """B267: not without being asked, nor with too few people, nor before their day is over, nor while people are
    missing, nor over what somebody has said."""
    left = {
        "not asked": await winning(api, db, shop, autoPromote=False),
        "few": await winning(api, db, shop, people=EXPOSURE_MIN - 1),
        "too soon": await winning(api, db, shop, ago=SOON),
        "named": await winning(api, db, shop),
        "paused": await winning(api, db, shop),
        "missing": await made(api, shop, autoPromote=True),
        "equal": await made(api, shop, autoPromote=True),
        "never sent": await made(api, shop, autoPromote=True),
    }
    lost = crowd("A", 400, 4) + crowd("B", 200, 190) + crowd("none", 200)
    await ledger(db, shop, await sent(api, shop, left["missing"]), lost)
    equal = crowd("A", 400, 40) + crowd("B", 400, 40) + crowd("none", 200)
    await ledger(db, shop, await sent(api, shop, left["equal"]), equal)
    await api.patch(f"/push/ab-tests/{left['named']}", {"winnerKey": "A"}, key=shop.sk)
    await api.patch(f"/push/ab-tests/{left['paused']}", {"status": "paused"}, key=shop.sk)
    asked = await winning(api, db, shop)
    await promote(kernel)
    found = {why: (await api.get(f"/push/ab-tests/{test}", key=shop.sk)).data for why, test in left.items()}
    assert {why: one["status"] for why, one in found.items()} == {
        why: "paused" if why == "paused" else "active" for why in left
    }
    assert {why for why, one in found.items() if one["winnerKey"] or one["promotedAt"]} == {"named"}
    assert (await api.get(f"/push/ab-tests/{asked}", key=shop.sk)).data["status"] == "completed"


async def test_a_test_is_examined_once_in_a_while(api: Api, kernel: Kernel, db: Database, shop: Org) -> None:
    """A reading walks over everybody who was sent to; the next run leaves a test alone that was just looked at."""
    test = await winning(api, db, shop, ago=SOON)
    await promote(kernel)
    await db.execute("UPDATE deliveries SET at = at - interval '2 days' WHERE org_id = $1", shop.id)
    await db.execute("UPDATE push_opens SET opened_at = opened_at - interval '2 days' WHERE org_id = $1", shop.id)
    await promote(kernel)
    path = f"/push/ab-tests/{test}"
    assert (await api.get(path, key=shop.sk)).data["status"] == "active"
    await db.execute("UPDATE push_ab_tests SET examined_at = now() - interval '1 hour' WHERE id = $1", UUID(test))
    await promote(kernel)
    assert (await api.get(path, key=shop.sk)).data["status"] == "completed"


async def test_what_took_long_to_count_is_shown_again(api: Api, db: Database, shop: Org) -> None:
    """A test that went to millions costs PostgreSQL a thirtieth of its time, however often one looks; one that is
    counted in a moment is counted each time."""
    test = await made(api, shop)
    await ledger(db, shop, await sent(api, shop, test), crowd("A", 5))
    before = await stats(api, shop, test)
    assert counts(before, "sent")["A"] == (5,)
    await ledger(db, shop, await sent(api, shop, test), crowd("B", 3))
    now = await stats(api, shop, test)
    assert counts(now, "sent")["B"] == (3,) and now["asOf"] > before["asOf"]
    await db.execute("UPDATE push_ab_tests SET tallied_s = 20 WHERE id = $1", UUID(test))
    await ledger(db, shop, await sent(api, shop, test), crowd("B", 4))
    assert await stats(api, shop, test) == now
    await db.execute("UPDATE push_ab_tests SET tallied_at = tallied_at - interval '601 s' WHERE id = $1", UUID(test))
    assert counts(await stats(api, shop, test), "sent")["B"] == (4,)


async def test_one_count_for_all_who_ask(api: Api, db: Database, shop: Org, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another process counts; who waits too long sees that there is none yet, or the last one."""
    test = await made(api, shop)
    await ledger(db, shop, await sent(api, shop, test), crowd("A", 5))
    async with db.transaction() as connection:
        await connection.execute(SQL.lock_tallies, UUID(test))
        monkeypatch.setattr(tallies, "WAIT_S", 0.05)
        first = await stats(api, shop, test)
        assert (first["asOf"], counts(first, "sent")["A"]) == (None, (0,))
        monkeypatch.setattr(tallies, "WAIT_S", 30.0)
        waiting = [asyncio.create_task(stats(api, shop, test)) for _ in range(5)]

        async def blocked() -> bool:
            waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
            return bool(await db.fetchval(waits))

        await eventually(blocked)
        assert not any(task.done() for task in waiting)
    seen = await asyncio.gather(*waiting)
    assert seen == [seen[0]] * 5 and counts(seen[0], "sent")["A"] == (5,)


async def test_tests_and_their_sends_are_found_by_an_index(db: Database) -> None:
    """Most clusters have no test that completes itself: the job's question is answered without a look at any other. And
    a reading looks at the sends of its test alone."""
    async with db.transaction() as connection:
        # The tables of a test are so small that PostgreSQL would rather read them whole.
        await connection.execute("SET LOCAL enable_seqscan = off")
        for index, sql, *args in (
            ("push_ab_tests_undecided", SQL.take_undecided_test, 600.0),
            ("sends_of_test", SQL.tally_test, uuid4(), uuid4(), str(uuid4()), timedelta(days=1)),
        ):
            plan = await connection.fetch(f"EXPLAIN {sql}", *args)
            assert any(index in row[0] for row in plan), plan


# -- what is said of it


@pytest.mark.rule("B116", "B121")
@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"status": "draft"}, "status"),
        ({"status": None}, "status"),
        ({"status": "won"}, "status"),
        ({"winnerKey": "C"}, "winnerKey"),
        ({"winnerKey": ""}, "winnerKey"),
        ({"name": ""}, "name"),
        ({"autoPromote": None}, "autoPromote"),
        ({"variants": []}, "variants"),
        ({"variants": [{"key": "A", "weight": 99}]}, "variants"),
        ({"firstSentAt": None}, "firstSentAt"),
    ],
)
async def test_what_is_no_change(api: Api, shop: Org, said: dict[str, Any], field: str) -> None:
    """Told by field, in both URL forms; nothing has changed."""
    test = await made(api, shop)
    before = (await api.get(f"/push/ab-tests/{test}", key=shop.sk)).data
    for org in (None, shop.id):
        refused = await api.patch(f"/push/ab-tests/{test}", said, key=shop.sk, org=org)
        assert field in refused.fields, refused
    assert (await api.get(f"/push/ab-tests/{test}", key=shop.sk)).data == before


@pytest.mark.rule("B116", "B267")
async def test_what_a_test_looks_like(api: Api, shop: Org) -> None:
    """Both URL forms answer alike; `autoPromote` is off and the test a draft unless said otherwise."""
    said = {"name": "words", "variants": VARIANTS}
    for org in (None, shop.id):
        answer = await api.post("/push/ab-tests", said, key=shop.sk, org=org)
        data = dict(answer.data)
        assert (answer.status, data.pop("warnings")) == (201, []), answer
        assert set(data) == {
            "id", "name", "status", "variants", "winnerKey", "autoPromote", "firstSentAt", "promotedAt", "createdAt"
        }  # fmt: skip
        assert (data["status"], data["autoPromote"], data["winnerKey"]) == ("draft", False, None)
        assert data["variants"] == [{"title": None, "body": None, "holdout": False, **variant} for variant in VARIANTS]
        path = f"/push/ab-tests/{data['id']}"
        assert (await api.get(path, key=shop.sk, org=org)).data == data
        assert (await api.get("/push/ab-tests", key=shop.sk, org=org, status="draft")).data[0] == data
        gone = await api.delete(path, key=shop.sk, org=org)
        assert (gone.status, gone.data) == (200, {"id": data["id"], "deleted": True})
        for call in (api.get(path, key=shop.sk), api.delete(path, key=shop.sk), api.get(f"{path}/stats", key=shop.sk)):
            assert (await call).status == 404
    assert "status" in (await api.get("/push/ab-tests", key=shop.sk, status="won")).fields
