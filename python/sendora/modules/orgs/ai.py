"""The AI key that an org has brought (BYOK, B181), and what it has used of the shared account (B180).

The key is sealed by the vault and never shown. Who runs an AI step asks `ai_key`; who ran one on the shared account
says so with `count_ai_tokens`, and the day's sum is what the plan's cap is compared with.
"""

from typing import Final

from sendora.kernel.http import Principal
from sendora.kernel.ids import OrgId
from sendora.kernel.life import Kernel
from sendora.kernel.pg import Connection, Database
from sendora.kernel.wire import UNSET
from sendora.modules.orgs import store
from sendora.modules.orgs.auditing import audit
from sendora.modules.orgs.model import AI_CAPS, AiSettings, AiSettingsIn

_PLACE: Final = "org_settings.ai_key"


async def shown(kernel: Kernel, principal: Principal) -> AiSettings:
    brought = await store.find_ai_key(kernel.db, principal.org) is not None
    return AiSettings(
        byok_configured=brought,
        tokens_used_today=await store.ai_tokens_used(kernel.db, principal.org, kernel.clock.now().date()),
        daily_cap=None if brought else AI_CAPS[principal.plan],
    )


async def change(kernel: Kernel, principal: Principal, body: AiSettingsIn) -> None:
    key = body.ollama_api_key
    if key is UNSET:
        return
    sealed = None if key is None else await kernel.vault.seal(principal.org, _PLACE, key.encode())
    async with kernel.db.transaction() as connection:
        await store.set_ai_key(connection, principal.org, sealed)
        await audit(connection, principal, "ai_key.removed" if key is None else "ai_key.stored", "settings:ai")


async def ai_key(kernel: Kernel, org: OrgId) -> str | None:
    """The org's own key; None: its AI steps run on the shared account, within the plan's cap."""
    sealed = await store.find_ai_key(kernel.db, org)
    return None if sealed is None else (await kernel.vault.open(org, _PLACE, sealed)).decode()


async def count_ai_tokens(kernel: Kernel, db: Database | Connection, org: OrgId, tokens: int) -> int:
    """Add what a step took of the shared account; the sum of the day."""
    return await store.count_ai_tokens(db, org, kernel.clock.now().date(), tokens)
