"""Addresses that providers call dead: the evidence, the guard, the way back; and one token for each device."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from tests.api import Answer, Api
from tests.make import Make, Org
from tests.modules.push.conftest import subscription

from sendora.delivery.account import Ended, Outcomes
from sendora.kernel.bus import Message, Position
from sendora.kernel.ids import new_id
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Database
from sendora.modules.push.consumers import prune
from sendora.modules.push.jobs import collect
from sendora.modules.push.model.tokens import RegistrationIn, registration
from sendora.modules.push.store import tokens as store
from sendora.modules.push.store.tokens import Registering


def chunk(
    org: Org,
    *ended: tuple[str, str | None],
    provider: str = "apns",
    send: UUID | None = None,
    at: datetime | None = None,
) -> Message:
    """How the recipients of a chunk ended: (device, reason), without a reason accepted."""
    said = Outcomes(
        org=org.id,
        project=org.project,
        send=send or new_id(),
        shard=0,
        seq=0,
        outcomes=[
            Ended(
                recipient=UUID(device),
                user_id=None,
                state="rejected" if reason else "accepted",
                reason=reason,
                variant=None,
                provider=provider,
                provider_id=None,
                attempt=1,
                repeated=False,
                at=at or datetime.now(UTC),
            )
            for device, reason in ended
        ],
    )
    return Message("lifecycle.push.outcomes", msgspec.json.encode(said), Position(1), 1)


async def quarantined(api: Api, org: Org, **asked: Any) -> dict[str, dict[str, Any]]:
    listed = await api.get("/push/tokens/quarantine", key=org.sk, pageSize=100, **asked)
    assert listed.status == 200, listed
    assert listed.pagination["total"] == len(listed.data)
    return {row["id"]: row for row in listed.data}


async def restore(api: Api, org: Org, **asked: Any) -> tuple[int, bool]:
    said = await api.post("/push/tokens/restore", asked, key=org.sk)
    assert said.status == 200, said
    return said.data["restored"], said.data["hasMore"]


async def active(api: Api, org: Org) -> set[str]:
    listed = await api.get("/push/tokens", key=org.sk, pageSize=100, isActive="true")
    return {row["id"] for row in listed.data}


async def apple(make: Make, org: Org, n: int = 1, **given: Any) -> list[str]:
    return [(await make.token(org, uuid4().hex * 2, **given))["id"] for _ in range(n)]


# -- evidence


@pytest.mark.rule("B087", "B088")
async def test_the_evidence(api: Api, kernel: Kernel, org: Org, make: Make) -> None:
    """B087: what was said, by whom, of which send and when; B088: and how long it can be undone."""
    gone, fine = await apple(make, org, 2, userId="ada")
    [dev] = await apple(make, org, environment="sandbox")
    phone = (await make.token(org, f"fcm-{uuid4().hex}", "android"))["id"]
    browser = subscription(uuid4().hex)
    web = (await make.token(org, browser["endpoint"], "web", subscription=browser))["id"]
    send, at = new_id(), datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
    await prune(
        kernel,
        [
            chunk(org, (gone, "Unregistered"), (fine, None), send=send, at=at),
            chunk(org, (dev, "BadDeviceToken"), provider="apns:sandbox"),
            chunk(org, (phone, "UNREGISTERED"), provider="fcm"),
            chunk(org, (web, "subscription_gone"), provider="webpush"),
        ],
    )
    listed = await quarantined(api, org)
    said = {id_: (row["reason"], row["code"], row["lane"], row["platform"]) for id_, row in listed.items()}
    assert said == {
        gone: ("Unregistered", "Unregistered", "apns", "ios"),
        dev: ("held", "BadDeviceToken", "apns:sandbox", "ios"),
        phone: ("UNREGISTERED", "UNREGISTERED", "fcm", "android"),
        web: ("subscription_gone", "subscription_gone", "webpush", "web"),
    }
    first = listed[gone]
    assert (first["sendId"], first["userId"]) == (str(send), "ada")
    assert datetime.fromisoformat(first["saidAt"]) == at
    retired_at = datetime.fromisoformat(first["retiredAt"])
    assert datetime.fromisoformat(first["deletedAfter"]) == retired_at + timedelta(days=30)
    assert listed[dev]["deletedAfter"] is None
    assert await active(api, org) == {fine, dev}

    assert set(await quarantined(api, org, provider="apns")) == {gone, dev}
    assert set(await quarantined(api, org, provider="webpush")) == {web}
    assert set(await quarantined(api, org, reason="held")) == {dev}
    assert set(await quarantined(api, org, reason="BadDeviceToken")) == set()
    assert set(await quarantined(api, org, provider="fcm", reason="UNREGISTERED")) == {phone}
    assert set(await quarantined(api, org, since=(retired_at - timedelta(minutes=5)).isoformat())) == set(listed)
    assert set(await quarantined(api, org, since=(retired_at + timedelta(hours=1)).isoformat())) == set()
    beyond = await api.get("/push/tokens/quarantine", key=org.sk, page=9)
    assert (beyond.data, beyond.pagination["total"]) == ([], 4)


@pytest.mark.rule("B009")
async def test_who_may_look_and_restore(api: Api, kernel: Kernel, org: Org, make: Make) -> None:
    """B009: an app may not; another org or project finds nothing."""
    gone, fine = await apple(make, org, 2)
    await prune(kernel, [chunk(org, (gone, "Unregistered"), (fine, None))])
    for refused in (
        await api.get("/push/tokens/quarantine", key=org.pk),
        await api.post("/push/tokens/restore", {"reason": "held"}, key=org.pk),
    ):
        assert (refused.status, refused.code) == (403, "scope_required")
    other = await make.org()
    assert await quarantined(api, other) == {}
    assert await restore(api, other, tokenIds=[gone]) == (0, False)
    assert await restore(api, other, provider="apns") == (0, False)
    assert set(await quarantined(api, org)) == {gone}


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"provider": "apple"}, "provider"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-01-01T00:00:00"}, "since"),
        ({"since": "0001-01-01T00:00:00+23:00"}, "since"),
        ({"since": "9999-12-31T23:59:59-23:00"}, "since"),
        ({"reason": ""}, "reason"),
        ({"reason": "x" * 65}, "reason"),
    ],
)
async def test_a_filter_that_makes_no_sense(api: Api, org: Org, asked: dict[str, Any], field: str) -> None:
    for refused in (
        await api.get("/push/tokens/quarantine", key=org.sk, **asked),
        await api.post("/push/tokens/restore", asked, key=org.sk),
    ):
        assert field in refused.fields, refused


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"tokenIds": []},
        {"tokenIds": ["x"]},
        {"tokenIds": [str(uuid4()) for _ in range(1_001)]},
        {"tokenIds": [str(uuid4())], "reason": "held"},
    ],
)
async def test_what_to_restore_must_be_said(api: Api, org: Org, asked: dict[str, Any]) -> None:
    refused = await api.post("/push/tokens/restore", asked, key=org.sk)
    assert any(field.startswith("tokenIds") for field in refused.fields), refused


# -- the way back


@pytest.mark.rule("B087")
async def test_what_was_overruled_does_not_retire_again(api: Api, kernel: Kernel, org: Org, make: Make) -> None:
    """A restored device is active, what was said before is read again in vain, and what is said afterwards counts."""
    gone, also, fine = await apple(make, org, 3)
    said = chunk(org, (gone, "Unregistered"), (also, "Unregistered"), (fine, None))
    await prune(kernel, [said])
    assert await active(api, org) == {fine}
    assert await restore(api, org, tokenIds=[gone, gone, str(uuid4())]) == (1, False)
    assert await active(api, org) == {gone, fine}
    assert set(await quarantined(api, org)) == {also}
    assert await restore(api, org, tokenIds=[gone]) == (0, False)
    await prune(kernel, [said])
    assert await active(api, org) == {gone, fine}
    await prune(kernel, [chunk(org, (gone, "Unregistered"), (fine, None))])
    assert await active(api, org) == {fine}

    [told] = (await api.get("/audit-log", key=org.sk, resource=f"project:{org.project}")).data
    assert (told["action"], told["details"]["restored"]) == ("tokens.restored", 1)
    assert told["details"]["asked"]["tokenIds"][0] == gone


async def test_the_guard_holds_and_lets_go(api: Api, kernel: Kernel, org: Org) -> None:
    """So many die at once that the lane is to blame: all are listed as held, stay active, and one call clears them."""
    body = [{"token": f"fcm:{n}:{uuid4().hex}", "platform": "android"} for n in range(105)]
    answers = await asyncio.gather(*(api.post("/push/tokens", one, key=org.pk) for one in body))
    ids = [answer.data["id"] for answer in answers]
    before = kernel.metrics.value("prune_held", platform="android")
    await prune(kernel, [chunk(org, *((id_, "UNREGISTERED") for id_ in ids), provider="fcm")])
    assert kernel.metrics.value("prune_held", platform="android") == before + 105, "the alarm"
    first = await api.get("/push/tokens/quarantine", key=org.sk, reason="held")
    assert (first.pagination["total"], first.data[0]["code"]) == (105, "UNREGISTERED")
    assert (await api.get("/push/tokens", key=org.sk, isActive="true")).pagination["total"] == 105
    assert await restore(api, org, reason="held", provider="fcm") == (105, False)
    assert await quarantined(api, org) == {}
    assert (await api.get("/push/tokens", key=org.sk, isActive="true")).pagination["total"] == 105


async def test_restoring_goes_in_bites(
    api: Api, kernel: Kernel, org: Org, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request is bounded, says when there is more, and each lot is in the audit log."""
    monkeypatch.setattr("sendora.modules.push.store.quarantine.RESTORED_MAX", 2)
    monkeypatch.setattr("sendora.modules.push.routes.tokens.RESTORE_BITES_MAX", 2)
    *gone, fine = await apple(make, org, 6)
    await prune(kernel, [chunk(org, *((id_, "Unregistered") for id_ in gone), (fine, None))])
    assert await restore(api, org, reason="Unregistered") == (4, True)
    assert await restore(api, org, reason="Unregistered") == (1, False)
    assert await active(api, org) == {*gone, fine}
    lines = (await api.get("/audit-log", key=org.sk, resource=f"project:{org.project}")).data
    assert [line["details"]["restored"] for line in lines] == [1, 2, 2]


