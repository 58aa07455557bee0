"""Who is in an audience, as of an instant; nothing of it is ever stored (B075).

The library evaluates. It is asked through the index of the project, wherever that is held (`ask`, `home`), or fed with
rows out of Postgres (`rows`), which is slower and says the same; one person's rows are read right here. The stores are
behind the log by some milliseconds; who needs its own write counted waits for the position first (delivery does, for
each send).
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from sendora import _core
from sendora.kernel.clock import from_millis, iso, millis
from sendora.kernel.errors import NotFound, Unavailable, ValidationFailed
from sendora.kernel.ids import AudienceId, OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.kernel.wire import Listed, Page
from sendora.modules import profiles
from sendora.modules.audiences import ask, reach, rows, store
from sendora.modules.audiences.model import (
    Audience,
    Counted,
    Explained,
    Leaf,
    Members,
    Membership,
    Preview,
    Question,
    Reply,
    compiled,
    excluding,
)

NAMES_MAX: Final = 1_000
"""Names of one person whose events are read."""


async def find(kernel: Kernel, org: OrgId, audience: AudienceId) -> Audience:
    """For whoever refers to it: a deleted one is found and resolves to nobody, one that never was is NotFound (C47)."""
    found = await store.find(kernel.db, org, audience)
    if found is None:
        raise NotFound("Audience")
    return found


async def members(kernel: Kernel, org: OrgId, audience: AudienceId, after: int = 0) -> Members:
    """Who is in the audience now, and no earlier than at this position of the log, if the stores have passed it.
    Nobody, when it was deleted meanwhile."""
    found = await store.find(kernel.db, org, audience)
    rule = _rule(kernel, found)
    if found is None or rule is None:
        return Members(as_of=await store.as_of(kernel.db), split=None)
    asked = await ask.question(kernel, org, found.project, found.rules, "members", after=after)
    as_of, project = from_millis(asked.as_of_ms), found.project.bytes
    if (known := await ask.members(kernel, asked)) is not None:
        return Members(as_of=as_of, split=await asyncio.to_thread(_core.Split, project, known))
    evaluation = await rows.evaluate(kernel, org, found.project, rule, as_of, purpose="send")
    return Members(as_of=as_of, split=await asyncio.to_thread(evaluation.split, project))


async def members_of(kernel: Kernel, org: OrgId, project: ProjectId, audience: AudienceId, page: Page) -> Listed[str]:
    """One page of external ids, in their order; raises NotFound."""
    found = await store.find(kernel.db, org, audience)
    if found is None or found.deleted_at is not None or found.project != project:
        raise NotFound("Audience")
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
    """How many people, how they come to be so few, and how many devices they have; raises Unavailable after 2 s."""
    others: list[dict[str, Any]] = []
    for place, id_ in enumerate(excluded):
        found = await store.find(kernel.db, org, AudienceId(id_))
        if found is None or found.project != project:
            raise ValidationFailed({f"excludeAudienceIds.{place}": ["No such audience"]})
        if _rule(kernel, found) is not None:  # Else it leaves out nobody (C47).
            others.append(found.rules)
    excluding(rules, others)
    asked = await ask.question(kernel, org, project, rules, "preview", excluded=tuple(others))
    reply = await ask.anybody(kernel, asked)
    return Preview(
        count=reply.count, addresses=reply.addresses, leaves=reply.leaves, as_of=iso(from_millis(asked.as_of_ms))
    )


async def explain(kernel: Kernel, org: OrgId, project: ProjectId, named: str, rule: _core.Rule) -> Explained:
    """Why one person is in or not, from that person's rows; raises NotFound."""
    person = await profiles.find(kernel, org, project, named)
    (evaluation,) = await evaluations_of(kernel, org, project, person.external_id, [rule], explained=True)
    told = evaluation.explain(person.external_id)
    if told is None:  # Deleted since we asked.
        raise NotFound("Profile")
    return msgspec.json.decode(told, type=Explained)


