"""From what a send and its references say to what is sent; references are resolved when the send goes out (B098). Pure.

The send's own words win over the template's, piece by piece. An A/B test that is active brings its variants; a paused
or completed one brings nothing (B118, C45), unless it completed itself (`autoPromote`): then its winner's words count.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from sendora.kernel.clock import millis
from sendora.kernel.ids import NIL
from sendora.modules.push import apns, fcm, webpush
from sendora.modules.push.model.content import Raw, TemplateContent, Variant
from sendora.modules.push.model.policies import Policies
from sendora.modules.push.model.sends import Content
from sendora.modules.push.parts import Address, Parts, too_large
from sendora.modules.push.store.content import Test

NO_TEMPLATE: Final = "template_missing"
"""Why a send is rejected whose template was deleted before it went out, and which has no title of its own."""

BLANK: Final = "{{event.blank}}"
"""A text that is not empty and renders as nothing (B125)."""


class Composed(msgspec.Struct, frozen=True, kw_only=True):
    """A send's words and parts, with nothing left to look up."""

    title: str | None
    """None: the template that was to supply it is gone."""
    body: str
    localized_title: dict[str, str]
    localized_body: dict[str, str]
    test: UUID | None
    variants: list[Variant]
    parts: Parts


def compose(
    content: Content,
    template: TemplateContent | None,
    test: Test | None,
    *,
    send: UUID,
    expires_at: datetime,
    urgent: bool,
) -> Composed:
    base = template or TemplateContent(title="", body="")
    title = content.title if content.title is not None else (template.title if template else None)
    body = content.body if content.body is not None else base.body
    if title is None and content.silent:
        title = ""
    localized_title = base.localized_title if content.localized_title is None else content.localized_title
    localized_body = base.localized_body if content.localized_body is None else content.localized_body
    variants: list[Variant] = []
    if test is not None and test.status == "active":
        variants = test.variants
    elif test is not None and test.promoted_at is not None:
        for winner in (one for one in test.variants if one.key == test.winner_key and not one.holdout):
            # As in the test: a variant's own text goes before translations of the text that it replaces.
            if winner.title is not None:
                title, localized_title = winner.title, {}
            if winner.body is not None:
                body, localized_body = winner.body, {}
    return Composed(
        title=title,
        body=body,
        localized_title=localized_title,
        localized_body=localized_body,
        test=test.id if test is not None and variants else None,
        variants=variants,
        parts=Parts(
            send=send,
            data={**base.data, **(content.data or {})},
            actions=base.actions if content.actions is None else content.actions,
            critical=content.critical_alert or base.critical_alert,
            interruption=content.interruption_level,
            silent=content.silent,
            collapse_id=content.collapse_id,
            icon=content.icon,
            image=content.image,
            raw=content.raw or Raw(),
            expires_at_s=millis(expires_at) // 1_000,
            now_or_never=content.now_or_never,
            urgent=urgent,
        ),
    )


def bypasses(composed: Composed, policies: Policies) -> bool:
    """C46: a critical alert goes through quiet hours and caps, unless the org says otherwise."""
    critical = composed.parts.critical is not None or composed.parts.interruption == "critical"
    return critical and policies.critical_alerts_bypass_policies


def note(
    composed: Composed, policies: Policies, *, raw: bool, planned_at: datetime, expires_at: datetime
) -> dict[str, Any]:
    """What the library compiles (`_core.Note`)."""
    # An empty body means "only these locales" (B115); where no locale is named it only means an empty body. Also when
    # the title is lost: the channel rejects those recipients itself, and says why.
    body = composed.body or (BLANK if not composed.localized_body or composed.title is None else "")
    spec: dict[str, Any] = {
        "sendId": str(composed.parts.send),
        "title": composed.title or "",
        "body": body,
        "localizedTitle": composed.localized_title,
        "localizedBody": composed.localized_body,
        "event": {},
        "raw": raw,
        "plannedAt": millis(planned_at),
        "expiresAt": millis(expires_at),
        "policy": {
            "quietStart": policies.quiet_hours_start_local,
            "quietEnd": policies.quiet_hours_end_local,
            "defer": policies.defer_in_quiet_hours,
            "capDay": policies.freq_cap_per_user_per_day,
            "capHour": policies.freq_cap_per_user_per_hour,
            "defaultZone": policies.org_default_timezone,
            "bypass": bypasses(composed, policies),
        },
    }
    if composed.test is not None:
        spec["test"] = {
            "id": str(composed.test),
            "variants": [
                {key: value for key, value in msgspec.to_builtins(variant).items() if value is not None}
                for variant in composed.variants
            ],
        }
    return spec


def check_sizes(composed: Composed) -> None:
    """Refuse at the call what every provider would refuse for every recipient (413); raises ValidationFailed.

    The longest of the words as they are written: what templates make of them is only known for each recipient, and
    whoever gets too much is rejected alone.
    """
    address = Address(
        position=0,
        recipient=NIL,
        platform="ios",
        token="",
        subscription=None,
        environment="production",
        bundle_id=None,
        user_id=None,
        title=_longest([composed.title or "", *composed.localized_title.values(), *_said(composed, "title")]),
        body=_longest([composed.body, *composed.localized_body.values(), *_said(composed, "body")]),
        variant=None,
    )
    sizes = (
        (len(apns.payload(composed.parts, address)), apns.PAYLOAD_MAX),
        (fcm.size(fcm.message(composed.parts, address)), fcm.PAYLOAD_MAX),
        (len(webpush.plaintext(composed.parts, address)), webpush.PLAINTEXT_MAX),
    )
    for size, bytes_max in sizes:
        if size > bytes_max:
            raise too_large(size, bytes_max)


def _said(composed: Composed, part: str) -> Sequence[str]:
    return [said for variant in composed.variants if (said := getattr(variant, part)) is not None]


def _longest(texts: Sequence[str]) -> str:
    return max(texts, key=lambda text: len(text.encode()))
