"""A refused credential: who is counted, and what counts."""

from datetime import UTC, datetime

import pytest

from sendora.kernel.ids import new_id
from sendora.modules.push import apns, fcm
from sendora.modules.push.halts import KEPT_MAX, REFUSALS_MAX, Halts, Since
from sendora.modules.push.parts import Verdict

SEND, LANE = (new_id(), None), "apns:1:production"


def answers(halts: Halts, n: int, *, reason: str = "InvalidProviderToken", send: Since = SEND) -> list[bool]:
    read = apns.read(403, {}, b'{"reason": "%b"}' % reason.encode())
    return [halts.heard(send, LANE, read) for _ in range(n)]


def test_a_hundred_identical_refusals_halt_the_send_on_that_lane() -> None:
    """F-V11: once, and it says so once; another send and another lane go on."""
    halts = Halts()
    assert answers(halts, REFUSALS_MAX - 1).count(True) == 0
    assert halts.reason(SEND, LANE) is None
    assert answers(halts, 3) == [True, False, False]
    assert halts.reason(SEND, LANE) == "InvalidProviderToken"
    assert halts.reason((new_id(), None), LANE) is None
    assert halts.reason((SEND[0], datetime.now(UTC)), LANE) is None, "who retried may have mended it"
    assert halts.reason(SEND, "apns:2:production") is None


@pytest.mark.parametrize(
    "between",
    [Verdict(state="accepted"), apns.read(410, {}, b'{"reason": "Unregistered"}'), apns.read(400, {}, b"")],
)
def test_any_other_answer_begins_anew(between: Verdict) -> None:
    halts = Halts()
    answers(halts, REFUSALS_MAX - 1)
    halts.heard(SEND, LANE, between)
    answers(halts, REFUSALS_MAX - 1)
    assert halts.reason(SEND, LANE) is None


def test_an_answer_without_a_word_about_the_credential_changes_nothing() -> None:
    halts = Halts()
    answers(halts, REFUSALS_MAX - 1)
    halts.heard(SEND, LANE, apns.read(503, {}, b""))
    assert answers(halts, 1) == [True]


@pytest.mark.parametrize("reason", ["PayloadTooLarge", "BadTopic", "DeviceTokenNotForTopic", "BadDeviceToken"])
def test_what_may_be_one_recipients_own_halts_nobody(reason: str) -> None:
    halts = Halts()
    assert not any(answers(halts, 3 * REFUSALS_MAX, reason=reason))
    assert halts.reason(SEND, LANE) is None
    for code in ("SENDER_ID_MISMATCH", "UNREGISTERED", "THIRD_PARTY_AUTH_ERROR"):
        assert not fcm.CODES[code].hopeless


def test_memory_is_bounded() -> None:
    halts = Halts()
    for _ in range(KEPT_MAX + 5):
        answers(halts, 1, send=new_id())
    assert len(halts._refusals) <= KEPT_MAX
