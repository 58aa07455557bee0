"""Why a recipient was sent to, put off or left out."""

from sendora.kernel.errors import NotFound
from sendora.kernel.http import Principal, get
from sendora.kernel.ids import SendId, parse_id
from sendora.kernel.life import Kernel
from sendora.modules.push import trace
from sendora.modules.push.model.traces import Trace


@get(
    "/push/sends/{send_id}/recipients/{recipient_id}/trace",
    scope="push:read",
    operation="traceRecipient",
    summary="Say why a recipient was sent to, put off or left out",
)
async def get_trace(kernel: Kernel, principal: Principal, send_id: str, recipient_id: str) -> Trace:
    """Every step of the decision with what it looked at, and every try with what the provider said (promise 4).
    `recipientId` is the device's token id."""
    send, recipient = parse_id(send_id), parse_id(recipient_id)
    if send is None or recipient is None:
        raise NotFound("Send" if send is None else "Recipient")
    return await trace.trace(kernel, principal.org, principal.project, SendId(send), recipient)


ROUTES = (get_trace,)