@pytest.mark.rule("B086")
async def test_who_has_signed_out_is_not_brought_back(api: Api, kernel: Kernel, org: Org, make: Make) -> None:
    """B086: whether before or after a provider called the device dead."""
    out, gone, held, fine = await apple(make, org, 4)
    await api.delete(f"/push/tokens/{out}", key=org.pk)
    await prune(kernel, [chunk(org, (held, "BadDeviceToken")), chunk(org, (gone, "Unregistered"))])
    assert set(await quarantined(api, org)) == {gone, held}
    for id_ in (gone, held):
        await api.delete(f"/push/tokens/{id_}", key=org.pk)
    assert await quarantined(api, org) == {}
    assert await restore(api, org, tokenIds=[out, gone, held]) == (0, False)
    assert await active(api, org) == {fine}


@pytest.mark.rule("B083", "C36")
async def test_registering_and_the_quarantine(api: Api, kernel: Kernel, org: Org, make: Make) -> None:
    """C36: a retired device that registers again stays retired, with its evidence, until it asks to be woken; one that
    is held is out at once."""
    tokens = [uuid4().hex * 2 for _ in range(2)]
    gone, held = [(await make.token(org, token))["id"] for token in tokens]
    await prune(kernel, [chunk(org, (held, "BadDeviceToken")), chunk(org, (gone, "Unregistered"))])
    for token in tokens:
        await make.token(org, token)
    assert set(await quarantined(api, org)) == {gone}
    await make.token(org, tokens[0], reactivate=True)
    assert await quarantined(api, org) == {}
    assert await active(api, org) == {gone, held}


