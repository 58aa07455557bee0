"""Consent: whoever asks to be forgotten, and the names that readers of the log pass over since."""

from sendora.kernel.module import Module
from sendora.modules.consent.frames import Remains, strip
from sendora.modules.consent.jobs import JOBS
from sendora.modules.consent.routes import ROUTES
from sendora.modules.consent.service import bind, cut_of, erased_behind, left
from sendora.modules.consent.tombstones import Tombstones

__all__ = ["Remains", "Tombstones", "bind", "cut_of", "erased_behind", "left", "module", "strip"]

module = Module(name="consent", routes=ROUTES, jobs=JOBS)
