"""Geofences: what a circle may be (B133), how far it is from a device, and what a device reports (B135)."""

import math
from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Final, Literal
from uuid import UUID, uuid5

import msgspec
from msgspec import Meta

from sendora.kernel.clock import iso
from sendora.kernel.errors import Conflict, ValidationFailed
from sendora.kernel.ids import OrgId, ProjectId
from sendora.kernel.wire import UNSET, UnsetType, Wire, WireIn

Trigger = Literal["enter", "exit", "dwell"]
Arming = Literal["ios", "android"]

MODULE: Final = "geofence"
"""The module of a transition's event."""

EVENT_TYPES: Final[dict[Trigger, str]] = {
    "enter": "geofence.entered",
    "exit": "geofence.exited",
    "dwell": "geofence.dwelled",
}
"""B135."""

ARMED_MAX: Final[dict[Arming, int]] = {"ios": 20, "android": 100}
"""B134: as many regions as one app may watch on a device."""

FENCES_MAX: Final = 5_000
"""Of a project. A device that asks what is near has every one of them measured, some microseconds each."""

EARTH_M: Final = 6_371_008.8
"""The mean radius, in metres: a sphere is within half a percent of the ground, less than a phone errs."""

RADIUS_MAX_M: Final = 20_037_508.0
"""Half the way around: such a circle holds everything."""

PRIORITY_MAX: Final = 1_000_000

DWELL_S: Final = 300
"""How long somebody has to stay before that is a dwell, where the fence does not say."""

DWELL_MAX_S: Final = 86_400

WINDOW_DAYS: Final = 30
"""B136: today and the 29 UTC days before it, as audiences count days."""

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Latitude = Annotated[float, Meta(ge=-90, le=90)]
Longitude = Annotated[float, Meta(ge=-180, le=180)]
Radius = Annotated[float, Meta(gt=0, le=RADIUS_MAX_M)]
Priority = Annotated[int, Meta(ge=-PRIORITY_MAX, le=PRIORITY_MAX)]
Triggers = Annotated[tuple[Trigger, ...], Meta(min_length=1, max_length=3)]
DwellSeconds = Annotated[int, Meta(ge=1, le=DWELL_MAX_S)]


class GeofenceIn(WireIn, frozen=True, kw_only=True):
    """Body of `POST /push/geofences`: degrees of WGS 84, metres, seconds."""

    name: Name
    latitude: Latitude
    longitude: Longitude
    radius_meters: Radius
    triggers: Triggers
    priority: Priority = 0
    """The higher comes first where a device may watch fewer fences than there are."""
    enabled: bool = True
    dwell_seconds: DwellSeconds | None = None


class GeofencePatch(WireIn, frozen=True, kw_only=True):
    """Body of `PATCH /push/geofences/{id}`: what is absent stays; `triggers` are replaced."""

    name: Name | UnsetType = UNSET
    latitude: Latitude | UnsetType = UNSET
    longitude: Longitude | UnsetType = UNSET
    radius_meters: Radius | UnsetType = UNSET
    triggers: Triggers | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    dwell_seconds: DwellSeconds | UnsetType | None = UNSET


class ReportIn(WireIn, frozen=True, kw_only=True):
    """Body of `POST /push/geofences/event`: a transition that a device has seen."""

    geofence_id: UUID
    event: Trigger
    user_id: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    """Whose transition it is; the owner of `tokenId` unless given."""
    token_id: UUID | None = None
    latitude: Latitude | None = None
    longitude: Longitude | None = None
    occurred_at: Annotated[str, Meta(max_length=64)] | None = None
    """RFC 3339, from 2000 up to a day ahead; the time of receipt unless given."""
    event_id: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    """1 to 64 printable characters. With the same `occurredAt` it makes a retry harmless; where `occurredAt` is given
    and this is not, it is made of the report itself."""


