"""What a room shows at its door.

A room is a folder with equal furniture; app.py puts it on the floor by naming its Module. Nothing registers itself, and
nothing is found by searching: what a room offers is in this struct or it is not offered.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from sendora.kernel.bus import Message
    from sendora.kernel.ids import OrgId, ProjectId
    from sendora.kernel.life import Kernel, Service

    Handle = Callable[[Kernel, list[Message]], Awaitable[None]]
    Erase = Callable[[Kernel, OrgId, ProjectId, str], Awaitable[int | None]]
    Export = Callable[[Kernel, OrgId, ProjectId, str], AsyncIterator[dict[str, Any]]]
    ExportAll = Callable[[Kernel, OrgId, ProjectId], AsyncIterator[dict[str, Any]]]


class Consumer(msgspec.Struct, frozen=True, kw_only=True):
    """Something that eats a stream, under a durable of this name. Messages are acknowledged when `handle` has
    returned."""

    name: str
    stream: str
    subject: str
    """Such as `events.*` or `lifecycle.push.>`."""
    handle: Handle
    batch_max: int
    """The bound on what one call of `handle` holds in memory, and on what is repeated after a crash."""
    single: bool = False
    """Held under the lease `consumer.<name>`, so that one process at a time eats it and order is kept."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Something the clock makes a room do, in one process of the cluster: under the lease `job.<name>`."""

    name: str
    every_s: float
    run: Callable[[Kernel], Awaitable[None]]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A question that other processes may ask over NATS."""

    subject: str
    """Such as `ask.audiences.evaluate`."""
    handle: Callable[[Kernel, bytes], Awaitable[bytes]]


class Module(msgspec.Struct, frozen=True, kw_only=True):
    """What a room shows at its door."""

    name: str
    routes: Sequence[Any] = ()
    """Handlers made by the decorators of kernel/http.py."""
    hot: Sequence[Any] = ()
    """Routes that stand in front of Litestar: `kernel.http.Hot`."""
    consumers: Sequence[Consumer] = ()
    jobs: Sequence[Job] = ()
    answers: Sequence[Answer] = ()
    services: Sequence[Callable[[Kernel], Service]] = ()
    """Loops of the worker that are neither: made once for each process."""
    channel: Any = None
    """A `delivery.channel.Channel`; the kernel does not know delivery, so it cannot name the type."""
    erase: Erase | None = None
    """Forgets one person (external id) in this room, under every name that the person has had; how many rows went, or
    None where nobody counts. It may be called again at any time, for a person whose profile has gone too."""
    export: Export | None = None
    """Tells what this room knows of one person."""
    export_all: ExportAll | None = None
    """The same of everybody in a project, in pages; a room without it is asked person by person."""
