"""A person of a project (B058-B063, C69, C70)."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from sendora.kernel.errors import PayloadTooLarge, Problem, ValidationFailed
from sendora.kernel.ids import OrgId, ProfileId, ProjectId
from sendora.kernel.wire import UNSET, UnsetType, Wire, WireIn

NEW_FOR: Final = timedelta(days=7)
AT_RISK_AFTER: Final = timedelta(days=30)
CHURNED_AFTER: Final = timedelta(days=90)
"""A week, a month and a quarter: the windows in which such stages are usually told."""

Lifecycle = Literal["new", "active", "at_risk", "churned"]

TRAITS_BYTES_MAX: Final = 262_144
"""A profile of this size in storage takes no further traits, so that nobody can grow one row without end by many small
calls. Each call alone is bounded by ingest (B035), and its event keeps what it brought."""

ALIASES_MAX: Final = 1_000
"""Anonymous persons that one person has taken over and that a deletion takes along: devices, over many years."""

Name = tuple[OrgId, ProjectId, str]
"""What names a person everywhere: org, project, external id."""


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `profiles`."""

    id: ProfileId
    external_id: str
    email: str | None
    traits: dict[str, Any]
    locale: str | None
    timezone: str | None
    lifecycle: Lifecycle | None
    created_at: datetime
    last_seen_at: datetime


class Profile(Wire, frozen=True, kw_only=True):
    """A person as the API shows it."""

    id: UUID
    external_id: str
    email: str | None
    traits: dict[str, Any]
    audience_memberships: list[Any] | UnsetType = UNSET
    """As of now; not in lists, where each would be an evaluation of every audience."""
    lifecycle_stage: Lifecycle | None
    locale: str | None
    timezone: str | None
    created_at: datetime
    last_seen_at: datetime
    """Written at most once a minute."""


class WhyRecipient(Wire, frozen=True, kw_only=True):
    """One of the person's recipients of a send."""

    recipient_id: UUID
    state: str
    """accepted, rejected, suppressed, expired, unknown, or open."""
    reason: str | None


class WhyNot(Wire, frozen=True, kw_only=True):
    """Why a person did not get a send, or is not in an audience."""

    profile_id: UUID
    member: bool | None
    """In the audience; null for a send that named its people, and for a deleted audience of one."""
    tree: dict[str, Any] | None
    """As `POST /audiences/explain` tells it; null where `member` is."""
    recipients: tuple[WhyRecipient, ...]
    """Of the send; empty when there are none."""
    reason: str | None
    """The first thing that stood in the way; null when nothing did. In this order: `cancelled`, `not_planned` (nobody
    is a recipient yet), `audience_deleted`, `not_a_member`, `excluded`, `not_named`, `unreachable` (no active device),
    then what became of the recipients, such as `suppressed: frequency_cap` or `open: quiet_hours`."""
    excluded_by: UUID | None = None
    """The exclusion audience that the person is in."""


class ProfilePatch(WireIn, frozen=True, kw_only=True):
    """Traits are merged; null removes one."""

    email: str | UnsetType = UNSET
    traits: dict[str, Any] | UnsetType = UNSET


class ProfileDeleted(Wire, frozen=True, kw_only=True):
    id: UUID
    deleted: bool


class _Item(Wire, frozen=True, kw_only=True):
    field_errors: dict[str, list[str]]


def stage_of(created_at: datetime, last_seen_at: datetime, now: datetime) -> Lifecycle:
    """The lifecycle stage by a rule on activity (B064): whoever was not seen for 90 days has churned, for 30 days is at
    risk; of the others, whoever came within the last 7 days is new."""
    away = now - last_seen_at
    if away >= CHURNED_AFTER:
        return "churned"
    if away >= AT_RISK_AFTER:
        return "at_risk"
    return "new" if now - created_at < NEW_FOR else "active"


def show(person: Person, memberships: list[Any] | UnsetType = UNSET) -> Profile:
    return Profile(
        id=person.id,
        external_id=person.external_id,
        email=person.email,
        traits=person.traits,
        audience_memberships=memberships,
        lifecycle_stage=person.lifecycle,
        locale=person.locale,
        timezone=person.timezone,
        created_at=person.created_at,
        last_seen_at=person.last_seen_at,
    )


def refusal(malformed: tuple[str, str] | None, too_large: str | None, errors: bytes) -> Problem | None:
    """What the library's check of an identify says of a PATCH, whose fields obey the same rules."""
    if too_large is not None:
        return PayloadTooLarge(too_large)
    if malformed is not None:
        return ValidationFailed({malformed[0] or "body": [malformed[1]]})
    found = {
        field: said
        for item in msgspec.json.decode(errors, type=list[_Item])
        for field, said in item.field_errors.items()
    }
    return ValidationFailed(found) if found else None


def takeovers(wanted: Iterable[tuple[Name, str]], roots: dict[Name, str]) -> list[tuple[Name, str]]:
    """(anonymous, the person that it leads to from now on), without circles (C69).

    `wanted` are takeovers in their order, `roots` where their targets lead already. Whoever is taken over leads
    straight to the end of the chain. A takeover that would lead back to where it starts is left out: two people who
    each claim to be the other stay two, and every look-up still ends.
    """
    into = {target: (*target[:2], root) for target, root in roots.items() if root != target[2]}
    made: list[tuple[Name, str]] = []
    for anonymous, known in wanted:
        target = (*anonymous[:2], known)
        while target in into:
            target = into[target]
        if target != anonymous and anonymous not in into:
            into[anonymous] = target
            made.append((anonymous, target[2]))
    return made
