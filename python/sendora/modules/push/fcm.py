"""FCM v1: the request in Google's words, and what Google's answers mean (providers.md 2). Pure.

It serves the httpx lane, and it is the oracle of the native one.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final
from uuid import UUID

import msgspec

from sendora.delivery.retry import Schedule
from sendora.modules.push.model.providers import Fcm
from sendora.modules.push.parts import (
    DAMAGED,
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

DOWN: Final = Schedule(base_s=10.0, doubling=True)
"""providers.md 3.6: Google asks for at least 10 s before the first retry."""

ERROR_TYPE: Final = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST_TYPE: Final = "type.googleapis.com/google.rpc.BadRequest"

BAD_TOKEN: Final = "INVALID_ARGUMENT:token"  # noqa: S105 - a reason's name
"""INVALID_ARGUMENT that is about the token: see `read`."""

CODES: Final[Mapping[str, Meaning]] = {
    "UNREGISTERED": Meaning(retires=True),
    BAD_TOKEN: Meaning(retires=True, doubtful=True),
    "INVALID_ARGUMENT": REJECTED,
    "SENDER_ID_MISMATCH": Meaning(retires=True, doubtful=True),
    "THIRD_PARTY_AUTH_ERROR": REJECTED,
    "QUOTA_EXCEEDED": Meaning(retry=THROTTLED),
    "UNAVAILABLE": Meaning(retry=DOWN),
    "INTERNAL": Meaning(retry=DOWN),
    "UNSPECIFIED_ERROR": REJECTED,
    # The names of google.rpc, for answers without FCM's own code.
    "UNAUTHENTICATED": Meaning(retry=SOON, renews=True),
    "PERMISSION_DENIED": HOPELESS,
    "NOT_FOUND": REJECTED,
    "RESOURCE_EXHAUSTED": Meaning(retry=THROTTLED),
}
"""providers.md 2.3, row by row. NOT_FOUND without FCM's code may be the project's, so it retires nobody."""

STATUSES: Final[Mapping[int, Meaning]] = {
    401: Meaning(retry=SOON, renews=True),
    429: Meaning(retry=THROTTLED),
}

OTHER_5XX: Final = Meaning(retry=DOWN)


def message(parts: Parts, address: Address) -> dict[str, Any]:
    """The message without its target and its lifetime: what counts against Google's 4,096 bytes."""
    data = {key: _text(value) for key, value in parts.data.items()}
    if parts.actions:
        data["actions"] = _text(shown_actions(parts.actions))
    android: dict[str, Any] = {"priority": "NORMAL" if parts.silent or parts.interruption == "passive" else "HIGH"}
    built: dict[str, Any] = {"data": {**data, **stamps(parts.send, address.recipient)}, "android": android}
    if parts.collapse_id is not None:
        android["collapse_key"] = parts.collapse_id
    if not parts.silent:
        built["notification"] = {"title": address.title, "body": address.body}
        if parts.image:
            built["notification"]["image"] = parts.image
        if parts.collapse_id is not None:
            android["notification"] = {"tag": parts.collapse_id}
    return merge(built, parts.raw.fcm)


def size(built: Mapping[str, Any]) -> int:
    return len(msgspec.json.encode(built))


def body(parts: Parts, address: Address, built: dict[str, Any], now_s: int) -> bytes:
    lived = merge({"android": {"ttl": f"{ttl_s(parts, now_s)}s"}}, built)
    return msgspec.json.encode({"message": {**lived, "token": address.token}})


def build(
    parts: Parts,
    address: Address,
    secret: Fcm,
    *,
    url: str,
    lane: str,
    provider: str,
    bearer: str,
    now_s: int,
    built: dict[str, Any],
) -> Posted:
    return Posted(
        position=address.position,
        lane=lane,
        provider=provider,
        url=f"{url}/v1/projects/{secret.project}/messages:send",
        headers={"authorization": f"Bearer {bearer}", "content-type": "application/json"},
        body=body(parts, address, built, now_s),
        recipient=address.recipient,
        user_id=address.user_id,
        variant=address.variant,
        transport="fcm",
        grant=bearer,
    )


def lane(credential: UUID) -> str:
    return f"fcm:{credential}"


def provider(app: str) -> str:
    return provider_of("fcm", app)


def read(status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
    """providers.md 2.3: by FCM's own code, then by google.rpc's, then by the status."""
    said = object_of(body)
    if status == 200:
        name = said.get("name")
        if isinstance(name, str):
            return Verdict(state="accepted", provider_id=name)
        return Verdict(state="damaged", reason="http_200", retry=DAMAGED)
    error = said.get("error")
    error = error if isinstance(error, dict) else {}
    details = list(_details(error))
    code = next((one.get("errorCode") for one in details if one.get("@type") == ERROR_TYPE), None)
    if code == "INVALID_ARGUMENT" and _names_token(error, details):
        code = BAD_TOKEN
    for reason in (code, error.get("status")):
        if isinstance(reason, str) and reason in CODES:
            return verdict(CODES[reason], reason, headers)
    meaning = STATUSES.get(status, OTHER_5XX if status >= 500 else REJECTED)
    return verdict(meaning, f"http_{status}", headers)


def _names_token(error: Mapping[str, Any], details: list[dict[str, Any]]) -> bool:
    """Only when FCM itself, not its parser (BadRequest: our payload), says that the token is invalid."""
    said = error.get("message")
    parser = any(one.get("@type") == BAD_REQUEST_TYPE for one in details)
    return not parser and isinstance(said, str) and "registration token" in said.lower()


def _details(error: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    details = error.get("details")
    if isinstance(details, list):
        yield from (one for one in details if isinstance(one, dict))


def _text(value: Any) -> str:
    """Every value of `data` is a string on this wire."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
