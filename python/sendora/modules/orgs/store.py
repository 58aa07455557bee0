"""Rows of orgs, projects, keys and the audit log, as structs."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any, Final

from asyncpg import Record

from sendora.kernel.http import Place
from sendora.kernel.ids import KeyId, OrgId, ProjectId, new_id
from sendora.kernel.pg import Connection, Database, queries
from sendora.kernel.wire import Listed, Page
from sendora.modules.orgs.model import (
    FIRST,
    KEYS_MAX,
    AuditEntry,
    Head,
    Kept,
    Key,
    Kind,
    OrgSettings,
    Plan,
    Role,
    Secret,
)

SQL: Final = queries(__file__)


async def insert_org(db: Database | Connection, org: OrgId, name: str, plan: Plan) -> None:
    await db.execute(SQL.insert_org, org, name, plan)


async def insert_project(db: Database | Connection, org: OrgId, project: ProjectId, name: str) -> None:
    await db.execute(SQL.insert_project, org, project, name)


async def has_project(db: Database | Connection, org: OrgId, project: ProjectId) -> bool:
    return await db.fetchrow(SQL.find_project, org, project) is not None


async def some_projects(db: Database | Connection, org: OrgId) -> list[ProjectId]:
    """Two at most."""
    return [ProjectId(row["id"]) for row in await db.fetch(SQL.some_projects, org)]


async def lock_orgs(connection: Connection, orgs: Iterable[OrgId]) -> dict[OrgId, Plan]:
    """Until the transaction ends; the plans of those that there are."""
    return {OrgId(row["org_id"]): row["plan"] for row in await connection.fetch(SQL.lock_orgs, list(orgs))}


async def insert_key(
    db: Database | Connection,
    org: OrgId,
    secret: Secret,
    *,
    project: ProjectId,
    kind: Kind,
    environment: str,
    scopes: Sequence[str],
    role: Role | None,
    name: str | None,
    per_second: int,
    burst: int,
    plan: Plan,
) -> Key:
    key = KeyId(new_id())
    created_at: datetime = await db.fetchval(
        SQL.insert_key,
        org,
        key,
        secret.prefix,
        secret.hash,
        name,
        kind,
        environment,
        project,
        list(scopes),
        role,
        per_second,
        burst,
    )
    return Key(
        org=org,
        id=key,
        prefix=secret.prefix,
        hash=secret.hash,
        name=name,
        kind=kind,
        environment=environment,
        project=project,
        scopes=frozenset(scopes),
        role=role,
        per_second=per_second,
        burst=burst,
        created_at=created_at,
        last_used_at=None,
        plan=plan,
    )


async def count_keys(connection: Connection, org: OrgId) -> int:
    counted: int = await connection.fetchval(SQL.count_keys, org)
    return counted


async def find_key(db: Database | Connection, prefix: str) -> Key | None:
    """The one look-up without an org: it is what tells the org."""
    row = await db.fetchrow(SQL.find_key, prefix)
    return None if row is None else _key(row)


async def list_keys(db: Database | Connection, org: OrgId) -> list[Key]:
    """Its own, then those that it has let in: together no more than KEYS_MAX."""
    own = await db.fetch(SQL.list_keys, org, KEYS_MAX)
    guests = await db.fetch(SQL.list_guests, org, KEYS_MAX)
    return [_key(row) for row in (*own, *guests)]


async def revoke_key(db: Database | Connection, org: OrgId, key: KeyId) -> str | None:
    """The prefix of the key that is dead from this commit on; None when there was none alive."""
    prefix: str | None = await db.fetchval(SQL.revoke_key, org, key)
    return prefix


async def insert_grant(db: Database | Connection, org: OrgId, key: KeyId, home: OrgId, project: ProjectId) -> None:
    await db.execute(SQL.insert_grant, org, key, home, project)


async def delete_grant(db: Database | Connection, org: OrgId, key: KeyId) -> tuple[OrgId, str] | None:
    """The home and the prefix of the key that ends in this org."""
    row = await db.fetchrow(SQL.delete_grant, org, key)
    return None if row is None else (OrgId(row["home_org_id"]), row["prefix"])


async def delete_grants(db: Database | Connection, home: OrgId, key: KeyId) -> list[OrgId]:
    """The orgs that had let it in."""
    return [OrgId(row["org_id"]) for row in await db.fetch(SQL.delete_grants, home, key)]


async def touch_key(db: Database | Connection, org: OrgId, key: KeyId) -> None:
    await db.execute(SQL.touch_key, org, key)


async def insert_audit(
    db: Database | Connection,
    org: OrgId,
    actor: str,
    action: str,
    resource: str,
    details: dict[str, Any],
    payload_size: int | None,
) -> None:
    await db.execute(SQL.insert_audit, org, new_id(), actor, action, resource, details, payload_size)


async def list_audit(
    db: Database | Connection, org: OrgId, resource: str | None, actor: str | None, page: Page
) -> Listed[AuditEntry]:
    rows = await db.fetch(SQL.list_audit, org, resource, actor, page.offset, page.size)
    total: int
    if resource is None and actor is None:
        total = await db.fetchval(SQL.audit_length, org)
    else:
        total = await db.fetchval(SQL.count_audit, org, resource, actor)
    return Listed(
        rows=[
            AuditEntry(
                id=row["id"],
                seq=row["seq"],
                at=row["at"],
                actor=row["actor"],
                action=row["action"],
                resource=row["resource"],
                details=row["details"],
                payload_size=row["payload_size"],
                hash=row["hash"].hex(),
            )
            for row in rows
        ],
        total=total,
    )


async def audit_heads(db: Database | Connection, after: OrgId, limit: int) -> list[Head]:
    """Of every org behind `after`, in their order; one that has written nothing has an empty chain."""
    return [
        Head(org=OrgId(row["org_id"]), seq=row["seq"], hash=row["hash"] or FIRST, newest=row["newest"])
        for row in await db.fetch(SQL.audit_heads, after, limit)
    ]


async def audit_chain(db: Database | Connection, org: OrgId, after: int, last: int, limit: int) -> list[Kept]:
    return [
        Kept(
            org=org,
            seq=row["seq"],
            id=row["id"],
            at=row["at"],
            actor=row["actor"],
            action=row["action"],
            resource=row["resource"],
            payload_size=row["payload_size"],
            details=row["details"],
            hash=row["hash"],
        )
        for row in await db.fetch(SQL.audit_chain, org, after, last, limit)
    ]


async def find_audit_key(db: Database | Connection, org: OrgId) -> bytes | None:
    sealed: bytes | None = await db.fetchval(SQL.find_audit_key, org)
    return sealed


async def make_audit_key(db: Database | Connection, org: OrgId, sealed: bytes) -> bytes:
    """Whose is kept: this one, or that of a process that was first."""
    await db.execute(SQL.insert_audit_key, org, sealed)
    kept: bytes = await db.fetchval(SQL.find_audit_key, org)
    return kept


async def settings_of(db: Database | Connection, org: OrgId) -> OrgSettings:
    return OrgSettings(ai_lifecycle_classifier_enabled=await db.fetchval(SQL.find_settings, org))


async def classifier_orgs(db: Database | Connection) -> list[OrgId]:
    """Sixteen bytes for each org that there is, at most."""
    return [OrgId(row["org_id"]) for row in await db.fetch(SQL.classifier_orgs)]


async def set_classifier(db: Database | Connection, org: OrgId, enabled: bool) -> None:
    await db.execute(SQL.set_classifier, org, enabled)


async def find_ai_key(db: Database | Connection, org: OrgId) -> bytes | None:
    sealed: bytes | None = await db.fetchval(SQL.find_ai_key, org)
    return sealed


async def set_ai_key(db: Database | Connection, org: OrgId, sealed: bytes | None) -> None:
    await db.execute(SQL.set_ai_key, org, sealed)


async def ai_tokens_used(db: Database | Connection, org: OrgId, day: date) -> int:
    used: int = await db.fetchval(SQL.ai_tokens_used, org, day)
    return used


async def count_ai_tokens(db: Database | Connection, org: OrgId, day: date, tokens: int) -> int:
    used: int = await db.fetchval(SQL.count_ai_tokens, org, day, tokens)
    return used


async def events_used(db: Database | Connection, org: OrgId, month: date) -> int:
    used: int = await db.fetchval(SQL.events_used, org, month)
    return used


def _key(row: Record) -> Key:
    return Key(
        org=OrgId(row["org_id"]),
        id=KeyId(row["id"]),
        prefix=row["prefix"],
        hash=row["hash"],
        name=row["name"],
        kind=row["kind"],
        environment=row["environment"],
        project=ProjectId(row["project_id"]),
        scopes=frozenset(row["scopes"]),
        role=row["role"],
        per_second=row["rate_per_second"],
        burst=row["rate_burst"],
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
        plan=row["plan"],
        reach=_reach(row),
    )


def _reach(row: Record) -> dict[OrgId, Place]:
    if not row["orgs"]:
        return {}
    home = {OrgId(row["org_id"]): Place(ProjectId(row["project_id"]), row["plan"])}
    return home | {
        OrgId(org): Place(ProjectId(project), plan)
        for org, project, plan in zip(row["orgs"], row["projects"], row["plans"], strict=True)
    }
