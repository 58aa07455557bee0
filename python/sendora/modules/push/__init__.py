"""Push: devices, credentials, templates and tests, and the channel that delivery sends through.

Rooms whose messages travel over the same providers (Live Activities) build on `PushSending`: they say what a request
holds, and have its credentials, lanes and answers from here."""

from sendora.kernel.module import Module
from sendora.modules.push import receipts
from sendora.modules.push.apns import PAYLOAD_MAX, gone_at_ms
from sendora.modules.push.catalogue import Event, events_of
from sendora.modules.push.channel import PushChannel, PushSending, outcome
from sendora.modules.push.compose import compose
from sendora.modules.push.consumers import CONSUMERS, RETIRES
from sendora.modules.push.credentials import examine_credentials, is_configured
from sendora.modules.push.jobs import JOBS
from sendora.modules.push.model.providers import Credential
from sendora.modules.push.model.sends import Content
from sendora.modules.push.model.tokens import BUNDLE_ID, address_errors, canonical
from sendora.modules.push.parts import AGE_PART, Address, Parts, Posted, stamps, too_large
from sendora.modules.push.people import erase, export
from sendora.modules.push.routes import HOT, ROUTES
from sendora.modules.push.service import send
from sendora.modules.push.store.targets import reach
from sendora.modules.push.store.tokens import find as find_token
from sendora.modules.push.why import why_not

__all__ = [
    "AGE_PART",
    "BUNDLE_ID",
    "PAYLOAD_MAX",
    "RETIRES",
    "Address",
    "Content",
    "Credential",
    "Event",
    "Parts",
    "Posted",
    "PushChannel",
    "PushSending",
    "address_errors",
    "canonical",
    "compose",
    "events_of",
    "examine_credentials",
    "find_token",
    "gone_at_ms",
    "is_configured",
    "module",
    "outcome",
    "reach",
    "send",
    "stamps",
    "too_large",
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
