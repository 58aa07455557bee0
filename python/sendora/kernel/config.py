"""Settings: every variable, its default and its reason.

A setting is `SENDORA_SECTION__KEY` in the environment, or `SENDORA_SECTION__KEY_FILE` naming a file that holds it (how
secrets are mounted), or `key` under `[section]` of the TOML file that SENDORA_CONFIG names; the first that is there
counts. The URLs of the three servers are also read from DATABASE_URL, NATS_URL and REDIS_URL, as hosting platforms set
them. A name that looks like a setting and is none is refused with the nearest one: a typo in a limit or a key must not
be found out in production. The reason of each setting is part of its type, so that `describe()` prints the reference
from the same lines.
"""

import base64
import binascii
import difflib
import os
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

PREFIX: Final = "SENDORA_"
CONFIG_VARIABLE: Final = "SENDORA_CONFIG"

_SECRET: Final = {"secret": True}
"""A value that no message may repeat."""


class ConfigError(Exception):
    """A setting that cannot be used; the message names the variable."""


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the settings. Its repr leaves secrets out: settings end up in logs and tracebacks."""

    def __repr__(self) -> str:
        secrets = {f"{setting.section}.{setting.key}" for setting in _settings() if setting.secret}
        name = type(self).__name__
        fields = (
            f"{key}={'<hidden>' if f'{name.lower()}.{key}' in secrets else repr(getattr(self, key))}"
            for key in self.__struct_fields__
        )
        return f"{name}({', '.join(fields)})"


class Http(Section, frozen=True, kw_only=True):
    """The API's own door."""

    host: Annotated[str, Meta(description="Address to listen on. Only this machine unless told otherwise.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Meta(ge=0, le=65_535, description="Port to listen on.")] = 8400
    workers: Annotated[
        int, Meta(ge=1, le=256, description="Processes that serve HTTP. One saturates a core; run one for each core.")
    ] = 1
    base_url: Annotated[
        str, Meta(description="How callers reach us; stands in the OpenAPI document. Empty: http://host:port.")
    ] = ""
    max_body_bytes: Annotated[
        int,
        Meta(
            ge=1_024,
            le=1_048_576,
            description="Largest request body; more is 413 (C94). At most 1 MiB: a request always fits a frame.",
        ),
    ] = 1_048_576


class Postgres(Section, frozen=True, kw_only=True):
    """The truth."""

    url: Annotated[
        str,
        Meta(description="PostgreSQL 16 or newer. Also read from DATABASE_URL.", extra=_SECRET),
    ] = "postgresql://localhost:5432/sendora"
    pool_size: Annotated[
        int,
        Meta(ge=2, le=500, description="Connections of one process. PostgreSQL's max_connections bounds their sum."),
    ] = 10
    connect_timeout_ms: Annotated[
        int, Meta(ge=100, description="A server that does not answer in this time is away.")
    ] = 5_000
    statement_timeout_ms: Annotated[
        int,
        Meta(
            ge=1_000,
            description="PostgreSQL ends a statement after this, so that no request can hold a connection for ever. "
            "The longest statement is an audience read from two years of events.",
        ),
    ] = 60_000
    statement_cache: Annotated[
        int,
        Meta(ge=0, description="Prepared statements kept by a connection. 0 behind a pooler in transaction mode."),
    ] = 512


class Nats(Section, frozen=True, kw_only=True):
    """The log."""

    url: Annotated[
        str, Meta(description="NATS with JetStream, 2.12.3 or newer. Also read from NATS_URL.", extra=_SECRET)
    ] = "nats://localhost:4222"
    monitoring_url: Annotated[
        str, Meta(description="Where /varz answers. From it we learn whether every publish is on disk (sync_interval).")
    ] = ""
    durability: Annotated[
        Literal["checked", "trusted"],
        Meta(
            description="`checked`: refuse to start unless /varz shows sync_interval: always. `trusted`: the operator "
            "vouches that a publish survives a power cut (R3 over failure domains, or no way to the monitoring port)."
        ),
    ] = "checked"
    replicas: Annotated[int, Meta(ge=1, le=5, description="Copies of each stream. 3 in a cluster of NATS servers.")] = 1
    frame_events_max: Annotated[
        int, Meta(ge=1_000, le=10_000, description="Events in one log message. At least one whole request (1,000).")
    ] = 2_000
    frame_bytes_max: Annotated[
        int,
        Meta(
            ge=1_048_576,
            le=3_145_728,
            description="Bytes of one log message. At least one whole request (1 MiB), below max_payload (4 MiB).",
        ),
    ] = 1_048_576


class Redis(Section, frozen=True, kw_only=True):
    """Token buckets; nothing in it is truth."""

    url: Annotated[str, Meta(description="Redis 7 or Valkey 8. Also read from REDIS_URL.", extra=_SECRET)] = (
        "redis://localhost:6379/0"
    )


class Vault(Section, frozen=True, kw_only=True):
    """Encryption of credentials at rest (B022)."""

    key: Annotated[
        str,
        Meta(
            description="The master key: 32 random bytes in base64 (`openssl rand -base64 32`). No role starts "
            "without it, and what another key has sealed cannot be read.",
            extra=_SECRET,
        ),
    ] = ""
    key_version: Annotated[
        int, Meta(ge=1, le=32_767, description="Number of the master key. Raise it with every new key.")
    ] = 1
    previous: Annotated[
        tuple[str, ...],
        Meta(
            description="Older master keys as `version:base64`, needed to read until `rewrap` has run.",
            extra=_SECRET,
        ),
    ] = ()


class Outbound(Section, frozen=True, kw_only=True):
    """Where this program may dial out to."""

    allow: Annotated[
        tuple[str, ...],
        Meta(
            description="`host:port` or origins that may be dialled although their address is private, such as the "
            "simulator's. Everything else must resolve to public addresses."
        ),
    ] = ()
    ca_file: Annotated[
        str | None,
        Meta(description="Certificates (PEM) trusted beside the system's, such as the simulator's or a company's own."),
    ] = None
    push_services: Annotated[
        tuple[str, ...],
        Meta(
            description="Hosts (with subdomains by a leading dot, with a port if it is not 443) that a Web Push "
            "endpoint may name. An endpoint comes from a client with a public key."
        ),
    ] = (
        "fcm.googleapis.com",
        "updates.push.services.mozilla.com",
        ".push.services.mozilla.com",
        "web.push.apple.com",
        ".push.apple.com",
        ".notify.windows.com",
    )
    token_endpoints: Annotated[
        tuple[str, ...],
        Meta(description="URLs that the token_uri of a service account may name: it stands inside a client's file."),
    ] = ("https://oauth2.googleapis.com/token",)


class Events(Section, frozen=True, kw_only=True):
    """What is kept of events."""

    kept_months: Annotated[
        int,
        Meta(
            ge=2,
            le=1_200,
            description="Whole months of events that are kept as they came. What is older is rolled up by person, type "
            "and UTC day, which is all that audiences ask of it but for conditions on properties.",
        ),
    ] = 25


class Audiences(Section, frozen=True, kw_only=True):
    """The index that answers who is in an audience, held by the workers."""

    memory_mb: Annotated[
        int,
        Meta(
            ge=0,
            description="What the indexes of one worker may take. Beyond it the project that was not asked for the "
            "longest time goes, and PostgreSQL answers for it. 0: no index at all.",
        ),
    ] = 2_048
    parts: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="Into how many parts by person the index of a project is cut, each in a worker of its own if "
            "there are so many: for projects too large for one. The same for all processes.",
        ),
    ] = 1
    snapshot_dir: Annotated[
        str,
        Meta(
            description="Where a worker keeps its indexes' snapshots, which hold people's data; a start without them "
            "reads everything from PostgreSQL. Empty: none."
        ),
    ] = ".sendora/audiences"
    snapshot_s: Annotated[
        float, Meta(ge=1, description="How often a snapshot is taken of an index that has moved on.")
    ] = 600.0


