"""Devices: register, sign out, list, restore what was retired; and what devices tell of opens.

Registration and opens are hot. A registration is an upsert in Postgres, gathered with its neighbours, so the answer is
exact and the next send sees it. An open is on disk in the log when it is answered; who it was of is found out later
(C94).
"""

from collections.abc import Sequence
from typing import Annotated, Final
from uuid import UUID
from weakref import WeakKeyDictionary

import msgspec

from sendora.kernel.clock import iso
from sendora.kernel.errors import NotFound, ValidationFailed
from sendora.kernel.http import (
    HotRequest,
    HotResponse,
    Paged,
    Principal,
    delete,
    get,
    hot_route,
    post,
    take,
)
from sendora.kernel.ids import OrgId, TokenId, new_id, parse_id
from sendora.kernel.life import Kernel
from sendora.kernel.outbound import BlockedAddress
from sendora.kernel.wire import Page, decode, success
from sendora.modules import orgs, profiles
from sendora.modules.push import credentials
from sendora.modules.push.gather import Gatherer
from sendora.modules.push.lifecycle import OPENS, OpenSaid, OpensSaid
from sendora.modules.push.model.quarantine import (
    REASON,
    Filter,
    Provider,
    Quarantined,
    Restored,
    RestoreIn,
    filter_of,
    since_of,
)
from sendora.modules.push.model.receipts import addressed
from sendora.modules.push.model.sends import Tracked, TrackOpen
from sendora.modules.push.model.tokens import (
    RegistrationIn,
    TokenRetired,
    TokenShown,
    endpoint_refused,
    registration,
)
from sendora.modules.push.store import quarantine
from sendora.modules.push.store import tokens as store
from sendora.modules.push.store.tokens import Registering

BATCH_MAX: Final = 500
"""Registrations of one statement: a few milliseconds of one connection."""

OPENS_MAX: Final = 5_000
"""Opens of one message: below a megabyte."""

WAITING_MAX: Final = 20_000
"""Requests of one process that may wait; then 503, before memory fills."""

BODY_TAP: Final = ("", "body")
"""C39."""

KNOWN_MAX: Final = 100_000

RESTORE_BITES_MAX: Final = 20
"""A hundred thousand addresses by one request, within seconds; whoever has more asks again."""


class _Hot:
    """What one process gathers."""

    def __init__(self, kernel: Kernel) -> None:
        db, bus = kernel.db, kernel.bus

        async def register(batch: Sequence[Registering]) -> Sequence[TokenShown]:
            return await store.upsert(db, batch)

        async def publish(batch: Sequence[OpenSaid]) -> Sequence[None]:
            await bus.publish(OPENS, msgspec.json.encode(OpensSaid(opens=list(batch))), new_id().hex)
            return [None] * len(batch)

        self.tokens = Gatherer(register, batch_max=BATCH_MAX, waiting_max=WAITING_MAX)
        self.opens = Gatherer(publish, batch_max=OPENS_MAX, waiting_max=WAITING_MAX)
        self.with_keys: set[OrgId] = set()
        """Orgs that are known to have a VAPID key pair."""


_hot: WeakKeyDictionary[object, _Hot] = WeakKeyDictionary()


@hot_route(
    "/push/tokens",
    scope=None,
    body=RegistrationIn,
    answer=TokenShown,
    operation="registerToken",
    summary="Register a device",
)
async def register(kernel: Kernel, principal: Principal, request: HotRequest) -> HotResponse:
    """An upsert by token (B082): a changed user, locale, time zone or version is written, `isActive` stays as it was
    (B083) unless the device changes hands or `reactivate` is true (C36)."""
    said = registration(decode(request.body, RegistrationIn), principal.project, principal.org)
    if said.platform == "web":
        try:
            kernel.outbound.allow_push_endpoint(said.token)
        except BlockedAddress:
            raise endpoint_refused() from None
    await take(kernel, principal)
    hot = _of(kernel)
    shown = await hot.tokens.submit(Registering(org=principal.org, project=principal.project, said=said))
    kernel.metrics.count("tokens_registered", platform=said.platform)
    if said.platform == "web" and principal.org not in hot.with_keys:
        # C42: the first subscription makes the key pair, unless somebody has asked for it before.
        await credentials.vapid(kernel, principal.org)
        if len(hot.with_keys) >= KNOWN_MAX:
            hot.with_keys.clear()
        hot.with_keys.add(principal.org)
    return HotResponse(200, success(shown))


