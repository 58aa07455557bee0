"""The `sendora` command as an operator meets it: it explains itself, and what is wrong is said in one line."""

import json
import os
import subprocess
import sys

import asyncpg
import msgspec
import pytest

from sendora.__main__ import http_server
from sendora.kernel.config import Http, Postgres, Settings
from sendora.kernel.embedded import Embedded
from sendora.kernel.life import open_kernel
from sendora.kernel.pg import migrate
from sendora.modules import orgs


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("SENDORA_", "DATABASE_URL"))}
    return subprocess.run(
        [sys.executable, "-m", "sendora", *arguments],
        env={**plain, "COLUMNS": "200", **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_names_every_command() -> None:
    said = run("--help").stdout
    for command in (
        "dev", "api", "worker", "dispatch", "scheduler", "migrate", "simulator", "openapi", "bootstrap", "doctor",
        "demo", "config", "keys", "audit",
    ):  # fmt: skip
        assert f"{command} " in said
    assert "auto" in run("dispatch", "--help").stdout


def test_openapi_needs_no_server_and_no_settings() -> None:
    document = json.loads(run("openapi").stdout)
    assert document["openapi"].startswith("3.1")
    assert document["info"]["version"] == "1.2.0"


def test_a_reader_that_has_seen_enough_is_no_trouble() -> None:
    """As `sendora openapi | head` is one: PostgreSQL has nothing to do with it."""
    with subprocess.Popen(
        [sys.executable, "-m", "sendora", "openapi"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as told:
        assert told.stdout is not None
        assert told.stderr is not None
        told.stdout.close()
        assert told.stderr.read() == ""
    assert told.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (["api"], {"SENDORA_HTTP__PORT": "x"}, "SENDORA_HTTP__PORT: expected int, got 'x'"),
        (["worker"], {"SENDORA_HTPP__PORT": "1"}, "did you mean SENDORA_HTTP__PORT?"),
        (["worker"], {"SENDORA_CONFIG": "/nowhere.toml"}, "SENDORA_CONFIG: cannot read /nowhere.toml"),
        (["dispatch", "--shards", "0-64"], {}, "--shards: shards are 0 to 63"),
        (["bootstrap", "--rate", "fast"], {}, "--rate: expected PER_SECOND:BURST"),
        (["migrate"], {"DATABASE_URL": "postgresql://127.0.0.1:1/none"}, "SENDORA_POSTGRES__URL"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: list[str], variables: dict[str, str], said: str) -> None:
    ended = run(*arguments, **variables)
    assert ended.returncode != 0
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_a_setting_is_listed_with_its_reason_and_a_secret_without_its_value() -> None:
    said = run("config", SENDORA_VAULT__KEY="c2VjcmV0" * 8).stdout
    assert "SENDORA_NATS__DURABILITY (checked | trusted) = checked" in said
    assert "SENDORA_VAULT__KEY" in said
    assert "c2VjcmV0" not in said


def test_the_api_is_served_on_uvloop_by_so_many_processes() -> None:
    """Granian serves on either loop without a word; the slower one would show in benchmarks alone."""
    server = http_server(Http(host="127.0.0.2", port=8_401, workers=3))
    assert (server.loop.value, server.workers) == ("uvloop", 3)
    assert (server.bind_addr, server.bind_port) == ("127.0.0.2", 8_401)
    assert (server.target, server.factory) == ("sendora.app:api", True)


@pytest.mark.rule("C51", "C98")
async def test_an_operator_lets_a_key_into_another_org(servers: Embedded, settings: Settings) -> None:
    """C51, C98: on the operator's word; what does not fit is said in a line."""
    there = {**servers.environment, "SENDORA_LOG__LEVEL": "warning"}
    home, other = [await orgs.bootstrap(settings, name, "free", "default", None) for name in ("Home", "Other")]
    key = home.secret_key[:16]
    granted = run("keys", "grant", key, str(other.org), **there)
    assert granted.returncode == 0, granted.stderr
    assert f"{other.org} project {other.project}" in granted.stdout
    refused = run("keys", "grant", key, str(home.org), **there)
    assert refused.returncode != 0
    assert refused.stderr.strip() == f"sendora: {key} belongs to this org"


async def test_an_operator_verifies_the_audit_log(
    servers: Embedded, settings: Settings, fresh_database: Postgres
) -> None:
    """A chain that is whole is exit status 0, with the hash to note; one that was tampered with is 1 and says where."""
    there = {**servers.environment, "SENDORA_POSTGRES__URL": fresh_database.url, "SENDORA_LOG__LEVEL": "warning"}
    await migrate(fresh_database)
    own = msgspec.structs.replace(settings, postgres=fresh_database)
    org = (await orgs.bootstrap(own, "Audited", "free", "default", None)).org
    whole = run("audit", "verify", **there)
    assert whole.returncode == 0, whole.stderr
    [line] = whole.stdout.splitlines()
    assert line.startswith(f"{org} 1 ") and line.endswith(" ok")
    connection = await asyncpg.connect(fresh_database.url)
    try:
        await connection.execute("SET session_replication_role = replica; UPDATE audit_log SET actor = 'nobody'")
    finally:
        await connection.close()
    forged = run("audit", "verify", **there)
    assert forged.returncode == 1
    assert "entry 1 " in forged.stdout and "is not what was written" in forged.stdout
    named = run("audit", "person", str(org), "ada@example.com", **there)
    assert named.returncode == 0, named.stderr
    async with open_kernel(own, bus=False) as kernel:
        assert named.stdout.strip() == f"person:{await orgs.person_hash(kernel, org, 'ada@example.com')}"
