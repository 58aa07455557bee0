"""Who is in an audience, as of an instant; nothing of it is ever stored (B075).

The library evaluates. It is asked through the index of the project, wherever that is held (`ask`, `home`), or fed with
rows out of Postgres (`rows`), which is slower and says the same; one person's rows are read right here. The stores are
behind the log by some milliseconds; who needs its own write counted waits for the position first (delivery does, for
each send).
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final
from uuid import UUID

import msgspec

from sendora import _core
from sendora.kernel.clock import from_millis, iso
from sendora.kernel.errors import Conflict, NotFound, Unavailable, ValidationFailed
from sendora.kernel.ids import AudienceId, OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Connection, Database
from sendora.kernel.wire import Listed, Page
from sendora.modules import profiles
from sendora.modules.audiences import ask, bound, contacts, explanations, rows, store
from sendora.modules.audiences.explanations import evaluations_of
from sendora.modules.audiences.members import exclusions, refusal_of
from sendora.modules.audiences.model import (
    Audience,
    ContactsAdded,
    Counted,
    Explained,
    Leaf,
    Membership,
    Preview,
    Question,
    Reply,
    compiled,
    excluding,
)

SIZES_AT_ONCE: Final = 4
"""Audiences of a page that are counted at the same time; each holds a connection for a moment."""

NOBODY: Final = "No worker answered within 2 s."


async def find(kernel: Kernel, org: OrgId, audience: AudienceId) -> Audience:
    """For whoever refers to it: a deleted one is found and resolves to nobody, one that never was is NotFound (C47)."""
    found = await store.find(kernel.db, org, audience)
    if found is None:
        raise NotFound("Audience")
    return found


async def members_of(kernel: Kernel, org: OrgId, project: ProjectId, audience: AudienceId, page: Page) -> Listed[str]:
    """One page of external ids, in their order; raises NotFound."""
    found = await store.find(kernel.db, org, audience)
    if found is None or found.deleted_at is not None or found.project != project:
        raise NotFound("Audience")
    if found.rules is None:
        return await contacts.page_of_people(kernel.db, org, project, audience, page)
    rule = _rule(kernel, found)
    if rule is None:
        return Listed([], 0)
    asked = await ask.question(kernel, org, project, found.rules, "page", offset=page.offset, size=page.size)
    if (known := await ask.page(kernel, asked)) is not None:
        return Listed(known[1], known[0])
    evaluation = await rows.evaluate(kernel, org, project, rule, from_millis(asked.as_of_ms), purpose="list")
    names = await asyncio.to_thread(evaluation.page, page.offset, page.size)
    return Listed(names, await asyncio.to_thread(evaluation.count))


async def preview(
    kernel: Kernel, org: OrgId, project: ProjectId, rules: dict[str, Any], excluded: Sequence[UUID]
) -> Preview:
    """How many people, how they come to be so few, and how many devices they have; raises Unavailable after 2 s.
    Exclusions are rules or contact lists; a deleted one leaves out nobody (C47)."""
    for place, id_ in enumerate(excluded):
        found = await store.find(kernel.db, org, AudienceId(id_))
        if found is None or found.project != project:
            raise ValidationFailed({f"excludeAudienceIds.{place}": ["No such audience"]})
    left_out = await exclusions(kernel, org, project, [AudienceId(id_) for id_ in excluded])
    excluding(rules, left_out.rules)
    asked = await ask.question(
        kernel, org, project, rules, "preview", excluded=left_out.rules, without=tuple(left_out.lists)
    )
    reply = await ask.anybody(kernel, asked)
    return Preview(
        count=reply.count, addresses=reply.addresses, leaves=reply.leaves, as_of=iso(from_millis(asked.as_of_ms))
    )


async def explain(kernel: Kernel, org: OrgId, project: ProjectId, named: str, rules: dict[str, Any]) -> Explained:
    """Why one person is in or not, from that person's rows; raises NotFound."""
    person = await profiles.find(kernel, org, project, named)
    return await explanations.of_rules(kernel, org, project, person.external_id, rules)


async def explain_audience(
    kernel: Kernel, org: OrgId, project: ProjectId, named: str, audience: AudienceId
) -> Explained:
    """The same of an audience that is there; raises NotFound."""
    found = await store.find(kernel.db, org, audience)
    if found is None or found.deleted_at is not None or found.project != project:
        raise NotFound("Audience")
    person = await profiles.find(kernel, org, project, named)
    return await explanations.of_audience(kernel, found, person.external_id)


async def memberships_of(kernel: Kernel, org: OrgId, project: ProjectId, external_id: str) -> list[Membership]:
    """The audiences that one person is in now: the same evaluator over that person's rows alone, and the contact lists
    that have the person under any name."""
    names = await profiles.names_of(kernel.db, org, project, external_id)
    held = {one.audience for one in await contacts.of_person(kernel.db, org, project, names)}
    of_project = await store.of_project(kernel.db, org, project)
    candidates = [(audience, rule) for audience in of_project if (rule := _rule(kernel, audience)) is not None]
    if candidates:
        evaluations = await evaluations_of(kernel, org, project, external_id, [rule for _, rule in candidates])
        for (audience, _), evaluation in zip(candidates, evaluations, strict=True):
            if evaluation.contains(external_id):
                held.add(audience.id)
    return [Membership(id=audience.id, name=audience.name) for audience in of_project if audience.id in held]