@pytest.mark.rule("B088")
async def test_the_grace_period_ends(api: Api, kernel: Kernel, org: Org, make: Make, db: Database) -> None:
    """B088: after thirty days there is nothing left to restore; what is held is not deleted."""
    old, young, held, fine = await apple(make, org, 4)
    await prune(kernel, [chunk(org, (held, "BadDeviceToken"))])
    await prune(kernel, [chunk(org, (old, "Unregistered"), (young, "Unregistered"), (fine, None))])
    for id_, days in ((old, 31), (young, 29), (held, 31)):
        moved = "quarantined_at = quarantined_at - $3::interval, retired_at = retired_at - $3::interval"
        sql = f"UPDATE push_tokens SET {moved} WHERE org_id = $1 AND id = $2"
        await db.execute(sql, org.id, UUID(id_), timedelta(days=days))
    await collect(kernel)
    assert set(await quarantined(api, org)) == {young, held}
    assert await restore(api, org, tokenIds=[old, young]) == (1, False)
    assert await active(api, org) == {young, held, fine}


# -- one token for each device


async def register(api: Api, org: Org, token: str, **said: Any) -> str:
    answer: Answer = await api.post("/push/tokens", {"token": token, "platform": "android", **said}, key=org.pk)
    assert (answer.status, answer.data["isActive"]) == (200, True), answer
    id_: str = answer.data["id"]
    return id_


