"""Push over HTTP with the stages of its rooms at work.

Nothing here dispatches by itself: what delivery does with the channel is delivery's to test; here the channel is asked
as delivery asks it.
"""

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from tests.api import Api, serve
from tests.make import Make

from sendora.app import bind
from sendora.kernel.bus import Answering, StageRunner
from sendora.kernel.life import Kernel, Service, running
from sendora.modules import audiences, events, orgs, profiles, push

MODULES = (orgs.module, profiles.module, events.module, audiences.module, push.module)


@pytest.fixture(scope="session")
async def api(kernel: Kernel) -> AsyncIterator[Api]:
    bind()
    services: list[Service] = []
    for module in MODULES:
        services += [StageRunner(kernel, consumer) for consumer in module.consumers]
        services += [Answering(kernel, answer) for answer in module.answers]
    async with serve(kernel, MODULES) as served, running(kernel, services):
        yield served


@pytest.fixture(scope="session")
def make(kernel: Kernel, api: Api) -> Make:
    return Make(kernel, api)


def pem(key: Any) -> str:
    text: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return text.decode()


P8 = pem(ec.generate_private_key(ec.SECP256R1()))
RSA = pem(rsa.generate_private_key(public_exponent=65_537, key_size=2_048))

APNS: dict[str, Any] = {"p8Key": P8, "keyId": "ABC123DEFG", "teamId": "TEAM123456", "bundleId": "com.example.app"}
ACCOUNT: dict[str, Any] = {
    "type": "service_account",
    "project_id": "shop-1234",
    "private_key_id": "abcdef",
    "private_key": RSA,
    "client_email": "push@shop-1234.iam.gserviceaccount.com",
    "token_uri": "https://oauth2.googleapis.com/token",
}


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def subscription(name: str) -> dict[str, Any]:
    """A browser's, with keys of its own."""
    point = (
        ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    )
    return {
        "endpoint": f"https://fcm.googleapis.com/fcm/send/{name}",
        "expirationTime": None,
        "keys": {"p256dh": b64url(point), "auth": b64url(b"0123456789abcdef")},
    }
