"""Profiles over HTTP. Reads answer from Postgres; changes go through the log and wait for it (C94)."""

from typing import Final

from sendora.kernel.bus import Position, parse_position, position_text
from sendora.kernel.errors import Forbidden, NotFound, Unavailable, ValidationFailed
from sendora.kernel.http import Paged, Principal, Reply, delete, get, patch
from sendora.kernel.ids import AudienceId, SendId, parse_id
from sendora.kernel.life import Kernel
from sendora.kernel.wire import Listed, Page
from sendora.modules.profiles import service
from sendora.modules.profiles.model import Profile, ProfileDeleted, ProfilePatch, WhyNot, show


@get("/profiles/{profile_id}", scope="profiles:read", operation="getProfile", summary="Fetch a profile")
async def get_profile(kernel: Kernel, principal: Principal, profile_id: str, after: str | None = None) -> Profile:
    """By UUID or `externalId` (C70); whoever was taken over is answered as the person they became (C69). `after`, an
    X-Sendora-Position, waits up to 5 s until the change made there can be seen."""
    if after is not None:
        position = parse_position(after)
        if position is None:
            raise ValidationFailed({"after": ["Not an X-Sendora-Position"]})
        if not await service.wait(kernel, position):
            raise Unavailable(message="The profile store has not reached this position yet.")
    person = await service.find(kernel, principal.org, principal.project, profile_id)
    return show(person, await service.memberships_of(kernel, principal.org, principal.project, person))


@get("/profiles", scope="profiles:read", operation="listProfiles", summary="List profiles")
async def list_profiles(
    kernel: Kernel,
    principal: Principal,
    page: Page,
    external_id: str | None = None,
    email: str | None = None,
    audience_id: str | None = None,
) -> Paged[Profile]:
    """In the order of `externalId`. Those who were taken over are not listed."""
    audience = None
    if audience_id is not None:
        if (found := parse_id(audience_id)) is None:
            raise ValidationFailed({"audienceId": ["Not a UUID"]})
        audience = AudienceId(found)
    people = await service.list_people(
        kernel,
        principal.org,
        principal.project,
        page,
        external_id=external_id,
        email=email,
        audience=audience,
    )
    return Paged.of(Listed([show(person) for person in people.rows], people.total), page)


@get(
    "/profiles/{profile_id}/why-not",
    scope="profiles:read",
    operation="whyNot",
    summary="Say why somebody did not get a send, or is not in an audience",
)
async def why_not(
    kernel: Kernel,
    principal: Principal,
    profile_id: str,
    send_id: str | None = None,
    audience_id: str | None = None,
) -> WhyNot:
    """Exactly one of `sendId` and `audienceId`. Of a send: the audience as of `audienceAsOf` (events that had arrived
    by then; traits and exclusions as they are now), and what became of each of the person's recipients. Where there are
    recipients the plan has decided, and `member` says what it decided."""
    if (send_id is None) == (audience_id is None):
        raise ValidationFailed({"sendId": ["Give either sendId or audienceId"]})
    send, audience = parse_id(send_id or ""), parse_id(audience_id or "")
    if send_id is not None and send is None:
        raise NotFound("Send")
    if audience_id is not None and audience is None:
        raise ValidationFailed({"audienceId": ["Not a UUID"]})
    return await service.why_not(
        kernel,
        principal.org,
        principal.project,
        profile_id,
        None if send is None else SendId(send),
        None if audience is None else AudienceId(audience),
    )


@patch("/profiles/{profile_id}", scope="profiles:write", operation="updateProfile", summary="Change a profile")
async def update_profile(kernel: Kernel, principal: Principal, profile_id: str, data: ProfilePatch) -> Reply[Profile]:
    """Traits are merged, null removes one. Answers when the change can be read; 503 when that takes longer than 5 s:
    the change stands, and repeating it is harmless (C94)."""
    person, position = await service.change(kernel, principal, profile_id, data)
    memberships = await service.memberships_of(kernel, principal.org, principal.project, person)
    return Reply(data=show(person, memberships), headers=_at(position))


@delete(
    "/profiles/{profile_id}",
    scope="profiles:write",
    role="ADMIN",
    raises=(Forbidden, NotFound),
    operation="deleteProfile",
    summary="Delete a profile",
)
async def delete_profile(kernel: Kernel, principal: Principal, profile_id: str) -> Reply[ProfileDeleted]:
    """The profile and those that it has taken over (B070). Waits as PATCH does (C94)."""
    person, position = await service.delete(kernel, principal, profile_id)
    return Reply(data=ProfileDeleted(id=person.id, deleted=True), headers=_at(position))


def _at(position: Position | None) -> dict[str, str]:
    return {} if position is None else {"X-Sendora-Position": position_text(position)}


ROUTES: Final = (get_profile, list_profiles, why_not, update_profile, delete_profile)
