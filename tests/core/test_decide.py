"""The decision on a chunk against a plain reading of B109-B119, C37, C40, C44, C46; and what it renders."""

import hashlib
import json
import uuid
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.copybytes import Json, Ms, cut, stream

from sendora import _core

SEND = uuid.UUID(int=7)
NOW_MS = 1_780_000_000_000
HOUR_MS = 3_600_000
PLANNED_MS = NOW_MS - 60_000

# -- the oracle ------------------------------------------------------------------------------------------------------


def fold(tag: str) -> str:
    return tag.replace("_", "-").lower()


def localized(texts: dict[str, str] | None, locale: str | None) -> str | None:
    """The exact tag, else from a region to the two-letter language (B114, C40)."""
    by_tag = {fold(tag): text for tag, text in (texts or {}).items() if text}
    tag = fold(locale or "")
    language = tag.split("-")[0]
    return by_tag.get(tag) if tag in by_tag else by_tag.get(language) if len(language) == 2 else None


def variant(test: dict[str, Any] | None, person: str) -> dict[str, Any] | None:
    """Cumulative weights in array order over sha256(testId + person) mod 100 (C44)."""
    if test is None:
        return None
    bucket = int.from_bytes(hashlib.sha256((test["id"] + person).encode()).digest(), "big") % 100
    for one in test["variants"]:
        if (bucket := bucket - one["weight"]) < 0:
            return dict(one)
    return None


def verdict(spec: dict[str, Any], row: dict[str, Any], sent: dict[str, dict[uuid.UUID, int]]) -> tuple[Any, ...]:
    """(state, reason, variant key) or ("send", title, body, variant key), in the order of reasons."""
    person = row["user"] or str(row["recipient"])
    if row["platform"] is None:
        return "suppressed", "token_removed", None
    if not spec["raw"] and not row["active"]:
        return "suppressed", "inactive_token", None
    if not spec["raw"] and row["owner_since"] > PLANNED_MS:
        return "suppressed", "owner_changed", None
    if spec["expiresAt"] <= NOW_MS:
        return "expired", "ttl", None
    policy = spec["policy"]
    if policy["quietStart"] is not None and not policy["bypass"] and row["timezone"] == "UTC":
        return "deferred", "quiet_hours", None  # the window around NOW_MS; test_quiet_hours.py looks at windows
    chosen = variant(spec.get("test"), person)
    key = chosen and chosen["key"]
    if chosen and chosen.get("holdout"):
        return "suppressed", "holdout", key
    own = chosen or {}
    body = own.get("body") or localized(spec["localizedBody"], row["locale"]) or spec["body"]
    title = own.get("title") or localized(spec["localizedTitle"], row["locale"]) or spec["title"]
    if not body:
        return "suppressed", "locale_unsupported", key
    if not policy["bypass"] and (policy["capDay"] is not None or policy["capHour"] is not None):
        mine = sent.setdefault(person, {})
        within = [[send for send, at in mine.items() if at > NOW_MS - span] for span in (24 * HOUR_MS, HOUR_MS)]
        caps = (policy["capDay"], policy["capHour"])
        full = any(cap is not None and len(sends) >= cap for sends, cap in zip(within, caps, strict=True))
        if full and SEND not in within[0]:
            return "suppressed", "frequency_cap", key
        mine[SEND] = NOW_MS
    return "send", title, body, key


# -- what is generated -----------------------------------------------------------------------------------------------

