"""One person's events, under all the names that the person has had (C69)."""

from collections.abc import AsyncIterator
from typing import Any

from sendora.kernel.ids import OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.modules import profiles
from sendora.modules.events import store
from sendora.modules.events.model import WAKE_CUTS


async def erase(kernel: Kernel, org: OrgId, project: ProjectId, external_id: str) -> None:
    """Before the profile goes: it is what knows the person's other names. The log forgets within 72 hours, bad rows
    within 30 days."""
    persons = await profiles.names_of(kernel.db, org, project, external_id)
    async with kernel.db.transaction() as connection:
        await store.erase(connection, org, project, persons)
    await kernel.bus.wake(WAKE_CUTS)


async def cut(kernel: Kernel, org: OrgId, project: ProjectId) -> None:
    """Whatever was made of this project's people and events is made anew: they have changed in a way of which the log
    does not tell."""
    await store.cut_project(kernel.db, org, project)
    await kernel.bus.wake(WAKE_CUTS)


async def export(kernel: Kernel, org: OrgId, project: ProjectId, external_id: str) -> AsyncIterator[dict[str, Any]]:
    persons = await profiles.names_of(kernel.db, org, project, external_id)
    async with kernel.db.transaction() as connection:
        async for event in store.export(connection, org, project, persons):
            yield event
