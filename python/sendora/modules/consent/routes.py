"""Asking to be forgotten, over HTTP (B069, C71)."""

from datetime import timedelta
from typing import Final

from sendora.kernel import bus
from sendora.kernel.errors import NotFound
from sendora.kernel.http import Principal, get, post
from sendora.kernel.ids import parse_id
from sendora.kernel.life import Kernel
from sendora.modules.consent import service
from sendora.modules.consent.model import AskDeletion, DeletionRequest, show

LOG_KEEPS: Final = timedelta(seconds=bus.KEEP_S)
"""Nothing is taken out of the log: it forgets by itself (design 6)."""


@post(
    "/consent/deletion-request",
    scope="profiles:write",
    operation="requestDeletion",
    summary="Forget a person",
)
async def request_deletion(kernel: Kernel, principal: Principal, data: AskDeletion) -> DeletionRequest:
    """Everything that any room knows of a person is erased, under every name that the person has had. Asking again is
    a success and the same request, which begins again (while it runs: at its end), because somebody may have come back
    by this name since. Nobody need be known by the name. A public key alone is refused (C71)."""
    return show(await service.ask(kernel, principal, data), LOG_KEEPS)


@get(
    "/consent/deletion-requests/{request_id}",
    scope="profiles:read",
    operation="getDeletionRequest",
    summary="How far a deletion has come",
)
async def get_deletion_request(kernel: Kernel, principal: Principal, request_id: str) -> DeletionRequest:
    """The rooms that are through, with their numbers of rows, and when the last one was."""
    id_ = parse_id(request_id)
    if id_ is None:
        raise NotFound("Deletion request")
    return show(await service.find(kernel, principal, id_), LOG_KEEPS)


ROUTES: Final = (request_deletion, get_deletion_request)
