"""Changing a person, which is always a record in the log, and waiting until it can be seen."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from sendora import _core
from sendora.kernel.bus import Position
from sendora.kernel.clock import iso, millis
from sendora.kernel.errors import NotFound, Unavailable, ValidationFailed
from sendora.kernel.http import Principal
from sendora.kernel.ids import NIL, AudienceId, OrgId, ProjectId, SendId
from sendora.kernel.life import Kernel
from sendora.kernel.pg.positions import wait_for
from sendora.kernel.wire import UNSET, Listed, Page, encode
from sendora.modules import orgs
from sendora.modules.profiles import store
from sendora.modules.profiles.bound import Bound
from sendora.modules.profiles.consumers import READER
from sendora.modules.profiles.model import Person, ProfilePatch, WhyNot, refusal, stage_of

BITE_MAX: Final = 1_000
"""People whose stage is looked at, and set, at a time: locks of some milliseconds."""

WAIT_S: Final = 5.0
"""C94: how long a change, or a read `after` one, waits for the profile store."""

PEOPLE_MAX: Final = 500
"""People of one page of an export: a megabyte, or some more."""


async def wait(kernel: Kernel, position: int, timeout_s: float = WAIT_S) -> bool:
    """Whether the profile store has passed the position, within the timeout."""
    return await wait_for(kernel.db, READER, position, timeout_s)


async def find(kernel: Kernel, org: OrgId, project: ProjectId, named: str) -> Person:
    """By UUID or external id (C70), whoever that is now (C69); raises NotFound."""
    person = await store.find(kernel.db, org, project, named)
    if person is None:
        raise NotFound("Profile")
    return person


async def memberships_of(kernel: Kernel, org: OrgId, project: ProjectId, person: Person) -> list[Any]:
    if Bound.memberships is None:
        return []
    return list(await Bound.memberships(kernel, org, project, person.external_id))


async def why_not(
    kernel: Kernel, org: OrgId, project: ProjectId, named: str, send: SendId | None, audience: AudienceId | None
) -> WhyNot:
    """Raises NotFound for a person, a send or an audience that is missing."""
    if Bound.why_not is None:
        raise ValidationFailed({"sendId": ["Not supported"]})
    person = await find(kernel, org, project, named)
    return await Bound.why_not(kernel, org, project, person, send, audience)


async def list_people(
    kernel: Kernel,
    org: OrgId,
    project: ProjectId,
    page: Page,
    *,
    external_id: str | None,
    email: str | None,
    audience: AudienceId | None,
) -> Listed[Person]:
    if audience is None:
        return await store.list_people(kernel.db, org, project, external_id, email, page)
    if Bound.members is None:
        raise ValidationFailed({"audienceId": ["Not supported"]})
    if external_id is not None or email is not None:
        raise ValidationFailed({"audienceId": ["Cannot be combined with externalId or email"]})
    members = await Bound.members(kernel, org, project, audience, page)
    return Listed(await store.people_named(kernel.db, org, project, members.rows), members.total)


async def change(
    kernel: Kernel, principal: Principal, named: str, patch: ProfilePatch
) -> tuple[Person, Position | None]:
    """PATCH by way of the log (C94): the person as Postgres has it when the change has been stored."""
    _check(principal, patch)
    person = await find(kernel, principal.org, principal.project, named)
    if patch.email is UNSET and patch.traits is UNSET:
        return person, None
    record = _core.profile_record(
        principal.org.bytes,
        principal.project.bytes,
        person.external_id,
        millis(kernel.clock.now()),
        email=None if patch.email is UNSET else patch.email,
        traits=None if patch.traits is UNSET else encode(patch.traits),
    )
    position = await kernel.bus.append(record, 1)
    await _passed(kernel, position)
    return await find(kernel, principal.org, principal.project, person.external_id), position


async def delete(kernel: Kernel, principal: Principal, named: str) -> tuple[Person, Position]:
    """DELETE by way of the log (B070, C94): the person goes, and everybody whom the person has taken over."""
    person = await find(kernel, principal.org, principal.project, named)
    names = await store.names_of(kernel.db, principal.org, principal.project, person.external_id)
    position = await append_deletion(kernel, principal.org, principal.project, names)
    # From here on the deletion stands, whether or not it is seen in time.
    named_by = await orgs.person_hash(kernel, principal.org, person.external_id)
    await orgs.audit(kernel.db, principal, "profile.deleted", f"person:{named_by}")
    await _passed(kernel, position)
    return person, position


async def erase(kernel: Kernel, org: OrgId, project: ProjectId, external_id: str) -> int:
    """Forget one person here; how many profiles went. Rooms above go first: this one knows the person's other
    names."""
    names = await store.names_of(kernel.db, org, project, external_id)
    known = await store.count_named(kernel.db, org, project, names)
    await _passed(kernel, await append_deletion(kernel, org, project, names))
    return known


async def append_deletion(kernel: Kernel, org: OrgId, project: ProjectId, names: Sequence[str]) -> Position:
    """The deletion of these names in the log, all at one position: whatever stands behind it is somebody new. Nobody
    waits until the store has passed it."""
    at_ms = millis(kernel.clock.now())
    records = [_core.profile_record(org.bytes, project.bytes, name, at_ms, delete=True) for name in names]
    return await kernel.bus.append(b"".join(records), len(records))


async def export(kernel: Kernel, org: OrgId, project: ProjectId, external_id: str) -> AsyncIterator[dict[str, Any]]:
    person = await store.find(kernel.db, org, project, external_id)
    if person is not None:
        yield await _told(kernel, org, project, person)


async def export_all(kernel: Kernel, org: OrgId, project: ProjectId) -> AsyncIterator[dict[str, Any]]:
    async for person in everybody(kernel, org, project):
        yield await _told(kernel, org, project, person)


async def everybody(kernel: Kernel, org: OrgId, project: ProjectId) -> AsyncIterator[Person]:
    """All people of a project in the order of their names, page by page: nothing is held open between two pages."""
    after = ""
    while people := await store.people_behind(kernel.db, org, project, after, PEOPLE_MAX):
        for person in people:
            yield person
        after = people[-1].external_id


async def _told(kernel: Kernel, org: OrgId, project: ProjectId, person: Person) -> dict[str, Any]:
    return {
        "id": str(person.id),
        "externalId": person.external_id,
        "formerly": (await store.names_of(kernel.db, org, project, person.external_id))[1:],
        "email": person.email,
        "traits": person.traits,
        "locale": person.locale,
        "timezone": person.timezone,
        "lifecycleStage": person.lifecycle,
        "createdAt": iso(person.created_at),
        "lastSeenAt": iso(person.last_seen_at),
    }


async def classify(kernel: Kernel, org: OrgId) -> set[ProjectId]:
    """Set everybody's lifecycle stage by activity (`stage_of`, B064); the projects that were gone through. The one
    change of a profile that does not come by the log: nobody else writes this column."""
    now = kernel.clock.now()
    seen: set[ProjectId] = set()
    after = (ProjectId(NIL), "")
    while True:
        async with kernel.db.transaction() as connection:
            bite = await store.activity(connection, org, after, BITE_MAX)
            if not bite:
                return seen
            staged = [(one, stage_of(one.created_at, one.last_seen_at, now)) for one in bite]
            await store.set_stages(connection, org, [(one, stage) for one, stage in staged if stage != one.lifecycle])
        seen.update(one.project for one in bite)
        after = (bite[-1].project, bite[-1].external_id)


def _check(principal: Principal, patch: ProfilePatch) -> None:
    """The fields of a PATCH obey the rules of an identify, and the same check judges them."""
    given = {field: value for field, value in (("email", patch.email), ("traits", patch.traits)) if value is not UNSET}
    body = encode({"userId": "-", **given})
    checked = _core.check_identify(body, principal.org.bytes, principal.project.bytes, principal.environment, 0)
    if (problem := refusal(checked.malformed, checked.too_large, checked.errors)) is not None:
        raise problem


async def _passed(kernel: Kernel, position: Position) -> None:
    if not await wait(kernel, position):
        raise Unavailable(message="The change is accepted and will be visible soon; repeating it is harmless.")
