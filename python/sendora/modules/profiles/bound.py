"""What rooms above give to this one, which cannot import them."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sendora.kernel.bus import Message
from sendora.kernel.ids import AudienceId, OrgId, ProjectId, SendId
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Connection
from sendora.kernel.wire import Listed, Page
from sendora.modules.profiles.model import Person, WhyNot

Memberships = Callable[[Kernel, OrgId, ProjectId, str], Awaitable[Sequence[Any]]]
"""The audiences that a person is in now."""

Members = Callable[[Kernel, OrgId, ProjectId, AudienceId, Page], Awaitable[Listed[str]]]
"""A page of an audience's external ids, in their order; raises NotFound."""

Left = Callable[[Kernel, Connection, Sequence[Message]], Awaitable[Sequence[bytes]]]
"""Frames of the log without what people had said who were erased afterwards."""


WhyNots = Callable[[Kernel, OrgId, ProjectId, Person, SendId | None, AudienceId | None], Awaitable[WhyNot]]
"""Why a person did not get a send, or is not in an audience: exactly one of the two; raises NotFound."""


class Bound:
    memberships: Memberships | None = None
    members: Members | None = None
    why_not: WhyNots | None = None
    left: Left | None = None


def bind(
    *,
    memberships: Memberships | None = None,
    members: Members | None = None,
    why_not: WhyNots | None = None,
    left: Left | None = None,
) -> None:
    """Called by the composition root before anything is served or read; what is not given stays as it is."""
    Bound.memberships = memberships or Bound.memberships
    Bound.members = members or Bound.members
    Bound.why_not = why_not or Bound.why_not
    Bound.left = left or Bound.left
