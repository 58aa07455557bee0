"""Identifiers: made by the program, so that a row is known before any server has seen it.

A fresh id is a UUIDv7: its first 48 bits are its own time in milliseconds, so keys grow to the right, and a table keyed
by it can be partitioned by month without a second column. What must be found again without asking (a person's profile)
is a UUIDv5 of what names it. Kinds of ids are NewTypes: mypy keeps an organisation from standing where a project
should.
"""

import re
from datetime import datetime
from typing import Final, NewType
from uuid import UUID, uuid5

from uuid_utils.compat import uuid7

OrgId = NewType("OrgId", UUID)
ProjectId = NewType("ProjectId", UUID)
KeyId = NewType("KeyId", UUID)
ProfileId = NewType("ProfileId", UUID)
AudienceId = NewType("AudienceId", UUID)
SendId = NewType("SendId", UUID)
ScheduleId = NewType("ScheduleId", UUID)
TokenId = NewType("TokenId", UUID)
TemplateId = NewType("TemplateId", UUID)
TestId = NewType("TestId", UUID)

TIME_SHIFT: Final = 80
"""Bits of a UUIDv7 (and of an event's key) below its 48 bits of milliseconds."""

NIL: Final = UUID(int=0)

_CANONICAL: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII
)


def new_id(at: datetime | None = None) -> UUID:
    """A UUIDv7 of now, or of another instant (a test's clock, a back-dated partition)."""
    if at is None:
        return uuid7()
    return uuid7(nanoseconds=int(at.timestamp() * 1_000) * 1_000_000)


def profile_id(project: ProjectId, external_id: str) -> ProfileId:
    """UUIDv5(project, external_id): the API answers with it before the profile is stored (C94)."""
    return ProfileId(uuid5(project, external_id))


def parse_id(text: str) -> UUID | None:
    """The id that a client wrote, None when it is not one.

    Only the hyphenated form counts, in either case (some platforms print upper case): `UUID()` itself would also take
    braces, URNs and digits without hyphens, and one resource would have several addresses.
    """
    return UUID(text) if _CANONICAL.fullmatch(text) else None


def id_millis(id_: UUID) -> int:
    """The milliseconds since 1970 in an id's first 48 bits."""
    return id_.int >> TIME_SHIFT


def lowest_id(at_ms: int) -> UUID:
    """The bound below every id of that millisecond and above every earlier one."""
    return UUID(int=at_ms << TIME_SHIFT)
