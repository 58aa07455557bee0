"""Who may do what: plans, scopes, roles, and the text of an API key.

A key is `<kind>_<environment>_<id>_<secret><check>`: the id is public and finds the row, the check is a CRC of all that
stands before it and turns a typo away without a look-up, and the whole text is proved by its SHA-256. A slow hash would
buy nothing against 190 random bits. Its environment is the one that every event of the key gets (B008).
"""

import re
import secrets
from binascii import crc32
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Any, Final, Literal, NamedTuple
from uuid import UUID

import msgspec
from msgspec import Meta

from sendora.kernel.errors import ScopeRequired, ValidationFailed
from sendora.kernel.http.principal import Place
from sendora.kernel.ids import KeyId, OrgId, ProjectId
from sendora.kernel.wire import UNSET, UnsetType, Wire, WireIn

Kind = Literal["pk", "sk"]
Plan = Literal["free", "starter", "growth", "business"]
Role = Literal["VIEWER", "EDITOR", "ADMIN"]

ROLES: Final[tuple[Role, ...]] = ("VIEWER", "EDITOR", "ADMIN")

EVENT_QUOTAS: Final[dict[Plan, int | None]] = {"free": 10_000, "starter": None, "growth": None, "business": None}
"""Events a month (B045). The seeds name a number for Free alone, so the other plans have none."""

AI_CAPS: Final[dict[Plan, int]] = {"free": 0, "starter": 0, "growth": 100_000, "business": 100_000}
"""Tokens of the shared account a day (B180): none below Growth without a key of one's own (B181)."""

RATE_PER_SECOND: Final = 1_000
RATE_BURST: Final = 5_000
"""B034: what a key gets unless it was minted with a `rateLimit`."""

RATE_MAX: Final = 100_000
BURST_MAX: Final = 1_000_000
"""Above what one cluster takes in a second, a limit limits nothing."""

KEYS_MAX: Final = 1_000
"""Living keys of an org, those that it has let in among them: the list is one page, and nobody tells more apart."""

REACH_MAX: Final = 100
"""Organisations in which one key acts: each process that knows the key holds all of them."""

_MODULES: Final = (
    "push", "templates", "ab_tests", "live_activities", "geofences", "email", "sms", "webhooks", "automation", "in_app",
    "surveys", "flags", "analytics", "links", "settings", "keys", "auth",
)  # fmt: skip

SECRET_SCOPES: Final[tuple[str, ...]] = (
    "events.write",
    "events.read",
    "push:send",
    "email:send",
    "sms:send",
    "audiences:read",
    "audiences:write",
    "profiles:read",
    "profiles:write",
    *(f"{module}:{verb}" for module in _MODULES for verb in ("read", "write")),
)
"""Every scope there is, and what a secret key holds by default (B010, C19); both spellings are the seeds'."""

PUBLIC_SCOPES: Final[tuple[str, ...]] = ("events.write", "flags:read", "in_app:read", "surveys:read", "geofences:read")
"""What a public key may hold at most, and holds by default: it sits in every browser (B010, C22)."""

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH: Final = 8
_SECRET_LENGTH: Final = 32
_CHECK_LENGTH: Final = 6
"""62 ** 6 is the first power that holds a CRC-32."""

_KEY: Final = re.compile(
    rf"((?:sk|pk)_[a-z][a-z0-9]{{0,15}}_[0-9A-Za-z]{{{_ID_LENGTH}}})_[0-9A-Za-z]{{{_SECRET_LENGTH}}}"
    rf"([0-9A-Za-z]{{{_CHECK_LENGTH}}})",
    re.ASCII,
)
_ENVIRONMENT: Final = re.compile(r"[a-z][a-z0-9]{0,15}", re.ASCII)


class Secret(NamedTuple):
    """A key as it is minted: `text` is shown once and never kept."""

    text: str
    prefix: str
    hash: bytes


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `api_keys`, with the plan of its org, and where else it may act."""

    org: OrgId
    id: KeyId
    prefix: str
    hash: bytes
    name: str | None
    kind: Kind
    environment: str
    project: ProjectId
    scopes: frozenset[str]
    role: Role | None
    per_second: int
    burst: int
    created_at: datetime
    last_used_at: datetime | None
    plan: Plan
    reach: Mapping[OrgId, Place] = {}
    """As `Principal.reach`."""


class RateLimit(WireIn, frozen=True, kw_only=True):
    """What a key's token bucket holds (C95)."""

    per_second: int
    burst: int


