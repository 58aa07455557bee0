"""Geofences: circles, what a device arms, and how far apart two places are."""

import asyncio
import math
import random
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api import Api
from tests.make import Make, Org

from sendora.modules.geofences.model import EARTH_M, Position, distance_m

CAFE: dict[str, Any] = {
    "name": "Café",
    "latitude": 48.2082,
    "longitude": 16.3738,
    "radiusMeters": 150,
    "triggers": ["exit", "enter", "exit"],
}


async def fence(api: Api, org: Org, **said: Any) -> dict[str, Any]:
    made = await api.post("/push/geofences", {**CAFE, **said}, key=org.sk)
    assert made.status == 201, made
    shown: dict[str, Any] = made.data
    return shown


def names(listed: Any) -> list[str]:
    return [row["name"] for row in listed.data]


# -- operators


@pytest.mark.rule("B133")
async def test_a_fence_is_made_changed_and_deleted(api: Api, org: Org) -> None:
    """B133: a circle, its triggers, its priority; a PATCH changes what it names and nothing else."""
    made = await fence(api, org)
    assert {key: made[key] for key in CAFE} == {**CAFE, "triggers": ["enter", "exit"]}
    assert (made["priority"], made["enabled"], made["dwellSeconds"]) == (0, True, None)
    path = f"/push/geofences/{made['id']}"
    assert (await api.get(path, key=org.sk)).data == made
    change = {"radiusMeters": 80.5, "triggers": ["dwell"], "priority": 7, "enabled": False}
    changed = (await api.patch(path, change, key=org.sk)).data
    assert changed == {**made, **change, "dwellSeconds": 300, "updatedAt": changed["updatedAt"]}
    longer = (await api.patch(path, {"dwellSeconds": 600}, key=org.sk)).data
    assert longer["dwellSeconds"] == 600
    assert (await api.patch(path, {"dwellSeconds": None}, key=org.sk)).data["dwellSeconds"] == 300
    gone = await api.delete(path, key=org.sk)
    assert (gone.status, gone.data) == (200, {"id": made["id"], "deleted": True})
    for answer in (
        await api.get(path, key=org.sk),
        await api.get(f"{path}/stats", key=org.sk),
        await api.patch(path, {}, key=org.sk),
        await api.delete(path, key=org.sk),
        await api.get("/push/geofences/nonsense", key=org.sk),
    ):
        assert (answer.status, answer.code) == (404, "NOT_FOUND"), answer
    [told] = (await api.get("/audit-log", key=org.sk, resource=f"geofence:{made['id']}")).data
    assert told["action"] == "geofence.deleted"


@pytest.mark.rule("B133")
@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"latitude": 90.1}, "latitude"),
        ({"longitude": -180.1}, "longitude"),
        ({"latitude": "48"}, "latitude"),
        ({"radiusMeters": 0}, "radiusMeters"),
        ({"radiusMeters": 1e9}, "radiusMeters"),
        ({"triggers": []}, "triggers"),
        ({"triggers": ["enter"] * 4}, "triggers"),
        ({"triggers": ["enter", "hover"]}, "triggers"),
        ({"priority": 1.5}, "priority"),
        ({"priority": 2**40}, "priority"),
        ({"dwellSeconds": 0}, "dwellSeconds"),
        ({"enabled": "yes"}, "enabled"),
        ({"color": "red"}, "color"),
    ],
)
async def test_what_is_no_fence(api: Api, org: Org, said: dict[str, Any], field: str) -> None:
    """B133: refused when it is made and when it is changed, with the field."""
    made = await fence(api, org)
    for refused in (
        await api.post("/push/geofences", {**CAFE, **said}, key=org.sk),
        await api.patch(f"/push/geofences/{made['id']}", said, key=org.sk),
    ):
        assert any(one.partition(".")[0] == field for one in refused.fields), refused
    assert (await api.get(f"/push/geofences/{made['id']}", key=org.sk)).data == made


