"""Buckets, signatures and shards against Python's own hashes."""

import hashlib
import hmac
from uuid import UUID

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from sendora import _core

text = st.text(st.characters(exclude_categories=["Cs"]))


@given(text, st.lists(text))
def test_buckets(test_id: str, users: list[str]) -> None:
    """B117, C44: the whole digest as a big-endian integer mod 100."""
    digests = [hashlib.sha256((test_id + user).encode()).digest() for user in users]
    assert list(_core.buckets(test_id, users)) == [int.from_bytes(digest, "big") % 100 for digest in digests]


@given(st.binary(max_size=200), st.lists(st.binary(), max_size=5))
def test_hmac(key: bytes, bodies: list[bytes]) -> None:
    assert _core.hmac_sha256(key, bodies) == [hmac.digest(key, body, "sha256") for body in bodies]


@given(st.uuids(), st.lists(text))
def test_shards(project: UUID, persons: list[str]) -> None:
    hashes = [xxhash.xxh64_intdigest(project.bytes + person.encode(), seed=0) for person in persons]
    assert list(_core.shards(project.bytes, persons)) == [value >> 58 for value in hashes]


def test_an_id_has_sixteen_bytes() -> None:
    with pytest.raises(ValueError):
        _core.shards(b"short", ["u"])
