"""What comes back: dead addresses are retired with care, opens are recorded.

The two stages share nothing but the stream. `prune`:

eats        lifecycle.push.outcomes: how the recipients of a chunk ended
gives       push_tokens retired or held; push_lane_health; lifecycle.push.token_invalidated
bounded by  PRUNE_MAX messages, each of at most 1,000 outcomes
acks when   the rows are committed, after the log has the invalidations
if it dies  the outcomes are read again: an address is retired once, an invalidation told twice has the same id

Only what providers call permanent retires an address. A code that may as well mean a wrong environment, bundle or
project retires only where others have just been accepted. And when the share of dead ones on a lane jumps, nobody is
retired at all until it has fallen: the addresses are held, stay active, and the metric is the alarm. Retired or held,
an address is in quarantine with the evidence: what was said of it, on which lane, of which send, and when.

`opens`:

eats        lifecycle.push.opens: what devices said, by batches
gives       push_opens; lifecycle.push.opened and .clicked
bounded by  OPENS_MAX messages
acks when   the rows are committed and the log has what follows from them
if it dies  the opens are read again: the first instant counts, so nothing changes
"""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from sendora import _core
from sendora.kernel.bus import LIFECYCLE, Message
from sendora.kernel.clock import from_millis, iso
from sendora.kernel.ids import NIL, OrgId, ProjectId, SendId
from sendora.kernel.life import Kernel
from sendora.kernel.module import Consumer
from sendora.kernel.wire import Wire
from sendora.modules.push import apns, fcm, webpush
from sendora.modules.push.lifecycle import (
    CLICKED,
    INVALIDATED,
    OPENED,
    OPENS,
    OUTCOMES,
    Invalidated,
    Opened,
    OpenedMany,
    OpensSaid,
)
from sendora.modules.push.parts import Meaning
from sendora.modules.push.store import feedback, quarantine
from sendora.modules.push.store.feedback import Health, Open
from sendora.modules.push.store.quarantine import Dead, Retired

PRUNE_MAX: Final = 20
OPENS_MAX: Final = 50

TELL_MAX: Final = 100
"""Messages under way at a time: the addresses are locked meanwhile, so thousands are not told one after the other."""

WINDOW_MIN: Final = 5
"""Minutes of a lane that are looked at: long enough for a rate, short enough to notice a jump."""

DEAD_MIN: Final = 100
"""Below this many dead addresses a rate says nothing."""

DEAD_RATE_MAX: Final = 0.3
"""Apps lose a few percent of their devices between two broadcasts; a third within minutes is a mistake of ours."""

RETIRES: Final[Mapping[str, Meaning]] = {
    reason: meaning
    for reason, meaning in (
        *apns.REASONS.items(),
        ("http_410", apns.STATUSES[410]),
        *fcm.CODES.items(),
        *webpush.STATUSES.values(),
    )
    if meaning.retires
}
"""The reasons of the ledger that mean a dead address."""

PLATFORMS: Final = {"apns": "ios", "apns:sandbox": "ios:sandbox", "fcm": "android", "webpush": "web"}
"""Whose addresses each provider of the ledger speaks for: what one of Apple's environments accepts says nothing of the
other's tokens, and what is accepted under one app's credential nothing of another app's."""


class Heard(msgspec.Struct):
    """What a batch says of one platform's addresses, or of one app's on it."""

    accepted: int = 0
    dead: list[Dead] = msgspec.field(default_factory=list)


class _Outcomes(Wire, frozen=True, kw_only=True):
    """What is read here of a message: the outcomes themselves are the library's to read."""

    send: UUID


async def prune(kernel: Kernel, messages: list[Message]) -> None:
    by_project: dict[tuple[OrgId, ProjectId], dict[str, Heard]] = defaultdict(lambda: defaultdict(Heard))
    retiring = list(RETIRES)
    for message in messages:
        for org, project, provider, accepted, dead in _core.address_health([message.data], retiring):
            asked, slash, app = provider.partition("/")
            if asked not in PLATFORMS:
                continue
            addresses = PLATFORMS[asked] + slash + app
            heard = by_project[OrgId(UUID(bytes=org)), ProjectId(UUID(bytes=project))][addresses]
            heard.accepted += accepted
            if dead:
                send = SendId(msgspec.json.decode(message.data, type=_Outcomes).send)
                heard.dead += [_dead(provider, send, *one) for one in dead]
    for (org_id, project_id), heard_of in by_project.items():
        await _prune(kernel, org_id, project_id, heard_of)


async def record_opens(kernel: Kernel, messages: list[Message]) -> None:
    folded = fold(
        Open(
            org=OrgId(said.org),
            project=ProjectId(said.project),
            send=SendId(said.send),
            recipient=said.recipient,
            opened_at=datetime.fromisoformat(said.at),
            clicked_at=None if said.action is None else datetime.fromisoformat(said.at),
            action=said.action,
        )
        for message in messages
        for said in msgspec.json.decode(message.data, type=OpensSaid).opens
    )
    recorded = await feedback.record_opens(kernel.db, list(folded.values()))
    unknown = len(folded) - len(recorded)
    if unknown:
        kernel.metrics.count("opens_recorded", unknown, result="unknown")
    # A row that still shows the instant of this batch is the first of its kind.
    first = [one for one in recorded if one.opened_at == folded[one.key].opened_at]
    clicked = [one for one in recorded if one.clicked_at is not None and one.clicked_at == folded[one.key].clicked_at]
    kernel.metrics.count("opens_recorded", len(first), result="opened")
    kernel.metrics.count("opens_recorded", len(clicked), result="clicked")
    await _tell(kernel, OPENED, first)
    await _tell(kernel, CLICKED, clicked)


