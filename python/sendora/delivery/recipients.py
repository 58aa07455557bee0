"""The recipients behind each number of the balance.

A page of a send to a million people is a walk along an index as far as the page, and its total comes from what is
counted already: the folded counters of a closed send, the balance of one that runs. Who has ended stands before who is
open. While a send runs people move from one to the other between two pages, as they do between two calls.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from asyncpg import Record

from sendora.delivery import store
from sendora.delivery.phases import Send
from sendora.delivery.report import NO_REASON
from sendora.kernel.life import Kernel
from sendora.kernel.wire import Listed, Page

OPEN: Final = "open"
ACCEPTED: Final = "accepted"

PERSON_MAX: Final = 10_000
"""Recipients of one person in one send; people have a handful of devices, test accounts a few hundred."""


class Recipient(msgspec.Struct, frozen=True, kw_only=True):
    """One address, where it stands."""

    recipient: UUID
    user_id: str | None
    """Whose it was when it was decided upon; None where nobody has looked, and after an erasure."""
    state: str
    reason: str | None
    variant: str | None
    provider_id: str | None
    attempt: int
    repeated: bool
    at: datetime | None
    """When the outcome was recorded; None while it is open."""


class Person(msgspec.Struct, frozen=True):
    """Whom a list is asked of: every name of a person, and the addresses that were theirs all along."""

    names: Collection[str]
    addresses: Collection[UUID] = ()


async def recipients(
    kernel: Kernel,
    send: Send,
    *,
    page: Page,
    state: str | None = None,
    reason: str | None = None,
    variant: str | None = None,
    person: Person | None = None,
) -> Listed[Recipient]:
    """In the order of the plan; with a reason, or a state that says that nobody was reached, by state first."""
    if person is not None:
        return await _of_person(kernel, send, page, state, reason, variant, person)
    ended, still_open = await _counted(kernel, send, state, reason, variant)
    total = (0 if state == OPEN else ended) + still_open
    if page.offset >= total:
        return Listed([], total)
    rows: list[Record] = []
    if state != OPEN:
        rows = await _ended(kernel, send, page, state, reason, variant)
    if still_open and len(rows) < page.size:
        skip = page.offset if state == OPEN else max(page.offset - ended, 0)
        rows += await kernel.db.fetch(store.SQL.still_open, send.org, send.id, page.size - len(rows), skip)
    return Listed([_recipient(row) for row in rows], total)


async def _counted(
    kernel: Kernel, send: Send, state: str | None, reason: str | None, variant: str | None
) -> tuple[int, int]:
    """How many have ended so and are asked for, and how many that are open."""
    statement = store.SQL.reconcile if send.closed_at is None else store.SQL.folded
    rows = await kernel.db.fetch(statement, send.org, send.id)
    ended = sum(
        row["n"]
        for row in rows
        if row["state"] is not None
        and (state is None or row["state"] == state)
        and (reason is None or (row["state"] != ACCEPTED and (row["reason"] or NO_REASON) == reason))
        and (variant is None or row["variant"] == variant)
    )
    asked = state in (None, OPEN) and reason is None and variant is None
    return ended, rows[0]["open"] if asked and send.closed_at is None else 0


async def _ended(
    kernel: Kernel, send: Send, page: Page, state: str | None, reason: str | None, variant: str | None
) -> list[Record]:
    if reason is None and state in (None, ACCEPTED):
        return await kernel.db.fetch(store.SQL.ended, send.org, send.id, state, variant, page.size, page.offset)
    if state == ACCEPTED:
        return []  # Only who was not accepted has a reason.
    return await kernel.db.fetch(store.SQL.not_sent, send.org, send.id, state, variant, reason, page.size, page.offset)


async def _of_person(
    kernel: Kernel, send: Send, page: Page, state: str | None, reason: str | None, variant: str | None, person: Person
) -> Listed[Recipient]:
    rows = await kernel.db.fetch(
        store.SQL.recipients_of,
        send.org,
        send.id,
        list(person.names),
        list(person.addresses),
        state,
        reason,
        variant,
        PERSON_MAX,
    )
    return Listed([_recipient(row) for row in rows[page.offset : page.offset + page.size]], len(rows))


def _recipient(row: Record) -> Recipient:
    return Recipient(**{field: row[field] for field in Recipient.__struct_fields__})
