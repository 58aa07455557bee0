"""Leases: one holder at a time, by PostgreSQL's clock, with an epoch that rises with every taking.

A lease can be lost without its holder noticing (a paused process, a cut network), so holding is only a hint; what makes
two holders harmless is the epoch: writes made under a lease check it in their own transaction (`guard`).
"""

import time
from typing import Final

from sendora.kernel.pg.database import Connection, Database

SECONDS: Final = 10.0
"""Long enough for a slow commit between renewals, short enough that the work of a dead process goes on soon."""

SAFETY_S: Final = 1.0
"""`held` says no this long before the server would: clocks tick differently, and what was begun must end in time."""

_ACQUIRE: Final = """
INSERT INTO leases AS l (name, holder, epoch, lease_until)
VALUES ($1, $2, 1, clock_timestamp() + make_interval(secs => $3))
ON CONFLICT (name) DO UPDATE
SET holder = excluded.holder, epoch = l.epoch + 1, lease_until = excluded.lease_until
WHERE l.lease_until < clock_timestamp() OR l.holder = excluded.holder
RETURNING epoch
"""

# Nobody took it meanwhile as long as the epoch stands, so a lease that ran out may still be renewed.
_RENEW: Final = """
UPDATE leases SET lease_until = clock_timestamp() + make_interval(secs => $4)
WHERE name = $1 AND holder = $2 AND epoch = $3
RETURNING true
"""

_RELEASE: Final = """
UPDATE leases SET lease_until = '-infinity' WHERE name = $1 AND holder = $2 AND epoch = $3
"""

_GUARD: Final = "SELECT true FROM leases WHERE name = $1 AND epoch = $2 FOR SHARE"


class LeaseLost(Exception):
    """Another holder has taken the lease; nothing may be written under the old epoch."""


class Lease:
    """One name. `holder` is unique to the process, so that taking a lease one holds only raises the epoch."""

    def __init__(self, db: Database, name: str, holder: str, seconds: float = SECONDS) -> None:
        self.name = name
        self.holder = holder
        self.epoch: int | None = None
        self._db = db
        self._seconds = seconds
        self._until = 0.0

    @property
    def held(self) -> bool:
        """Whether the lease is ours as far as this process's clock can tell."""
        return self.epoch is not None and time.monotonic() < self._until

    async def acquire(self) -> int | None:
        """Take it if it is free; the epoch, or None when somebody else holds it."""
        asked = time.monotonic()
        epoch: int | None = await self._db.fetchval(_ACQUIRE, self.name, self.holder, self._seconds)
        self.epoch = epoch
        self._until = asked + self._seconds - SAFETY_S
        return epoch

    async def renew(self) -> bool:
        """Hold it for another while; False when it is lost."""
        if self.epoch is None:
            return False
        asked = time.monotonic()
        if await self._db.fetchval(_RENEW, self.name, self.holder, self.epoch, self._seconds) is None:
            self.epoch = None
            return False
        self._until = asked + self._seconds - SAFETY_S
        return True

    async def release(self) -> None:
        """Give it up at once, so that the next holder need not wait; harmless when it is lost."""
        if self.epoch is not None:
            epoch, self.epoch = self.epoch, None
            await self._db.execute(_RELEASE, self.name, self.holder, epoch)

    async def guard(self, connection: Connection) -> None:
        """Inside a transaction: raise LeaseLost unless the epoch still stands, and keep it until the commit."""
        if self.epoch is None or await connection.fetchval(_GUARD, self.name, self.epoch) is None:
            raise LeaseLost(self.name)
