"""One person in this room: activities with what they were shown, and tokens to start more."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from sendora.kernel.clock import iso
from sendora.kernel.ids import OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.modules import profiles
from sendora.modules.live_activities import store
from sendora.modules.live_activities.routes import shown


async def erase(kernel: Kernel, org: OrgId, project: ProjectId, external_id: str) -> None:
    """Sends refer to what was said, and the ledger to the activity's id: with these rows gone neither says anything of
    the person, and what waits finds nobody."""
    for name in await profiles.names_of(kernel.db, org, project, external_id):
        await store.forget(kernel.db, org, project, name)


async def export(kernel: Kernel, org: OrgId, project: ProjectId, external_id: str) -> AsyncIterator[dict[str, Any]]:
    for name in await profiles.names_of(kernel.db, org, project, external_id):
        async for activity in store.of_person(kernel.db, org, project, name):
            yield {"liveActivity": msgspec.to_builtins(shown(activity)) | {"token": activity.token}}
            if activity.start_send is not None:
                said = await store.find_start(kernel.db, org, activity.start_send)
                yield {"liveActivityStart": {"activityId": str(activity.id), **msgspec.to_builtins(said)}}
            async for send, update in store.updates_of(kernel.db, activity):
                told = msgspec.to_builtins(update)
                yield {"liveActivityUpdate": {"activityId": str(activity.id), "sendId": str(send), **told}}
        async for starter in store.starters_of(kernel.db, org, project, name):
            yield {
                "pushToStartToken": {
                    "id": str(starter["id"]),
                    "activityType": starter["activity_type"],
                    "token": starter["token"],
                    "deviceId": starter["device_id"] or None,
                    "registeredAt": iso(starter["registered_at"]),
                }
            }
