"""What other rooms know that this one asks, and cannot import: handed in by the composition root."""

from collections.abc import Awaitable, Callable, Sequence

from sendora.kernel.ids import OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.modules.audiences.model import Addresses

Reach = Callable[[Kernel, OrgId, ProjectId, bytes], Awaitable[dict[str, int]]]
"""Active devices by platform of the people in a COPY of external ids."""

OptedIn = Callable[[Kernel], Awaitable[Sequence[OrgId]]]
"""Orgs that have switched `ai_lifecycle_classifier_enabled` on (B064)."""


class _Bound:
    reach: Reach | None = None
    opted_in: OptedIn | None = None


def bind(reach: Reach, opted_in: OptedIn | None = None) -> None:
    """Called by the composition root, once, before anything is served."""
    _Bound.reach = reach
    _Bound.opted_in = opted_in


async def addresses_of(kernel: Kernel, org: OrgId, project: ProjectId, members: bytes) -> Addresses:
    """How many devices the people of an audience have."""
    if _Bound.reach is None:
        return Addresses()
    found = await _Bound.reach(kernel, org, project, members)
    return Addresses(ios=found.get("ios", 0), android=found.get("android", 0), web=found.get("web", 0))


async def opted_in(kernel: Kernel) -> Sequence[OrgId]:
    return () if _Bound.opted_in is None else await _Bound.opted_in(kernel)
