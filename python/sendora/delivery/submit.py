"""The only way in: a send is a row, committed before its caller is answered, and a wake that may be lost.

Whatever the channel checks (C87) is checked before; here nothing is refused but for a server that is away.
"""

from sendora.delivery import store
from sendora.delivery.phases import Send, Submission
from sendora.kernel.errors import Conflict, NotFound
from sendora.kernel.ids import OrgId, ProjectId, SendId, new_id
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Connection, Database

WAKE_PLAN = "wake.plan"
WAKE_SCHEDULE = "wake.schedule"
WAKE_ACCOUNT = "wake.account"

CANCEL_REASONS = {
    "scheduled": "claim_started",
    "queued": "already_dispatched",
    "sending": "already_dispatched",
    "paused": "already_dispatched",
    "sent": "already_dispatched",
    "failed": "already_dispatched",
    "suppressed": "already_dispatched",
    "cancelled": "already_cancelled",
}
"""Why a send cannot be cancelled (B097, C61), by the status it stands in."""


async def submit(kernel: Kernel, asked: Submission) -> Send:
    """Commit a send, `scheduled` or `queued` (B096), and wake whoever takes it up. Of one that comes again
    `series.begin` commits the first.

    It is planned when the stores have passed where the log stands now, so that what the caller has just reported
    counts (design 5).
    """
    send = await place(kernel.db, asked, log_position=await kernel.bus.head())
    await wake(kernel, send)
    return send


async def place(db: Database | Connection, asked: Submission, *, log_position: int = 0) -> Send:
    """The row alone: in the transaction of whoever commits something beside it, and who calls `wake` afterwards. At the
    log's position 0 nothing is waited for: right for a send that asks nothing of events or profiles."""
    return await store.insert_send(db, asked.org, SendId(new_id()), asked, log_position)


async def wake(kernel: Kernel, send: Send) -> None:
    """After the commit; one that is lost costs a second."""
    await kernel.bus.wake(WAKE_SCHEDULE if send.status == "scheduled" else WAKE_PLAN)
    if send.status == "scheduled":
        await kernel.bus.wake(WAKE_ACCOUNT)  # For one that goes out, its first outcome does.


async def cancel(kernel: Kernel, org: OrgId, send: SendId, *, project: ProjectId | None = None) -> Send:
    """B097: a scheduled send whose claim has not started becomes `cancelled`, any other is a conflict. Compare and set,
    so that of a cancel and a claim at the same time exactly one happens (F-L7)."""
    await find_send(kernel, org, send, project=project)
    cancelled = await store.cancel_send(kernel.db, org, send)
    if cancelled is not None:
        await kernel.bus.wake(WAKE_ACCOUNT)
        return cancelled
    found = await find_send(kernel, org, send, project=project)
    raise Conflict(f"A send that is {found.status} cannot be cancelled.", CANCEL_REASONS[found.status])


async def find_send(kernel: Kernel, org: OrgId, send: SendId, *, project: ProjectId | None = None) -> Send:
    """Raises NotFound for one that is missing or belongs to another project (C03)."""
    found = await store.find_send(kernel.db, org, send)
    if found is None or (project is not None and found.project != project):
        raise NotFound("Send")
    return found