words = st.sampled_from(["", "one", "two", "three"])
tags = st.sampled_from(["es", "es-MX", "pt_BR", "de", "fil"])
texts = st.none() | st.dictionaries(tags, words, max_size=3)
weights = st.sampled_from([[100], [50, 50], [0, 100], [10, 20, 70]])
tests = weights.flatmap(
    lambda found: st.tuples(
        *[
            st.fixed_dictionaries(
                {"key": st.just(f"v{i}"), "weight": st.just(weight)},
                optional={"title": words, "body": words, "holdout": st.booleans()},
            )
            for i, weight in enumerate(found)
        ]
    ).map(lambda variants: {"id": "test", "variants": list(variants)})
)
specs = st.fixed_dictionaries(
    {
        "sendId": st.just(str(SEND)), "title": words, "body": words, "localizedTitle": texts,
        "localizedBody": texts,
        "raw": st.booleans(), "plannedAt": st.just(PLANNED_MS),
        "expiresAt": st.sampled_from([NOW_MS, NOW_MS + 1, NOW_MS + 1, NOW_MS + 1]),
        "policy": st.fixed_dictionaries(
            {
                # NOW_MS is 20:26 UTC on 2026-05-28.
                "quietStart": st.sampled_from([None, None, 20]), "quietEnd": st.just(21), "defer": st.just(True),
                "capDay": st.none() | st.integers(0, 3), "capHour": st.none() | st.integers(0, 2),
                "bypass": st.booleans(),
            }
        ),
    },
    optional={"test": tests},
)  # fmt: skip
recipients = st.fixed_dictionaries(
    {
        "recipient": st.integers(1, 2**128 - 1).map(lambda n: uuid.UUID(int=n)),
        "platform": st.sampled_from(["ios", "android", "web", None]),
        "user": st.sampled_from([None, "u1", "u2", "u3"]), "active": st.sampled_from([True, True, True, False]),
        "owner_since": st.sampled_from([PLANNED_MS, PLANNED_MS, PLANNED_MS + 1]),
        "locale": st.sampled_from([None, "", "es", "es-AR", "ES_mx", "pt-BR", "pt-PT", "fil-PH", "de-CH", "x"]),
        "timezone": st.sampled_from([None, "UTC", "Asia/Tokyo", "Nowhere"]),
    }
)  # fmt: skip
ledger = st.lists(
    st.tuples(
        st.sampled_from(["u1", "u2"]),
        st.sampled_from([SEND, uuid.UUID(int=8), uuid.UUID(int=9)]),
        st.sampled_from([0, HOUR_MS - 1, HOUR_MS, 24 * HOUR_MS - 1, 24 * HOUR_MS]).map(lambda ago: NOW_MS - ago),
    ),
    max_size=5,
)


def chunk(rows: Iterable[dict[str, Any]], **more: Any) -> bytes:
    return stream(
        (
            position, row["recipient"], row["platform"], row["platform"] and f"token{position}",
            Json('{"auth": "a"}') if row["platform"] == "web" else None, row["platform"] and "production", None,
            row["user"], row["active"], Ms(row["owner_since"]), row["locale"], row["timezone"],
            more.get("traits"), more.get("email"), more.get("created"), more.get("seen"),
        )
        for position, row in enumerate(rows)
    )  # fmt: skip


@settings(max_examples=300)
@given(specs, st.lists(recipients, max_size=8), ledger, st.lists(st.integers(1, 40), max_size=3))
def test_decisions(spec: dict[str, Any], rows: list[dict[str, Any]], before: list[Any], sizes: list[int]) -> None:
    caps = _core.Caps()
    sent: dict[str, dict[uuid.UUID, int]] = {}
    for person, send, at in before:
        mine = sent.setdefault(person, {})
        mine[send] = max(at, mine.get(send, 0))
    for piece in cut(stream((person, send, Ms(at)) for person, send, at in before), sizes):
        caps.load(piece)
    note = _core.Note(json.dumps(spec).encode())
    decided = note.decide(chunk(rows), caps, NOW_MS)
    found: dict[int, tuple[Any, ...]] = {}
    for (
        position,
        recipient,
        platform,
        token,
        subscription,
        environment,
        bundle,
        user,
        title,
        body,
        key,
    ) in decided.sends():
        row = rows[position]
        assert (recipient, platform, token, user) == (
            row["recipient"].bytes,
            row["platform"],
            f"token{position}",
            row["user"],
        )
        assert (subscription, environment, bundle) == (
            '{"auth": "a"}' if platform == "web" else None,
            "production",
            None,
        )
        found[position] = "send", title, body, key
    for position, recipient, user, state, reason, due_ms, key in decided.stays():
        assert (recipient, user) == (rows[position]["recipient"].bytes, rows[position]["user"])
        assert (due_ms is not None) == (state == "deferred") and (due_ms or NOW_MS + 1) > NOW_MS
        found[position] = state, reason, key
    assert [found[i] for i in range(len(rows))] == [verdict(spec, row, sent) for row in rows]


