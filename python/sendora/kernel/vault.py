"""Credentials at rest: AES-256-GCM under a data key for each org, itself sealed by the master key (B022).

A sealed value is bound to its place: org, identity (such as `push_providers.sealed.<id>`) and key version are
associated data, so a ciphertext that is copied into another row, or into another org's, does not open. The blob is

    0x01 | data key version (2 bytes) | nonce (12) | ciphertext and tag

Changing the master key re-wraps the data keys (`rewrap`), never the values; a data key of its own for each org keeps
every key far below the 2^32 random nonces that GCM allows. Opened data keys stay in memory, in a bounded cache.
"""

import os
import struct
from collections import OrderedDict
from typing import Final, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sendora.kernel import config
from sendora.kernel.ids import OrgId
from sendora.kernel.pg import Database

FORMAT: Final = 1
NONCE_BYTES: Final = 12
KEY_BYTES: Final = 32
TAG_BYTES: Final = 16
CACHED_MAX: Final = 10_000
"""Data keys kept open, about 1 kB each: a process serves fewer orgs than that at a time."""

K = TypeVar("K")
V = TypeVar("V")

_HEAD: Final = struct.Struct(">BH")

_NEWEST: Final = "SELECT version, kek_version, wrapped FROM data_keys WHERE org_id = $1 ORDER BY version DESC LIMIT 1"
_ONE: Final = "SELECT version, kek_version, wrapped FROM data_keys WHERE org_id = $1 AND version = $2"

# Two processes may make an org's first key at once; whoever comes second reads the other's.
_INSERT: Final = """
INSERT INTO data_keys (org_id, version, kek_version, wrapped) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING
"""
_OLD: Final = "SELECT org_id, version, kek_version, wrapped FROM data_keys WHERE kek_version <> $1 LIMIT 100"
_REWRAP: Final = """
UPDATE data_keys SET kek_version = $4, wrapped = $5 WHERE org_id = $1 AND version = $2 AND kek_version = $3
"""


class SealBroken(Exception):
    """The value was not sealed by us for this place, or the key is not at hand. Never says what was inside."""


class Vault:
    """Seals and opens. Raises `config.ConfigError` at once when the master key is missing."""

    def __init__(self, db: Database, settings: config.Vault) -> None:
        self._db = db
        self._version = settings.key_version
        self._masters = {
            version: AESGCM(key)
            for version, key in {
                **config.previous_keys(settings),
                settings.key_version: config.master_key(settings),
            }.items()
        }
        self._keys: OrderedDict[tuple[OrgId, int], AESGCM] = OrderedDict()
        self._newest: OrderedDict[OrgId, int] = OrderedDict()

    async def seal(self, org: OrgId, identity: str, plaintext: bytes) -> bytes:
        version, key = await self._sealing_key(org)
        nonce = os.urandom(NONCE_BYTES)
        head = _HEAD.pack(FORMAT, version)
        return head + nonce + key.encrypt(nonce, plaintext, _place(org, identity, head))

    async def open(self, org: OrgId, identity: str, sealed: bytes) -> bytes:
        """The plaintext; raises SealBroken."""
        if len(sealed) < _HEAD.size + NONCE_BYTES + TAG_BYTES:
            raise SealBroken("too short")
        head, nonce, body = sealed[: _HEAD.size], sealed[_HEAD.size :][:NONCE_BYTES], sealed[_HEAD.size + NONCE_BYTES :]
        format_, version = _HEAD.unpack(head)
        if format_ != FORMAT:
            raise SealBroken(f"unknown format {format_}")
        key = await self._opening_key(org, version)
        try:
            return key.decrypt(nonce, body, _place(org, identity, head))
        except InvalidTag:
            raise SealBroken("not sealed for this place") from None

    async def rotate(self, org: OrgId) -> int:
        """A new data key for what is sealed from now on; older values stay readable. Its version."""
        newest = await self._db.fetchval("SELECT max(version) FROM data_keys WHERE org_id = $1", org)
        await self._make(org, (newest or 0) + 1)
        self._newest.pop(org, None)
        version, _ = await self._sealing_key(org)
        return version

    async def rewrap(self) -> int:
        """Seal every data key with the newest master key; how many were changed. May be repeated and interrupted."""
        changed = 0
        while rows := await self._db.fetch(_OLD, self._version):
            for row in rows:
                org = OrgId(row["org_id"])
                key = self._unwrap(org, row["version"], row["kek_version"], row["wrapped"])
                wrapped = self._wrap(org, row["version"], key)
                await self._db.execute(_REWRAP, org, row["version"], row["kek_version"], self._version, wrapped)
                changed += 1
        return changed

    async def _sealing_key(self, org: OrgId) -> tuple[int, AESGCM]:
        version = self._newest.get(org)
        if version is not None and (key := self._keys.get((org, version))) is not None:
            return version, key
        row = await self._db.fetchrow(_NEWEST, org)
        if row is None:
            await self._make(org, 1)
            row = await self._db.fetchrow(_NEWEST, org)
            if row is None:
                raise SealBroken("the data key has vanished")
        version = int(row["version"])
        _remember(self._newest, org, version)
        return version, self._keep(org, version, self._unwrap(org, version, row["kek_version"], row["wrapped"]))

    async def _opening_key(self, org: OrgId, version: int) -> AESGCM:
        if (key := self._keys.get((org, version))) is not None:
            self._keys.move_to_end((org, version))
            return key
        if version > 0x7FFF:  # Beyond smallint: not a version that we have written.
            raise SealBroken(f"no data key {version}")
        row = await self._db.fetchrow(_ONE, org, version)
        if row is None:
            raise SealBroken(f"no data key {version}")
        return self._keep(org, version, self._unwrap(org, version, row["kek_version"], row["wrapped"]))

    async def _make(self, org: OrgId, version: int) -> None:
        wrapped = self._wrap(org, version, os.urandom(KEY_BYTES))
        await self._db.execute(_INSERT, org, version, self._version, wrapped)

    def _wrap(self, org: OrgId, version: int, key: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._masters[self._version].encrypt(nonce, key, _wrapping(org, version, self._version))

    def _unwrap(self, org: OrgId, version: int, kek_version: int, wrapped: bytes) -> bytes:
        master = self._masters.get(kek_version)
        if master is None:
            raise SealBroken(f"master key {kek_version} is needed; name it in SENDORA_VAULT__PREVIOUS")
        try:
            return master.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], _wrapping(org, version, kek_version))
        except InvalidTag:
            raise SealBroken(f"master key {kek_version} is not the one that sealed the data key") from None

    def _keep(self, org: OrgId, version: int, key: bytes) -> AESGCM:
        opened = AESGCM(key)
        _remember(self._keys, (org, version), opened)
        return opened


def _place(org: OrgId, identity: str, head: bytes) -> bytes:
    """Fixed lengths first, so that no two places have the same bytes."""
    return head + org.bytes + identity.encode()


def _wrapping(org: OrgId, version: int, kek_version: int) -> bytes:
    return b"data key" + org.bytes + struct.pack(">HH", version, kek_version)


def _remember(cache: OrderedDict[K, V], key: K, value: V) -> None:
    cache[key] = value
    cache.move_to_end(key)
    if len(cache) > CACHED_MAX:
        cache.popitem(last=False)
