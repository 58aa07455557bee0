"""The contract against the program: every entry with its fields, statuses and codes, who may call it, and a test that
names each rule. The report itself is `python -m tests.contract.coverage`."""

from typing import Any

import pytest
from tests.contract.coverage import PARAMETER, RULES, contract, gaps, not_here, proofs

from sendora.app import MODULES, document
from sendora.kernel.http.routes import NEEDS

ENTRIES = contract()


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    return document()


def test_every_entry_is_here(published: dict[str, Any]) -> None:
    """Whatever is excused must be missing indeed, and nothing else may be."""
    _, excused = not_here()
    lacking = {gap for entry in ENTRIES for gap in gaps(published, entry)}
    assert sorted(lacking - excused.keys()) == []
    assert sorted(excused.keys() - lacking) == []


def test_a_test_names_every_rule() -> None:
    excused, _ = not_here()
    named = proofs()
    assert [rule for rule in RULES if not named[rule] and rule not in excused] == []
    assert [rule for rule in excused if named.get(rule)] == [], "a rule is proven and excused at once"
    assert set(excused) <= set(RULES)
    assert all(excused.values())


def test_who_may_call_is_as_the_contract_says() -> None:
    declared = {
        (str(method), PARAMETER.sub("{}", path)): route.opt[NEEDS]
        for module in MODULES
        for route in module.routes
        for path in route.paths
        for method in route.http_methods
    }
    for entry in ENTRIES:
        needs = declared.get((entry["method"], PARAMETER.sub("{}", entry["path"].removeprefix("/api/v1"))))
        if needs is None:
            continue  # Missing is another test's word.
        if entry["scope"] is not None:
            assert needs.scope == entry["scope"], entry["id"]
        if "role" in entry:
            assert needs.role == entry["role"], entry["id"]
        assert needs.tier == entry["tier"], entry["id"]
        assert needs.public_key == ("pk" in entry["auth"]), entry["id"]