ONE = {
    "recipient": uuid.UUID(int=5),
    "platform": "ios",
    "user": "u",
    "active": True,
    "owner_since": 0,
    "locale": "de",
    "timezone": "UTC",
}
SPEC = {"sendId": str(SEND), "body": "b", "plannedAt": NOW_MS, "expiresAt": NOW_MS + 1}


def test_texts_are_rendered_with_three_scopes() -> None:
    """B122-B124: `trait.email` and `user.email` are two things."""
    body = "{{event.n}}|{{trait.email}}|{{user.email}}|{{user.userId}}|{{user.createdAt}}|{{user.locale}}"
    body += "|{{user.lastSeenAt}}|{{trait.a.b}}"
    spec = SPEC | {"title": "{{trait.none}}", "body": body, "event": {"n": 3}}
    rows = chunk([ONE], traits=Json('{"email": "t", "a": {"b": "é\\n"}}'), email="e", created=Ms(0), seen=None)
    [(*_, title, text, key)] = _core.Note(json.dumps(spec).encode()).decide(rows, None, NOW_MS).sends()
    assert (title, text, key) == ("", "3|t|e|u|1970-01-01T00:00:00.000Z|de||é\n", None)


def test_an_address_without_user_is_counted_and_assigned_by_its_own_id() -> None:
    """B112, C44."""
    test = {"id": "t", "variants": [{"key": str(i), "weight": 1, "body": str(i)} for i in range(100)]}
    note = _core.Note(json.dumps(SPEC | {"test": test, "policy": {"capDay": 1}}).encode())
    caps = _core.Caps()
    caps.load(stream([(str(uuid.UUID(int=5)), uuid.UUID(int=1), Ms(NOW_MS))]))
    decided = note.decide(
        chunk([ONE | {"user": None}, ONE | {"user": None, "recipient": uuid.UUID(int=6)}]), caps, NOW_MS
    )
    assert [stay[4] for stay in decided.stays()] == ["frequency_cap"]
    assert [call[10] for call in decided.sends()] == [str(_core.buckets("t", [str(uuid.UUID(int=6))])[0])]


@pytest.mark.parametrize(("cap", "window_ms"), [("capDay", 24 * HOUR_MS), ("capHour", HOUR_MS)])
def test_caps_roll(cap: str, window_ms: int) -> None:
    """B111: what is as old as the window no longer counts; a cap of nought lets nobody through."""

    def reasons(limit: int, *ages_ms: int) -> list[str]:
        caps = _core.Caps()
        caps.load(stream(("u", uuid.UUID(int=100 + i), Ms(NOW_MS - age)) for i, age in enumerate(ages_ms)))
        note = _core.Note(json.dumps(SPEC | {"policy": {cap: limit}}).encode())
        return [stay[4] for stay in note.decide(chunk([ONE]), caps, NOW_MS).stays()]

    assert reasons(1, window_ms) == [] == reasons(2, window_ms - 1, window_ms) == reasons(1)
    assert reasons(1, window_ms - 1) == ["frequency_cap"] == reasons(2, window_ms - 1, 0) == reasons(0)


def test_chunks_in_flight_see_each_other() -> None:
    """C37: a person who passes is counted at once; another phone of the person is the same send."""
    caps = _core.Caps()
    policy = {"policy": {"capDay": 1}}
    first = _core.Note(json.dumps(SPEC | policy).encode())
    second = _core.Note(json.dumps(SPEC | policy | {"sendId": str(uuid.UUID(int=8))}).encode())
    assert len(first.decide(chunk([ONE, ONE]), caps, NOW_MS).sends()) == 2
    assert [stay[4] for stay in second.decide(chunk([ONE]), caps, NOW_MS).stays()] == ["frequency_cap"]
    caps.forget_before(NOW_MS + 1)
    assert len(second.decide(chunk([ONE]), caps, NOW_MS).sends()) == 1


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"sendId": "x"}, "sendId"),
        ({"policy": {"quietStart": 24}}, "policy.quietStart"),
        ({"event": []}, "event"),
        ({"test": {"id": "t", "variants": [{"key": "a", "weight": 99}]}}, "test.variants"),
        ({"plannedAt": None}, ""),
    ],
)
def test_a_note_that_makes_no_sense(change: dict[str, Any], path: str) -> None:
    with pytest.raises(ValueError) as refused:
        _core.Note(json.dumps(SPEC | change).encode())
    assert refused.value.args[0] == path


