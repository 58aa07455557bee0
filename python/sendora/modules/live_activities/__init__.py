"""Live Activities (iOS) and Live Updates (Android): their tokens, updates in order, starts by push, and their ends."""

from sendora.kernel.module import Module
from sendora.modules.live_activities.channel import LiveChannel
from sendora.modules.live_activities.consumers import CONSUMERS
from sendora.modules.live_activities.jobs import JOBS
from sendora.modules.live_activities.people import erase, export
from sendora.modules.live_activities.routes import ROUTES

__all__ = ["module"]

module = Module(
    name="live_activities",
    routes=ROUTES,
    consumers=CONSUMERS,
    jobs=JOBS,
    channel=LiveChannel(),
    erase=erase,
    export=export,
)
