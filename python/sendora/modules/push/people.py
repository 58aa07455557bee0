"""One person in this room: devices, what they were sent and are to be sent, and what arrived and was opened there."""

from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from sendora.delivery import people as ledger
from sendora.kernel.ids import OrgId, ProjectId
from sendora.kernel.life import Kernel
from sendora.modules import profiles
from sendora.modules.push.channel import NAME
from sendora.modules.push.store import feedback, receipts, tokens

USER_IDS: Final = "userIds"
TOKENS: Final = "tokens"
"""What `Target` calls its lists, in sends and schedules."""


async def erase(kernel: Kernel, org: OrgId, project: ProjectId, external_id: str) -> int:
    """Devices first, so that what is decided meanwhile finds no name; then the targets of schedules and of sends that
    wait, the words of sends to this person alone, and the ledger, which keeps recipients by their id. How many devices
    and rows."""
    gone = 0
    for name in await profiles.names_of(kernel.db, org, project, external_id):
        async with kernel.db.transaction() as connection:
            devices = await tokens.of_person(connection, org, project, name)
            forgotten = await tokens.forget(connection, org, project, name)
            await feedback.forget_opens(connection, org, forgotten)
            await receipts.forget(connection, org, forgotten)
        await ledger.forget_target(kernel, org, project, NAME, USER_IDS, [name])
        await ledger.forget_target(kernel, org, project, NAME, TOKENS, [device.token for device in devices])
        await ledger.forget_words(kernel, org, project, NAME, USER_IDS, name)
        gone += len(forgotten) + await ledger.forget(kernel, org, project, name)
    return gone


async def export(kernel: Kernel, org: OrgId, project: ProjectId, external_id: str) -> AsyncIterator[dict[str, Any]]:
    for name in await profiles.names_of(kernel.db, org, project, external_id):
        devices = await tokens.of_person(kernel.db, org, project, name)
        for device in devices:
            yield {"device": msgspec.to_builtins(device)}
        for named, values in ((USER_IDS, [name]), (TOKENS, [device.token for device in devices])):
            async for awaited in ledger.awaited(kernel, org, project, NAME, named, values):
                yield {"awaited": msgspec.to_builtins(awaited)}
        async for sent in ledger.recall(kernel, org, project, name, channel=NAME):
            yield {"delivery": msgspec.to_builtins(sent)}
