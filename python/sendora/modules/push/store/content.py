"""Templates, A/B tests and policies."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from asyncpg import Record

from sendora.kernel.clock import iso
from sendora.kernel.ids import OrgId, ProjectId, TemplateId, TestId, new_id
from sendora.kernel.pg import Connection, Database, queries
from sendora.kernel.wire import Listed, Page
from sendora.modules.push.model.content import TemplateContent, TemplateShown, TestShown, Variant
from sendora.modules.push.model.policies import Policies
from sendora.modules.push.model.readout import Counted, Tally

SQL: Final = queries(__file__, "content.sql")


class Template(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    name: str
    content: TemplateContent
    created_at: datetime
    updated_at: datetime

    def shown(self) -> TemplateShown:
        parts = {field: getattr(self.content, field) for field in self.content.__struct_fields__}
        return TemplateShown(
            id=self.id, name=self.name, **parts, created_at=iso(self.created_at), updated_at=iso(self.updated_at)
        )


class Test(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    name: str
    status: str
    variants: list[Variant]
    winner_key: str | None
    auto_promote: bool
    first_sent_at: datetime | None
    promoted_at: datetime | None
    created_at: datetime

    def shown(self) -> TestShown:
        return TestShown(
            id=self.id,
            name=self.name,
            status=self.status,
            variants=self.variants,
            winner_key=self.winner_key,
            auto_promote=self.auto_promote,
            first_sent_at=None if self.first_sent_at is None else iso(self.first_sent_at),
            promoted_at=None if self.promoted_at is None else iso(self.promoted_at),
            created_at=iso(self.created_at),
        )


async def insert_template(
    db: Database | Connection, org: OrgId, project: ProjectId, name: str, content: TemplateContent
) -> Template:
    row = await db.fetchrow(SQL.insert_template, org, new_id(), project, name, msgspec.to_builtins(content))
    return _template(_there(row))


async def find_template(
    db: Database | Connection, org: OrgId, project: ProjectId, template: TemplateId, *, lock: bool = False
) -> Template | None:
    row = await db.fetchrow(SQL.lock_template if lock else SQL.find_template, org, project, template)
    return None if row is None else _template(row)


async def list_templates(db: Database | Connection, org: OrgId, project: ProjectId, page: Page) -> Listed[Template]:
    rows = await db.fetch(SQL.list_templates, org, project, page.offset, page.size)
    total = rows[0]["total"] if rows else await db.fetchval(SQL.count_templates, org, project)
    return Listed([_template(row) for row in rows], total)


async def update_template(
    db: Database | Connection, org: OrgId, project: ProjectId, template: TemplateId, name: str, content: TemplateContent
) -> Template:
    row = await db.fetchrow(SQL.update_template, org, project, template, name, msgspec.to_builtins(content))
    return _template(_there(row))


async def delete_template(db: Database | Connection, org: OrgId, project: ProjectId, template: TemplateId) -> bool:
    return await db.fetchval(SQL.delete_template, org, project, template) is not None


async def insert_test(
    db: Database | Connection,
    org: OrgId,
    project: ProjectId,
    name: str,
    status: str,
    variants: list[Variant],
    auto_promote: bool,
) -> Test:
    row = await db.fetchrow(
        SQL.insert_test, org, new_id(), project, name, status, msgspec.to_builtins(variants), auto_promote
    )
    return _test(_there(row))


async def find_test(
    db: Database | Connection, org: OrgId, project: ProjectId, test: TestId, *, lock: bool = False
) -> Test | None:
    row = await db.fetchrow(SQL.lock_test if lock else SQL.find_test, org, project, test)
    return None if row is None else _test(row)


async def list_tests(
    db: Database | Connection, org: OrgId, project: ProjectId, status: str | None, page: Page
) -> Listed[Test]:
    rows = await db.fetch(SQL.list_tests, org, project, status, page.offset, page.size)
    total = rows[0]["total"] if rows else await db.fetchval(SQL.count_tests, org, project, status)
    return Listed([_test(row) for row in rows], total)


async def update_test(db: Database | Connection, org: OrgId, project: ProjectId, test: Test) -> Test:
    row = await db.fetchrow(
        SQL.update_test,
        org,
        project,
        test.id,
        test.name,
        test.status,
        msgspec.to_builtins(test.variants),
        test.winner_key,
        test.auto_promote,
        test.promoted_at,
    )
    return _test(_there(row))


async def delete_test(db: Database | Connection, org: OrgId, project: ProjectId, test: TestId) -> bool:
    return await db.fetchval(SQL.delete_test, org, project, test) is not None


async def mark_test_sent(db: Database | Connection, org: OrgId, project: ProjectId, test: TestId) -> None:
    await db.execute(SQL.mark_test_sent, org, project, test)


async def last_tallies(db: Database | Connection, org: OrgId, project: ProjectId, test: TestId) -> Counted | None:
    row = await db.fetchrow(SQL.last_tallies, org, project, test)
    if row is None:
        return None
    tallies = msgspec.convert(row["tallies"], dict[str, Tally])
    return Counted(tallies=tallies, as_of=row["tallied_at"], age_s=row["age_s"], took_s=row["tallied_s"])


async def begin_tally(connection: Connection, test: TestId, most_s: float) -> datetime:
    """In a transaction of its own: nobody else counts this test until it ends. Since when, by PostgreSQL's clock."""
    await connection.execute(f"SET LOCAL statement_timeout = '{most_s:.0f}s'")
    await connection.execute(SQL.lock_tallies, test, timeout=most_s)
    since: datetime = await connection.fetchval(SQL.clock)
    return since


