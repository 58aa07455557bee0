"""What the clock makes this room do: orphans are ended, others are told, what is long over is forgotten."""

from typing import Final

import msgspec

from sendora.delivery import submit as delivery
from sendora.kernel.clock import iso
from sendora.kernel.life import Kernel
from sendora.kernel.module import Job
from sendora.modules.live_activities import service, store
from sendora.modules.live_activities.consumers import changed
from sendora.modules.live_activities.lifecycle import ENDED, INVALIDATED, STARTED
from sendora.modules.live_activities.model import LIFE, START_WAIT, Activity, EndIn, Status, untold

LIFETIME: Final = "lifetime"
"""`reason` of an activity that has reached its longest life."""

NEVER_STARTED: Final = "never_started"
"""`reason` of a start that no device has answered."""

GRACE_DAYS: Final = 30
"""As of devices (B088)."""

BITES_MAX: Final = 100
"""Of one run; what is left waits for the next."""

SUBJECTS: Final[dict[Status, str]] = {
    "active": STARTED,
    "ended": ENDED,
    "expired": ENDED,
    "invalidated": INVALIDATED,
}


async def expire(kernel: Kernel) -> None:
    """Activities that nobody has ended become `expired` after eight hours. By then iOS has ended them by itself (and
    may leave them on the Lock Screen for four hours more), so nothing is sent; on Android nobody would, so there an end
    goes out."""
    life_s = LIFE.total_seconds()
    for _ in range(BITES_MAX):
        if await store.expire(kernel.db, life_s, LIFETIME) < store.BITE_MAX:
            break
    for aged in await store.aged(kernel.db, life_s):
        async with kernel.db.transaction() as connection:
            ended = await service.finish(
                kernel, connection, aged.org, aged.project, aged.id, EndIn(), over="expired", reason=LIFETIME
            )
        if ended is not None:
            await delivery.wake(kernel, ended[1])
    for _ in range(BITES_MAX):
        if await store.give_up(kernel.db, START_WAIT.total_seconds(), NEVER_STARTED) < store.BITE_MAX:
            break


async def tell(kernel: Kernel) -> None:
    """B131: what has changed is read from the rows, so nothing is told that did not happen and nothing is lost. What is
    told twice has the same id."""
    for _ in range(BITES_MAX):
        activities = await store.untold(kernel.db)
        for activity in activities:
            for status in untold(activity):
                await _tell(kernel, activity, status)
        await store.set_told(kernel.db, activities)
        if len(activities) < store.BITE_MAX:
            break


async def collect(kernel: Kernel) -> None:
    for _ in range(BITES_MAX):
        if await store.collect(kernel.db, GRACE_DAYS) < store.BITE_MAX:
            break


async def _tell(kernel: Kernel, activity: Activity, status: Status) -> None:
    at = activity.started_at if status == "active" else activity.ended_at
    when = iso(at or activity.updated_at)
    subject = SUBJECTS[status]
    said = changed(msgspec.structs.replace(activity, status=status), when)
    # The instant is part of the name: an activity that was invalidated and comes back starts a second time.
    name = subject.removeprefix("lifecycle.")
    await kernel.bus.publish(subject, msgspec.json.encode(said), f"{name}.{activity.id}.{when}")


JOBS = (
    Job(name="live_activities.tell", every_s=1.0, run=tell),
    Job(name="live_activities.expire", every_s=60.0, run=expire),
    Job(name="live_activities.collect", every_s=3_600.0, run=collect),
)
