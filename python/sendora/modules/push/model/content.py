"""What a push says, wherever it is written: on a send, in a template, in a variant of an A/B test.

Lengths are bounded here, bytes are not: what a provider takes is 4,096 bytes of a finished payload, and only the
builders know how the parts add up (`push.parts.check_sizes`).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from sendora.kernel.errors import ValidationFailed
from sendora.kernel.wire import UNSET, UnsetType, Wire, WireIn

FieldErrors = dict[str, list[str]]

ACTIONS_MAX: Final = 4
"""B103."""

LOCALES_MAX: Final = 200
"""More tags than any phone offers; a bound on what is compiled for each send."""

WEIGHT_SUM: Final = 100
"""B116."""

VARIANTS_MAX: Final = 100
"""With weights of at least one, a hundred variants share a hundred buckets."""

RESERVED_KEY: Final = re.compile(r"from|notification|message_type|(google|gcm).*", re.IGNORECASE)
"""Keys of `data` that FCM refuses (providers.md 2.2): said when the message is written, not for each Android device."""

STAMPS: Final = ("sendoraSendId", "sendoraDeliveryId")
"""What we write into every payload ourselves (B100, C38)."""

LOCALE: Final = re.compile(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8}){0,4}", re.ASCII)

Title = Annotated[str, Meta(max_length=1_000)]
Text = Annotated[str, Meta(max_length=4_000)]
Url = Annotated[str, Meta(max_length=2_000)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Key = Annotated[str, Meta(min_length=1, max_length=64)]

Interruption = Literal["passive", "active", "time-sensitive", "critical"]
Status = Literal["draft", "active", "paused", "completed"]
Begun = Literal["active", "paused", "completed"]
"""What a test may be put to; it is a draft only until then."""


class Action(WireIn, frozen=True, kw_only=True):
    """A button (B103)."""

    id: Key
    title: Annotated[str, Meta(min_length=1, max_length=200)]
    url: Url | None = None
    icon: Annotated[str, Meta(max_length=200)] | None = None


class Critical(WireIn, frozen=True, kw_only=True):
    """B106: sounds through mute and Do Not Disturb, given Apple's entitlement (B107)."""

    sound_name: Annotated[str, Meta(min_length=1, max_length=200)] = "default"
    volume: Annotated[float, Meta(ge=0, le=1)] = 1.0


class Raw(WireIn, frozen=True, kw_only=True):
    """Parts in a provider's own words, merged over what is built as RFC 7396 says: null takes a part out, so that
    `{"fcm": {"notification": null}}` makes a message of data alone."""

    apns: dict[str, Any] | None = None
    fcm: dict[str, Any] | None = None
    webpush: dict[str, Any] | None = None


class Variant(WireIn, frozen=True, kw_only=True):
    """One arm of an A/B test (B116); a holdout gets nothing (C44)."""

    key: Key
    title: Title | None = None
    body: Text | None = None
    weight: Annotated[int, Meta(ge=0, le=WEIGHT_SUM)]
    holdout: bool = False


class TemplateContent(Wire, frozen=True, kw_only=True):
    """What a template stores (B128)."""

    title: str
    body: str
    data: dict[str, Any] = msgspec.field(default_factory=dict)
    actions: list[Action] = msgspec.field(default_factory=list)
    localized_body: dict[str, str] = msgspec.field(default_factory=dict)
    localized_title: dict[str, str] = msgspec.field(default_factory=dict)
    critical_alert: Critical | None = None


class TemplateIn(WireIn, frozen=True, kw_only=True):
    """Body of `POST /push/templates`."""

    name: Name
    title: Title
    body: Text
    data: dict[str, Any] | None = None
    actions: list[Action] | None = None
    localized_body: dict[str, Text] | None = None
    localized_title: dict[str, Title] | None = None
    critical_alert: Critical | None = None


class TemplatePatch(WireIn, frozen=True, kw_only=True):
    """Body of `PATCH /push/templates/{id}`: what is absent stays, null empties."""

    name: Name | UnsetType = UNSET
    title: Title | UnsetType = UNSET
    body: Text | UnsetType = UNSET
    data: dict[str, Any] | UnsetType | None = UNSET
    actions: list[Action] | UnsetType | None = UNSET
    localized_body: dict[str, Text] | UnsetType | None = UNSET
    localized_title: dict[str, Title] | UnsetType | None = UNSET
    critical_alert: Critical | UnsetType | None = UNSET


class TextWarning(Wire, frozen=True, kw_only=True):
    """A placeholder that is taken as it is written, and will hardly do what was meant (C31)."""

    field: str
    """A dotted path, such as `actions.0.title`."""
    placeholder: str
    message: str


