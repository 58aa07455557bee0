"""Credentials: parsed and checked when they are stored, so that a send never finds a broken one.

A credential has two faces: what is sealed, and what may be shown (keys never).
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate
from msgspec import Meta

from sendora.delivery.phases import Identity
from sendora.kernel.clock import iso
from sendora.kernel.errors import Conflict
from sendora.kernel.ids import OrgId
from sendora.kernel.wire import Wire, WireIn
from sendora.modules.push.model.content import FieldErrors, raise_for
from sendora.modules.push.model.tokens import BUNDLE_ID, Environment

Provider = Literal["apns", "fcm", "vapid"]

BUNDLES_MAX: Final = 100
APPS_MAX: Final = 50
"""Apps of a project that have a credential of their own with one provider."""

RSA_BITS_MIN: Final = 2_048
TEN: Final = re.compile(r"[A-Za-z0-9]{10}", re.ASCII)
"""Apple's key and team ids."""

FCM_PROJECT: Final = re.compile(r"[a-z0-9][a-z0-9.:-]{0,62}", re.ASCII)
"""It becomes a part of a URL."""

APP: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
"""It stands in the ledger, behind the provider's name."""

Pem = Annotated[str, Meta(min_length=1, max_length=16_384)]


class ApnsIn(WireIn, frozen=True, kw_only=True):
    """Body of `PUT /push/providers/apns`."""

    p8_key: Pem | None = None
    key_id: str | None = None
    team_id: str | None = None
    certificate: Pem | None = None
    private_key: Pem | None = None
    bundle_id: str | None = None
    bundle_ids: Annotated[list[str], Meta(max_length=BUNDLES_MAX)] | None = None
    environment: Environment | None = None
    app: str | None = None
    """Whose own credential this is; absent for the project's, which serves every app without one."""
    project_id: UUID | None = None

    def __repr__(self) -> str:
        return f"ApnsIn(key_id={self.key_id!r})"


class FcmIn(WireIn, frozen=True, kw_only=True):
    """Body of `PUT /push/providers/fcm`: the file as Google gives it, with fields that are of no use here."""

    service_account: dict[str, Any]
    app: str | None = None
    bundle_ids: Annotated[list[str], Meta(max_length=BUNDLES_MAX)] | None = None
    """Package names of the app; its devices say theirs as `bundleId` when they register."""
    project_id: UUID | None = None

    def __repr__(self) -> str:
        return "FcmIn()"


class Apns(msgspec.Struct, frozen=True, kw_only=True):
    """What is sealed of an APNs credential: a key that signs provider tokens, or a certificate (B089)."""

    p8: str | None = None
    key_id: str | None = None
    team_id: str | None = None
    identity: Identity | None = None
    expires_at: datetime | None = None
    """The certificate's end."""
    bundle_ids: list[str]
    """The first is the default topic."""
    environment: Environment | None
    """Where it is valid; None for what is valid in both, and then the device's token says where it belongs."""

    def __repr__(self) -> str:
        """Into logs and tracebacks goes what may be shown."""
        return f"Apns(key_id={self.key_id!r}, team_id={self.team_id!r})"


class Fcm(msgspec.Struct, frozen=True, kw_only=True):
    """What is sealed of an FCM credential."""

    project: str
    client_email: str
    private_key: str
    private_key_id: str | None
    token_uri: str
    bundle_ids: list[str] = []

    def __repr__(self) -> str:
        return f"Fcm(project={self.project!r})"


class Vapid(msgspec.Struct, frozen=True, kw_only=True):
    private_key: str
    """PEM."""
    public_key: str
    """The uncompressed point in base64url, as browsers take it."""

    def __repr__(self) -> str:
        return f"Vapid(public_key={self.public_key!r})"


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """An opened row of `push_providers`. `id` changes with the secret, and lanes and grants are keyed by it."""

    org: OrgId
    id: UUID
    app: str = ""
    """"" for the project's own."""
    secret: Apns | Fcm | Vapid | None
    """None: it is sealed under a key that this process does not have."""