@pytest.mark.rule("B085", "B257")
async def test_a_rotated_token(api: Api, kernel: Kernel, org: Org) -> None:
    """B257: the app registers the new token and deletes nothing; B085: the old row stays until its next dispatch
    fails."""
    old = await register(api, org, uuid4().hex, userId="ada")
    new = await register(api, org, uuid4().hex, userId="ada")
    assert await active(api, org) == {old, new}
    await prune(kernel, [chunk(org, (old, "UNREGISTERED"), (new, None), provider="fcm")])
    assert await active(api, org) == {new}
    assert (await quarantined(api, org))[old]["reason"] == "UNREGISTERED"


@pytest.mark.rule("B257")
async def test_a_device_that_says_who_it_is_has_one_token(api: Api, org: Org) -> None:
    """The newest: nobody gets a message twice in between. An old token that comes back is the newest again."""
    one, two = uuid4().hex, uuid4().hex
    first = await register(api, org, one, userId="ada", deviceId="phone")
    second = await register(api, org, two, userId="ada", deviceId="phone")
    assert await active(api, org) == {second}
    assert await quarantined(api, org) == {}, "no provider has said anything"
    assert await register(api, org, one, deviceId="phone") == first
    assert await active(api, org) == {first}
    assert await register(api, org, two) == second, "its device is known from before"
    assert await active(api, org) == {second}


async def test_what_is_another_device(api: Api, org: Org, make: Make) -> None:
    """Another name, platform, app, project or org; and whoever does not say."""
    other = await make.org()
    kept = {
        await register(api, org, uuid4().hex, deviceId="phone"),
        await register(api, org, uuid4().hex, deviceId="tablet"),
        await register(api, org, uuid4().hex),
        await register(api, org, uuid4().hex * 2, platform="ios", deviceId="phone", bundleId="com.example.one"),
        await register(api, org, uuid4().hex * 2, platform="ios", deviceId="phone", bundleId="com.example.two"),
    }
    theirs = await register(api, other, uuid4().hex, deviceId="phone")
    assert await active(api, org) == kept
    assert await active(api, other) == {theirs}


async def test_of_many_at_once_one_stays(api: Api, org: Org, db: Database) -> None:
    """Within one batch of a process, and between processes, which see each other's rows only when they are
    committed."""
    answers = await asyncio.gather(
        *(
            api.post("/push/tokens", {"token": uuid4().hex, "platform": "android", "deviceId": "phone"}, key=org.pk)
            for _ in range(20)
        )
    )
    assert {answer.status for answer in answers} == {200}
    assert len(await active(api, org)) == 1

    def said() -> Registering:
        given = RegistrationIn(token=uuid4().hex, platform="android", device_id="phone")
        return Registering(org=org.id, project=org.project, said=registration(given, org.project, org.id))

    for _ in range(10):
        await asyncio.gather(*(store.upsert(db, [said()]) for _ in range(4)))
        assert len(await active(api, org)) == 1


async def test_a_replaced_token_is_not_restored(api: Api, kernel: Kernel, org: Org) -> None:
    """Of a device with several dead tokens the newest comes back; one with a living token keeps that."""
    first = await register(api, org, uuid4().hex, deviceId="phone")
    fine = await register(api, org, uuid4().hex)
    await prune(kernel, [chunk(org, (first, "UNREGISTERED"), (fine, None), provider="fcm")])
    second = await register(api, org, uuid4().hex, deviceId="phone")
    assert await restore(api, org, provider="fcm") == (0, False)
    assert await active(api, org) == {second, fine}
    await prune(kernel, [chunk(org, (second, "UNREGISTERED"), (fine, None), provider="fcm")])
    assert set(await quarantined(api, org)) == {first, second}
    assert await restore(api, org, provider="fcm") == (1, False)
    assert await active(api, org) == {second, fine}
