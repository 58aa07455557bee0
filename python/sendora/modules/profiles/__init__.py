"""Profiles: the people of a project. Written by one reader of the log; everything else asks."""

from sendora.kernel.module import Module
from sendora.modules.profiles.consumers import READER, WAKE, consumer
from sendora.modules.profiles.model import Person, WhyNot, WhyRecipient
from sendora.modules.profiles.routes import ROUTES
from sendora.modules.profiles.service import Members, Memberships, bind, classify, erase, export, find, wait
from sendora.modules.profiles.store import names_of

__all__ = [
    "READER",
    "WAKE",
    "Members",
    "Memberships",
    "Person",
    "WhyNot",
    "WhyRecipient",
    "bind",
    "classify",
    "find",
    "module",
    "names_of",
    "wait",
]

module = Module(name="profiles", routes=ROUTES, consumers=(consumer,), erase=erase, export=export)
