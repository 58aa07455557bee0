"""The audit log: what it tells, and that nobody can make it say something else."""

import asyncio
import dataclasses
import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.api import Api
from tests.make import Make, Org

from sendora.kernel.config import Postgres
from sendora.kernel.ids import OrgId, new_id
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Database, migrate
from sendora.modules import orgs

TAMPER = "SET LOCAL session_replication_role = replica"
"""What only a superuser can say: without its triggers the table takes anything."""


async def verified(db: Database, org: OrgId) -> orgs.Verified:
    [found] = [found async for found in orgs.verify(db) if found.org == org]
    return found


async def entry(db: Database, org: OrgId, action: str = "thing.done", details: dict[str, Any] | None = None) -> None:
    await orgs.audit_as(db, org, orgs.SYSTEM, action, "thing:1", details)


async def test_the_audit_log(api: Api, org: Org, make: Make) -> None:
    """Who minted and revoked what, the latest first, with the size of what was asked; nobody else's entries."""
    minted = (await api.post("/api-keys", {"type": "pk", "environment": "prod"}, key=org.sk)).data
    await api.delete(f"/api-keys/{minted['id']}", key=org.sk)
    log = await api.get("/audit-log", key=org.sk)
    assert [line["action"] for line in log.data] == ["key.revoked", "key.minted"]
    assert all(line["actor"] == org.sk[:16] and line["resource"] == f"key:{minted['id']}" for line in log.data)
    assert minted["key"] not in log.body.decode()
    assert log.pagination == {"page": 1, "pageSize": 20, "total": 2, "hasMore": False}
    one = await api.get("/audit-log", key=org.sk, pageSize=1, page=2)
    assert [line["action"] for line in one.data] == ["key.minted"]
    assert one.pagination == {"page": 2, "pageSize": 1, "total": 2, "hasMore": False}
    assert (await api.get("/audit-log", key=org.sk, page=9)).pagination["total"] == 2
    assert (await api.get("/audit-log", key=org.sk, actor="nobody")).data == []
    assert len((await api.get("/audit-log", key=org.sk, resource=f"key:{minted['id']}")).data) == 2
    assert (await api.get("/audit-log", key=(await make.org()).sk)).data == []
    for bad in ({"page": 0}, {"pageSize": 101}, {"page": "x"}):
        assert (await api.get("/audit-log", key=org.sk, **bad)).status == 400
    assert [line["seq"] for line in log.data] == [2, 1]
    assert [line["payloadSize"] for line in log.data] == [0, len(b'{"type":"pk","environment":"prod"}')]
    assert len({line["hash"] for line in log.data}) == 2


async def test_the_log_is_for_admins_and_of_one_org(api: Api, org: Org, make: Make) -> None:
    """The explicit form answers the same; another org's does not exist; the role counts beside the scope (C21)."""
    await api.delete(f"/api-keys/{uuid4()}", key=org.sk)
    await api.post("/api-keys", {"type": "pk", "environment": "prod"}, key=org.sk)
    assert (await api.get("/audit-log", key=org.sk, org=org.id)).data == (await api.get("/audit-log", key=org.sk)).data
    other = await make.org()
    assert (await api.get("/audit-log", key=org.sk, org=other.id)).code == "NOT_FOUND"
    editor = await make.key(org, role="EDITOR")
    assert (await api.get("/audit-log", key=editor)).code == "FORBIDDEN"
    assert (await api.get("/audit-log", key=org.pk)).code == "scope_required"


