"""From the text of an API key to who is asking, without a look-up for every request.

A proven key is known for 30 seconds, then it is looked up again; after 20 it is looked up behind the back of the
request that finds it so, and a slow database slows no ingest (F-P4). A revocation is told to every process by
`wake.keys`, which empties the ring; the 30 seconds are for the message that gets lost. While PostgreSQL is away no key
can be revoked either, so what was proven before is taken for GRACE_S more, and ingest goes on (it needs the log alone).
What was not found is remembered as well: a wrong key in a loop costs no look-ups.
"""

import asyncio
from hmac import compare_digest
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

from sendora.kernel import pg
from sendora.kernel.http import Principal
from sendora.kernel.life import Kernel
from sendora.modules.orgs import store
from sendora.modules.orgs.model import Key, digest, prefix_of

FRESH_S: Final = 30.0
"""How long a revoked key may live when its wake is lost (reliability.md 3.3)."""

RENEW_S: Final = 20.0
"""Leaves a database that takes ten seconds for a look-up the time for it."""

GRACE_S: Final = 300.0
"""A restart or failover of PostgreSQL fits in, and a key revoked just before it, whose wake got lost, soon dies."""

PROVEN_MAX: Final = 20_000
"""Keys of a process, some 600 bytes each: 12 MB. The oldest goes first."""

UNKNOWN_MAX: Final = 10_000
"""Kept apart, so that made-up keys cannot push out proven ones."""

TEXT_MAX: Final = 80
"""The longest key has 71 characters."""

WAKE: Final = "wake.keys"

K = TypeVar("K")
T = TypeVar("T")


class Ring:
    """The keys that one process knows."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        # By the key's own text, which every request brings into memory anyway: a hash for each of them would be the
        # dearest part of a hit. What is not proven is kept by its hash alone.
        self._proven: dict[str, tuple[Principal, float]] = {}
        self._unknown: dict[bytes, float] = {}
        self._asking: dict[bytes, asyncio.Task[Principal | None]] = {}
        self._generation = 0

    async def prove(self, text: str) -> Principal | None:
        if len(text) > TEXT_MAX:
            return None
        if (recent := self.recall(text)) is not None:
            return recent
        hashed = digest(text)
        now = self._kernel.clock.monotonic()
        known = self._proven.get(text)
        if (prefix := prefix_of(text)) is None:
            return None
        if known is not None:
            principal, since = known
            age = now - since
            if age < FRESH_S:
                self._ask(text, prefix, hashed)
                return principal
            try:
                return await asyncio.shield(self._ask(text, prefix, hashed))
            except Exception as error:
                if pg.is_away(error) and age < GRACE_S:
                    return principal
                raise
        since_unknown = self._unknown.get(hashed)
        if since_unknown is not None and now - since_unknown < FRESH_S:
            return None
        return await asyncio.shield(self._ask(text, prefix, hashed))

    def recall(self, text: str) -> Principal | None:
        """The holder of a key that was proven a moment ago: no hash, no await. None: ask `prove`."""
        known = self._proven.get(text)
        if known is not None and self._kernel.clock.monotonic() - known[1] < RENEW_S:
            return known[0]
        return None

    def forget(self) -> None:
        """Empties the ring; what is being looked up right now will not be remembered."""
        self._generation += 1
        self._proven.clear()
        self._unknown.clear()
        self._asking.clear()

    def _ask(self, text: str, prefix: str, hashed: bytes) -> asyncio.Task[Principal | None]:
        """The one look-up under way for a key; a thousand requests that miss at once share it."""
        if (asking := self._asking.get(hashed)) is None:
            asking = asyncio.create_task(self._look_up(text, prefix, hashed), name="keyring")
            self._asking[hashed] = asking
            asking.add_done_callback(lambda task: self._asked(hashed, task))
        return asking

    def _asked(self, hashed: bytes, task: asyncio.Task[Principal | None]) -> None:
        if self._asking.get(hashed) is task:
            del self._asking[hashed]
        if not task.cancelled() and (error := task.exception()) is not None:
            # Whoever waits for the task sees the error itself; a renewal has nobody waiting.
            self._kernel.log.warning("key_look_up_failed", error=repr(error))

    async def _look_up(self, text: str, prefix: str, hashed: bytes) -> Principal | None:
        generation = self._generation
        key = await store.find_key(self._kernel.db, prefix)
        proven = key is not None and compare_digest(key.hash, hashed)
        self._kernel.metrics.count("key_lookups", result="proven" if proven else "unknown")
        now = self._kernel.clock.monotonic()
        if generation == self._generation:
            self._proven.pop(text, None)
            self._unknown.pop(hashed, None)
            if key is not None and proven:
                _bound(self._proven, PROVEN_MAX)
                self._proven[text] = (principal_of(key), now)
            else:
                _bound(self._unknown, UNKNOWN_MAX)
                self._unknown[hashed] = now
        if key is None or not proven:
            return None
        await self._touch(key)
        return principal_of(key)

    async def _touch(self, key: Key) -> None:
        """`lastUsedAt` moves with the look-ups, so a busy key costs a write a minute; nobody is refused over it."""
        try:
            await store.touch_key(self._kernel.db, key.org, key.id)
        except Exception as error:
            if not pg.is_away(error):
                raise


def principal_of(key: Key) -> Principal:
    return Principal(
        org=key.org,
        project=key.project,
        key_id=key.id,
        prefix=key.prefix,
        kind=key.kind,
        environment=key.environment,
        scopes=key.scopes,
        role=key.role,
        plan=key.plan,
        per_second=key.per_second,
        burst=key.burst,
        reach=key.reach,
    )


def ring_of(kernel: Kernel) -> Ring:
    """The ring of this kernel, which is one for each process (tests open several)."""
    ring = _rings.get(kernel.bus)
    if ring is None:
        ring = _rings[kernel.bus] = Ring(kernel)
        kernel.bus.on_wake(WAKE, lambda _: ring.forget())
    return ring


async def authenticate(kernel: Kernel, key: str) -> Principal | None:
    """Who holds this key; None for a key that is unknown, mistyped or revoked (B025). Raises Unavailable."""
    return await ring_of(kernel).prove(key)


_rings: WeakKeyDictionary[object, Ring] = WeakKeyDictionary()


def _bound(entries: dict[K, T], most: int) -> None:
    while len(entries) >= most:
        del entries[next(iter(entries))]
