"""APNs: the request in Apple's words, and what Apple's answers mean (providers.md 1). Pure.

It serves the httpx lane, and it is the oracle of the native one.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid5

import msgspec

from sendora.delivery.retry import Schedule
from sendora.kernel.config import Push
from sendora.modules.push.model.providers import Apns
from sendora.modules.push.parts import (
    HOPELESS,
    REJECTED,
    SOON,
    THROTTLED,
    Address,
    Meaning,
    Parts,
    Posted,
    Verdict,
    merge,
    object_of,
    provider_of,
    shown_actions,
    stamps,
    ttl_s,
    verdict,
)

PAYLOAD_MAX: Final = 4_096

DOWN: Final = Schedule(base_s=900.0, doubling=False)
"""Apple asks for 15 minutes after a 500 or 503 (providers.md 3.6)."""

INSTANT_MAX: Final = 10**15
"""Fifteen digits of milliseconds end in the year 33658; what is beyond is no instant."""

MISMATCH: Final = "environment_mismatch"
"""A development device under a credential that is valid for production alone."""

GUESS: Final = "?"
"""Stands behind an environment that is tried because the device's own did not know it."""

BAD_DEVICE_TOKEN: Final = "BadDeviceToken"  # noqa: S105 - a reason's name
"""What each environment says of the other's devices."""

ELSEWHERE: Final = Schedule(base_s=1.0, doubling=False)
"""For a device that one environment does not know, and the other may."""

REASONS: Final[Mapping[str, Meaning]] = {
    "BadCollapseId": REJECTED,
    BAD_DEVICE_TOKEN: Meaning(retires=True, doubtful=True),
    "BadExpirationDate": REJECTED,
    "BadMessageId": REJECTED,
    "BadPriority": REJECTED,
    "BadTopic": REJECTED,
    "DeviceTokenNotForTopic": Meaning(retires=True, doubtful=True),
    "DuplicateHeaders": REJECTED,
    "IdleTimeout": Meaning(retry=SOON),
    "InvalidPushType": REJECTED,
    "MissingDeviceToken": REJECTED,
    "MissingTopic": REJECTED,
    "PayloadEmpty": REJECTED,
    "TopicDisallowed": REJECTED,
    "BadCertificate": HOPELESS,
    "BadCertificateEnvironment": HOPELESS,
    "ExpiredProviderToken": Meaning(retry=SOON, renews=True),
    "Forbidden": REJECTED,
    "InvalidProviderToken": HOPELESS,
    "MissingProviderToken": HOPELESS,
    "UnrelatedKeyIdInToken": Meaning(retry=SOON),
    "BadEnvironmentKeyIdInToken": HOPELESS,
    "BadEnvironmentKeyInToken": HOPELESS,
    "BadPath": REJECTED,
    "MethodNotAllowed": REJECTED,
    "ExpiredToken": Meaning(retires=True),
    "Unregistered": Meaning(retires=True),
    "PayloadTooLarge": REJECTED,
    "TooManyProviderTokenUpdates": Meaning(retry=THROTTLED),
    "TooManyRequests": Meaning(retry=THROTTLED),
    "InternalServerError": Meaning(retry=DOWN),
    "ServiceUnavailable": Meaning(retry=DOWN),
    "Shutdown": Meaning(retry=SOON),
}
"""providers.md 1.6, row by row."""

STATUSES: Final[Mapping[int, Meaning]] = {
    410: Meaning(retires=True),
    429: Meaning(retry=THROTTLED),
    500: Meaning(retry=DOWN),
    503: Meaning(retry=DOWN),
}
"""For an answer whose body names no reason that we know."""

OTHER_5XX: Final = Meaning(retry=DOWN)


class Destination(NamedTuple):
    """One of Apple's two hosts."""

    environment: str
    elsewhere: bool
    """A device that it does not know is to be tried in the other one."""


def payload(parts: Parts, address: Address) -> bytes:
    """The body: `aps` for the system, the rest beside it for the app (providers.md 1.7, 1.9)."""
    stamped = stamps(parts.send, address.recipient)
    built: dict[str, Any] = {"aps": _aps(parts, address), **stamped, "data": {**parts.data, **stamped}}
    if parts.actions:
        built["actions"] = shown_actions(parts.actions)
    if parts.image:
        built["image"] = parts.image
    return msgspec.json.encode(merge(built, parts.raw.apns))


