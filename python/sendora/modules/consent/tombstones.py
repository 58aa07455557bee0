"""Names that were erased, as nobody but us can look them up.

A name is kept as HMAC-SHA256 under a key that is derived from the vault's master key, bound to the org and the project:
without that key nobody can tell, or try out, whose it was. After a new master key the older ones are tried as well, for
as long as they stand in the settings.
"""

import hmac
from collections.abc import Iterable
from datetime import datetime
from hashlib import sha256
from typing import Final, NamedTuple

from sendora.kernel.clock import millis
from sendora.kernel.config import Settings, master_key, previous_keys
from sendora.kernel.ids import OrgId, ProjectId

PURPOSE: Final = b"sendora erased names"
"""Keeps this key apart from all others that come from the same master key."""


class Tombstone(NamedTuple):
    org: OrgId
    project: ProjectId
    hash: bytes
    position: int
    cut_at: datetime


class Tombstones:
    """Some of them, to hold names against."""

    def __init__(self, settings: Settings, found: Iterable[Tombstone]) -> None:
        self._keys = _keys(settings)
        self._cuts = {(one.org.bytes, one.project.bytes, one.hash): (one.position, millis(one.cut_at)) for one in found}
        self.projects = {key[:2] for key in self._cuts}
        """(org, project) of each, 16 bytes each."""

    def cover(self, org: bytes, project: bytes, name: bytes, position: int, received_ms: int) -> bool:
        """Whether this was said before the name was erased: by its place in the log, and by the time of its receipt,
        because a log that was made anew numbers its places anew."""
        for key in self._keys:
            cut = self._cuts.get((org, project, _digest(key, org, project, name)))
            if cut is not None and position <= cut[0] and received_ms <= cut[1]:
                return True
        return False


def hash_of(settings: Settings, org: OrgId, project: ProjectId, name: str) -> bytes:
    """How a name is kept from now on."""
    return _digest(_keys(settings)[0], org.bytes, project.bytes, name.encode())


def hashes_of(settings: Settings, org: OrgId, project: ProjectId, name: str) -> list[bytes]:
    """Every way in which it may have been kept."""
    return [_digest(key, org.bytes, project.bytes, name.encode()) for key in _keys(settings)]


def _keys(settings: Settings) -> list[bytes]:
    older = previous_keys(settings.vault)
    masters = [master_key(settings.vault), *(older[version] for version in sorted(older, reverse=True))]
    return [hmac.digest(master, PURPOSE, sha256) for master in masters]


def _digest(key: bytes, org: bytes, project: bytes, name: bytes) -> bytes:
    return hmac.digest(key, org + project + name, sha256)
