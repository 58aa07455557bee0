"""Devices: what a registration may say, and what kind of address a bare token is."""

import base64
import binascii
import re
from functools import cache
from typing import Annotated, Any, Final, Literal
from uuid import UUID
from zoneinfo import available_timezones

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from msgspec import Meta

from sendora.kernel.errors import ValidationFailed
from sendora.kernel.wire import Wire, WireIn
from sendora.modules.push.model.content import LOCALE, FieldErrors, raise_for

Platform = Literal["ios", "android", "web"]
Environment = Literal["production", "sandbox"]

TOKEN_MAX: Final = 2_000
"""An FCM token has about 160 characters, an endpoint a few hundred; PostgreSQL indexes at most 2,704 bytes of one."""

ENDPOINT_MAX: Final = TOKEN_MAX

P256DH_BYTES: Final = 65
AUTH_BYTES: Final = 16
"""RFC 8291: an uncompressed P-256 point and the authentication secret."""

APNS_TOKEN: Final = re.compile(r"[0-9A-Fa-f]{64,200}", re.ASCII)
"""Apple's tokens are hexadecimal, today 64 digits; their length is not promised."""

IOS_TOKEN: Final = re.compile(r"[0-9A-Za-z._~-]{1,512}", re.ASCII)
"""What may stand in the path of a request to Apple; whether it is a device Apple says itself."""

BUNDLE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,154}", re.ASCII)

EXPO: Final = re.compile(r"Expo(nent)?PushToken\[.*", re.DOTALL)
EXPO_REFUSED: Final = (
    "Expo push tokens cannot be dispatched to: Sendora talks to APNs and FCM itself. "
    "Register the device's native token (getDevicePushTokenAsync), or bridge Expo by a webhook"
)
"""B092, B276."""

PRINTABLE: Final = re.compile(r"[\x21-\x7e]+", re.ASCII)


class Keys(Wire, frozen=True, kw_only=True):
    p256dh: str
    auth: str


class Subscription(Wire, frozen=True, kw_only=True):
    """What the browser's PushSubscription.toJSON() gives; it also has `expirationTime`, which says nothing reliable."""

    endpoint: Annotated[str, Meta(min_length=1, max_length=ENDPOINT_MAX)]
    keys: Keys


class RegistrationIn(WireIn, frozen=True, kw_only=True):
    """Body of `POST /push/tokens`."""

    token: Annotated[str, Meta(min_length=1, max_length=TOKEN_MAX)] | Subscription
    platform: Platform
    user_id: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    locale: Annotated[str, Meta(max_length=35)] | None = None
    timezone: Annotated[str, Meta(max_length=64)] | None = None
    app_version: Annotated[str, Meta(max_length=64)] | None = None
    project_id: UUID | None = None
    org_id: UUID | None = None
    subscription: Subscription | None = None
    environment: Environment | None = None
    bundle_id: Annotated[str, Meta(max_length=155)] | None = None
    device_id: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    """The SDK's name for this installation, as events carry it: of one app on one device only the newest token gets
    messages."""
    reactivate: bool = False


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """A registration that has passed: what the store upserts."""

    token: str
    platform: Platform
    keys: Keys | None
    user_id: str | None
    locale: str | None
    timezone: str | None
    app_version: str | None
    environment: Environment | None
    bundle_id: str | None
    device_id: str | None
    reactivate: bool


class TokenShown(Wire, frozen=True, kw_only=True):
    """A device as the API shows it. `token` is the address itself: whoever lists tokens holds a secret key, and the one
    who registered it sent it along."""

    id: UUID
    token: str
    user_id: str | None
    platform: str
    is_active: bool
    locale: str | None
    timezone: str | None
    app_version: str | None
    environment: str
    bundle_id: str | None
    device_id: str | None
    registered_at: str


class TokenRetired(Wire, frozen=True, kw_only=True):
    id: UUID
    is_active: bool


def registration(given: RegistrationIn, project: UUID, org: UUID) -> Registration:
    """Check what the types do not say, and settle where a browser's endpoint stands; raises ValidationFailed.

    The endpoint still has to pass the outbound guard, which is not pure.
    """
    errors: FieldErrors = {}
    if given.project_id not in (None, project):
        errors["projectId"] = ["Is not the project of this key"]
    if given.org_id not in (None, org):
        errors["orgId"] = ["Is not the organisation of this key"]
    if given.timezone is not None and given.timezone not in zones():
        errors["timezone"] = ["Not an IANA time zone"]
    if given.locale is not None and not LOCALE.fullmatch(given.locale):
        errors["locale"] = ["Not a locale tag"]
    if given.bundle_id is not None and not BUNDLE_ID.fullmatch(given.bundle_id):
        errors["bundleId"] = ["Not a bundle id"]
    if given.platform == "web":
        token, keys = _browser(given, errors)
    else:
        token, keys = _device(given, errors), None
    raise_for(errors)
    return Registration(
        token=token,
        platform=given.platform,
        keys=keys,
        user_id=given.user_id,
        locale=given.locale,
        timezone=given.timezone,
        app_version=given.app_version,
        environment=given.environment,
        bundle_id=given.bundle_id,
        device_id=given.device_id,
        reactivate=given.reactivate,
    )


