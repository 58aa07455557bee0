"""The library reads answers as the readers in Python do, and draws the channel's conclusions."""

import random
from datetime import UTC, datetime
from itertools import product
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendora import _core
from sendora.delivery.phases import BLOCKED, Chunk, Outcome, Reply, Send
from sendora.kernel.clock import millis
from sendora.kernel.ids import OrgId, SendId
from sendora.modules.push import apns, fcm
from sendora.modules.push.channel import READERS, PushSending, planned_at
from sendora.modules.push.halts import Halts
from sendora.modules.push.parts import Posted, Transport, Verdict

NOW_MS = 1_780_000_000_250
PLANNED = datetime.fromtimestamp((NOW_MS - 90_000) / 1_000, UTC)
STATUSES = [100, 200, 201, 202, 204, 301, 400, 401, 403, 404, 405, 410, 413, 418, 429, 499, 500, 502, 503, 504, 599]
TRANSPORTS: list[Transport] = ["apns", "fcm", "webpush"]


def told(verdict: Verdict) -> tuple[Any, ...]:
    retry = verdict.retry
    schedule = None if retry is None else (retry.base_s, retry.doubling, retry.jitter)
    return (
        verdict.state, verdict.reason, verdict.provider_id, schedule, verdict.retry_after, verdict.renews,
        verdict.hopeless,
    )  # fmt: skip


def agree(transport: Transport, status: int, headers: dict[str, str], body: bytes) -> None:
    found = _core.read_answer(transport, status, headers, body)
    assert found == told(READERS[transport](status, headers, body)), (transport, status, headers, body)


@pytest.mark.rule("B087")
@pytest.mark.parametrize("headers", [{}, {"apns-id": "id-1", "retry-after": "7", "location": "/l", "other": "x"}])
def test_every_status_with_every_reason(headers: dict[str, str]) -> None:
    """B087: providers.md 1.6, 2.3 and 3.5, row by row."""
    for status, reason in product(STATUSES, [*apns.REASONS, "Unheard", ""]):
        agree("apns", status, headers, msgspec.json.encode({"reason": reason}))
        for timestamp in (0, 1_800_000_000_123, -1, 10**15 - 1, 10**15, 10**30, True, 1.0, "5", None):
            if status in (200, 410, 500):
                agree("apns", status, headers, msgspec.json.encode({"reason": reason, "timestamp": timestamp}))
    details = [[], [{"@type": fcm.BAD_REQUEST_TYPE}], [{"@type": "other", "errorCode": "INTERNAL"}, 5]]
    messages = ["The Registration TOKEN is not valid", "too big", None]
    for status, code, named, more in product(STATUSES, [None, *fcm.CODES, "X", 7], [None, *fcm.CODES, 7], details):
        for message in messages if code == "INVALID_ARGUMENT" else messages[:1]:
            said = [*more, {"@type": fcm.ERROR_TYPE, "errorCode": code}] if code is not None else more
            error = {"status": named, "message": message, "details": said}
            agree("fcm", status, headers, msgspec.json.encode({"error": error}))
    for transport, status in product(TRANSPORTS, range(100, 600)):
        agree(transport, status, headers, b"")