async def size_of(kernel: Kernel, audience: Audience) -> Counted | None:
    """Whoever can tell within 2 s; None when nobody does, and then the audience says why (B076)."""
    try:
        async with ask.within(ask.ASK_S):
            if audience.rules is None:
                counted = await _count_list(kernel, audience)
            else:
                asked = await ask.question(kernel, audience.org, audience.project, audience.rules, "count")
                reply = await ask.anybody(kernel, asked)
                counted = Counted(count=reply.count, as_of=from_millis(asked.as_of_ms))
    except Unavailable:
        await store.failed(kernel.db, audience.org, audience.id, refusal_of(audience) or NOBODY)
        return None
    await store.evaluated(kernel.db, audience.org, {audience.id: (counted.as_of, counted.count)})
    return counted


async def sizes_of(kernel: Kernel, org: OrgId, audiences: Sequence[Audience]) -> dict[AudienceId, Counted]:
    """Of a page, as far as indexes and lists tell within 2 s; who is missing has not been counted. An index that is
    not there yet is made, so the next look knows more."""
    sizes: dict[AudienceId, Counted] = {}
    turn = asyncio.Semaphore(SIZES_AT_ONCE)

    async def count(audience: Audience) -> None:
        async with turn:
            if audience.rules is None:
                sizes[audience.id] = await _count_list(kernel, audience)
                return
            asked = await ask.question(kernel, org, audience.project, audience.rules, "count")
            replies = await ask.index(kernel, asked, ask.ASK_S)
            if replies is not None:
                sizes[audience.id] = Counted(count=ask.added(replies).count, as_of=from_millis(asked.as_of_ms))

    with suppress(Unavailable):
        async with ask.within(ask.ASK_S):
            await asyncio.gather(*map(count, audiences))
    if sizes:
        await store.evaluated(kernel.db, org, {id_: (one.as_of, one.count) for id_, one in sizes.items()})
    return sizes


async def _count_list(kernel: Kernel, audience: Audience) -> Counted:
    as_of = await store.as_of(kernel.db)
    counted = await contacts.count_people(kernel.db, audience.org, audience.project, audience.id)
    return Counted(count=counted, as_of=as_of)


async def add_contacts(kernel: Kernel, org: OrgId, audience: AudienceId, names: Sequence[str]) -> ContactsAdded:
    """Raises NotFound, or Conflict where there are rules. Adding somebody twice is harmless."""
    given = list(dict.fromkeys(names))
    async with kernel.db.transaction() as connection:
        found = await list_of(connection, org, audience)
        added, unknown = await contacts.add(connection, org, found.project, audience, given)
    return ContactsAdded(added=added, already=len(given) - len(unknown) - added, unknown=tuple(unknown))


async def remove_contact(kernel: Kernel, org: OrgId, audience: AudienceId, named: str) -> bool:
    """Whether the person, or whoever had that name, was in the list under any name."""
    found = await list_of(kernel.db, org, audience)
    names = [named]
    with suppress(NotFound):  # Somebody who was deleted may still stand here.
        person = await profiles.find(kernel, org, found.project, named)
        names += await profiles.names_of(kernel.db, org, found.project, person.external_id)
    return await contacts.remove(kernel.db, org, found.project, audience, names) > 0


async def list_of(db: Database | Connection, org: OrgId, audience: AudienceId) -> Audience:
    """A contact list that is there: NotFound without one, Conflict where there are rules."""
    found = await store.find(db, org, audience)
    if found is None or found.deleted_at is not None:
        raise NotFound("Audience")
    if found.rules is not None:
        raise Conflict("This audience is made of rules: nobody can be put into it by hand.", "audience_of_rules")
    return found


async def answer(kernel: Kernel, payload: bytes) -> bytes:
    """`ask.audiences.evaluate`, in a worker: by rows. Nobody waits longer than the deadline, so nothing goes on after
    it."""
    asked = msgspec.json.decode(payload, type=Question)
    org, project, as_of = OrgId(asked.org), ProjectId(asked.project), from_millis(asked.as_of_ms)
    rule = excluding(asked.rules, asked.excluded)
    async with asyncio.timeout(ask.ASK_S):
        if asked.want == "count":
            evaluation = await rows.evaluate(kernel, org, project, rule, as_of, purpose="size")
            return msgspec.json.encode(Reply(count=await asyncio.to_thread(evaluation.count)))
        plain = evaluation = await rows.evaluate(kernel, org, project, rule, as_of, purpose="preview")
        if asked.excluded:
            plain = await rows.evaluate(kernel, org, project, compiled(asked.rules), as_of, purpose="preview")
        _, steps = await asyncio.to_thread(plain.preview)
        count, members = await asyncio.to_thread(evaluation.count), await asyncio.to_thread(evaluation.members)
        if asked.without:
            count, members = await contacts.leave_out(kernel.db, org, project, members, asked.without)
        return msgspec.json.encode(
            Reply(
                count=count,
                leaves=tuple(Leaf(path=path, alone=alone, remaining=left) for path, alone, left in steps),
                addresses=await bound.addresses_of(kernel, org, project, members),
            )
        )


def _rule(kernel: Kernel, audience: Audience) -> _core.Rule | None:
    """None: a list, or a rule that this version does not understand any more, which is nobody."""
    if (refused := refusal_of(audience)) is not None:
        kernel.log.error("audience.rule_refused", audience=str(audience.id), reason=refused)
        return None
    return None if audience.rules is None else compiled(audience.rules)
