"""The index and its homes against rows: whatever happened, and whatever happens to a home, both say the same."""

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from tests.api import Api
from tests.conftest import eventually
from tests.make import Make, Org, random_text, raw_record

from sendora import _core
from sendora.kernel.bus import Message, Position, parse_position
from sendora.kernel.clock import FixedClock, millis
from sendora.kernel.config import Audiences, Events
from sendora.kernel.ids import AudienceId, new_id
from sendora.kernel.life import Kernel
from sendora.kernel.metrics import Metrics
from sendora.kernel.pg import Database
from sendora.kernel.pg.positions import wait_for
from sendora.modules import audiences, events, profiles
from sendora.modules.audiences import ask, home, rows, service, store
from sendora.modules.audiences.home import Home
from sendora.modules.audiences.model import Reply, compiled
from sendora.modules.events.jobs import roll_up_old_months

BUY_LARGE = {
    "event": "buy",
    "op": "count_gte",
    "value": 1,
    "where": {"all": [{"trait": "amount", "op": "gte", "value": 50}]},
}
DAY_MS = 86_400_000

RULES: list[dict[str, Any]] = [
    {"all": []},
    {"all": [{"trait": "plan", "op": "eq", "value": "pro"}]},
    {"any": [{"trait": "plan", "op": "not_set"}, {"event": "buy", "op": "count_gte", "value": 3, "window": "30d"}]},
    {"not": {"event": "buy", "op": "occurred_in_last", "value": "7d"}},
    {"all": [{"trait": "n", "op": "gte", "value": 3}, {"not": {"event": "seen", "op": "occurred"}}]},
    {"any": [BUY_LARGE, {"trait": "email", "op": "contains", "value": "@"}]},
    {"all": [{"event": "buy", "op": "count_lte", "value": 1}, {"trait": "plan", "op": "exists"}]},
]


def with_index(kernel: Kernel, **said: Any) -> Kernel:
    """The same servers, a worker of its own."""
    settings = Audiences(**{"memory_mb": 256, "snapshot_dir": "", **said})
    changed = msgspec.structs.replace(kernel.settings, audiences=settings)
    return dataclasses.replace(kernel, settings=changed, metrics=Metrics())


@asynccontextmanager
async def homes(*kernels: Kernel) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        stop = asyncio.Event()
        for kernel in kernels:
            group.create_task(Home(kernel).run(stop))
        try:
            yield
        finally:
            stop.set()


@pytest.fixture
def worker(kernel: Kernel) -> Kernel:
    return with_index(kernel)


async def indexed(kernel: Kernel, org: Org, rules: dict[str, Any]) -> list[str] | None:
    """Who the index says; None when it cannot tell."""
    asked = await ask.question(kernel, org.id, org.project, rules, "members")
    found = await ask.members(kernel, asked)
    return None if found is None else sorted(_core.member_names(found, 0, 100_000))


async def by_rows(kernel: Kernel, org: Org, rules: dict[str, Any]) -> list[str]:
    evaluation = await rows.evaluate(
        kernel, org.id, org.project, compiled(rules), await store.as_of(kernel.db), purpose="list"
    )
    return evaluation.page(0, 100_000)


async def agree(kernel: Kernel, org: Org, *, sure: bool = True) -> None:
    """Everything that the index says, once it is there."""
    for rules in RULES:

        async def told(rules: dict[str, Any] = rules) -> bool:
            return await indexed(kernel, org, rules) is not None

        await eventually(told)
        assert await indexed(kernel, org, rules) == await by_rows(kernel, org, rules), rules
        asked = await ask.question(kernel, org.id, org.project, rules, "preview")
        replies = await ask.index(kernel, asked, 2)
        plain = msgspec.json.decode(await service.answer(kernel, msgspec.json.encode(asked)), type=Reply)
        if sure:
            assert replies is not None, rules
        if replies is not None:
            added = ask.added(replies)
            assert (added.count, added.leaves) == (plain.count, plain.leaves), rules
        paged = await ask.question(kernel, org.id, org.project, rules, "page", offset=1, size=3)
        page = await ask.page(kernel, paged)
        if sure:
            assert page == (plain.count, (await by_rows(kernel, org, rules))[1:4]), rules


