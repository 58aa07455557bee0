"""Letting a secret key of one org act in others (C98), and who may.

It takes both orgs' word. A key that acts in several orgs already is an administrator's of each of them, so it may mint
another one like it (`orgs` of POST /api-keys), as far as it reaches itself and no further. The first such key of an
installation has nobody to ask: the operator, who has the database, lets it in (`sendora keys grant`). Any administrator
of an org that let a key in sees it in the list of its keys, and shows it the door with DELETE /api-keys/{id}: there it
ends, and in its own org and all others it goes on. Revoked by its own org it ends everywhere.

In each org the key has one project, and requests need not name it: the one that the minting key acts in there, or the
one that the operator named, by default the org's only one. Every grant stands in the audit logs of both orgs.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sendora.kernel.errors import Conflict, NotFound
from sendora.kernel.http import Place, Principal
from sendora.kernel.ids import KeyId, OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Connection
from sendora.kernel.wire import UNSET, UnsetType
from sendora.modules.orgs import store
from sendora.modules.orgs.auditing import OPERATOR, SYSTEM, audit_as
from sendora.modules.orgs.keyring import WAKE, ring_of
from sendora.modules.orgs.model import KEYS_MAX, REACH_MAX, Key


class GrantRefused(Exception):
    """What an operator asked for does not fit; the message says why."""


async def further(
    connection: Connection, principal: Principal, asked: Sequence[UUID] | UnsetType
) -> dict[OrgId, Place]:
    """Where a key that is minted by this one may act besides its home, in order. Naming the home too changes nothing.

    Raises NotFound for an org in which the minting key does not act itself: for that key it does not exist (C03). That
    is looked up, since the process may not have heard yet that an org has shown the key the door.
    """
    wanted = sorted({OrgId(org) for org in asked} - {principal.org}) if asked is not UNSET else []
    if not wanted:
        return {}
    minting = await store.find_key(connection, principal.prefix)
    reach = {} if minting is None else minting.reach
    if any(org not in reach for org in (principal.org, *wanted)):
        raise NotFound("Organisation")
    return {org: reach[org] for org in wanted}


async def let_in(connection: Connection, key: KeyId, home: OrgId, places: Mapping[OrgId, Place]) -> None:
    """Write the grants; the orgs must be locked. Raises NotFound when a project is gone since, and Conflict."""
    for org, place in places.items():
        if not await store.has_project(connection, org, place.project):
            raise NotFound("Organisation")
        await make_room(connection, org)
        await store.insert_grant(connection, org, key, home, place.project)


async def make_room(connection: Connection, org: OrgId) -> None:
    """Raise Conflict when an org, which must be locked, has all the keys that it may have."""
    if await store.count_keys(connection, org) >= KEYS_MAX:
        raise Conflict(f"An org has at most {KEYS_MAX} keys; revoke one first.", "too_many_keys")


async def revoke(kernel: Kernel, principal: Principal, key: KeyId) -> None:
    """Of an own key: it dies everywhere. Of another org's: it ends here. Raises NotFound."""
    async with kernel.db.transaction() as connection:
        entries = await _revoke(connection, principal.org, key)
        for org, (action, details) in sorted(entries.items()):
            # Another org's log does not name this one's keys.
            actor = principal.prefix if org == principal.org else SYSTEM
            await audit_as(connection, org, actor, action, f"key:{key}", details)
    await forget(kernel)


async def _revoke(connection: Connection, org: OrgId, key: KeyId) -> dict[OrgId, tuple[str, dict[str, Any]]]:
    """What to tell whose log."""
    prefix = await store.revoke_key(connection, org, key)
    if prefix is not None:
        others = await store.delete_grants(connection, org, key)
        return {told: ("key.revoked", {"prefix": prefix}) for told in (org, *others)}
    dismissed = await store.delete_grant(connection, org, key)
    if dismissed is None:
        raise NotFound("API key")
    home, prefix = dismissed
    details = {"prefix": prefix, "orgId": str(org)}
    return dict.fromkeys((org, home), ("key.dismissed", details))


async def forget(kernel: Kernel) -> None:
    """A changed key is looked up anew: here at once, in other processes with the wake, and after 30 seconds wherever
    that got lost."""
    ring_of(kernel).forget()
    await kernel.bus.wake(WAKE)


async def grant(kernel: Kernel, prefix: str, org: UUID, project: UUID | None) -> Key:
    """The operator's word for both orgs: `prefix` is the public part of a secret key, `org` the one that it shall act
    in as well. Once more, with another project, moves it there. Raises GrantRefused."""
    async with kernel.db.transaction() as connection:
        key = await store.find_key(connection, prefix)
        if key is None or key.kind != "sk":
            raise GrantRefused(f"there is no living secret key {prefix}")
        there = OrgId(org)
        if there == key.org:
            raise GrantRefused(f"{prefix} belongs to this org")
        if there not in key.reach and len(key.reach) >= REACH_MAX:
            raise GrantRefused(f"{prefix} acts in {REACH_MAX} orgs already")
        plans = await store.lock_orgs(connection, [key.org, there])
        if there not in plans:
            raise GrantRefused(f"there is no org {org}")
        place = Place(await _project(connection, there, project), plans[there])
        try:
            await let_in(connection, key.id, key.org, {there: place})
        except Conflict as conflict:
            raise GrantRefused(conflict.message) from None
        details = {"prefix": prefix, "orgId": str(there), "projectId": str(place.project)}
        for told in sorted((key.org, there)):
            await audit_as(connection, told, OPERATOR, "key.granted", f"key:{key.id}", details)
        granted = await store.find_key(connection, prefix)
    await forget(kernel)
    if granted is None:
        raise GrantRefused(f"{prefix} was revoked meanwhile")
    return granted


async def _project(connection: Connection, org: OrgId, named: UUID | None) -> ProjectId:
    if named is not None:
        if not await store.has_project(connection, org, ProjectId(named)):
            raise GrantRefused(f"the org has no project {named}")
        return ProjectId(named)
    projects = await store.some_projects(connection, org)
    if len(projects) != 1:
        raise GrantRefused(f"the org has {'several projects' if projects else 'no project'}: name one with --project")
    return projects[0]
