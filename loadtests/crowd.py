"""Made-up people for the audience figures: the same ones for every engine, by a fixed seed.

N profiles of four traits and ten events each. Selectivities of the rule's leaves, in its order: plan 20 %, country
30 %, locale or tag 55 %, feature_used within 30 days 76 %, churned not within 90 days 82 %, three purchases within 30
days 25 %; about 0.5 % hold them all. Nothing is sorted by anything that the rule asks for.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

SEED: Final = 20_261_128
NOW: Final = datetime(2026, 11, 20, 15, 4, 5, tzinfo=UTC)
NOW_S: Final = int(NOW.timestamp())
DAY_S: Final = 86_400
WINDOW_30D_S: Final = NOW_S - 30 * DAY_S
WINDOW_90D_S: Final = NOW_S - 90 * DAY_S
DAYS_30_S: Final = (NOW_S // DAY_S - 29) * DAY_S
"""Where a count window of 30 days begins: today and the 29 UTC days before it (C72)."""

EVENTS: Final = 10
CHUNK: Final = 250_000

PLANS: Final = {"free": 0.7, "pro": 0.2, "business": 0.1}
COUNTRIES: Final = {
    "US": 0.25, "CA": 0.05, "DE": 0.15, "FR": 0.1, "GB": 0.1, "BR": 0.1, "IN": 0.1, "JP": 0.05, "ES": 0.05, "IT": 0.05,
}  # fmt: skip
LOCALES: Final = {"en": 0.5, "de": 0.15, "fr": 0.1, "pt": 0.1, "ja": 0.05, "es": 0.1}
TAGS: Final[dict[tuple[str, ...], float]] = {(): 0.6, ("beta",): 0.3, ("vip",): 0.07, ("beta", "vip"): 0.03}
TYPES: Final = {"feature_used": 0.25, "purchase": 0.3, "churned": 0.02, "page_viewed": 0.28, "app_opened": 0.15}

RULE: Final = msgspec.json.encode(
    {
        "all": [
            {"trait": "plan", "op": "eq", "value": "pro"},
            {
                "any": [
                    {"trait": "country", "op": "eq", "value": "US"},
                    {"trait": "country", "op": "eq", "value": "CA"},
                ]
            },
            {
                "any": [
                    {"trait": "locale", "op": "eq", "value": "en"},
                    {"trait": "tag", "op": "contains", "value": "vip"},
                ]
            },
            {"event": "feature_used", "op": "occurred_in_last", "value": "30d"},
            {"event": "churned", "op": "not_occurred_in_last", "value": "90d"},
            {"event": "purchase", "op": "count_gte", "value": 3, "window": "30d"},
        ]
    }
)

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"
NULL: Final = b"\xff\xff\xff\xff"
YEAR_2000_S: Final = 946_684_800


class Crowd:
    """Codes of traits by person; events by round (every person has one in each), as type and second."""

    def __init__(self, people: int) -> None:
        random = np.random.default_rng(SEED)
        self.people = people
        self.plan = self._pick(random, PLANS.values())
        self.country = self._pick(random, COUNTRIES.values())
        self.locale = self._pick(random, LOCALES.values())
        self.tag = self._pick(random, TAGS.values())
        self.types: list[U8] = []
        self.seconds: list[U32] = []
        for _ in range(EVENTS):
            self.types.append(self._pick(random, TYPES.values()))
            # Four fifths of what happened did so within the last two months of three.
            age = random.random(people, dtype=np.float32) ** 2 * np.float32(90 * DAY_S)
            self.seconds.append((NOW_S - age.astype(np.int64)).astype(np.uint32))

    def _pick(self, random: np.random.Generator, shares: object) -> U8:
        edges = np.cumsum(list(shares))  # type: ignore[call-overload]
        drawn = random.random(self.people, dtype=np.float32)
        return np.minimum(np.searchsorted(edges, drawn, side="right"), len(edges) - 1).astype(np.uint8)

    def last(self, event_type: str) -> U32:
        """The second of each person's last event of a type, 0 for none."""
        code, last = list(TYPES).index(event_type), np.zeros(self.people, np.uint32)
        for types, seconds in zip(self.types, self.seconds, strict=True):
            np.maximum(last, np.where(types == code, seconds, 0), out=last)
        return last

    def count_since(self, event_type: str, second: int) -> U8:
        code, count = list(TYPES).index(event_type), np.zeros(self.people, np.uint8)
        for types, seconds in zip(self.types, self.seconds, strict=True):
            count += (types == code) & (seconds >= second)
        return count

    def names(self, low: int, high: int) -> U8:
        """External ids, ten characters each: "u" and nine digits, in an order that has nothing to do with the data."""
        digits = np.empty((high - low, 10), np.uint8)
        digits[:, 0] = ord("u")
        rest = np.arange(low, high, dtype=np.uint32)
        for place in range(9, 0, -1):
            digits[:, place] = rest % 10 + ord("0")
            rest //= 10
        return digits

    # -- as COPY streams ---------------------------------------------------------------------------------------------

    def people_rows(self) -> Iterator[bytes]:
        """external_id, email, traits, lifecycle, merged_into: rows of one length, the traits filled up with spaces."""
        texts = [
            msgspec.json.encode({"plan": plan, "country": country, "locale": locale, "tag": tag})
            for plan in PLANS
            for country in COUNTRIES
            for locale in LOCALES
            for tag in TAGS
        ]
        width = max(map(len, texts))
        table = np.frombuffer(b"".join(text.ljust(width) for text in texts), np.uint8).reshape(len(texts), width)
        head = np.frombuffer(b"\0\5\0\0\0\x0a", np.uint8)
        middle = np.frombuffer(NULL + (width + 1).to_bytes(4, "big") + b"\1", np.uint8)
        tail = np.frombuffer(NULL + NULL, np.uint8)
        yield HEADER
        for low in range(0, self.people, CHUNK):
            high = min(low + CHUNK, self.people)
            span = slice(low, high)
            text = self.plan[span].astype(np.uint16)
            for codes, values in ((self.country, COUNTRIES), (self.locale, LOCALES), (self.tag, TAGS)):
                text = text * len(values) + codes[span]
            yield _rows(head, self.names(low, high), middle, table[text], tail)
        yield TRAILER

    def event_rows(self) -> Iterator[bytes]:
        """person, event_type, occurred_at, properties (NULL)."""
        yield HEADER
        for types, seconds in zip(self.types, self.seconds, strict=True):
            for low in range(0, self.people, CHUNK):
                high = min(low + CHUNK, self.people)
                names = self.names(low, high)
                for code, name in enumerate(TYPES):
                    mine = types[low:high] == code
                    head = np.frombuffer(b"\0\4\0\0\0\x0a", np.uint8)
                    kind = len(name).to_bytes(4, "big") + name.encode() + b"\0\0\0\x08"
                    micros = (seconds[low:high][mine].astype(np.int64) - YEAR_2000_S) * 1_000_000
                    instant = micros.astype(">i8").view(np.uint8).reshape(-1, 8)
                    yield _rows(
                        head, names[mine], np.frombuffer(kind, np.uint8), instant, np.frombuffer(NULL, np.uint8)
                    )
        yield TRAILER


def _rows(*parts: U8) -> bytes:
    """Rows of one length behind one another; a part of one dimension is the same in all of them."""
    height = max(len(part) for part in parts if part.ndim == 2) if any(part.ndim == 2 for part in parts) else 0
    spread = [part if part.ndim == 2 else np.broadcast_to(part, (height, len(part))) for part in parts]
    return np.concatenate(spread, axis=1).tobytes()