class Credentials:
    """A project's credentials of one provider: its own, and those of apps that have one."""

    def __init__(self, listed: Sequence[tuple[Credential, Sequence[str]]]) -> None:
        """Each with its bundle ids; no two apps name the same."""
        self.listed: Final = tuple(one for one, _ in listed)
        self.rest: Final = next((one for one in self.listed if not one.app), None)
        self.apps: Final = {bundle: one for one, bundles in listed if one.app for bundle in bundles}

    def of(self, bundle_id: str | None) -> Credential | None:
        """An app's own comes before the project's, also where the project's names the same bundle id."""
        return self.apps.get(bundle_id or "", self.rest)


class ApnsShown(Wire, frozen=True, kw_only=True):
    key_id: str | None
    """Null with a certificate, as the team."""
    team_id: str | None
    certificate_expires_at: str | None = None
    bundle_ids: list[str]
    environment: str | None
    configured_at: str


class FcmShown(Wire, frozen=True, kw_only=True):
    project_id: str
    client_email: str
    bundle_ids: list[str]
    configured_at: str


class VapidShown(Wire, frozen=True, kw_only=True):
    public_key: str


class AppProviders(Wire, frozen=True):
    """The credentials that an app of the project has for itself."""

    app: str
    apns: ApnsShown | None
    fcm: FcmShown | None


class Providers(Wire, frozen=True, kw_only=True):
    apns: ApnsShown | None
    fcm: FcmShown | None
    vapid: VapidShown | None
    apps: list[AppProviders]


class TooManyApps(Conflict):
    """The project has as many apps with credentials as one may have."""

    def __init__(self) -> None:
        super().__init__(f"A project has at most {APPS_MAX} apps with credentials; remove one first.", "too_many_apps")


