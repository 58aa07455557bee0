"""What rooms know, told as one JSON document (B068).

Nothing is rendered before somebody downloads it, and nothing of it is kept: a copy of everybody's data that lies
somewhere would have to be sealed, bounded, swept, and searched at every erasure. The records are read page by page from
the live tables while they go out, at the pace of whoever reads them, so memory is a page and no connection to
PostgreSQL waits for a slow client. The document says at its end how many records there were: one that breaks off is no
JSON, and is downloaded again.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from sendora.kernel.clock import iso
from sendora.kernel.errors import NotFound, Unavailable, ValidationFailed
from sendora.kernel.http import Principal
from sendora.kernel.ids import NIL, OrgId, ProjectId, parse_id, profile_id
from sendora.kernel.life import Kernel
from sendora.kernel.module import Module
from sendora.kernel.wire import encode
from sendora.modules import orgs, profiles
from sendora.modules.data_io import store
from sendora.modules.data_io.model import DATA_MAX, EVERYTHING, AskExport, Export

PIECE_BYTES: Final = 64 * 1024
"""So much is gathered before it is sent."""

DOWNLOADS_MAX: Final = 8
"""At a time in one process: a bulk download keeps PostgreSQL busy for as long as it runs."""


class _Bound:
    rooms: Sequence[Module] = ()
    downloads = 0


def bind(rooms: Sequence[Module]) -> None:
    """Called by the composition root, before anything is served."""
    _Bound.rooms = rooms


async def ask(kernel: Kernel, principal: Principal, asked: AskExport) -> tuple[Export, dict[str, Any] | None]:
    """The export, and for one person the records where they are few. Asked again within its day it is the same one."""
    known = [room.name for room in _telling(EVERYTHING)]
    if asked.module not in (EVERYTHING, *known):
        raise ValidationFailed({"module": [f"Expected one of {', '.join((*known, EVERYTHING))}"]})
    if asked.filter is None:
        async with kernel.db.transaction() as connection:
            export = await store.ask(connection, principal.org, principal.project, asked.module, NIL)
            await orgs.audit(connection, principal, "data.exported", f"export:{export.id}", {"module": asked.module})
        return export, None
    person = await profiles.find(kernel, principal.org, principal.project, asked.filter.profile_id)
    named_by = await orgs.person_hash(kernel, principal.org, person.external_id)
    async with kernel.db.transaction() as connection:
        export = await store.ask(connection, principal.org, principal.project, asked.module, person.id)
        details = {"module": asked.module, "exportId": str(export.id)}
        await orgs.audit(connection, principal, "data.exported", f"person:{named_by}", details)
    found: list[dict[str, Any]] = []
    async for record in _records(kernel, export):
        if len(found) == DATA_MAX:
            return export, None
        found.append(record)
    return export, {"records": found}


async def find(kernel: Kernel, principal: Principal, export: str) -> Export:
    """Raises NotFound, also when its day is over."""
    id_ = parse_id(export)
    found = None if id_ is None else await store.find(kernel.db, principal.org, principal.project, id_)
    if found is None:
        raise NotFound("Export")
    return found


async def download(kernel: Kernel, export: Export) -> AsyncIterator[bytes]:
    """The document in pieces. Raises NotFound before the first one when the person is not there any more, and
    Unavailable when too many are being downloaded."""
    if not export.is_bulk:
        await profiles.find(kernel, export.org, export.project, str(export.profile_id))
    if _Bound.downloads >= DOWNLOADS_MAX:
        raise Unavailable(5, "Too many downloads at a time.")
    return _render(kernel, export)


async def erase(kernel: Kernel, org: OrgId, project: ProjectId, external_id: str) -> int:
    """A row holds no more of a person than the profile's id, which somebody might try names against."""
    names = await profiles.names_of(kernel.db, org, project, external_id)
    return await store.erase(kernel.db, org, project, [profile_id(project, name) for name in names])


async def export(kernel: Kernel, org: OrgId, project: ProjectId, external_id: str) -> AsyncIterator[dict[str, Any]]:
    for one in await store.of_person(kernel.db, org, project, profile_id(project, external_id)):
        yield {"export": {"id": str(one.id), "module": one.module, "createdAt": iso(one.created_at)}}


async def _render(kernel: Kernel, export: Export) -> AsyncIterator[bytes]:
    _Bound.downloads += 1
    try:
        head = {
            "id": export.id,
            "module": export.module,
            "profileId": None if export.is_bulk else export.profile_id,
            "exportedAt": iso(kernel.clock.now()),
        }
        # The object stays open: its records follow.
        piece = bytearray(encode(head)[:-1] + b',"records":[')
        count = 0
        async for record in _records(kernel, export):
            piece += (b",\n" if count else b"\n") + encode(record)
            count += 1
            if len(piece) >= PIECE_BYTES:
                yield bytes(piece)
                piece.clear()
        yield bytes(piece) + b'\n],"count":%d}\n' % count
    finally:
        _Bound.downloads -= 1


async def _records(kernel: Kernel, export: Export) -> AsyncIterator[dict[str, Any]]:
    """Of one room as it tells them; of all rooms with the room's name at each."""
    for room in _telling(export.module):
        async for record in _of_room(kernel, export, room):
            yield {"module": room.name, **record} if export.module == EVERYTHING else record


async def _of_room(kernel: Kernel, export: Export, room: Module) -> AsyncIterator[dict[str, Any]]:
    if room.export is None:
        return
    if not export.is_bulk:
        person = await profiles.find(kernel, export.org, export.project, str(export.profile_id))
        async for record in room.export(kernel, export.org, export.project, person.external_id):
            yield record
    elif room.export_all is not None:
        async for record in room.export_all(kernel, export.org, export.project):
            yield record
    else:
        async for person in profiles.everybody(kernel, export.org, export.project):
            async for record in room.export(kernel, export.org, export.project, person.external_id):
                yield {"externalId": person.external_id, **record}


def _telling(module: str) -> list[Module]:
    return [room for room in _Bound.rooms if room.export is not None and module in (room.name, EVERYTHING)]
