"""The audit log: who did what, kept so that nobody can make it say something else afterwards.

An entry is written in the transaction of what it reports, and the database itself keeps it: a trigger refuses to change
or delete one, and chains each to the one before it (migration 0016; `link` is its twin here). What a superuser does to
the tables all the same, `verify` finds: a changed entry, one that is missing or put in between, a head that does not
fit. A whole chain made anew, or cut short together with its head, shows against a hash that was noted elsewhere: every
entry carries its own over the API, and `sendora audit verify` prints the last.

A person is named by an HMAC alone (design 6), since the log outlives an erasure. Its key is the org's own, sealed by
the vault: the same person is always named alike, so `sendora audit person` finds what was done to somebody whose id is
known, and nobody without the key can tell who a name is.
"""

import hmac
import json
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from hashlib import sha256
from typing import Any, Final
from weakref import WeakKeyDictionary

import msgspec

from sendora.kernel.clock import EPOCH
from sendora.kernel.http import Principal, received
from sendora.kernel.ids import NIL, OrgId
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Connection, Database
from sendora.modules.orgs import store
from sendora.modules.orgs.model import FIRST, Head, Kept

SYSTEM: Final = "system"
"""The actor of what no key asked for: a job, or the reader of a stream."""

OPERATOR: Final = "operator"
"""The actor of what was done at the command line, by whoever has the database."""

KEYS_MAX: Final = 10_000
"""Orgs whose key a process holds open, some 100 bytes each; a forgotten one costs a look-up."""

PAGE: Final = 1_000
"""Entries that are read at a time."""

_PLACE: Final = "audit_keys.sealed"


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of one org's chain."""

    org: OrgId
    entries: int
    """As many as are whole, from the first."""
    hash: bytes
    """Of the last of them: what to note elsewhere."""
    fault: str | None
    """What is wrong, and where; None when the chain is whole."""


async def audit(
    db: Database | Connection, principal: Principal, action: str, resource: str, details: dict[str, Any] | None = None
) -> None:
    """One entry, in the transaction of what it reports: pass the connection, as its last statement, since the org's
    other writers wait for the commit.

    `action` is `<noun>.<past participle>` (`key.minted`), `resource` is `<noun>:<id>`. A person is named by
    `person_hash` alone, in either and in `details`. The entry is of the org that the key acts for, and notes the size
    of the request's body.
    """
    await audit_as(db, principal.org, principal.prefix, action, resource, details)


async def audit_as(
    db: Database | Connection,
    org: OrgId,
    actor: str,
    action: str,
    resource: str,
    details: dict[str, Any] | None = None,
) -> None:
    """`audit` of what no key asked for: `actor` is SYSTEM, OPERATOR, or the prefix of the key that asked for it long
    ago (the execution of a deletion request)."""
    await store.insert_audit(db, org, actor, action, resource, details or {}, received())


async def person_hash(kernel: Kernel, org: OrgId, external_id: str) -> str:
    """How the audit log names a person, 32 hexadecimal digits: `person:<hash>` as a resource."""
    return hmac.digest(await _key(kernel, org), external_id.encode(), sha256).hex()[:32]


async def verify(db: Database) -> AsyncIterator[Verified]:
    """Every org's chain from its first entry to its head; what is written meanwhile is left out."""
    after = OrgId(NIL)
    while heads := await store.audit_heads(db, after, PAGE):
        for head in heads:
            yield await _verify(db, head)
        after = heads[-1].org


async def _verify(db: Database, head: Head) -> Verified:
    seq, previous = 0, FIRST

    def found(fault: str | None) -> Verified:
        return Verified(org=head.org, entries=seq, hash=previous, fault=fault)

    while entries := await store.audit_chain(db, head.org, seq, head.newest, PAGE):
        for entry in entries:
            if entry.seq != seq + 1:
                return found(f"entry {seq + 1} is missing")
            if link(previous, entry) != entry.hash:
                return found(f"entry {entry.seq} ({entry.id}) is not what was written")
            seq, previous = entry.seq, entry.hash
    if (seq, previous) != (head.seq, head.hash):
        return found(f"the head stands at entry {head.seq} and is not the hash of entry {seq}")
    return found(None)


def link(previous: bytes, entry: Kept) -> bytes:
    """The hash of an entry: SHA-256 over the hash before it and a JSON array of texts, as PostgreSQL writes it."""
    microseconds = (entry.at - EPOCH) // timedelta(microseconds=1)
    content = [
        str(entry.org), str(entry.seq), str(entry.id), str(microseconds), entry.actor, entry.action, entry.resource,
        "" if entry.payload_size is None else str(entry.payload_size), entry.details,
    ]  # fmt: skip
    return sha256(previous + json.dumps(content, ensure_ascii=False).encode()).digest()


async def _key(kernel: Kernel, org: OrgId) -> bytes:
    """The org's key, made by whoever comes first: the insert decides, and everybody reads its row."""
    keys = _keys.setdefault(kernel.db, {})
    if (known := keys.get(org)) is not None:
        return known
    sealed = await store.find_audit_key(kernel.db, org)
    if sealed is None:
        made = await kernel.vault.seal(org, _PLACE, os.urandom(32))
        sealed = await store.make_audit_key(kernel.db, org, made)
    opened = await kernel.vault.open(org, _PLACE, sealed)
    while len(keys) >= KEYS_MAX:
        del keys[next(iter(keys))]
    keys[org] = opened
    return opened


_keys: WeakKeyDictionary[object, dict[OrgId, bytes]] = WeakKeyDictionary()
