"""Web Push requests made ready to leave: payload, encryption, VAPID header, beside pywebpush. No wire in between.

Both sides make the same thousand messages over and over, one after the other on one core: a key pair and an agreement
for each, because RFC 8291 wants them fresh. Ours decides on the recipients and renders their texts first, as a worker
does; pywebpush gets each text ready and signs its VAPID token anew for each message, which is its only way, where ours
signs one for each push service and half a day (RFC 8292 allows it). `http_ece` is the encryption under pywebpush alone.
"""

import argparse
import base64
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import http_ece
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwt
from joserfc.jwk import ECKey
from tests.core.copybytes import Json, Ms, stream

from loadtests.peers import pywebpush
from loadtests.results import Sample, figure, publish
from sendora import _core
from sendora.kernel.clock import SystemClock, millis
from sendora.kernel.config import Push
from sendora.kernel.ids import OrgId, new_id
from sendora.modules.push import webpush, wire
from sendora.modules.push.compose import Composed, note
from sendora.modules.push.model.content import Raw
from sendora.modules.push.model.policies import Policies
from sendora.modules.push.model.providers import Credential
from sendora.modules.push.model.tokens import decode_key
from sendora.modules.push.parts import Address, Parts

MESSAGES: Final = 1_000
"""A chunk."""
ROUNDS: Final = 9
"""In turn, because others may be at work on the machine."""
AUTH: Final = b"0123456789abcdef"
ORIGIN: Final = "https://push.example"
SUBJECT: Final = "mailto:postmaster@sendora.example"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="webpush")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    bench = Bench()
    ours, peers, bare = [], [], []
    for _ in range(parser.parse_args(arguments).rounds):
        ours.append(_sample(bench.ours))
        peers.append(_sample(bench.pywebpush))
        bare.append(_sample(bench.http_ece))
    rows = [
        figure(
            "webpush.encrypt",
            "requests ready to leave by a second of one core",
            ours,
            {"pywebpush": peers, "http_ece": bare},
            goal=None,
            goals={"pywebpush": 8},
            stretches={"pywebpush": 20},
            same_answer=bench.same_answer(),
            note="P-256 alone is nine tenths of ours; http_ece neither signs nor builds a payload",
        )
    ]
    publish("webpush", rows)


class Bench:
    """A thousand browsers, and one send to all of them."""

    def __init__(self) -> None:
        now = SystemClock().now()
        self._now_ms = millis(now)
        self._vapid = webpush.generate()
        self._browser = ec.generate_private_key(ec.SECP256R1())
        self._session = pywebpush.Kept()
        keys = [self._browser, *(ec.generate_private_key(ec.SECP256R1()) for _ in range(MESSAGES - 1))]
        points = [key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) for key in keys]
        subscriptions = [
            {"endpoint": f"{ORIGIN}/send/{n}", "keys": {"p256dh": _b64url(point), "auth": _b64url(AUTH)}}
            for n, point in enumerate(points)
        ]
        parts = Parts(
            send=new_id(), data={"url": "/orders/1"}, actions=[], critical=None, interruption=None, silent=False,
            collapse_id=None, icon="/icon.png", image=None, raw=Raw(), expires_at_s=self._now_ms // 1_000 + 3_600,
            now_or_never=False, urgent=False,
        )  # fmt: skip
        title, body = "Hello {{trait.name}}", "Your order is on its way: expect it on Tuesday before noon."
        composed = Composed(
            title=title, body=body, localized_title={}, localized_body={}, test=None, variants=[], parts=parts
        )
        compiled = note(composed, Policies(), raw=False, planned_at=now, expires_at=now + timedelta(hours=1))
        written = wire.spec(
            composed,
            credentials={"webpush": Credential(org=OrgId(new_id()), id=new_id(), secret=self._vapid)},
            tokens={"webpush": None},
            proofs={},
            urls=Push(),
            halted=lambda _: None,
        )
        if written is None:
            raise RuntimeError("a send without buttons can be compiled")
        self._note = _core.Note(msgspec.json.encode(compiled))
        self._wire = _core.Wire(written, wire.prover(self._vapid, SUBJECT))
        recipients = [new_id() for _ in subscriptions]
        self._rows = stream(
            (
                n, recipient, "web", one["endpoint"], Json(msgspec.json.encode(one["keys"]).decode()), "production",
                None, f"u{n}", True, Ms(0), "en", None, Json(f'{{"name": "Ada {n}"}}'), None, Ms(0), None,
            )
            for n, (recipient, one) in enumerate(zip(recipients, subscriptions, strict=True))
        )  # fmt: skip
        self._messages = [
            (one, webpush.plaintext(parts, _address(n, recipient, f"Hello Ada {n}", body)).decode())
            for n, (recipient, one) in enumerate(zip(recipients, subscriptions, strict=True))
        ]
        self._requests: list[tuple[int, str, str, list[tuple[str, str]], bytes]] = []

    def ours(self) -> None:
        decided = self._note.decide(self._rows, None, self._now_ms, self._wire)
        self._requests, failed = _core.Parcels(self._wire, decided).requests(self._now_ms // 1_000)
        if failed or len(self._requests) != MESSAGES:
            raise RuntimeError("not all requests were built")

    def pywebpush(self) -> None:
        pywebpush.push(self._messages, self._vapid.private_key, SUBJECT, self._session)

    def http_ece(self) -> None:
        for subscription, data in self._messages:
            keys = subscription["keys"]
            webpush.encrypt(data.encode(), keys["p256dh"], keys["auth"])

    def same_answer(self) -> bool:
        """The first browser reads the same from both, and both prove the same sender to the same service."""
        pywebpush.push(self._messages[:1], self._vapid.private_key, SUBJECT, self._session)
        headers, body = self._session.last
        _, _, url, said, sealed = self._requests[0]
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


def _sample(run: Callable[[], None]) -> Sample:
    """By CPU time: all three keep one core busy and wait for nothing, and so others on the machine do not count."""
    cpu = time.process_time()
    run()
    cpu = time.process_time() - cpu
    return Sample(MESSAGES / cpu, cpu * 1e6 / MESSAGES)


def _address(position: int, recipient: UUID, title: str, body: str) -> Address:
    return Address(
        position=position, recipient=recipient, platform="web", token="", subscription=None, environment="production",
        bundle_id=None, user_id=None, title=title, body=body, variant=None,
    )  # fmt: skip


def _b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