async def test_an_entry_is_for_ever(org: Org, db: Database) -> None:
    await entry(db, org.id)
    for change in (
        "UPDATE audit_log SET actor = 'nobody' WHERE org_id = $1",
        "DELETE FROM audit_log WHERE org_id = $1",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await db.execute(change, org.id)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await db.execute("TRUNCATE audit_log")
    assert (await verified(db, org.id)).entries == 1


async def test_an_entry_stands_or_falls_with_what_it_reports(org: Org, db: Database) -> None:
    """One transaction: what is rolled back leaves no entry, and no gap."""
    await entry(db, org.id)
    with pytest.raises(RuntimeError):
        async with db.transaction() as connection:
            await orgs.audit_as(connection, org.id, orgs.SYSTEM, "thing.undone", "thing:2")
            raise RuntimeError
    await entry(db, org.id)
    found = await verified(db, org.id)
    assert (found.entries, found.fault) == (2, None)


async def test_writers_at_once_keep_one_chain(org: Org, make: Make, db: Database) -> None:
    """They take turns at the org's head, in transactions of their own; another org does not wait for them."""
    other = await make.org()
    async with db.transaction() as slow:
        await orgs.audit_as(slow, other.id, orgs.SYSTEM, "thing.done", "thing:1")
        await asyncio.gather(*(entry(db, org.id, details={"n": n}) for n in range(40)))
    found = await verified(db, org.id)
    assert (found.entries, found.fault) == (40, None)
    rows = await db.fetch("SELECT seq, at FROM audit_log WHERE org_id = $1 ORDER BY seq", org.id)
    assert [row["seq"] for row in rows] == list(range(1, 41))
    assert sorted(row["at"] for row in rows) == [row["at"] for row in rows]


@pytest.mark.parametrize(
    ("forgery", "said"),
    [
        ("UPDATE audit_log SET details = '{\"n\": 9}' WHERE org_id = $1 AND seq = 2", "entry 2 "),
        ("UPDATE audit_log SET at = at + interval '1 microsecond' WHERE org_id = $1 AND seq = 3", "entry 3 "),
        ("UPDATE audit_log SET payload_size = 1 WHERE org_id = $1 AND seq = 1", "entry 1 "),
        ("DELETE FROM audit_log WHERE org_id = $1 AND seq = 2", "entry 2 is missing"),
        ("DELETE FROM audit_log WHERE org_id = $1 AND seq = 3", "head stands at entry 3"),
        ("DELETE FROM audit_heads WHERE org_id = $1", "head stands at entry 0"),
        ("UPDATE audit_heads SET seq = 2 WHERE org_id = $1", "head stands at entry 2"),
        ("UPDATE audit_heads SET hash = sha256('x') WHERE org_id = $1", "head stands at entry 3"),
        (
            """
            UPDATE audit_log AS a SET details = '{}', hash = audit_hash(b.hash, ROW(a.org_id, a.id, a.at, a.actor,
                   a.action, a.resource, '{}'::jsonb, a.seq, a.hash, a.payload_size)::audit_log)
              FROM audit_log b WHERE a.org_id = $1 AND a.seq = 2 AND b.org_id = $1 AND b.seq = 1
            """,
            "entry 3 ",
        ),
    ],
)
async def test_a_forged_log_is_told(org: Org, db: Database, forgery: str, said: str) -> None:
    """Changed, taken out, cut short, or hashed anew by one who knows how: the chain does not fit any more."""
    for n in range(3):
        await entry(db, org.id, details={"n": n})
    assert (await verified(db, org.id)).fault is None
    async with db.transaction() as connection:
        await connection.execute(TAMPER)
        await connection.execute(forgery, org.id)
    fault = (await verified(db, org.id)).fault
    assert fault is not None and said in fault


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    action=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
    details=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
        st.one_of(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
            st.integers(-(2**63), 2**64 - 1),
            st.floats(allow_nan=False, allow_infinity=False),
            st.none(),
            st.lists(st.booleans(), max_size=3),
        ),
        max_size=4,
    ),
)
async def test_the_verifier_reads_what_postgres_wrote(
    action: str, details: dict[str, Any], org: Org, db: Database
) -> None:
    """Whatever text is in an entry, both sides hash the same bytes."""
    await entry(db, org.id, action, details)
    assert (await verified(db, org.id)).fault is None


async def test_a_person_is_named_by_a_hash_alone(api: Api, org: Org, make: Make, kernel: Kernel) -> None:
    """The same one always alike, in every process; in another org by another name; and the id stands nowhere."""
    person = await make.profile(org, "ada@example.com")
    gone = await api.delete(f"/profiles/{person['id']}", key=org.sk)
    assert gone.status == 200, gone
    named = await orgs.person_hash(kernel, org.id, "ada@example.com")
    log = await api.get("/audit-log", key=org.sk, resource=f"person:{named}")
    assert [line["action"] for line in log.data] == ["profile.deleted"]
    assert "ada" not in (await api.get("/audit-log", key=org.sk)).body.decode()
    other = await make.org()
    assert await orgs.person_hash(kernel, other.id, "ada@example.com") != named
    together = set(await asyncio.gather(*(orgs.person_hash(kernel, other.id, "bob") for _ in range(8))))
    elsewhere = await Database.open(kernel.settings.postgres)
    try:
        again = await orgs.person_hash(dataclasses.replace(kernel, db=elsewhere), other.id, "bob")
    finally:
        await elsewhere.close()
    assert together == {again}


async def test_what_was_written_before_the_chain_begins_it(fresh_database: Postgres, tmp_path: Path) -> None:
    """The migration chains the entries that it finds, org by org, and whatever comes then continues."""
    for file in (Path(__file__).parents[3] / "migrations").glob("*.sql"):
        if file.name < "0016":
            shutil.copy(file, tmp_path)
    await migrate(fresh_database, tmp_path)
    db = await Database.open(fresh_database)
    try:
        old, new = [await orgs.create_org(db, name, "free") for name in ("Old", "New")]
        for n in range(3):
            await db.execute(
                "INSERT INTO audit_log (org_id, id, actor, action, resource, details)"
                " VALUES ($1, $2, 'a', 'b', 'c', $3)",
                old,
                new_id(),
                {"n": n, "text": '\u00e9\n"'},
            )
        await migrate(fresh_database)
        for org, entries in ((old, 3), (new, 0)):
            found = await verified(db, org)
            assert (found.entries, found.fault) == (entries, None)
            await entry(db, org)
            assert (await verified(db, org)).entries == entries + 1
    finally:
        await db.close()
