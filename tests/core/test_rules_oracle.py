"""Audience rules (B071-B074, C23, C29, C68, C72) against a reading of the rules in a few lines of Python."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.copybytes import Json, Ms, cut, rows, stream

from sendora import _core

NOW = datetime(2026, 5, 17, 13, 30, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
DAY_MS = 86_400_000
UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": DAY_MS, "w": 7 * DAY_MS}

# -- the oracle ------------------------------------------------------------------------------------------------------


def scalar(value: Any) -> str | None:
    """What kind of scalar a value is; kinds do not compare with one another."""
    kinds = {bool: "boolean", int: "number", float: "number", str: "string"}
    return kinds.get(type(value))


def passes(op: str, wanted: Any, value: Any) -> bool:
    if value is None:  # missing: false for everything but not_set (B074)
        return op == "not_set"
    equal = scalar(value) is not None and scalar(value) == scalar(wanted) and value == wanted
    match op:
        case "exists":
            return True
        case "eq":
            return equal
        case "neq":
            return not equal
        case "gt" | "gte" | "lt" | "lte":
            if scalar(value) != scalar(wanted) or scalar(value) not in ("number", "string"):
                return False
            return {"gt": value > wanted, "gte": value >= wanted, "lt": value < wanted, "lte": value <= wanted}[op]
        case "in" | "not_in":
            return any(passes("eq", item, value) for item in wanted) == (op == "in")
        case "contains":
            if isinstance(value, list):
                return any(passes("eq", wanted, item) for item in value)
            return isinstance(value, str) and isinstance(wanted, str) and wanted in value
        case "starts_with":
            return isinstance(value, str) and value.startswith(wanted)
    return False


def tree(node: dict[str, Any], leaf: Any) -> bool:
    if "all" in node:
        return all(tree(child, leaf) for child in node["all"])
    if "any" in node:
        return any(tree(child, leaf) for child in node["any"])
    if "not" in node:
        return not tree(node["not"], leaf)
    return bool(leaf(node))


def span_ms(text: str) -> int:
    return int(text[:-1]) * UNITS_MS[text[-1]]


def since(node: dict[str, Any]) -> int | None:
    """C72: `occurred_in_last` looks at whole seconds, a count window of whole days from 3 on at UTC days."""
    if "in_last" in node["op"]:
        return (NOW_MS - span_ms(node["value"])) // 1000 * 1000
    if (window := node.get("window")) is None:
        return None
    if span_ms(window) % DAY_MS == 0 and span_ms(window) >= 3 * DAY_MS:
        today = datetime(NOW.year, NOW.month, NOW.day, tzinfo=UTC)
        return int((today - timedelta(days=span_ms(window) // DAY_MS - 1)).timestamp() * 1000)
    return (NOW_MS - span_ms(window)) // 1000 * 1000


def matches(where: dict[str, Any] | None, properties: dict[str, Any]) -> bool:
    if where is None:
        return True
    return tree(where, lambda test: passes(test["op"], test.get("value"), properties.get(test["trait"])))


def holds(rule: dict[str, Any], profile: dict[str, Any], events: list[dict[str, Any]]) -> bool:
    def leaf(node: dict[str, Any]) -> bool:
        if "trait" in node:
            value = profile["traits"].get(node["trait"])
            if value is None and node["trait"] == "email":  # C29
                value = profile["email"]
            return passes(node["op"], node.get("value"), value)
        if "lifecycle" in node:
            wanted = node.get("value", node["lifecycle"])
            stages = wanted if isinstance(wanted, list) else [wanted]
            return profile["lifecycle"] in ["at_risk" if stage == "dormant" else stage for stage in stages]
        begin = since(node)

        def counts(event: dict[str, Any]) -> bool:
            same = event["type"].replace("_", ".") == node["event"].replace("_", ".")  # C23
            return (
                same
                and (begin is None or event["at"] >= begin)
                and matches(node.get("where"), event.get("properties", {}))
            )

        count = sum(map(counts, events))
        match node["op"]:
            case "occurred" | "occurred_in_last":
                return count > 0
            case "not_occurred" | "not_occurred_in_last":
                return count == 0
            case "count_gte":
                return bool(count >= node["value"])
        return bool(count <= node["value"])

    return tree(rule, leaf)


# -- what is generated -----------------------------------------------------------------------------------------------

TRAITS = ["plan", "email", "n", "tags"]
texts = st.sampled_from(["", "a", "ab", "b", "é", "2026-01-01"])
numbers = st.sampled_from([0, 1, 1.0, -1, 1.5, 2**53, 2**53 + 1, float(2**53), 1e300])
scalars = texts | numbers | st.booleans()
values = st.none() | scalars | st.lists(scalars | st.none(), max_size=3) | st.just({"a": 1})
durations = st.sampled_from(["1s", "45m", "12h", "1d", "2d", "3d", "1w", "72h", "80h", "30d"])


def conditions(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    name = st.sampled_from(names)
    return st.one_of(
        st.fixed_dictionaries({"trait": name, "op": st.sampled_from(["eq", "neq", "contains"]), "value": scalars}),
        st.fixed_dictionaries(
            {"trait": name, "op": st.sampled_from(["gt", "gte", "lt", "lte"]), "value": texts | numbers}
        ),
        st.fixed_dictionaries(
            {"trait": name, "op": st.sampled_from(["in", "not_in"]), "value": st.lists(scalars, max_size=3)}
        ),
        st.fixed_dictionaries({"trait": name, "op": st.just("starts_with"), "value": texts}),
        st.fixed_dictionaries({"trait": name, "op": st.sampled_from(["exists", "not_set"])}),
    )


def groups(leaves: st.SearchStrategy[dict[str, Any]], max_leaves: int) -> st.SearchStrategy[dict[str, Any]]:
    def extend(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
        several = st.lists(inner, max_size=3)
        return (
            several.map(lambda nodes: {"all": nodes})
            | several.map(lambda nodes: {"any": nodes})
            | inner.map(lambda node: {"not": node})
        )

    return st.recursive(leaves, extend, max_leaves=max_leaves)


TYPES = ["buy", "page.viewed", "page_viewed", "other"]
where = {"where": groups(conditions(["amount", "sku"]), 2)}
event_leaves = st.one_of(
    st.fixed_dictionaries(
        {"event": st.sampled_from(TYPES), "op": st.sampled_from(["occurred", "not_occurred"])}, optional=where
    ),
    st.fixed_dictionaries(
        {
            "event": st.sampled_from(TYPES),
            "op": st.sampled_from(["occurred_in_last", "not_occurred_in_last"]),
            "value": durations,
        },
        optional=where,
    ),
    st.fixed_dictionaries(
        {
            "event": st.sampled_from(TYPES),
            "op": st.sampled_from(["count_gte", "count_lte"]),
            "value": st.integers(0, 3),
        },
        optional=where | {"window": durations},
    ),
)
stage = st.sampled_from(["new", "active", "at_risk", "dormant", "churned"])
lifecycle_leaves = st.one_of(
    st.fixed_dictionaries({"lifecycle": st.sampled_from([True, "stage"]), "op": st.just("eq"), "value": stage}),
    st.fixed_dictionaries({"lifecycle": stage, "op": st.just("eq")}),
    st.fixed_dictionaries({"lifecycle": st.lists(stage, max_size=2), "op": st.just("in")}),
)


def levels(node: Any) -> int:
    inner = [
        *node.get("all", ()),
        *node.get("any", ()),
        *([node["not"]] if "not" in node else ()),
        *([node["where"]] if "where" in node else ()),
    ]
    return 1 + max(map(levels, inner), default=0)


rules = groups(st.one_of(conditions(TRAITS), event_leaves, lifecycle_leaves), 6).filter(lambda rule: levels(rule) <= 8)
instants = st.sampled_from([0, 1, DAY_MS // 2, DAY_MS, 2 * DAY_MS, 3 * DAY_MS, 30 * DAY_MS, -DAY_MS // 4]).flatmap(
    lambda ago: st.sampled_from(
        [NOW_MS - ago, NOW_MS - ago - 1, NOW_MS // DAY_MS * DAY_MS - ago, NOW_MS // DAY_MS * DAY_MS - ago - 1]
    )
)
people = st.dictionaries(
    st.sampled_from(["u1", "u2", "a-name-longer-than-sixteen-bytes", "a-name-longer-than-sixteen-bytez", "é", ""]),
    st.fixed_dictionaries(
        {
            "email": st.none() | st.just("a"),
            "traits": st.dictionaries(st.sampled_from(TRAITS), values, max_size=4),
            "lifecycle": st.sampled_from([None, "new", "active", "at_risk", "churned"]),
        }
    ),
    max_size=4,
)
events = st.lists(
    st.fixed_dictionaries(
        {
            "person": st.sampled_from(["u1", "u2", "é", "stranger"]),
            "type": st.sampled_from(TYPES),
            "at": instants,
            "properties": st.dictionaries(st.sampled_from(["amount", "sku", "x"]), values, max_size=2),
        }
    ),
    max_size=6,
)


@settings(max_examples=400)
@given(rules, people, events, st.lists(st.integers(1, 50), max_size=4), st.booleans())
def test_rules(
    rule: dict[str, Any], profiles: dict[str, Any], happened: list[dict[str, Any]], sizes: list[int], events_first: bool
) -> None:
    compiled = _core.Rule(json.dumps(rule).encode())
    evaluation = _core.Evaluation(compiled, NOW_MS)
    happened_rows = [
        (
            e["person"],
            e["type"],
            Ms(e["at"]),
            Json(json.dumps(e["properties"])) if compiled.wants_properties() else None,
        )
        for e in happened
    ]
    profile_rows = [(name, p["email"], Json(json.dumps(p["traits"])), p["lifecycle"]) for name, p in profiles.items()]
    feeds = [(evaluation.feed_events, stream(happened_rows)), (evaluation.feed_profiles, stream(profile_rows))]
    for feed, data in feeds if events_first else feeds[::-1]:
        for piece in cut(data, sizes):
            feed(piece)
    expected = [name for name, p in profiles.items() if holds(rule, p, [e for e in happened if e["person"] == name])]
    assert [(row[0] or b"").decode() for row in rows(evaluation.members())] == sorted(expected)
    assert evaluation.count() == len(expected)
    assert all(evaluation.contains(name) == (name in expected) for name in [*profiles, "stranger", "nobody"])


SCALARS: list[Any] = [
    "",
    "a",
    "ab",
    "b",
    "é",
    0,
    1,
    1.0,
    -1,
    1.5,
    2**53,
    2**53 + 1,
    float(2**53),
    2.0**63,
    1e300,
    True,
    False,
]
VALUES: list[Any] = [*SCALARS, None, [], ["a", 1], [True, None], [2**53], {"a": 1}]
OPERATORS = (
    [(op, wanted) for op in ("eq", "neq", "contains") for wanted in SCALARS]
    + [(op, wanted) for op in ("gt", "gte", "lt", "lte") for wanted in SCALARS if not isinstance(wanted, bool)]
    + [(op, wanted) for op in ("in", "not_in") for wanted in ([], ["a", 1], [True, 1.5, "é"], [2**53 + 1])]
    + [("starts_with", wanted) for wanted in SCALARS if isinstance(wanted, str)]
    + [("exists", None), ("not_set", None)]
)


@pytest.mark.parametrize("name", ["plan", "email"])
def test_every_operator_on_every_value(name: str) -> None:
    """C72, and C29 for `email`: one person for each value, one for the missing trait, with and without an own email."""
    people = {str(i): {"traits": {name: value}, "email": None} for i, value in enumerate(VALUES)}
    people |= {
        "none": {"traits": {}, "email": None},
        "own": {"traits": {}, "email": "a"},
        "null": {"traits": {name: None}, "email": "a"},
    }
    profiles = stream((who, one["email"], Json(json.dumps(one["traits"])), None) for who, one in people.items())
    for op, wanted in OPERATORS:
        rule = {"trait": name, "op": op, "value": wanted}
        evaluation = _core.Evaluation(_core.Rule(json.dumps(rule).encode()), NOW_MS)
        evaluation.feed_profiles(profiles)
        found = {(row[0] or b"").decode() for row in rows(evaluation.members())}
        assert found == {who for who, one in people.items() if holds(rule, one, [])}, (op, wanted)


WINDOWS = ["1s", "45m", "12h", "1d", "2d", "3d", "72h", "80h", "1w", "30d"]


def test_every_window_to_the_millisecond() -> None:
    """C72: seconds for `occurred_in_last` and short counts, UTC days for counts of three whole days and more."""
    begins = {NOW_MS - span_ms(window) for window in WINDOWS}
    begins |= {NOW_MS // DAY_MS * DAY_MS - days * DAY_MS for days in range(32)}
    people = {
        str(i): at
        for i, at in enumerate(sorted({at + off for at in begins for off in (-1, 0, 1)} | {NOW_MS, NOW_MS + DAY_MS}))
    }
    happened = stream((who, "buy", Ms(at), None) for who, at in people.items())
    profiles = stream((who, None, Json("{}"), None) for who in people)
    leaves = [
        {"event": "buy", "op": op, "value": window}
        for op in ("occurred_in_last", "not_occurred_in_last")
        for window in WINDOWS
    ]
    leaves += [
        {"event": "buy", "op": op, "value": count, "window": window}
        for op in ("count_gte", "count_lte")
        for count in (0, 1, 2)
        for window in WINDOWS
    ]
    for rule in leaves:
        evaluation = _core.Evaluation(_core.Rule(json.dumps(rule).encode()), NOW_MS)
        evaluation.feed_events(happened)
        evaluation.feed_profiles(profiles)
        found = {(row[0] or b"").decode() for row in rows(evaluation.members())}
        nobody = {"traits": {}, "email": None}
        assert found == {who for who, at in people.items() if holds(rule, nobody, [{"type": "buy", "at": at}])}, rule


def leaves(node: dict[str, Any]) -> list[dict[str, Any]]:
    if "event" in node:
        return [node]
    return [
        leaf
        for child in [*node.get("all", ()), *node.get("any", ()), *([node["not"]] if "not" in node else ())]
        for leaf in leaves(child)
    ]


@given(rules)
def test_what_a_rule_asks_for(rule: dict[str, Any]) -> None:
    compiled = _core.Rule(json.dumps(rule).encode())
    asked = leaves(rule)
    pair = {"page.viewed", "page_viewed"}
    types = {name for leaf in asked for name in (pair if leaf["event"] in pair else {leaf["event"]})}
    assert compiled.event_types() == sorted(types)
    assert compiled.wants_properties() == any("where" in leaf for leaf in asked)
    begins = [since(leaf) for leaf in asked]
    assert compiled.since(NOW_MS) == (
        None if None in begins else min([NOW_MS, *(begin for begin in begins if begin is not None)])
    )


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ({}, ""),
        ({"all": {}}, "all"),
        ({"all": [], "any": []}, "any"),
        ({"all": [{"trait": "a", "op": "is"}]}, "all.0.op"),
        ({"all": [{"trait": "a", "op": "eq"}]}, "all.0.value"),
        ({"not": {"any": [{"trait": "a", "op": "in", "value": [1, None]}]}}, "not.any.0.value.1"),
        ({"trait": "", "op": "exists"}, "trait"),
        ({"trait": "a", "op": "gt", "value": True}, "value"),
        ({"trait": "a", "op": "in", "value": [0] * 1001}, "value"),
        ({"event": "a", "op": "occurred", "window": "3d"}, "window"),
        ({"event": "a", "op": "occurred_in_last", "value": "0d"}, "value"),
        ({"event": "a", "op": "occurred_in_last", "value": "99999999999d"}, "value"),
        ({"event": "a", "op": "occurred_in_last", "value": "３d"}, "value"),
        ({"event": "a", "op": "count_gte", "value": -1}, "value"),
        ({"event": "a", "op": "count_gte", "value": 1, "widow": "3d"}, "widow"),
        ({"event": "a", "op": "occurred", "where": {"any": [{"event": "b", "op": "occurred"}]}}, "where.any.0"),
        ({"lifecycle": "zombie", "op": "eq"}, "lifecycle"),
        ({"audience": "x"}, ""),
        (["all"], ""),
    ],
)
def test_a_refusal_names_its_place(rule: Any, path: str) -> None:
    with pytest.raises(ValueError) as refused:
        _core.Rule(json.dumps(rule).encode())
    assert refused.value.args[0] == path and refused.value.args[1]


def test_sizes() -> None:
    """At most 8 levels and 64 nodes (reliability 3.7)."""

    def deep(levels: int) -> bytes:
        rule: Any = {"trait": "a", "op": "exists"}
        for _ in range(levels - 1):
            rule = {"not": rule}
        return json.dumps(rule).encode()

    def wide(nodes: int) -> bytes:
        return json.dumps({"all": [{"trait": str(i), "op": "exists"} for i in range(nodes - 1)]}).encode()

    for build, limit in ((deep, 8), (wide, 64)):
        _core.Rule(build(limit))
        with pytest.raises(ValueError):
            _core.Rule(build(limit + 1))


def test_a_stream_that_was_cut_makes_no_audience() -> None:
    evaluation = _core.Evaluation(_core.Rule(b'{"all":[]}'), NOW_MS)
    evaluation.feed_profiles(stream([("u", None, Json("{}"), None)])[:-2])
    for ask in (evaluation.count, evaluation.members, lambda: evaluation.contains("u")):
        with pytest.raises(ValueError):
            ask()
