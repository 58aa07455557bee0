"""Making orgs, projects and keys, and keeping the record of who did what.

Every change of a key is one transaction with its line in the audit log, and is told to all processes when it has been
committed. The first org of an installation has nobody to ask for it: `bootstrap` is for the operator's command line.
"""

import msgspec

from sendora.kernel.config import Limits, Settings
from sendora.kernel.errors import NotFound
from sendora.kernel.http import Principal, require_tier
from sendora.kernel.ids import KeyId, OrgId, ProjectId, new_id
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Connection, Database
from sendora.kernel.wire import UNSET
from sendora.modules.orgs import store
from sendora.modules.orgs.auditing import OPERATOR, audit, audit_as
from sendora.modules.orgs.grants import further, let_in, make_room
from sendora.modules.orgs.model import (
    PUBLIC_SCOPES,
    SECRET_SCOPES,
    KeyMinted,
    Kind,
    MintKey,
    OrgSettingsPatch,
    Plan,
    RateLimit,
    Role,
    check_mint,
    mint,
    role_for,
    scopes_for,
    show,
)


class Bootstrapped(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What `sendora bootstrap` prints: the only time that the keys are seen."""

    org: OrgId
    project: ProjectId
    public_key: str
    secret_key: str


async def bootstrap(
    settings: Settings, name: str, plan: Plan, project: str, rate_limit: RateLimit | None
) -> Bootstrapped:
    """An org, a project and a key of each kind, for an operator who has the database and no key yet (C51)."""
    db = await Database.open(settings.postgres)
    try:
        async with db.transaction() as connection:
            org = await create_org(connection, name, plan)
            project_id = await create_project(connection, org, project)
            limit = rate_limit or default_limit(settings.limits)
            public_key = await create_key(connection, org, project_id, kind="pk", limit=limit, plan=plan)
            secret_key = await create_key(connection, org, project_id, kind="sk", limit=limit, plan=plan)
            await audit_as(connection, org, OPERATOR, "org.created", f"org:{org}", {"name": name, "plan": plan})
    finally:
        await db.close()
    return Bootstrapped(org=org, project=project_id, public_key=public_key.key, secret_key=secret_key.key)


async def create_org(db: Database | Connection, name: str, plan: Plan) -> OrgId:
    org = OrgId(new_id())
    await store.insert_org(db, org, name, plan)
    return org


async def create_project(db: Database | Connection, org: OrgId, name: str) -> ProjectId:
    project = ProjectId(new_id())
    await store.insert_project(db, org, project, name)
    return project


async def create_key(
    db: Database | Connection,
    org: OrgId,
    project: ProjectId,
    *,
    kind: Kind,
    limit: RateLimit,
    plan: Plan,
    environment: str = "prod",
    scopes: tuple[str, ...] | None = None,
    role: Role | None = None,
    name: str | None = None,
) -> KeyMinted:
    """A key of the kind's full default unless `scopes` says otherwise; asks nobody whether it may be made."""
    if scopes is None:
        scopes, role = (SECRET_SCOPES, role or "ADMIN") if kind == "sk" else (PUBLIC_SCOPES, None)
    secret = mint(kind, environment)
    key = await store.insert_key(
        db,
        org,
        secret,
        project=project,
        kind=kind,
        environment=environment,
        scopes=scopes,
        role=role,
        name=name,
        per_second=limit.per_second,
        burst=limit.burst,
        plan=plan,
    )
    return KeyMinted(**msgspec.structs.asdict(show(key, org)), key=secret.text)


async def mint_key(kernel: Kernel, principal: Principal, body: MintKey) -> KeyMinted:
    """`POST /api-keys`, in the order of C87: body, its tier (B041), what it refers to (grants.py on `orgs`)."""
    check_mint(body)
    scopes = scopes_for(body.type, body.scopes, principal.scopes)
    if body.rate_limit is not UNSET:
        require_tier(principal, "business")
    project = principal.project if body.project_id is UNSET else ProjectId(body.project_id)
    async with kernel.db.transaction() as connection:
        places = await further(connection, principal, body.orgs)
        await store.lock_orgs(connection, [principal.org, *places])
        if not await store.has_project(connection, principal.org, project):
            raise NotFound("Project")
        await make_room(connection, principal.org)
        minted = await create_key(
            connection,
            principal.org,
            project,
            kind=body.type,
            environment=body.environment,
            scopes=scopes,
            role=role_for(body),
            name=None if body.name is UNSET else body.name,
            limit=default_limit(kernel.settings.limits) if body.rate_limit is UNSET else body.rate_limit,
            plan=principal.plan,
        )
        await let_in(connection, KeyId(minted.id), principal.org, places)
        minted = msgspec.structs.replace(minted, orgs=list(places))
        details = {"prefix": minted.prefix, "scopes": minted.scopes, "orgs": [str(org) for org in places]}
        for org in sorted((principal.org, *places)):
            action = "key.minted" if org == principal.org else "key.granted"
            await audit(connection, msgspec.structs.replace(principal, org=org), action, f"key:{minted.id}", details)
    return minted


async def change_settings(kernel: Kernel, principal: Principal, body: OrgSettingsPatch) -> None:
    """`PATCH /settings`."""
    enabled = body.ai_lifecycle_classifier_enabled
    if enabled is UNSET:
        return
    async with kernel.db.transaction() as connection:
        await store.set_classifier(connection, principal.org, enabled)
        details = {"ai_lifecycle_classifier_enabled": enabled}
        await audit(connection, principal, "settings.changed", "settings:org", details)


async def with_classifier(kernel: Kernel) -> list[OrgId]:
    """The orgs that have switched `ai_lifecycle_classifier_enabled` on (B064)."""
    return await store.classifier_orgs(kernel.db)


def default_limit(limits: Limits) -> RateLimit:
    return RateLimit(per_second=limits.per_second, burst=limits.burst)
