"""The main job, end to end: a year and a half of real purchases in, two reconciled broadcasts out.

Everything goes through the public API, as an app's backend would do it; only two steps look behind it: `sendora
bootstrap`, which an operator runs once, and the last check, which reads the ledger to compare it with the simulator's
log. Each step prints what it did; the last line of the output is one JSON object, and the exit status is 1 when any
check failed.
"""

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from sendora.cluster import Cluster
from sendora.demo.check import Report, check
from sendora.demo.client import Client, batches, spread
from sendora.demo.devices import Device, devices, registration
from sendora.demo.purchases import AUDIENCE_RULES, Purchase, customers, expected_audience, read
from sendora.modules import orgs

SDK_BATCH: Final = 50
"""Events in one request: what an SDK buffers before it flushes."""

MINT_BATCH: Final = 5_000

RATE_LIMIT: Final = orgs.RateLimit(per_second=50_000, burst=100_000)

SEND_WITHIN_S: Final = 150.0
"""A send that is still open after this is a failed demo."""

TEMPLATE: Final = {
    "name": "autumn-sale",
    "title": "New records for you",
    "body": "You spent {{trait.spent}} with us. The autumn sale has begun.",
    "localizedBody": {
        "de": "Sie haben {{trait.spent}} bei uns ausgegeben. Der Herbstverkauf hat begonnen.",
        "fr": "Vous avez dépensé {{trait.spent}} chez nous. Les soldes d'automne ont commencé.",
    },
    "data": {"url": "https://shop.example/sale"},
}

VARIANTS: Final = [
    {"key": "plain", "weight": 50},
    {"key": "warm", "weight": 50, "title": "We kept something for you"},
]


async def run(keep: bool, dispatchers: int, folder: Path | None, repeat: int = 1) -> int:
    """Run the demo; returns the exit status. Repeated, each run is a new org on the same cluster, and the memory of the
    processes after each is printed: it must not grow."""
    # Wide enough for the tables where the output is no terminal.
    console = Console(width=None if sys.stdout.isatty() else 120)
    began = time.monotonic()
    temporary = folder is None
    if folder is None:
        # The embedded PostgreSQL may run as a user of its own, who must be able to pass through the folder.
        folder = Path(tempfile.mkdtemp(prefix="sendora-demo-"))
        folder.chmod(0o755)
    console.rule("[bold]Sendora: the main job")
    async with Cluster(folder, dispatchers=dispatchers) as cluster:
        console.print(f"cluster ready in {time.monotonic() - began:.1f} s at {cluster.url}, data under {folder}")
        failed = False
        for number in range(repeat):
            started = began if number == 0 else time.monotonic()
            story = Story(console, cluster)
            result = await story.tell()
            result["seconds"] = round(time.monotonic() - started, 1)
            failed |= bool(story.complaints)
            if repeat > 1:
                used = ", ".join(f"{role.name} {role.memory_mb:.0f}" for role in cluster.roles.values())
                console.print(f"   memory after run {number + 1}, MB: {used}")
        print(json.dumps({"demo": "failed" if failed else "ok", **result}), flush=True)
        if keep:
            story.invite()
            await _until_interrupted()
    if temporary and not failed:
        # What failed is left to be looked at.
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    return 1 if failed else 0