class Story:
    """What apps and servers do to a few people, in any order, through the API."""

    def __init__(self, api: Api, kernel: Kernel, org: Org, seed: int) -> None:
        self._api, self._kernel, self._org = api, kernel, org
        self._random = random.Random(seed)
        self._said: list[dict[str, Any]] = []
        self.position = Position(0)

    async def go_on(self, steps: int, *, deletes: bool = False) -> None:
        kinds = ["events", "events", "again", "identify", "takeover", "patch", "poison"] + ["delete"] * deletes
        for _ in range(steps):
            await getattr(self, f"_{self._random.choice(kinds)}")()
        await self.settle()

    async def settle(self) -> None:
        for reader in (events.STORER, profiles.READER):
            assert await wait_for(self._kernel.db, reader, self.position, 10)

    def _person(self) -> dict[str, str]:
        n = self._random.randrange(9)
        return {"anonymousId": f"anon-{n}"} if n < 3 else {"userId": f"user-{n}"}

    async def _post(self, path: str, body: Any) -> None:
        answer = await self._api.post(path, body, key=self._org.sk)
        assert answer.status < 300, answer
        self.position = parse_position(answer.position) or self.position

    async def _events(self) -> None:
        now = millis(self._kernel.clock.now())
        batch = []
        for _ in range(self._random.randrange(1, 6)):
            ago = self._random.choice([0, 3_600, 86_400, 8 * 86_400, 29 * 86_400, 31 * 86_400, 400 * 86_400])
            event = {
                "eventType": self._random.choice(["buy", "buy", "seen"]),
                "module": "test",
                "eventId": uuid4().hex,
                "timestamp": now - ago * 1_000,
                "properties": {"amount": self._random.randrange(100)},
                **self._person(),
            }
            batch.append(event)
        self._said += batch
        await self._post("/events/batch", {"events": batch})

    async def _again(self) -> None:
        """A client that did not hear our answer."""
        if self._said:
            await self._post("/events/batch", {"events": self._random.choices(self._said, k=3)})

    async def _identify(self) -> None:
        traits = {"plan": self._random.choice(["pro", "free", None]), "n": self._random.randrange(6)}
        email = {"email": "a@example.com"} if self._random.random() < 0.3 else {}
        await self._post("/identify", {"userId": f"user-{self._random.randrange(3, 9)}", "traits": traits, **email})

    async def _takeover(self) -> None:
        known, anonymous = f"user-{self._random.randrange(3, 9)}", f"anon-{self._random.randrange(3)}"
        await self._post("/identify", {"userId": known, "anonymousId": anonymous})

    async def _patch(self) -> None:
        await self.settle()
        path = f"/profiles/user-{self._random.randrange(3, 9)}"
        answer = await self._api.patch(path, {"traits": {"plan": "pro", "n": None}}, key=self._org.sk)
        assert answer.status in (200, 404), answer

    async def _delete(self) -> None:
        await self.settle()
        answer = await self._api.delete(f"/profiles/user-{self._random.randrange(3, 9)}", key=self._org.sk)
        assert answer.status in (200, 404), answer

    async def _poison(self) -> None:
        """What Postgres refuses, between two events that it takes."""
        org, project, now = self._org.id, self._org.project, millis(self._kernel.clock.now())
        types = ("buy", random_text(9_000, self._random.randrange(10_000)), "buy")
        records = [raw_record(org, project, now, event_type=type_, person="user-4") for type_ in types]
        self.position = await self._kernel.bus.append(b"".join(records), len(records))


@pytest.mark.rule("B071", "B072", "B073", "B074", "B075", "C69", "C72")
@pytest.mark.parametrize("seed", [1, 2])
async def test_the_index_says_what_rows_say(api: Api, kernel: Kernel, worker: Kernel, org: Org, seed: int) -> None:
    """Loaded in the middle of a story and kept by the log: duplicates, bad rows, takeovers and patches included."""
    story = Story(api, kernel, org, seed)
    await story.go_on(25)
    async with homes(worker):
        await agree(worker, org)
        assert worker.metrics.value("audience_index_loads", change="postgres") == 1
        for _ in range(3):
            await story.go_on(12)
            await agree(worker, org)
        await story.go_on(15, deletes=True)
        await agree(worker, org, sure=False)
        assert worker.metrics.value("audience_index_loads", change="postgres") == 1


