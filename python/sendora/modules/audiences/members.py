"""Whom a send is for: the people of an audience, or named ones, less the people of other audiences (exclusions).

Rules are evaluated as of one instant, exclusions that are rules within the rule itself where they still make one.
Contact lists lie in PostgreSQL: they are read, and taken off, in the transaction in which the send is planned, a shard
at a time. A deleted audience is nobody: as a target nobody is reached, as an exclusion nobody is left out (B079, C47).
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from sendora import _core
from sendora.kernel.clock import from_millis
from sendora.kernel.errors import ValidationFailed
from sendora.kernel.ids import AudienceId, OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Connection
from sendora.modules.audiences import ask, contacts, rows, store
from sendora.modules.audiences.contacts import Sieve
from sendora.modules.audiences.model import Audience, compiled, excluding


class Exclusions(msgspec.Struct, frozen=True):
    """Audiences whose people are left out, as they are now."""

    rules: tuple[dict[str, Any], ...] = ()
    lists: tuple[AudienceId, ...] = ()


class Members:
    """The people of an audience less its exclusions, by shard of the dispatch cluster.

    `open` it on a connection, in the transaction in which it is read; then ask for one shard after the other.
    """

    def __init__(
        self,
        org: OrgId,
        project: ProjectId,
        as_of: datetime,
        *,
        split: _core.Split | None = None,
        within: AudienceId | None = None,
        minus: Sequence[_core.Split] = (),
        without: Sequence[AudienceId] = (),
    ) -> None:
        """The people of a rule (`split`) or of a contact list (`within`), nobody without either; less those of rules
        (`minus`) and of lists (`without`)."""
        self.as_of = as_of
        self._org = org
        self._project = project
        self._split = split
        self._within = within
        self._minus = minus
        self._without = without
        self._sieve: Sieve | None = None
        self._is_sieved = within is not None or bool(minus) or bool(without)
        """Else what the rule found is all there is to say."""

    async def open(self, connection: Connection) -> None:
        if self._is_sieved:
            self._sieve = Sieve(connection, self._org, self._project, self._without)
            await self._sieve.open(self._within)

    async def of(self, shard: int) -> bytes | None:
        """pgcopy of their external ids; None for nobody at all."""
        if not self._is_sieved:
            return None if self._split is None else self._split.of(shard)
        if self._sieve is None:
            raise RuntimeError("not open: nobody would be left out")
        minus = [split.of(shard) for split in self._minus]
        if self._within is not None:
            return await self._sieve.contacts(self._within, shard, minus)
        return None if self._split is None else await self._sieve.people(self._split.of(shard), minus, shard)


async def members(
    kernel: Kernel,
    org: OrgId,
    project: ProjectId,
    audience: AudienceId,
    excluded: Sequence[AudienceId] = (),
    after: int = 0,
) -> Members:
    """Who is in the audience now and in none of the excluded ones, and no earlier than at this position of the log, if
    the stores have passed it. Nobody, when it was deleted meanwhile."""
    as_of = await store.as_of(kernel.db)
    found = await store.find(kernel.db, org, audience)
    if found is None or found.deleted_at is not None:
        return Members(org, project, as_of)
    if (refused := refusal_of(found)) is not None:
        kernel.log.error("audience.rule_refused", audience=str(audience), reason=refused)
        await store.failed(kernel.db, org, audience, refused)
        return Members(org, project, as_of)
    left_out = await exclusions(kernel, org, project, excluded)
    if found.rules is None:
        minus = [await _split(kernel, org, project, one, as_of, after) for one in _any_of(left_out.rules)]
        return Members(org, project, as_of, within=audience, minus=minus, without=left_out.lists)
    rules, apart = _together(found.rules, left_out.rules)
    split = await _split(kernel, org, project, rules, as_of, after)
    minus = [await _split(kernel, org, project, one, as_of, after) for one in _any_of(apart)]
    if not left_out.rules:
        await store.evaluated(kernel.db, org, {audience: (as_of, len(split))})
    return Members(org, project, as_of, split=split, minus=minus, without=left_out.lists)


async def leave_out(
    kernel: Kernel, org: OrgId, project: ProjectId, names: Sequence[str], excluded: Sequence[AudienceId]
) -> tuple[datetime, list[str]]:
    """Now, and those of the named people (10,000 at most) who are in none of the excluded audiences. Somebody without
    a profile is in no rule."""
    left_out = await exclusions(kernel, org, project, excluded)
    as_of = await store.as_of(kernel.db)
    led = await contacts.find(kernel.db, org, project, names, left_out.lists)
    people = sorted({named.person for named in led.values()})
    out: set[str] = set()
    for rules in left_out.rules:
        _, found = await rows.decide(kernel, org, project, compiled(rules), as_of, people)
        out.update(_core.member_names(found, 0, len(people)))
    return as_of, [name for name in names if not led[name].listed and led[name].person not in out]


async def exclusions(kernel: Kernel, org: OrgId, project: ProjectId, excluded: Sequence[AudienceId]) -> Exclusions:
    """Those that leave out somebody: deleted ones do not (C47). One whose rules this version does not understand must
    not be passed over, because then people would be reached who were left out: ValidationFailed."""
    rules, lists = [], []
    for one in dict.fromkeys(excluded):
        found = await store.find(kernel.db, org, one)
        if found is None or found.deleted_at is not None or found.project != project:
            continue
        if (refused := refusal_of(found)) is not None:
            raise ValidationFailed({"excludeAudienceIds": [f"{one}: {refused}"]})
        if found.rules is None:
            lists.append(one)
        else:
            rules.append(found.rules)
    return Exclusions(tuple(rules), tuple(lists))


def refusal_of(audience: Audience) -> str | None:
    """Why an audience's rules cannot be evaluated, in words; None when they can."""
    if audience.rules is None:
        return None
    try:
        compiled(audience.rules)
    except ValidationFailed as refused:
        place, (said, *_) = next(iter(refused.field_errors.items()))
        return f"The rules are not understood: {place}: {said}"
    return None


def _together(
    rules: dict[str, Any], excluded: tuple[dict[str, Any], ...]
) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    """One rule that says both, and what does not fit into it: exclusions may make it too deep or too wide."""
    try:
        excluding(rules, excluded)
    except ValidationFailed:
        return rules, excluded
    return ({"all": [rules, *({"not": other} for other in excluded)]} if excluded else rules), ()


def _any_of(rules: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    """As one rule, where they fit."""
    together = {"any": list(rules)}
    try:
        compiled(together)
    except ValidationFailed:
        return rules
    return (together,) if rules else ()


async def _split(
    kernel: Kernel, org: OrgId, project: ProjectId, rules: dict[str, Any], as_of: datetime, after: int
) -> _core.Split:
    """From the index, or from rows when that cannot tell."""
    asked = await ask.question(kernel, org, project, rules, "members", after=after, as_of=as_of)
    if (known := await ask.members(kernel, asked)) is not None:
        return await asyncio.to_thread(_core.Split, project.bytes, known)
    evaluation = await rows.evaluate(kernel, org, project, compiled(rules), from_millis(asked.as_of_ms), purpose="send")
    return await asyncio.to_thread(evaluation.split, project.bytes)
