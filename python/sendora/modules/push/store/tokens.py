"""Devices."""

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
from asyncpg import Record

from sendora import _core
from sendora.kernel.clock import iso
from sendora.kernel.errors import Unavailable
from sendora.kernel.ids import OrgId, ProjectId, TokenId, new_id
from sendora.kernel.pg import Connection, Database, queries
from sendora.kernel.wire import Listed, Page
from sendora.modules.push.model.tokens import Registration, TokenShown

SQL: Final = queries(__file__, "tokens.sql")

RAW: Final = "raw"
"""`retired_reason` of a row that only a raw send has made (B095)."""

LOGOUT: Final = "logout"
"""`retired_reason` of a device that was signed out (B086)."""

REPLACED: Final = "replaced"
"""`retired_reason` of a token whose device has registered a newer one."""

UNPRESERVED: Final = (RAW, REPLACED)
"""Reasons that a registration undoes by itself: neither is anybody's wish, nor a provider's word."""

ROUNDS_MAX: Final = 5
"""A row that another process inserts between our look and our insert is found in the next round; more rounds than this
would mean that somebody inserts and deletes it all the time."""

COLLECT_MAX: Final = 10_000
"""Rows of one bite of the collection: a transaction of well below a second."""


class Registering(msgspec.Struct, frozen=True, kw_only=True):
    """A registration and whose it is."""

    org: OrgId
    project: ProjectId
    said: Registration

    @property
    def key(self) -> tuple[OrgId, str]:
        return self.org, self.said.token


async def upsert(db: Database, wanted: Sequence[Registering]) -> list[TokenShown]:
    """Register a batch (B082, B083, C36), the answers in its order. Of two registrations of one token, or of one
    device, the later one meets the row that the earlier one left. A device that says who it is has one active token
    from then on; for one that does not, an older token stays until a provider calls it dead (B085)."""
    answers: list[TokenShown | None] = [None] * len(wanted)
    for wave in _waves(wanted):
        async with db.transaction() as connection:
            rows = await _upsert_wave(connection, [wanted[index] for index in wave])
        for index in wave:
            answers[index] = rows[wanted[index].key]
        devices = {
            (one.org, one.project, row.device_id, row.platform)
            for one in (wanted[index] for index in wave)
            if (row := rows[one.key]).device_id is not None and row.is_active
        }
        if devices:
            await db.execute(SQL.supersede, *(list(column) for column in zip(*sorted(devices), strict=True)), REPLACED)
    return [answer for answer in answers if answer is not None]


async def deactivate(db: Database | Connection, org: OrgId, project: ProjectId, token: TokenId) -> bool:
    """B086."""
    return await db.fetchval(SQL.deactivate, org, project, token, LOGOUT, RAW) is not None


async def find(db: Database | Connection, org: OrgId, project: ProjectId, token: TokenId) -> TokenShown | None:
    """A device that was registered, by the row's id."""
    row = await db.fetchrow(SQL.find, org, project, token, RAW)
    return None if row is None else shown(row)


async def listed(
    db: Database | Connection,
    org: OrgId,
    project: ProjectId,
    users: Sequence[str] | None,
    is_active: bool | None,
    page: Page,
) -> Listed[TokenShown]:
    rows = await db.fetch(SQL.listed, org, project, users, is_active, page.offset, page.size, RAW)
    total = rows[0]["total"] if rows else await db.fetchval(SQL.counted, org, project, users, is_active, RAW)
    return Listed([shown(row) for row in rows], total)


async def has_web(db: Database | Connection, org: OrgId, project: ProjectId) -> bool:
    found: bool = await db.fetchval(SQL.has_web, org, project)
    return found


async def collect(db: Database | Connection, grace_days: int) -> int:
    """How many rows were deleted; call again while it is COLLECT_MAX."""
    return int((await db.execute(SQL.collect, grace_days, COLLECT_MAX)).rpartition(" ")[2])


async def forget(db: Database | Connection, org: OrgId, project: ProjectId, user_id: str) -> list[UUID]:
    return [row["id"] for row in await db.fetch(SQL.forget, org, project, user_id)]


async def of_person(db: Database | Connection, org: OrgId, project: ProjectId, user_id: str) -> list[TokenShown]:
    return [shown(row) for row in await db.fetch(SQL.of_person, org, project, user_id)]


async def of_names(db: Database | Connection, org: OrgId, project: ProjectId, names: Sequence[str]) -> dict[UUID, bool]:
    """The devices of a person who has, or had, these names, and whether each is active."""
    return {row["id"]: row["is_active"] for row in await db.fetch(SQL.of_names, org, project, list(names))}


def shown(row: Record) -> TokenShown:
    return TokenShown(
        id=row["id"],
        token=row["token"],
        user_id=row["user_id"],
        platform=row["platform"],
        is_active=row["is_active"],
        locale=row["locale"],
        timezone=row["timezone"],
        app_version=row["app_version"],
        environment=row["environment"],
        bundle_id=row["bundle_id"],
        device_id=row["device_id"],
        registered_at=iso(row["registered_at"]),
    )


def shards(project: ProjectId, persons: Sequence[str]) -> bytes:
    """The shard of each person, or of each address without one by its own id."""
    return _core.shards(project.bytes, persons)


def _waves(wanted: Sequence[Registering]) -> list[list[int]]:
    """Indexes in waves: what is said again of a token or of a device is in a later wave."""
    waves: list[list[int]] = []
    seen: dict[tuple[Any, ...], int] = {}
    for index, one in enumerate(wanted):
        names = [one.key] if one.said.device_id is None else [one.key, (one.org, one.project, one.said.device_id)]
        nth = max(seen.get(name, 0) for name in names)
        seen |= dict.fromkeys(names, nth + 1)
        if nth == len(waves):
            waves.append([])
        waves[nth].append(index)
    return waves


async def _upsert_wave(connection: Connection, wave: Sequence[Registering]) -> dict[tuple[OrgId, str], TokenShown]:
    done: dict[tuple[OrgId, str], TokenShown] = {}
    for _ in range(ROUNDS_MAX):
        missing = [one for one in wave if one.key not in done]
        if not missing:
            return done
        for row in await connection.fetch(SQL.upsert, *_columns(missing), UNPRESERVED):
            done[OrgId(row["org_id"]), row["token"]] = shown(row)
    if len(done) < len(wave):
        raise Unavailable
    return done


def _columns(batch: Sequence[Registering]) -> list[list[Any]]:
    ids = [new_id() for _ in batch]
    placed = _placed(batch, ids)
    said = [one.said for one in batch]
    return [
        [one.org for one in batch],
        ids,
        [one.project for one in batch],
        [one.token for one in said],
        [one.platform for one in said],
        [one.keys.p256dh if one.keys else None for one in said],
        [one.keys.auth if one.keys else None for one in said],
        [one.user_id for one in said],
        placed,
        [one.locale for one in said],
        [one.timezone for one in said],
        [one.app_version for one in said],
        [one.environment for one in said],
        [one.bundle_id for one in said],
        [one.reactivate for one in said],
        [one.device_id for one in said],
    ]


def _placed(batch: Sequence[Registering], ids: Sequence[UUID]) -> list[int]:
    """The library hashes the persons of one project at a time."""
    by_project: dict[ProjectId, list[int]] = {}
    for index, one in enumerate(batch):
        by_project.setdefault(one.project, []).append(index)
    placed = [0] * len(batch)
    for project, indexes in by_project.items():
        persons = [batch[index].said.user_id or str(ids[index]) for index in indexes]
        for index, shard in zip(indexes, shards(project, persons), strict=True):
            placed[index] = shard
    return placed
