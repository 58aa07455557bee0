"""Bodies in, envelopes out."""

from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendora.kernel.errors import ValidationFailed
from sendora.kernel.wire import UNSET, Page, Pagination, UnsetType, Wire, WireIn, decode, encode, success


class Variant(WireIn, frozen=True, kw_only=True):
    key: str
    weight: Annotated[int, msgspec.Meta(ge=0, le=100)]


class Body(WireIn, frozen=True, kw_only=True):
    push_title: str
    variants: tuple[Variant, ...] = ()
    labels: dict[str, int] | None = None
    kind: Literal["now", "bulk"] = "now"
    owner: UUID | None = None
    note: str | UnsetType | None = UNSET


FAULTS = [
    (b"{}", {"pushTitle": ["Required"]}),
    (b"[]", {"body": ["Expected object, got array"]}),
    (b"null", {"body": ["Expected object, got null"]}),
    (b'{"pushTitle":1}', {"pushTitle": ["Expected string, got integer"]}),
    (b'{"pushTitle":"a","push_title":"a"}', {"push_title": ["Unknown field"]}),
    (b'{"pushTitle":"a","a.b`c":1}', {"a.b`c": ["Unknown field"]}),
    (b'{"pushTitle":"a","variants":{}}', {"variants": ["Expected array, got object"]}),
    (
        b'{"pushTitle":"a","variants":[{"key":"a","weight":"x"}]}',
        {"variants.0.weight": ["Expected integer, got string"]},
    ),
    (b'{"pushTitle":"a","variants":[{"key":"a","weight":1},{"key":"b"}]}', {"variants.1.weight": ["Required"]}),
    (b'{"pushTitle":"a","variants":[{"key":"a","weight":101}]}', {"variants.0.weight": ["Expected integer <= 100"]}),
    (b'{"pushTitle":"a","variants":[{"key":"a","weight":1,"z":1}]}', {"variants.0.z": ["Unknown field"]}),
    (b'{"pushTitle":"a","labels":{"x":"y"}}', {"labels.*": ["Expected integer, got string"]}),
    (b'{"pushTitle":"a","kind":"later"}', {"kind": ["Invalid enum value 'later'"]}),
    (b'{"pushTitle":"a","owner":"me"}', {"owner": ["Invalid UUID"]}),
]


@pytest.mark.rule("B024")
@pytest.mark.parametrize(("body", "fields"), FAULTS)
def test_a_fault_is_named_by_its_dotted_path(body: bytes, fields: dict[str, list[str]]) -> None:
    """B024."""
    with pytest.raises(ValidationFailed) as raised:
        decode(body, Body)
    assert raised.value.field_errors == fields


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"pushTitle":"a"',
        b'{"pushTitle":"\xff"}',
        b'{"pushTitle":"a\\u0000"}',
        b'{"pushTitle":"\\ud800"}',
        b'{"pushTitle":"a","pushTitle":"b"}',
        b'{"pushTitle":"a","labels":{"x":NaN}}',
        b'{"pushTitle":"a","labels":{"x":1e999}}',
        b'{"pushTitle":"a","labels":{"x":99999999999999999999}}',
        b"[" * 100_000,
        b'{"pushTitle":' + b"[" * 33 + b"]" * 33 + b"}",
    ],
    ids=repr,
)
def test_hostile_json_is_a_field_error_and_nothing_else(body: bytes) -> None:
    """reliability.md 3.7."""
    with pytest.raises(ValidationFailed) as raised:
        decode(body, Body)
    assert raised.value.field_errors


@given(st.binary(max_size=300))
def test_no_bytes_at_all_raise_anything_else(body: bytes) -> None:
    try:
        decode(body, Body)
    except ValidationFailed as failed:
        assert failed.status == 400


def test_absent_null_and_present_are_three_things() -> None:
    assert decode(b'{"pushTitle":"a"}', Body).note is UNSET
    assert decode(b'{"pushTitle":"a","note":null}', Body).note is None
    assert decode(b'{"pushTitle":"a","note":"x"}', Body).note == "x"


def test_names_are_camel_case_outside() -> None:
    class Row(Wire, frozen=True, kw_only=True):
        token_count: int | None

    assert encode(Row(token_count=None)) == b'{"tokenCount":null}'


@pytest.mark.rule("B017", "C88")
def test_the_envelope_of_success() -> None:
    """B017, C88."""
    assert msgspec.json.decode(success({"id": 1})) == {"success": True, "data": {"id": 1}}
    page = Page.of(2, 10)
    assert msgspec.json.decode(success([], page.pagination(25))) == {
        "success": True,
        "data": [],
        "pagination": {"page": 2, "pageSize": 10, "total": 25, "hasMore": True},
    }


@pytest.mark.rule("C88")
@pytest.mark.parametrize(
    ("number", "size", "fields"),
    [
        (0, None, {"page"}),
        (None, 0, {"pageSize"}),
        (None, 101, {"pageSize"}),
        (-1, 1_000, {"page", "pageSize"}),
        (10**30, 1, {"page"}),
    ],
)
def test_a_page_out_of_bounds_is_refused(number: int | None, size: int | None, fields: set[str]) -> None:
    """C88: pageSize is 1 to 100."""
    with pytest.raises(ValidationFailed) as raised:
        Page.of(number, size)
    assert set(raised.value.field_errors) == fields


@given(st.integers(1, 1_000), st.integers(1, 100), st.integers(0, 5_000))
def test_pages_cover_a_list_once(number: int, size: int, total: int) -> None:
    page = Page.of(number, size)
    said: Pagination = page.pagination(total)
    assert said.has_more is (total > number * size)
    assert page.offset == (number - 1) * size
    defaults: Any = Page.of(None, None)
    assert (defaults.number, defaults.size) == (1, 20)
