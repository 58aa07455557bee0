"""Web Push beside pywebpush: requests made ready to leave, and sends on the wire to the simulator.

Both sides send the same texts to the same browsers, with a key pair and an agreement for each message, because RFC 8291
wants them fresh. Ours decides on the recipients and renders their texts first, as a worker does; pywebpush gets each
text ready, and its `webpush()` signs a VAPID token anew for each message, where ours signs one for each push service
and half a day (RFC 8292 allows it).

`webpush.encrypt` has no wire in between and is one core's; `http_ece` is the encryption under pywebpush alone.
`webpush.send` has: a chunk is a shipment, some shipments are under way at a time, and their outcomes are taken in
batches. The simulator decrypts each message as its browser would; what it logs must be each text once and no other.
"""

import argparse
import asyncio
import base64
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Self
from uuid import UUID

import http_ece
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwt
from joserfc.jwk import ECKey

from loadtests import sender
from loadtests.harness import CORES, QUICK, Spent, in_turn, in_turn_async
from loadtests.letters import BODY, SUBJECT, Letters, Subscription, recipient, title
from loadtests.peers import pywebpush
from loadtests.results import Figure, Sample, figure, publish
from sendora import _core
from sendora.cluster import Cluster
from sendora.delivery.phases import CHUNK_SIZE
from sendora.kernel.ids import new_id
from sendora.modules.push import webpush
from sendora.modules.push.model.providers import Vapid
from sendora.modules.push.model.tokens import decode_key
from sendora.modules.push.parts import delivery_id

ROUNDS: Final = 3 if QUICK else 9
"""Of `webpush.encrypt`, in turn, because others may be at work on the machine."""
AUTH: Final = b"0123456789abcdef"
ORIGIN: Final = "https://push.example"

ROUNDS_SENT: Final = 1 if QUICK else 5
FLIGHTS: Final = 4
"""Shipments under way at a time: a worker takes up as many recipients as go into two of its windows."""


NOTE: Final = (
    "pywebpush: webpush() for one after the other on one requests.Session; pywebpush_async, its fastest: "
    f"WebPusher.send_async() under one proof, {pywebpush.AT_A_TIME} at a time on an aiohttp session, {CORES} processes"
)


