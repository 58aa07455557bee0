"""What the system itself says of somebody; and one person's events, under all the names that the person has had
(C69)."""

from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from sendora import _core
from sendora.kernel import pg
from sendora.kernel.bus import Position
from sendora.kernel.clock import millis
from sendora.kernel.errors import Unavailable
from sendora.kernel.ids import OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.kernel.pg.positions import wait_for
from sendora.kernel.wire import encode
from sendora.modules import consent, profiles
from sendora.modules.events import store
from sendora.modules.events.consumers import STORER
from sendora.modules.events.model import WAKE_CUTS, EventIn, refusal

WAIT_S: Final = 5.0
"""Whoever erases comes again when the storer takes longer than this to pass the cut."""


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


async def erase(kernel: Kernel, org: OrgId, project: ProjectId, external_id: str) -> int:
    """Events, days and bad rows; how many. Under a deletion request (B069) only what came before its cut, which the
    storer must have passed: whoever comes by that name afterwards is somebody new. The log forgets within 72 hours.

    Month by month and the days last, so that a month that is rolled up meanwhile is found in its days.
    """
    cut = await consent.cut_of(kernel, org, project, external_id)
    if cut is not None and not await wait_for(kernel.db, STORER, cut.position, WAIT_S):
        raise Unavailable(message="The storer is behind the log.")
    persons = await profiles.names_of(kernel.db, org, project, external_id)
    gone = 0
    for month in await pg.months(kernel.db, "events"):
        async with kernel.db.transaction() as connection:
            until = None if cut is None else cut.at
            gone += await store.erase_month(connection, org, project, persons, month, until)
    async with kernel.db.transaction() as connection:
        through = None if cut is None else cut.position
        gone += await store.erase_rest(connection, org, project, persons, through)
    if cut is None:
        await make_anew(kernel, org, project)
    return gone


async def make_anew(kernel: Kernel, org: OrgId, project: ProjectId) -> None:
    """Whatever was made of the project's people and events (an index, its snapshot) is made anew: they have changed in
    a way of which the log does not tell. Under a deletion request once, when the last of the person's names is gone."""
    await store.cut_project(kernel.db, org, project)
    await kernel.bus.wake(WAKE_CUTS)


async def export(kernel: Kernel, org: OrgId, project: ProjectId, external_id: str) -> AsyncIterator[dict[str, Any]]:
    persons = await profiles.names_of(kernel.db, org, project, external_id)
    async for event in store.export(kernel.db, org, project, persons):
        yield event


async def export_all(kernel: Kernel, org: OrgId, project: ProjectId) -> AsyncIterator[dict[str, Any]]:
    async for event in store.export(kernel.db, org, project, None):
        yield event
