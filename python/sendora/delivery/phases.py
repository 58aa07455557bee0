"""The life of a message as frozen structs: Send -> Chunk -> Decided -> Call -> Reply -> Outcome.

A send is committed (submit), planned into chunks (plan), and each chunk is decided, sent and recorded (dispatch, lanes,
ledger). `Decided` is the library's (`_core.Decided`): one verdict for each recipient of a chunk. A signature that takes
or gives one of these shows where in its life a message stands. No IO here, and no channel: what a send says and whom it
is for are bytes that only its channel reads.
"""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from sendora.kernel.ids import OrgId, ProjectId, ScheduleId, SendId

CHUNK_SIZE = 1_000
"""Recipients in a chunk: 16 kB a row, 16 MB for a million recipients, and one query brings what
their decision needs."""

SHARDS = 64
"""Virtual shards. More than the workers anyone runs, few enough that a worker's renewal is one statement."""

TRIES_MAX = 5
"""Tries of one recipient, the first included; then `rejected: retries_exhausted` (providers.md 3.6)."""

Class = Literal["now", "bulk"]
Delivery = Literal["at_least_once", "at_most_once"]
Final = Literal["accepted", "rejected", "suppressed", "expired", "unknown"]
State = Literal["accepted", "rejected", "suppressed", "expired", "unknown", "deferred"]


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel asks delivery to send."""

    org: OrgId
    project: ProjectId
    channel: str
    class_: Class
    delivery: Delivery
    target: dict[str, Any]
    content: dict[str, Any]
    scheduled_for: datetime | None
    ttl_s: int
    """Counted from the call, or from when it is due for the recipient."""
    token_count: int | None
    late_s: int | None = None
    """How late a recipient may leave, counted like `ttl_s`; None: as late as its lifetime allows."""
    local_at: datetime | None = None
    """Without a zone: each recipient is due when their own clock shows this; `scheduled_for` is the first instant at
    which one can."""
    schedule_id: ScheduleId | None = None
    """Whose occurrence it is."""


class Send(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `sends`."""

    org: OrgId
    id: SendId
    project: ProjectId
    channel: str
    class_: Class
    delivery: Delivery
    status: str
    target: dict[str, Any]
    content: dict[str, Any]
    log_position: int
    created_at: datetime
    scheduled_for: datetime | None
    expires_at: datetime
    late_at: datetime | None
    stopped_at: datetime | None
    retried_at: datetime | None
    planned_at: datetime | None
    audience_as_of: datetime | None
    audience_complete: bool | None
    token_count: int | None
    unreachable: int
    closed_at: datetime | None
    error: str | None
    local_at: datetime | None
    schedule_id: ScheduleId | None
    begins_at: datetime
    """Since when `expires_at` and `late_at` are counted: the last retry, else when it was due, but not before
    the call."""

    def as_due(self, own_at: datetime | None) -> "Send":
        """The send as those have it who are due at `own_at`: its time counts from there, but not from before it began.
        None: there is one time for all."""
        if own_at is None or own_at <= self.begins_at:
            return self
        later = own_at - self.begins_at
        late_at = None if self.late_at is None else self.late_at + later
        return msgspec.structs.replace(self, expires_at=self.expires_at + later, late_at=late_at)


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `chunks`, claimed under a shard's epoch. A recipient is named by its position."""

    org: OrgId
    send: SendId
    shard: int
    seq: int
    class_: Class
    attempt: int
    first_attempt: int = 1
    """With which the tries of its recipients began: a retry has all of them anew."""
    repeated: bool
    size: int
    started: int
    due_at: datetime
    own_at: datetime | None = None
    """When its recipients have the send in their own zone; None when there is one time for all."""

    @property
    def tries(self) -> int:
        """Of its recipients, with this one, since they began."""
        return self.attempt - self.first_attempt + 1


BLOCKED = "blocked:"
"""How the `detail` of a reply begins when the outbound guard refuses the address: no later try will fare better."""

ENDPOINT_BLOCKED = "endpoint_blocked"
"""The reason of the outcome where that address was the recipient's own. Where it is the operator's, the detail is."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate by which a provider knows us, and its key: both PEM."""

    certificate: str
    key: str

    def __repr__(self) -> str:
        return "Identity()"


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request to a provider, built and not yet sent."""

    position: int
    lane: str
    """Names the connections it may travel on: the credential and environment, or a Web Push origin."""
    url: str
    headers: dict[str, str]
    body: bytes
    identity: Identity | None = None
    """What its lane's connections are opened with; the same for every call of a lane."""

    def __repr__(self) -> str:
        """Without the headers, which carry a credential, and without what is said to whom."""
        return f"{type(self).__name__}(position={self.position}, lane={self.lane!r})"


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a call on the wire."""

    position: int
    fate: Literal["answered", "unsent", "unknown"]
    """`unsent` is proved (nothing left, or refused unread); `unknown` means bytes may have left and no answer came."""
    status: int = 0
    headers: dict[str, str] = {}
    body: bytes = b""
    detail: str = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger records of one recipient in one chunk."""

    position: int
    recipient: UUID
    user_id: str | None
    state: State
    reason: str | None = None
    variant: str | None = None
    provider: str | None = None
    """Whom it came from: the lane without its credential; None when nobody was asked."""
    provider_id: str | None = None
    due_at: datetime | None = None
    """When to go on; only with state `deferred`."""
    repeated: bool = False
    """Deferred: the request was written without an answer, so the next try may be a second one.
    Else set by the chunk."""
    counted: bool = True
    """Deferred: whether the wait was a try (a 503 is, quiet hours are not)."""


class Targets(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel says of the recipients that it wrote into the planner's table `plan_targets`."""

    unreachable: int
    """People without any address."""
    as_of: datetime | None
    complete: bool
    """False: planned as of what was known after the wait (design 5)."""
    kept: dict[str, Any] | None = None
    """The target without the people whom it named: they stand in the ledger now, where an erasure finds them. None: it
    named nobody."""
