"""Why a recipient was sent to, put off or left out: every step, told by the code that takes it (promise 4).

What was decided stands in the ledger, and that counts. The steps are taken again, for the instant at which the outcome
was recorded and with what had been sent by then, but on the device, the policies, the audience and the words as they
are now: where they have changed since, `reproduced` is false, and the steps show what would be decided today.
"""

from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from sendora.delivery import history
from sendora.delivery import submit as delivery
from sendora.delivery.history import Entry
from sendora.delivery.phases import Send
from sendora.kernel.clock import iso, millis
from sendora.kernel.errors import NotFound
from sendora.kernel.ids import AudienceId, OrgId, ProjectId, SendId
from sendora.kernel.life import Kernel
from sendora.modules import audiences
from sendora.modules.push.channel import NAME, PushChannel
from sendora.modules.push.model.sends import Target
from sendora.modules.push.model.traces import OPEN, Attempt, Trace
from sendora.modules.push.store import targets

SENT: Final = frozenset({"accepted", "rejected", "unknown"})
"""States of who was sent to, whatever the provider said."""

DECIDED: Final = frozenset({"quiet_hours"})
"""Reasons of deferral that are the decision's own; the others are a provider's or a lane's."""


async def trace(kernel: Kernel, org: OrgId, project: ProjectId, send_id: SendId, recipient: UUID) -> Trace:
    """Raises NotFound for a send that is not the project's, and for a recipient that is not the send's."""
    send = await delivery.find_send(kernel, org, send_id, project=project)
    entries = await history.of_recipient(kernel, send, recipient) if send.channel == NAME else []
    if not entries:
        raise NotFound("Recipient")
    last = entries[-1]
    at = last.at or kernel.clock.now()
    person = last.user_id or await targets.person_of(kernel.db, org, project, recipient)
    sending = await PushChannel().open(kernel, send.as_due(last.own_at))
    caps = await history.caps_of(kernel, org, last.shard, person or str(recipient), at) if sending.capped else None
    async with kernel.db.acquire() as connection:
        row = await targets.row_of(connection, org, project, recipient)
    decided = sending.explain(row, caps, millis(at))
    return Trace(
        recipient_id=recipient,
        user_id=person,
        state=last.state if last.state not in (None, "deferred") else OPEN,
        # Who is still open waits for what put it off.
        reason=last.reason if last.state is not None or len(entries) < 2 else entries[-2].reason,
        variant=last.variant,
        as_of=iso(at),
        reproduced=_agrees(last, decided),
        steps=[*await _target(kernel, send, person), *decided["steps"]],
        attempts=[
            _attempt(entry, entries[place - 1] if place else None)
            for place, entry in enumerate(entries)
            if entry.at is not None
        ],
    )


async def _target(kernel: Kernel, send: Send, person: str | None) -> list[dict[str, Any]]:
    """How the recipient came into the send: the audience's leaves with the values seen, as of when it was evaluated."""
    target = msgspec.convert(send.target, Target)
    if target.audience_id is None:
        return [{"step": "target", "by": "tokens" if target.tokens is not None else "userIds", "passed": True}]
    step: dict[str, Any] = {"step": "target", "by": "audience", "audienceId": str(target.audience_id), "passed": True}
    audience = await audiences.find(kernel, send.org, AudienceId(target.audience_id))
    if person is None or audience.deleted_at is not None:
        return [step]
    try:
        told = await audiences.explain(kernel, audience, person, send.audience_as_of)
    except NotFound:  # The person was deleted since.
        return [step]
    # Whoever has a recipient was a member then; what has changed since shows in the tree.
    return [{**step, "member": told.member, "tree": told.tree, "asOf": told.as_of}]


def _agrees(last: Entry, decided: dict[str, Any]) -> bool | None:
    """Whether the same would be decided again; None while nothing is decided."""
    if last.state is None:
        return None
    sent = last.state in SENT or (last.state == "deferred" and last.reason not in DECIDED)
    if sent:
        return bool(decided["state"] == "send")
    return (last.state, last.reason) == (decided["state"], decided["reason"])


def _attempt(entry: Entry, before: Entry | None) -> Attempt:
    ended: datetime | None = None if before is None else before.at
    return Attempt(
        attempt=entry.attempt,
        at=None if entry.at is None else iso(entry.at),
        lane=entry.provider,
        status=entry.state or OPEN,
        reason=entry.reason,
        provider_id=entry.provider_id,
        repeated=entry.repeated,
        waited_ms=None if ended is None or entry.at is None else millis(entry.at) - millis(ended),
    )
