"""What this room says on the stream LIFECYCLE (B131), and what it reads there."""

from typing import Final
from uuid import UUID

from sendora.kernel.wire import Wire
from sendora.modules.live_activities.model import Status

OUTCOMES: Final = "lifecycle.live_activities.outcomes"
"""Delivery's: how recipients ended."""

STARTED: Final = "lifecycle.push.live_activity_started"
UPDATED: Final = "lifecycle.push.live_activity_updated"
ENDED: Final = "lifecycle.push.live_activity_ended"
INVALIDATED: Final = "lifecycle.push.live_activity_invalidated"


class Changed(Wire, frozen=True, kw_only=True):
    """All four. `started`: the device told its token. `updated`: a provider took an update (`send_id` says which).
    `ended`: by the API, or `expired` with the reason. `invalidated`: its token is dead, or its start came to nobody.
    """

    org: UUID
    project: UUID
    activity_id: UUID
    user_id: str
    activity_type: str
    external_id: str
    platform: str
    status: Status
    reason: str | None
    send_id: UUID | None
    at: str