class Push(Section, frozen=True, kw_only=True):
    """Where the push providers are."""

    apns_production_url: Annotated[str, Meta(description="APNs for apps from the store.")] = (
        "https://api.push.apple.com"
    )
    apns_sandbox_url: Annotated[str, Meta(description="APNs for development builds.")] = (
        "https://api.sandbox.push.apple.com"
    )
    fcm_url: Annotated[str, Meta(description="FCM v1.")] = "https://fcm.googleapis.com"


class Dispatch(Section, frozen=True, kw_only=True):
    """The dispatch workers."""

    shards: Annotated[
        str,
        Meta(
            pattern=r"^(auto|\d+(-\d+)?(,\d+(-\d+)?)*)$",
            description="`auto`: a fair share of the 64 shards among the workers alive. Or a set such as `0-15,40`.",
        ),
    ] = "auto"
    window_bulk: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="W: how many recipients of broadcasts may be on the wire without a recorded outcome. The most "
            "that a crash can leave `unknown`; too small starves the connections.",
        ),
    ] = 2_000
    window_now: Annotated[
        int, Meta(ge=1, le=100_000, description="The same for transactional sends, kept apart so that they overtake.")
    ] = 256
    flush_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000,
            description="Outcomes are written at the latest after this: 25 ms is at most 40 fsyncs a second.",
        ),
    ] = 25
    flush_rows: Annotated[
        int, Meta(ge=1, le=10_000, description="Outcomes are written as soon as there are so many.")
    ] = 1_000
    connections: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="HTTP/2 connections of a lane. APNs allows about 1,000 streams on each; more mostly adds TLS.",
        ),
    ] = 2
    fcm_per_minute: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000_000,
            description="What Google lets a Firebase project send, for all workers together; more where Google has "
            "raised it. 0: no bound of ours.",
        ),
    ] = 600_000
    lanes: Annotated[
        Literal["native", "plain"],
        Meta(
            description="`native`: HTTP/2 in the library. `plain`: httpx, for a hundred times the CPU; it also speaks "
            "HTTP/1.1."
        ),
    ] = "native"
    threads: Annotated[
        int,
        Meta(ge=1, le=32, description="Threads of the native lanes; one keeps some 50,000 requests a second going."),
    ] = 1


