"""The strict JSON check against Python's own parser and the few rules that come on top (reliability 3.7)."""

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sendora import _core

DEPTH_MAX = 32


def refuses(body: bytes) -> bool:
    """The oracle: what Python refuses, or what our rules forbid on top."""

    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in members}) < len(members):
            raise ValueError("duplicate key")
        return dict(members)

    def integer(text: str) -> int:
        if not -(2**63) <= int(text) < 2**63:
            raise ValueError("beyond 64 bit")
        return int(text)

    def real(text: str) -> float:
        value = float(text)
        if math.isinf(value) or (value == 0 and any(digit in "123456789" for digit in text.lower().split("e")[0])):
            raise ValueError("beyond a double")
        return value

    def constant(text: str) -> float:
        raise ValueError(text)

    def storable(value: Any, level: int) -> bool:
        if isinstance(value, str):
            return "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)
        inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
        deep = isinstance(value, dict | list) and level > DEPTH_MAX
        return not deep and all(storable(item, level + 1) for item in inner)

    try:
        text = body.decode()
        value = json.loads(text, object_pairs_hook=pairs, parse_int=integer, parse_float=real, parse_constant=constant)
    except (ValueError, RecursionError):
        return True
    return not storable(value, 1)


scalars = st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats() | st.text(st.characters(), max_size=5)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
).map(lambda value: json.dumps(value).encode())
"""Python writes NaN and lone surrogates without a word, which is what we want here."""


@given(documents)
def test_documents(body: bytes) -> None:
    assert (_core.check_json(body) is not None) == refuses(body), body


PIECES = [
    "{", "}", "[", "]", ",", ":", '"', '"a"', '"b"', "1", "-", "0", ".5", "e9", "E+400", "e-400", "true", "nul", "null",
    " ", "\n", "\\", "\\u0000", "\\ud83d", "\\ude00", "\\u00e9", "é", "9223372036854775807", "9223372036854775808",
    "NaN", "\t", "\x01", "/",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(lambda pieces: "".join(pieces).encode()))
@example(b"")
@example(b"[" * 33 + b"]" * 33)
@example(b"[" * 32 + b"]" * 32)
@example(b"\xff")
@example(b'{"a":1,"\\u0061":1}')
@example(b'"\\ud83d\\ude00"')
@example(b'"\\ude00\\ud83d"')
@example(b"-0")
@example(b"1e-324")
@example(b"\xef\xbb\xbf1")
def test_ruins(body: bytes) -> None:
    assert (_core.check_json(body) is not None) == refuses(body), body


@given(documents.filter(lambda body: not refuses(body)), st.lists(st.sampled_from(["k", "é", 'q"', 3]), max_size=4))
def test_the_path_names_the_place(good: bytes, path: list[str | int]) -> None:
    body = "1e999"
    for step in reversed(path):
        body = (
            f"[{','.join([good.decode()] * step + [body])}]"
            if isinstance(step, int)
            else f'{{"x":0,{json.dumps(step)}:{body}}}'
        )
    assert _core.check_json(body.encode()) == (".".join(map(str, path)), "the number is beyond the range of a double")


@pytest.mark.parametrize("body", [b"[" * 1_000_000, b'{"a":' * 200_000, b'"' + b"\\" * 999_999, b"1" * 1_000_000])
def test_bombs(body: bytes) -> None:
    assert _core.check_json(body) is not None
