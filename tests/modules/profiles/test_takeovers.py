"""Who leads to whom, as arithmetic."""

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendora.kernel.ids import OrgId, ProjectId
from sendora.modules.profiles.model import Name, takeovers

ORG, PROJECT = OrgId(uuid4()), ProjectId(uuid4())


def name(external_id: str) -> Name:
    return (ORG, PROJECT, external_id)


@pytest.mark.rule("C69")
def test_chains_are_straightened_and_circles_left_out() -> None:
    """C69."""
    assert takeovers([(name("a"), "b")], {}) == [(name("a"), "b")]
    assert takeovers([(name("a"), "b")], {name("b"): "c"}) == [(name("a"), "c")]
    assert takeovers([(name("a"), "b"), (name("b"), "c")], {}) == [(name("a"), "b"), (name("b"), "c")]
    assert takeovers([(name("b"), "c"), (name("a"), "b")], {}) == [(name("b"), "c"), (name("a"), "c")]
    assert takeovers([(name("a"), "b"), (name("b"), "a")], {}) == [(name("a"), "b")]
    assert takeovers([(name("a"), "a")], {}) == []
    assert takeovers([(name("a"), "b"), (name("a"), "c")], {}) == [(name("a"), "b")], "the first one keeps it"
    assert takeovers([(name("b"), "a")], {name("a"): "b"}) == []


@given(st.lists(st.tuples(st.sampled_from("abcdefg"), st.sampled_from("abcdefg")), max_size=30))
def test_every_look_up_ends(wanted: list[tuple[str, str]]) -> None:
    """Whatever people claim about each other, in however many batches, following the chain comes to an end."""
    into: dict[str, str] = {}
    for start in range(0, len(wanted), 4):
        batch = [(name(who), known) for who, known in wanted[start : start + 4] if who not in into]
        roots = {name(known): end_of(known, into) for _, known in batch}
        for anonymous, known in takeovers(batch, roots):
            assert anonymous[2] not in into
            into[anonymous[2]] = known
    for who in "abcdefg":
        end_of(who, into)


def end_of(who: str, into: dict[str, str]) -> str:
    for _ in range(len(into) + 1):
        if who not in into:
            return who
        who = into[who]
    raise AssertionError(f"a circle: {into}")
