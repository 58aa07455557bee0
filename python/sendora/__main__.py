"""The `sendora` command: one program, many roles.

Each role is a process of its own and any number of each may run. Settings come from the environment
(`SENDORA_SECTION__KEY`, `..._FILE` for secrets) or a TOML file named by SENDORA_CONFIG; a setting that makes no sense
is reported by its variable's name, before anything is opened. Imports are inside the commands, so that `--help` and
`openapi` start at once and need no server.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from granian.server.common import AbstractServer

    from sendora.kernel.config import Http, Settings

app = App(name="sendora", help="A self-hosted dispatch cluster: events in, messages out, every outcome accounted for.")

Plan = Literal["free", "starter", "growth", "business"]


@app.command(group="Roles")
def api() -> None:
    """Serve the HTTP API (Granian). Scale it by SENDORA_HTTP__WORKERS or by more processes."""
    http_server(_settings().http).serve()


def http_server(http: "Http") -> "AbstractServer[Any]":
    """What serves the API; nothing listens yet."""
    from granian.constants import Interfaces, Loops
    from granian.server import Server

    return Server(
        "sendora.app:api",
        address=http.host,
        port=http.port,
        interface=Interfaces.RSGI,
        workers=http.workers,
        loop=Loops.uvloop,
        factory=True,
        log_access=False,
        websockets=False,
    )


@app.command(group="Roles")
def worker() -> None:
    """Store the log, keep people, answer audience questions, plan and account for sends."""
    from sendora import app as composition

    _run(composition.worker)


@app.command(group="Roles")
def dispatch(shards: str = "auto") -> None:
    """Send the chunks of the shards that this process holds.

    Parameters
    ----------
    shards
        `auto` takes a fair share of the 64 shards; `0-15` or `3` only ever takes those.
    """
    from sendora import app as composition
    from sendora.delivery.shards import parse

    try:
        parse(shards)
    except ValueError as error:
        raise SystemExit(f"sendora: --shards: {error}") from None
    _run(lambda settings: composition.dispatch(settings, shards))


@app.command(group="Roles")
def scheduler() -> None:
    """Start what is due, run the rooms' jobs, find what lost its wake. Several may run; each job runs once."""
    from sendora import app as composition

    _run(composition.scheduler)


@app.command(group="Roles")
def simulator() -> None:
    """Play APNs, FCM and the Web Push services over TLS; tokens say what happens to them (`ok`, `gone`, `flaky`...)."""
    import msgspec

    from sendora import _core
    from sendora.kernel.config import load

    _core.simulate(msgspec.json.encode(load().simulator).decode())


@app.command(group="On one machine")
def dev(data: Path = Path(".cache/dev"), port: int = 8400, dispatchers: int = 1, simulator: bool = True) -> None:
    """Run the whole cluster in the foreground: embedded servers, every role, the simulator.

    Parameters
    ----------
    data
        Where the servers keep their files between runs.
    port
        Of the HTTP API.
    dispatchers
        Number of dispatch workers.
    simulator
        Play the providers, and send to them instead of the real ones.
    """
    from sendora.dev import run

    sys.exit(_interruptible(run(data.resolve(), port=port, dispatchers=dispatchers, simulator=simulator)))


@app.command(group="On one machine")
def demo(keep: bool = False, dispatchers: int = 2, data: Path | None = None, repeat: int = 1) -> None:
    """Do the main job on real data: 93,229 events in, two broadcasts out, reconciled with the providers' log.

    Parameters
    ----------
    keep
        Leave the cluster running afterwards; print its URL, its keys and three calls to try.
    dispatchers
        Number of dispatch workers.
    data
        A folder to keep; by default a temporary one.
    repeat
        How many times to do it, each as a new org; prints the memory of the processes after each.
    """
    from sendora.demo.story import run

    sys.exit(_interruptible(run(keep, dispatchers, data, repeat)))


@app.command(group="Operations")
def migrate(dry_run: bool = False) -> None:
    """Bring the database to this version, under an advisory lock; does nothing when it is there already.

    Parameters
    ----------
    dry_run
        Only list what would be applied.
    """
    from sendora.kernel import pg

    settings = _settings().postgres
    names = asyncio.run(pg.pending(settings) if dry_run else pg.migrate(settings))
    for name in names:
        print(name)
    print(f"{len(names)} {'to apply' if dry_run else 'applied'}", file=sys.stderr)


@app.command(group="Operations")
def bootstrap(
    org: str = "Default",
    plan: Plan = "business",
    project: str = "default",
    rate: Annotated[str | None, Parameter(help="Raise the keys' limit: PER_SECOND:BURST.")] = None,
) -> None:
    """Make an org, a project, a public and a secret key, and print them once (JSON)."""
    import msgspec

    from sendora.modules import orgs

    limit = None
    if rate is not None:
        per_second, _, burst = rate.partition(":")
        if not (per_second.isdigit() and burst.isdigit()):
            raise SystemExit(f"--rate: expected PER_SECOND:BURST such as 50000:100000, got {rate!r}")
        limit = orgs.RateLimit(per_second=int(per_second), burst=int(burst))
    made = asyncio.run(orgs.bootstrap(_settings(), org, plan, project, limit))
    print(msgspec.json.format(msgspec.json.encode(made)).decode())


