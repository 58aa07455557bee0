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


ENGINES = _core.hash_engines()
"""Each way of hashing that this processor has is held to the same promises."""

LENGTHS = (0, 1, 3, 54, 55, 56, 63, 64, 65, 118, 119, 120, 127, 128, 129, 350, 1000)
"""On both sides of every edge of a block and of its padding."""


def rest(test_id: str, user: str) -> int:
    return int.from_bytes(hashlib.sha256((test_id + user).encode()).digest(), "big") % 100


@pytest.mark.rule("B117")
@pytest.mark.parametrize("engine", ENGINES)
@given(text, st.lists(text))
def test_buckets(engine: str, test_id: str, users: list[str]) -> None:
    """B117, C44: the whole digest as a big-endian integer mod 100."""
    assert list(_core.buckets(test_id, users, engine)) == [rest(test_id, user) for user in users]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_length_in_every_lane(engine: str) -> None:
    """Messages of one block stand beside messages of many, and each ends in its own time."""
    users = ["u" * LENGTHS[number * 7 % len(LENGTHS)] + str(number) for number in range(2_000)]
    for prefix in LENGTHS:
        assert list(_core.buckets("t" * prefix, users, engine)) == [rest("t" * prefix, user) for user in users]


def test_a_batch_for_several_threads() -> None:
    users = [f"user-{number}" for number in range(100_000)]
    assert list(_core.buckets("test", users)) == [rest("test", user) for user in users]
    bodies = [user.encode() for user in users]
    assert _core.hmac_sha256(b"key", bodies) == [hmac.digest(b"key", body, "sha256") for body in bodies]


@pytest.mark.parametrize("engine", ENGINES)
@given(st.binary(max_size=200), st.lists(st.binary(max_size=600), max_size=40))
def test_hmac(engine: str, key: bytes, bodies: list[bytes]) -> None:
    assert _core.hmac_sha256(key, bodies, engine) == [hmac.digest(key, body, "sha256") for body in bodies]


RFC4231 = [
    ("0b" * 20, b"Hi There".hex(), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    (
        b"Jefe".hex(),
        b"what do ya want for nothing?".hex(),
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    ),
    ("aa" * 20, "dd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
    (
        "0102030405060708090a0b0c0d0e0f10111213141516171819",
        "cd" * 50,
        "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
    ),
    (
        "aa" * 131,
        b"Test Using Larger Than Block-Size Key - Hash Key First".hex(),
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ),
    (
        "aa" * 131,
        (
            b"This is a test using a larger than block-size key and a larger than block-size data. "
            b"The key needs to be hashed before being used by the HMAC algorithm."
        ).hex(),
        "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
    ),
]
"""Cases 1 to 4, 6 and 7 of RFC 4231, section 4; case 5 is truncated."""


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("key", "data", "mac"), RFC4231)
def test_published_signatures(engine: str, key: str, data: str, mac: str) -> None:
    macs = _core.hmac_sha256(bytes.fromhex(key), [bytes.fromhex(data)] * 20, engine)
    assert [one.hex() for one in macs] == [mac] * 20


NIST = [
    ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    (
        "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
    ),
    (
        "abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
        "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1",
    ),
    ("a" * 1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
]
"""The examples that NIST publishes for SHA-256 (FIPS 180-4)."""


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("message", "digest"), NIST)
def test_published_digests(engine: str, message: str, digest: str) -> None:
    """Only the bucket of a digest can be seen from here; that bytes agree too is what the signatures show."""
    assert _core.buckets(message[:50], [message[50:]], engine) == bytes([int(digest, 16) % 100])


def test_an_engine_has_to_be_there() -> None:
    assert ENGINES[-1] == "portable"
    with pytest.raises(ValueError, match="engine"):
        _core.buckets("t", ["u"], "abacus")


@given(st.uuids(), st.lists(text))
def test_shards(project: UUID, persons: list[str]) -> None:
    hashes = [xxhash.xxh64_intdigest(project.bytes + person.encode(), seed=0) for person in persons]
    assert list(_core.shards(project.bytes, persons)) == [value >> 58 for value in hashes]


def test_an_id_has_sixteen_bytes() -> None:
    with pytest.raises(ValueError):
        _core.shards(b"short", ["u"])
