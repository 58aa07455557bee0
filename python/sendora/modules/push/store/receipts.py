"""Receipts of devices, and what devices have said of a send's recipients."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from sendora.kernel.ids import NIL, OrgId, ProjectId, SendId
from sendora.kernel.pg import Connection, Database, queries
from sendora.kernel.wire import Listed, Page

SQL: Final = queries(__file__, "receipts.sql")


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A receipt of which nobody has looked yet whether it can be."""

    org: OrgId
    project: ProjectId
    send: SendId
    recipient: UUID = NIL
    """NIL: the device only knew the send."""
    at: datetime

    @property
    def key(self) -> tuple[OrgId, SendId, UUID]:
        return self.org, self.send, self.recipient


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """A receipt of a known send."""

    org: OrgId
    project: ProjectId
    send: SendId
    recipient: UUID
    user_id: str | None
    at: datetime
    first: bool
    """Nothing was known of this recipient before."""


class Heard(msgspec.Struct, frozen=True):
    """What devices said of one recipient of a send."""

    delivered_at: datetime | None = None
    opened_at: datetime | None = None
    clicked_at: datetime | None = None


async def record(db: Database | Connection, said: Sequence[Said]) -> list[Recorded]:
    """Those of a known send; each key at most once in `said`."""
    rows = await db.fetch(
        SQL.record_receipts,
        [one.org for one in said],
        [one.project for one in said],
        [one.send for one in said],
        [one.recipient for one in said],
        [one.at for one in said],
    )
    return [
        Recorded(
            org=OrgId(row["org_id"]),
            project=ProjectId(row["project_id"]),
            send=SendId(row["send_id"]),
            recipient=row["recipient"],
            user_id=row["user_id"],
            at=row["at"],
            first=row["first"],
        )
        for row in rows
    ]


async def delivered_of_sends(db: Database | Connection, org: OrgId, sends: Sequence[SendId]) -> dict[SendId, int]:
    """Recipients with a receipt, of those sends that have any (C93)."""
    rows = await db.fetch(SQL.delivered_of_sends, org, list(sends))
    return {SendId(row["send_id"]): row["n"] for row in rows}


async def delivered_of_project(db: Database | Connection, org: OrgId, project: ProjectId) -> int:
    counted: int = await db.fetchval(SQL.delivered_of_project, org, project)
    return counted


async def delivered_sends(db: Database | Connection, org: OrgId, project: ProjectId, page: Page) -> Listed[SendId]:
    """Sends with a receipt, the newest first (C96)."""
    total: int = await db.fetchval(SQL.count_delivered_sends, org, project)
    rows = await db.fetch(SQL.delivered_sends, org, project, page.size, page.offset)
    return Listed([SendId(row["send_id"]) for row in rows], total)


async def heard_of(
    db: Database | Connection, org: OrgId, send: SendId, recipients: Collection[UUID]
) -> dict[UUID, Heard]:
    rows = await db.fetch(SQL.heard_of, org, send, list(recipients))
    return {row["recipient"]: Heard(row["delivered_at"], row["opened_at"], row["clicked_at"]) for row in rows}


async def owners_since(
    db: Database | Connection, org: OrgId, project: ProjectId, devices: Collection[UUID], instant: datetime
) -> dict[UUID, str]:
    """Whose these devices have been since before that instant."""
    rows = await db.fetch(SQL.owners_since, org, project, list(devices), instant)
    return {row["id"]: row["user_id"] for row in rows}


async def devices_since(
    db: Database | Connection, org: OrgId, project: ProjectId, users: Sequence[str], instant: datetime
) -> list[UUID]:
    """The devices that have been these users' since before that instant."""
    return [row["id"] for row in await db.fetch(SQL.devices_since, org, project, list(users), instant)]


async def forget(db: Database | Connection, org: OrgId, recipients: Sequence[UUID]) -> None:
    """How many there were stays counted."""
    await db.execute(SQL.forget_receipts, org, list(recipients))