keys = App(name="keys", help="API keys, as the operator manages them.", group="Operations")
app.command(keys)


@keys.command
def grant(key: str, org: UUID, project: UUID | None = None) -> None:
    """Let a secret key act in a further org, on the operator's word for both; from then on it must name the org.

    Parameters
    ----------
    key
        Its public part, such as sk_prod_Ab3dE9xY.
    org
        The id of the org that it shall act in as well.
    project
        Of that org; needed when it has several.
    """
    from sendora.kernel.life import open_kernel
    from sendora.modules import orgs

    async def granted() -> None:
        async with open_kernel(_settings()) as kernel:
            reach = (await orgs.grant(kernel, key, org, project)).reach
        for there, place in sorted(reach.items()):
            print(f"{there} project {place.project}")

    try:
        asyncio.run(granted())
    except orgs.GrantRefused as refused:
        raise SystemExit(f"sendora: {refused}") from None


audit = App(name="audit", help="The audit log.", group="Operations")
app.command(audit)


@audit.command
def verify() -> None:
    """Follow every org's chain from its first entry; exit status 1 when one of them was tampered with.

    Prints the number of entries and the last hash of each: note it elsewhere, and a chain that was made anew or cut
    short will not fit it.
    """
    from sendora.kernel.pg import Database
    from sendora.modules import orgs

    async def faults() -> int:
        db = await Database.open(_settings().postgres)
        found = 0
        try:
            async for chain in orgs.verify(db):
                found += chain.fault is not None
                print(f"{chain.org} {chain.entries} {chain.hash.hex()} {chain.fault or 'ok'}")
        finally:
            await db.close()
        return found

    sys.exit(1 if asyncio.run(faults()) else 0)


@audit.command
def person(org: UUID, external_id: str) -> None:
    """Print how the audit log names a person, for GET /audit-log?resource=.

    Parameters
    ----------
    org
        The id of the org.
    external_id
        The person's id, as the org's apps give it.
    """
    from sendora.kernel.ids import OrgId
    from sendora.kernel.life import open_kernel
    from sendora.modules import orgs

    async def name() -> str:
        async with open_kernel(_settings(), bus=False) as kernel:
            return await orgs.person_hash(kernel, OrgId(org), external_id)

    print(f"person:{asyncio.run(name())}")


@app.command(group="Operations")
def doctor(confirm_epoch: bool = False) -> None:
    """Check servers, versions, durability, clocks, credentials and the fence; exit status 1 when something is wrong.

    Parameters
    ----------
    confirm_epoch
        First lift the restore fence: this database and this log go on together, and what waits in it goes out.
    """
    from sendora import doctor as operator

    settings = _settings()
    if confirm_epoch:
        print(f"confirmed: {asyncio.run(operator.confirm_epoch(settings))}")
    sys.exit(asyncio.run(operator.examine(settings)))


@app.command(group="Operations")
def config() -> None:
    """List every setting: its variable, its default and its reason."""
    from rich.console import Console

    from sendora.kernel.config import describe

    console = Console(highlight=False)
    for setting in describe():
        default = "" if setting.secret or setting.default in ("", None, ()) else f" = {setting.default}"
        console.print(f"[bold]{setting.variable}[/] ({setting.type}){default}", soft_wrap=True)
        console.print(f"    {setting.reason}", soft_wrap=True, markup=False)


@app.command(group="Operations")
def openapi(*, postman: bool = False) -> None:
    """Print the OpenAPI document; needs no server and no settings.

    Parameters
    ----------
    postman
        As a Postman collection.
    """
    from sendora import app as composition
    from sendora.kernel.http.postman import collection

    document = composition.document()
    print(json.dumps(collection(document, "http://127.0.0.1:8400") if postman else document, indent=2))


def main() -> None:
    from sendora.kernel.config import ConfigError

    try:
        app()
    except ConfigError as error:
        raise SystemExit(f"sendora: {error}") from None
    except BrokenPipeError:
        # Whoever read has seen enough (`| head`); what is still buffered must not be tried anew at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        from sendora.kernel.life import trouble_of

        if (said := trouble_of(error)) is None:
            raise
        raise SystemExit(f"sendora: {said}") from None


def _settings() -> "Settings":
    from sendora.kernel.config import load

    return load()


def _run(role: Callable[["Settings"], Coroutine[Any, Any, None]]) -> None:
    import uvloop

    uvloop.run(role(_settings()))


def _interruptible(story: Coroutine[Any, Any, int]) -> int:
    """Run it; SIGTERM and SIGINT both end it in good order, with everything that it started: as for the roles, also
    where a script has put it into the background, which Python would take for a wish to ignore SIGINT."""

    async def told() -> int:
        current = asyncio.current_task()
        if current is not None:
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, current.cancel)
        return await story

    try:
        return asyncio.run(told())
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130


if __name__ == "__main__":
    main()
