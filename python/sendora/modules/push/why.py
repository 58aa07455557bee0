"""Why somebody did not get a push: the audience, the exclusions, the devices, and what became of each recipient.

The first thing that stood in the way is looked for in the order in which a send decides. What the plan has decided
stands in the ledger, and that counts; what it passed over left no trace there, and is evaluated anew as of the same
instant, on what is known now.
"""

from typing import Final

import msgspec

from sendora.delivery import people as ledger
from sendora.delivery import submit as delivery
from sendora.delivery.phases import Send
from sendora.kernel.errors import NotFound
from sendora.kernel.ids import AudienceId, OrgId, ProjectId, SendId
from sendora.kernel.life import Kernel
from sendora.modules import audiences, profiles
from sendora.modules.profiles import Person, WhyNot, WhyRecipient
from sendora.modules.push.channel import NAME
from sendora.modules.push.model.sends import Target
from sendora.modules.push.store import tokens

ACCEPTED: Final = "accepted"
CANCELLED: Final = "cancelled"
NOT_PLANNED: Final = "not_planned"
AUDIENCE_DELETED: Final = "audience_deleted"
NOT_A_MEMBER: Final = "not_a_member"
EXCLUDED: Final = "excluded"
NOT_NAMED: Final = "not_named"
UNREACHABLE: Final = "unreachable"


async def why_not(
    kernel: Kernel,
    org: OrgId,
    project: ProjectId,
    person: Person,
    send: SendId | None,
    audience: AudienceId | None,
) -> WhyNot:
    """Of a send of this project, or of an audience that is there; raises NotFound."""
    names = await profiles.names_of(kernel.db, org, project, person.external_id)
    devices = await tokens.of_names(kernel.db, org, project, names)
    reachable = any(devices.values())
    if send is not None:
        found = await delivery.find_send(kernel, org, send, project=project)
        if found.channel != NAME:
            raise NotFound("Send")
        recipients = await ledger.of_send(
            kernel,
            org,
            send,
            persons=names,
            addresses=list(devices),
            shards=list(tokens.shards(project, names)),
        )
        return await _of_send(kernel, person, found, recipients, reachable)
    told = await _of_audience(kernel, org, project, audience, person)
    return WhyNot(
        profile_id=person.id,
        member=told.member,
        tree=told.tree,
        recipients=(),
        reason=NOT_A_MEMBER if not told.member else None if reachable else UNREACHABLE,
    )


async def _of_audience(
    kernel: Kernel, org: OrgId, project: ProjectId, audience: AudienceId | None, person: Person
) -> audiences.Explained:
    found = None if audience is None else await audiences.find(kernel, org, audience)
    if found is None or found.deleted_at is not None or found.project != project:
        raise NotFound("Audience")
    return await audiences.explain(kernel, found, person.external_id)


async def _of_send(
    kernel: Kernel, person: Person, send: Send, recipients: list[ledger.OfSend], reachable: bool
) -> WhyNot:
    target = msgspec.convert(send.target, Target)
    told, is_deleted = None, False
    if target.audience_id is not None:
        found = await audiences.find(kernel, send.org, AudienceId(target.audience_id))
        is_deleted = found.deleted_at is not None
        if not is_deleted:
            told = await audiences.explain(kernel, found, person.external_id, send.audience_as_of)
    member = None if told is None else told.member or bool(recipients)
    reason, excluded_by = _became(recipients), None
    if not recipients:
        if send.planned_at is None:
            reason = CANCELLED if send.status == CANCELLED else NOT_PLANNED
        elif is_deleted:
            reason = AUDIENCE_DELETED
        elif member is False:
            reason = NOT_A_MEMBER
        elif (excluded_by := await _excluded_by(kernel, person, send, target)) is not None:
            reason = EXCLUDED
        elif target.audience_id is None and reachable:
            reason = NOT_NAMED
        else:
            reason = UNREACHABLE
    return WhyNot(
        profile_id=person.id,
        member=member,
        tree=None if told is None else told.tree,
        recipients=tuple(
            WhyRecipient(recipient_id=one.recipient_id, state=one.state, reason=one.reason) for one in recipients
        ),
        reason=reason,
        excluded_by=excluded_by,
    )


async def _excluded_by(kernel: Kernel, person: Person, send: Send, target: Target) -> AudienceId | None:
    for id_ in target.exclude_audience_ids or ():
        found = await audiences.find(kernel, send.org, AudienceId(id_))
        if found.deleted_at is None:
            told = await audiences.explain(kernel, found, person.external_id, send.audience_as_of)
            if told.member:
                return found.id
    return None


def _became(recipients: list[ledger.OfSend]) -> str | None:
    """Nothing stood in the way of somebody whom one message reached; else what kept back the first."""
    if not recipients or any(one.state == ACCEPTED for one in recipients):
        return None
    first = recipients[0]
    return first.state if first.reason is None else f"{first.state}: {first.reason}"