async def rules_of(kernel: Kernel, org: OrgId, project: ProjectId, audience: AudienceId) -> dict[str, Any]:
    """Of an audience that is there; raises NotFound."""
    found = await store.find(kernel.db, org, audience)
    if found is None or found.deleted_at is not None or found.project != project:
        raise NotFound("Audience")
    return found.rules


async def memberships_of(kernel: Kernel, org: OrgId, project: ProjectId, external_id: str) -> list[Membership]:
    """The audiences that one person is in now: the same evaluator over that person's rows alone."""
    candidates = [
        (audience, rule)
        for audience in await store.of_project(kernel.db, org, project)
        if (rule := _rule(kernel, audience)) is not None
    ]
    if not candidates:
        return []
    evaluations = await evaluations_of(kernel, org, project, external_id, [rule for _, rule in candidates])
    return [
        Membership(id=audience.id, name=audience.name)
        for (audience, _), evaluation in zip(candidates, evaluations, strict=True)
        if evaluation.contains(external_id)
    ]


async def size_of(kernel: Kernel, audience: Audience) -> Counted | None:
    """None when nobody answers in time (B076)."""
    asked = await ask.question(kernel, audience.org, audience.project, audience.rules, "count")
    try:
        reply = await ask.anybody(kernel, asked)
    except Unavailable:
        return None
    return Counted(count=reply.count, as_of=iso(from_millis(asked.as_of_ms)))


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
        addresses = await reach.of(kernel, org, project, await asyncio.to_thread(evaluation.members))
        return msgspec.json.encode(
            Reply(
                count=await asyncio.to_thread(evaluation.count),
                leaves=tuple(Leaf(path=path, alone=alone, remaining=left) for path, alone, left in steps),
                addresses=addresses,
            )
        )


async def evaluations_of(
    kernel: Kernel,
    org: OrgId,
    project: ProjectId,
    external_id: str,
    rules: Sequence[_core.Rule],
    *,
    explained: bool = False,
) -> list[_core.Evaluation]:
    """The rules over one person's rows, under every name that the person had."""
    names = await profiles.names_of(kernel.db, org, project, external_id)
    async with kernel.db.acquire() as connection:
        now_ms = millis(await store.as_of(connection))
        evaluations = [_core.Evaluation(rule, now_ms, explained=explained) for rule in rules]
        asking = [evaluation for evaluation, rule in zip(evaluations, rules, strict=True) if rule.event_types()]

        def happened(piece: bytes) -> None:
            for evaluation in asking:
                evaluation.feed_events(piece)

        def days(piece: bytes) -> None:
            for evaluation in asking:
                evaluation.feed_days(piece)

        def people(piece: bytes) -> None:
            for evaluation in evaluations:
                evaluation.feed_profiles(piece)

        async with store.snapshot(connection):
            await store.feed_one(
                connection,
                org,
                project,
                external_id,
                names[:NAMES_MAX],
                sorted({name for rule in rules for name in rule.event_types()}),
                _since(rules, now_ms),
                any(rule.wants_properties() for rule in rules),
                happened=happened,
                days=days,
                people=people,
            )
    return evaluations


def _rule(kernel: Kernel, audience: Audience | None) -> _core.Rule | None:
    """None resolves to nobody: deleted (B079), or a rule that this version does not understand any more."""
    if audience is None or audience.deleted_at is not None:
        return None
    try:
        return compiled(audience.rules)
    except ValidationFailed as refused:
        kernel.log.error("audience.rule_refused", audience=str(audience.id), errors=refused.field_errors)
        return None


def _since(rules: Sequence[_core.Rule], now_ms: int) -> datetime | None:
    """The earliest instant that any of the rules looks at; None for ever."""
    asking = [rule.since(now_ms) for rule in rules if rule.event_types()]
    earliest = [since_ms for since_ms in asking if since_ms is not None]
    return None if len(earliest) < len(asking) or not earliest else from_millis(min(earliest))
