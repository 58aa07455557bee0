"""Whom a send is for: an audience, or named people, less the people of others."""

import random
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.api import Api
from tests.conftest import eventually
from tests.make import Make, Org
from tests.modules.audiences.test_contacts import listed
from tests.modules.audiences.test_home import homes, indexed, with_index

from sendora import _core
from sendora.kernel.errors import ValidationFailed
from sendora.kernel.ids import AudienceId
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Database
from sendora.modules import audiences
from sendora.modules.audiences import contacts

EVERYBODY: dict[str, Any] = {"all": []}


def above(n: int) -> dict[str, Any]:
    return {"all": [{"trait": "n", "op": "gte", "value": n}]}


async def saved(api: Api, org: Org, rules: dict[str, Any]) -> str:
    made = await api.post("/audiences", {"name": "x", "rules": rules}, key=org.sk)
    assert made.status == 201, made
    id_: str = made.data["id"]
    return id_


async def found(kernel: Kernel, org: Org, audience: str, *excluded: str) -> list[str]:
    """Everybody, read as a plan reads them; each in the shard that is theirs, and once."""
    left_out = [AudienceId(UUID(one)) for one in excluded]
    members = await audiences.members(kernel, org.id, org.project, AudienceId(UUID(audience)), left_out)
    names: list[str] = []
    async with kernel.db.transaction(isolation="repeatable_read") as connection:
        await members.open(connection)
        for shard in range(64):
            named = await members.of(shard)
            if named is not None:
                here = _core.member_names(named, 0, 1_000)
                assert set(_core.shards(org.project.bytes, here)) <= {shard}
                names += here
    assert len(names) == len(set(names))
    return sorted(names)


async def test_targets_and_exclusions_of_both_kinds(api: Api, kernel: Kernel, org: Org, make: Make) -> None:
    """Rules and lists, as the target and as what is left out, with people who were taken over in between."""
    for n in range(6):
        await make.profile(org, f"user-{n}", traits={"n": n})
    anon = await make.events(org, *({"eventType": "x", "anonymousId": f"anon-{n}"} for n in range(3)))
    assert (await api.get("/profiles/anon-2", key=org.sk, after=anon.position)).status == 200
    guests = await listed(api, org, "user-0", "user-1", "user-4", "anon-1", "anon-2")
    friends = await listed(api, org, "user-1", "anon-0")
    await make.profile(org, "user-1", anonymousId="anon-1", traits={"n": 1})
    await make.profile(org, "user-5", anonymousId="anon-0", traits={"n": 5})
    everybody, four, two = [await saved(api, org, rules) for rules in (EVERYBODY, above(4), above(2))]

    async def of(*audiences_: str) -> list[str]:
        return [name.removeprefix("user-") for name in await found(kernel, org, *audiences_)]

    assert await of(everybody) == ["anon-2", "0", "1", "2", "3", "4", "5"]
    assert await of(guests) == ["anon-2", "0", "1", "4"]
    assert await of(friends) == ["1", "5"]
    assert await of(everybody, four) == ["anon-2", "0", "1", "2", "3"]
    assert await of(everybody, friends) == ["anon-2", "0", "2", "3", "4"]
    assert await of(everybody, friends, guests, four) == ["2", "3"]
    assert await of(guests, friends) == ["anon-2", "0", "4"]
    assert await of(guests, four) == ["anon-2", "0", "1"]
    assert await of(guests, friends, four, two) == ["anon-2", "0"]
    assert await of(guests, guests) == await of(everybody, everybody) == []

    async def left(*excluded: str) -> list[str]:
        ids = [AudienceId(UUID(one)) for one in excluded]
        names = ["user-1", "anon-0", "user-4", "anon-2", "stranger"]
        _, kept = await audiences.leave_out(kernel, org.id, org.project, names, ids)
        return kept

    assert await left(friends) == ["user-4", "anon-2", "stranger"]
    assert await left(four) == ["user-1", "anon-2", "stranger"]
    assert await left(four, guests) == ["stranger"]


