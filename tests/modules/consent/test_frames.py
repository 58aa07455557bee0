"""What is left of frames, against a plain model of them."""

from uuid import UUID

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sendora import _core
from sendora.kernel.clock import from_millis
from sendora.kernel.config import Settings, Vault
from sendora.kernel.ids import OrgId, ProjectId
from sendora.modules.consent import Tombstones, strip
from sendora.modules.consent.tombstones import Tombstone, hash_of, hashes_of

KEYS = ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="]
SETTINGS = Settings(vault=Vault(key=KEYS[0]))
ORG = OrgId(UUID(int=1))
PROJECTS = [ProjectId(UUID(int=2)), ProjectId(UUID(int=3))]
CUT, AT_MS = 100, 1_780_000_000_000

people = st.sampled_from(["ada", "bob", "ü" * 200, "anon"])
said = st.one_of(
    st.tuples(st.just("event"), st.integers(0, 1), people, st.booleans(), st.booleans()),
    st.tuples(st.just("identify"), st.integers(0, 1), people, st.booleans(), st.booleans()),
    st.tuples(st.just("patch"), st.integers(0, 1), people, st.booleans(), st.booleans()),
    st.tuples(st.just("delete"), st.integers(0, 1), people, st.booleans(), st.booleans()),
)


def record(kind: str, project: ProjectId, person: str, anonymous: bool, at_ms: int) -> bytes:
    if kind == "event":
        body = {"eventType": "e", "module": "m", "anonymousId" if anonymous else "userId": person, "eventId": "x"}
        encoded = msgspec.json.encode(body)
        return _core.check_events(encoded, ORG.bytes, project.bytes, "prod", at_ms, False).records
    if kind == "identify":
        encoded = msgspec.json.encode({"userId": person, "anonymousId": "anon", "traits": {"t": person}})
        return _core.check_identify(encoded, ORG.bytes, project.bytes, "prod", at_ms).records
    return _core.profile_record(ORG.bytes, project.bytes, person, at_ms, email="e@x", delete=kind == "delete")


def tombstones(*names: str, settings: Settings = SETTINGS) -> Tombstones:
    at = from_millis(AT_MS)
    return Tombstones(
        settings,
        [Tombstone(ORG, PROJECTS[0], hash_of(SETTINGS, ORG, PROJECTS[0], name), CUT, at) for name in names],
    )


@given(st.lists(said, max_size=12), st.sets(people), st.sampled_from([CUT - 1, CUT, CUT + 1]))
def test_what_is_left(told: list[tuple[str, int, str, bool, bool]], erased: set[str], position: int) -> None:
    """What an erased name had said in its project, up to the cut and the time of it, and no deletion; the rest stands
    byte for byte, and events are numbered as they were."""
    records, left, gone, ordinal = [], [], [], 0
    for kind, project, person, anonymous, late in told:
        made = record(kind, PROJECTS[project], person, anonymous, AT_MS + late)
        records.append(made)
        older = position <= CUT and not late
        leaves = project == 0 and person in erased and older and kind != "delete"
        if not leaves:
            left.append(made)
        elif kind in ("event", "identify"):
            gone.append(ordinal)
        ordinal += kind in ("event", "identify")
    remains = strip(_core.frame(records), position, tombstones(*erased))
    assert remains.data == _core.frame(left)
    assert remains.gone == gone


def test_a_damaged_frame_stays_as_it_is() -> None:
    """Its reader finds out; here nobody trips over it."""
    whole = _core.frame([record("event", PROJECTS[0], "ada", False, AT_MS)])
    for cut in range(len(whole)):
        assert strip(whole[:cut], CUT, tombstones("ada")) == (whole[:cut], [])
    assert strip(whole, CUT, tombstones("ada")).gone == [0]


def test_names_are_found_again_after_a_new_master_key() -> None:
    """As long as the older one stands in the settings; and nobody else's key finds them."""
    frame = _core.frame([record("event", PROJECTS[0], "ada", False, AT_MS)])
    turned = Settings(vault=Vault(key=KEYS[1], key_version=2, previous=(f"1:{KEYS[0]}",)))
    assert strip(frame, CUT, tombstones("ada", settings=turned)).gone == [0]
    assert strip(frame, CUT, tombstones("ada", settings=Settings(vault=Vault(key=KEYS[1])))).gone == []
    assert hash_of(SETTINGS, ORG, PROJECTS[0], "ada") in hashes_of(turned, ORG, PROJECTS[0], "ada")
    assert hash_of(SETTINGS, ORG, PROJECTS[1], "ada") not in hashes_of(turned, ORG, PROJECTS[0], "ada")
