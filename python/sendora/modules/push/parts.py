"""What the three builders and readers share: the parts of a message, the address, and what an answer may mean. Pure.

Nothing of `data` or of the recipient is looked at here for policy: the library has decided and rendered, a builder only
writes a payload in its provider's words. Every payload carries the send's id and the recipient's own (B100, C38):
`sendoraDeliveryId` is both in hexadecimal, so that an open leads back to one recipient without a look-up.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from sendora.delivery.phases import Call
from sendora.delivery.retry import Schedule
from sendora.kernel.errors import ValidationFailed
from sendora.modules.push.model.content import Action, Critical, Interruption, Raw

Transport = Literal["apns", "fcm", "webpush"]

TRANSPORTS: Final[Mapping[str, Transport]] = {"ios": "apns", "android": "fcm", "web": "webpush"}

TOO_LARGE: Final = "payload_too_large"

SOON: Final = Schedule(base_s=5.0, doubling=True)
"""For a connection or a host that has had enough: the next one may take it."""

THROTTLED: Final = Schedule(base_s=60.0, doubling=True)
"""For a 429 that names no time."""

AGE_PART: Final = 0.25
UNSENT_MAX_S: Final = 3_600.0
"""A connection that cannot be made is no try, so tries do not end it. It is tried anew after a quarter of the send's
age, within the hour: an address that is never there costs dozens of rows, not one every few seconds for weeks."""

DAMAGED: Final = Schedule(base_s=30.0, doubling=True)
"""For a success that is not the provider's: something stands between us and it."""


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """A send, as far as it is the same for all recipients."""

    send: UUID
    data: Mapping[str, Any]
    actions: list[Action]
    critical: Critical | None
    interruption: Interruption | None
    silent: bool
    collapse_id: str | None
    icon: str | None
    image: str | None
    raw: Raw
    expires_at_s: int
    now_or_never: bool
    urgent: bool
    """Somebody waits for it: class `now`."""


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A recipient as the library decided: whereto, and the rendered words."""

    position: int
    recipient: UUID
    platform: str
    token: str
    subscription: dict[str, str] | None
    environment: str
    bundle_id: str | None
    user_id: str | None
    title: str
    body: str
    variant: str | None


class Posted(Call, frozen=True, kw_only=True):
    """A Call that knows whose it is, so that its answer can be read without a memory beside it."""

    recipient: UUID
    user_id: str | None
    variant: str | None
    transport: Transport
    provider: str
    """The ledger's word for who is asked."""
    grant: str
    """The provider token it carries; what a `renew` compares with."""
    elsewhere: bool = False
    """It went to one of a provider's two environments, and a device that is not known there may be the other's."""


class Meaning(msgspec.Struct, frozen=True, kw_only=True):
    """What one reason of a provider's table asks of us; without anything, the recipient is rejected."""

    retry: Schedule | None = None
    retires: bool = False
    """The address is dead."""
    doubtful: bool = False
    """Dead, or a wrong environment, bundle or project: it retires only where others are accepted."""
    renews: bool = False
    """The provider token has expired; a fresh one helps."""
    hopeless: bool = False
    """The credential is refused, whoever the recipient is: no request under it would fare better."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, read."""

    state: Literal["accepted", "rejected", "deferred", "damaged"]
    """`damaged`: a success without the words of a success; whether the message left is unknown."""
    reason: str | None = None
    provider_id: str | None = None
    retry: Schedule | None = None
    retry_after: str | None = None
    renews: bool = False
    hopeless: bool = False


REJECTED: Final = Meaning()
HOPELESS: Final = Meaning(hopeless=True)


def verdict(meaning: Meaning, reason: str, headers: Mapping[str, str], provider_id: str | None = None) -> Verdict:
    """From the row of a table; a named wait makes even an unlisted refusal worth a try only where the row says so."""
    return Verdict(
        state="rejected" if meaning.retry is None else "deferred",
        reason=reason,
        provider_id=provider_id,
        retry=meaning.retry,
        retry_after=headers.get("retry-after"),
        renews=meaning.renews,
        hopeless=meaning.hopeless,
    )


def provider_of(asked: str, app: str) -> str:
    """The ledger's word for who was asked, and under whose credential where it is an app's own: `apns/driver`."""
    return f"{asked}/{app}" if app else asked


def delivery_id(send: UUID, recipient: UUID) -> str:
    return send.hex + recipient.hex


def stamps(send: UUID, recipient: UUID) -> dict[str, str]:
    """B100, C38."""
    return {"sendoraSendId": str(send), "sendoraDeliveryId": delivery_id(send, recipient)}


def ttl_s(parts: Parts, now_s: int) -> int:
    """What is left of the send's time, which is all that the provider may have of it."""
    return 0 if parts.now_or_never else max(parts.expires_at_s - now_s, 0)


def merge(built: dict[str, Any], raw: Mapping[str, Any] | None) -> dict[str, Any]:
    """`raw` over what was built, as a JSON Merge Patch (RFC 7396): objects are merged, null takes something out, and
    everything else is replaced."""
    merged = dict(built)
    for key, value in (raw or {}).items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            ours = merged.get(key)
            merged[key] = merge(ours if isinstance(ours, dict) else {}, value)
        else:
            merged[key] = value
    return merged


def shown_actions(actions: list[Action]) -> list[dict[str, str]]:
    listed = []
    for one in actions:
        given = {"id": one.id, "title": one.title, "url": one.url, "icon": one.icon}
        listed.append({key: value for key, value in given.items() if value})
    return listed


def too_large(size: int, bytes_max: int) -> ValidationFailed:
    return ValidationFailed({"body": [f"The payload would have {size} bytes, the providers take {bytes_max}"]})


def object_of(body: bytes) -> dict[str, Any]:
    """A provider's JSON object, or an empty one: an answer may be anything."""
    try:
        read = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}