@hot_route(
    "/push/track-open",
    scope=None,
    body=TrackOpen,
    answer=Tracked,
    operation="trackOpen",
    summary="Tell that a notification was opened",
)
async def track_open(kernel: Kernel, principal: Principal, request: HotRequest) -> HotResponse:
    """`sendId` is a send's id or a sendoraDeliveryId (C38). Without an action, or with "body", the notification itself
    was tapped; anything else names a button (C39). An unknown send is counted and dropped (C94)."""
    data = decode(request.body, TrackOpen)
    send, recipient = _opened(data.send_id)
    action = None if data.click_action is None or data.click_action in BODY_TAP else data.click_action
    await take(kernel, principal)
    said = OpenSaid(
        org=principal.org,
        project=principal.project,
        send=send,
        recipient=recipient,
        at=iso(kernel.clock.now()),
        action=action,
    )
    await _of(kernel).opens.submit(said)
    return HotResponse(200, success(Tracked(id=data.send_id, click_action=data.click_action)))


@delete(
    "/push/tokens/{token_id}",
    scope=None,
    public_key=True,
    operation="deactivateToken",
    summary="Sign a device out",
)
async def deactivate(kernel: Kernel, principal: Principal, token_id: str) -> TokenRetired:
    """B086: `isActive` is false from now on. The id is the row's, not the device's token."""
    id_ = parse_id(token_id)
    if id_ is None or not await store.deactivate(kernel.db, principal.org, principal.project, TokenId(id_)):
        raise NotFound("Token")
    return TokenRetired(id=id_, is_active=False)


@get("/push/tokens", scope="push:read", operation="listTokens", summary="List devices")
async def list_tokens(
    kernel: Kernel, principal: Principal, page: Page, user_id: str | None = None, is_active: bool | None = None
) -> Paged[TokenShown]:
    """Devices that were registered, the newest first. A user's are those of everybody the user has taken over as well
    (C69)."""
    users = None
    if user_id is not None:
        users = await profiles.names_of(kernel.db, principal.org, principal.project, user_id)
    listed = await store.listed(kernel.db, principal.org, principal.project, users, is_active, page)
    return Paged.of(listed, page)


@get(
    "/push/tokens/quarantine",
    scope="push:read",
    operation="listQuarantine",
    summary="List devices that a provider calls dead",
)
async def list_quarantine(
    kernel: Kernel,
    principal: Principal,
    page: Page,
    provider: Provider | None = None,
    reason: Annotated[str | None, REASON] = None,
    since: str | None = None,
) -> Paged[Quarantined]:
    """Retired on a provider's word (B087), or `held`: still active, because so many died on their lane at a time that
    the lane is to blame. With what was said, by whom, of which send; the latest first. `reason` is asked for as it is
    shown."""
    wanted = Filter(provider=provider, reason=reason, since=since_of(since))
    return Paged.of(await quarantine.listed(kernel.db, principal.org, principal.project, wanted, page), page)


@post(
    "/push/tokens/restore",
    scope="push:write",
    operation="restoreTokens",
    summary="Take devices out of the quarantine",
)
async def restore_tokens(kernel: Kernel, principal: Principal, data: RestoreIn) -> Restored:
    """By `tokenIds`, or by a filter with at least one field. They are active again, and what a provider said of them
    until now does not retire them a second time. Left alone: devices that were signed out, and tokens whose device has
    a newer one. At most 100,000 a request; the audit log tells of each lot."""
    wanted = filter_of(data)
    asked = {name: value for name, value in msgspec.to_builtins(data).items() if value is not None}
    restored, found = 0, 1
    for _ in range(RESTORE_BITES_MAX):
        async with kernel.db.transaction() as connection:
            found = await quarantine.restore(connection, principal.org, principal.project, wanted, data.token_ids)
            if not found:
                break
            told = {"restored": found, "asked": asked}
            await orgs.audit(connection, principal, "tokens.restored", f"project:{principal.project}", told)
        restored += found
    return Restored(restored=restored, has_more=found > 0)


def _of(kernel: Kernel) -> _Hot:
    found = _hot.get(kernel.db)
    if found is None:
        found = _hot[kernel.db] = _Hot(kernel)
    return found


def _opened(text: str) -> tuple[UUID, UUID]:
    """(send, recipient); NIL for a device that only knows the send."""
    found = addressed(text)
    if found is None:
        raise ValidationFailed({"sendId": ["Neither a send's id nor a sendoraDeliveryId"]})
    return found


HOT = (register.hot, track_open.hot)
ROUTES = (register.handler, track_open.handler, deactivate, list_tokens, list_quarantine, restore_tokens)
