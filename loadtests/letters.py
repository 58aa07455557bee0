"""One send to many devices, as either side of a comparison takes it.

Ours takes rows of recipients, as a worker reads them, and a compiled send; pywebpush takes subscriptions with the texts
that a browser is to read, which are ready before its clock runs.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from tests.core.copybytes import Json, Ms, stream

from loadtests.peers.pywebpush import TTL_S, Message
from sendora import _core
from sendora.kernel.clock import SystemClock, millis
from sendora.kernel.config import Push
from sendora.kernel.ids import OrgId, new_id
from sendora.modules.push import webpush, wire
from sendora.modules.push.compose import Composed, note
from sendora.modules.push.model.content import Raw
from sendora.modules.push.model.policies import Policies
from sendora.modules.push.model.providers import Apns, Credential, Credentials, Vapid
from sendora.modules.push.parts import Address, Parts, Transport

SUBJECT: Final = "mailto:postmaster@sendora.example"
BODY: Final = "Your order is on its way: expect it on Tuesday before noon."

Subscription = dict[str, Any]
"""As a browser hands it to its page."""

Device = Subscription | str
"""Of a browser, or a token of Apple's."""


class Letters:
    """`secret`: the one credential that all devices are reached by; `bearer`: what proves it to Apple."""

    def __init__(
        self, send: UUID, secret: Vapid | Apns, devices: Sequence[Device], *, bearer: str = "", url: str = ""
    ) -> None:
        self.org, self.send = OrgId(new_id()), send
        now = SystemClock().now()
        expires_at = now + timedelta(seconds=TTL_S)
        self.planned_ms, self.expires_ms = millis(now), millis(expires_at)
        self._devices = devices
        self._parts = Parts(
            send=send, data={"url": "/orders/1"}, actions=[], critical=None, interruption=None, silent=False,
            collapse_id=None, icon="/icon.png", image=None, raw=Raw(), expires_at_s=self.expires_ms // 1_000,
            now_or_never=False, urgent=False,
        )  # fmt: skip
        composed = Composed(
            title="Hello {{trait.name}}", body=BODY, localized_title={}, localized_body={}, test=None, variants=[],
            parts=self._parts,
        )  # fmt: skip
        transport: Transport = "apns" if isinstance(secret, Apns) else "webpush"
        credential = Credential(org=self.org, id=new_id(), secret=secret)
        written = wire.spec(
            composed,
            credentials={transport: Credentials([(credential, [])])},
            tokens={credential.id: bearer},
            proofs={},
            urls=Push(apns_production_url=url) if url else Push(),
            halted=lambda _: None,
        )
        if written is None:
            raise RuntimeError("a send without buttons can be compiled")
        compiled = note(composed, Policies(), raw=False, planned_at=now, expires_at=expires_at)
        self.note = _core.Note(msgspec.json.encode(compiled))
        self.wire = _core.Wire(written, wire.prover(secret, SUBJECT) if isinstance(secret, Vapid) else None)

    def rows(self, low: int, high: int) -> bytes:
        """A chunk of recipients in PostgreSQL's COPY format, as `_core.Note.decide` takes them."""
        return stream(
            (
                position, recipient(n), *_columns(device),
                "production", None, f"u{n}", True, Ms(0), "en", None, Json(f'{{"name": "Ada {n}"}}'), None, Ms(0), None,
            )
            for position, (n, device) in enumerate(self._numbered(low, high))
        )  # fmt: skip

    def messages(self, low: int, high: int) -> list[Message]:
        return [
            (device, webpush.plaintext(self._parts, _address(recipient(n), title(n))).decode())
            for n, device in self._numbered(low, high)
            if not isinstance(device, str)
        ]

    def _numbered(self, low: int, high: int) -> list[tuple[int, Device]]:
        return list(zip(range(low, high), self._devices[low:high], strict=True))


def recipient(n: int) -> UUID:
    """The same in each process."""
    return UUID(int=n)


def title(n: int) -> str:
    return f"Hello Ada {n}"


def _columns(device: Device) -> tuple[str, str, Json | None]:
    """Platform, token, subscription."""
    if isinstance(device, str):
        return "ios", device, None
    return "web", device["endpoint"], Json(msgspec.json.encode(device["keys"]).decode())


def _address(recipient: UUID, title: str) -> Address:
    return Address(
        position=0, recipient=recipient, platform="web", token="", subscription=None, environment="production",
        bundle_id=None, user_id=None, title=title, body=BODY, variant=None,
    )  # fmt: skip
