"""Ingest bodies (B046, B035, C14, C27, C28, C94): what is accepted stands in the log as it was sent."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.copybytes import jsonb, millis, rows, texts

from sendora import _core

ORG, PROJECT = uuid.UUID(int=1), uuid.UUID(int=2)
NOW_MS = 1_780_000_000_123
NAIVE = datetime(2000, 1, 1, tzinfo=UTC).replace(tzinfo=None)
GOOD = {"eventType": "a", "module": "m"}


def check(body: Any, listed: bool = False) -> _core.Checked:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return _core.check_events(raw, ORG.bytes, PROJECT.bytes, "prod", NOW_MS, listed)


def identify(body: Any) -> _core.Checked:
    return _core.check_identify(json.dumps(body).encode(), ORG.bytes, PROJECT.bytes, "prod", NOW_MS)


def errors(checked: _core.Checked) -> Any:
    return json.loads(checked.errors)


def stored(checked: _core.Checked) -> list[list[bytes | None]]:
    return rows(_core.EventBatch([_core.frame([checked.records])]).copy([]))


characters = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
ids = st.none() | st.text(characters, min_size=1, max_size=256)
values = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(characters)
properties = st.dictionaries(st.text(characters, max_size=9), st.recursive(values, st.lists, max_leaves=5), max_size=5)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "eventType": st.text(characters, min_size=1, max_size=200),
                "module": st.text(characters, min_size=1, max_size=64),
            },
            optional={
                "userId": ids, "anonymousId": ids, "deviceId": ids, "sessionId": ids, "properties": properties,
                "eventId": st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=64),
                "timestamp": st.integers(946_684_800_000, NOW_MS + 86_400_000), "environment": ids,
                "future": properties,
            },
        ),
        min_size=1, max_size=4,
    ),
    st.sampled_from(["array", "envelope", "batch"]),
)  # fmt: skip
def test_what_is_accepted_is_what_is_stored(events: list[dict[str, Any]], shape: str) -> None:
    checked = check(events if shape == "array" else {"events": events}, shape == "batch")
    assert (checked.accepted, checked.rejected, errors(checked), checked.malformed) == (len(events), 0, [], None)
    for event, row in zip(events, stored(checked), strict=True):
        text = [None if field is None else field.decode() for field in (*row[3:9], row[11])]
        person = event.get("userId") or event.get("anonymousId")
        assert text[:6] == [
            event["eventType"],
            event["module"],
            person,
            event.get("deviceId"),
            event.get("sessionId"),
            "prod",
        ]
        assert row[0] == ORG.bytes and row[2] == PROJECT.bytes
        assert text[6] == event["eventId"] if "eventId" in event else uuid.UUID(text[6]).version == 7
        assert (millis(row[9]), millis(row[10])) == (event.get("timestamp", NOW_MS), NOW_MS)
        assert jsonb(row[12]) == event.get("properties", {})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"eventType": None}, {"eventType": ["Required"]}),
        ({"module": "m" * 65}, {"module": ["must be 1 to 64 characters"]}),
        ({"eventType": "é" * 201}, {"eventType": ["must be 1 to 200 characters"]}),
        ({"userId": 7}, {"userId": ["must be a string"]}),
        ({"userId": ""}, {"userId": ["must be 1 to 256 characters"]}),
        ({"eventId": "a\n"}, {"eventId": ["must be printable ASCII"]}),
        ({"properties": []}, {"properties": ["must be an object"]}),
        ({"properties": {str(i): 0 for i in range(101)}}, {"properties": ["at most 100 properties"]}),
        ({"properties": {"a": {"b": [0] * 1001}}}, {"properties.a.b": ["the array has too many items"]}),
        ({"properties": {"n" * 129: 0}}, {f"properties.{'n' * 64}": ["the name is too long"]}),
        ({"timestamp": "2026-01-01"}, {"timestamp": ["must be an RFC 3339 date-time or an integer of milliseconds"]}),
        ({"timestamp": 1.5}, {"timestamp": ["must be an RFC 3339 date-time or an integer of milliseconds"]}),
        ({"timestamp": NOW_MS + 86_400_001}, {"timestamp": ["must lie between 2000-01-01 and one day from now"]}),
        ({"orgId": str(PROJECT)}, {"orgId": ["does not belong to this key"]}),
        ({"properties": {"a": float("nan")}}, None),
    ],
)
def test_a_bad_item_is_told_and_its_neighbours_are_kept(change: dict[str, Any], expected: Any) -> None:
    """C94; NaN is no JSON at all, so there the whole body is refused."""
    checked = check([GOOD, GOOD | change, GOOD])
    if expected is None:
        assert checked.malformed is not None and checked.malformed[0] == "1.properties.a"
        return
    assert errors(checked) == [{"index": 1, "fieldErrors": expected}]
    assert (checked.accepted, checked.rejected, len(stored(checked))) == (2, 1, 2)
    single = check(GOOD | change)
    assert (single.single, single.accepted, errors(single)) == (True, 0, [{"index": 0, "fieldErrors": expected}])


def test_a_batch_of_only_bad_items_is_not_malformed() -> None:
    checked = check([1, {}])
    assert (checked.accepted, checked.rejected, checked.malformed) == (0, 2, None)


def test_sizes() -> None:
    """C94: at most 1,000 events a request, 256 KB an event."""
    assert check([GOOD] * 1000).accepted == 1000
    assert check([GOOD] * 1001).too_large is not None
    big = GOOD | {"properties": {"x": "x" * 262_144}}
    assert check(big).too_large is not None
    assert errors(check([big, GOOD]))[0] | {"fieldErrors": 0} == {
        "index": 0,
        "code": "PAYLOAD_TOO_LARGE",
        "fieldErrors": 0,
    }


@given(
    st.binary(max_size=60) | st.text(alphabet='{}[]",:eventsmoduleTyp 1', max_size=60).map(str.encode), st.booleans()
)
def test_no_body_is_a_crash(body: bytes, listed: bool) -> None:
    for checked in (check(body, listed), _core.check_identify(body, ORG.bytes, PROJECT.bytes, "prod", NOW_MS)):
        assert bool(checked.malformed) + bool(checked.too_large) + bool(checked.accepted + checked.rejected) == 1
        json.loads(checked.errors)


@given(
    st.datetimes(NAIVE.replace(year=2001), NAIVE.replace(year=2026)),
    st.integers(-1439, 1439),
    st.sampled_from([0, 1, 3, 6]),
)
def test_timestamps_against_datetime(naive: datetime, offset_minutes: int, digits: int) -> None:
    sign, minutes = "-" if offset_minutes < 0 else "+", abs(offset_minutes)
    fraction = f".{naive.microsecond:06d}"[: digits + 1] if digits else ""
    text = f"{naive:%Y-%m-%dT%H:%M:%S}{fraction}{sign}{minutes // 60:02d}:{minutes % 60:02d}"
    expected = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)
    checked = check(GOOD | {"timestamp": text})
    assert millis(stored(checked)[0][9]) == expected // timedelta(milliseconds=1)


def test_an_identify_is_an_event_and_a_change() -> None:
    """C29: the top-level email is the user's, the trait of this name is a trait."""
    checked = identify(
        {
            "userId": "u",
            "email": "e@x",
            "traits": {"email": "t", "n": None},
            "locale": "de",
            "timezone": "Europe/Berlin",
        }
    )
    assert (checked.event_type, checked.user_id, checked.single) == ("user.identified", "u", True)
    frame = _core.frame([checked.records])
    event = rows(_core.EventBatch([frame]).copy([]))[0]
    assert (event[3], event[4], jsonb(event[12])) == (b"user.identified", b"profiles", {"email": "t", "n": None})
    person = rows(_core.ProfileBatch([frame]).copy())[0]
    assert (person[6], jsonb(person[7]), texts(person[8]), *person[9:11]) == (
        b"e@x",
        {"email": "t"},
        ["n"],
        b"de",
        b"Europe/Berlin",
    )


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"userId"}),
        ({"userId": "u", "email": "nobody"}, {"email"}),
        ({"userId": "u", "timezone": "Mars/Olympus"}, {"timezone"}),
        ({"userId": "u", "timezone": "../../etc/passwd"}, {"timezone"}),
        ({"userId": "u", "locale": "x" * 36}, {"locale"}),
        ({"userId": "u", "traits": {str(i): i for i in range(101)}}, {"traits"}),
    ],
)
def test_an_identify_that_is_wrong(body: dict[str, Any], fields: set[str]) -> None:
    assert set(errors(identify(body))[0]["fieldErrors"]) == fields
