"""Who is in an audience, as of an instant; nothing of it is ever stored (B075).

The library evaluates; here it is fed from Postgres. An evaluation holds a few counters for each person and leaf and
reads the streams piece by piece, so a project of millions fits. The stores are behind the log by some milliseconds; who
needs its own write counted waits for the position first (delivery does, for each send).
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from sendora import _core
from sendora.kernel.clock import from_millis, iso, millis
from sendora.kernel.errors import NotFound, Unavailable, ValidationFailed
from sendora.kernel.ids import AudienceId, OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Connection
from sendora.kernel.wire import Listed, Page
from sendora.modules import profiles
from sendora.modules.audiences import store
from sendora.modules.audiences.model import Audience, Counted, Members, Membership, Question, compiled

ASK_SUBJECT: Final = "ask.audiences.evaluate"

ASK_S: Final = 2.0
"""How long an API process waits for a size; then it is null (design 5)."""

NAMES_MAX: Final = 1_000
"""Names of one person whose events are read."""


async def evaluate(
    kernel: Kernel,
    connection: Connection,
    org: OrgId,
    project: ProjectId,
    rule: _core.Rule,
    as_of: datetime,
    *,
    purpose: str,
) -> _core.Evaluation:
    """The rule over everybody of a project. One snapshot for both streams, so that nobody is seen half taken over."""
    began = kernel.clock.monotonic()
    evaluation = _core.Evaluation(rule, millis(as_of))
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await store.feed_all(connection, org, project, rule, as_of, evaluation)
    kernel.metrics.count("audience_evaluations", purpose=purpose)
    kernel.metrics.observe("audience_seconds", kernel.clock.monotonic() - began, purpose=purpose)
    return evaluation


async def find(kernel: Kernel, org: OrgId, audience: AudienceId) -> Audience:
    """For whoever refers to it: a deleted one is found and resolves to nobody, one that never was is NotFound (C47)."""
    found = await store.find(kernel.db, org, audience)
    if found is None:
        raise NotFound("Audience")
    return found


async def members(kernel: Kernel, org: OrgId, audience: AudienceId) -> Members:
    """Who is in the audience now. Nobody, when it was deleted meanwhile."""
    async with kernel.db.acquire() as connection:
        found = await store.find(connection, org, audience)
        as_of = await store.as_of(connection)
        rule = _rule(kernel, found)
        if found is None or rule is None:
            return Members(as_of=as_of, split=None)
        evaluation = await evaluate(kernel, connection, org, found.project, rule, as_of, purpose="send")
    return Members(as_of=as_of, split=await asyncio.to_thread(evaluation.split, found.project.bytes))


async def members_of(kernel: Kernel, org: OrgId, project: ProjectId, audience: AudienceId, page: Page) -> Listed[str]:
    """One page of external ids, in their order; raises NotFound."""
    found = await store.find(kernel.db, org, audience)
    if found is None or found.deleted_at is not None or found.project != project:
        raise NotFound("Audience")
    rule = _rule(kernel, found)
    if rule is None:
        return Listed([], 0)
    async with kernel.db.acquire() as connection:
        as_of = await store.as_of(connection)
        evaluation = await evaluate(kernel, connection, org, project, rule, as_of, purpose="list")
    rows = await asyncio.to_thread(evaluation.page, page.offset, page.size)
    return Listed(rows, await asyncio.to_thread(evaluation.count))


async def memberships_of(kernel: Kernel, org: OrgId, project: ProjectId, external_id: str) -> list[Membership]:
    """The audiences that one person is in now: the same evaluator over that person's rows alone."""
    candidates = [
        (audience, rule)
        for audience in await store.of_project(kernel.db, org, project)
        if (rule := _rule(kernel, audience)) is not None
    ]
    if not candidates:
        return []
    names = await profiles.names_of(kernel.db, org, project, external_id)
    async with kernel.db.acquire() as connection:
        now_ms = millis(await store.as_of(connection))
        evaluations = [_core.Evaluation(rule, now_ms) for _, rule in candidates]
        paired = zip(evaluations, candidates, strict=True)
        asking = [evaluation for evaluation, (_, rule) in paired if rule.event_types()]

        def events(piece: bytes) -> None:
            for evaluation in asking:
                evaluation.feed_events(piece)

        def people(piece: bytes) -> None:
            for evaluation in evaluations:
                evaluation.feed_profiles(piece)

        await store.feed_one(
            connection,
            org,
            project,
            external_id,
            names[:NAMES_MAX],
            sorted({name for _, rule in candidates for name in rule.event_types()}),
            _since([rule for _, rule in candidates], now_ms),
            any(rule.wants_properties() for _, rule in candidates),
            events=events,
            people=people,
        )
    return [
        Membership(id=audience.id, name=audience.name)
        for (audience, _), evaluation in zip(candidates, evaluations, strict=True)
        if evaluation.contains(external_id)
    ]


async def size_of(kernel: Kernel, audience: Audience) -> Counted | None:
    """Ask a worker; None when none answers in time (B076)."""
    question = Question(org=audience.org, project=audience.project, rules=audience.rules)
    try:
        answer = await kernel.bus.ask(ASK_SUBJECT, msgspec.json.encode(question), ASK_S)
    except Unavailable:
        return None
    return msgspec.json.decode(answer, type=Counted)


async def answer(kernel: Kernel, payload: bytes) -> bytes:
    """`ask.audiences.evaluate`, in a worker. Nobody waits longer than the deadline, so nothing goes on after it."""
    question = msgspec.json.decode(payload, type=Question)
    rule = compiled(question.rules)
    async with asyncio.timeout(ASK_S), kernel.db.acquire() as connection:
        as_of = await store.as_of(connection)
        evaluation = await evaluate(
            kernel, connection, OrgId(question.org), ProjectId(question.project), rule, as_of, purpose="size"
        )
        count = await asyncio.to_thread(evaluation.count)
    return msgspec.json.encode(Counted(count=count, as_of=iso(as_of)))


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
