"""Keys, usage and the audit log over HTTP."""

from typing import Any

from sendora.kernel.errors import Conflict, Forbidden, NotFound, TierRequired
from sendora.kernel.http import Paged, Principal, delete, get, post
from sendora.kernel.ids import KeyId, parse_id
from sendora.kernel.life import Kernel
from sendora.kernel.wire import Page
from sendora.modules.orgs import service, store
from sendora.modules.orgs.model import (
    EVENT_QUOTAS,
    AuditEntry,
    KeyMinted,
    KeyRevoked,
    KeyShown,
    MintKey,
    Usage,
    next_month,
    show,
)
from sendora.modules.orgs.quota import month_of


@get("/api-keys", scope="keys:read", operation="listKeys", summary="List API keys")
async def list_keys(kernel: Kernel, principal: Principal) -> list[KeyShown]:
    """Every living key with its scopes (B015), oldest first. The keys themselves are never shown again."""
    return [show(key) for key in await service.list_keys(kernel, principal.org)]


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
    minting key holds itself; `rateLimit` is a Business feature (B041, C95)."""
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
    """Takes effect at once; a process that did not hear of it honours the key for at most 30 seconds."""
    if (found := parse_id(key_id)) is None:
        raise NotFound("API key")
    await service.revoke_key(kernel, principal, KeyId(found))
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
    """The latest first. `actor` is the prefix of a key, `resource` such as `key:<id>`."""
    return Paged.of(await store.list_audit(kernel.db, principal.org, resource, actor, page), page)


ROUTES: Any = (list_keys, mint_key, revoke_key, usage, audit_log)
