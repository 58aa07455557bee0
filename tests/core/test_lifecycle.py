"""How recipients ended: `Ended` and `address_health`, with msgspec and a fold in Python as the oracle."""

import struct
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sendora import _core
from sendora.delivery.account import Outcomes

YEAR_2000 = datetime(2000, 1, 1, tzinfo=UTC)
CHUNKS = [(uuid.UUID(int=1 + n % 2), uuid.UUID(int=7), uuid.UUID(int=100 + n), n, 10 + n) for n in range(4)]

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
row = st.fixed_dictionaries(
    {
        "chunk": st.integers(0, len(CHUNKS) - 1),
        "recipient": st.uuids(),
        "user_id": st.none() | text,
        "state": st.sampled_from(["accepted", "rejected", "suppressed"]),
        "reason": st.none() | st.sampled_from(["gone", "busy", 'q"\\\n']),
        "variant": st.none() | st.sampled_from(["a", "b"]),
        "provider": st.none() | st.sampled_from(["apns", "fcm"]),
        "provider_id": st.none() | text,
        "attempt": st.integers(1, 5),
        "repeated": st.booleans(),
        "at_ms": st.integers(0, 4 * 86_400_000),
    }
)


def copied(rows: list[dict[str, Any]]) -> bytes:
    """What COPY would have made of them."""
    out = [b"PGCOPY\n\xff\r\n\0" + bytes(8)]
    for one in rows:
        fields = [struct.pack(">q", one["chunk"] + 1), one["recipient"].bytes]
        fields += [
            None if one[name] is None else one[name].encode()
            for name in ("user_id", "state", "reason", "variant", "provider", "provider_id")
        ]
        at = YEAR_2000 + timedelta(milliseconds=one["at_ms"])
        micros = (at - YEAR_2000) // timedelta(microseconds=1)
        fields += [struct.pack(">h", one["attempt"]), bytes([one["repeated"]]), struct.pack(">q", micros)]
        out.append(struct.pack(">h", len(fields)))
        out += [b"\xff\xff\xff\xff" if field is None else struct.pack(">i", len(field)) + field for field in fields]
    return b"".join([*out, b"\xff\xff"])


@given(st.lists(row, max_size=30))
def test_what_ended_is_told_counted_and_read_again(rows: list[dict[str, Any]]) -> None:
    """Each row once in the message of its chunk, as it is; the counters are those of a plain fold."""
    named = [(org.bytes, project.bytes, send.bytes, shard, seq) for org, project, send, shard, seq in CHUNKS]
    ended = _core.Ended(named, copied(rows))
    messages = {place: msgspec.json.decode(message, type=Outcomes) for place, message in ended.messages()}
    assert set(messages) == {one["chunk"] for one in rows}
    for place, message in messages.items():
        assert (message.org, message.project, message.send, message.shard, message.seq) == CHUNKS[place]
        told = [{**msgspec.structs.asdict(one), "at": one.at - YEAR_2000} for one in message.outcomes]
        wanted = [
            {name: value for name, value in one.items() if name not in ("chunk", "at_ms")}
            | {"at": timedelta(milliseconds=one["at_ms"])}
            for one in rows
            if one["chunk"] == place
        ]
        assert told == wanted

    counts: Counter[tuple[Any, ...]] = Counter()
    repeated: Counter[tuple[Any, ...]] = Counter()
    for one in rows:
        org, _, send, _, _ = CHUNKS[one["chunk"]]
        day = (YEAR_2000 + timedelta(milliseconds=one["at_ms"]) - datetime(1970, 1, 1, tzinfo=UTC)).days
        key = org.bytes, send.bytes, day, one["state"], one["reason"] or "", one["variant"] or ""
        counts[key] += 1
        repeated[key] += one["repeated"]
    assert ended.counts() == [(*key, counts[key], repeated[key]) for key in sorted(counts)]

    heard = _core.address_health([message for _, message in ended.messages()], ["gone"])
    assert {(org, project, provider): (n, len(dead)) for org, project, provider, n, dead in heard} == {
        (org.bytes, CHUNKS[0][1].bytes, provider): (accepted, dead)
        for org in {chunk[0] for chunk in CHUNKS}
        for provider in ("apns", "fcm")
        for theirs in [[r for r in rows if CHUNKS[r["chunk"]][0] == org and r["provider"] == provider]]
        for accepted in [sum(r["state"] == "accepted" for r in theirs)]
        for dead in [sum(r["state"] == "rejected" and r["reason"] == "gone" for r in theirs)]
        if accepted or dead
    }
