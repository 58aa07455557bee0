"""The text of a key, as arithmetic."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendora.kernel.errors import ScopeRequired, ValidationFailed
from sendora.kernel.wire import UNSET
from sendora.modules.orgs.model import PUBLIC_SCOPES, SECRET_SCOPES, digest, mint, prefix_of, scopes_for

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@pytest.mark.rule("B007")
def test_a_key_names_its_kind_and_environment() -> None:
    """B007."""
    secret = mint("sk", "prod")
    assert re.fullmatch(r"sk_prod_[0-9A-Za-z]{8}_[0-9A-Za-z]{38}", secret.text)
    assert secret.text.startswith(secret.prefix + "_")
    assert secret.hash == digest(secret.text)
    assert mint("pk", "dev").text.startswith("pk_dev_")
    assert len({mint("sk", "prod").text for _ in range(1_000)}) == 1_000


@given(st.integers(min_value=0, max_value=54), st.sampled_from(ALPHABET))
def test_every_single_typo_is_found_without_a_look_up(place: int, wrong: str) -> None:
    """reliability.md 3.3: the CRC finds every error of one character."""
    text = mint("sk", "prod").text
    assert prefix_of(text) == text[:16]
    assert len(text) == 55
    typo = text[:place] + wrong + text[place + 1 :]
    assert typo == text or prefix_of(typo) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sk_prod_",
        "Bearer x",
        "sk_prod_abcdefgh_" + "0" * 37,
        "sk_prod_abcdefgh_" + "é" * 38,
        "x" * 10_000,
        "sk_PROD_a",
    ],
)
def test_what_cannot_be_a_key_is_none(text: str) -> None:
    assert prefix_of(text) is None


def test_an_environment_is_a_short_lower_case_word() -> None:
    for environment in ("", "PROD", "a_b", "a" * 17, "1a", "é"):
        with pytest.raises(ValueError):
            mint("sk", environment)


@pytest.mark.rule("B010", "C19", "C22")
def test_scopes_of_a_new_key() -> None:
    """B010, C19, C22: the kind's default, or a subset of it; never more than the minter has."""
    everything = frozenset(SECRET_SCOPES)
    assert scopes_for("sk", UNSET, everything) == SECRET_SCOPES
    assert scopes_for("pk", UNSET, everything) == PUBLIC_SCOPES
    assert set(PUBLIC_SCOPES) < everything
    assert scopes_for("sk", ["push:send", "push:send"], everything) == ("push:send",)
    with pytest.raises(ValidationFailed) as caught:
        scopes_for("pk", ["events.write", "push:send"], everything)
    assert list(caught.value.field_errors) == ["scopes.1"]
    with pytest.raises(ValidationFailed):
        scopes_for("sk", ["everything"], everything)
    with pytest.raises(ValidationFailed):
        scopes_for("sk", [], everything)
    with pytest.raises(ScopeRequired):
        scopes_for("sk", ["push:send"], frozenset({"keys:write"}))