@pytest.mark.rule("B075", "C69")
@pytest.mark.parametrize("seed", [1, 2])
async def test_set_arithmetic(
    api: Api, kernel: Kernel, org: Org, make: Make, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whatever is taken from whatever, by rows and by the index: what Python's sets say. `MERGED_MAX` is small, so that
    lists are worked through in several bites."""
    monkeypatch.setattr(contacts, "MERGED_MAX", 2)
    chance = random.Random(seed)
    people = {f"user-{n}": {f"user-{n}"} for n in range(10)}
    traits = {name: chance.randrange(6) for name in people}
    anons = [f"anon-{n}" for n in range(6)]
    said = await make.events(org, *({"eventType": "x", "anonymousId": name} for name in anons))
    for name, n in traits.items():
        await make.profile(org, name, traits={"n": n})
    assert (await api.get("/profiles/anon-0", key=org.sk, after=said.position)).status == 200
    lists: dict[str, set[str]] = {}
    for _ in range(3):
        names = chance.sample([*people, *anons], chance.randrange(1, 9))
        lists[await listed(api, org, *names)] = set(names)
    merged = {anon: chance.choice([*people]) for anon in anons[:4]}
    for anon, name in merged.items():
        await make.profile(org, name, anonymousId=anon)
    rules = {await saved(api, org, above(n)): n for n in (1, 3, 5)}
    known = {id_: {merged.get(name, name) for name in names} for id_, names in lists.items()}
    known |= {id_: {name for name in traits if traits[name] >= n} for id_, n in rules.items()}

    async def agree(kernel: Kernel) -> None:
        for _ in range(12):
            target, *excluded = chance.sample([*known], chance.randrange(1, 5))
            wanted = known[target] - set().union(*(known[one] for one in excluded))
            assert await found(kernel, org, target, *excluded) == sorted(wanted), (target, excluded)

    await agree(kernel)
    worker = with_index(kernel)
    async with homes(worker):

        async def there() -> bool:
            return await indexed(worker, org, EVERYBODY) is not None

        await eventually(there)
        await agree(worker)


async def test_exclusions_that_do_not_fit_into_one_rule(api: Api, kernel: Kernel, org: Org, make: Make) -> None:
    """Each is evaluated on its own then, as of the same instant."""
    for n in range(4):
        await make.profile(org, f"user-{n}", traits={"n": n})
    wide = [{"any": [*({"trait": f"t{n}", "op": "exists"} for n in range(40)), above(at)]} for at in (2, 3)]
    deep: dict[str, Any] = above(0)
    for _ in range(6):
        deep = {"all": [deep]}
    excluded = [await saved(api, org, rules) for rules in wide]
    assert await found(kernel, org, await saved(api, org, deep), *excluded) == ["user-0", "user-1"]
    everybody = await listed(api, org, *(f"user-{n}" for n in range(4)))
    assert await found(kernel, org, everybody, *excluded) == ["user-0", "user-1"]


@pytest.mark.rule("B079", "C47")
async def test_deleted_audiences(api: Api, kernel: Kernel, org: Org, make: Make) -> None:
    """C47: as a target nobody, as an exclusion nobody is left out; for rules and lists alike."""
    for name in ("anna", "bert"):
        await make.profile(org, name)
    everybody, anna = await saved(api, org, EVERYBODY), await listed(api, org, "anna")
    target = await saved(api, org, EVERYBODY)
    assert await found(kernel, org, target, anna) == ["bert"]
    for id_ in (everybody, anna):
        await api.delete(f"/audiences/{id_}", key=org.sk)
        assert await found(kernel, org, id_) == []
    assert await found(kernel, org, target, everybody, anna) == ["anna", "bert"]
    assert await found(kernel, org, target, str(uuid4())) == ["anna", "bert"]


async def test_an_exclusion_that_is_not_understood_stops_the_plan(
    api: Api, kernel: Kernel, org: Org, db: Database
) -> None:
    """Else people would be reached who were left out."""
    target, excluded = await saved(api, org, EVERYBODY), await saved(api, org, EVERYBODY)
    await db.execute("UPDATE audiences SET rules = $2 WHERE id = $1", UUID(excluded), {"of": "another version"})
    with pytest.raises(ValidationFailed):
        await found(kernel, org, target, excluded)


@pytest.mark.rule("C47")
async def test_a_preview_less_lists(api: Api, kernel: Kernel, org: Org, make: Make) -> None:
    """By rows and by the index; the funnel is of the rules alone."""
    for n in range(4):
        await make.profile(org, f"user-{n}", traits={"n": n}, **({"anonymousId": "anon"} if n == 3 else {}))
    guests = await listed(api, org, "user-0", "anon")
    two = await saved(api, org, above(2))

    async def count(*excluded: str) -> int:
        body = {"rules": EVERYBODY, "excludeAudienceIds": list(excluded)}
        answer = await api.post("/audiences/preview", body, key=org.sk)
        assert answer.status == 200, answer
        n: int = answer.data["count"]
        return n

    async def counts() -> Sequence[int]:
        return [await count(), await count(guests), await count(two), await count(guests, two)]

    assert await counts() == [4, 2, 2, 1]
    worker = with_index(kernel)
    async with homes(worker):

        async def there() -> bool:
            return await indexed(worker, org, EVERYBODY) is not None

        await eventually(there)
        assert await counts() == [4, 2, 2, 1]
        assert worker.metrics.value("audience_evaluations", purpose="preview", engine="index") == 4
