"""How many devices the people of an audience have: what a room above knows, which this one cannot import."""

from collections.abc import Awaitable, Callable

from sendora.kernel.ids import OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.modules.audiences.model import Addresses

Reach = Callable[[Kernel, OrgId, ProjectId, bytes], Awaitable[dict[str, int]]]
"""Active devices by platform of the people in a COPY of external ids."""


class _Bound:
    reach: Reach | None = None


def bind(reach: Reach) -> None:
    """Called by the composition root, once, before anything is served."""
    _Bound.reach = reach


async def of(kernel: Kernel, org: OrgId, project: ProjectId, members: bytes) -> Addresses:
    if _Bound.reach is None:
        return Addresses()
    found = await _Bound.reach(kernel, org, project, members)
    return Addresses(ios=found.get("ios", 0), android=found.get("android", 0), web=found.get("web", 0))