def test_streams_that_were_cut_decide_nothing() -> None:
    note = _core.Note(json.dumps(SPEC).encode())
    with pytest.raises(ValueError):
        note.decide(chunk([ONE])[:-2], None, NOW_MS)
    caps = _core.Caps()
    caps.load(stream([])[:-1])
    with pytest.raises(ValueError):
        note.decide(chunk([ONE]), caps, NOW_MS)


@settings(max_examples=200)
@given(specs, recipients, ledger)
def test_an_explanation_is_the_decision(spec: dict[str, Any], row: dict[str, Any], before: list[Any]) -> None:
    """Promise 4: the same verdict, and the steps end where somebody stays."""
    note = _core.Note(json.dumps(spec).encode())

    def caps() -> _core.Caps:
        loaded = _core.Caps()
        loaded.load(stream((person, send, Ms(at)) for person, send, at in before))
        return loaded

    decided = note.decide(chunk([row]), caps(), NOW_MS)
    said = json.loads(note.explain(chunk([row]), caps(), NOW_MS))
    verdicts = [(state, reason, key) for _, _, _, state, reason, _, key in decided.stays()]
    verdicts += [("send", None, sent[10]) for sent in decided.sends()]
    assert [(said["state"], said["reason"], said["variant"])] == verdicts
    passed = [step["passed"] for step in said["steps"]]
    assert passed == [True] * (len(passed) - 1) + [said["state"] == "send"]


def test_an_explanation_shows_what_was_looked_at() -> None:
    """Quiet hours with zone and source (B108, B110), the chain of locales (B114), hash and bucket (B117), caps with
    their counters (B111)."""
    test = {"id": "t", "variants": [{"key": "a", "weight": 30, "title": "A"}, {"key": "b", "weight": 70, "title": "B"}]}
    policy = {"quietStart": 1, "quietEnd": 2, "defer": True, "capDay": 3, "capHour": 1, "defaultZone": "Asia/Tokyo"}
    spec = SPEC | {"test": test, "policy": policy, "localizedBody": {"de": "hallo"}}
    caps = _core.Caps()
    sends = [(uuid.UUID(int=1), 2 * HOUR_MS), (uuid.UUID(int=2), 1), (uuid.UUID(int=3), 25 * HOUR_MS)]
    caps.load(stream([("u", send, Ms(NOW_MS - ago)) for send, ago in sends]))
    row = ONE | {"locale": "de-CH", "timezone": "Nowhere"}
    said = json.loads(_core.Note(json.dumps(spec).encode()).explain(chunk([row]), caps, NOW_MS))
    assert (said["state"], said["reason"]) == ("suppressed", "frequency_cap")
    steps = {step.pop("step"): step for step in said["steps"]}
    assert list(steps) == [
        "address",
        "active",
        "ownership",
        "lateness",
        "quietHours",
        "variant",
        "locale",
        "frequencyCap",
    ]
    assert steps["quietHours"] == {
        "bypassed": False, "window": [1, 2], "deviceZone": "Nowhere", "zone": "Asia/Tokyo", "zoneSource": "default",
        "localTime": "2026-05-29T05:26:40 +09", "until": None, "defer": True, "passed": True,
    }  # fmt: skip
    digest = hashlib.sha256(b"tu").hexdigest()
    bucket = int(digest, 16) % 100
    assert (steps["variant"]["sha256"], steps["variant"]["bucket"]) == (digest, bucket)
    assert steps["variant"]["variant"] == said["variant"] == ("a" if bucket < 30 else "b")
    assert steps["locale"] == {
        "locale": "de-CH", "chain": ["de-ch", "de"], "title": "variant", "body": "de", "passed": True,
    }  # fmt: skip
    assert steps["frequencyCap"] == {
        "bypassed": False, "person": "u", "passed": False,
        "day": {"cap": 3, "received": 2, "windowHours": 24}, "hour": {"cap": 1, "received": 1, "windowHours": 1},
    }  # fmt: skip
