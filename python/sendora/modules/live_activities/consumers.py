"""What became of updates and starts.

eats        lifecycle.live_activities.outcomes: how the recipients of a chunk ended
gives       lifecycle.push.live_activity_updated; activities `invalidated`, dead push-to-start tokens deleted
bounded by  OUTCOMES_MAX messages, each of at most 1,000 outcomes
acks when   the log has the updates, and the rows are committed
if it dies  the outcomes are read again: an update told twice has the same id, an activity is invalidated once

A token that is called dead costs its activity at once, also where the provider may mean a wrong environment: it lives
for hours, and a device that registers it again revives it. That others hear of it is the job `live_activities.tell`'s.
"""

from typing import Final
from uuid import UUID

import msgspec

from sendora.delivery.account import Ended, Outcomes
from sendora.kernel.bus import LIFECYCLE, Message
from sendora.kernel.clock import from_millis, iso
from sendora.kernel.ids import OrgId, SendId
from sendora.kernel.life import Kernel
from sendora.kernel.module import Consumer
from sendora.modules import push
from sendora.modules.live_activities import store
from sendora.modules.live_activities.lifecycle import OUTCOMES, UPDATED, Changed
from sendora.modules.live_activities.model import Activity
from sendora.modules.live_activities.store import Fate

OUTCOMES_MAX: Final = 50


async def record(kernel: Kernel, messages: list[Message]) -> None:
    accepted: list[Fate] = []
    failed: list[Fate] = []
    for outcomes in (msgspec.json.decode(message.data, type=Outcomes) for message in messages):
        for ended in outcomes.outcomes:
            if ended.state == "accepted":
                accepted.append(_fate(outcomes, ended))
            elif ended.state != "unknown":  # That may have arrived.
                failed.append(_fate(outcomes, ended))
    if accepted:
        for activity, send, at in await store.accepted(kernel.db, accepted):
            said = changed(activity, iso(at), send)
            await kernel.bus.publish(UPDATED, msgspec.json.encode(said), f"push.live_activity_updated.{send}")
    if failed:
        async with kernel.db.transaction() as connection:
            await store.invalidate(connection, failed)


def changed(activity: Activity, at: str, send: UUID | None = None) -> Changed:
    return Changed(
        org=activity.org,
        project=activity.project,
        activity_id=activity.id,
        user_id=activity.user_id,
        activity_type=activity.activity_type,
        external_id=activity.external_id,
        platform=activity.platform,
        status=activity.status,
        reason=activity.reason,
        send_id=send,
        at=at,
    )


def _fate(outcomes: Outcomes, ended: Ended) -> Fate:
    reason = ended.reason or ended.state
    dead_at = None
    if reason in push.RETIRES:
        gone_at = push.gone_at_ms(ended.provider_id)
        dead_at = ended.at if gone_at is None else from_millis(gone_at)
    return Fate(
        org=OrgId(outcomes.org),
        send=SendId(outcomes.send),
        activity=ended.recipient,
        at=ended.at,
        reason=reason,
        dead_at=dead_at,
    )


CONSUMERS = (
    Consumer(
        name="live_activities_outcomes",
        stream=LIFECYCLE,
        subject=OUTCOMES,
        handle=record,
        batch_max=OUTCOMES_MAX,
        single=True,
    ),
)
