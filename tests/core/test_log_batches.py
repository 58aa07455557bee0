"""From the log to rows: frames, `EventBatch`, `ProfileBatch`."""

import hashlib
import json
import struct
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.copybytes import jsonb, millis, rows, texts

from sendora import _core

ORG = uuid.UUID(int=1)
PROJECTS = [uuid.UUID(int=2), uuid.UUID(int=3)]
NOW_MS = 1_780_000_000_000


def events(given: list[dict[str, Any]], project: uuid.UUID = PROJECTS[0], at_ms: int = NOW_MS) -> bytes:
    body = json.dumps([{"eventType": "a", "module": "m"} | event for event in given]).encode()
    checked = _core.check_events(body, ORG.bytes, project.bytes, "prod", at_ms, True)
    assert checked.accepted == len(given), checked.errors
    return checked.records


# -- frames and events -----------------------------------------------------------------------------------------------


def test_a_key_is_time_and_hash() -> None:
    """Design 3: 48 bits of the event's own time, then 80 bits of hash(project, eventId)."""
    batch = _core.EventBatch([_core.frame([events([{"eventId": "e", "timestamp": NOW_MS - 1}])])])
    digest = hashlib.sha256(PROJECTS[0].bytes + b"e").digest()
    assert batch.keys() == ORG.bytes + struct.pack(">Q", NOW_MS - 1)[2:] + digest[:10]
    assert batch.months() == [2026 * 12 + 5 - 1]


def test_a_retry_meets_itself_and_nobody_else() -> None:
    """C94: the same eventId and timestamp are one event; another project's are not."""
    one = {"eventId": "e", "timestamp": NOW_MS}
    parts = [events([one, one, one | {"timestamp": NOW_MS - 1}]), events([one], PROJECTS[1]), events([one])]
    batch = _core.EventBatch([_core.frame(parts)])
    assert batch.repeats() == [1, 4]
    assert len({batch.keys()[i * 32 : i * 32 + 32] for i in range(5)}) == 3


@given(st.lists(st.lists(st.sampled_from([0, 1, None]), max_size=4), min_size=1, max_size=4), st.data())
def test_accepted_is_stored_and_duplicate_and_bad(frames: list[list[int | None]], data: st.DataObject) -> None:
    """The ordinals are partitioned; the counts follow; changes of profiles are no events. None is such a change."""
    made, expected = [], []
    for parts in frames:
        records = []
        for project in parts:
            if project is None:
                records.append(_core.profile_record(ORG.bytes, PROJECTS[0].bytes, "u", NOW_MS))
            else:
                expected.append(project)
                records.append(events([{"eventType": f"n{len(expected) - 1}"}], PROJECTS[project]))
        made.append(_core.frame(records))
    batch = _core.EventBatch(made)
    assert len(batch) == len(expected)
    fates = data.draw(st.lists(st.sampled_from("sdb"), min_size=len(expected), max_size=len(expected)))
    pick = {fate: [i for i, found in enumerate(fates) if found == fate] for fate in "sdb"}
    low = data.draw(st.integers(0, len(expected)))
    high = data.draw(st.none() | st.integers(0, len(expected)))
    copied = [int((row[3] or b"")[1:]) for row in rows(batch.copy(sorted(pick["d"] + pick["b"]), low, high))]
    assert copied == [i for i in pick["s"] if low <= i < (len(expected) if high is None else high)]
    counts = {uuid.UUID(bytes=project): numbers for _, project, *numbers in batch.counts(pick["d"], pick["b"])}
    for i, project in enumerate(PROJECTS):
        mine = [fate for owner, fate in zip(expected, fates, strict=True) if owner == i]
        if mine:
            assert counts[project] == [len(mine), mine.count("s"), mine.count("d"), mine.count("b")]
    assert len(counts) == len(set(expected))
    for i, project in enumerate(expected):
        org, owner, record = batch.record(i)
        assert (org, owner) == (ORG.bytes, PROJECTS[project].bytes)
        assert f"n{i}".encode() in record and any(record in frame for frame in made)


@given(st.data())
def test_a_damaged_frame_is_noticed(data: st.DataObject) -> None:
    """F-M4 of reliability.md: CRC32C of each frame."""
    frame = bytearray(_core.frame([events([{}])]))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= data.draw(st.integers(1, 255))
    for batch in (_core.EventBatch, _core.ProfileBatch):
        with pytest.raises(ValueError):
            batch([bytes(frame)])


