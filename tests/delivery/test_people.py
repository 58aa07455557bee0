"""One person in the ledger: told page by page, and forgotten row by row while the sends go on balancing."""

from typing import Any

import pytest
from tests.delivery import provider as behaves
from tests.delivery.channel import NAME
from tests.delivery.conftest import Floor, serving
from tests.delivery.provider import recipient

from sendora.delivery import people
from sendora.delivery.store import SQL
from sendora.kernel.ids import NIL, ProjectId, new_id


async def test_a_person_is_told_and_forgotten(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    """B069: every row, also when it takes several statements and pages; nobody else's, and no other project's."""
    monkeypatch.setattr(people, "FORGET_MAX", 2)
    monkeypatch.setattr(people, "RECALL_MAX", 2)
    ada = [await floor.submit([recipient(one)], content={"person": "ada"}) for one in (behaves.OK, behaves.BUSY_ONCE)]
    ada += [await floor.submit([recipient(behaves.OK) for _ in range(3)], content={"person": "ada"})]
    bob = await floor.submit([recipient(behaves.OK)], content={"person": "bob"})
    ours, floor.project = floor.project, ProjectId(new_id())
    other = await floor.submit([recipient(behaves.OK)], content={"person": "ada"})
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        for send in (*ada, bob, other):
            await floor.closed(send)

    async def told(project: ProjectId, person: str, channel: str = NAME) -> list[str]:
        return [one.state async for one in people.recall(floor.kernel, floor.org, project, person, channel=channel)]

    async def names() -> dict[str | None, int]:
        rows = await floor.db.fetch("SELECT user_id, count(*) AS n FROM deliveries GROUP BY user_id")
        return {row["user_id"]: row["n"] for row in rows}

    assert await told(ours, "ada") == ["accepted"] * 5
    assert await told(ours, "ada", "email") == []
    assert await names() == {"ada": 7, "bob": 1}, "with the deferral on the way, and the other project's"
    assert await people.forget(floor.kernel, floor.org, ours, "ada") == 6
    assert await names() == {None: 6, "bob": 1, "ada": 1}
    assert (await told(ours, "ada"), await told(floor.project, "ada")) == ([], ["accepted"])
    assert await people.forget(floor.kernel, floor.org, ours, "ada") == 0
    balances = [await floor.balance(send) for send in ada]
    assert [(said.targeted, said.accepted, said.open) for said in balances] == [(1, 1, 0), (1, 1, 0), (3, 3, 0)]


@pytest.mark.rule("B069")
async def test_what_a_send_itself_says_of_a_person(floor: Floor) -> None:
    """Names in the target of a send that was never planned, and the words of one that was for this person alone; what
    others got too, what is for an audience, and what still runs stays as it is."""
    alone = await floor.submit([recipient(behaves.OK) for _ in range(2)], content={"person": "ada"})
    bobs = await floor.submit([recipient(behaves.OK)], content={"person": "bob"})
    broadcast = await floor.submit([recipient(behaves.OK)], content={"person": "ada"})
    both = await floor.submit([recipient(behaves.OK)], content={"person": "ada"})
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        for send in (alone, bobs, broadcast, both):
            await floor.closed(send)
    waiting = [await floor.submit([recipient(behaves.OK)], content={"person": "ada"}) for _ in range(3)]
    named = [["ada", "bob"], ["ada"], ["bob"]]

    async def says(send: Any, column: str) -> Any:
        return await floor.db.fetchval(f"SELECT {column} FROM sends WHERE id = $1", send.id)

    async def aims(send: Any, target: dict[str, Any]) -> None:
        await floor.db.execute("UPDATE sends SET target = $2 WHERE id = $1", send.id, target)

    for send in (alone, bobs, both):
        await aims(send, {"userIds": []})
    await aims(broadcast, {"audienceId": "x"})
    for send, names in zip(waiting, named, strict=True):
        await aims(send, {"userIds": names})
    await floor.db.execute(
        "INSERT INTO deliveries"
        " (org_id, send_id, shard, seq, position, recipient, user_id, state, attempt, repeated, at)"
        " VALUES ($1, $2, 0, 99, 0, gen_random_uuid(), 'bob', 'accepted', 1, false, now())",
        floor.org,
        both.id,
    )
    for _ in range(2):
        await people.forget_target(floor.kernel, floor.org, floor.project, NAME, "userIds", ["ada"])
        await people.forget_words(floor.kernel, floor.org, floor.project, NAME, "userIds", "ada")
    assert [await says(send, "target") for send in waiting] == [
        {"userIds": ["bob"]},
        {"userIds": []},
        {"userIds": ["bob"]},
    ]
    emptied = [await says(send, "content") == {} for send in (alone, bobs, broadcast, both, *waiting)]
    assert emptied == [True, False, False, False, False, True, False]


async def test_a_person_is_found_without_reading_the_ledger(floor: Floor) -> None:
    """Of a hundred million rows: by the index of each month, and each row by its key."""
    send = await floor.submit([recipient(behaves.OK)])
    async with serving(floor.planner(), floor.dispatcher(), floor.accountant()):
        await floor.closed(send)
    await floor.db.execute(
        "INSERT INTO deliveries"
        " (org_id, send_id, shard, seq, position, recipient, user_id, state, attempt, repeated, at)"
        " SELECT $1, $2, n % 64, 1, n / 64, gen_random_uuid(), 'u' || n, 'accepted', 1, false, now()"
        " FROM generate_series(0, 19999) AS n",
        floor.org,
        send.id,
    )
    await floor.db.execute("ANALYZE deliveries")
    for statement, arguments in (
        (SQL.forget_person, (10,)),
        (SQL.recall_person, (NAME, NIL, 0, 0, 0, 10)),
    ):
        rows = await floor.db.fetch(f"EXPLAIN {statement}", floor.org, floor.project, "u7", *arguments)
        plan = "\n".join(row[0] for row in rows)
        assert "_org_id_user_id_idx" in plan, plan
        assert "Seq Scan on deliveries" not in plan, plan
