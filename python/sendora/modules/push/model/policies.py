"""The delivery policies of an org: quiet hours and frequency caps (B108-B113, C46)."""

from typing import Annotated

import msgspec
from msgspec import Meta

from sendora.kernel.errors import ValidationFailed
from sendora.kernel.wire import UNSET, UnsetType, Wire, WireIn
from sendora.modules.push.model.tokens import zones

Hour = Annotated[int, Meta(ge=0, le=23)]
Cap = Annotated[int, Meta(ge=0, le=2_147_483_647)]


class Policies(Wire, frozen=True, kw_only=True):
    """What `GET /push/settings` shows; the defaults are those of an org that never set any."""

    quiet_hours_start_local: int | None = None
    quiet_hours_end_local: int | None = None
    defer_in_quiet_hours: bool = True
    freq_cap_per_user_per_day: int | None = None
    freq_cap_per_user_per_hour: int | None = None
    org_default_timezone: str | None = None
    critical_alerts_bypass_policies: bool = True


class PoliciesPatch(WireIn, frozen=True, kw_only=True):
    """Body of `PATCH /push/settings`: what is absent stays, null switches off."""

    quiet_hours_start_local: Hour | UnsetType | None = UNSET
    quiet_hours_end_local: Hour | UnsetType | None = UNSET
    defer_in_quiet_hours: bool | UnsetType = UNSET
    freq_cap_per_user_per_day: Cap | UnsetType | None = UNSET
    freq_cap_per_user_per_hour: Cap | UnsetType | None = UNSET
    org_default_timezone: str | UnsetType | None = UNSET
    critical_alerts_bypass_policies: bool | UnsetType = UNSET


def patched(policies: Policies, patch: PoliciesPatch) -> Policies:
    """The policies after a PATCH; raises ValidationFailed."""
    zone = patch.org_default_timezone
    if isinstance(zone, str) and zone not in zones():
        raise ValidationFailed({"orgDefaultTimezone": ["Not an IANA time zone"]})
    given = {name: value for name in patch.__struct_fields__ if (value := getattr(patch, name)) is not UNSET}
    return msgspec.structs.replace(policies, **given)