def test_parts_that_are_no_records_are_refused() -> None:
    with pytest.raises(ValueError):
        _core.frame([b"junk"])


# -- people ----------------------------------------------------------------------------------------------------------

names = st.sampled_from(["a", "b", "c"])
traits = st.dictionaries(st.sampled_from(["x", "y", 'q"é']), st.none() | st.integers(0, 3), max_size=3)
changes = st.one_of(
    st.tuples(st.just("event"), st.none() | names, st.none() | names),
    st.tuples(st.just("identify"), names, st.none() | names, traits, st.sampled_from([None, "e@x", "f@x"])),
    st.tuples(st.just("patch"), names, traits, st.sampled_from([None, "g@x"])),
    st.tuples(st.just("delete"), names),
)


def record(change: tuple[Any, ...], at_ms: int) -> bytes:
    project = PROJECTS[0].bytes
    match change:
        case ("event", user, anonymous):
            return events([{"userId": user, "anonymousId": anonymous}], at_ms=at_ms)
        case ("identify", user, anonymous, given, email):
            body = {"userId": user, "anonymousId": anonymous, "traits": given, "email": email}
            return _core.check_identify(json.dumps(body).encode(), ORG.bytes, project, "prod", at_ms).records
        case ("patch", user, given, email):
            return _core.profile_record(ORG.bytes, project, user, at_ms, traits=json.dumps(given).encode(), email=email)
        case ("delete", user):
            return _core.profile_record(ORG.bytes, project, user, at_ms, delete=True)
    raise AssertionError(change)


def fold(people: dict[str, dict[str, Any]], change: tuple[Any, ...], at_ms: int) -> None:
    """The oracle: one change on a dictionary of differences."""

    def seen(name: str) -> dict[str, Any]:
        person = people.setdefault(name, {"reset": False})
        person.setdefault("present", {"first": at_ms})["last"] = at_ms
        return person

    match change:
        case ("event", user, anonymous):
            if user or anonymous:
                seen(user or anonymous)
        case ("identify" | "patch", user, *_):
            person = seen(user)
            person["traits"] = person.get("traits", {}) | change[-2]
            person["email"] = change[-1] or person.get("email")
            if change[0] == "identify" and change[2] not in (None, user):
                seen(change[2]).setdefault("merged", user)
        case ("delete", user):
            people[user] = {"reset": True}


@given(st.lists(changes, max_size=8), st.integers(1, 3))
def test_profiles_against_a_fold(given: list[tuple[Any, ...]], per_frame: int) -> None:
    people: dict[str, dict[str, Any]] = {}
    records = []
    for i, change in enumerate(given):
        fold(people, change, NOW_MS + i)
        records.append(record(change, NOW_MS + i))
    frames = [_core.frame(records[i : i + per_frame]) for i in range(0, len(records), per_frame)]
    batch = _core.ProfileBatch(frames)
    found = rows(batch.copy())
    assert len(found) == len(batch) == len(people)
    assert [row[2] for row in found] == sorted(name.encode() for name in people)
    for row in found:
        name = (row[2] or b"").decode()
        person = people[name]
        assert row[3] == uuid.uuid5(PROJECTS[0], name).bytes
        assert (row[4], row[5]) == (bytes([person["reset"]]), bytes(["present" in person]))
        merged = person.get("traits", {})
        assert jsonb(row[7]) == {key: value for key, value in merged.items() if value is not None}
        assert set(texts(row[8])) == {key for key, value in merged.items() if value is None}
        assert [row[6], row[11]] == [person.get(key) and person[key].encode() for key in ("email", "merged")]
        if "present" in person:
            assert [millis(row[12]), millis(row[13])] == [person["present"]["first"], person["present"]["last"]]


@pytest.mark.parametrize("wrong", [b"[]", b'{"a":1e999}', b"{"])
def test_a_patch_is_judged_before_it_stands_in_the_log(wrong: bytes) -> None:
    with pytest.raises(ValueError):
        _core.profile_record(ORG.bytes, PROJECTS[0].bytes, "u", NOW_MS, traits=wrong)