def build(
    parts: Parts,
    address: Address,
    secret: Apns,
    destination: Destination,
    *,
    url: str,
    lane: str,
    provider: str,
    bearer: str,
    now_s: int,
    body: bytes,
) -> Posted:
    headers = {} if secret.identity is not None else {"authorization": f"bearer {bearer}"}
    headers |= {
        "apns-topic": address.bundle_id or secret.bundle_ids[0],
        "apns-push-type": "background" if parts.silent else "alert",
        "apns-priority": "5" if parts.silent or parts.interruption == "passive" else "10",
        "apns-expiration": str(0 if parts.now_or_never else now_s + ttl_s(parts, now_s)),
        # The same on every try: it traces, Apple does not promise to recognise it.
        "apns-id": str(uuid5(parts.send, address.recipient.hex)),
    }
    if parts.collapse_id is not None:
        headers["apns-collapse-id"] = parts.collapse_id
    return Posted(
        position=address.position,
        lane=lane,
        provider=provider,
        url=f"{url}/3/device/{address.token}",
        headers=headers,
        body=body,
        identity=secret.identity,
        recipient=address.recipient,
        user_id=address.user_id,
        variant=address.variant,
        transport="apns",
        grant=bearer,
        elsewhere=destination.elsewhere,
    )


def destination(secret: Apns, address: Address) -> Destination | None:
    """Where the device is asked for; None when the credential cannot reach it.

    A credential for both follows the token, and tries the other host once where the first does not know the device:
    apps tell the wrong one, and a device must not be lost for it. A sandbox credential means development, where every
    device is one; but a production credential must not try a development device: Apple would call its token bad, and
    it is not.
    """
    said = address.environment.removesuffix(GUESS)
    if secret.environment is None:
        return Destination(said, elsewhere=said == address.environment)
    return Destination(secret.environment, elsewhere=False) if secret.environment in (said, "sandbox") else None


def lane(credential: UUID, environment: str) -> str:
    """Its connections carry one provider token to one of Apple's hosts."""
    return f"apns:{credential}:{environment}"


def provider(environment: str, app: str) -> str:
    """For the ledger: each of Apple's two environments speaks for its own addresses only."""
    return provider_of("apns:sandbox" if environment == "sandbox" else "apns", app)


def url(urls: Push, environment: str) -> str:
    return urls.apns_sandbox_url if environment == "sandbox" else urls.apns_production_url


def read(status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
    """providers.md 1.6. The id of a 410 carries Apple's instant: `<apns-id>@<ms>`, see `gone_at_ms`."""
    apns_id = headers.get("apns-id")
    if status == 200:
        return Verdict(state="accepted", provider_id=apns_id)
    said = object_of(body)
    reason = said.get("reason")
    if not isinstance(reason, str) or reason not in REASONS:
        meaning = STATUSES.get(status, OTHER_5XX if status >= 500 else REJECTED)
        return verdict(meaning, f"http_{status}", headers, apns_id)
    timestamp = said.get("timestamp")
    if status == 410 and type(timestamp) is int and 0 <= timestamp < INSTANT_MAX:
        apns_id = f"{apns_id or ''}@{timestamp}"
    return verdict(REASONS[reason], reason, headers, apns_id)


def gone_at_ms(provider_id: str | None) -> int | None:
    """Since when Apple calls the token gone, from the ledger's provider id of a 410."""
    _, mark, timestamp = (provider_id or "").rpartition("@")
    return int(timestamp) if mark and timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 15 else None


def _aps(parts: Parts, address: Address) -> dict[str, Any]:
    if parts.silent:
        return {"content-available": 1}
    aps: dict[str, Any] = {"alert": {"title": address.title, "body": address.body}, "sound": "default"}
    if parts.critical is not None:
        # B106.
        aps["sound"] = {"critical": 1, "name": parts.critical.sound_name, "volume": parts.critical.volume}
        aps["interruption-level"] = "critical"
    if parts.interruption is not None:
        aps["interruption-level"] = parts.interruption
    if parts.actions or parts.image:
        # Buttons come from a category that the app has registered; the notification service extension registers it from
        # `actions` when it is woken, which `mutable-content` asks for (providers.md 0.1).
        aps["mutable-content"] = 1
    if parts.actions:
        aps["category"] = "sendora:" + ",".join(action.id for action in parts.actions)
    return aps
