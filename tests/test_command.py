"""The `sendora` command as an operator meets it: it explains itself, and what is wrong is said in one line."""

import json
import os
import subprocess
import sys

import pytest

from sendora.__main__ import http_server
from sendora.kernel.config import Http


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
        "demo", "config",
    ):  # fmt: skip
        assert f"{command} " in said
    assert "auto" in run("dispatch", "--help").stdout


def test_openapi_needs_no_server_and_no_settings() -> None:
    document = json.loads(run("openapi").stdout)
    assert document["openapi"].startswith("3.1")
    assert document["info"]["version"] == "1.2.0"


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
