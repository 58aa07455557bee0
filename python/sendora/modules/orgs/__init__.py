"""Orgs: tenants, their projects, API keys, plans, quota, and the audit log. The lowest room; all others may use it."""

from sendora.kernel.module import Module
from sendora.modules.orgs.ai import ai_key, count_ai_tokens
from sendora.modules.orgs.auditing import OPERATOR, SYSTEM, Verified, audit, audit_as, person_hash, verify
from sendora.modules.orgs.grants import GrantRefused, grant
from sendora.modules.orgs.keyring import authenticate
from sendora.modules.orgs.model import EVENT_QUOTAS, KeyMinted, Plan, RateLimit, Role
from sendora.modules.orgs.quota import check_quota, month_of
from sendora.modules.orgs.routes import ROUTES
from sendora.modules.orgs.service import (
    Bootstrapped,
    bootstrap,
    create_key,
    create_org,
    create_project,
    with_classifier,
)

__all__ = [
    "EVENT_QUOTAS",
    "OPERATOR",
    "SYSTEM",
    "Bootstrapped",
    "GrantRefused",
    "KeyMinted",
    "Plan",
    "RateLimit",
    "Role",
    "Verified",
    "ai_key",
    "audit",
    "audit_as",
    "authenticate",
    "bootstrap",
    "check_quota",
    "count_ai_tokens",
    "create_key",
    "create_org",
    "create_project",
    "grant",
    "module",
    "month_of",
    "person_hash",
    "verify",
    "with_classifier",
]

module = Module(name="orgs", routes=ROUTES)
