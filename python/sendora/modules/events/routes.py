"""Events over HTTP: check, take tokens, commit to the log, answer. Nothing here waits for PostgreSQL (F-P4).

The body is checked by the library in one pass; what it accepts goes to the log as bytes, in group commits. The answer
says that the log has it on disk; storing is the storer's (consumers.py). The order of refusals is C87: the body before
the limits, so that a request that could never pass costs nothing.
"""

import asyncio
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Final

import msgspec

from sendora import _core
from sendora.kernel.bus import Position, parse_position, position_text
from sendora.kernel.clock import from_millis, iso, millis
from sendora.kernel.errors import NotFound, QuotaExceeded, ValidationFailed
from sendora.kernel.http import HotRequest, HotResponse, Principal, get, hot_route, take
from sendora.kernel.ids import profile_id
from sendora.kernel.life import Kernel
from sendora.kernel.pg.positions import wait_for
from sendora.kernel.wire import encode, success
from sendora.modules import orgs
from sendora.modules.events import store
from sendora.modules.events.consumers import STORER
from sendora.modules.events.model import (
    Accounting,
    Batched,
    BatchedRaw,
    EventIn,
    EventsIn,
    Identified,
    IdentifyIn,
    Tracked,
    refusal,
)

BYTES_INLINE: Final = 64 * 1024
"""A larger body is checked in a thread: it takes a millisecond or more, and the loop has other requests."""

_CHECK: Final = (partial(_core.check_events, listed=False), partial(_core.check_events, listed=True))
"""By `listed`."""

WAIT_S: Final = 5.0
"""C94: how long `?after=` waits for its position."""


@hot_route(
    "/events",
    scope="events.write",
    body=EventIn | list[EventIn] | EventsIn,
    answer=Tracked,
    status=201,
    also={200: Batched},
    raises=(QuotaExceeded,),
    operation="trackEvents",
    summary="Track one event, or several",
)
async def track(kernel: Kernel, principal: Principal, request: HotRequest) -> HotResponse:
    """One object: 201. An array or `{events}`: 200, as `/events/batch` (C28, C94)."""
    return await _ingest(kernel, principal, request.body, listed=False)


@hot_route(
    "/events/batch",
    scope="events.write",
    body=EventsIn,
    answer=Batched,
    raises=(QuotaExceeded,),
    operation="trackBatch",
    summary="Track a batch of events",
)
async def track_batch(kernel: Kernel, principal: Principal, request: HotRequest) -> HotResponse:
    """At most 1,000 events and 1 MiB. A bad item is told by its index and never fails its neighbours (C94)."""
    return await _ingest(kernel, principal, request.body, listed=True)


@hot_route(
    "/identify",
    scope="events.write",
    body=IdentifyIn,
    answer=Identified,
    raises=(QuotaExceeded,),
    operation="identify",
    summary="Say who somebody is",
)
async def identify(kernel: Kernel, principal: Principal, request: HotRequest) -> HotResponse:
    """Upserts the profile of `userId` by way of the log, and binds `anonymousId` to it (B058, B060, C29)."""
    received_ms = millis(kernel.clock.now())
    checked = await _check(kernel, principal, _core.check_identify, request.body, received_ms)
    position = await _commit(kernel, principal, checked)
    external_id = checked.user_id or ""
    answer = Identified(id=profile_id(principal.project, external_id), external_id=external_id)
    return _answer(200, answer, position)


@get(
    "/events/accounting",
    scope="events.read",
    operation="eventAccounting",
    summary="What became of the events that were accepted",
)
async def accounting(
    kernel: Kernel, principal: Principal, project_id: str | None = None, after: str | None = None
) -> Accounting:
    """`accepted = stored + duplicate + bad`. `after`, an X-Sendora-Position, waits up to 5 s for the storer; the
    answer's position says up to where its numbers hold, whether or not that was reached."""
    position = None if after is None else parse_position(after)
    if after is not None and position is None:
        raise ValidationFailed({"after": ["Not an X-Sendora-Position"]})
    if project_id is not None and project_id.lower() != str(principal.project):
        raise NotFound("Project")
    if position is not None:
        await wait_for(kernel.db, STORER, position, WAIT_S)
    return await store.accounting(kernel.db, principal.org, principal.project, STORER)


async def _ingest(kernel: Kernel, principal: Principal, body: bytes, *, listed: bool) -> HotResponse:
    received_ms = millis(kernel.clock.now())
    checked = await _check(kernel, principal, _CHECK[listed], body, received_ms)
    position = await _commit(kernel, principal, checked)
    if not checked.single:
        answer = BatchedRaw(accepted=checked.accepted, rejected=checked.rejected, errors=msgspec.Raw(checked.errors))
        return _answer(200, answer, position)
    # `Tracked`, written around the texts that need a codec: these bytes are made more often than any others.
    body = b'{"success":true,"data":{"id":%b,"eventType":%b,"environment":%b,"receivedAt":"%b"}}' % (
        encode(checked.event_id),
        encode(checked.event_type),
        encode(principal.environment),
        _received_at(received_ms),
    )
    return HotResponse(201, body, (("x-sendora-position", position_text(position)),))


async def _check(
    kernel: Kernel,
    principal: Principal,
    check: Callable[[bytes, bytes, bytes, str, int], _core.Checked],
    body: bytes,
    received_ms: int,
) -> _core.Checked:
    org, project, environment = principal.org.bytes, principal.project.bytes, principal.environment
    if len(body) <= BYTES_INLINE:
        checked = check(body, org, project, environment, received_ms)
    else:
        checked = await asyncio.to_thread(check, body, org, project, environment, received_ms)
    if checked.rejected:
        kernel.metrics.count("events_rejected", checked.rejected)
    if (problem := refusal(checked)) is not None:
        raise problem
    return checked


async def _commit(kernel: Kernel, principal: Principal, checked: _core.Checked) -> Position:
    """Tokens for all that the request brought, since a refused event was work too (C95); quota for what counts
    (C99)."""
    await take(kernel, principal, checked.accepted + checked.rejected)
    await orgs.check_quota(kernel, principal, checked.accepted)
    return await kernel.bus.append(checked.records, checked.accepted)


@lru_cache(maxsize=16)
def _received_at(at_ms: int) -> bytes:
    """A busy process answers many requests in one millisecond, and formatting an instant costs more than its check."""
    return iso(from_millis(at_ms)).encode()


def _answer(status: int, data: object, position: Position) -> HotResponse:
    return HotResponse(status, success(data), (("x-sendora-position", position_text(position)),))


HOT: Final = (track.hot, track_batch.hot, identify.hot)
ROUTES: Final = (track.handler, track_batch.handler, identify.handler, accounting)
