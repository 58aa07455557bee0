"""The demo's data is what its note says, and its own count of the audience is right on cases worked out by hand."""

from datetime import UTC, date, datetime, timedelta

from sendora.demo.devices import devices
from sendora.demo.purchases import Purchase, customers, expected_audience, read

TODAY = date(2026, 11, 21)
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def test_the_file_is_complete_and_ends_today() -> None:
    purchases = read(TODAY)
    people = list(customers(purchases))
    assert (len(purchases), len(people)) == (69_659, 23_570)
    assert max(purchase.at for purchase in purchases) == NOW
    alike = {(one.customer, one.at, one.quantity, one.cents) for one in purchases}
    assert len(purchases) - len(alike) == 255, "rows that repeat others are real purchases"
    assert sum(purchase.cents for purchase in purchases) == sum(round(one.spent * 100) for one in people)


def test_the_audience_of_a_few_worked_cases() -> None:
    def bought(customer: int, days_ago: tuple[int, ...], cents: int) -> list[Purchase]:
        return [Purchase(0, customer, NOW - timedelta(days=days), 1, cents) for days in days_ago]

    purchases = [
        *bought(5, (1, 200, 300), 100),  # three, recent, country US
        *bought(6, (1, 2), 9_000),  # only two
        *bought(7, (1, 2, 3), 1_000),  # GB and 30 dollars
        *bought(8, (1, 2, 3), 2_000),  # DE and 60 dollars
        *bought(9, (121, 122, 123), 9_000),  # long ago
        *bought(10, (120, 121, 122), 100),  # 120 days to the second, country US
    ]
    assert expected_audience(purchases, NOW) == {5, 8, 10}


def test_about_thirty_thousand_devices_of_everybody() -> None:
    people = list(customers(read(TODAY)))
    fleet = list(devices(people))
    assert len(fleet) == 30_051
    assert {device.user_id for device in fleet} == {str(one.id) for one in people}
    assert {device.transport for device in fleet} == {"apns", "fcm", "webpush"}
    grammar = {(device.transport, device.wish.partition("-")[0]) for device in fleet}
    assert {("apns", "gone"), ("fcm", "gone"), ("webpush", "gone")} <= grammar
    assert {outcome for _, outcome in grammar} == {"ok", "gone", "throttle", "flaky", "slow"}
