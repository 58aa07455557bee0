"""`sendora doctor`: what an operator wants to know before the first start, and when something is wrong.

Each check is a line: what was looked at, what was found, and what to do about it. Nothing is changed, but for
`--confirm-epoch`, which lifts the restore fence on the operator's word.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from redis.asyncio import Redis
from rich.console import Console

from sendora import _core
from sendora.kernel import bus, pg
from sendora.kernel.config import ConfigError, Settings, master_key
from sendora.kernel.fence import REMEDY, Register
from sendora.kernel.life import open_kernel
from sendora.modules import push

CLOCK_SKEW_MAX_S: Final = 30.0
"""Beyond it provider tokens are refused and quiet hours are wrong (F-V8)."""

POSTGRES_MIN: Final = 160_000


class Finding(msgspec.Struct, frozen=True):
    good: bool
    said: str


async def examine(settings: Settings) -> int:
    """Print every check; 1 when one of them failed."""
    console = Console()
    failed = False
    checks: list[tuple[str, Callable[[Settings], Awaitable[Finding]]]] = [
        ("library", _library),
        ("vault", _vault),
        ("postgres", _postgres),
        ("migrations", _migrations),
        ("clock", _clock),
        ("nats", _nats),
        ("redis", _redis),
        ("fence", _fence),
        ("credentials", _credentials),
    ]
    for name, check in checks:
        try:
            finding = await check(settings)
        except Exception as error:
            finding = Finding(False, f"{type(error).__name__}: {error}")
        failed |= not finding.good
        mark = "[green]ok[/]  " if finding.good else "[red]fail[/]"
        # A check is one line, also in a narrow terminal and in a log.
        console.print(f"{mark} {name:<12} {finding.said}", highlight=False, soft_wrap=True)
    return 1 if failed else 0


async def _library(settings: Settings) -> Finding:
    return Finding(True, f"sendora._core {_core.DIGEST[:12]}")


async def _vault(settings: Settings) -> Finding:
    try:
        master_key(settings.vault)
    except ConfigError as error:
        return Finding(False, str(error))
    return Finding(True, f"master key version {settings.vault.key_version}")


async def _postgres(settings: Settings) -> Finding:
    db = await pg.Database.open(settings.postgres)
    try:
        number = int(await db.fetchval("SHOW server_version_num"))
        version = await db.fetchval("SHOW server_version")
        fsync = await db.fetchval("SHOW fsync")
    finally:
        await db.close()
    if number < POSTGRES_MIN:
        return Finding(False, f"PostgreSQL {version}; 16 or newer is needed")
    if fsync != "on":
        return Finding(False, f"PostgreSQL {version} with fsync = {fsync}: what it has committed can be lost")
    return Finding(True, f"PostgreSQL {version}, fsync on")


async def _migrations(settings: Settings) -> Finding:
    pending = await pg.pending(settings.postgres)
    if pending:
        return Finding(False, f"{len(pending)} pending ({', '.join(pending)}): run `sendora migrate`")
    return Finding(True, "at head")


async def _clock(settings: Settings) -> Finding:
    db = await pg.Database.open(settings.postgres)
    try:
        before = time.time()
        theirs = float(await db.fetchval("SELECT extract(epoch FROM clock_timestamp())"))
        ours = (before + time.time()) / 2
    finally:
        await db.close()
    skew_s = ours - theirs
    return Finding(abs(skew_s) <= CLOCK_SKEW_MAX_S, f"{skew_s:+.3f} s from PostgreSQL's")


async def _nats(settings: Settings) -> Finding:
    refused = await bus.examine(settings.nats)
    if refused:
        return Finding(False, "; ".join(refused))
    return Finding(True, f"JetStream, fsync before the acknowledgement ({settings.nats.durability})")


async def _fence(settings: Settings) -> Finding:
    async with _register(settings) as register:
        reading, fault = await register.read(), await register.look()
    if fault is not None:
        return Finding(False, f"{fault}. {REMEDY}")
    if reading.ours is None:
        return Finding(True, "nothing has been dispatched yet")
    return Finding(True, f"cluster {reading.ours.id}, epoch {reading.ours.epoch}")


async def confirm_epoch(settings: Settings) -> str:
    """Lift the restore fence: this database and this log go on together, and no other. What was confirmed."""
    async with _register(settings) as register:
        raised = await register.confirm()
    return f"cluster {raised.id}, epoch {raised.epoch}"


@asynccontextmanager
async def _register(settings: Settings) -> AsyncIterator[Register]:
    db = await pg.Database.open(settings.postgres)
    try:
        client = await bus.connect(settings.nats, "sendora doctor")
        try:
            yield Register(db, client.jetstream(), settings.nats.replicas)
        finally:
            await client.close()
    finally:
        await db.close()


async def _redis(settings: Settings) -> Finding:
    client: Redis = Redis.from_url(settings.redis.url, socket_timeout=2, socket_connect_timeout=2)
    try:
        info = await client.info("server")
    finally:
        await client.aclose()
    return Finding(True, f"{info.get('server_name', 'redis')} {info.get('valkey_version') or info['redis_version']}")


async def _credentials(settings: Settings) -> Finding:
    """Every stored credential must open under the vault's key."""
    async with open_kernel(settings, bus=False) as kernel:
        opened, broken = await push.examine_credentials(kernel)
    if broken:
        return Finding(False, f"{len(broken)} of {opened + len(broken)} cannot be opened: {', '.join(broken[:5])}")
    return Finding(True, f"{opened} stored, all open")
