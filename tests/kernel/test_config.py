"""Settings: where they come from, what they refuse, what they say."""

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sendora.kernel import config
from sendora.kernel.config import ConfigError, Settings, describe, load

KEY = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("SENDORA_HTTP__PORT", "9000", 9000),
        ("SENDORA_LOG__LEVEL", "debug", "debug"),
        ("SENDORA_OUTBOUND__ALLOW", "127.0.0.1:8443, localhost:9", ("127.0.0.1:8443", "localhost:9")),
        ("SENDORA_OUTBOUND__ALLOW", "", ()),
        ("SENDORA_OUTBOUND__CA_FILE", "/etc/ca.pem", "/etc/ca.pem"),
        ("SENDORA_OUTBOUND__CA_FILE", "", None),
        ("SENDORA_DISPATCH__SHARDS", "0-15,40", "0-15,40"),
        ("SENDORA_SIMULATOR__REQUIRE_AUTH", "false", False),
        ("DATABASE_URL", "postgresql://a/b", "postgresql://a/b"),
    ],
)
def test_a_variable_becomes_a_value(variable: str, text: str, value: Any) -> None:
    path = config.COMMON.get(variable) or variable.removeprefix("SENDORA_").lower().replace("__", ".")
    section, _, key = path.partition(".")
    assert getattr(getattr(load({variable: text}), section), key) == value


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"SENDORA_HTTP__PORT": "x"}, "SENDORA_HTTP__PORT: expected int, got 'x'"),
        ({"SENDORA_HTTP__PORT": "70000"}, "SENDORA_HTTP__PORT: expected int <= 65535, got '70000'"),
        ({"SENDORA_HTTP__PORTT": "1"}, "SENDORA_HTTP__PORTT: no such setting; did you mean SENDORA_HTTP__PORT?"),
        ({"SENDORA_HTTP_PORT": "1"}, "SENDORA_HTTP_PORT: no such setting; did you mean SENDORA_HTTP__PORT?"),
        (
            {"SENDORA_LOG__LEVEL": "loud"},
            "SENDORA_LOG__LEVEL: expected one of debug | info | warning | error, got 'loud'",
        ),
        ({"SENDORA_VAULT__KEY_FILE": "/nowhere"}, "SENDORA_VAULT__KEY_FILE: cannot read /nowhere"),
        (
            {"SENDORA_VAULT__KEY": KEY, "SENDORA_VAULT__KEY_FILE": "/nowhere"},
            "SENDORA_VAULT__KEY and SENDORA_VAULT__KEY_FILE are both set",
        ),
        ({"SENDORA_CONFIG": "/nowhere.toml"}, "SENDORA_CONFIG: cannot read /nowhere.toml"),
        ({"SENDORA_LIMITS__BURST": "10"}, "SENDORA_LIMITS__BURST: must be at least SENDORA_LIMITS__PER_SECOND"),
    ],
)
def test_a_mistake_names_its_variable(environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(environ)
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize("variable", ["SENDORA_KEY", "SENDORA_FAILPOINT", "PATH"])
def test_what_is_no_setting_is_left_alone(variable: str) -> None:
    assert load({variable: "x"}) == Settings()


def test_the_environment_wins_over_the_file_and_ours_over_the_platform_s(tmp_path: Path) -> None:
    file = tmp_path / "sendora.toml"
    file.write_text(
        '[http]\nport = 1\nhost = "::"\n[postgres]\nurl = "postgresql://file"\n[outbound]\nallow = ["a:1"]\n'
    )
    settings = load({"SENDORA_CONFIG": str(file), "SENDORA_HTTP__PORT": "2", "DATABASE_URL": "postgresql://platform"})
    assert (settings.http.port, settings.http.host) == (2, "::")
    assert settings.postgres.url == "postgresql://platform"
    assert settings.outbound.allow == ("a:1",)
    ours = load({"DATABASE_URL": "postgresql://platform", "SENDORA_POSTGRES__URL": "postgresql://ours"})
    assert ours.postgres.url == "postgresql://ours"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[htpp]\nport = 1", "no section [htpp]; did you mean http?"),
        ("[http]\nprot = 1", "no setting http.prot; did you mean http.port?"),
        ('[http]\nport = "1x"', "http.port: expected int, got '1x'"),
        ("[http]\nport = 1.5", "http.port: expected int, got float"),
        ("port = 1", "port stands outside of a section"),
        ("[http", "Expected"),
    ],
)
def test_a_mistake_in_the_file_names_it(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "sendora.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load({}, file)
    assert str(raised.value).startswith(str(file))
    assert said in str(raised.value)


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    assert config.master_key(load({"SENDORA_VAULT__KEY_FILE": str(file)}).vault) == bytes(32)


@pytest.mark.rule("B022")
@pytest.mark.parametrize(
    ("vault", "said"),
    [
        (config.Vault(), "SENDORA_VAULT__KEY: not set"),
        (config.Vault(key="!!"), "SENDORA_VAULT__KEY: expected base64"),
        (config.Vault(key="AAAA"), "SENDORA_VAULT__KEY: expected 32 bytes in base64, got 3"),
    ],
)
def test_a_master_key_that_is_none_is_refused(vault: config.Vault, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config.master_key(vault)


@pytest.mark.parametrize("entry", ["x", "x:" + KEY, "1:AAAA", ":" + KEY])
def test_an_older_master_key_needs_its_version(entry: str) -> None:
    with pytest.raises(ConfigError, match="SENDORA_VAULT__PREVIOUS"):
        config.previous_keys(config.Vault(previous=(entry,)))


def test_no_secret_is_ever_shown() -> None:
    canary = "canary-7f3a"
    secrets = [setting for setting in describe() if setting.secret]
    assert {"SENDORA_VAULT__KEY", "SENDORA_POSTGRES__URL"} <= {setting.variable for setting in secrets}
    settings = load({setting.variable: canary for setting in secrets})
    assert canary not in repr(settings)
    assert canary not in str(settings.postgres)
    with pytest.raises(ConfigError) as raised:
        config.master_key(settings.vault)
    assert canary not in str(raised.value)


def test_every_setting_has_a_reason_and_a_valid_default() -> None:
    for setting in describe():
        assert setting.reason.endswith("."), setting.variable
    assert load({}) == Settings()


def test_the_simulator_gets_camel_case() -> None:
    sent = msgspec.json.decode(msgspec.json.encode(load({"SENDORA_SIMULATOR__LOG_FILE": "x"}).simulator))
    assert sent["logFile"] == "x"
    assert set(sent) == {
        "host", "port", "logFile", "certificateDir", "readyFile", "publicHost", "requireAuth", "bundleIds", "seed",
    }  # fmt: skip
