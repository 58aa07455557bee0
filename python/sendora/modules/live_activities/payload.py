"""What an update looks like in Apple's and in Google's words (B130; providers.md 1.7, 1.8). Pure."""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import msgspec

from sendora.kernel.ids import NIL
from sendora.modules import push
from sendora.modules.live_activities.model import Said

PUSH_TYPE: Final = "liveactivity"
TOPIC_SUFFIX: Final = ".push-type.liveactivity"

STAMP_LONGEST: Final = 9_999_999_999
"""Ten digits, as timestamps have until the year 2286."""


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """Which activity it is, as an Android app must be told: there is no system that knows."""

    id: UUID
    activity_type: str
    external_id: str


def apns(said: Said, send: UUID, activity: UUID) -> bytes:
    """`aps` for the system, our stamps beside it (B100). An alert sounds, or nobody would look up."""
    aps: dict[str, Any] = {"timestamp": said.stamp, "event": said.event}
    if said.content_state is not None:
        aps["content-state"] = said.content_state
    if said.attributes_type is not None:
        # iOS 18 makes an update token for what was started by push when it is asked to; others pass it over.
        aps |= {"attributes-type": said.attributes_type, "attributes": said.attributes, "input-push-token": 1}
    if said.alert is not None:
        aps["alert"] = {"title": said.alert.title, "body": said.alert.body, "sound": "default"}
    for key, at_s in (("stale-date", said.stale_s), ("dismissal-date", said.dismiss_s)):
        if at_s is not None:
            aps[key] = at_s
    if said.relevance is not None:
        aps["relevance-score"] = said.relevance
    return msgspec.json.encode({"aps": aps, **push.stamps(send, activity)})


def headers(said: Said, alerting: Mapping[str, str]) -> dict[str, str]:
    """Those of an alert to the same device, turned into a Live Activity's."""
    return {
        **alerting,
        "apns-topic": alerting["apns-topic"] + TOPIC_SUFFIX,
        "apns-push-type": PUSH_TYPE,
        "apns-priority": "10" if said.urgent else "5",
    }


def fcm(said: Said, send: UUID, named: Named) -> dict[str, Any]:
    """Data alone, so that it reaches the app's own code, which renders it; every value is text (providers.md 2.2).

    One collapse key for each activity: of what waits for a device that is away Google keeps the newest.
    """
    data = {
        "sendoraLiveActivity": said.event,
        "activityId": str(named.id),
        "activityType": named.activity_type,
        "externalId": named.external_id,
        "timestamp": str(said.stamp),
    }
    if said.content_state is not None:
        data["contentState"] = _text(said.content_state)
    if said.alert is not None:
        data["alert"] = _text(said.alert)
    for key, at_s in (("staleDate", said.stale_s), ("dismissalDate", said.dismiss_s)):
        if at_s is not None:
            data[key] = str(at_s)
    if said.relevance is not None:
        data["relevanceScore"] = _text(said.relevance)
    return {
        "data": {**data, **push.stamps(send, named.id)},
        "android": {"priority": "HIGH" if said.urgent else "NORMAL", "collapse_key": named.id.hex},
    }


def check_size(said: Said, named: Named | None) -> None:
    """Refuse at the call what the provider would refuse; raises ValidationFailed. `named`: for Google."""
    said = msgspec.structs.replace(said, stamp=STAMP_LONGEST)
    size = len(apns(said, NIL, NIL)) if named is None else len(msgspec.json.encode(fcm(said, NIL, named)))
    if size > push.PAYLOAD_MAX:
        raise push.too_large(size, push.PAYLOAD_MAX)


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()
