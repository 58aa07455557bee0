"""Who is asking, and what that one may do: scope, role and plan (B009-B015, B026, B038, C12, C21, C22).

A refusal is by scope, never by path (B014): a public key on a route that is for secret keys only misses a scope, also
where the route needs no particular one. Roles exist beside scopes because the seeds name both: a secret key is an ADMIN
unless it was minted with less, a public key has no role.

A key belongs to one organisation. A secret key may be let into others (C98): then each request names the one that it
acts for, in the explicit form, and the key acts there with that one's project, plan, settings and quota, under its own
scopes, role and token bucket. The project is the one that the organisation has let the key into (orgs/grants.py).
"""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from sendora.kernel.errors import Forbidden, ScopeRequired, TierRequired, ValidationFailed
from sendora.kernel.ids import KeyId, OrgId, ProjectId, parse_id

Role = Literal["VIEWER", "EDITOR", "ADMIN"]
Plan = Literal["free", "starter", "growth", "business"]

ROLES: Final[tuple[Role, ...]] = ("VIEWER", "EDITOR", "ADMIN")
"""From the least to the most; a role includes the ones before it."""

PLANS: Final[tuple[Plan, ...]] = ("free", "starter", "growth", "business")
"""From the least to the most; a plan includes the ones before it."""

SECRET_ONLY: Final = "secret"  # noqa: S105 - the name of what is missing, not a secret
"""What a public key misses on a route that needs no particular scope but a secret key."""


class Place(msgspec.Struct, frozen=True):
    """An organisation in which a key acts: with which project, on which plan."""

    project: ProjectId
    plan: Plan


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """The holder of a verified API key; tenant, project and environment come from it and from nowhere else."""

    org: OrgId
    project: ProjectId
    key_id: KeyId
    prefix: str
    """The public part of the key, for logs and the audit log."""
    kind: Literal["pk", "sk"]
    environment: str
    scopes: frozenset[str]
    role: Role | None
    plan: Plan
    per_second: int
    burst: int
    reach: Mapping[OrgId, Place] = {}
    """Where the key acts when that is in several organisations, its own among them (C98); empty for all other keys."""


class Requirement(msgspec.Struct, frozen=True, kw_only=True):
    """What a route asks of the caller before it looks at the body."""

    scope: str | None
    role: Role | None = None
    tier: Plan = "free"
    public_key: bool = False


def authorise(principal: Principal, needs: Requirement) -> None:
    """Refuse by what the key is, whichever organisation it acts for (C87): scope (403), then role (403)."""
    if principal.kind == "pk" and not needs.public_key:
        raise ScopeRequired(needs.scope or SECRET_ONLY)
    if needs.scope is not None and needs.scope not in principal.scopes:
        raise ScopeRequired(needs.scope)
    if needs.role is not None and not role_at_least(principal, needs.role):
        raise Forbidden(f"This needs the role {needs.role}.")


def act_for(principal: Principal, named: str | None) -> Principal | None:
    """The holder as it acts for the organisation of this request: its own, or the one that the explicit form names.

    None: for the key there is no such organisation (C03). Raises ValidationFailed where a key of several names none
    (C98).
    """
    if named is None:
        if principal.reach:
            raise ValidationFailed(
                {"orgId": ["This key acts in several organisations: name one, as in /api/v1/orgs/{orgId}/..."]}
            )
        return principal
    if (found := parse_id(named)) is None:
        return None
    org = OrgId(found)
    if org == principal.org:
        return principal
    place = principal.reach.get(org)
    if place is None:
        return None
    return msgspec.structs.replace(principal, org=org, project=place.project, plan=place.plan)


def role_at_least(principal: Principal, role: Role) -> bool:
    return principal.role is not None and ROLES.index(principal.role) >= ROLES.index(role)


def tier_at_least(principal: Principal, plan: Plan) -> bool:
    return PLANS.index(principal.plan) >= PLANS.index(plan)


def require_tier(principal: Principal, plan: Plan) -> None:
    """For a field that only some plans may use: call it in the handler, when the body is known to be sound (C87)."""
    if not tier_at_least(principal, plan):
        raise TierRequired(plan)
