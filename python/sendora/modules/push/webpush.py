"""Web Push: encryption, the VAPID proof, and what push services answer (RFC 8030, 8188, 8291, 8292). Pure.

`http_ece`, the encryption of pywebpush, is used without pywebpush's client: dialling out belongs to the lanes.
"""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import http_ece
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from joserfc import jwt
from joserfc.jwk import ECKey

from sendora.delivery.retry import Schedule
from sendora.modules.push.model.providers import Vapid
from sendora.modules.push.model.tokens import AUTH_BYTES, P256DH_BYTES, decode_key
from sendora.modules.push.parts import (
    REJECTED,
    THROTTLED,
    Address,
    Meaning,
    Parts,
    Posted,
    Verdict,
    merge,
    shown_actions,
    stamps,
    ttl_s,
    verdict,
)

PLAINTEXT_MAX: Final = 3_993
"""A push service must take 4,096 bytes: less 86 of header, 1 of padding and 16 of tag."""

RECORD_SIZE: Final = 4_096

PROOF_LIFE_S: Final = 12 * 3_600
"""RFC 8292 allows 24 hours."""

DOWN: Final = Schedule(base_s=30.0, doubling=True)

GONE: Final = "subscription_gone"

STATUSES: Final[Mapping[int, tuple[str, Meaning]]] = {
    400: ("http_400", REJECTED),
    401: ("http_401", REJECTED),
    403: ("http_403", REJECTED),
    404: (GONE, Meaning(retires=True)),
    410: (GONE, Meaning(retires=True)),
    413: ("http_413", REJECTED),
    429: ("http_429", Meaning(retry=THROTTLED)),
}
"""providers.md 3.5, row by row."""

OTHER_5XX: Final = Meaning(retry=DOWN)

TAKEN: Final = (200, 201, 202)
"""201 by the RFC; 200 and 202 are what some services answer instead."""


def plaintext(parts: Parts, address: Address) -> bytes:
    """What the service worker reads (B250, B251): ids stand in `data`, and at the top for other workers (C38)."""
    stamped = stamps(parts.send, address.recipient)
    built: dict[str, Any] = {**stamped, "data": {**parts.data, **stamped}}
    if parts.silent:
        built["silent"] = True
    else:
        built |= {"title": address.title, "body": address.body}
    if parts.icon:
        built["icon"] = parts.icon
    if parts.image:
        built["image"] = parts.image
    if parts.actions:
        # The browser's own word for the id is `action`.
        built["actions"] = [{**one, "action": one["id"]} for one in shown_actions(parts.actions)]
    return msgspec.json.encode(merge(built, parts.raw.webpush))


def build(parts: Parts, address: Address, secret: Vapid, *, proof: str, now_s: int, body: bytes) -> Posted:
    subscription = address.subscription or {}
    return Posted(
        position=address.position,
        lane=f"webpush:{origin(address.token)}",
        url=address.token,
        headers=headers(parts, secret, proof=proof, now_s=now_s),
        body=encrypt(body, subscription["p256dh"], subscription["auth"]),
        recipient=address.recipient,
        user_id=address.user_id,
        variant=address.variant,
        transport="webpush",
        provider="webpush",
        grant=proof,
    )


def headers(parts: Parts, secret: Vapid, *, proof: str, now_s: int) -> dict[str, str]:
    built = {
        "ttl": str(ttl_s(parts, now_s)),
        "urgency": urgency(parts),
        "content-encoding": "aes128gcm",
        "content-type": "application/octet-stream",
        "authorization": f"vapid t={proof}, k={secret.public_key}",
    }
    if parts.collapse_id is not None:
        built["topic"] = topic(parts.collapse_id)
    return built


def encrypt(
    content: bytes,
    p256dh: str,
    auth: str,
    *,
    private_key: EllipticCurvePrivateKey | None = None,
    salt: bytes | None = None,
) -> bytes:
    """RFC 8291. The key pair and the salt are fresh for each message; only the RFC's test vector fixes them.

    Raises ValueError for keys that are none; they were checked when the device registered.
    """
    point, secret = decode_key(p256dh, P256DH_BYTES), decode_key(auth, AUTH_BYTES)
    if point is None or secret is None:
        raise ValueError("not the keys of a subscription")
    sealed: bytes = http_ece.encrypt(
        content,
        salt=salt,
        private_key=private_key or generate_private_key(SECP256R1()),
        dh=point,
        auth_secret=secret,
        rs=RECORD_SIZE,
        version="aes128gcm",
    )
    return sealed


def generate() -> Vapid:
    """A new key pair (B090)."""
    key = generate_private_key(SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return Vapid(private_key=pem, public_key=base64.urlsafe_b64encode(point).rstrip(b"=").decode())


def prove(secret: Vapid, audience: str, subject: str, now_s: int) -> str:
    """The VAPID token for one push service (RFC 8292): its audience is the endpoint's origin and nothing more."""
    claims = {"aud": audience, "exp": now_s + PROOF_LIFE_S, "sub": subject}
    return jwt.encode({"alg": "ES256"}, claims, ECKey.import_key(secret.private_key), algorithms=["ES256"])


def origin(endpoint: str) -> str:
    """scheme://host[:port], as a lane and as a VAPID audience."""
    split = urlsplit(endpoint)
    return f"{split.scheme}://{split.netloc}".lower()


def topic(collapse_id: str) -> str:
    """At most 32 characters of base64url, so any id is hashed: 24 bytes of SHA-256 are 32 characters."""
    digest = hashlib.sha256(collapse_id.encode()).digest()[:24]
    return base64.urlsafe_b64encode(digest).decode()


def urgency(parts: Parts) -> str:
    """A phone that saves its battery fetches `high` at once and lets the rest wait."""
    if parts.interruption == "passive" or parts.silent:
        return "low"
    return "high" if parts.urgent or parts.critical is not None else "normal"


def read(status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
    """providers.md 3.5; only the status speaks."""
    if status in TAKEN:
        return Verdict(state="accepted", provider_id=headers.get("location"))
    reason, meaning = STATUSES.get(status, (f"http_{status}", OTHER_5XX if status >= 500 else REJECTED))
    return verdict(meaning, reason, headers)
