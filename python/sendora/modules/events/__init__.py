"""Events: ingest, what the system itself says, the storer, and the account of what became of every event."""

from sendora.kernel.module import Module
from sendora.modules.events.consumers import STORER, WAKE, consumer
from sendora.modules.events.jobs import JOBS
from sendora.modules.events.model import WAKE_CUTS, EventIn
from sendora.modules.events.routes import HOT, ROUTES
from sendora.modules.events.service import Emitted, emit, erase, export, export_all, make_anew

__all__ = ["STORER", "WAKE", "WAKE_CUTS", "Emitted", "EventIn", "emit", "make_anew", "module"]

module = Module(
    name="events",
    routes=ROUTES,
    hot=HOT,
    consumers=(consumer,),
    jobs=JOBS,
    erase=erase,
    export=export,
    export_all=export_all,
)
