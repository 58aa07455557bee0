"""The reconciliation, row by row: the ledger against the log that the simulator wrote before it answered.

The simulator is the oracle. Its log names each request by the delivery id in the payload (send and device), so every
line must be a try that the ledger knows, every targeted device must have ended exactly once, and no device may have
been accepted twice in one send unless the ledger says `repeated`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from sendora.delivery.state import FINAL_STATES

OK_STATUSES: Final = (200, 201)
UNAUTHORIZED_STATUSES: Final = (401, 403)


class Request(msgspec.Struct, frozen=True, rename="camel"):
    """A line of the simulator's log, as far as it matters here."""

    transport: str
    token: str
    delivery_id: str | None = None
    id: str | None = None
    status: int | None = None


class Row(msgspec.Struct, frozen=True):
    """A recipient's row in the ledger, with the address that it stands for."""

    send: UUID
    recipient: UUID
    state: str
    repeated: bool
    provider_id: str | None
    token: str


class Report(msgspec.Struct, frozen=True):
    """What the check found: sums over the sends, and every contradiction in words."""

    targeted: int
    states: dict[str, int]
    repeated: int
    open: int
    requests: int
    duplicates: int
    complaints: list[str]


async def check(dsn: str, log: Path, sends: list[UUID]) -> Report:
    """Compare the sends' ledger with the simulator's log."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = [Row(*record) for record in await connection.fetch(LEDGER, sends)]
        planned = await connection.fetch(PLANNED, sends)
    finally:
        await connection.close()
    return compare(rows, [(record["send_id"], record["recipient"]) for record in planned], list(read(log, sends)))


def read(log: Path, sends: list[UUID]) -> Iterator[Request]:
    """The log's requests that belong to these sends."""
    wanted = {send.hex for send in sends}
    with log.open("rb") as lines:
        for line in lines:
            request = msgspec.json.decode(line, type=Request)
            if request.delivery_id is not None and request.delivery_id[:32] in wanted:
                yield request


def compare(rows: list[Row], planned: list[tuple[UUID, UUID]], requests: list[Request]) -> Report:
    """Pure: the same answer for the same ledger and log."""
    complaints: list[str] = []
    final: dict[tuple[UUID, UUID], list[Row]] = defaultdict(list)
    tries: Counter[tuple[UUID, UUID]] = Counter()
    tokens: dict[tuple[UUID, UUID], str] = {}
    repeated: set[tuple[UUID, UUID]] = set()
    for row in rows:
        key = (row.send, row.recipient)
        tries[key] += 1
        tokens[key] = row.token
        if row.repeated:
            # Of a try that goes on: what was written had no answer, so the next one may be a second.
            repeated.add(key)
        if row.state in FINAL_STATES:
            final[key].append(row)

    for key, times in Counter(planned).items():
        if times != 1:
            complaints.append(f"{_name(key)} was planned {times} times")
        if len(final[key]) != 1:
            complaints.append(f"{_name(key)} ended {len(final[key])} times")
    strangers = set(final) - set(planned)
    complaints += [f"{_name(key)} is in the ledger and was never planned" for key in strangers]

    refused: set[tuple[UUID, UUID]] = set()
    unauthorized: Counter[tuple[UUID, UUID]] = Counter()
    taken: Counter[tuple[UUID, UUID]] = Counter()
    seen: Counter[tuple[UUID, UUID]] = Counter()
    ids: dict[tuple[UUID, UUID], set[str | None]] = defaultdict(set)
    for request in requests:
        key = _parse(request.delivery_id or "")
        seen[key] += 1
        if tokens.get(key) != request.token:
            complaints.append(f"{_name(key)} reached the address of somebody else: {request.token}")
        if request.status in OK_STATUSES:
            taken[key] += 1
            ids[key].add(request.id)
        elif request.status is not None:
            refused.add(key)
            unauthorized[key] += request.status in UNAUTHORIZED_STATUSES
    for key, times in seen.items():
        # A refused provider token is renewed within the try: once, so a second refusal is a second try.
        if times - min(unauthorized[key], tries[key]) > tries[key] and key not in repeated:
            complaints.append(f"{_name(key)} was requested {times} times, the ledger knows {tries[key]}")
    for key, ended in final.items():
        for row in ended:
            if row.state == "accepted" and row.provider_id not in ids[key]:
                complaints.append(f"{_name(key)} is accepted as {row.provider_id}, which the provider did not say")
            if row.state == "rejected" and key not in refused:
                complaints.append(f"{_name(key)} is rejected, and the provider refused nothing")
            if row.state in ("rejected", "suppressed", "expired") and taken[key]:
                complaints.append(f"{_name(key)} is {row.state}, and the provider took it")
    twice = [key for key, times in taken.items() if times > 1 and key not in repeated]
    complaints += [f"{_name(key)} was accepted {taken[key]} times" for key in twice]

    states = Counter(row.state for ended in final.values() for row in ended)
    return Report(
        targeted=len(planned),
        states={state: states[state] for state in FINAL_STATES},
        repeated=sum(row.repeated and row.state == "accepted" for ended in final.values() for row in ended),
        open=sum(1 for key in planned if not final[key]),
        requests=len(requests),
        duplicates=len(twice),
        complaints=complaints,
    )


def _parse(delivery_id: str) -> tuple[UUID, UUID]:
    return UUID(delivery_id[:32]), UUID(delivery_id[32:])


def _name(key: tuple[UUID, UUID]) -> str:
    return f"device {key[1]} of send {key[0]}"


LEDGER: Final = """
    SELECT d.send_id, d.recipient, d.state, d.repeated, d.provider_id, t.token
    FROM deliveries d JOIN push_tokens t ON t.org_id = d.org_id AND t.id = d.recipient
    WHERE d.send_id = ANY($1::uuid[])
"""

PLANNED: Final = """
    SELECT c.send_id, unnest(c.recipients) AS recipient FROM chunks c WHERE c.send_id = ANY($1::uuid[]) AND c.planned
"""
