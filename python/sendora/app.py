"""The composition root: the rooms in reading order, put onto the floors. Imported by the command alone.

Nothing registers itself: a room is one word in MODULES. What a floor needs of a room it declares as a protocol, and it
is handed in here: `orgs.authenticate` to HTTP, the channels to delivery, what a room wants of one above it (`bind`).

Which role runs what:

    api         the routes of all rooms
    worker      the readers of the log and of outcomes, the answers over NATS, the audience indexes, the planner, the
                accountant
    dispatch    the chunks of the shards that it holds
    scheduler   sends that are due, the rooms' jobs, the safety poll

Planner, dispatcher and scheduler wait behind the restore fence.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec

from sendora.delivery.account import accountant
from sendora.delivery.channel import Channel
from sendora.delivery.dispatch import dispatcher
from sendora.delivery.lanes import NativeLanes, PlainLanes
from sendora.delivery.plan import planner
from sendora.delivery.rescue import rescuer
from sendora.delivery.schedule import scheduler as due_sends
from sendora.kernel.bus import Answering, StageRunner
from sendora.kernel.config import Settings, load
from sendora.kernel.fence import Fenced
from sendora.kernel.http import Front, build_app
from sendora.kernel.jobs import JobRunner
from sendora.kernel.life import open_kernel, run_services
from sendora.kernel.limits import Idempotency
from sendora.kernel.module import Job, Module
from sendora.modules import (
    audiences,
    consent,
    data_io,
    events,
    geofences,
    live_activities,
    orgs,
    profiles,
    push,
)

MODULES: Final[Sequence[Module]] = (
    orgs.module,
    profiles.module,
    consent.module,
    events.module,
    audiences.module,
    push.module,
    geofences.module,
    live_activities.module,
    data_io.module,
)

CHANNELS: Final[dict[str, Channel]] = {
    module.channel.name: module.channel for module in MODULES if module.channel is not None
}

SWEEP: Final = Job(name="idempotency.sweep", every_s=600.0, run=lambda kernel: Idempotency(kernel.db).sweep())
"""Forgets the idempotency keys that have expired; they belong to no room."""


def bind() -> None:
    """What rooms want of rooms above them."""
    profiles.bind(
        memberships=audiences.memberships_of,
        members=audiences.members_of,
        why_not=push.why_not,
        left=consent.left,
    )
    consent.bind(
        [(room.name, room.erase) for room in reversed(MODULES) if room.erase is not None and room.name != "profiles"],
        events.make_anew,
    )
    data_io.bind(MODULES)
    audiences.bind(push.reach, opted_in=orgs.with_classifier)


def api() -> Front:
    """The HTTP API, as Granian's worker process makes it."""
    bind()
    return Front(build_app(partial(open_kernel, load()), MODULES, orgs.authenticate))


def document() -> dict[str, Any]:
    """The OpenAPI document, in an order that is always the same; opens nothing."""
    built = build_app(partial(open_kernel, Settings()), MODULES, orgs.authenticate)
    schema = built.litestar.openapi_schema.to_schema()
    ordered: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(schema, order="sorted"))
    return ordered


async def worker(settings: Settings) -> None:
    bind()
    async with open_kernel(settings) as kernel:
        readers = [StageRunner(kernel, consumer) for module in MODULES for consumer in module.consumers]
        answers = [Answering(kernel, answer) for module in MODULES for answer in module.answers]
        others = [service(kernel) for module in MODULES for service in module.services]
        planning = Fenced(kernel.fence, "plan", lambda: planner(kernel, CHANNELS))
        await run_services(kernel, [*readers, *answers, *others, kernel.fence, planning, accountant(kernel, CHANNELS)])


async def dispatch(settings: Settings, shards: str) -> None:
    kind = NativeLanes if settings.dispatch.lanes == "native" else PlainLanes
    async with open_kernel(settings) as kernel, kind(kernel) as lanes:
        dispatching = Fenced(kernel.fence, "dispatch", lambda: dispatcher(kernel, CHANNELS, lanes, shards))
        await run_services(kernel, [kernel.fence, dispatching])


async def scheduler(settings: Settings) -> None:
    bind()
    async with open_kernel(settings) as kernel:
        jobs = [JobRunner(kernel, job) for job in (SWEEP, *(job for module in MODULES for job in module.jobs))]
        starting = Fenced(kernel.fence, "schedule", lambda: due_sends(kernel))
        await run_services(kernel, [kernel.fence, starting, rescuer(kernel), *jobs])