async def tally_test(
    connection: Connection,
    org: OrgId,
    project: ProjectId,
    test: TestId,
    follow_up: timedelta,
    since: datetime,
    most_s: float,
) -> Counted:
    """Counted and kept, as of `since`."""
    rows = await connection.fetch(SQL.tally_test, org, project, str(test), follow_up, timeout=most_s)
    fields = Tally.__struct_fields__
    tallies = {row["variant"]: Tally(**{field: row[field] for field in fields}) for row in rows}
    kept = await connection.fetchrow(SQL.keep_tallies, org, project, test, msgspec.to_builtins(tallies), since)
    if kept is None:  # The test was deleted meanwhile.
        return Counted(tallies=tallies, as_of=None)
    return Counted(tallies=tallies, as_of=kept["tallied_at"], took_s=kept["tallied_s"])


async def take_undecided_test(db: Database | Connection, older_than_s: float) -> tuple[OrgId, ProjectId, Test] | None:
    """Across all orgs: the `autoPromote` test that nobody has looked at for the longest time, if that is longer."""
    row = await db.fetchrow(SQL.take_undecided_test, older_than_s)
    return None if row is None else (OrgId(row["org_id"]), ProjectId(row["project_id"]), _test(row))


async def promote_test(connection: Connection, org: OrgId, project: ProjectId, test: TestId, winner: str) -> bool:
    """Whether the test was still undecided."""
    return await connection.fetchval(SQL.promote_test, org, project, test, winner) is not None


async def policies(db: Database | Connection, org: OrgId) -> Policies:
    row = await db.fetchrow(SQL.policies, org)
    return Policies() if row is None else _policies(row)


@asynccontextmanager
async def changing_policies(db: Database, org: OrgId) -> AsyncIterator[tuple[Connection, Policies]]:
    """The org's policies, locked until the block ends."""
    async with db.transaction() as connection:
        await connection.execute(SQL.make_policies, org)
        yield connection, _policies(_there(await connection.fetchrow(SQL.lock_policies, org)))


async def set_policies(connection: Connection, org: OrgId, policies: Policies) -> None:
    await connection.execute(
        SQL.set_policies,
        org,
        policies.quiet_hours_start_local,
        policies.quiet_hours_end_local,
        policies.defer_in_quiet_hours,
        policies.freq_cap_per_user_per_day,
        policies.freq_cap_per_user_per_hour,
        policies.org_default_timezone,
        policies.critical_alerts_bypass_policies,
    )


def _there(row: Record | None) -> Record:
    if row is None:
        raise RuntimeError("RETURNING gave no row")
    return row


def _template(row: Record) -> Template:
    return Template(
        id=row["id"],
        name=row["name"],
        content=msgspec.convert(row["content"], TemplateContent),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _test(row: Record) -> Test:
    variants: list[Any] = row["variants"]
    return Test(
        id=row["id"],
        name=row["name"],
        status=row["status"],
        variants=msgspec.convert(variants, list[Variant]),
        winner_key=row["winner_key"],
        auto_promote=row["auto_promote"],
        first_sent_at=row["first_sent_at"],
        promoted_at=row["promoted_at"],
        created_at=row["created_at"],
    )


def _policies(row: Record) -> Policies:
    return Policies(
        quiet_hours_start_local=row["quiet_start"],
        quiet_hours_end_local=row["quiet_end"],
        defer_in_quiet_hours=row["defer"],
        freq_cap_per_user_per_day=row["cap_day"],
        freq_cap_per_user_per_hour=row["cap_hour"],
        org_default_timezone=row["default_zone"],
        critical_alerts_bypass_policies=row["critical_bypass"],
    )
