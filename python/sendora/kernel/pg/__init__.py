"""PostgreSQL, the truth: pool, named SQL, binary COPY, migrations, monthly partitions, leases.

Rooms write SQL in their own `queries.sql` and call it through these few functions; no ORM stands between. Bulk goes in
and out by binary COPY that the library builds and reads. What must be decided by one clock (leases) is decided by
PostgreSQL's.
"""

from sendora.kernel.pg.bulk import copy_in, copy_out
from sendora.kernel.pg.database import Connection, Database, connect, is_away
from sendora.kernel.pg.leases import Lease, LeaseLost
from sendora.kernel.pg.migrations import MigrationError, migrate, pending
from sendora.kernel.pg.partitions import begin_drop, drop_partition, key_range, month_of, month_start, months, partition
from sendora.kernel.pg.queries import Queries, queries

__all__ = [
    "Connection",
    "Database",
    "Lease",
    "LeaseLost",
    "MigrationError",
    "Queries",
    "begin_drop",
    "connect",
    "copy_in",
    "copy_out",
    "drop_partition",
    "is_away",
    "key_range",
    "migrate",
    "month_of",
    "month_start",
    "months",
    "partition",
    "pending",
    "queries",
]