class Form(msgspec.Struct, frozen=True):
    """A way of sending, and how much of it a run is: some three seconds, but for QUICK=1."""

    send: Callable[["Task", UUID, range], Coroutine[Any, Any, None]]
    sends: int
    processes: int = 1


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["sender"]:
        form, file, send, low, high = arguments[1:]
        asyncio.run(FORMS[form].send(Task.read(Path(file)), UUID(send), range(int(low), int(high))))
        return
    parser = argparse.ArgumentParser(prog="webpush")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    encrypted = _encrypt(parser.parse_args(arguments).rounds)
    with tempfile.TemporaryDirectory(prefix="sendora-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        sent = asyncio.run(_send(folder))
    publish("webpush", [sent, encrypted])


# -- without a wire


def _encrypt(rounds: int) -> Figure:
    bench = Encryption()
    sides = {"ours": bench.ours, "pywebpush": bench.pywebpush, "http_ece": bench.http_ece}
    samples = in_turn(rounds, {name: partial(_sample, run) for name, run in sides.items()})
    return figure(
        "webpush.encrypt",
        "requests ready to leave by a second of one core",
        samples.pop("ours"),
        samples,
        goal=None,
        same_answer=bench.same_answer(),
        note="P-256 alone is nine tenths of ours; http_ece neither signs nor builds a payload",
    )


def _sample(run: Callable[[], None]) -> Sample:
    """By CPU time: all three keep one core busy and wait for nothing, and so others on the machine do not count."""
    cpu = time.process_time()
    run()
    cpu = time.process_time() - cpu
    return Sample(CHUNK_SIZE / cpu, cpu * 1e6 / CHUNK_SIZE)


class Encryption:
    """A chunk of browsers, over and over, one message after the other."""

    def __init__(self) -> None:
        vapid = webpush.generate()
        self._key = pywebpush.signer(vapid.private_key)
        self._browser = ec.generate_private_key(ec.SECP256R1())
        self._session = pywebpush.Kept()
        keys = [self._browser, *(ec.generate_private_key(ec.SECP256R1()) for _ in range(CHUNK_SIZE - 1))]
        points = [key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) for key in keys]
        subscriptions = [
            {"endpoint": f"{ORIGIN}/send/{n}", "keys": {"p256dh": _b64url(point), "auth": _b64url(AUTH)}}
            for n, point in enumerate(points)
        ]
        self._letters = Letters(new_id(), vapid, subscriptions)
        self._rows = self._letters.rows(0, CHUNK_SIZE)
        self._messages = self._letters.messages(0, CHUNK_SIZE)
        self._requests: list[tuple[int, str, str, str, list[tuple[str, str]], bytes]] = []

    def ours(self) -> None:
        compiled, now_ms = self._letters.wire, self._letters.planned_ms
        decided = self._letters.note.decide(self._rows, None, now_ms, compiled)
        self._requests, failed = _core.Parcels(compiled, decided).requests(now_ms // 1_000)
        if failed or len(self._requests) != CHUNK_SIZE:
            raise RuntimeError("not all requests were built")

    def pywebpush(self) -> None:
        pywebpush.push(self._messages, self._key, SUBJECT, self._session)

    def http_ece(self) -> None:
        for subscription, data in self._messages:
            keys = subscription["keys"]
            webpush.encrypt(data.encode(), keys["p256dh"], keys["auth"])

    def same_answer(self) -> bool:
        """The first browser reads the same from both, and both prove the same sender to the same service."""
        pywebpush.push(self._messages[:1], self._key, SUBJECT, self._session)
        headers, body = self._session.last
        *_, url, said, sealed = self._requests[0]
        ours = dict(said)
        return (
            url == self._messages[0][0]["endpoint"]
            and self._unseal(sealed) == self._unseal(body) == self._messages[0][1].encode()
            and self._claims(ours["authorization"]) == self._claims(headers["authorization"])
            and ours["content-encoding"] == headers["content-encoding"]
            and ours["ttl"] == headers["ttl"]
            and ours["urgency"] == headers["urgency"]
        )

    def _unseal(self, body: bytes) -> bytes:
        opened: bytes = http_ece.decrypt(body, private_key=self._browser, auth_secret=AUTH, version="aes128gcm")
        return opened

    def _claims(self, authorization: str) -> dict[str, Any]:
        proof, _, point = authorization.removeprefix("vapid t=").partition(",")
        raw = decode_key(point.strip().removeprefix("k="), 65)
        if raw is None:
            raise RuntimeError("not a VAPID key")
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), raw)
        claims = jwt.decode(proof, ECKey.import_key(key), algorithms=["ES256"]).claims
        return {name: claims[name] for name in ("aud", "sub")} | {"key": raw}


def _b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


# -- on the wire


class Task(msgspec.Struct, frozen=True):
    """What the processes of all sides are told."""

    url: str
    ca_file: str
    vapid: Vapid
    subscriptions: list[Subscription]

    @classmethod
    def read(cls, file: Path) -> Self:
        return msgspec.json.decode(file.read_bytes(), type=cls)


