"""What a channel (push, email, SMS) is to delivery.

Delivery owns when and how often; a channel owns whom, what, and over which wire. The composition root hands the
channels in, so that this floor knows no room. Two calls open onto a channel: `recipients` while a send is planned, and
`open` when a worker takes up its first chunk; the `Sending` that comes back is kept for a few seconds and serves every
chunk of that send.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol
from uuid import UUID

import msgspec

from sendora._core import Caps, Decided, Lanes, Shipment
from sendora.delivery.phases import Call, Chunk, Outcome, Reply, Send, Targets
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Connection

__all__ = ["Channel", "Connection", "Ready", "Sending", "Shipped"]

Ready = Callable[[], Awaitable[None]]


class Shipped(msgspec.Struct):
    """A shipment, and the provider tokens that its requests carry, by credential."""

    shipment: Shipment
    tokens: dict[UUID, str]


class Sending(Protocol):
    """A send, ready to be dispatched: compiled content, policy and credentials as they are now."""

    @property
    def capped(self) -> bool:
        """Whether frequency caps apply, so that the worker brings the shard's `Caps`."""

    async def rows(self, connection: Connection, chunk: Chunk) -> bytes:
        """pgcopy of what the decision needs of every recipient at or above the chunk's mark, and of those below it
        that have no outcome yet; positions are the chunk's."""

    def decide(self, rows: bytes, caps: Caps | None, now_ms: int) -> Decided:
        """Policy and rendering for the whole chunk, in the library."""

    async def build(self, decided: Decided, chunk: Chunk) -> tuple[Sequence[Call], Sequence[Outcome]]:
        """The requests of those who are sent to, and outcomes of those for whom none can be built (no credential,
        too large). Raises `kernel.errors.Unavailable` when a credential cannot be had right now: the chunk waits."""

    def read(self, call: Call, reply: Reply, chunk: Chunk, now_ms: int) -> Outcome:
        """What an answer means: accepted, rejected for good, or deferred to a next try. Pure but for the memory of
        which call was whose."""

    async def renew(self, call: Call, reply: Reply) -> bool:
        """True when the answer says that a credential has expired and a fresh one is there now."""

    @property
    def ships(self) -> bool:
        """Whether this send can travel as a shipment: then `ship` is asked instead of `decide`, `build` and `read`."""

    async def ship(self, lanes: Lanes, chunk: Chunk, rows: bytes, caps: Caps | None, now_ms: int) -> Shipped:
        """The whole chunk, decided and ready to be sent without Python. Raises `kernel.errors.Unavailable` when no
        credential can be had right now: the chunk waits."""

    async def renew_shipped(self, shipped: Shipped, lanes: Sequence[str]) -> None:
        """On these lanes the provider says that its token has expired: `Shipment.renew` with a fresh one, or with
        None."""


class Channel(Protocol):
    """The door of a channel room to this floor."""

    @property
    def name(self) -> str: ...

    async def recipients(self, kernel: Kernel, connection: Connection, send: Send, ready: Ready) -> Targets:
        """Write (shard smallint, recipient uuid, zone text) of everybody the send is for into the temporary table
        `plan_targets` of this connection; each recipient once, as of one instant. `zone` is the recipient's, or what
        stands for it, where the send has a `local_at`; else NULL, and everybody is due now.

        Whoever has many calls `ready` when all recipients of some shards stand there: they become chunks, and the table
        is empty afterwards. What stands there at the end needs no call.
        """

    async def open(self, kernel: Kernel, send: Send) -> Sending: ...