class Removed(Wire, frozen=True, kw_only=True):
    provider: str
    app: str | None
    removed: bool


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `push_providers`, sealed."""

    app: str
    id: UUID
    sealed: bytes
    shown: dict[str, Any]

    @property
    def bundle_ids(self) -> list[str]:
        named: list[str] = self.shown.get("bundleIds", [])
        return named


def apns(given: ApnsIn, project: UUID, now: datetime) -> Apns:
    """The credential in a request: exactly one of a key and a certificate; raises ValidationFailed."""
    errors = _place_errors(given, project)
    expires_at: datetime | None = None
    if given.certificate is None and given.private_key is None:
        errors |= _key_errors(given)
    elif given.p8_key is not None or given.key_id is not None or given.team_id is not None:
        errors["certificate"] = ["Give either p8Key, keyId and teamId, or certificate and privateKey"]
    else:
        found, expires_at = _certificate_errors(given, now)
        errors |= found
    named = [] if given.bundle_id is None else [given.bundle_id]
    bundles = list(dict.fromkeys(named + (given.bundle_ids or [])))
    if not bundles:
        errors["bundleId"] = ["Required unless bundleIds is given"]
    errors |= _bundle_errors(bundles)
    raise_for(errors)
    identity = None
    if given.certificate is not None and given.private_key is not None:
        identity = Identity(certificate=given.certificate, key=given.private_key)
    return Apns(
        p8=given.p8_key,
        key_id=given.key_id,
        team_id=given.team_id,
        identity=identity,
        expires_at=expires_at,
        bundle_ids=bundles,
        environment=given.environment,
    )


def _place_errors(given: ApnsIn | FcmIn, project: UUID) -> FieldErrors:
    errors: FieldErrors = {}
    if given.project_id not in (None, project):
        errors["projectId"] = ["Is not the project of this key"]
    if given.app is not None and not APP.fullmatch(given.app):
        errors["app"] = ["Expected up to 64 letters, digits, dots, dashes and underscores"]
    return errors


def _bundle_errors(bundles: Sequence[str]) -> FieldErrors:
    return {} if all(map(BUNDLE_ID.fullmatch, bundles)) else {"bundleIds": ["Not a bundle id"]}


def _key_errors(given: ApnsIn) -> FieldErrors:
    errors: FieldErrors = {}
    if given.p8_key is None:
        errors["p8Key"] = ["Required"]
    elif not _is_p256(given.p8_key):
        errors["p8Key"] = ["Not an APNs key: expected a PEM with a P-256 private key"]
    for field, value in (("keyId", given.key_id), ("teamId", given.team_id)):
        if value is None:
            errors[field] = ["Required"]
        elif not TEN.fullmatch(value):
            errors[field] = ["Expected 10 letters or digits"]
    return errors


def _certificate_errors(given: ApnsIn, now: datetime) -> tuple[FieldErrors, datetime | None]:
    """What is wrong with the pair, and when the certificate ends. Whose it is only Apple can say."""
    if given.certificate is None or given.private_key is None:
        return {"certificate" if given.certificate is None else "privateKey": ["Required"]}, None
    key = _key(given.private_key)
    if not isinstance(key, EllipticCurvePrivateKey | RSAPrivateKey):
        return {"privateKey": ["Expected a PEM with an RSA or EC private key that no password protects"]}, None
    try:
        certificate = load_pem_x509_certificate(given.certificate.encode())
        same = certificate.public_key() == key.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return {"certificate": ["Expected a PEM with a certificate"]}, None
    if not same:
        return {"privateKey": ["Is not the key of this certificate"]}, None
    expires_at = certificate.not_valid_after_utc
    if expires_at <= now:
        return {"certificate": [f"Expired at {iso(expires_at)}"]}, None
    return {}, expires_at


def fcm(given: FcmIn, project: UUID) -> Fcm:
    """The credential in a service account's file (B091); raises ValidationFailed.

    The token_uri still has to pass the outbound guard, which is not pure.
    """
    account, errors = given.service_account, _place_errors(given, project)
    bundles = list(dict.fromkeys(given.bundle_ids or []))
    if given.app is not None and not bundles:
        errors["bundleIds"] = ["Required with app: its devices are known by their bundleId"]
    errors |= _bundle_errors(bundles)
    texts: dict[str, str] = {}
    for name in ("project_id", "client_email", "private_key", "token_uri"):
        value = account.get(name)
        if isinstance(value, str) and 0 < len(value) <= 16_384:
            texts[name] = value
        else:
            errors[f"serviceAccount.{name}"] = ["Required"]
    if account.get("type") not in (None, "service_account"):
        errors["serviceAccount.type"] = ["Expected service_account"]
    if "private_key" in texts and not _is_rsa(texts["private_key"]):
        errors["serviceAccount.private_key"] = [f"Expected a PEM with an RSA key of at least {RSA_BITS_MIN} bits"]
    if "project_id" in texts and not FCM_PROJECT.fullmatch(texts["project_id"]):
        errors["serviceAccount.project_id"] = ["Not a Google Cloud project id"]
    key_id = account.get("private_key_id")
    if key_id is not None and not (isinstance(key_id, str) and len(key_id) <= 256):
        errors["serviceAccount.private_key_id"] = ["Expected string"]
        key_id = None
    raise_for(errors)
    return Fcm(
        project=texts["project_id"],
        client_email=texts["client_email"],
        private_key=texts["private_key"],
        private_key_id=key_id,
        token_uri=texts["token_uri"],
        bundle_ids=bundles,
    )


def shown(secret: Apns | Fcm | Vapid) -> dict[str, Any]:
    """`push_providers.shown`: what the API may tell."""
    match secret:
        case Apns():
            return {
                "keyId": secret.key_id,
                "teamId": secret.team_id,
                "certificateExpiresAt": None if secret.expires_at is None else iso(secret.expires_at),
                "bundleIds": secret.bundle_ids,
                "environment": secret.environment,
            }
        case Fcm():
            return {
                "projectId": secret.project,
                "clientEmail": secret.client_email,
                "bundleIds": secret.bundle_ids,
            }
        case Vapid():
            return {"publicKey": secret.public_key}


def _is_p256(pem: str) -> bool:
    key = _key(pem)
    return isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1)


def _is_rsa(pem: str) -> bool:
    key = _key(pem)
    return isinstance(key, RSAPrivateKey) and key.key_size >= RSA_BITS_MIN


def _key(pem: str) -> object:
    try:
        return load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