class Story:
    """The steps of the demo, in order, and what they found."""

    def __init__(self, console: Console, cluster: Cluster) -> None:
        self._console = console
        self._cluster = cluster
        self._keys: orgs.Bootstrapped | None = None
        self._audience = ""
        self.complaints: list[str] = []

    async def tell(self) -> dict[str, Any]:
        self._keys = await orgs.bootstrap(self._cluster.settings, "Demo Records", "business", "shop", RATE_LIMIT)
        say = self._console.print
        say(f"[bold]1.[/] org {self._keys.org}, project {self._keys.project}, a public and a secret key")
        purchases = read(datetime.now(UTC).date())
        people = list(customers(purchases))
        async with (
            Client(self._cluster.url, self._keys.public_key) as app,
            Client(self._cluster.url, self._keys.secret_key) as server,
        ):
            await self._configure(server)
            say("[bold]2.[/] real customers, their purchases and their devices, through the ingest API")
            await self._identify(app, people)
            await self._track(app, purchases)
            await self._register(app, list(devices(people)))
            accounting = await self._account(server, len(people) + len(purchases))
            say("[bold]3.[/] the audience, counted by Sendora and from the file")
            audience, expected = await self._count(server, purchases)
            say("[bold]4.[/] two sends")
            first = await self._send(server, "to the audience", {"audienceId": self._audience})
            everybody = await server.post("/audiences", {"name": "everybody", "rules": {"all": []}})
            template = await server.post("/push/templates", TEMPLATE)
            test = await server.post("/push/ab-tests", {"name": "title", "status": "active", "variants": VARIANTS})
            second = await self._send(
                server,
                "to everybody with a device",
                {"audienceId": everybody["id"], "templateId": template["id"], "abTestId": test["id"]},
            )
            say("[bold]5.[/] the reconciliation, and the same from the simulator's log")
            report = await self._reconcile(server, [first, second])
        states = report.states
        balanced = report.targeted == sum(states.values()) + report.open
        return {
            "events_accepted": accounting["accepted"],
            "events_stored": accounting["stored"],
            "events_duplicate": accounting["duplicate"],
            "events_bad": accounting["bad"],
            "audience": audience,
            "audience_expected": expected,
            "targeted": report.targeted,
            "accepted": states["accepted"],
            "repeated": report.repeated,
            "rejected": states["rejected"],
            "suppressed": states["suppressed"],
            "expired": states["expired"],
            "unknown": states["unknown"],
            "open": report.open,
            "balanced": balanced,
            "duplicates": report.duplicates,
        }

    async def _configure(self, server: Client) -> None:
        """Credentials as an operator would store them; the simulator plays Apple's and Google's console."""
        minted = await self._cluster.ask_simulator("GET", "/_/credentials")
        apns, fcm = minted["apns"], minted["fcm"]
        await server.put("/push/providers/apns", apns)
        await server.put("/push/providers/fcm", {"serviceAccount": fcm["serviceAccount"]})
        vapid = await server.get("/push/vapid")
        self._console.print(f"   APNs and FCM credentials stored; VAPID public key {vapid['publicKey'][:16]}…")

    async def _identify(self, app: Client, people: list[Any]) -> None:
        async def identify(customer: Any) -> None:
            traits = {"spent": customer.spent, "country": customer.country}
            await app.post("/identify", {"userId": str(customer.id), "traits": traits, "eventId": f"c{customer.id}"})

        with self._bar() as bar:
            task = bar.add_task("   identify", total=len(people))
            await spread(people, identify, lambda n: bar.advance(task, n))

    async def _track(self, app: Client, purchases: list[Purchase]) -> None:
        async def track(batch: Any) -> None:
            answer = await app.post("/events/batch", {"events": [_event(purchase) for purchase in batch]})
            if answer["rejected"]:
                self.complaints.append(f"ingest rejected {answer['rejected']} events: {answer['errors'][:3]}")

        with self._bar() as bar:
            task = bar.add_task("   purchases", total=len(purchases))
            await spread(batches(purchases, SDK_BATCH), track, lambda n: bar.advance(task, n * SDK_BATCH))

    async def _register(self, app: Client, fleet: list[Device]) -> None:
        minted: dict[str, Any] = {}
        for transport in ("apns", "fcm", "webpush"):
            wishes = [device.wish for device in fleet if device.transport == transport]
            for batch in batches(wishes, MINT_BATCH):
                answer = await self._cluster.ask_simulator(
                    "POST", "/_/mint", {"transport": transport, "tokens": list(batch)}
                )
                minted.update(zip(batch, answer["tokens"], strict=True))

        async def register(device: Device) -> None:
            await app.post("/push/tokens", registration(device, minted[device.wish]))

        with self._bar() as bar:
            task = bar.add_task("   devices", total=len(fleet))
            await spread(fleet, register, lambda n: bar.advance(task, n))

    async def _account(self, server: Client, sent: int) -> Mapping[str, Any]:
        """Wait until the store has caught up: accepted = stored + duplicate + bad, and as many as were sent."""
        accounting: dict[str, Any] = {}
        deadline = time.monotonic() + SEND_WITHIN_S
        while time.monotonic() < deadline:
            accounting = await server.get("/events/accounting")
            if accounting["accepted"] >= sent:
                break
            await asyncio.sleep(0.2)
        self._console.print(
            f"   {accounting['accepted']:,} accepted = {accounting['stored']:,} stored"
            f" + {accounting['duplicate']:,} duplicate + {accounting['bad']:,} bad"
        )
        if (accounting["accepted"], accounting["stored"]) != (sent, sent):
            self.complaints.append(f"{sent} events were sent, the accounting says {accounting}")
        return accounting

    async def _count(self, server: Client, purchases: list[Purchase]) -> tuple[int, int]:
        created = await server.post("/audiences", {"name": "loyal", "rules": AUDIENCE_RULES})
        self._audience = created["id"]
        counted = await server.get(f"/audiences/{self._audience}")
        instant = datetime.fromisoformat(counted["estimatedAt"])
        expected = len(expected_audience(purchases, instant))
        self._console.print(f"   at {instant.isoformat()}: Sendora {counted['estimatedSize']:,}, the file {expected:,}")
        if counted["estimatedSize"] != expected:
            self.complaints.append(f"audience: {counted['estimatedSize']} counted, {expected} expected")
        return counted["estimatedSize"], expected

    async def _send(self, server: Client, name: str, request: dict[str, Any]) -> UUID:
        """Send, and watch it until nothing is open."""
        titles = {} if "templateId" in request else {"title": "Thank you", "body": "You are one of our best customers."}
        send = await server.post("/push/send", {**titles, **request})
        deadline = time.monotonic() + SEND_WITHIN_S
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(
                "[green]{task.fields[accepted]} accepted[/] [red]{task.fields[rejected]} rejected[/] "
                "[yellow]{task.fields[suppressed]} suppressed[/] {task.fields[rate]}/s"
            ),
            TimeRemainingColumn(),
            console=self._console,
        ) as bar:
            task = bar.add_task(f"   {name}", total=None, accepted=0, rejected=0, suppressed=0, rate=0)
            started = time.monotonic()
            while time.monotonic() < deadline:
                self._cluster.check()
                row = await server.get(f"/push/sends/{send['id']}")
                counts = row["counts"]
                ended = counts["targeted"] - counts["open"]
                bar.update(
                    task,
                    total=counts["targeted"] or None,
                    completed=ended,
                    accepted=counts["accepted"],
                    rejected=counts["rejected"],
                    suppressed=counts["suppressed"],
                    rate=round(ended / max(time.monotonic() - started, 0.001)),
                )
                if row["status"] in ("sent", "failed", "suppressed", "cancelled"):
                    break
                await asyncio.sleep(0.25)
            else:
                self.complaints.append(f"the send {name} was still open after {SEND_WITHIN_S:.0f} s")
        return UUID(send["id"])

    async def _reconcile(self, server: Client, sends: list[UUID]) -> Report:
        columns = ("targeted", "accepted", "rejected", "suppressed", "expired", "unknown", "open", "repeated")
        table = Table("send", *columns, "unreachable")
        sums = dict.fromkeys(columns, 0)
        reasons: list[str] = []
        for name, send in zip(("audience", "everybody"), sends, strict=True):
            row = await server.get(f"/push/sends/{send}/reconciliation")
            for column in columns:
                sums[column] += row[column]
            reasons += [
                f"   {name} {state}: {reason} {count:,}"
                for state, counted in row["reasons"].items()
                for reason, count in counted.items()
            ]
            table.add_row(name, *(f"{row[column]:,}" for column in columns), f"{row['unreachable']:,}")
        self._console.print(table)
        self._console.print("\n".join(reasons))
        await self._cluster.ask_simulator("POST", "/_/flush", {})
        report = await check(self._cluster.settings.postgres.url, self._cluster.simulator_log, sends)
        self.complaints += report.complaints
        if sums["targeted"] != report.targeted or any(sums[state] != n for state, n in report.states.items()):
            self.complaints.append(f"the API says {sums}, the ledger says {report.targeted} and {report.states}")
        if report.open or not report.requests:
            self.complaints.append(f"{report.open} recipients are open after {report.requests} requests")
        verdict = "[green]every row agrees" if not self.complaints else "[red]contradictions"
        self._console.print(f"   {report.requests:,} requests in the simulator's log: {verdict}")
        for complaint in self.complaints[:20]:
            self._console.print(f"   [red]- {complaint}")
        return report

    def invite(self) -> None:
        """What `--keep` prints: the URL, the keys and three calls to try."""
        if self._keys is None:
            return
        url, public, secret = f"{self._cluster.url}/api/v1", self._keys.public_key, self._keys.secret_key
        self._console.print(f"\n[bold]The cluster stays up[/] at {self._cluster.url} until Ctrl-C.")
        print(f"  public key  {public}\n  secret key  {secret}\n")
        print(f"  curl -s {url}/audiences/{self._audience} -H 'x-api-key: {secret}'")
        print(
            f"  curl -s {url}/events -H 'x-api-key: {public}' -H 'content-type: application/json'"
            ' -d \'{"eventType":"purchase","module":"analytics","userId":"1","properties":{"amount":12}}\''
        )
        print(
            f"  curl -s {url}/push/send -H 'x-api-key: {secret}' -H 'content-type: application/json'"
            ' -d \'{"userIds":["1"],"title":"Hello","body":"from curl"}\'',
            flush=True,
        )

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
        )


def _event(purchase: Purchase) -> dict[str, Any]:
    return {
        "eventType": "purchase",
        "module": "analytics",
        "userId": str(purchase.customer),
        "eventId": str(purchase.row),
        "timestamp": purchase.at.isoformat(),
        "properties": {"quantity": purchase.quantity, "amount": purchase.cents / 100},
    }


async def _until_interrupted() -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        sys.stdout.flush()
        current = asyncio.current_task()
        if current is not None:
            current.uncancel()