class MintKey(WireIn, frozen=True, kw_only=True):
    """Body of `POST /api-keys`."""

    type: Kind
    environment: str
    name: str | UnsetType = UNSET
    project_id: UUID | UnsetType = UNSET
    scopes: list[str] | UnsetType = UNSET
    role: Role | UnsetType = UNSET
    rate_limit: RateLimit | UnsetType = UNSET
    orgs: list[UUID] | UnsetType = UNSET
    """Further organisations, in which the minting key acts as well (C98)."""


class KeyShown(Wire, frozen=True, kw_only=True):
    """A key as the API shows it: everything but what proves it."""

    id: UUID
    org_id: UUID
    """Where the key belongs to: another organisation's, when that one's key was let into this one (C98)."""
    orgs: list[UUID]
    """The further organisations in which the key acts. Another one's key: this one alone."""
    prefix: str
    name: str | None
    type: Kind
    environment: str
    project_id: UUID
    """Of this organisation, whosever the key is."""
    scopes: list[str]
    role: Role | None
    rate_limit: RateLimit
    created_at: datetime
    last_used_at: datetime | None


class KeyMinted(KeyShown, frozen=True, kw_only=True):
    """The one answer that holds the key itself."""

    key: str


class KeyRevoked(Wire, frozen=True, kw_only=True):
    id: UUID
    revoked: bool


class Usage(Wire, frozen=True, kw_only=True):
    plan: Plan
    events_this_month: int
    event_quota: int | None
    """None: the plan has no quota."""
    resets_at: datetime


ApiKeyText = Annotated[str, Meta(min_length=1, max_length=512, pattern=r"^[!-~]+$(?!\n)")]
"""Somebody else's key: it becomes a header's value, so visible ASCII alone."""


class OrgSettings(Wire, frozen=True, kw_only=True):
    """What an org has chosen for all of its projects."""

    ai_lifecycle_classifier_enabled: bool = msgspec.field(name="ai_lifecycle_classifier_enabled")
    """Whether the nightly classifier sets lifecycle stages (B064)."""


class OrgSettingsPatch(WireIn, frozen=True, kw_only=True):
    """Body of `PATCH /settings`: what is not given stays."""

    ai_lifecycle_classifier_enabled: bool | UnsetType = msgspec.field(
        default=UNSET, name="ai_lifecycle_classifier_enabled"
    )


class AiSettings(Wire, frozen=True, kw_only=True):
    """What AI steps of this org run on, and what they have used (B180, B181)."""

    byok_configured: bool
    tokens_used_today: int
    """Since midnight UTC, of the shared account; the org's own key counts at its provider."""
    daily_cap: int | None
    """Of the shared account: 0 on plans without it. None: an own key has no cap."""


class AiSettingsIn(WireIn, frozen=True, kw_only=True):
    """Body of `PUT /settings/ai`."""

    ollama_api_key: ApiKeyText | UnsetType | None = UNSET
    """Null takes it away; without the field nothing changes."""

    def __repr__(self) -> str:
        """Into logs and tracebacks goes what may be shown."""
        return "AiSettingsIn()"


class AuditEntry(Wire, frozen=True, kw_only=True):
    """An entry as the API shows it."""

    id: UUID
    seq: int
    """From 1, without a gap, in each org."""
    at: datetime
    actor: str
    """The prefix of a key, `operator` (the command line) or `system`."""
    action: str
    resource: str
    details: dict[str, Any]
    payload_size: int | None
    """Bytes of the request's body; None where no request asked for it."""
    hash: str
    """SHA-256 over the hash before it and this entry, hexadecimal: whoever notes it can tell a chain made anew."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """An entry as it was hashed: `details` is PostgreSQL's own text of it."""

    org: OrgId
    seq: int
    id: UUID
    at: datetime
    actor: str
    action: str
    resource: str
    payload_size: int | None
    details: str
    hash: bytes


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """Where an org's chain ends: by its head, and by its entries."""

    org: OrgId
    seq: int
    hash: bytes
    newest: int


FIRST: Final = bytes(32)
"""What stands before the first entry of a chain, and is the head of an empty one."""


def mint(kind: Kind, environment: str) -> Secret:
    """A new key: 8 characters to find it, 32 random ones to prove it (190 bits), 6 against typos."""
    if not _ENVIRONMENT.fullmatch(environment):
        raise ValueError(f"not an environment: {environment!r}")
    prefix = f"{kind}_{environment}_{_random(_ID_LENGTH)}"
    told = f"{prefix}_{_random(_SECRET_LENGTH)}"
    text = told + _check(told)
    return Secret(text, prefix, digest(text))


