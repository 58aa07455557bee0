"""One person in this room: the contact lists that they were put into. Membership by rules is nowhere stored."""

from collections.abc import AsyncIterator
from typing import Any

from sendora.kernel.clock import iso
from sendora.kernel.ids import OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.modules import profiles
from sendora.modules.audiences import contacts


async def erase(kernel: Kernel, org: OrgId, project: ProjectId, external_id: str) -> None:
    """Before the profile goes: it is what knows the person's other names."""
    await contacts.forget(kernel.db, org, project, await profiles.names_of(kernel.db, org, project, external_id))


async def export(kernel: Kernel, org: OrgId, project: ProjectId, external_id: str) -> AsyncIterator[dict[str, Any]]:
    names = await profiles.names_of(kernel.db, org, project, external_id)
    for held in await contacts.of_person(kernel.db, org, project, names):
        yield {"contactList": {"id": str(held.audience), "name": held.name, "addedAt": iso(held.added_at)}}