@pytest.mark.rule("B009", "C22")
async def test_who_may_what(api: Api, make: Make) -> None:
    """Growth and up; B009, C22: an app may fetch fences and report, and nothing else; other orgs' fences are not
    there."""
    org, poor, other = await make.org("growth"), await make.org("starter"), await make.org()
    made = await fence(api, org)
    path = f"/push/geofences/{made['id']}"
    calls: list[tuple[str, str, Any]] = [
        ("POST", "/push/geofences", CAFE),
        ("GET", path, None),
        ("PATCH", path, {"priority": 1}),
        ("DELETE", path, None),
        ("GET", f"{path}/stats", None),
    ]
    report = ("POST", "/push/geofences/event", {"geofenceId": made["id"], "event": "enter"})
    for call in calls:
        refused = await api.request(*call, key=org.pk)
        assert (refused.status, refused.code) == (403, "scope_required"), refused
    for call in (*calls, ("GET", "/push/geofences", None), report):
        refused = await api.request(*call, key=poor.sk)
        assert (refused.status, refused.code, refused.details["requiredPlan"]) == (402, "tier_required", "growth")
    for call in (*calls[1:], report):
        missing = await api.request(*call, key=other.sk)
        assert (missing.status, missing.code) == (404, "NOT_FOUND"), missing
    assert (await api.get("/push/geofences", key=other.sk)).data == []
    assert names(await api.get("/push/geofences", key=org.pk, org=org.id)) == ["Café"]
    assert (await api.get(path, key=org.sk)).data == made


# -- devices


@pytest.mark.rule("B134", "C22")
async def test_what_a_device_arms(api: Api, org: Org) -> None:
    """B134: 20 on iOS and 100 on Android, the most important first; C22: of what is switched off an app sees
    nothing."""
    await asyncio.gather(*(fence(api, org, name=f"{n:03}", priority=n) for n in range(105)))
    await fence(api, org, name="off", priority=1_000, enabled=False)
    best = [f"{n:03}" for n in reversed(range(105))]
    for platform, most in (("ios", 20), ("android", 100)):
        armed = await api.get("/push/geofences", key=org.pk, platform=platform)
        assert names(armed) == best[:most]
        assert armed.pagination == {"page": 1, "pageSize": most, "total": most, "hasMore": False}
    third = await api.get("/push/geofences", key=org.pk, platform="ios", page=3, pageSize=8)
    assert (names(third), third.pagination["hasMore"]) == (best[16:20], False)
    assert names(await api.get("/push/geofences", key=org.pk, platform="ios", page=2)) == []
    assert (await api.get("/push/geofences", key=org.pk)).pagination["total"] == 105
    assert (await api.get("/push/geofences", key=org.pk, enabled="false")).data == []
    assert (await api.get("/push/geofences", key=org.sk)).pagination["total"] == 106
    assert names(await api.get("/push/geofences", key=org.sk, enabled="false")) == ["off"]


@pytest.mark.rule("B134")
async def test_the_nearest_among_equals(api: Api, org: Org) -> None:
    """B134: priority first, then what is near, on the other side of the antimeridian and around the poles as well."""
    chance = random.Random(20)
    places = [(chance.uniform(-90, 90), chance.uniform(-180, 180)) for _ in range(30)]
    places += [(90.0, 10.0), (-90.0, 0.0), (0.0, 180.0), (0.0, -180.0), (89.9, -170.0), (48.2082, 16.3738)]
    await asyncio.gather(
        *(
            fence(api, org, latitude=latitude, longitude=longitude, priority=n % 2)
            for n, (latitude, longitude) in enumerate(places)
        )
    )
    for latitude, longitude in [(0.0, 179.9), (0.0, -179.9), (89.99, 30.0), (-90.0, 77.0), (48.2, 16.37)]:
        near = await api.get("/push/geofences", key=org.pk, platform="android", latitude=latitude, longitude=longitude)
        assert len(near.data) == len(places)
        said = [(-row["priority"], row["distanceMeters"]) for row in near.data]
        assert said == sorted(said)
        for row in near.data:
            true = distance_m(Position(latitude, longitude), Position(row["latitude"], row["longitude"]))
            assert row["distanceMeters"] == round(true, 1)


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"platform": "web"}, "platform"),
        ({"latitude": 1}, "longitude"),
        ({"longitude": 1}, "latitude"),
        ({"latitude": 91, "longitude": 1}, "latitude"),
        ({"latitude": "nan", "longitude": 1}, "latitude"),
        ({"pageSize": 101, "platform": "android"}, "pageSize"),
    ],
)
async def test_a_fetch_that_makes_no_sense(api: Api, org: Org, said: dict[str, Any], field: str) -> None:
    refused = await api.get("/push/geofences", key=org.pk, **said)
    assert field in refused.fields, refused


