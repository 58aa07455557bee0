"""What the clock makes this room do."""

from typing import Final

from sendora.kernel.life import Kernel
from sendora.kernel.module import Job
from sendora.modules.push.model.quarantine import GRACE_DAYS
from sendora.modules.push.promotion import promote
from sendora.modules.push.store import feedback, tokens

HEALTH_DAYS: Final = 7
"""Of the lanes' minutes only the last five are ever compared; a week is for people who look."""

BITES_MAX: Final = 100
"""A million rows an hour; what is left waits for the next."""


async def collect(kernel: Kernel) -> None:
    """Delete devices that have been inactive for longer than the grace period."""
    for _ in range(BITES_MAX):
        if await tokens.collect(kernel.db, GRACE_DAYS) < tokens.COLLECT_MAX:
            break
    await feedback.forget_health(kernel.db, HEALTH_DAYS)


JOBS = (
    Job(name="push.collect", every_s=3_600.0, run=collect),
    Job(name="push.promote", every_s=60.0, run=promote),
)
