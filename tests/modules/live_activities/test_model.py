"""The rules that need no database: what a registration means, priorities, lives, payloads and their sizes."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendora.kernel.errors import ValidationFailed
from sendora.kernel.ids import OrgId, ProjectId, new_id
from sendora.modules import push
from sendora.modules.live_activities import payload
from sendora.modules.live_activities.model import (
    LIFE,
    LINGER,
    LIVING,
    TTL_MIN_S,
    URGENT_PER_HOUR,
    Activity,
    Alert,
    Said,
    Status,
    is_urgent,
    resolve,
    seconds,
    ttl_s,
    untold,
)

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
STATUSES: tuple[Status, ...] = ("starting", "active", "ended", "expired", "invalidated")


def activity(status: Status, token: str | None = None, told: Status = "starting", **given: Any) -> Activity:
    fields: dict[str, Any] = {
        "org": OrgId(UUID(int=1)),
        "id": new_id(),
        "project": ProjectId(UUID(int=2)),
        "user_id": "ada",
        "activity_type": "Order",
        "external_id": "order-1",
        "platform": "ios",
        "token": token,
        "environment": "production",
        "status": status,
        "reason": None,
        "stamp": 0,
        "content_state": None,
        "start_send": None,
        "told": told,
        "created_at": AT,
        "started_at": AT if token else None,
        "updated_at": AT,
        "ended_at": None if status in LIVING else AT,
    }
    return Activity(**{**fields, **given})


@pytest.mark.rule("B129")
@pytest.mark.parametrize(
    ("there", "verb"),
    [
        ([], "begin"),
        ([("active", "new")], "rotate"),
        ([("active", "old")], "rotate"),
        ([("starting", None)], "rotate"),
        ([("ended", "new"), ("active", "old")], "rotate"),
        ([("ended", "new")], "keep"),
        ([("expired", "new")], "keep"),
        ([("ended", "old")], "begin"),
        ([("invalidated", "new")], "revive"),
        ([("invalidated", "old")], "begin"),
        ([("invalidated", None)], "begin"),
        ([("ended", None)], "attach"),
        ([("ended", None), ("ended", "old")], "begin"),
    ],
)
def test_what_a_registration_means(there: list[tuple[Status, str | None]], verb: str) -> None:
    """B129: what lives is rotated, what is over stays over; the end of something that had not told its token reaches
    it. Rows in the order in which they were made."""
    rows = [activity(status, token) for status, token in there]
    said, row = resolve(rows, "new")
    assert said == verb
    assert (row is None) == (verb == "begin")


ROWS = st.lists(st.tuples(st.sampled_from(STATUSES), st.sampled_from(["new", "old", None])), max_size=6)


@given(ROWS)
def test_a_registration_never_begins_a_second_one(there: list[tuple[Status, str | None]]) -> None:
    """While one lives under the key nothing begins, and of two that live the one with this very token is meant."""
    rows = [activity(status, token) for status, token in there]
    verb, row = resolve(rows, "new")
    living = [one for one in rows if one.status in LIVING]
    assert (verb == "rotate") == bool(living)
    if row is not None and any(one.token == "new" for one in living):
        assert row.token == "new"


@pytest.mark.rule("B130")
def test_priorities() -> None:
    """An alert is always urgent; without one the budget of the hour decides."""
    alert = Alert(title="T", body="B")
    assert [is_urgent(None, n) for n in (0, URGENT_PER_HOUR - 1, URGENT_PER_HOUR)] == [True, True, False]
    assert is_urgent(alert, 10_000)


@given(st.integers(-7_200, 20 * 3_600))
def test_a_payload_lives_as_long_as_its_activity(age_s: int) -> None:
    one, now = activity("active", "t"), AT + timedelta(seconds=age_s)
    for event, life in (("update", LIFE), ("end", LIFE + LINGER)):
        left_s = int(life.total_seconds()) - age_s
        assert ttl_s(one, event, now) == max(left_s, TTL_MIN_S)  # type: ignore[arg-type]


@pytest.mark.rule("B131")
@pytest.mark.parametrize(
    ("status", "token", "told", "expected"),
    [
        ("starting", None, "starting", []),
        ("active", "t", "starting", ["active"]),
        ("active", "t", "active", []),
        ("ended", "t", "starting", ["active", "ended"]),
        ("ended", "t", "active", ["ended"]),
        ("ended", None, "starting", ["ended"]),
        ("expired", "t", "active", ["expired"]),
        ("invalidated", None, "starting", ["invalidated"]),
        ("active", "t", "invalidated", ["active"]),
    ],
)
def test_what_the_stream_has_not_heard(status: Status, token: str | None, told: Status, expected: list[Status]) -> None:
    """B131: a start is told before an end, also when both happened between two looks."""
    assert untold(activity(status, token, told)) == expected


# -- payloads

SEND, ID = UUID(int=3), UUID(int=4)
NAMED = payload.Named(id=ID, activity_type="Order", external_id="order-1")


@pytest.mark.rule("B130", "B100")
def test_an_update_for_apple() -> None:
    """providers.md 1.8: dates are whole seconds, and there is nothing in `aps` but what was said."""
    said = Said(
        event="update",
        stamp=1_772_366_400,
        urgent=True,
        content_state={"status": "delivered", "minutesAway": 0},
        alert=Alert(title="Order delivered", body="Enjoy!"),
        stale_s=seconds(AT + timedelta(milliseconds=1_500)),
        relevance=75.5,
    )
    body = msgspec.json.decode(payload.apns(said, SEND, ID))
    assert body.pop("aps") == {
        "timestamp": 1_772_366_400,
        "event": "update",
        "content-state": {"status": "delivered", "minutesAway": 0},
        "alert": {"title": "Order delivered", "body": "Enjoy!", "sound": "default"},
        "stale-date": int(AT.timestamp()) + 1,
        "relevance-score": 75.5,
    }
    assert body == {"sendoraSendId": str(SEND), "sendoraDeliveryId": SEND.hex + ID.hex}
    bare = msgspec.json.decode(payload.apns(Said(event="update", stamp=1, urgent=False), SEND, ID))
    assert bare["aps"] == {"timestamp": 1, "event": "update"}


@pytest.mark.rule("B130")
def test_a_start_and_an_end_for_apple() -> None:
    """A start names its type and asks for an update token; an end may say when it leaves the screen."""
    start = Said(
        event="start",
        stamp=1,
        urgent=True,
        content_state={"step": 0},
        alert=Alert(title="T", body=""),
        attributes_type="Order",
        attributes={"number": 7},
    )
    aps = msgspec.json.decode(payload.apns(start, SEND, ID))["aps"]
    assert (aps["event"], aps["attributes-type"], aps["attributes"]) == ("start", "Order", {"number": 7})
    assert aps["input-push-token"] == 1
    end = Said(event="end", stamp=2, urgent=False, dismiss_s=seconds(datetime(1960, 1, 1, tzinfo=UTC)))
    assert msgspec.json.decode(payload.apns(end, SEND, ID))["aps"]["dismissal-date"] == 0


@pytest.mark.rule("B130", "B100")
def test_an_update_for_android_is_data_alone() -> None:
    """B130: nothing that Google's SDK would show by itself, and every value is text."""
    said = Said(
        event="update",
        stamp=7,
        urgent=False,
        content_state={"eta": 5},
        alert=Alert(title="T", body="B"),
        stale_s=seconds(AT),
        dismiss_s=seconds(AT),
        relevance=1.0,
    )
    message = payload.fcm(said, SEND, NAMED)
    assert message.keys() == {"data", "android"}
    assert message["android"] == {"priority": "NORMAL", "collapse_key": ID.hex}
    assert all(isinstance(value, str) for value in message["data"].values())
    assert message["data"] == {
        "sendoraLiveActivity": "update",
        "activityId": str(ID),
        "activityType": "Order",
        "externalId": "order-1",
        "timestamp": "7",
        "contentState": '{"eta":5}',
        "alert": '{"title":"T","body":"B"}',
        "staleDate": str(int(AT.timestamp())),
        "dismissalDate": str(int(AT.timestamp())),
        "relevanceScore": "1.0",
        "sendoraSendId": str(SEND),
        "sendoraDeliveryId": SEND.hex + ID.hex,
    }
    assert payload.fcm(msgspec.structs.replace(said, urgent=True), SEND, NAMED)["android"]["priority"] == "HIGH"


@pytest.mark.parametrize("named", [None, NAMED])
def test_the_size_is_the_finished_payloads(named: payload.Named | None) -> None:
    """What is refused at the call is exactly what the provider would refuse, whatever the timestamp."""

    def said(letters: int) -> Said:
        return Said(event="update", stamp=1_772_366_400, urgent=True, content_state={"text": "é" * letters})

    def size(letters: int) -> int:
        if named is None:
            return len(payload.apns(said(letters), SEND, ID))
        return len(msgspec.json.encode(payload.fcm(said(letters), SEND, named)))

    fits = next(n for n in range(3_000) if size(n) > push.PAYLOAD_MAX) - 1
    payload.check_size(said(fits), named)
    with pytest.raises(ValidationFailed):
        payload.check_size(said(fits + 1), named)