class Log(Section, frozen=True, kw_only=True):
    """What is printed. Counting is done by metrics."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least important lines to print.")
    ] = "info"
    format: Annotated[Literal["json", "console"], Meta(description="`json` for collectors, `console` for people.")] = (
        "json"
    )


class Limits(Section, frozen=True, kw_only=True):
    """Token buckets of API keys that have no limit of their own (C95)."""

    per_second: Annotated[int, Meta(ge=1, le=1_000_000, description="Steady rate of one key.")] = 1_000
    burst: Annotated[int, Meta(ge=1, le=10_000_000, description="How much of it may be saved up.")] = 5_000


class Embedded(Section, frozen=True, kw_only=True):
    """The servers from wheels that `sendora dev` starts."""

    data_dir: Annotated[
        str, Meta(description="Where they keep their data. As root, PostgreSQL runs as `nobody` and must get there.")
    ] = ".sendora"


class Simulator(Section, frozen=True, kw_only=True, rename="camel"):
    """The providers' simulator. Its JSON is what `_core.simulate` takes."""

    host: Annotated[str, Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[
        int, Meta(ge=0, le=65_535, description="Port of all providers; they are told apart by path. 0: any free one.")
    ] = 8443
    log_file: Annotated[
        str, Meta(description="Every request, one JSON line, appended before it is answered: the oracle of the ledger.")
    ] = "simulator.jsonl"
    certificate_dir: Annotated[
        str, Meta(description="Where its certificate authority is kept (made if missing), for others to trust.")
    ] = "simulator"
    ready_file: Annotated[
        str, Meta(description="Written when it listens: JSON with url and caFile. Empty: not written.")
    ] = ""
    public_host: Annotated[
        str, Meta(description="The name in its URLs and certificate. Empty: the host, or 127.0.0.1 for a wildcard.")
    ] = ""
    require_auth: Annotated[
        bool, Meta(description="Whether credentials are checked; off for load generators that cannot sign.")
    ] = True
    bundle_ids: Annotated[tuple[str, ...], Meta(description="Topics that APNs accepts.")] = ("com.sendora.demo",)
    seed: Annotated[int, Meta(description="From it subscriptions' keys and minted tokens are derived.")] = 1


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    http: Http = Http()
    postgres: Postgres = Postgres()
    nats: Nats = Nats()
    redis: Redis = Redis()
    vault: Vault = Vault()
    outbound: Outbound = Outbound()
    events: Events = Events()
    audiences: Audiences = Audiences()
    push: Push = Push()
    dispatch: Dispatch = Dispatch()
    log: Log = Log()
    limits: Limits = Limits()
    embedded: Embedded = Embedded()
    simulator: Simulator = Simulator()


COMMON: Final = {"DATABASE_URL": "postgres.url", "NATS_URL": "nats.url", "REDIS_URL": "redis.url"}
"""Names that hosting platforms set; ours win over them."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the reference."""

    section: str
    key: str
    variable: str
    type: str
    default: Any
    reason: str
    secret: bool


def load(environ: Mapping[str, str] = os.environ, file: Path | None = None) -> Settings:
    """Read the settings; raises ConfigError that names the variable."""
    named = environ.get(CONFIG_VARIABLE)
    if file is None and named:
        file = Path(named)
    given = _from_file(file) if file is not None else {}
    for variable, path in COMMON.items():
        if variable in environ:
            given[path] = (variable, environ[variable])
    given |= _from_environ(environ)
    sections: dict[str, dict[str, Any]] = {section: {} for section in _sections()}
    for setting in _settings():
        path = f"{setting.section}.{setting.key}"
        if path in given:
            name, value = given[path]
            sections[setting.section][setting.key] = _convert(setting, name, value)
    opened: dict[str, Any] = {name: struct(**sections[name]) for name, struct in _sections().items()}
    settings = Settings(**opened)
    if settings.limits.burst < settings.limits.per_second:
        raise ConfigError("SENDORA_LIMITS__BURST: must be at least SENDORA_LIMITS__PER_SECOND")
    return settings


def describe() -> list[Setting]:
    """Every setting in the order of this file, for the reference and `sendora config`."""
    return list(_settings())


def master_key(vault: Vault) -> bytes:
    """The decoded master key; raises ConfigError when it is missing or not 32 bytes."""
    if not vault.key:
        raise ConfigError(
            "SENDORA_VAULT__KEY: not set; give 32 random bytes in base64, such as from `openssl rand -base64 32`"
        )
    return _key_bytes("SENDORA_VAULT__KEY", vault.key)


def previous_keys(vault: Vault) -> dict[int, bytes]:
    """Older master keys by version."""
    keys: dict[int, bytes] = {}
    for entry in vault.previous:
        version, colon, text = entry.partition(":")
        if not colon or not version.isascii() or not version.isdigit():
            raise ConfigError("SENDORA_VAULT__PREVIOUS: expected version:base64")
        keys[int(version)] = _key_bytes("SENDORA_VAULT__PREVIOUS", text)
    return keys


def _key_bytes(variable: str, text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError(f"{variable}: expected base64") from None
    if len(key) != 32:
        raise ConfigError(f"{variable}: expected 32 bytes in base64, got {len(key)}")
    return key


def _from_environ(environ: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    """Our variables, as path -> (the name it came by, the raw value)."""
    known = {setting.variable: f"{setting.section}.{setting.key}" for setting in _settings()}
    given: dict[str, tuple[str, Any]] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable == CONFIG_VARIABLE:
            continue
        if variable in known:
            given[known[variable]] = (variable, value)
        elif variable.removesuffix("_FILE") in known:
            plain = variable.removesuffix("_FILE")
            if plain in environ:
                raise ConfigError(f"{plain} and {variable} are both set; which one counts?")
            given[known[plain]] = (variable, _read(variable, Path(value)).strip())
        elif _meant_for_us(variable):
            raise ConfigError(f"{variable}: no such setting{_nearest(variable, [*known, CONFIG_VARIABLE])}")
    return given


def _meant_for_us(variable: str) -> bool:
    """Whether it looks like a setting: others share the prefix (SENDORA_KEY in a client's shell, SENDORA_FAILPOINT in a
    test), but a single underscore after a section's name is the commonest typing error."""
    rest = variable.removeprefix(PREFIX)
    return "__" in rest or any(rest.startswith(f"{section.upper()}_") for section in _sections())


def _from_file(file: Path) -> dict[str, tuple[str, Any]]:
    try:
        tables = tomllib.loads(_read(CONFIG_VARIABLE, file))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: {error}") from None
    known = [f"{setting.section}.{setting.key}" for setting in _settings()]
    given: dict[str, tuple[str, Any]] = {}
    for section, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{file}: {section} stands outside of a section")
        if section not in _sections():
            raise ConfigError(f"{file}: no section [{section}]{_nearest(section, list(_sections()))}")
        for key, value in table.items():
            path = f"{section}.{key}"
            if path not in known:
                raise ConfigError(f"{file}: no setting {path}{_nearest(path, known)}")
            given[path] = (f"{file}: {path}", value)
    return given


def _read(name: str, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: cannot read {file}: {error}") from None


def _nearest(name: str, known: list[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


def _convert(setting: Setting, name: str, value: Any) -> Any:
    type_ = _types(setting.section)[setting.key]
    if isinstance(value, str) and setting.type == "list":
        # A list is written with commas; TOML gives one as it is.
        value = [item.strip() for item in value.split(",") if item.strip()]
    if isinstance(value, str) and setting.type == "str | None" and not value:
        value = None
    try:
        return msgspec.convert(value, type_, strict=not isinstance(value, str))
    except msgspec.ValidationError as error:
        said = str(error).replace("`", "")
        said = said[:1].lower() + said[1:]
        if " | " in setting.type and setting.type != "str | None":
            said = f"expected one of {setting.type}"
        if isinstance(value, str):
            shown = "" if setting.secret else f"'{value}'"
            said = said.partition(", got ")[0] + (f", got {shown}" if shown else "")
        raise ConfigError(f"{name}: {said}") from None


def _sections() -> dict[str, type[msgspec.Struct]]:
    hints: dict[str, type[msgspec.Struct]] = get_type_hints(Settings)
    return hints


@cache
def _types(section: str) -> dict[str, Any]:
    return get_type_hints(_sections()[section], include_extras=True)


@cache
def _settings() -> tuple[Setting, ...]:
    found = []
    for section, struct in _sections().items():
        types = _types(section)
        for field in msgspec.structs.fields(struct):
            plain, meta = get_args(types[field.name])[:2]
            default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
            found.append(
                Setting(
                    section=section,
                    key=field.name,
                    variable=f"{PREFIX}{section.upper()}__{field.name.upper()}",
                    type=_type_name(plain),
                    default=default,
                    reason=meta.description,
                    secret=bool((meta.extra or {}).get("secret")),
                )
            )
    return tuple(found)


def _type_name(plain: Any) -> str:
    if get_origin(plain) is Literal:
        return " | ".join(get_args(plain))
    if get_origin(plain) is tuple:
        return "list"
    return plain.__name__ if isinstance(plain, type) else str(plain)
