"""Geofences over HTTP (Growth and up): operators make them, devices fetch and report (B133-B136)."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request

from sendora.kernel.bus import position_text
from sendora.kernel.errors import Conflict, NotFound
from sendora.kernel.http import Paged, Principal, Reply, delete, get, patch, post
from sendora.kernel.ids import parse_id
from sendora.kernel.life import Kernel
from sendora.kernel.wire import Page
from sendora.modules import orgs
from sendora.modules.geofences import service, store
from sendora.modules.geofences.model import (
    ARMED_MAX,
    EVENT_TYPES,
    Arming,
    GeofenceDeleted,
    GeofenceIn,
    GeofencePatch,
    GeofenceShown,
    GeofenceStats,
    Reported,
    ReportIn,
    TooMany,
    first_day,
    position,
    shown,
)
from sendora.modules.geofences.store import Wanted

DegreesNorth = Annotated[float | None, msgspec.Meta(ge=-90, le=90)]
DegreesEast = Annotated[float | None, msgspec.Meta(ge=-180, le=180)]


@post(
    "/push/geofences",
    scope="geofences:write",
    tier="growth",
    status=201,
    idempotent=True,
    raises=(Conflict,),
    operation="createGeofence",
    summary="Draw a geofence",
)
async def create_geofence(kernel: Kernel, principal: Principal, data: GeofenceIn) -> GeofenceShown:
    """A circle on the ground, and which transitions devices tell of it (B133). Devices see it when they next fetch. 409
    when the project has 5,000."""
    fence = await store.insert(kernel.db, principal.org, principal.project, data)
    if fence is None:
        raise TooMany
    return shown(fence)


@get(
    "/push/geofences",
    scope="geofences:read",
    public_key=True,
    tier="growth",
    operation="listGeofences",
    summary="List geofences, or those that a device should watch",
)
async def list_geofences(
    kernel: Kernel,
    principal: Principal,
    request: Request[Any, Any, Any],
    page: Page,
    platform: Arming | None = None,
    enabled: bool | None = None,
    latitude: DegreesNorth = None,
    longitude: DegreesEast = None,
) -> Paged[GeofenceShown]:
    """By priority, among equals the nearest to `latitude` and `longitude` first. With `platform` it is what a device
    arms: enabled fences alone, 20 on iOS and 100 on Android (B134), on one page unless `pageSize` says otherwise. A
    public key sees enabled fences alone (C22)."""
    at = position(latitude, longitude)
    most = None if platform is None else ARMED_MAX[platform]
    if most is not None and "pageSize" not in request.query_params:
        page = Page(page.number, most)
    armed = platform is not None or principal.kind == "pk"
    wanted = Wanted(enabled=enabled, armed=armed, at=at, most=most)
    listed = await store.listed(kernel.db, principal.org, principal.project, wanted, page)
    return Paged([shown(fence, at) for fence in listed.rows], page.pagination(listed.total))


@get(
    "/push/geofences/{geofence_id}",
    scope="geofences:read",
    tier="growth",
    operation="getGeofence",
    summary="Get a geofence",
)
async def get_geofence(kernel: Kernel, principal: Principal, geofence_id: str) -> GeofenceShown:
    """Enabled or not."""
    fence = await store.find(kernel.db, principal.org, principal.project, _id(geofence_id))
    if fence is None:
        raise NotFound("Geofence")
    return shown(fence)


@patch(
    "/push/geofences/{geofence_id}",
    scope="geofences:write",
    tier="growth",
    operation="updateGeofence",
    summary="Change a geofence",
)
async def update_geofence(kernel: Kernel, principal: Principal, geofence_id: str, data: GeofencePatch) -> GeofenceShown:
    """Only the fields that are given. Its statistics stay: it is the same fence in another place."""
    fence = await store.update(kernel.db, principal.org, principal.project, _id(geofence_id), data)
    if fence is None:
        raise NotFound("Geofence")
    return shown(fence)


@delete(
    "/push/geofences/{geofence_id}",
    scope="geofences:write",
    tier="growth",
    operation="deleteGeofence",
    summary="Delete a geofence",
)
async def delete_geofence(kernel: Kernel, principal: Principal, geofence_id: str) -> GeofenceDeleted:
    """With its statistics; the events that it led to stay. The audit log says who deleted it."""
    async with kernel.db.transaction() as connection:
        fence = await store.delete(connection, principal.org, principal.project, _id(geofence_id))
        if fence is None:
            raise NotFound("Geofence")
        await orgs.audit(connection, principal, "geofence.deleted", f"geofence:{fence.id}", {"name": fence.name})
    return GeofenceDeleted(id=fence.id, deleted=True)


@get(
    "/push/geofences/{geofence_id}/stats",
    scope="geofences:read",
    tier="growth",
    operation="geofenceStats",
    summary="Count a geofence's transitions",
)
async def geofence_stats(kernel: Kernel, principal: Principal, geofence_id: str) -> GeofenceStats:
    """Of today and the 29 UTC days before it, by when they happened (B136). A report is counted once it is stored,
    usually within a second; one that was repeated counts once."""
    id_ = _id(geofence_id)
    if await store.find(kernel.db, principal.org, principal.project, id_) is None:
        raise NotFound("Geofence")
    return await store.stats(kernel.db, principal.org, id_, first_day(kernel.clock.now()))


@post(
    "/push/geofences/event",
    scope=None,
    public_key=True,
    tier="growth",
    operation="reportGeofence",
    summary="Report that somebody entered, left, or stayed in a geofence",
)
async def report_geofence(kernel: Kernel, principal: Principal, data: ReportIn) -> Reply[Reported]:
    """Becomes an event `geofence.entered`, `.exited` or `.dwelled` of the user, or of whoever owns `tokenId` (B135),
    which costs no quota (C30). It is on disk when this answers, at `X-Sendora-Position`. 404 for a fence that is not
    there or switched off: a device should stop watching it."""
    emitted = await service.report(kernel, principal, data)
    told = Reported(id=emitted.id, event_type=EVENT_TYPES[data.event])
    return Reply(data=told, headers={"X-Sendora-Position": position_text(emitted.position)})


def _id(text: str) -> UUID:
    parsed = parse_id(text)
    if parsed is None:
        raise NotFound("Geofence")
    return parsed


ROUTES: Any = (
    create_geofence,
    list_geofences,
    get_geofence,
    update_geofence,
    delete_geofence,
    geofence_stats,
    report_geofence,
)
