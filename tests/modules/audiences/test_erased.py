"""An index that reads the log again passes over what people had said who were erased since."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from sendora import _core
from sendora.kernel.bus import Message
from sendora.kernel.clock import millis
from sendora.kernel.ids import OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.modules.audiences import home
from sendora.modules.audiences.model import compiled
from sendora.modules.consent import Tombstones
from sendora.modules.consent.tombstones import Tombstone, hash_of

ORG, PROJECT = OrgId(uuid4()), ProjectId(uuid4())
NOW = datetime.now(UTC)


def frame(*said: tuple[str, str]) -> bytes:
    """(who, what); each identifies and does it."""
    records = []
    for who, what in said:
        body = msgspec.json.encode({"eventType": what, "module": "m", "userId": who})
        identify = msgspec.json.encode({"userId": who, "traits": {"plan": "pro"}})
        records += [
            _core.check_identify(identify, ORG.bytes, PROJECT.bytes, "prod", millis(NOW)).records,
            _core.check_events(body, ORG.bytes, PROJECT.bytes, "prod", millis(NOW), False).records,
        ]
    return _core.frame(records)


@pytest.mark.rule("B069")
def test_the_index_of_a_log_that_is_read_again(kernel: Kernel) -> None:
    """It knows no name, and what the storer left out of a frame is left out still, though the frame has become
    shorter."""
    frames = [
        Message("events.0", frame(("bob", "buy"), ("ada", "buy"), ("cleo", "buy"), ("dan", "buy")), 1, 1),
        Message("events.0", frame(("ada", "look"), ("bob", "look")), 2, 1),
        Message("events.0", frame(("ada", "buy")), 3, 1),
    ]
    # Ada's, of which the storer kept nothing up to the cut, and Cleo's, which was there already.
    skips = {1: [2, 3, 5], 2: [0, 1]}
    hashed = hash_of(kernel.settings, ORG, PROJECT, "ada")
    tombstones = Tombstones(kernel.settings, [Tombstone(ORG, PROJECT, hashed, 2, NOW)])

    def members(read: list[Message], skipped: dict[int, list[int]], rule: dict[str, Any]) -> list[str]:
        index = _core.Index()
        positions = [one.position for one in read]
        index.apply(PROJECT.bytes, [one.data for one in read], positions, [skipped.get(at, []) for at in positions])
        found = index.ask(compiled({"all": [rule]}), millis(NOW) + 1)
        return _core.member_names(found.members(), 0, 10)

    left, numbered = home._without(frames, skips, tombstones)
    assert b"ada" not in left[0].data + left[1].data and left[2] == frames[2], "behind the cut she is somebody new"
    assert numbered == {1: [3], 2: []}
    pro, bought = {"trait": "plan", "op": "eq", "value": "pro"}, {"event": "buy", "op": "occurred"}
    assert members(left[:2], numbered, pro) == ["bob", "cleo", "dan"]
    assert members(left[:2], numbered, bought) == ["bob", "dan"]
    assert members(left, numbered, bought) == ["ada", "bob", "dan"]
    assert members(frames[:2], skips, pro) == ["ada", "bob", "cleo", "dan"], "as it would be"
