"""Identifiers: time in the first bits, canonical form only."""

import hashlib
from datetime import UTC, datetime
from uuid import UUID

import pytest

from sendora.kernel.clock import millis
from sendora.kernel.ids import ProjectId, id_millis, lowest_id, new_id, parse_id, profile_id

AT = datetime(2026, 11, 20, 8, 30, 0, 123_000, tzinfo=UTC)


def test_an_id_carries_its_time_and_lies_above_that_bound() -> None:
    made = new_id(AT)
    assert (made.version, id_millis(made)) == (7, millis(AT))
    assert lowest_id(millis(AT)) < made < lowest_id(millis(AT) + 1)


def test_ids_of_one_process_grow() -> None:
    ids = [new_id() for _ in range(1_000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.rule("C94")
def test_a_profile_has_the_same_id_for_everybody_who_computes_it() -> None:
    """C94: the API answers with the id before the profile is stored."""
    project = ProjectId(UUID("018f0000-0000-7000-8000-000000000001"))
    assert profile_id(project, "użytkownik 7") == profile_id(project, "użytkownik 7")
    assert profile_id(project, "użytkownik 7") != profile_id(project, "uzytkownik 7")
    # RFC 9562 5.5 by hand, so that the library may be held against it.
    digest = bytearray(hashlib.sha1(project.bytes + b"user-1", usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    assert profile_id(project, "user-1") == UUID(bytes=bytes(digest)) == UUID("e8684e22-7baf-5e23-b81f-064fb3f5dc68")


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("018f0000-0000-7000-8000-00000000000a", True),
        ("018F0000-0000-7000-8000-00000000000A", True),
        ("018f000000007000800000000000000a", False),
        ("{018f0000-0000-7000-8000-00000000000a}", False),
        ("urn:uuid:018f0000-0000-7000-8000-00000000000a", False),
        ("018f0000-0000-7000-8000-00000000000a\n", False),
        ("018f0000-0000-7000-8000-00000000000٣", False),
        ("", False),
        ("x" * 100_000, False),
    ],
)
def test_only_the_hyphenated_form_is_an_id(text: str, taken: bool) -> None:
    parsed = parse_id(text)
    assert (parsed is not None) is taken
    if parsed is not None:
        assert str(parsed) == text.lower()
