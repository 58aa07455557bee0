"""Audiences: saved rules, and who is in one at an instant.

Rooms above use `find` (is it there?), `members` (everybody, for a send) and `memberships_of` (one person)."""

from sendora.kernel.module import Answer, Module
from sendora.modules.audiences.model import Audience, Members, Membership
from sendora.modules.audiences.routes import ROUTES
from sendora.modules.audiences.service import (
    ASK_SUBJECT,
    answer,
    evaluate,
    find,
    members,
    members_of,
    memberships_of,
)

__all__ = [
    "Audience",
    "Members",
    "Membership",
    "evaluate",
    "find",
    "members",
    "members_of",
    "memberships_of",
    "module",
]

module = Module(name="audiences", routes=ROUTES, answers=(Answer(subject=ASK_SUBJECT, handle=answer),))
