"""Credentials at rest."""

import asyncio
import base64
import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendora.kernel.config import ConfigError
from sendora.kernel.config import Vault as VaultSettings
from sendora.kernel.ids import OrgId, new_id
from sendora.kernel.pg import Database
from sendora.kernel.vault import SealBroken, Vault, _place

SECRET = b"-----BEGIN PRIVATE KEY-----"


def _settings(version: int = 1, *previous: str) -> VaultSettings:
    key = base64.b64encode(os.urandom(32)).decode()
    return VaultSettings(key=key, key_version=version, previous=previous)


@pytest.fixture(scope="module")
def master() -> VaultSettings:
    return _settings()


@pytest.fixture
def vault(db: Database, master: VaultSettings) -> Vault:
    return Vault(db, master)


@pytest.fixture
def org() -> OrgId:
    return OrgId(new_id())


@pytest.mark.rule("B022")
async def test_what_is_sealed_opens_in_its_place(vault: Vault, db: Database, master: VaultSettings, org: OrgId) -> None:
    """B022."""
    sealed = await vault.seal(org, "push_providers.sealed.1", SECRET)
    assert SECRET not in sealed
    assert await vault.open(org, "push_providers.sealed.1", sealed) == SECRET
    assert await Vault(db, master).open(org, "push_providers.sealed.1", sealed) == SECRET
    assert await vault.open(org, "empty", await vault.seal(org, "empty", b"")) == b""


async def test_the_same_secret_never_looks_the_same(vault: Vault, org: OrgId) -> None:
    sealed = [await vault.seal(org, "x", SECRET) for _ in range(1_000)]
    assert len({blob[3:15] for blob in sealed}) == 1_000


@pytest.mark.rule("B022")
async def test_a_ciphertext_moved_to_another_row_or_org_does_not_open(vault: Vault, org: OrgId) -> None:
    """reliability.md 3.3: swapped between rows, columns and orgs."""
    other = OrgId(new_id())
    sealed = await vault.seal(org, "push_providers.sealed.1", SECRET)
    await vault.seal(other, "push_providers.sealed.1", SECRET)
    for place in ((org, "push_providers.sealed.2"), (org, "push_grants.sealed.1"), (other, "push_providers.sealed.1")):
        with pytest.raises(SealBroken):
            await vault.open(*place, sealed)


async def test_every_flipped_bit_is_found(vault: Vault, org: OrgId) -> None:
    """reliability.md 3.3."""
    sealed = await vault.seal(org, "x", SECRET)
    for bit in range(len(sealed) * 8):
        broken = bytearray(sealed)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealBroken):
            await vault.open(org, "x", bytes(broken))
    for length in range(len(sealed)):
        with pytest.raises(SealBroken):
            await vault.open(org, "x", sealed[:length])


async def test_a_wrapped_data_key_is_bound_to_its_org(
    vault: Vault, db: Database, master: VaultSettings, org: OrgId
) -> None:
    other = OrgId(new_id())
    await vault.seal(org, "x", SECRET)
    sealed = await vault.seal(other, "x", SECRET)
    await db.execute(
        "UPDATE data_keys SET wrapped = (SELECT wrapped FROM data_keys WHERE org_id = $1) WHERE org_id = $2", org, other
    )
    with pytest.raises(SealBroken):
        await Vault(db, master).open(other, "x", sealed)


async def test_an_older_version_still_opens_after_a_rotation(vault: Vault, db: Database, org: OrgId) -> None:
    old = await vault.seal(org, "x", SECRET)
    assert await vault.rotate(org) == 2
    new = await vault.seal(org, "x", SECRET)
    assert (old[1:3], new[1:3]) == (b"\0\1", b"\0\2")
    assert await vault.open(org, "x", old) == await vault.open(org, "x", new) == SECRET


async def test_processes_that_make_the_first_key_at_once_agree(db: Database, master: VaultSettings, org: OrgId) -> None:
    vaults = [Vault(db, master) for _ in range(6)]
    sealed = await asyncio.gather(*(vault.seal(org, "x", SECRET) for vault in vaults))
    for vault in vaults:
        assert [await vault.open(org, "x", blob) for blob in sealed] == [SECRET] * 6
    assert await db.fetchval("SELECT count(*) FROM data_keys WHERE org_id = $1", org) == 1


async def test_a_new_master_key_rewraps_and_then_needs_the_old_one_no_more(
    fresh_migrated: Database, org: OrgId
) -> None:
    db = fresh_migrated
    first = _settings()
    sealed = await Vault(db, first).seal(org, "x", SECRET)
    second = _settings(2, f"1:{first.key}")
    moving = Vault(db, second)
    assert await moving.open(org, "x", sealed) == SECRET
    assert (await moving.rewrap(), await moving.rewrap()) == (1, 0)
    alone = msgspec.structs.replace(second, previous=())
    assert await Vault(db, alone).open(org, "x", sealed) == SECRET
    with pytest.raises(SealBroken, match="master key 2 is needed"):
        await Vault(db, first).open(org, "x", sealed)


async def test_another_master_key_opens_nothing(db: Database, vault: Vault, org: OrgId) -> None:
    sealed = await vault.seal(org, "x", SECRET)
    with pytest.raises(SealBroken, match="not the one"):
        await Vault(db, _settings()).open(org, "x", sealed)


def test_no_vault_without_a_master_key(db: Database) -> None:
    with pytest.raises(ConfigError, match="SENDORA_VAULT__KEY: not set"):
        Vault(db, VaultSettings())


@pytest.mark.parametrize(
    "blob", [b"", b"\x01", b"\x02" + bytes(60), b"\x01\xff\xff" + bytes(60), b"\x01\x00\x09" + bytes(60)]
)
async def test_junk_is_no_seal(vault: Vault, org: OrgId, blob: bytes) -> None:
    with pytest.raises(SealBroken):
        await vault.open(org, "x", blob)


@given(identities=st.lists(st.text(), min_size=2, max_size=2, unique=True), orgs=st.tuples(st.uuids(), st.uuids()))
def test_no_two_places_look_the_same(identities: list[str], orgs: tuple[OrgId, OrgId]) -> None:
    try:
        places = {_place(org, identity, b"\1\0\1") for org in set(orgs) for identity in identities}
    except UnicodeEncodeError:
        return  # Lone surrogates: an identity is a name of ours, and such a one never gets this far.
    assert len(places) == len(set(orgs)) * len(identities)