def guess_platform(token: str) -> Platform:
    """What an unknown raw token is (B095): Apple's are hexadecimal, an address is a browser's, all others are FCM's."""
    if token.startswith("https://"):
        return "web"
    return "ios" if APNS_TOKEN.fullmatch(token) else "android"


def canonical(token: str) -> str:
    """How a token stands in the table: Apple's are bytes written as hexadecimal, so the case says nothing."""
    return token.lower() if APNS_TOKEN.fullmatch(token) else token


@cache
def zones() -> frozenset[str]:
    return frozenset(available_timezones())


def decode_key(text: str, length: int) -> bytes | None:
    """base64url with or without padding (browsers differ), None when it is not, or of another length."""
    try:
        bare = text.rstrip("=")
        raw = base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == length else None


def _device(given: RegistrationIn, errors: FieldErrors) -> str:
    if given.subscription is not None:
        errors["subscription"] = ["Only for platform web"]
    if not isinstance(given.token, str):
        errors["token"] = ["Expected string"]
        return ""
    errors.update(address_errors("token", given.token, given.platform))
    return canonical(given.token) if given.platform == "ios" else given.token


def address_errors(field: str, token: str, platform: str) -> FieldErrors:
    """What neither Apple nor Google would take as an address."""
    errors = token_errors(field, token)
    if platform == "ios" and not errors and not IOS_TOKEN.fullmatch(token):
        errors[field] = ["Not an APNs token"]
    return errors


def token_errors(field: str, token: str) -> FieldErrors:
    """What no token may look like: Expo's (B092), or something that could not stand in a URL."""
    if EXPO.match(token):
        return {field: [EXPO_REFUSED]}
    if not PRINTABLE.fullmatch(token):
        return {field: ["Only printable ASCII without spaces"]}
    return {}


def _browser(given: RegistrationIn, errors: FieldErrors) -> tuple[str, Keys | None]:
    """The subscription stands in `subscription`, or in `token` itself: as an object, or as the JSON text of one."""
    field, subscription = "subscription", given.subscription
    if subscription is None and isinstance(given.token, Subscription):
        field, subscription = "token", given.token
    elif subscription is None and isinstance(given.token, str) and given.token.startswith("{"):
        field, subscription = "token", _parse(given.token)
    if subscription is None:
        errors["subscription"] = ["Required for platform web: {endpoint, keys: {p256dh, auth}}"]
        return "", None
    if field == "subscription" and isinstance(given.token, str) and given.token != subscription.endpoint:
        errors["token"] = ["Differs from subscription.endpoint"]
    point = decode_key(subscription.keys.p256dh, P256DH_BYTES)
    if point is None or not _on_curve(point):
        errors[f"{field}.keys.p256dh"] = [f"Expected an uncompressed P-256 point, {P256DH_BYTES} bytes in base64url"]
    if decode_key(subscription.keys.auth, AUTH_BYTES) is None:
        errors[f"{field}.keys.auth"] = [f"Expected {AUTH_BYTES} bytes in base64url"]
    if not PRINTABLE.fullmatch(subscription.endpoint):
        errors[f"{field}.endpoint"] = ["Not a URL"]
    return subscription.endpoint, subscription.keys


def _parse(text: str) -> Subscription | None:
    try:
        return msgspec.json.decode(text, type=Subscription)
    except msgspec.MsgspecError:
        return None


def _on_curve(point: bytes) -> bool:
    """A point off the curve would fail at each send instead of here."""
    try:
        EllipticCurvePublicKey.from_encoded_point(SECP256R1(), point)
    except ValueError:
        return False
    return True


def endpoint_refused() -> ValidationFailed:
    return ValidationFailed({"subscription.endpoint": ["Not the address of a known push service"]})


def subscription_of(keys: Keys) -> dict[str, Any]:
    """`push_tokens.subscription`."""
    return {"p256dh": keys.p256dh, "auth": keys.auth}