def prefix_of(text: str) -> str | None:
    """The public part of a key, or None for what cannot be one: wrong form, or a CRC that says it was mistyped."""
    if (match := _KEY.fullmatch(text)) is None:
        return None
    return match[1] if _check(text[:-_CHECK_LENGTH]) == match[2] else None


def digest(text: str) -> bytes:
    """What is kept of a key."""
    return sha256(text.encode()).digest()


def scopes_for(kind: Kind, asked: list[str] | UnsetType, held: frozenset[str] | None) -> tuple[str, ...]:
    """The scopes of a new key (B010, C22): the kind's default, or the subset that was asked for.

    `held` is what the minting key holds: a key never mints one that reaches further than itself.
    """
    allowed = SECRET_SCOPES if kind == "sk" else PUBLIC_SCOPES
    if asked is UNSET:
        scopes = allowed
    else:
        errors = {
            f"scopes.{index}": [f"A {kind} key cannot hold {scope}." if scope in SECRET_SCOPES else "Unknown scope."]
            for index, scope in enumerate(asked)
            if scope not in allowed
        }
        if errors:
            raise ValidationFailed(errors)
        if not asked:
            raise ValidationFailed({"scopes": ["A key needs at least one scope."]})
        scopes = tuple(dict.fromkeys(asked))
    if held is not None and (beyond := [scope for scope in scopes if scope not in held]):
        raise ScopeRequired(beyond[0])
    return scopes


def check_mint(body: MintKey) -> None:
    """What the types of the body do not say. All that is wrong is told at once."""
    errors: dict[str, list[str]] = {}
    if not _ENVIRONMENT.fullmatch(body.environment):
        errors["environment"] = ["1 to 16 lower-case letters and digits, a letter first."]
    if body.name is not UNSET and not 1 <= len(body.name) <= 100:
        errors["name"] = ["1 to 100 characters."]
    if body.role is not UNSET and body.type == "pk":
        errors["role"] = ["A public key has no role."]
    if body.rate_limit is not UNSET:
        if not 1 <= body.rate_limit.per_second <= RATE_MAX:
            errors["rateLimit.perSecond"] = [f"1 to {RATE_MAX}."]
        if not 1 <= body.rate_limit.burst <= BURST_MAX:
            errors["rateLimit.burst"] = [f"1 to {BURST_MAX}."]
    if body.orgs is not UNSET:
        if body.type == "pk":
            errors["orgs"] = ["A public key acts in one organisation."]
        elif len(body.orgs) >= REACH_MAX:
            errors["orgs"] = [f"A key acts in at most {REACH_MAX} organisations, its own among them."]
    if errors:
        raise ValidationFailed(errors)


def role_for(body: MintKey) -> Role | None:
    """C21: a secret key is ADMIN by default, a custom subset carries the role that it was given, a public key none."""
    if body.role is not UNSET:
        return body.role
    return "ADMIN" if body.type == "sk" and body.scopes is UNSET else None


def show(key: Key, reader: OrgId) -> KeyShown:
    """As the reader may see it: its own key with all of the orgs, another org's key as it acts in the reader."""
    home = key.org == reader
    return KeyShown(
        id=key.id,
        org_id=key.org,
        orgs=sorted(org for org in key.reach if org != key.org) if home else [reader],
        prefix=key.prefix,
        name=key.name,
        type=key.kind,
        environment=key.environment,
        project_id=key.project if home else key.reach[reader].project,
        scopes=_in_order(key.scopes),
        role=key.role,
        rate_limit=RateLimit(per_second=key.per_second, burst=key.burst),
        created_at=key.created_at,
        last_used_at=key.last_used_at,
    )


def next_month(at: datetime) -> datetime:
    """When a monthly quota starts anew: the first of the next month, UTC."""
    at = at.astimezone(UTC)
    year, month = (at.year + 1, 1) if at.month == 12 else (at.year, at.month + 1)
    return datetime(year, month, 1, tzinfo=UTC)


def _in_order(scopes: frozenset[str]) -> list[str]:
    """Scopes in the order of the catalogue; B015 promises stable strings, and a stable order costs nothing."""
    return [scope for scope in SECRET_SCOPES if scope in scopes] + sorted(scopes.difference(SECRET_SCOPES))


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _check(text: str) -> str:
    rest, digits = crc32(text.encode()), []
    for _ in range(_CHECK_LENGTH):
        rest, digit = divmod(rest, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
