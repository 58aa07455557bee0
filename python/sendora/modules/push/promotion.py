"""Tests that complete themselves: only where the test says `autoPromote: true` (B267, C45).

What is decided is decided by `readout.decide`: bounds that hold however often this looks, a minimum of people in each
variant, and no doubt about the sample ratio. A test that somebody has completed, paused, or named a winner of is left
alone. From then on sends that name the test use the winner's content, as long as nobody changes its status, its winner
or `autoPromote`. Nothing is told on the log: the catalogue has no event for it; the audit log has a line.
"""

from typing import Final

from sendora.kernel.ids import OrgId, ProjectId, TestId
from sendora.kernel.life import Kernel
from sendora.modules import orgs
from sendora.modules.push import tallies
from sendora.modules.push.model import readout
from sendora.modules.push.store import content as store
from sendora.modules.push.store.content import Test

EXAMINE_S: Final = 600.0
"""A test is read anew after this long: a reading walks over everybody who was sent to, and nobody is settled before a
day is over."""

TESTS_MAX: Final = 50
"""Of one run; who has waited longest is first, so the others are next. Two schedulers at once take different ones."""


async def promote(kernel: Kernel) -> None:
    """Examine the tests whose turn it is; where there is none this is one look at an empty index. A test whose reading
    fails is behind all others when the job comes again."""
    for _ in range(TESTS_MAX):
        taken = await store.take_undecided_test(kernel.db, EXAMINE_S)
        if taken is None:
            break
        await _examine(kernel, *taken)


async def _examine(kernel: Kernel, org: OrgId, project: ProjectId, test: Test) -> None:
    counted = await tallies.of_test(kernel, org, project, TestId(test.id))
    winner = readout.decide(test.variants, counted.tallies)
    if winner is None:
        return
    async with kernel.db.transaction() as connection:
        if await store.promote_test(connection, org, project, TestId(test.id), winner):
            details = {"winnerKey": winner, "name": test.name}
            await orgs.audit_as(connection, org, orgs.SYSTEM, "ab_test.promoted", f"ab_test:{test.id}", details)