async def _send(folder: Path) -> Figure:
    async with Cluster(folder, dispatchers=1) as cluster:
        most = max(form.sends for form in FORMS.values())
        subscriptions = await sender.mint(cluster, "webpush", [f"ok-{n}" for n in range(most)])
        task = Task(cluster.simulator_url, str(cluster.simulator_ca), webpush.generate(), subscriptions)
        (folder / "task.json").write_bytes(msgspec.json.encode(task))
        runs = {name: partial(_run, cluster, folder / "task.json", task, name) for name in FORMS}
        made = await in_turn_async(ROUNDS_SENT, runs, warm=False)
    samples = {name: [run.sample for run in runs] for name, runs in made.items()}
    simulator_us = statistics.median(run.simulator_us for run in made["ours"])
    return figure(
        "webpush.send",
        "encrypted sends/s",
        samples.pop("ours"),
        samples,
        goal=None,
        goals={"pywebpush": 8},
        stretches={"pywebpush": 20},
        same_answer=all(run.read for runs in made.values() for run in runs),
        note=f"{NOTE}; the simulator, on the same cores, takes {simulator_us:.0f} us for a send of ours",
    )


class Run(msgspec.Struct, frozen=True):
    sample: Sample
    simulator_us: float
    """CPU time of the simulator for each send."""
    read: bool
    """Each browser read its text, once, and no other."""


async def _run(cluster: Cluster, file: Path, task: Task, name: str) -> Run:
    form, send, seen = FORMS[name], new_id(), cluster.simulator_log.stat().st_size
    share = form.sends // form.processes
    with Spent(cluster.roles["simulator"].pid) as simulator:
        sent = await asyncio.gather(
            *(
                sender.run("webpush", name, str(file), str(send), str(low), str(low + share))
                for low in range(0, form.sends, share)
            )
        )
    await cluster.ask_simulator("POST", "/_/flush")
    with cluster.simulator_log.open("rb") as log:
        log.seek(seen)
        lines = sorted(msgspec.json.decode(line, type=Line) for line in log)
    expected = sorted(_expected(send, task.subscriptions[: form.sends]))
    return Run(sender.together(sent), simulator.cpu_us / form.sends, lines == expected)


class Line(msgspec.Struct, frozen=True, order=True, rename="camel"):
    """Of the simulator's log: whom it took a message for, and what stood in it once it was decrypted."""

    token: str
    status: int | None
    send_id: str | None
    delivery_id: str | None
    title: str | None
    body: str | None


def _expected(send: UUID, subscriptions: Sequence[Subscription]) -> list[Line]:
    return [
        Line(subscription["endpoint"], 201, str(send), delivery_id(send, recipient(n)), title(n), BODY)
        for n, subscription in enumerate(subscriptions)
    ]


async def _ours(task: Task, send: UUID, numbers: range) -> None:
    letters = Letters(send, task.vapid, task.subscriptions)
    await sender.carry(letters, numbers, url=task.url, ca_file=task.ca_file, flights=FLIGHTS)


async def _pywebpush(task: Task, send: UUID, numbers: range) -> None:
    messages = Letters(send, task.vapid, task.subscriptions).messages(numbers.start, numbers.stop)
    key = pywebpush.signer(task.vapid.private_key)
    with pywebpush.session(task.ca_file) as session:
        pywebpush.push(messages[: sender.WARM], key, SUBJECT, session)
        with sender.told(len(messages) - sender.WARM):
            pywebpush.push(messages[sender.WARM :], key, SUBJECT, session)


async def _pywebpush_async(task: Task, send: UUID, numbers: range) -> None:
    messages = Letters(send, task.vapid, task.subscriptions).messages(numbers.start, numbers.stop)
    headers = pywebpush.proven(pywebpush.signer(task.vapid.private_key), SUBJECT, task.url)
    async with pywebpush.session_async(task.ca_file) as session:
        await pywebpush.push_async(messages[: sender.WARM], headers, session)
        with sender.told(len(messages) - sender.WARM):
            await pywebpush.push_async(messages[sender.WARM :], headers, session)


FORMS: Final = {
    "ours": Form(_ours, 5_000 if QUICK else 40_000),
    "pywebpush": Form(_pywebpush, 600 if QUICK else 3_000),
    "pywebpush_async": Form(_pywebpush_async, 2_000 if QUICK else 8_000, processes=CORES),
}
