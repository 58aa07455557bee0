"""What the check accepts PostgreSQL can store, and what it stores means the same to a rule (design 3: check once)."""

import json
import uuid
from decimal import Decimal

import pytest
from tests.core.copybytes import rows

from sendora import _core
from sendora.kernel.pg import Database, copy_in, copy_out
from sendora.modules.events.store import COLUMNS

NOW_MS = 1_780_000_000_000
LITERALS = [
    "0", "-0", "-0.0", "1.50", "1e5", "1E+2", "1e308", "1.7976931348623157e308", "1.8e308", "5e-324", "2e-324",
    "1e-400", "0e1000", "0e-1000", "0e-1001", "0e20000", "0e-20000", "9223372036854775807", "9223372036854775808",
    "-9223372036854775808", "1" * 500, "0." + "0" * 300 + "1", "0." + "0" * 1021, "0." + "0" * 1022,
    "1." + "0" * 1000, "1." + "0" * 20000, "0.1e-999", "123e-1000", '"\\u0000"', '"\\ud800"', '"\\udbff\\udfff"',
    '"\\u0001\\u001f\\u007f"', '"\\u2028\\uffff"', '"\\\\u0000"', '"' + "x" * 100_000 + '"', "[" * 31 + "]" * 31,
    "[" * 29 + "]" * 29, '{"":{"":null}}', '{"\\u0000":1}', '{"a":1, "\\u0061":2}', "true", "NaN",
]  # fmt: skip


async def test_nothing_that_was_accepted_is_refused(db: Database) -> None:
    batches: dict[str, _core.EventBatch] = {}
    for literal in LITERALS:
        body = f'[{{"eventType": "a", "module": "m", "userId": "\\u0001\\uffff", "properties": {{"v": {literal}}}}}]'
        checked = _core.check_events(body.encode(), uuid.uuid4().bytes, uuid.uuid4().bytes, "prod", NOW_MS, True)
        if checked.accepted:
            batches[literal] = _core.EventBatch([_core.frame([checked.records])])
    assert 20 < len(batches) < len(LITERALS)
    async with db.acquire() as connection, connection.transaction():
        await connection.execute("CREATE TEMP TABLE accepted (LIKE events) ON COMMIT DROP")
        for literal, batch in batches.items():
            await copy_in(connection, "accepted", COLUMNS, batch.copy([]))
            stored = await connection.fetchval("SELECT properties::text FROM accepted")
            assert parse(stored) == parse(f'{{"v": {literal}}}'), literal[:50]
            await connection.execute("DELETE FROM accepted")


def parse(text: str) -> object:
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


@pytest.mark.parametrize("value", [100000, 1e5, 1.5, 'é\\"\n\u2028', True])
async def test_a_rule_reads_what_postgres_prints(db: Database, value: object) -> None:
    test = {"trait": "t", "op": "eq", "value": value}
    rule = {"all": [test, {"event": "a", "op": "occurred", "where": test}]}
    evaluation = _core.Evaluation(_core.Rule(json.dumps(rule).encode()), NOW_MS)
    text = json.dumps({"s": [1, {"t": 0}], "t": value})
    async with db.acquire() as connection:
        profiles = "SELECT 'u'::text, NULL::text, $1::text::jsonb, NULL::text"
        await copy_out(connection, profiles, text, sink=evaluation.feed_profiles)
        events = "SELECT 'u'::text, 'a'::text, now(), $1::text::jsonb FROM generate_series(1, 3)"
        await copy_out(connection, events, text, sink=evaluation.feed_events)
    assert rows(evaluation.members()) == [[b"u"]]
