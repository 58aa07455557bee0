"""A running send over HTTP: pause it, go on, stop it, and try again whom it has failed (C96)."""

from typing import Final

from sendora.delivery import control
from sendora.delivery.phases import Send
from sendora.kernel.errors import Conflict
from sendora.kernel.http import Principal, post
from sendora.kernel.life import Kernel
from sendora.modules.push import apns, fcm
from sendora.modules.push.channel import NO_CREDENTIAL
from sendora.modules.push.model.sends import Controlled, Retried, RetryIn
from sendora.modules.push.routes.sends import counts_of, find

PASSING: Final = frozenset(
    {
        NO_CREDENTIAL,
        # Google's word for Apple's or a push service's refusal of the credential that was given to it.
        "THIRD_PARTY_AUTH_ERROR",
        *(reason for reason, meaning in (*apns.REASONS.items(), *fcm.CODES.items()) if meaning.hopeless),
    }
)
"""Refusals that say something of a credential and nothing of the recipient: they pass when the credential is mended."""


@post(
    "/push/sends/{send_id}/pause",
    scope="push:send",
    idempotent=True,
    raises=(Conflict,),
    operation="pauseSend",
    summary="Pause a running send",
)
async def pause(kernel: Kernel, principal: Principal, send_id: str) -> Controlled:
    """Takes no further chunk and acts within one window: who is on the wire finishes. The lifetime of the send goes on.
    409 when it is neither `queued` nor `sending`."""
    found = await find(kernel, principal, send_id)
    return await _controlled(kernel, await control.pause(kernel, principal.org, found.id))


@post(
    "/push/sends/{send_id}/resume",
    scope="push:send",
    idempotent=True,
    raises=(Conflict,),
    operation="resumeSend",
    summary="Go on with a paused send",
)
async def resume(kernel: Kernel, principal: Principal, send_id: str) -> Controlled:
    """Goes on where it stood. 409 when it is not `paused`."""
    found = await find(kernel, principal, send_id)
    return await _controlled(kernel, await control.resume(kernel, principal.org, found.id))


@post(
    "/push/sends/{send_id}/stop",
    scope="push:send",
    idempotent=True,
    raises=(Conflict,),
    operation="stopSend",
    summary="Stop a send for good",
)
async def stop(kernel: Kernel, principal: Principal, send_id: str) -> Controlled:
    """What was not started is `suppressed` with reason `stopped`, and when the last of them is written down the send
    closes; until then it is `sending`. 409 when it is closed already, or still scheduled (then DELETE)."""
    found = await find(kernel, principal, send_id)
    return await _controlled(kernel, await control.stop(kernel, principal.org, found.id))


@post(
    "/push/sends/{send_id}/retry-failed",
    scope="push:send",
    idempotent=True,
    raises=(Conflict,),
    operation="retryFailed",
    summary="Try again whom a send has failed",
)
async def retry_failed(kernel: Kernel, principal: Principal, send_id: str, data: RetryIn | None = None) -> Retried:
    """Recipients rejected for a reason that may pass, expired ones, and with `at_least_once` unknown ones go on in the
    same send, which opens again if it was closed and has its time anew. `reasons` names others, or fewer. 409 when
    there is nobody, or when the send is being stopped."""
    found = await find(kernel, principal, send_id)
    reasons = None if data is None else data.reasons
    opened, retried = await control.retry_failed(kernel, principal.org, found.id, passing=PASSING, reasons=reasons)
    return Retried(id=opened.id, status=opened.status, retried=retried)


async def _controlled(kernel: Kernel, send: Send) -> Controlled:
    counted = await counts_of(kernel, send.org, [send])
    return Controlled(id=send.id, status=send.status, counts=counted[send.id])


ROUTES = (pause, resume, stop, retry_failed)
