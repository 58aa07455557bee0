"""How far the readers of the log have come: table log_positions.

A reader writes its position in the transaction that stores what it read, so a frame handed to it twice is seen to be
old (F-N3, F-N4), and whoever must read its own write waits for the position that the log gave it.
"""

import asyncio
from collections.abc import Iterable
from typing import Final, Protocol, TypeVar

from sendora.kernel.pg.database import Connection, Database

POLL_S: Final = 0.02
"""One indexed read of one row; a batch takes longer than this to store."""

# The row must be there to be locked, and only its first reader ever makes it.
_LOCK: Final = """
INSERT INTO log_positions AS p (consumer, lane, position) VALUES ($1, $2, 0)
ON CONFLICT (consumer, lane) DO UPDATE SET position = p.position
RETURNING position
"""

_ADVANCE: Final = "UPDATE log_positions SET position = $3 WHERE consumer = $1 AND lane = $2"

_REACHED: Final = "SELECT coalesce((SELECT position FROM log_positions WHERE consumer = $1 AND lane = $2), 0)"


class Placed(Protocol):
    @property
    def position(self) -> int: ...


T = TypeVar("T", bound=Placed)


def unread(messages: Iterable[T], position: int) -> list[T]:
    """What lies behind the position, in order and each once: one batch may hold a message and its redelivery."""
    fresh = {message.position: message for message in messages if message.position > position}
    return [fresh[at] for at in sorted(fresh)]


async def lock_position(connection: Connection, consumer: str, lane: int = 0) -> int:
    """The consumer's position in a lane; held until the transaction ends, so that two readers take turns."""
    position: int = await connection.fetchval(_LOCK, consumer, lane)
    return position


async def advance_position(connection: Connection, consumer: str, position: int, lane: int = 0) -> None:
    await connection.execute(_ADVANCE, consumer, lane, position)


async def rewind(db: Database, consumer: str, lane: int = 0) -> None:
    """Begin the lane again, when its stream was made anew; what is stored twice is recognised by its key."""
    await db.execute(_ADVANCE, consumer, lane, 0)


async def reached(db: Database | Connection, consumer: str, lane: int = 0) -> int:
    """Every message of the lane up to this position has been stored by the consumer."""
    position: int = await db.fetchval(_REACHED, consumer, lane)
    return position


async def wait_for(db: Database, consumer: str, position: int, timeout_s: float, lane: int = 0) -> bool:
    """Whether the consumer has passed the position, within the timeout."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while await reached(db, consumer, lane) < position:
        if asyncio.get_running_loop().time() >= deadline:
            return False
        await asyncio.sleep(POLL_S)
    return True
