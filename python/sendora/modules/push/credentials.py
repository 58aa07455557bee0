"""Provider credentials: sealed on the way in, opened where a send needs them, and never shown."""

import asyncio
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec

from sendora.kernel.errors import Conflict
from sendora.kernel.http import Principal
from sendora.kernel.ids import NIL, OrgId, ProjectId, new_id
from sendora.kernel.life import Kernel
from sendora.kernel.vault import SealBroken
from sendora.modules import orgs
from sendora.modules.push import webpush
from sendora.modules.push.model.providers import (
    APPS_MAX,
    Apns,
    Credential,
    Credentials,
    Fcm,
    Provider,
    Stored,
    TooManyApps,
    Vapid,
    shown,
)
from sendora.modules.push.store import providers as store

TYPES: Final[dict[Provider, type[Apns] | type[Fcm] | type[Vapid]]] = {"apns": Apns, "fcm": Fcm, "vapid": Vapid}

EXAMINED_MAX: Final = 500
"""Rows of one page."""


async def put(kernel: Kernel, principal: Principal, app: str, secret: Apns | Fcm) -> None:
    """Store or replace the credential of an app, "" for the project's own; sends that run take it up within seconds,
    and tokens made with the old one are left behind. Raises Conflict for a bundle id that is another app's already, and
    for more than APPS_MAX apps."""
    provider: Provider = "apns" if isinstance(secret, Apns) else "fcm"
    org, project, id_, told = principal.org, principal.project, new_id(), shown(secret)
    sealed = await kernel.vault.seal(org, identity(id_), msgspec.json.encode(secret))
    async with kernel.db.transaction() as connection:
        if app:
            await store.lock(connection, project, provider)
            others = [one for one in await store.of_provider(connection, org, project, provider) if one.app]
            check_apart(app, secret.bundle_ids, others)
        row = Stored(app=app, id=id_, sealed=sealed, shown=told)
        await store.put(connection, org, project, provider, row)
        await orgs.audit(connection, principal, "push_provider.stored", _resource(provider, app), told)


def check_apart(app: str, bundles: Sequence[str], known: Sequence[Stored]) -> None:
    """That the app may have these bundle ids beside the apps that are known."""
    others = [one for one in known if one.app != app]
    if len(others) >= APPS_MAX:
        raise TooManyApps
    for other in others:
        if taken := set(bundles).intersection(other.bundle_ids):
            raise Conflict(f"{min(taken)} is a bundle id of the app {other.app}.", "bundle_id_taken")


async def remove(kernel: Kernel, principal: Principal, provider: Provider, app: str) -> bool:
    """Whether there was one."""
    async with kernel.db.transaction() as connection:
        if not await store.remove(connection, principal.org, principal.project, provider, app):
            return False
        await orgs.audit(connection, principal, "push_provider.removed", _resource(provider, app))
    return True


async def find(kernel: Kernel, org: OrgId, project: ProjectId, provider: Provider) -> Credentials:
    """The project's own and those of its apps, each opened where this process can."""
    listed: list[tuple[Credential, list[str]]] = []
    for row in await store.of_provider(kernel.db, org, project, provider):
        secret = None
        try:
            opened = await kernel.vault.open(org, identity(row.id), row.sealed)
            secret = msgspec.json.decode(opened, type=TYPES[provider])
        except SealBroken:
            said = {"org": str(org), "project": str(project), "provider": provider, "app": row.app}
            kernel.log.error("push.credential_sealed", **said)
        listed.append((Credential(org=org, id=row.id, app=row.app, secret=secret), row.bundle_ids))
    return Credentials(listed)


async def is_configured(kernel: Kernel, org: OrgId, project: ProjectId, provider: Provider) -> bool:
    """Whether there is a credential, be it of one app alone; nothing is opened."""
    return await store.exists(kernel.db, org, project, provider)


async def vapid(kernel: Kernel, org: OrgId) -> Credentials:
    """The org's key pair, made by whoever comes first (B090, C42): the insert decides, and everybody reads its row."""
    found = await find(kernel, org, store.EVERY_PROJECT, "vapid")
    if found.rest is None:
        made, id_ = await asyncio.to_thread(webpush.generate), new_id()
        sealed = await kernel.vault.seal(org, identity(id_), msgspec.json.encode(made))
        await store.put_vapid(kernel.db, org, id_, sealed, shown(made))
        found = await find(kernel, org, store.EVERY_PROJECT, "vapid")
    return found


async def examine_credentials(kernel: Kernel) -> tuple[int, list[str]]:
    """How many stored credentials open under the vault's keys, and the names of those that do not."""
    opened, broken = 0, list[str]()
    after: tuple[UUID, UUID, str, str] = (NIL, NIL, "", "")
    while rows := await store.page_of_all(kernel.db, after, EXAMINED_MAX):
        for org, project, provider, app, id_, sealed in rows:
            try:
                await kernel.vault.open(org, identity(id_), sealed)
            except SealBroken:
                of = f"app {app} of project" if app else "project"
                broken.append(f"{provider} of {of} {project} of org {org}")
            else:
                opened += 1
        after = rows[-1][:4]
    return opened, broken


def _resource(provider: Provider, app: str) -> str:
    """How the audit log names it."""
    return f"push_provider:{provider}/{app}" if app else f"push_provider:{provider}"


def identity(id_: UUID) -> str:
    """What a sealed credential is bound to (B022)."""
    return f"push_providers.sealed.{id_}"