class TemplateShown(Wire, frozen=True, kw_only=True):
    id: UUID
    name: str
    title: str
    body: str
    data: dict[str, Any]
    actions: list[Action]
    localized_body: dict[str, str]
    localized_title: dict[str, str]
    critical_alert: Critical | None
    created_at: str
    updated_at: str


class TemplateSaved(TemplateShown, frozen=True, kw_only=True):
    warnings: list[TextWarning]


class TestIn(WireIn, frozen=True, kw_only=True):
    """Body of `POST /push/ab-tests`."""

    name: Name
    variants: list[Variant]
    status: Status = "draft"
    auto_promote: bool = False


class TestPatch(WireIn, frozen=True, kw_only=True):
    """Body of `PATCH /push/ab-tests/{id}`."""

    name: Name | UnsetType = UNSET
    status: Begun | UnsetType = UNSET
    winner_key: str | UnsetType | None = UNSET
    variants: list[Variant] | UnsetType = UNSET
    auto_promote: bool | UnsetType = UNSET


class TestShown(Wire, frozen=True, kw_only=True):
    id: UUID
    name: str
    status: str
    variants: list[Variant]
    winner_key: str | None
    auto_promote: bool
    first_sent_at: str | None
    """From then on the variants are fixed (C44)."""
    promoted_at: str | None
    """When the test completed itself: while this stands, sends that name it use the winner's content (C45)."""
    created_at: str


class TestSaved(TestShown, frozen=True, kw_only=True):
    warnings: list[TextWarning]


def raise_for(errors: FieldErrors) -> None:
    if errors:
        raise ValidationFailed(errors)


def check_template(content: TemplateContent) -> FieldErrors:
    """The rules of the parts that a template and a send have in common."""
    return {
        **data_errors(content.data),
        **action_errors(content.actions),
        **locale_errors("localizedBody", content.localized_body),
        **locale_errors("localizedTitle", content.localized_title),
    }


def data_errors(data: Mapping[str, Any]) -> FieldErrors:
    """`data` is arbitrary but for what a provider refuses and what we stamp ourselves."""
    errors: FieldErrors = {}
    for key in data:
        if key in STAMPS:
            errors[f"data.{key}"] = ["Is written by the server"]
        elif RESERVED_KEY.fullmatch(key):
            errors[f"data.{key}"] = ["Is reserved by FCM: it refuses a message with this key"]
    return errors


def action_errors(actions: Sequence[Action]) -> FieldErrors:
    """B103."""
    if len(actions) > ACTIONS_MAX:
        return {"actions": [f"At most {ACTIONS_MAX} actions"]}
    seen: set[str] = set()
    errors: FieldErrors = {}
    for index, action in enumerate(actions):
        if action.id in seen:
            errors[f"actions.{index}.id"] = ["Two actions have this id"]
        if action.id == "body":
            errors[f"actions.{index}.id"] = ['"body" means a tap on the notification itself (C39)']
        seen.add(action.id)
    return errors


def locale_errors(field: str, texts: Mapping[str, str]) -> FieldErrors:
    if len(texts) > LOCALES_MAX:
        return {field: [f"At most {LOCALES_MAX} locales"]}
    return {f"{field}.{tag}": ["Not a locale tag"] for tag in texts if not LOCALE.fullmatch(tag)}


def variant_errors(variants: Sequence[Variant]) -> FieldErrors:
    """B116, C44: weights sum to 100, keys are unique, a holdout says nothing."""
    if not 1 <= len(variants) <= VARIANTS_MAX:
        return {"variants": [f"Between 1 and {VARIANTS_MAX} variants"]}
    errors: FieldErrors = {}
    seen: set[str] = set()
    for index, variant in enumerate(variants):
        if variant.key in seen:
            errors[f"variants.{index}.key"] = ["Two variants have this key"]
        if variant.holdout and (variant.title is not None or variant.body is not None):
            errors[f"variants.{index}.holdout"] = ["A holdout has neither title nor body"]
        seen.add(variant.key)
    weight = sum(variant.weight for variant in variants)
    if weight != WEIGHT_SUM:
        errors["variants"] = [f"Weights must sum to {WEIGHT_SUM}, these sum to {weight}"]
    return errors


def winner_errors(winner: str | None, variants: Sequence[Variant]) -> FieldErrors:
    if winner is not None and all(variant.key != winner for variant in variants):
        return {"winnerKey": ["Is not the key of a variant"]}
    return {}