def fold(opens: Iterable[Open]) -> dict[tuple[OrgId, SendId, UUID], Open]:
    """One row for each key: the earliest open, and the earliest click with its action."""
    folded: dict[tuple[OrgId, SendId, UUID], Open] = {}
    for one in opens:
        known = folded.get(one.key)
        if known is None:
            folded[one.key] = one
            continue
        clicks = [each for each in (known, one) if each.clicked_at is not None]
        click = min(clicks, key=lambda each: each.clicked_at or each.opened_at, default=known)
        folded[one.key] = msgspec.structs.replace(click, opened_at=min(known.opened_at, one.opened_at))
    return folded


def held(health: Health) -> bool:
    """Whether so many have died on a lane that the lane is to blame."""
    return health.dead >= DEAD_MIN and health.dead > DEAD_RATE_MAX * (health.accepted + health.dead)


async def _prune(kernel: Kernel, org: OrgId, project: ProjectId, heard: Mapping[str, Heard]) -> None:
    health = {name: Health(accepted=one.accepted, dead=len(one.dead)) for name, one in heard.items()}
    dead = {platform: one.dead for platform, one in heard.items() if one.dead}
    async with kernel.db.transaction() as connection:
        await feedback.add_health(connection, org, project, health)
        if not dead:
            return
        recent = await feedback.recent_health(connection, org, project, WINDOW_MIN)
        retired: list[Retired] = []
        for platform, found in sorted(dead.items()):
            lately = recent.get(platform, Health(accepted=0, dead=0))
            doubtful = [one for one in found if RETIRES[one.reason].doubtful and not lately.accepted]
            holding = found if held(lately) else doubtful
            if holding:
                count = await quarantine.hold(connection, org, holding)
                kernel.metrics.count("prune_held", count, platform=platform.partition("/")[0])
                kernel.log.warning(
                    "push.prune_held",
                    org=str(org),
                    project=str(project),
                    platform=platform,
                    dead=lately.dead,
                    accepted=lately.accepted,
                )
            retiring = [] if held(lately) else [one for one in found if one not in doubtful]
            if retiring:
                retired += await quarantine.retire(connection, org, retiring)
        # Told before it is committed: what is told twice is recognised by its id.
        everybody = sorted((one for found in dead.values() for one in found), key=lambda one: one.said_at, reverse=True)
        first_at = {one.token: one.said_at for one in everybody}
        for low in range(0, len(retired), TELL_MAX):
            await asyncio.gather(
                *(
                    kernel.bus.publish(
                        INVALIDATED, msgspec.json.encode(_invalidated(org, gone)), _message_id(gone, first_at)
                    )
                    for gone in retired[low : low + TELL_MAX]
                )
            )
    for gone in retired:
        kernel.metrics.count("prune_retired", platform=gone.platform, reason=gone.reason)


def _dead(lane: str, send: SendId, recipient: bytes, reason: str, provider_id: str | None, at_ms: int) -> Dead:
    """Since when: Apple says it with a 410 (F-V9); else when the provider answered."""
    said_at, gone_at = from_millis(at_ms), apns.gone_at_ms(provider_id)
    return Dead(
        token=UUID(bytes=recipient),
        reason=reason,
        lane=lane,
        send=send,
        gone_at=said_at if gone_at is None else from_millis(gone_at),
        said_at=said_at,
    )


def _invalidated(org: OrgId, one: Retired) -> Invalidated:
    return Invalidated(
        org=org,
        project=one.project,
        token_id=one.token,
        user_id=one.user_id,
        platform=one.platform,
        reason=one.reason,
        at=iso(one.retired_at),
    )


def _message_id(one: Retired, first_at: Mapping[UUID, datetime]) -> str:
    """The same for the same death, whenever it is told: the address and the answer that killed it."""
    return f"push.invalidated.{one.token}.{iso(first_at[one.token])}"


async def _tell(kernel: Kernel, subject: str, opens: Sequence[Open]) -> None:
    by_project: dict[tuple[OrgId, ProjectId], list[Open]] = defaultdict(list)
    for one in opens:
        by_project[one.org, one.project].append(one)
    for (org, project), theirs in by_project.items():
        told = OpenedMany(
            org=org,
            project=project,
            opens=[
                Opened(
                    send=one.send,
                    recipient=None if one.recipient == NIL else one.recipient,
                    user_id=one.user_id,
                    at=iso(one.clicked_at or one.opened_at if subject == CLICKED else one.opened_at),
                    click_action=one.action if subject == CLICKED else None,
                )
                for one in sorted(theirs, key=lambda one: (one.send, one.recipient))
            ],
        )
        body = msgspec.json.encode(told)
        await kernel.bus.publish(subject, body, hashlib.sha256(subject.encode() + body).hexdigest())


CONSUMERS = (
    Consumer(name="push_prune", stream=LIFECYCLE, subject=OUTCOMES, handle=prune, batch_max=PRUNE_MAX, single=True),
    Consumer(name="push_opens", stream=LIFECYCLE, subject=OPENS, handle=record_opens, batch_max=OPENS_MAX),
)
