"""Who is behind each number of a send (design 2, promise 2)."""

from typing import Annotated
from uuid import UUID

from msgspec import Meta

from sendora.delivery import recipients as ledger
from sendora.delivery.phases import Send
from sendora.kernel.clock import iso
from sendora.kernel.http import Paged, Principal, get
from sendora.kernel.life import Kernel
from sendora.kernel.wire import Page
from sendora.modules import profiles
from sendora.modules.push.channel import planned_at
from sendora.modules.push.model.sends import RecipientShown, RecipientState
from sendora.modules.push.routes.sends import find
from sendora.modules.push.store import receipts
from sendora.modules.push.store.receipts import Heard

Asked = Annotated[str | None, Meta(min_length=1, max_length=256)]

NOTHING = Heard()


@get(
    "/push/sends/{send_id}/recipients",
    scope="push:read",
    operation="listRecipients",
    summary="List the recipients of a send",
)
async def list_recipients(
    kernel: Kernel,
    principal: Principal,
    page: Page,
    send_id: str,
    state_: RecipientState | None = None,
    reason: Asked = None,
    variant: Asked = None,
    user_id: Asked = None,
) -> Paged[RecipientShown]:
    """One row for each address that the send was for, under the filters given; as many as the reconciliation says.
    `reason=unspecified` stands for outcomes without one. A person is found under every name that was taken over."""
    # `state` itself is Litestar's word for something else.
    send = await find(kernel, principal, send_id)
    person = None if user_id is None else await _person(kernel, send, user_id)
    listed = await ledger.recipients(
        kernel, send, page=page, state=state_, reason=reason, variant=variant, person=person
    )
    ids = {row.recipient for row in listed.rows}
    heard = await receipts.heard_of(kernel.db, send.org, send.id, ids)
    owners = await _owners(kernel, send, {row.recipient for row in listed.rows if row.user_id is None})
    return Paged(
        [_shown(row, owners, heard.get(row.recipient, NOTHING)) for row in listed.rows], page.pagination(listed.total)
    )


async def _person(kernel: Kernel, send: Send, user_id: str) -> ledger.Person:
    names = await profiles.names_of(kernel.db, send.org, send.project, user_id)
    return ledger.Person(
        names, await receipts.devices_since(kernel.db, send.org, send.project, names, planned_at(send))
    )


async def _owners(kernel: Kernel, send: Send, nameless: set[UUID]) -> dict[UUID, str]:
    """Nobody has looked yet at who is open, nor at whom a stop has met: whose devices they have been all along."""
    return (
        await receipts.owners_since(kernel.db, send.org, send.project, nameless, planned_at(send)) if nameless else {}
    )


def _shown(row: ledger.Recipient, owners: dict[UUID, str], heard: Heard) -> RecipientShown:
    return RecipientShown(
        recipient_id=row.recipient,
        user_id=row.user_id or owners.get(row.recipient),
        state=row.state,
        reason=row.reason,
        variant=row.variant,
        provider_id=row.provider_id,
        attempt=row.attempt,
        repeated=row.repeated,
        delivered_at=None if heard.delivered_at is None else iso(heard.delivered_at),
        opened_at=None if heard.opened_at is None else iso(heard.opened_at),
        clicked_at=None if heard.clicked_at is None else iso(heard.clicked_at),
    )


ROUTES = (list_recipients,)
