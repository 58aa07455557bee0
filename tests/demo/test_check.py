"""The check that closes the demo and the chaos tests must see every contradiction that it is there to see."""

from uuid import UUID

import msgspec
import pytest

from sendora.demo.check import Request, Row, compare

SEND = UUID(int=1)
DEVICE, OTHER = UUID(int=2), UUID(int=3)
PLANNED = [(SEND, DEVICE)]
ACCEPTED = Row(SEND, DEVICE, "accepted", False, "id-1", "token-2")
TAKEN = Request("apns", "token-2", SEND.hex + DEVICE.hex, "id-1", 200)
REFUSED = Request("apns", "token-2", SEND.hex + DEVICE.hex, None, 410)


def test_a_clean_story_has_no_complaints() -> None:
    report = compare([ACCEPTED], PLANNED, [TAKEN])
    assert report.complaints == []
    assert (report.targeted, report.states["accepted"], report.open, report.duplicates) == (1, 1, 0, 0)


def test_a_deferred_try_and_a_second_one_are_clean() -> None:
    waited = msgspec.structs.replace(ACCEPTED, state="deferred", provider_id=None)
    throttled = msgspec.structs.replace(REFUSED, status=429)
    assert compare([waited, ACCEPTED], PLANNED, [throttled, TAKEN]).complaints == []


def test_an_open_recipient_is_open() -> None:
    report = compare([], PLANNED, [])
    assert (report.open, len(report.complaints)) == (1, 1)


def test_what_was_repeated_may_be_accepted_twice() -> None:
    repeated = msgspec.structs.replace(ACCEPTED, repeated=True)
    report = compare([repeated], PLANNED, [TAKEN, TAKEN])
    assert (report.complaints, report.duplicates, report.repeated) == ([], 0, 1)


def test_what_the_ledger_calls_repeated_and_unknown_may_be_accepted_twice() -> None:
    """A provider whose answers are unreadable: the ledger cannot know, and says that it asked again."""
    waited = msgspec.structs.replace(ACCEPTED, state="deferred", repeated=True, provider_id=None)
    unknown = msgspec.structs.replace(ACCEPTED, state="unknown", provider_id=None)
    report = compare([waited, unknown], PLANNED, [TAKEN, TAKEN])
    assert (report.complaints, report.duplicates, report.repeated) == ([], 0, 0)


def test_a_renewed_provider_token_is_no_second_try() -> None:
    expired = msgspec.structs.replace(REFUSED, status=403)
    assert compare([ACCEPTED], PLANNED, [expired, TAKEN]).complaints == []
    assert "requested 3 times" in compare([ACCEPTED], PLANNED, [expired, expired, TAKEN]).complaints[0]


@pytest.mark.parametrize(
    ("rows", "planned", "requests", "said"),
    [
        ([ACCEPTED, ACCEPTED], PLANNED, [TAKEN], "ended 2 times"),
        ([ACCEPTED], PLANNED * 2, [TAKEN], "planned 2 times"),
        ([ACCEPTED], [], [TAKEN], "never planned"),
        ([ACCEPTED], PLANNED, [TAKEN, TAKEN], "accepted 2 times"),
        ([ACCEPTED], PLANNED, [TAKEN, REFUSED], "requested 2 times"),
        ([ACCEPTED], PLANNED, [], "did not say"),
        ([ACCEPTED], PLANNED, [msgspec.structs.replace(TAKEN, id="id-9")], "did not say"),
        ([ACCEPTED], PLANNED, [msgspec.structs.replace(TAKEN, token="token-9")], "somebody else"),
        ([msgspec.structs.replace(ACCEPTED, state="rejected")], PLANNED, [], "refused nothing"),
        ([msgspec.structs.replace(ACCEPTED, state="rejected")], PLANNED, [TAKEN], "the provider took it"),
        ([msgspec.structs.replace(ACCEPTED, state="suppressed")], PLANNED, [TAKEN], "the provider took it"),
        ([], PLANNED, [msgspec.structs.replace(TAKEN, delivery_id=SEND.hex + OTHER.hex)], "somebody else"),
    ],
)
def test_each_contradiction_is_told(
    rows: list[Row], planned: list[tuple[UUID, UUID]], requests: list[Request], said: str
) -> None:
    assert any(said in complaint for complaint in compare(rows, planned, requests).complaints)