async def test_a_start_from_a_snapshot(api: Api, kernel: Kernel, org: Org, tmp_path: Path) -> None:
    """Taken at the end of one worker, carried on by the log in the next."""
    story = Story(api, kernel, org, 3)
    first, second = (with_index(kernel, snapshot_dir=str(tmp_path / "indexes")) for _ in range(2))
    await story.go_on(15)
    async with homes(first):
        await agree(first, org)
    assert len(list((tmp_path / "indexes").glob("*.index"))) == 1
    await story.go_on(15)
    async with homes(second):
        await agree(second, org)
    assert second.metrics.value("audience_index_loads", change="snapshot") == 1
    assert second.metrics.value("audience_index_loads", change="postgres") == 0


async def test_a_damaged_snapshot_is_no_harm(api: Api, kernel: Kernel, org: Org, tmp_path: Path) -> None:
    story = Story(api, kernel, org, 4)
    await story.go_on(10)
    first, second = (with_index(kernel, snapshot_dir=str(tmp_path / "indexes")) for _ in range(2))
    async with homes(first):
        await agree(first, org)
    (file,) = (tmp_path / "indexes").glob("*.index")
    file.write_bytes(file.read_bytes()[:-7])
    async with homes(second):
        await agree(second, org)
    assert second.metrics.value("audience_index_loads", change="postgres") == 1


async def test_the_lease_moves_to_another_worker(api: Api, kernel: Kernel, org: Org) -> None:
    """One home for each project; when it leaves, the next who is asked takes it."""
    story = Story(api, kernel, org, 5)
    await story.go_on(10)
    first, second = with_index(kernel), with_index(kernel)
    async with homes(first):
        await agree(first, org)
        async with homes(second):
            await agree(second, org)
            assert second.metrics.value("lease_changes", kind="audience", change="taken") == 0
    async with homes(second):
        await agree(second, org)
        assert second.metrics.value("lease_changes", kind="audience", change="taken") == 1


async def test_two_parts_are_one_index(api: Api, kernel: Kernel, org: Org) -> None:
    """Each worker holds a part by hash of the person; whoever asks adds them up."""
    story = Story(api, kernel, org, 6)
    await story.go_on(20)
    workers = [with_index(kernel, parts=2) for _ in range(2)]
    async with homes(*workers):
        for rules in RULES:

            async def told(rules: dict[str, Any] = rules) -> bool:
                return await indexed(workers[0], org, rules) is not None

            await eventually(told)
        taken = [worker.metrics.value("lease_changes", kind="audience", change="taken") for worker in workers]
        assert taken == [1, 1]
        await agree(workers[0], org, sure=False)
        await story.go_on(10)
        await agree(workers[1], org, sure=False)


