"""Every purchase of the 23,570 customers of an online shop, replayed as if the last day were today.

The file is real data (see `data/NOTE.md`). Each row becomes one `purchase` event at noon UTC, shifted by one constant;
each customer becomes one `identify` with the sum spent and a country. `expected_audience` computes the demo's audience
straight from these rows and shares no code with what it checks.
"""

import gzip
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

FILE: Final = Path(__file__).parent / "data" / "cdnow_purchases.txt.gz"
COUNTRIES: Final = ("US", "CA", "GB", "DE", "FR")

AUDIENCE_RULES: Final[Mapping[str, Any]] = {
    "all": [
        {"event": "purchase", "op": "count_gte", "value": 3},
        {"event": "purchase", "op": "occurred_in_last", "value": "120d"},
        {
            "any": [
                {"trait": "spent", "op": "gte", "value": 50},
                {"trait": "country", "op": "in", "value": ["US", "CA"]},
            ]
        },
    ]
}


class Purchase(msgspec.Struct, frozen=True):
    row: int
    customer: int
    at: datetime
    quantity: int
    cents: int


class Customer(msgspec.Struct, frozen=True):
    id: int
    spent: float
    country: str


def read(today: date) -> list[Purchase]:
    """Every row of the file, in its order, its dates shifted so that the last day is `today`."""
    with gzip.open(FILE, "rt", encoding="ascii") as lines:
        next(lines)
        rows = [line.split() for line in lines]
    days = [datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC).date() for _, day, _, _ in rows]
    shift = today - max(days)
    return [
        Purchase(number, int(customer), _noon(day + shift), int(quantity), round(float(amount) * 100))
        for number, ((customer, _, quantity, amount), day) in enumerate(zip(rows, days, strict=True))
    ]


def customers(purchases: list[Purchase]) -> Iterator[Customer]:
    """One for each id, with the sum of all that it spent."""
    cents: dict[int, int] = {}
    for purchase in purchases:
        cents[purchase.customer] = cents.get(purchase.customer, 0) + purchase.cents
    for customer, total in cents.items():
        yield Customer(customer, total / 100, COUNTRIES[customer % len(COUNTRIES)])


def expected_audience(purchases: list[Purchase], instant: datetime) -> set[int]:
    """Who belongs to AUDIENCE_RULES at `instant`, computed from the rows alone."""
    number: dict[int, int] = {}
    latest: dict[int, datetime] = {}
    cents: dict[int, int] = {}
    for purchase in purchases:
        who = purchase.customer
        number[who] = number.get(who, 0) + 1
        latest[who] = max(latest.get(who, purchase.at), purchase.at)
        cents[who] = cents.get(who, 0) + purchase.cents
    return {
        who
        for who, count in number.items()
        if count >= 3
        and latest[who] >= instant - timedelta(days=120)
        and (cents[who] >= 5_000 or COUNTRIES[who % len(COUNTRIES)] in {"US", "CA"})
    }


def _noon(day: date) -> datetime:
    return datetime.combine(day, time(12), UTC)
