"""What comes back from devices and providers: opens, and how the lanes fare."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from sendora.kernel.ids import NIL, OrgId, ProjectId, SendId
from sendora.kernel.pg import Connection, Database, queries

SQL: Final = queries(__file__, "feedback.sql")


class Open(msgspec.Struct, frozen=True, kw_only=True):
    """One recipient's opens of one send, folded: the first instant of each kind."""

    org: OrgId
    project: ProjectId
    send: SendId
    recipient: UUID = NIL
    """NIL: the device only knew the send."""
    opened_at: datetime
    clicked_at: datetime | None = None
    action: str | None = None
    user_id: str | None = None
    """Whose device it is, once it is recorded."""

    @property
    def key(self) -> tuple[OrgId, SendId, UUID]:
        return self.org, self.send, self.recipient


class Opens(msgspec.Struct, frozen=True, kw_only=True):
    """What a send's opens come to."""

    opened_at: datetime | None
    clicked_at: datetime | None
    action: str | None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    accepted: int
    dead: int


async def record_opens(db: Database | Connection, opens: Sequence[Open]) -> list[Open]:
    """Those that were of a known send, as they stand now; each key at most once in `opens`."""
    projects = {one.key: one.project for one in opens}
    rows = await db.fetch(
        SQL.record_opens,
        [one.org for one in opens],
        [one.project for one in opens],
        [one.send for one in opens],
        [one.recipient for one in opens],
        [one.opened_at for one in opens],
        [one.clicked_at for one in opens],
        [one.action for one in opens],
    )
    return [
        Open(
            org=OrgId(row["org_id"]),
            project=projects[OrgId(row["org_id"]), SendId(row["send_id"]), row["recipient"]],
            send=SendId(row["send_id"]),
            recipient=row["recipient"],
            opened_at=row["opened_at"],
            clicked_at=row["clicked_at"],
            action=row["click_action"],
            user_id=row["user_id"],
        )
        for row in rows
    ]


async def opens_of_send(db: Database | Connection, org: OrgId, send: SendId) -> Opens:
    row = await db.fetchrow(SQL.opens_of_send, org, send)
    if row is None:
        return Opens(opened_at=None, clicked_at=None, action=None)
    return Opens(opened_at=row["opened_at"], clicked_at=row["clicked_at"], action=row["click_action"])


async def opens_of_project(db: Database | Connection, org: OrgId, project: ProjectId) -> tuple[int, int]:
    """(opened, clicked)."""
    row = await db.fetchrow(SQL.opens_of_project, org, project)
    return (0, 0) if row is None else (row["opened"], row["clicked"])


async def forget_opens(db: Database | Connection, org: OrgId, recipients: Sequence[UUID]) -> None:
    await db.execute(SQL.forget_opens, org, list(recipients))


async def add_health(connection: Connection, org: OrgId, project: ProjectId, seen: Mapping[str, Health]) -> None:
    await connection.execute(
        SQL.add_health,
        org,
        project,
        list(seen),
        [health.accepted for health in seen.values()],
        [health.dead for health in seen.values()],
    )


async def recent_health(connection: Connection, org: OrgId, project: ProjectId, minutes: int) -> dict[str, Health]:
    rows = await connection.fetch(SQL.recent_health, org, project, minutes)
    return {row["platform"]: Health(accepted=row["accepted"], dead=row["dead"]) for row in rows}


async def forget_health(db: Database | Connection, days: int) -> None:
    await db.execute(SQL.forget_health, days)
