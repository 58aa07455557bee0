"""Provider credentials: sealed on the way in, opened where a send needs them, and never shown."""

import asyncio
from typing import Final
from uuid import UUID

import msgspec

from sendora.kernel.http import Principal
from sendora.kernel.ids import NIL, OrgId, ProjectId, new_id
from sendora.kernel.life import Kernel
from sendora.kernel.vault import SealBroken
from sendora.modules import orgs
from sendora.modules.push import webpush
from sendora.modules.push.model.providers import Apns, Credential, Fcm, Provider, Vapid, shown
from sendora.modules.push.store import providers as store

TYPES: Final[dict[Provider, type[Apns] | type[Fcm] | type[Vapid]]] = {"apns": Apns, "fcm": Fcm, "vapid": Vapid}

EXAMINED_MAX: Final = 500
"""Rows of one page."""


async def put(kernel: Kernel, principal: Principal, secret: Apns | Fcm) -> None:
    """Store or replace; sends that run take it up within seconds, and tokens made with the old one are left behind."""
    provider: Provider = "apns" if isinstance(secret, Apns) else "fcm"
    org, id_, told = principal.org, new_id(), shown(secret)
    sealed = await kernel.vault.seal(org, identity(id_), msgspec.json.encode(secret))
    async with kernel.db.transaction() as connection:
        await store.put(connection, org, principal.project, provider, id_, sealed, told)
        await orgs.audit(connection, principal, "push_provider.stored", f"push_provider:{provider}", told)


async def remove(kernel: Kernel, principal: Principal, provider: Provider) -> bool:
    """Whether there was one."""
    async with kernel.db.transaction() as connection:
        if not await store.remove(connection, principal.org, principal.project, provider):
            return False
        await orgs.audit(connection, principal, "push_provider.removed", f"push_provider:{provider}")
    return True


async def find(kernel: Kernel, org: OrgId, project: ProjectId, provider: Provider) -> Credential | None:
    row = await store.find(kernel.db, org, project, provider)
    if row is None:
        return None
    opened = await kernel.vault.open(org, identity(row.id), row.sealed)
    return Credential(org=org, id=row.id, secret=msgspec.json.decode(opened, type=TYPES[provider]))


async def is_configured(kernel: Kernel, org: OrgId, project: ProjectId, provider: Provider) -> bool:
    """Whether there is a credential; nothing is opened."""
    return await store.find(kernel.db, org, project, provider) is not None


async def vapid(kernel: Kernel, org: OrgId) -> Credential:
    """The org's key pair, made by whoever comes first (B090, C42): the insert decides, and everybody reads its row."""
    found = await find(kernel, org, store.EVERY_PROJECT, "vapid")
    if found is None:
        made, id_ = await asyncio.to_thread(webpush.generate), new_id()
        sealed = await kernel.vault.seal(org, identity(id_), msgspec.json.encode(made))
        await store.put_vapid(kernel.db, org, id_, sealed, shown(made))
        found = await find(kernel, org, store.EVERY_PROJECT, "vapid")
    if found is None:
        raise RuntimeError("the key pair that was just stored is gone")
    return found


async def examine_credentials(kernel: Kernel) -> tuple[int, list[str]]:
    """How many stored credentials open under the vault's keys, and the names of those that do not."""
    opened, broken = 0, list[str]()
    after: tuple[UUID, UUID, str] = (NIL, NIL, "")
    while rows := await store.page_of_all(kernel.db, after, EXAMINED_MAX):
        for org, project, provider, id_, sealed in rows:
            try:
                await kernel.vault.open(org, identity(id_), sealed)
            except SealBroken:
                broken.append(f"{provider} of project {project} of org {org}")
            else:
                opened += 1
        after = (rows[-1][0], rows[-1][1], rows[-1][2])
    return opened, broken


def identity(id_: UUID) -> str:
    """What a sealed credential is bound to (B022)."""
    return f"push_providers.sealed.{id_}"
