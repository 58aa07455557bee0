"""Keys, settings, usage and the audit log over HTTP."""

from typing import Any

from sendora.kernel.errors import Conflict, Forbidden, NotFound, TierRequired
from sendora.kernel.http import Paged, Principal, delete, get, patch, post, put
from sendora.kernel.ids import KeyId, parse_id
from sendora.kernel.life import Kernel
from sendora.kernel.wire import Page
from sendora.modules.orgs import ai, grants, service, store
from sendora.modules.orgs.model import (
    EVENT_QUOTAS,
    AiSettings,
    AiSettingsIn,
    AuditEntry,
    KeyMinted,
    KeyRevoked,
    KeyShown,
    MintKey,
    OrgSettings,
    OrgSettingsPatch,
    Usage,
    next_month,
    show,
)
from sendora.modules.orgs.quota import month_of


@get("/api-keys", scope="keys:read", operation="listKeys", summary="List API keys")
async def list_keys(kernel: Kernel, principal: Principal) -> list[KeyShown]:
    """Every living key with its scopes (B015), oldest first; then other organisations' keys that were let into this one
    (C98). The keys themselves are never shown again."""
    return [show(key, principal.org) for key in await store.list_keys(kernel.db, principal.org)]


@post(
    "/api-keys",
    scope="keys:write",
    role="ADMIN",
    status=201,
    raises=(TierRequired, Conflict, Forbidden),
    operation="mintKey",
    summary="Mint an API key",
)
async def mint_key(kernel: Kernel, principal: Principal, data: MintKey) -> KeyMinted:
    """The answer holds the key, this once. `scopes` asks for a subset of the kind's default (C19, C22) and of what the
    minting key holds itself; `rateLimit` is a Business feature (B041, C95). `orgs` names further organisations in which
    a secret key acts, of those in which the minting key acts itself; from then on only the explicit form of a path
    works for it (C98)."""
    return await service.mint_key(kernel, principal, data)


@delete(
    "/api-keys/{key_id}",
    scope="keys:write",
    role="ADMIN",
    raises=(Forbidden,),
    operation="revokeKey",
    summary="Revoke an API key",
)
async def revoke_key(kernel: Kernel, principal: Principal, key_id: str) -> KeyRevoked:
    """Takes effect at once; a process that did not hear of it honours the key for at most 30 seconds. Another
    organisation's key ends in this one and goes on elsewhere (C98)."""
    if (found := parse_id(key_id)) is None:
        raise NotFound("API key")
    await grants.revoke(kernel, principal, KeyId(found))
    return KeyRevoked(id=found, revoked=True)


@get("/usage", scope="settings:read", operation="getUsage", summary="Events of this month, and the plan's quota")
async def usage(kernel: Kernel, principal: Principal) -> Usage:
    """Stored events count, duplicates do not (B045, C99)."""
    now = kernel.clock.now()
    return Usage(
        plan=principal.plan,
        events_this_month=await store.events_used(kernel.db, principal.org, month_of(now)),
        event_quota=EVENT_QUOTAS[principal.plan],
        resets_at=next_month(now),
    )


@get(
    "/audit-log",
    scope="settings:read",
    role="ADMIN",
    raises=(Forbidden,),
    operation="listAuditLog",
    summary="What was done by whom",
)
async def audit_log(
    kernel: Kernel, principal: Principal, page: Page, resource: str | None = None, actor: str | None = None
) -> Paged[AuditEntry]:
    """The latest first. `actor` is the prefix of a key, `operator` or `system`; `resource` is such as `key:<id>`. No
    entry is ever changed or removed, and `hash` chains each to the one before it."""
    return Paged.of(await store.list_audit(kernel.db, principal.org, resource, actor, page), page)


@get("/settings", scope="settings:read", operation="getSettings", summary="Get the organisation's settings")
async def get_settings(kernel: Kernel, principal: Principal) -> OrgSettings:
    """Of all its projects."""
    return await store.settings_of(kernel.db, principal.org)


@patch(
    "/settings",
    scope="settings:write",
    role="ADMIN",
    raises=(Forbidden,),
    operation="updateSettings",
    summary="Change the organisation's settings",
)
async def update_settings(kernel: Kernel, principal: Principal, data: OrgSettingsPatch) -> OrgSettings:
    """Only the fields that are given. `ai_lifecycle_classifier_enabled` is off until somebody switches it on (B064)."""
    await service.change_settings(kernel, principal, data)
    return await store.settings_of(kernel.db, principal.org)


@get(
    "/settings/ai",
    scope="settings:read",
    role="ADMIN",
    raises=(Forbidden,),
    operation="getAiSettings",
    summary="See what AI steps run on",
)
async def get_ai_settings(kernel: Kernel, principal: Principal) -> AiSettings:
    """Never the key. Tokens are counted by UTC day (B180)."""
    return await ai.shown(kernel, principal)


@put(
    "/settings/ai",
    scope="settings:write",
    role="ADMIN",
    raises=(Forbidden,),
    operation="putAiSettings",
    summary="Bring or take away an AI key",
)
async def put_ai_settings(kernel: Kernel, principal: Principal, data: AiSettingsIn) -> AiSettings:
    """`ollamaApiKey`: 1 to 512 visible ASCII characters, encrypted at rest (B022) and never shown again, on any plan
    (B181); null takes it away."""
    await ai.change(kernel, principal, data)
    return await ai.shown(kernel, principal)


ROUTES: Any = (
    list_keys,
    mint_key,
    revoke_key,
    get_settings,
    update_settings,
    get_ai_settings,
    put_ai_settings,
    usage,
    audit_log,
)
