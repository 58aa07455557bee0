"""The columnar index against the streaming evaluation (design 5): whatever happens, in whatever order it is heard of,
both come to the same audience and give the same reasons."""

import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.core.copybytes import Date, Int4, Json, Ms, cut, rows, stream
from tests.core.test_rules_oracle import DAY_MS, NOW_MS, TYPES, groups, rules, values

from sendora import _core

ORG, PROJECT, OTHER = (uuid.UUID(int=n).bytes for n in (1, 2, 3))
ASKED_MS = NOW_MS + 437
"""Within a second: a window begins at a whole one."""

# -- the stores, in a few lines of Python ----------------------------------------------------------------------------


class Stores:
    """What Postgres holds after the consumers have read so much of the log."""

    def __init__(self) -> None:
        self.people: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []

    def person(self, name: str) -> dict[str, Any]:
        return self.people.setdefault(name, {"email": None, "traits": {}, "lifecycle": None, "into": None})

    def root(self, name: str) -> str:
        while name in self.people and self.people[name]["into"] is not None:
            name = self.people[name]["into"]
        return name

    def apply(self, change: dict[str, Any]) -> None:
        match change["kind"]:
            case "event":
                self.person(change["person"])
                if not change["skipped"]:
                    self.events.append(change)
            case "identify":
                person = self.person(change["person"])
                self._merge(person, change)
                anonymous = change["anonymous"]
                if anonymous not in (None, change["person"]):
                    other = self.person(anonymous)
                    root = self.root(change["person"])
                    if other["into"] is None and root != anonymous:
                        other["into"] = root
                if not change["skipped"]:
                    self.events.append(change | {"type": "user.identified", "properties": change["traits"]})
            case "patch":
                self._merge(self.person(change["person"]), change)
            case "delete":
                self.people.pop(change["person"], None)

    def _merge(self, person: dict[str, Any], change: dict[str, Any]) -> None:
        person["traits"] = {k: v for k, v in (person["traits"] | change["traits"]).items() if v is not None}
        person["email"] = change["email"] or person["email"]

    def profile_rows(self) -> bytes:
        return stream(
            (name, one["email"], Json(json.dumps(one["traits"])), one["lifecycle"])
            for name, one in self.people.items()
            if one["into"] is None
        )

    def event_rows(self) -> bytes:
        return stream(
            (self.root(e["person"]), e["type"], Ms(e["at"]), Json(json.dumps(e["properties"]))) for e in self.events
        )


# -- what happens ----------------------------------------------------------------------------------------------------

