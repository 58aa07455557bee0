"""From a device's report to an event in the log."""

from sendora.kernel.errors import NotFound, ValidationFailed
from sendora.kernel.http import Principal
from sendora.kernel.ids import TokenId
from sendora.kernel.life import Kernel
from sendora.kernel.wire import UNSET
from sendora.modules import events, push
from sendora.modules.geofences import store
from sendora.modules.geofences.model import (
    EVENT_TYPES,
    MODULE,
    ReportIn,
    event_id_of,
    position,
    properties_of,
)

OURS: dict[str, str] = {"timestamp": "occurredAt"}
"""What an event calls by another name than a report."""


async def report(kernel: Kernel, principal: Principal, said: ReportIn) -> events.Emitted:
    """The transition is on disk in the log when this returns (B135). Raises ValidationFailed, NotFound, Unavailable.

    A fence that was switched off is not there for devices: they cannot fetch it, and one that still watches it learns
    that it should not.
    """
    position(said.latitude, said.longitude)
    fence = await store.find(kernel.db, principal.org, principal.project, said.geofence_id)
    if fence is None or not fence.enabled:
        raise NotFound("Geofence")
    if said.event not in fence.triggers:
        raise ValidationFailed({"event": [f"This geofence tells of {', '.join(fence.triggers)} alone"]})
    person = said.user_id
    if said.token_id is not None:
        token = await push.find_token(kernel.db, principal.org, principal.project, TokenId(said.token_id))
        if token is None:
            raise NotFound("Token")
        person = person or token.user_id
    event = events.EventIn(
        event_type=EVENT_TYPES[said.event],
        module=MODULE,
        properties=properties_of(said, fence),
        event_id=event_id_of(said, person) or UNSET,
        user_id=person or UNSET,
        timestamp=said.occurred_at or UNSET,
    )
    try:
        return await events.emit(kernel, principal.org, principal.project, principal.environment, event)
    except ValidationFailed as refused:
        named = {OURS.get(field, field): messages for field, messages in refused.field_errors.items()}
        raise ValidationFailed(named) from None