junk = st.binary(max_size=30) | st.text(max_size=30).map(str.encode)
trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=9)
    | st.sampled_from([*apns.REASONS, *fcm.CODES, fcm.ERROR_TYPE, fcm.BAD_REQUEST_TYPE, "registration token"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["reason", "timestamp", "name", "error", "details", "@type", "errorCode", "status", "message", "x"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
bodies = (
    junk
    | trees.map(msgspec.json.encode)
    | st.tuples(trees.map(msgspec.json.encode), st.integers(0, 60)).map(lambda cut: cut[0][: cut[1]])
)
dates = st.datetimes(datetime(1970, 1, 1), datetime(2068, 12, 31, 23, 59, 59))  # noqa: DTZ001 - HTTP names no zone
waits = (
    st.text(max_size=12)
    | st.integers(-5, 10**30).map(str)
    | dates.map(lambda at: at.strftime("%a, %d %b %Y %H:%M:%S GMT"))
    | dates.map(lambda at: at.strftime("%A, %d-%b-%y %H:%M:%S GMT"))
    | dates.map(lambda at: at.strftime("%a %b %e %H:%M:%S %Y"))
    | st.integers(-10, 100_000).map(
        lambda s: datetime.fromtimestamp(NOW_MS // 1_000 + s, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    )
    | st.sampled_from(
        [
            "Thu, 28 May 2026 20:27:00 +0000", "Fri, 28 May 2026 20:27:00 GMT", "28 May 2026", "5 ", " 7", "1.5", "٣",
            "Thu, 31 Jun 2026 20:27:00 GMT", "thu, 28 may 2026 20:27:00 gmt", "Thu, 28 May 2026 24:00:00 GMT",
        ]
    )
)  # fmt: skip
headers = st.fixed_dictionaries(
    {}, optional={"apns-id": st.text(max_size=9), "retry-after": waits, "location": st.text(max_size=9)}
)


@settings(max_examples=500)
@given(st.sampled_from(TRANSPORTS), st.sampled_from(STATUSES) | st.integers(100, 999), headers, bodies)
def test_an_answer_may_be_anything(transport: Transport, status: int, said: dict[str, str], body: bytes) -> None:
    agree(transport, status, said, body)


# -- what the channel makes of it ------------------------------------------------------------------------------------


def concluded(transport: Transport, reply: Reply, attempt: int, chance: float) -> tuple[Any, ...]:
    sending = PushSending.__new__(PushSending)
    sending._send = cast(Send, SimpleNamespace(id=UUID(int=5), audience_as_of=PLANNED, retried_at=None))
    sending._process = cast(Any, SimpleNamespace(halts=Halts()))
    posted = Posted(
        position=3, lane="l", url="u", headers={}, body=b"", recipient=UUID(int=4), user_id="u", variant="v",
        transport=transport, provider=transport, grant="g",
    )  # fmt: skip
    chunk = Chunk(
        org=OrgId(UUID(int=1)), send=SendId(UUID(int=5)), shard=0, seq=0, class_="bulk", attempt=attempt,
        repeated=False, size=9, started=0, due_at=PLANNED,
    )  # fmt: skip
    with patch.object(random, "random", lambda: chance):
        return ruling(sending.read(posted, reply, chunk, NOW_MS))


def ruling(outcome: Outcome) -> tuple[Any, ...]:
    due_ms = None if outcome.due_at is None else millis(outcome.due_at)
    return outcome.state, outcome.reason, outcome.provider_id, due_ms, outcome.repeated, outcome.counted


chances = st.floats(0, 1, exclude_max=True)
attempts = st.integers(1, 6)


@settings(max_examples=500)
@given(st.sampled_from(TRANSPORTS), st.sampled_from(STATUSES), headers, bodies, attempts, chances)
def test_conclusions(
    transport: Transport, status: int, said: dict[str, str], body: bytes, attempt: int, chance: float
) -> None:
    """F-V1 to F-V11: state, reason, id, and to the millisecond when to go on."""
    reply = Reply(position=3, fate="answered", status=status, headers=said, body=body)
    found = _core.rule_answered(transport, status, said, body, attempt, NOW_MS, chance)
    assert found == concluded(transport, reply, attempt, chance)


@given(attempts, chances)
def test_silence(attempt: int, chance: float) -> None:
    """Promise 3: it may be repeated, if the send says so."""
    reply = Reply(position=3, fate="unknown", detail="ReadTimeout")
    assert _core.rule_unanswered("no_answer", attempt, NOW_MS, chance) == concluded("fcm", reply, attempt, chance)


details = st.sampled_from(["", "closed", "lanes_busy", "breaker", "ConnectError", f"{BLOCKED} private", BLOCKED])


@given(st.sampled_from(TRANSPORTS), details)
def test_what_never_left(transport: Transport, detail: str) -> None:
    """No try; and an endpoint that we may not dial stays one."""
    reply = Reply(position=3, fate="unsent", detail=detail)
    planned_ms = millis(planned_at(cast(Send, SimpleNamespace(audience_as_of=PLANNED))))
    assert _core.rule_unsent(transport, detail, planned_ms, NOW_MS) == concluded(transport, reply, 1, 0.0)


@pytest.mark.parametrize("age_s", [-5, 0, 20, 21, 5_000, 14_400, 10**7])
def test_a_connection_that_never_stands_is_tried_ever_more_rarely(age_s: int) -> None:
    _, _, _, due_ms, _, _ = _core.rule_unsent("apns", "ConnectError", NOW_MS - age_s * 1_000, NOW_MS)
    assert due_ms == NOW_MS + int(min(max(5.0, age_s * 0.25), 3_600.0) * 1_000)
