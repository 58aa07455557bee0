"""`sendora doctor` on servers that are well, and on ones that are not."""

import msgspec
import pytest

from sendora.doctor import examine
from sendora.kernel.config import Postgres, Settings
from sendora.kernel.pg import migrate


async def test_everything_is_well(
    settings: Settings, fresh_database: Postgres, capsys: pytest.CaptureFixture[str]
) -> None:
    own = msgspec.structs.replace(settings, postgres=fresh_database)
    assert await examine(own) == 1
    assert "run `sendora migrate`" in capsys.readouterr().out
    await migrate(fresh_database)
    assert await examine(own) == 0
    said = capsys.readouterr().out
    for name in ("library", "vault", "postgres", "migrations", "clock", "nats", "redis", "fence", "credentials"):
        assert name in said
    assert "fail" not in said


async def test_each_server_that_is_away_is_named(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = msgspec.structs.replace(
        settings,
        nats=msgspec.structs.replace(settings.nats, url="nats://127.0.0.1:1"),
        redis=msgspec.structs.replace(settings.redis, url="redis://127.0.0.1:1/0"),
        vault=msgspec.structs.replace(settings.vault, key=""),
    )
    assert await examine(nowhere) == 1
    failed = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("fail")]
    assert {"vault", "nats", "redis"} <= set(failed)
    assert "postgres" not in failed
