"""Push: devices, credentials, templates and tests, and the channel that delivery sends through."""

from sendora.kernel.module import Module
from sendora.modules.push import receipts
from sendora.modules.push.catalogue import Event, events_of
from sendora.modules.push.channel import PushChannel
from sendora.modules.push.consumers import CONSUMERS
from sendora.modules.push.credentials import examine_credentials
from sendora.modules.push.jobs import JOBS
from sendora.modules.push.people import erase, export
from sendora.modules.push.routes import HOT, ROUTES
from sendora.modules.push.service import send
from sendora.modules.push.store.targets import reach
from sendora.modules.push.store.tokens import find as find_token
from sendora.modules.push.why import why_not

__all__ = [
    "Event",
    "PushChannel",
    "events_of",
    "examine_credentials",
    "find_token",
    "module",
    "reach",
    "send",
    "why_not",
]

module = Module(
    name="push",
    routes=ROUTES,
    hot=HOT,
    consumers=(*CONSUMERS, *receipts.CONSUMERS),
    jobs=JOBS,
    channel=PushChannel(),
    erase=erase,
    export=export,
)
