"""Asking: the home of an index first, and whoever evaluates rows if there is none, or if it cannot tell.

One question goes to every part of the project's index, wherever it is held, and the answers are added up. When a part
does not answer, or says that it is not ready, its whole project is evaluated by rows: slower, and the same answer. That
nobody was at an index's subject is told to all workers, so that one of them makes it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

import msgspec

from sendora.kernel.clock import millis
from sendora.kernel.errors import Unavailable
from sendora.kernel.ids import OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.modules.audiences import store
from sendora.modules.audiences.held import Slot
from sendora.modules.audiences.home import WANTED
from sendora.modules.audiences.model import Addresses, Fetch, Leaf, Question, Reply

ROWS_SUBJECT: Final = "ask.audiences.evaluate"

ASK_S: Final = 2.0
"""How long a caller of the API waits (design 5)."""

FRESH_S: Final = 0.5
"""How long an index may take to reach what the tables show; it is behind by milliseconds, or something is wrong."""

MEMBERS_S: Final = 10.0
"""How long members may take to be found and fetched: a plan waits, and rows would take longer."""

FRESH_MEMBERS_S: Final = 2.0

PAGE_OFFSET_MAX: Final = 10_000
"""Each part of an index gives all names up to the end of the page, so a page deep down is left to rows."""


async def question(
    kernel: Kernel,
    org: OrgId,
    project: ProjectId,
    rules: dict[str, Any],
    want: Any,
    *,
    as_of: datetime | None = None,
    after: int = 0,
    **more: Any,
) -> Question:
    """As of now (or of `as_of`), and of everything that the tables show now (or of `after`, if that is later)."""
    now, position = await store.moment(kernel.db)
    return Question(
        org=org,
        project=project,
        rules=rules,
        want=want,
        as_of_ms=millis(as_of or now),
        after=max(position, after),
        wait_s=FRESH_MEMBERS_S if want == "members" else FRESH_S,
        **more,
    )


async def anybody(kernel: Kernel, asked: Question) -> Reply:
    """The index, or a worker that evaluates rows, within ASK_S; raises Unavailable."""
    async with within(ASK_S):
        replies = await index(kernel, asked, ASK_S)
        if replies is not None:
            return added(replies)
        answer = await kernel.bus.ask(ROWS_SUBJECT, msgspec.json.encode(asked), ASK_S)
        return msgspec.json.decode(answer, type=Reply)


async def members(kernel: Kernel, asked: Question) -> bytes | None:
    """A COPY of external ids, in no order; None when the index cannot tell."""
    try:
        async with within(MEMBERS_S):
            replies = await index(kernel, asked, MEMBERS_S)
            if replies is None:
                return None
            fetched = [_fetch(kernel, asked, part, reply) for part, reply in enumerate(replies) if reply.ticket]
            return b"".join(await asyncio.gather(*fetched))
    except Unavailable:
        return None


async def page(kernel: Kernel, asked: Question) -> tuple[int, list[str]] | None:
    """How many there are, and the external ids of one page in their order; None when the index cannot tell."""
    parts = kernel.settings.audiences.parts
    if parts == 1:
        replies = await index(kernel, asked, ASK_S)
        return None if replies is None else (replies[0].count, list(replies[0].names))
    if asked.offset > PAGE_OFFSET_MAX:
        return None
    end = asked.offset + asked.size
    replies = await index(kernel, msgspec.structs.replace(asked, offset=0, size=end), ASK_S)
    if replies is None:
        return None
    names = sorted(name for reply in replies for name in reply.names)
    return sum(reply.count for reply in replies), names[asked.offset : end]


async def index(kernel: Kernel, asked: Question, timeout_s: float) -> list[Reply] | None:
    """The answer of every part; None when one is missing."""
    payload = msgspec.json.encode(asked)
    parts = kernel.settings.audiences.parts

    async def one(part: int) -> Reply | None:
        slot = Slot(OrgId(asked.org), ProjectId(asked.project), part, parts)
        try:
            return msgspec.json.decode(await kernel.bus.ask(slot.subject, payload, timeout_s), type=Reply)
        except Unavailable:
            return None

    replies = await asyncio.gather(*map(one, range(parts)))
    if any(reply is None for reply in replies):
        await kernel.bus.wake(f"{WANTED}.{asked.org}.{asked.project}")
    answered = [reply for reply in replies if reply is not None and reply.ready]
    return answered if len(answered) == parts else None


async def _fetch(kernel: Kernel, asked: Question, part: int, reply: Reply) -> bytes:
    slot = Slot(OrgId(asked.org), ProjectId(asked.project), part, kernel.settings.audiences.parts)
    pieces: list[bytes] = []
    got = 0
    while got < reply.length and reply.ticket is not None:
        wanted = Fetch(ticket=reply.ticket, offset=got)
        piece = await kernel.bus.ask(slot.subject, msgspec.json.encode(wanted), MEMBERS_S)
        if not piece:
            raise Unavailable(message="The members are gone.")
        pieces.append(piece)
        got += len(piece)
    return b"".join(pieces)


def added(replies: list[Reply]) -> Reply:
    """Every person is in one part, and all parts walk the same rule."""
    return Reply(
        count=sum(reply.count for reply in replies),
        leaves=tuple(
            Leaf(
                path=leaves[0].path,
                alone=sum(leaf.alone for leaf in leaves),
                remaining=sum(leaf.remaining for leaf in leaves),
            )
            for leaves in zip(*(reply.leaves for reply in replies), strict=True)
        ),
        addresses=Addresses(
            ios=sum(reply.addresses.ios for reply in replies),
            android=sum(reply.addresses.android for reply in replies),
            web=sum(reply.addresses.web for reply in replies),
        ),
    )


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """A deadline whose passing is Unavailable."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Unavailable(message="Nobody answers in time.") from None
