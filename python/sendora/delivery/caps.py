"""Frequency caps of the shards that this worker holds, read back from the ledger (B111, B112, C37).

A shard has one owner, so its caps live in the owner's memory: nothing is asked of a shared server for each recipient,
and nothing is lost with one (F-R2). They are read when a shard's first capped chunk of a tenant comes, and dropped
with the lease: the epoch keeps the former owner from recording anything that was not read.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from sendora import _core
from sendora.delivery import store
from sendora.kernel.clock import millis
from sendora.kernel.ids import OrgId
from sendora.kernel.life import Kernel
from sendora.kernel.pg import copy_out

WINDOW_MS: Final = 24 * 3_600_000
"""The longest cap is a day."""

IDLE_S: Final = 600.0
"""Caps that no chunk asked for in so long are forgotten; the ledger has them."""

TRIM_S: Final = 300.0
"""How often what has left the window is dropped from memory."""


class Entry(msgspec.Struct):
    caps: _core.Caps
    epoch: int
    used_at: float
    trimmed_at: float


class CapsBook:
    """`Caps` by (org, shard)."""

    def __init__(self, kernel: Kernel, clock: Callable[[], float]) -> None:
        self._kernel = kernel
        self._clock = clock
        self._entries: dict[tuple[OrgId, int], Entry] = {}
        self._loading: dict[tuple[OrgId, int], asyncio.Lock] = {}

    async def of(self, org: OrgId, shard: int, epoch: int) -> _core.Caps:
        """The caps under this epoch of the shard, loaded if they are not there. Whoever passes a decision is counted at
        once, so chunks that are decided side by side see each other."""
        key = org, shard
        lock = self._loading.setdefault(key, asyncio.Lock())
        async with lock:
            entry = self._entries.get(key)
            now = self._clock()
            if entry is None or entry.epoch != epoch:
                caps = _core.Caps()
                async with self._kernel.db.acquire() as connection:
                    await copy_out(connection, store.SQL.caps, org, shard, sink=caps.load)
                entry = self._entries[key] = Entry(caps, epoch, now, now)
            entry.used_at = now
        if now - entry.trimmed_at > TRIM_S:
            entry.trimmed_at = now
            entry.caps.forget_before(millis(self._kernel.clock.now()) - WINDOW_MS)
        return entry.caps

    def drop(self, shards: Iterable[int]) -> None:
        gone = set(shards)
        self._entries = {key: entry for key, entry in self._entries.items() if key[1] not in gone}
        self._forget_locks()

    def forget_idle(self) -> None:
        now = self._clock()
        self._entries = {key: entry for key, entry in self._entries.items() if now - entry.used_at < IDLE_S}
        self._forget_locks()

    def _forget_locks(self) -> None:
        self._loading = {key: lock for key, lock in self._loading.items() if lock.locked() or key in self._entries}
