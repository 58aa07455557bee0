"""Audiences: saved rules and contact lists, and who is in one at an instant.

Rooms above use `find` (is it there?), `members` (everybody, for a send), `leave_out` (named people less exclusions),
`memberships_of` and `explain` (one person)."""

from sendora.kernel.module import Answer, Module
from sendora.modules.audiences.ask import ROWS_SUBJECT
from sendora.modules.audiences.bound import bind
from sendora.modules.audiences.explanations import of_audience as explain
from sendora.modules.audiences.home import Home
from sendora.modules.audiences.jobs import JOBS
from sendora.modules.audiences.members import Members, leave_out, members
from sendora.modules.audiences.model import Audience, Explained, Membership
from sendora.modules.audiences.people import erase, export
from sendora.modules.audiences.routes import ROUTES
from sendora.modules.audiences.service import answer, find, members_of, memberships_of

__all__ = [
    "Audience",
    "Explained",
    "Members",
    "Membership",
    "bind",
    "explain",
    "find",
    "leave_out",
    "members",
    "members_of",
    "memberships_of",
    "module",
]

module = Module(
    name="audiences",
    routes=ROUTES,
    jobs=JOBS,
    answers=(Answer(subject=ROWS_SUBJECT, handle=answer),),
    services=(Home,),
    erase=erase,
    export=export,
)