# -- arithmetic

LATITUDES = st.one_of(st.sampled_from([-90.0, -89.9999, 0.0, 89.9999, 90.0]), st.floats(-90, 90))
LONGITUDES = st.one_of(st.sampled_from([-180.0, -179.9999, 0.0, 179.9999, 180.0]), st.floats(-180, 180))
PLACES = st.builds(Position, LATITUDES, LONGITUDES)


def vector(place: Position) -> tuple[float, float, float]:
    north, east = math.radians(place.latitude), math.radians(place.longitude)
    return math.cos(north) * math.cos(east), math.cos(north) * math.sin(east), math.sin(north)


@given(PLACES, PLACES)
def test_distance_is_the_angle_between_two_directions(one: Position, other: Position) -> None:
    """Against another formula, which has no haversine in it: the angle by cross and dot product."""
    a, b = vector(one), vector(other)
    cross = math.hypot(a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
    angle = math.atan2(cross, sum(x * y for x, y in zip(a, b, strict=True)))
    # Of two antipodes the haversine is worth metres, of neighbours less than a millimetre.
    assert distance_m(one, other) == pytest.approx(EARTH_M * angle, rel=1e-7, abs=1e-3)


@given(PLACES, PLACES)
def test_distance_is_one(one: Position, other: Position) -> None:
    """The same both ways, nothing to itself, never more than half the way around."""
    there = distance_m(one, other)
    assert there == pytest.approx(distance_m(other, one), abs=1e-3)
    assert 0 <= there <= math.pi * EARTH_M
    assert distance_m(one, one) == 0


@given(LATITUDES, LONGITUDES, PLACES)
def test_the_antimeridian_and_the_poles_are_places_like_others(
    latitude: float, longitude: float, other: Position
) -> None:
    """180 degrees east and west are one line; at a pole every longitude is one point."""
    east, west = Position(latitude, 180.0), Position(latitude, -180.0)
    assert distance_m(east, other) == pytest.approx(distance_m(west, other), abs=1.0)
    for pole in (-90.0, 90.0):
        one, same = Position(pole, longitude), Position(pole, 0.0)
        assert distance_m(one, other) == pytest.approx(distance_m(same, other), abs=1.0)


@given(st.floats(-89, 89), st.floats(-180, 180), st.floats(1, 5_000))
def test_a_step_to_the_north_is_as_long_as_it_is(latitude: float, longitude: float, metres: float) -> None:
    """What a fence is about: some metres, exactly."""
    there = Position(latitude + math.degrees(metres / EARTH_M), longitude)
    assert distance_m(Position(latitude, longitude), there) == pytest.approx(metres, abs=0.01)


async def test_a_full_project(api: Api, org: Org, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is told, and is each project's own."""
    monkeypatch.setattr("sendora.modules.geofences.store.FENCES_MAX", 2)
    for _ in range(2):
        await fence(api, org)
    full = await api.post("/push/geofences", {**CAFE, "name": uuid4().hex}, key=org.sk)
    assert (full.status, full.code, full.details["reason"]) == (409, "CONFLICT", "too_many_geofences")