async def test_the_project_nobody_asks_for_goes(
    api: Api, kernel: Kernel, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that do not fit together: the older question loses, and rows answer for it."""
    monkeypatch.setattr(home, "MEGABYTE", 30_000)
    worker = with_index(kernel, memory_mb=1)
    one, two = await make.org(), await make.org()
    for org in (one, two):
        await make.profile(org, "anna", traits={"plan": "pro"})
    async with homes(worker):
        for org in (one, two):

            async def told(org: Org = org) -> bool:
                return await indexed(worker, org, RULES[1]) == ["anna"]

            await eventually(told)

        async def gone() -> bool:
            return worker.metrics.value("audience_index_loads", change="evicted") == 1

        await eventually(gone)
        assert await indexed(worker, one, RULES[1]) is None
        assert await indexed(worker, two, RULES[1]) == ["anna"]
        asked = await ask.question(worker, one.id, one.project, RULES[1], "count")
        assert (await ask.anybody(worker, asked)).count == 1


async def test_one_that_never_fits_is_left_to_rows(
    api: Api, kernel: Kernel, org: Org, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home, "MEGABYTE", 1_000)
    worker = with_index(kernel, memory_mb=1)
    await make.profile(org, "anna", traits={"plan": "pro"})
    async with homes(worker):

        async def refused() -> bool:
            asked = await ask.question(worker, org.id, org.project, RULES[1], "count")
            assert (await ask.anybody(worker, asked)).count == 1
            return worker.metrics.value("audience_index_loads", change="too_large") == 1

        await eventually(refused)


async def test_a_send_sees_what_was_said_before_it(
    api: Api, kernel: Kernel, worker: Kernel, org: Org, make: Make
) -> None:
    """As fresh as the stores: whoever did something a moment ago is in, by the index."""
    await make.profile(org, "anna")
    rules = {"all": [{"event": "buy", "op": "occurred"}]}
    made = await api.post("/audiences", {"name": "x", "rules": rules}, key=org.sk)
    id_ = AudienceId(msgspec.convert(made.data["id"], type=AudienceId))

    async with homes(worker):

        async def told() -> bool:
            return await indexed(worker, org, rules) == []

        await eventually(told)
        for n in range(5):
            said = await api.post("/identify", {"userId": f"user-{n}"}, key=org.sk)
            said = await api.post("/events", {"eventType": "buy", "module": "m", "userId": f"user-{n}"}, key=org.sk)
            position = parse_position(said.position) or Position(0)
            for reader in (events.STORER, profiles.READER):
                assert await wait_for(kernel.db, reader, position, 10)
            members = await audiences.members(worker, org.id, org.project, id_, (), position)
            found = [await members.of(shard) for shard in range(64)]
            assert sum(len(_core.member_names(named, 0, 10)) for named in found if named is not None) == n + 1
        assert worker.metrics.value("audience_evaluations", purpose="send", engine="rows") == 0


@pytest.mark.rule("B069")
async def test_erased_events_are_in_no_index(api: Api, kernel: Kernel, org: Org, make: Make, tmp_path: Path) -> None:
    """F-I9: neither in the index that is held, nor in an old snapshot."""
    folder = str(tmp_path / "indexes")
    first, second = (with_index(kernel, snapshot_dir=folder) for _ in range(2))
    bought = {"all": [{"event": "buy", "op": "occurred"}]}
    await make.events(org, {"eventType": "buy", "userId": "anna"}, {"eventType": "buy", "userId": "bert"})
    await make.profile(org, "anna")
    await make.profile(org, "bert")

    async def says(worker: Kernel, *names: str) -> bool:
        found = await indexed(worker, org, bought)
        assert found is None or found == await by_rows(worker, org, bought) or first is worker
        return found == list(names)

    async with homes(first):
        await eventually(lambda: says(first, "anna", "bert"))
        assert events.module.erase is not None
        await events.module.erase(kernel, org.id, org.project, "anna")
        await eventually(lambda: says(first, "bert"))
    (kept,) = (tmp_path / "indexes").glob("*.index")
    old = kept.read_bytes()
    await events.module.erase(kernel, org.id, org.project, "bert")
    kept.write_bytes(old)
    async with homes(second):
        await eventually(lambda: says(second))
    assert second.metrics.value("audience_index_loads", change="postgres") == 1


@pytest.mark.rule("B069")
async def test_snapshots_that_nobody_holds_forget_too(
    api: Api, kernel: Kernel, org: Org, make: Make, tmp_path: Path
) -> None:
    """A worker that has held an index once may never hold it again: what it has kept of it goes all the same, and what
    is still true stays."""
    first, second = (with_index(kernel, snapshot_dir=str(tmp_path / "indexes")) for _ in range(2))
    other = await make.org()
    for one in (org, other):
        await make.profile(one, "anna")

    async def told(one: Org) -> bool:
        return await indexed(first, one, RULES[0]) == ["anna"]

    async with homes(first):
        for one in (org, other):
            await eventually(lambda one=one: told(one))
    assert len(list((tmp_path / "indexes").glob("*.index"))) == 2
    await events.make_anew(kernel, org.id, org.project)
    async with homes(second):
        await eventually(lambda: len(list((tmp_path / "indexes").glob("*.index"))) == 1)
    (kept,) = (tmp_path / "indexes").glob("*.index")
    assert kept.name.startswith(other.project.hex)


async def test_rolled_up_months_count_as_before(
    api: Api, kernel: Kernel, org: Org, make: Make, fresh_migrated: Database
) -> None:
    """By rows and by an index that is filled with days; a condition on properties looks at what is kept alone."""
    own = dataclasses.replace(kernel, db=fresh_migrated, clock=FixedClock(kernel.clock.now()))
    now = millis(own.clock.now())
    said = [
        {
            "eventType": "buy",
            "module": "m",
            "userId": person,
            "timestamp": now - days * 86_400_000,
            "properties": {"n": 1},
        }
        for person, days in (("a", 100), ("a", 100), ("a", 101), ("anon", 100), ("c", 1), ("c", 100))
    ]
    frame = [
        _core.check_events(msgspec.json.encode(said), org.id.bytes, org.project.bytes, "prod", now, True).records,
        *(
            _core.check_identify(msgspec.json.encode(body), org.id.bytes, org.project.bytes, "prod", now).records
            for body in ({"userId": "a"}, {"userId": "b", "anonymousId": "anon"}, {"userId": "c"}, {"userId": "d"})
        ),
    ]
    message = Message("events.0", _core.frame(frame), 1, 1)
    for consumer in (*events.module.consumers, *profiles.module.consumers):
        await consumer.handle(own, [message])
    asked: list[dict[str, Any]] = [
        {"event": "buy", "op": "occurred"},
        {"event": "buy", "op": "count_gte", "value": 3},
        {"event": "buy", "op": "count_gte", "value": 2, "window": "105d"},
        {"event": "buy", "op": "count_lte", "value": 2, "window": "365d"},
        {"event": "buy", "op": "not_occurred_in_last", "value": "50d"},
    ]

    async def both(rules: dict[str, Any]) -> list[str]:
        named = await by_rows(own, org, {"all": [rules]})
        index = _core.Index()
        async with own.db.acquire() as connection, store.snapshot(connection):
            await store.load(connection, org.id, org.project, index, lambda: None)
        index.loaded(1)
        found = index.ask(compiled({"all": [rules]}), millis(await store.as_of(own.db)))
        assert found.undecided == 0
        assert _core.member_names(found.members(), 0, 10) == named, rules
        return named

    before = [await both(rules) for rules in asked]
    assert before == [["a", "b", "c"], ["a"], ["a", "c"], ["b", "c", "d"], ["a", "b", "d"]]
    settings = msgspec.structs.replace(own.settings, events=Events(kept_months=2))
    await roll_up_old_months(dataclasses.replace(own, settings=settings))
    assert await own.db.fetchval("SELECT sum(count) FROM event_days") == 5
    assert [await both(rules) for rules in asked] == before
    assert await by_rows(
        own, org, {"all": [{**asked[0], "where": {"all": [{"trait": "n", "op": "eq", "value": 1}]}}]}
    ) == ["c"]
    (one,) = await service.evaluations_of(own, org.id, org.project, "b", [compiled({"all": [asked[0]]})])
    assert one.contains("b"), "one person's days count too, under every name"


async def test_a_frame_that_a_store_gave_up(api: Api, kernel: Kernel, worker: Kernel, org: Org, make: Make) -> None:
    """It is in the log and in no table: the index is made anew from the tables."""
    await make.profile(org, "anna")
    async with homes(worker):

        async def told() -> bool:
            return await indexed(worker, org, RULES[0]) == ["anna"]

        await eventually(told)
        await kernel.bus.wake(f"dead.{events.STORER}")

        async def anew() -> bool:
            return worker.metrics.value("audience_index_loads", change="postgres") == 2

        await eventually(anew)
        await eventually(told)


@pytest.mark.rule("B076")
async def test_nobody_there_to_ask(
    api: Api, kernel: Kernel, org: Org, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B076: a size is null, a preview 503 with Retry-After; one person is explained all the same."""
    await make.profile(org, "anna", traits={"plan": "pro"})
    monkeypatch.setattr(ask, "ROWS_SUBJECT", "ask.audiences.nobody")
    made = await api.post("/audiences", {"name": "x", "rules": RULES[1]}, key=org.sk)
    assert (made.status, made.data["estimatedSize"], made.data["estimatedAt"]) == (201, None, None)
    refused = await api.post("/audiences/preview", {"rules": RULES[1]}, key=org.sk)
    assert (refused.status, refused.code) == (503, "UNAVAILABLE")
    assert int(refused.headers["retry-after"]) >= 1
    told = await api.post("/audiences/explain", {"rules": RULES[1], "userId": "anna"}, key=org.sk)
    assert told.data["member"] is True


async def test_a_snapshot_is_not_carried_on_over_a_frame_that_was_given_up(
    api: Api, kernel: Kernel, org: Org, make: Make, tmp_path: Path
) -> None:
    """Nobody was there to hear of it when it happened."""
    first, second = (with_index(kernel, snapshot_dir=str(tmp_path / "indexes")) for _ in range(2))
    await make.profile(org, "anna")

    async def told(worker: Kernel) -> bool:
        return await indexed(worker, org, RULES[0]) == ["anna"]

    async with homes(first):
        await eventually(lambda: told(first))
    assert list((tmp_path / "indexes").glob("*.index"))
    later = await kernel.bus.head() + 1
    await kernel.bus.publish(f"dead.{events.STORER}", b"", new_id().hex, {"Sendora-Position": str(later)})
    async with homes(second):
        await eventually(lambda: told(second))
    assert second.metrics.value("audience_index_loads", change="postgres") == 1
