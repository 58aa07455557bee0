"""The plain engine: rows out of Postgres, past the library, once for each question.

It needs no memory of what was, takes seconds for millions of people, and is what the index (`held`) is measured by:
both come to the same answer, so whoever asks takes the index when there is one and rows when there is none.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

from sendora import _core
from sendora.kernel.clock import millis
from sendora.kernel.ids import OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.modules.audiences import store

Purpose = Literal["size", "preview", "send", "list"]

SOME_MAX: Final = 10_000
"""People who are named to Postgres one by one; more are asked for all together."""


async def evaluate(
    kernel: Kernel, org: OrgId, project: ProjectId, rule: _core.Rule, as_of: datetime, *, purpose: Purpose
) -> _core.Evaluation:
    """The rule over everybody of a project. One snapshot for all streams, so that nobody is seen half taken over."""
    began = kernel.clock.monotonic()
    evaluation = _core.Evaluation(rule, millis(as_of))
    async with kernel.db.acquire() as connection, store.snapshot(connection):
        await store.feed_all(connection, org, project, rule, as_of, evaluation)
    kernel.metrics.count("audience_evaluations", purpose=purpose, engine="rows")
    kernel.metrics.observe("audience_seconds", kernel.clock.monotonic() - began, purpose=purpose)
    return evaluation


async def decide(
    kernel: Kernel, org: OrgId, project: ProjectId, rule: _core.Rule, as_of: datetime, names: Sequence[str]
) -> tuple[int, bytes]:
    """Which of these people the rule holds for: how many, and a COPY of their external ids."""
    evaluation = _core.Evaluation(rule, millis(as_of))
    async with kernel.db.acquire() as connection, store.snapshot(connection):
        await store.feed_some(connection, org, project, rule, as_of, names, evaluation)
    return await asyncio.to_thread(evaluation.count), await asyncio.to_thread(evaluation.members)
