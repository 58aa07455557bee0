"""Whether the NATS servers are what the promise of the log needs, and the connection to them (F-N6).

Start-up refuses rather than warns: an event that was answered with a 2xx and is gone after a power cut is the one thing
that this program must not do, and only the servers' configuration decides it.
"""

import asyncio
import json
import re
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, Final

import nats
import nats.errors
import structlog
from nats.aio.client import Client

from sendora.kernel import config

VERSION_MIN: Final = (2, 12, 3)
"""The first server with the membership fixes that followed Jepsen's report."""

PAYLOAD_MIN: Final = 4 * 1024 * 1024
"""A frame has at most 1 MiB and a request's records a little more; 4 MiB leaves room and the default (1 MiB) none."""

OPENING_S: Final = 5.0
"""How long a server may take to answer at start."""

VARZ_S: Final = 2
VARZ_BYTES_MAX: Final = 1_000_000
"""The monitoring port is the operator's own and answers a few kilobytes at once."""

log: Final = structlog.get_logger(__name__)


class BusRefused(Exception):
    """NATS is not what the promise of the log needs; the message says what to change."""


class BusAway(BusRefused, ConnectionError):
    """NATS does not answer; whoever starts beside it may try again."""


async def examine(settings: config.Nats) -> list[str]:
    """`refusals` of the servers that these settings name; what cannot even be reached is one of them."""
    try:
        client = await connect(settings, "sendora doctor")
    except BusRefused as refused:
        return [str(refused)]
    try:
        return refusals(str(client.connected_server_version), client.max_payload, await varz_of(settings), settings)
    finally:
        await client.close()


def refusals(
    version: str, max_payload: int, varz: Sequence[Mapping[str, Any] | None], settings: config.Nats
) -> list[str]:
    """What speaks against these servers, each with what to change; empty if nothing does. Also used by the doctor."""
    said: list[str] = []
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", version)
    if found is None or tuple(map(int, found.groups())) < VERSION_MIN:
        wanted = ".".join(map(str, VERSION_MIN))
        said.append(f"nats-server {version or 'of unknown version'} is too old: {wanted} or newer is needed.")
    if max_payload < PAYLOAD_MIN:
        said.append(f"NATS takes messages of {max_payload} bytes: set max_payload to {PAYLOAD_MIN} or more.")
    if settings.durability == "checked":
        if not varz or None in varz:
            said.append(
                "Nothing shows that NATS syncs each publish to disk: set SENDORA_NATS__MONITORING_URL to the servers' "
                "monitoring port, or SENDORA_NATS__DURABILITY=trusted if you vouch for it."
            )
        elif not all(syncs(server) for server in varz):
            said.append(
                "NATS acknowledges before it syncs to disk: set `sync_interval: always` in its jetstream section, or "
                "SENDORA_NATS__DURABILITY=trusted if losing the last acknowledged events in a power cut is acceptable."
            )
    return said


async def connect(settings: config.Nats, name: str, **hooks: Any) -> Client:
    async def failed(error: Exception) -> None:
        log.warning("nats_error", error=repr(error))

    try:
        async with asyncio.timeout(OPENING_S):
            return await nats.connect(
                servers=[part.strip() for part in settings.url.split(",")],
                name=name,
                error_cb=failed,
                # For ever: this process is of no use without its log, and restarting it would not bring NATS back.
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.25,
                connect_timeout=2,
                # A connection that is dead without a word is noticed after these two.
                ping_interval=5,
                max_outstanding_pings=2,
                **hooks,
            )
    except (TimeoutError, OSError, nats.errors.Error) as error:
        raise BusAway(f"NATS does not answer at {_public(settings.url)}: {error!r}") from error


async def varz_of(settings: config.Nats) -> list[Mapping[str, Any] | None]:
    """What each server's monitoring port says of it; None where it does not answer."""
    urls = [part.strip().rstrip("/") for part in settings.monitoring_url.split(",") if part.strip()]
    return await asyncio.gather(*(asyncio.to_thread(_read_varz, url) for url in urls))


def _read_varz(url: str) -> Mapping[str, Any] | None:
    # Not through kernel/outbound.py: this address is the operator's, private by nature, and wanted before anything
    # else.
    if not url.startswith(("http://", "https://")):
        return None
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{url}/varz", timeout=VARZ_S) as answer:
            said = json.loads(answer.read(VARZ_BYTES_MAX))
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def syncs(varz: Mapping[str, Any] | None) -> bool:
    """Whether the server says that it syncs each publish to disk before it answers."""
    jetstream = varz.get("jetstream") if varz is not None else None
    settings = jetstream.get("config") if isinstance(jetstream, dict) else None
    return isinstance(settings, dict) and settings.get("sync_always") is True


def _public(url: str) -> str:
    """The URL without a password, for messages."""
    return re.sub(r"//[^@/,]*@", "//", url)
