"""Credentials and the provider tokens made with them, both sealed."""

from typing import Any, Final
from uuid import UUID

import msgspec
from asyncpg import Record

from sendora.kernel.clock import iso
from sendora.kernel.ids import NIL, OrgId, ProjectId
from sendora.kernel.pg import Connection, Database, queries
from sendora.modules.push.model.providers import (
    ApnsShown,
    AppProviders,
    FcmShown,
    Provider,
    Providers,
    Stored,
    VapidShown,
)

SQL: Final = queries(__file__, "providers.sql")

EVERY_PROJECT: Final = ProjectId(NIL)
"""Under which an org's VAPID key pair is kept: browsers subscribe to the org's key, whatever their project (B090)."""


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `push_grants`, locked; ages are PostgreSQL's."""

    sealed: bytes | None
    age_s: float
    left_s: float
    now_s: float


async def lock(connection: Connection, project: ProjectId, provider: Provider) -> None:
    """In a transaction: nobody else writes a credential of this project and provider until it ends."""
    await connection.execute(SQL.lock, project, provider)


async def put(connection: Connection, org: OrgId, project: ProjectId, provider: Provider, row: Stored) -> None:
    await connection.execute(SQL.put, org, project, provider, row.app, row.id, row.sealed, row.shown)


async def put_vapid(db: Database | Connection, org: OrgId, id_: UUID, sealed: bytes, shown: dict[str, Any]) -> None:
    """Does nothing when another call was first (C42)."""
    await db.execute(SQL.put_once, org, EVERY_PROJECT, "vapid", id_, sealed, shown)


async def of_provider(db: Database | Connection, org: OrgId, project: ProjectId, provider: Provider) -> list[Stored]:
    """The project's own, and those of its apps."""
    rows = await db.fetch(SQL.of_provider, org, EVERY_PROJECT if provider == "vapid" else project, provider)
    return [Stored(app=row["app"], id=row["id"], sealed=row["sealed"], shown=row["shown"]) for row in rows]


async def exists(db: Database | Connection, org: OrgId, project: ProjectId, provider: Provider) -> bool:
    found: bool = await db.fetchval(SQL.exists, org, project, provider)
    return found


async def listed(db: Database | Connection, org: OrgId, project: ProjectId) -> Providers:
    rows = await db.fetch(SQL.shown, org, project, EVERY_PROJECT)
    shown = {(row["app"], row["provider"]): {**row["shown"], "configuredAt": iso(row["configured_at"])} for row in rows}

    def of(app: str) -> tuple[ApnsShown | None, FcmShown | None]:
        apns, fcm = shown.get((app, "apns")), shown.get((app, "fcm"))
        return (
            None if apns is None else msgspec.convert(apns, ApnsShown),
            None if fcm is None else msgspec.convert(fcm, FcmShown),
        )

    (apns, fcm), vapid = of(""), shown.get(("", "vapid"))
    apps = dict.fromkeys(row["app"] for row in rows if row["app"])
    return Providers(
        apns=apns,
        fcm=fcm,
        vapid=None if vapid is None else msgspec.convert(vapid, VapidShown),
        apps=[AppProviders(app, *of(app)) for app in apps],
    )


async def page_of_all(
    db: Database | Connection, after: tuple[UUID, UUID, str, str], limit: int
) -> list[tuple[OrgId, ProjectId, str, str, UUID, bytes]]:
    """The one look over all orgs: whether their credentials can still be opened is the operator's question."""
    return [
        (OrgId(row["org_id"]), ProjectId(row["project_id"]), row["provider"], row["app"], row["id"], row["sealed"])
        for row in await db.fetch(SQL.page_of_all, *after, limit)
    ]


async def remove(connection: Connection, org: OrgId, project: ProjectId, provider: Provider, app: str) -> bool:
    """In a transaction: its provider tokens go with it."""
    of = EVERY_PROJECT if provider == "vapid" else project
    id_ = await connection.fetchval(SQL.remove, org, of, provider, app)
    if id_ is not None:
        await connection.execute(SQL.remove_grant, org, id_)
    return id_ is not None


async def has_any(db: Database | Connection, org: OrgId, project: ProjectId) -> bool:
    """Whether APNs or FCM is configured (C43)."""
    found: bool = await db.fetchval(SQL.has_any, org, project)
    return found


async def make_grant(db: Database | Connection, org: OrgId, provider_id: UUID) -> None:
    await db.execute(SQL.make_grant, org, provider_id)


async def find_grant(db: Database | Connection, org: OrgId, provider_id: UUID) -> Grant | None:
    row = await db.fetchrow(SQL.find_grant, org, provider_id)
    return None if row is None else _grant(row)


async def lock_grant(connection: Connection, org: OrgId, provider_id: UUID) -> Grant:
    row = await connection.fetchrow(SQL.lock_grant, org, provider_id)
    if row is None:
        raise LookupError(provider_id)
    return _grant(row)


def _grant(row: Record) -> Grant:
    return Grant(
        sealed=row["sealed"],
        age_s=row["age_s"] if row["age_s"] is not None else 0.0,
        left_s=row["left_s"] if row["left_s"] is not None else 0.0,
        now_s=row["now_s"],
    )


async def store_grant(connection: Connection, org: OrgId, provider_id: UUID, sealed: bytes, life_s: float) -> None:
    await connection.execute(SQL.store_grant, org, provider_id, sealed, life_s)
