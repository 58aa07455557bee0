"""What the system itself says of somebody; and one person's events, under all the names that the person has had
(C69)."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from sendora import _core
from sendora.kernel.bus import Position
from sendora.kernel.clock import millis
from sendora.kernel.ids import OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.kernel.wire import encode
from sendora.modules import profiles
from sendora.modules.events import store
from sendora.modules.events.model import WAKE_CUTS, EventIn, refusal


class Emitted(msgspec.Struct, frozen=True, kw_only=True):
    """An event of the system's own that the log has."""

    id: str
    position: Position


async def emit(kernel: Kernel, org: OrgId, project: ProjectId, environment: str, event: EventIn) -> Emitted:
    """An event that the system says of somebody: on disk in the log when this returns, stored and asked after like
    everybody's, and free (B049, C30).

    With `event_id` and `timestamp` it may be said again. Raises ValidationFailed, with the names of EventIn, and
    Unavailable.
    """
    received_ms = millis(kernel.clock.now())
    checked = _core.check_events(encode(event), org.bytes, project.bytes, environment, received_ms, listed=False)
    if (problem := refusal(checked)) is not None:
        raise problem
    position = await kernel.bus.append(checked.records, checked.accepted, system=True)
    return Emitted(id=checked.event_id or "", position=position)


async def erase(kernel: Kernel, org: OrgId, project: ProjectId, external_id: str) -> None:
    """Before the profile goes: it is what knows the person's other names. The log forgets within 72 hours, bad rows
    within 30 days."""
    persons = await profiles.names_of(kernel.db, org, project, external_id)
    async with kernel.db.transaction() as connection:
        await store.erase(connection, org, project, persons)
    await kernel.bus.wake(WAKE_CUTS)


async def export(kernel: Kernel, org: OrgId, project: ProjectId, external_id: str) -> AsyncIterator[dict[str, Any]]:
    persons = await profiles.names_of(kernel.db, org, project, external_id)
    async with kernel.db.transaction() as connection:
        async for event in store.export(connection, org, project, persons):
            yield event
