"""Profiles: the people of a project. Written by one reader of the log; everything else asks."""

from sendora.kernel.module import Module
from sendora.modules.profiles.bound import Left, Members, Memberships, bind
from sendora.modules.profiles.consumers import READER, WAKE, consumer
from sendora.modules.profiles.model import Person, WhyNot, WhyRecipient
from sendora.modules.profiles.routes import ROUTES
from sendora.modules.profiles.service import (
    append_deletion,
    classify,
    erase,
    everybody,
    export,
    export_all,
    find,
    wait,
)
from sendora.modules.profiles.store import aliases_among, count_named, names_behind, names_of

__all__ = [
    "READER",
    "WAKE",
    "Left",
    "Members",
    "Memberships",
    "Person",
    "WhyNot",
    "WhyRecipient",
    "aliases_among",
    "append_deletion",
    "bind",
    "classify",
    "count_named",
    "everybody",
    "find",
    "module",
    "names_behind",
    "names_of",
    "wait",
]

module = Module(
    name="profiles", routes=ROUTES, consumers=(consumer,), erase=erase, export=export, export_all=export_all
)
