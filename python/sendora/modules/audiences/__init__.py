"""Audiences: saved rules, and who is in one at an instant.

Rooms above use `find` (is it there?), `members` (everybody, for a send) and `memberships_of` (one person)."""

from sendora.kernel.module import Answer, Module
from sendora.modules.audiences.ask import ROWS_SUBJECT
from sendora.modules.audiences.home import Home
from sendora.modules.audiences.model import Audience, Members, Membership
from sendora.modules.audiences.reach import bind
from sendora.modules.audiences.routes import ROUTES
from sendora.modules.audiences.service import answer, find, members, members_of, memberships_of

__all__ = [
    "Audience",
    "Members",
    "Membership",
    "bind",
    "find",
    "members",
    "members_of",
    "memberships_of",
    "module",
]

module = Module(
    name="audiences",
    routes=ROUTES,
    answers=(Answer(subject=ROWS_SUBJECT, handle=answer),),
    services=(Home,),
)