names = st.sampled_from(["u1", "u2", "a1", "a2", "a-name-longer-than-sixteen-bytes", "é"])
instants = st.sampled_from([0, 1, DAY_MS // 2, DAY_MS, 2 * DAY_MS, 3 * DAY_MS, 30 * DAY_MS, -DAY_MS // 4]).flatmap(
    lambda ago: st.sampled_from([NOW_MS - ago, NOW_MS - ago - 1, NOW_MS // DAY_MS * DAY_MS - ago])
)
traits = st.dictionaries(st.sampled_from(["plan", "email", "n", "tags"]), values, max_size=3)
happenings = st.one_of(
    st.fixed_dictionaries(
        {
            "kind": st.just("event"),
            "person": names,
            "type": st.sampled_from(TYPES),
            "at": instants,
            "properties": st.dictionaries(st.sampled_from(["amount", "sku"]), values, max_size=2),
            "skipped": st.sampled_from([False, False, False, True]),
        }
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("identify"),
            "person": names,
            "anonymous": st.none() | names,
            "traits": traits,
            "email": st.none() | st.sampled_from(["a@example.com", "b@example.com"]),
            "at": st.just(NOW_MS),
            "skipped": st.booleans(),
        }
    ),
    st.fixed_dictionaries({"kind": st.just("patch"), "person": names, "traits": traits, "email": st.none()}),
    st.fixed_dictionaries({"kind": st.just("delete"), "person": names}),
)
bursts = st.tuples(names, st.sampled_from(TYPES), st.lists(instants, min_size=5, max_size=14)).map(
    lambda burst: [
        {"kind": "event", "person": burst[0], "type": burst[1], "at": at, "properties": {}, "skipped": False}
        for at in burst[2]
    ]
)
histories = st.lists(happenings.map(lambda one: [one]) | bursts, max_size=12).map(
    lambda parts: [one for part in parts for one in part]
)


def record(change: dict[str, Any], n: int) -> bytes:
    match change["kind"]:
        case "event":
            body = [
                {
                    "eventType": change["type"],
                    "module": "m",
                    "userId": change["person"],
                    "timestamp": change["at"],
                    "eventId": f"e{n}",
                    "properties": change["properties"],
                }
            ]
            checked = _core.check_events(json.dumps(body).encode(), ORG, PROJECT, "prod", NOW_MS, True)
        case "identify":
            body = {"userId": change["person"], "anonymousId": change["anonymous"], "traits": change["traits"]} | (
                {"email": change["email"]} if change["email"] else {}
            )
            checked = _core.check_identify(json.dumps(body).encode(), ORG, PROJECT, "prod", NOW_MS)
        case "patch":
            traits = json.dumps(change["traits"]).encode()
            return _core.profile_record(ORG, PROJECT, change["person"], NOW_MS, traits=traits)
        case _:
            return _core.profile_record(ORG, PROJECT, change["person"], NOW_MS, delete=True)
    assert checked.accepted == 1, checked.errors
    return checked.records


def stranger() -> bytes:
    """An event of another project in the same frame."""
    body = b'[{"eventType": "buy", "module": "m", "userId": "u1"}]'
    return _core.check_events(body, ORG, OTHER, "prod", NOW_MS, True).records


Frames = list[tuple[bytes, int, list[int]]]


def framed(history: Sequence[dict[str, Any]], per_frame: int) -> Frames:
    """Frames at positions 10, 20, ..., each beginning with an event of somebody else."""
    frames: Frames = []
    for at in range(0, len(history), per_frame):
        records, skips, ordinal = [stranger()], [], 1
        for n, change in enumerate(history[at : at + per_frame], at):
            records.append(record(change, n))
            if change["kind"] in ("event", "identify"):
                if change["skipped"]:
                    skips.append(ordinal)
                ordinal += 1
        frames.append((_core.frame(records), 10 * (len(frames) + 1), skips))
    return frames


def apply(index: _core.Index, frames: Frames) -> None:
    if frames:
        index.apply(PROJECT, [f[0] for f in frames], [f[1] for f in frames], [f[2] for f in frames])


def loaded(
    stores: Stores, position: int, sizes: Sequence[int] = (), *, days_before: int = 0, part: int = 0, parts: int = 1
) -> _core.Index:
    """As a cold start reads Postgres; events before that day come rolled up."""
    index = _core.Index(part, parts)
    people = stream(
        (name, one["email"], Json(json.dumps(one["traits"])), one["lifecycle"], one["into"])
        for name, one in stores.people.items()
    )
    old: dict[tuple[str, str, int], list[int]] = {}
    fresh = []
    for event in stores.events:
        if (day := event["at"] // DAY_MS) < days_before:
            old.setdefault((event["person"], event["type"], day), []).append(event["at"])
        else:
            fresh.append((event["person"], event["type"], Ms(event["at"]), None))
    days = stream(
        (person, name, Date(day), Int4(len(instants)), Ms(min(instants)), Ms(max(instants)))
        for (person, name, day), instants in old.items()
    )
    for feed, data in ((index.load_people, people), (index.load_days, days), (index.load_events, stream(fresh))):
        for piece in cut(data, sizes):
            feed(piece)
    index.loaded(position)
    return index


def oracle(rule: _core.Rule, stores: Stores) -> _core.Evaluation:
    evaluation = _core.Evaluation(rule, ASKED_MS, explained=True)
    evaluation.feed_events(stores.event_rows())
    evaluation.feed_profiles(stores.profile_rows())
    return evaluation


def ids(members: bytes) -> list[str]:
    return [(row[0] or b"").decode() for row in rows(members)]


def agree(index: _core.Index, rule: _core.Rule, stores: Stores, *, sure: bool) -> None:
    expected = oracle(rule, stores)
    answer = index.ask(rule, ASKED_MS)
    certain, open_ = ids(answer.members()), ids(answer.candidates())
    assert certain == sorted(certain) and open_ == sorted(open_)
    assert answer.count == len(certain) and answer.undecided == len(open_)
    missing = index.missing(rule, ASKED_MS)
    assert not open_ or missing or not sure
    assert not set(certain) & set(open_)
    decided = sorted({*certain, *(name for name in open_ if expected.contains(name))})
    assert decided == ids(expected.members())
    count, undecided, steps = index.preview(rule, ASKED_MS)
    assert (count, undecided) == (answer.count, answer.undecided)
    total, funnel = expected.preview()
    assert total == expected.count()
    if not undecided and all(alone is not None for _, alone, _ in steps):
        assert (count, steps) == (total, funnel)
    if steps:
        assert steps[-1][2] == count + undecided
        assert [step[2] for step in steps] == sorted((step[2] for step in steps), reverse=True)
    for name in stores.people:
        reason, mine = expected.explain(name), index.explain(rule, name, ASKED_MS)
        assert (reason is None) == (mine is None), name
        if reason is not None and mine is not None:
            same(json.loads(reason), json.loads(mine))
            member = json.loads(reason)["member"]
            assert member == expected.contains(name)


def same(reason: Any, mine: Any) -> None:
    """Equal where the index knows; where it does not, it says so."""
    if isinstance(reason, dict):
        assert reason.keys() == mine.keys()
        unknown = "condition" in mine and mine["truth"] is None
        for key in reason:
            if key in ("truth", "member") and mine[key] is None:
                continue
            if unknown and key in ("observed", "flipsAt"):
                assert mine[key] is None
                continue
            same(reason[key], mine[key])
    elif isinstance(reason, list):
        assert len(reason) == len(mine)
        for one, other in zip(reason, mine, strict=True):
            same(one, other)
    else:
        assert reason == mine


@pytest.mark.rule("B071", "B072", "B073", "B074", "C23", "C29", "C68", "C69", "C72")
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(rules, min_size=1, max_size=3),
    histories,
    st.integers(1, 4),
    st.floats(0, 1),
    st.lists(st.integers(1, 60), max_size=3),
    st.sampled_from([0, 0, NOW_MS // DAY_MS - 3, NOW_MS // DAY_MS + 1]),
)
def test_three_ways_to_one_audience(
    tmp_path: Path,
    asked: list[dict[str, Any]],
    history: list[dict[str, Any]],
    per_frame: int,
    share: float,
    sizes: list[int],
    days_before: int,
) -> None:
    compiled = [_core.Rule(json.dumps(rule).encode()) for rule in asked]
    frames = framed(history, per_frame)
    middle = round(share * len(frames))
    then, now = Stores(), Stores()
    for n, change in enumerate(history):
        now.apply(change)
        if n < middle * per_frame:
            then.apply(change)
    # A deletion takes a person's events away from whoever had taken her over, which nothing but Postgres can tell.
    sure = not any(change["kind"] == "delete" for change in history)

    streamed = loaded(now, 10 * len(frames), sizes, days_before=days_before)
    replayed = _core.Index()
    apply(replayed, frames[:middle])
    apply(replayed, frames[:middle])  # delivered again
    apply(replayed, frames[max(0, middle - 1) :])
    resumed = loaded(then, 10 * middle, sizes)
    for rule in compiled:
        fill(resumed, rule, then, 10 * middle)
    path = str(tmp_path / "index")
    resumed.save(path)
    resumed = _core.Index.open(path)
    assert resumed.position == 10 * middle
    for one in range(len(frames)):
        apply(resumed, frames[one : one + 1])
    for rule in compiled:
        fill(streamed, rule, now, 10 * len(frames))
        fill(replayed, rule, now, 10 * len(frames))
        for index in (streamed, replayed, resumed):
            assert index.streams_wanted(rule) == []
            assert len(index) == sum(1 for one in now.people.values() if one["into"] is None)
            agree(index, rule, now, sure=sure)
    # What the index asks Postgres for is little: nothing, as long as it has the seconds and nobody was deleted.
    if sure and days_before == 0:
        assert all(streamed.missing(rule, ASKED_MS) == [] for rule in compiled)


def fill(index: _core.Index, rule: _core.Rule, stores: Stores, position: int) -> None:
    """What the home does about a rule with conditions on properties."""
    for key in index.streams_wanted(rule):
        index.register_stream(key)
        assert index.missing(rule, ASKED_MS)
        wanted = [
            (e["person"], e["type"], Ms(e["at"]), Json(json.dumps(e["properties"])))
            for e in stores.events
            if e["type"] in rule.event_types()
        ]
        index.load_stream(key, stream(wanted))
        index.stream_loaded(key, position)


@settings(max_examples=150, deadline=None)
@given(groups(rules, 3), histories, st.integers(2, 3), st.floats(0, 1))
def test_parts_make_the_whole(rule: dict[str, Any], history: list[dict[str, Any]], parts: int, share: float) -> None:
    """Each person is in one part; what a part cannot know of strangers it leaves to Postgres."""
    try:
        compiled = _core.Rule(json.dumps(rule).encode())
    except ValueError:
        return  # too deep
    frames = framed(history, 2)
    middle = round(share * len(frames))
    then, now = Stores(), Stores()
    for n, change in enumerate(history):
        now.apply(change)
        if n < middle * 2:
            then.apply(change)
    expected = oracle(compiled, now)
    found: list[str] = []
    people = 0
    for part in range(parts):
        index = loaded(then, 10 * middle, part=part, parts=parts)
        apply(index, frames)
        answer = index.ask(compiled, ASKED_MS)
        found += ids(answer.members())
        found += [name for name in ids(answer.candidates()) if expected.contains(name)]
        people += len(index)
    assert sorted(found) == ids(expected.members())
    assert people == sum(1 for one in now.people.values() if one["into"] is None)


def test_a_stream_that_is_filled_while_the_log_goes_on() -> None:
    rule = _core.Rule(
        json.dumps(
            {"event": "buy", "op": "count_gte", "value": 2, "where": {"trait": "amount", "op": "gte", "value": 50}}
        ).encode()
    )

    def bought(n: int, amount: int) -> dict[str, Any]:
        return {
            "kind": "event",
            "person": f"u{n}",
            "type": "buy",
            "at": NOW_MS,
            "properties": {"amount": amount},
            "skipped": False,
        }

    history = [bought(1, 60), bought(1, 40), bought(2, 60), bought(1, 70), bought(2, 80), bought(3, 90)]
    frames = framed(history, 1)
    index = _core.Index()
    apply(index, frames[:2])
    assert index.missing(rule, ASKED_MS) == [""]
    (key,) = index.streams_wanted(rule)
    index.register_stream(key)
    apply(index, frames[2:4])
    # Postgres was read at a position between the registration and now.
    read = Stores()
    for change in history[:3]:
        read.apply(change)
    wanted = [(e["person"], e["type"], Ms(e["at"]), Json(json.dumps(e["properties"]))) for e in read.events]
    index.load_stream(key, stream(wanted))
    with pytest.raises(ValueError):
        index.stream_loaded(key, 10)
    index.stream_loaded(key, 30)
    assert index.missing(rule, ASKED_MS) == []
    assert ids(index.ask(rule, ASKED_MS).members()) == ["u1"]
    apply(index, frames[4:])
    assert ids(index.ask(rule, ASKED_MS).members()) == ["u1", "u2"]


def test_a_column_of_too_many_values_leaves_its_leaf_to_postgres() -> None:
    index = _core.Index()
    people = 70_000
    index.load_people(
        stream(
            (f"u{n:05}", f"{n}@example.com", Json(f'{{"session":"{n}","plan":"p{n % 7}"}}'), None, None)
            for n in range(people)
        )
    )
    index.loaded(0)
    rule = {"all": [{"trait": "session", "op": "eq", "value": "12"}, {"trait": "plan", "op": "eq", "value": "p5"}]}
    compiled = _core.Rule(json.dumps(rule).encode())
    answer = index.ask(compiled, ASKED_MS)
    assert index.missing(compiled, ASKED_MS) == ["all.0"]
    assert answer.count == 0 and ids(answer.candidates()) == [f"u{n:05}" for n in range(people) if n % 7 == 5]
    assert index.preview(compiled, ASKED_MS)[2] == [("all.0", None, people), ("all.1", 10_000, 10_000)]
    # Whether somebody has it is still known here, of the user's own email as well.
    for name in ("session", "email"):
        for op, count in (("exists", people), ("not_set", 0)):
            here = _core.Rule(json.dumps({"trait": name, "op": op}).encode())
            assert index.missing(here, ASKED_MS) == []
            assert index.ask(here, ASKED_MS).count == count


def test_erasure_forgets_names_and_events() -> None:
    """F-I9: the person in no answer; whoever takes the name later begins anew."""
    history = [
        {"kind": "event", "person": who, "type": "buy", "at": NOW_MS, "properties": {}, "skipped": False}
        for who in ("u1", "a1", "u2")
    ]
    taken: dict[str, Any] = {
        "kind": "identify",
        "person": "u1",
        "anonymous": "a1",
        "traits": {},
        "email": None,
        "at": NOW_MS,
        "skipped": False,
    }
    gone = [{"kind": "delete", "person": "u1"}, {"kind": "delete", "person": "a1"}]
    back = [{"kind": "event", "person": "u1", "type": "other", "at": NOW_MS, "properties": {}, "skipped": False}]
    frames = framed([*history, taken, *gone, *back], 1)
    index = _core.Index()
    apply(index, frames[:4])
    rule = _core.Rule(b'{"event": "buy", "op": "count_gte", "value": 2}')
    assert ids(index.ask(rule, ASKED_MS).members()) == ["u1"]
    apply(index, frames[:-1])
    index.erase(["u1", "a1", "nobody"])
    apply(index, frames)
    anything = _core.Rule(b'{"event": "buy", "op": "occurred"}')
    answer = index.ask(anything, ASKED_MS)
    assert ids(answer.members()) == ["u2"] and answer.undecided == 0
    everybody = index.ask(_core.Rule(b'{"all": []}'), ASKED_MS)
    assert ids(everybody.members()) == ["u1", "u2"]


# -- snapshots -------------------------------------------------------------------------------------------------------


def test_a_damaged_snapshot_is_refused(tmp_path: Path) -> None:
    history = [
        {"kind": "event", "person": "u1", "type": "buy", "at": NOW_MS - n, "properties": {}, "skipped": False}
        for n in range(12)
    ]
    index = _core.Index()
    apply(index, framed(history, 3))
    path = tmp_path / "index"
    index.save(str(path))
    whole = path.read_bytes()
    assert not list(tmp_path.glob("*.part"))
    step = max(1, len(whole) // 200)
    for at in range(0, len(whole), step):
        flipped = bytearray(whole)
        flipped[at] ^= 1
        for wrong in (whole[:at], bytes(flipped)):
            path.write_bytes(wrong)
            with pytest.raises(ValueError):
                _core.Index.open(str(path))
    with pytest.raises(OSError):
        _core.Index.open(str(tmp_path / "none"))


def test_a_cut_stream_loads_nothing() -> None:
    index = _core.Index()
    index.load_events(stream([("u", "buy", Ms(NOW_MS), None)])[:-2])
    with pytest.raises(ValueError):
        index.loaded(1)


def test_a_damaged_frame_changes_nothing() -> None:
    index = _core.Index()
    change = {"kind": "patch", "person": "u1", "traits": {}, "email": None}
    frame = framed([change], 1)[0][0]
    with pytest.raises(ValueError):
        index.apply(PROJECT, [frame, frame[:-1]], [1, 2], [[], []])
    assert len(index) == 0 and index.position == 0