class Fence(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `geofences`."""

    org: OrgId
    id: UUID
    project: ProjectId
    name: str
    latitude: float
    longitude: float
    radius_meters: float
    triggers: tuple[Trigger, ...]
    priority: int
    enabled: bool
    dwell_seconds: int | None
    created_at: datetime
    updated_at: datetime


class GeofenceShown(Wire, frozen=True, kw_only=True):
    id: UUID
    name: str
    latitude: float
    longitude: float
    radius_meters: float
    triggers: tuple[Trigger, ...]
    priority: int
    enabled: bool
    dwell_seconds: int | None
    """Null for a fence that does not tell of dwelling."""
    distance_meters: float | None
    """From the asking device to the centre; null when it did not say where it is."""
    created_at: str
    updated_at: str


class GeofenceDeleted(Wire, frozen=True, kw_only=True):
    id: UUID
    deleted: bool


class GeofenceStats(Wire, frozen=True, kw_only=True):
    """B136."""

    entered: int
    exited: int
    dwelled: int
    window_days: int = WINDOW_DAYS


class Reported(Wire, frozen=True, kw_only=True):
    """The log has it; `id` is the event's."""

    id: str
    event_type: str


class Position(msgspec.Struct, frozen=True):
    """A place on the ground, in degrees."""

    latitude: float
    longitude: float


class TooMany(Conflict):
    """The project has as many fences as one may have."""

    def __init__(self) -> None:
        super().__init__(f"A project has at most {FENCES_MAX} geofences; delete one first.", "too_many_geofences")


def distance_m(one: Position, other: Position) -> float:
    """Along the ground, in metres, by the haversine formula: exact to a fraction of a metre for neighbours, across the
    antimeridian and at the poles alike."""
    low, high = math.radians(one.latitude), math.radians(other.latitude)
    across = math.radians(other.longitude - one.longitude)
    half = math.sin((high - low) / 2) ** 2 + math.cos(low) * math.cos(high) * math.sin(across / 2) ** 2
    return 2 * EARTH_M * math.asin(min(1.0, math.sqrt(half)))


def position(latitude: float | None, longitude: float | None) -> Position | None:
    """Where a device is, None when it does not say; half a position is a mistake, and so is what is no number."""
    for name, degrees in (("latitude", latitude), ("longitude", longitude)):
        if degrees is not None and not math.isfinite(degrees):
            raise ValidationFailed({name: ["Expected number"]})
    if latitude is None and longitude is None:
        return None
    if latitude is None or longitude is None:
        missing = "latitude" if latitude is None else "longitude"
        raise ValidationFailed({missing: ["Give both latitude and longitude, or neither"]})
    return Position(latitude, longitude)


def first_day(now: datetime) -> date:
    """Of the window that ends now."""
    return now.astimezone(UTC).date() - timedelta(days=WINDOW_DAYS - 1)


def shown(fence: Fence, at: Position | None = None) -> GeofenceShown:
    centre = Position(fence.latitude, fence.longitude)
    return GeofenceShown(
        id=fence.id,
        name=fence.name,
        latitude=fence.latitude,
        longitude=fence.longitude,
        radius_meters=fence.radius_meters,
        triggers=fence.triggers,
        priority=fence.priority,
        enabled=fence.enabled,
        dwell_seconds=(fence.dwell_seconds or DWELL_S) if "dwell" in fence.triggers else None,
        distance_meters=None if at is None else round(distance_m(centre, at), 1),
        created_at=iso(fence.created_at),
        updated_at=iso(fence.updated_at),
    )


def properties_of(report: ReportIn, fence: Fence) -> dict[str, object]:
    """Of the transition's event: fence and place, so that rules can ask for them."""
    properties: dict[str, object] = {"geofenceId": str(fence.id), "geofenceName": fence.name}
    if report.token_id is not None:
        properties["tokenId"] = str(report.token_id)
    at = position(report.latitude, report.longitude)
    if at is not None:
        distance = distance_m(Position(fence.latitude, fence.longitude), at)
        properties |= {"latitude": at.latitude, "longitude": at.longitude, "distanceMeters": round(distance, 1)}
    return properties


def event_id_of(report: ReportIn, person: str | None) -> str | None:
    """The client's; or what names the transition, since nobody enters one fence twice in the same millisecond; or
    None: such a report is never recognised when it is repeated (C94)."""
    if report.event_id is not None or report.occurred_at is None:
        return report.event_id
    told = msgspec.json.encode((report.event, report.token_id, person, report.occurred_at))
    return str(uuid5(report.geofence_id, told.decode()))


def ordered(triggers: Collection[Trigger]) -> list[Trigger]:
    """Each once, as a visit goes."""
    return [trigger for trigger in EVENT_TYPES if trigger in triggers]
