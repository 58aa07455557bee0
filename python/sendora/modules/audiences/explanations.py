"""One person: which rules hold, and why. The same evaluator that decides over all, on that person's rows alone."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from sendora import _core
from sendora.kernel.clock import from_millis, iso, millis
from sendora.kernel.errors import NotFound
from sendora.kernel.ids import OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.modules import profiles
from sendora.modules.audiences import contacts, store
from sendora.modules.audiences.model import Audience, Explained, compiled

NAMES_MAX: Final = 1_000
"""Names of one person whose events are read."""

SECOND_MS: Final = 1_000


async def of_audience(kernel: Kernel, audience: Audience, external_id: str, at: datetime | None = None) -> Explained:
    """Why a person is in an audience or not: now, or as of an earlier instant (see `evaluations_of`); raises NotFound.
    Somebody who was taken out of a contact list since is not seen there any more."""
    org, project = audience.org, audience.project
    if audience.rules is not None:
        return await of_rules(kernel, org, project, external_id, audience.rules, at)
    names = await profiles.names_of(kernel.db, org, project, external_id)
    held = [one for one in await contacts.of_person(kernel.db, org, project, names) if one.audience == audience.id]
    as_of = at or await store.as_of(kernel.db)
    since = next((one.added_at for one in held if one.added_at <= as_of), None)
    leaf = {
        "path": "",
        "truth": since is not None,
        "condition": {"list": str(audience.id)},
        "observed": {"addedAt": None if since is None else iso(since)},
        "flipsAt": None,
    }
    return Explained(member=since is not None, tree=leaf, as_of=iso(as_of))


async def of_rules(
    kernel: Kernel,
    org: OrgId,
    project: ProjectId,
    external_id: str,
    rules: dict[str, Any],
    at: datetime | None = None,
) -> Explained:
    """The same of a rule."""
    (evaluation,) = await evaluations_of(kernel, org, project, external_id, [compiled(rules)], explained=True, at=at)
    told = evaluation.explain(external_id)
    if told is None:  # Deleted since we asked.
        raise NotFound("Profile")
    explained = msgspec.json.decode(told, type=Explained)
    as_of = datetime.fromisoformat(explained.as_of)
    names = (await profiles.names_of(kernel.db, org, project, external_id))[:NAMES_MAX]
    for leaf in _event_leaves(explained.tree):
        seen = leaf["observed"].get("count", leaf["observed"].get("last"))
        leaf["firstMatchAt"] = None
        if seen:
            leaf["firstMatchAt"] = await _first(
                kernel, org, project, external_id, names, leaf["condition"], as_of, until=at
            )
    return explained


async def evaluations_of(
    kernel: Kernel,
    org: OrgId,
    project: ProjectId,
    external_id: str,
    rules: Sequence[_core.Rule],
    *,
    explained: bool = False,
    at: datetime | None = None,
) -> list[_core.Evaluation]:
    """The rules over one person's rows, under every name that the person had; now, or as of an earlier instant: then
    with the events that had arrived by then, and with traits as they are now, since nobody keeps what they were."""
    names = await profiles.names_of(kernel.db, org, project, external_id)
    async with kernel.db.acquire() as connection:
        now_ms = millis(at or await store.as_of(connection))
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
                until=at,
                happened=happened,
                days=days,
                people=people,
            )
    return evaluations


async def _first(
    kernel: Kernel,
    org: OrgId,
    project: ProjectId,
    external_id: str,
    names: Sequence[str],
    condition: dict[str, Any],
    as_of: datetime,
    *,
    until: datetime | None,
) -> str | None:
    """The first event within the leaf's window that it counts. The library tells the last one that matches, so it is
    shown the window in a mirror; whole seconds, as everywhere in an explanation."""
    anywhen = {"event": condition["event"], "op": "occurred"}
    if condition.get("where") is not None:
        anywhen["where"] = condition["where"]
    mirror_ms = millis(as_of) // SECOND_MS * SECOND_MS + SECOND_MS - 1
    evaluation = _core.Evaluation(compiled({"all": [anywhen]}), mirror_ms, explained=True)
    async with kernel.db.acquire() as connection:
        await store.feed_mirrored(
            connection,
            org,
            project,
            external_id,
            names,
            compiled({"all": [condition]}),
            as_of,
            from_millis(mirror_ms),
            evaluation,
            until,
        )
    told = evaluation.explain(external_id)
    last = None if told is None else msgspec.json.decode(told)["tree"]["all"][0]["observed"]["last"]
    if last is None:
        return None
    first_ms = mirror_ms - millis(datetime.fromisoformat(last))
    return iso(from_millis(first_ms // SECOND_MS * SECOND_MS))


def _event_leaves(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "condition" in node:
        if "event" in node["condition"]:
            yield node
        return
    for child in [node["not"]] if "not" in node else node["all"] if "all" in node else node["any"]:
        yield from _event_leaves(child)


def _since(rules: Sequence[_core.Rule], now_ms: int) -> datetime | None:
    """The earliest instant that any of the rules looks at; None for ever."""
    asking = [rule.since(now_ms) for rule in rules if rule.event_types()]
    earliest = [since_ms for since_ms in asking if since_ms is not None]
    return None if len(earliest) < len(asking) or not earliest else from_millis(min(earliest))
