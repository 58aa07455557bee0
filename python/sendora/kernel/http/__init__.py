"""HTTP: Litestar glue, and the hot table in front of it.

What a room needs is in `routes` (decorators), `principal` (who asks) and `hot`; what app.py needs is `build_app`
and `Front`.
`binding` and `envelope` carry a room's handlers; `exchange` and `body` serve both doors. The rules that belong to no
room are kept here and nowhere else: the order of checks (C87), both forms of a path (B002, C02, C03), the envelope
(B017, B018), the request id (B019), the rate headers (C11), CORS (B252), and that nothing hostile ever becomes a 500.
"""

from sendora.kernel.http.app import Authenticate, Room, build_app
from sendora.kernel.http.binding import fingerprint, idempotency_key
from sendora.kernel.http.envelope import Paged, Reply
from sendora.kernel.http.exchange import received, take
from sendora.kernel.http.front import Front
from sendora.kernel.http.hot import Hot, HotHandle, HotRequest, HotResponse, HotRoute
from sendora.kernel.http.principal import Place, Plan, Principal, Role, require_tier, role_at_least, tier_at_least
from sendora.kernel.http.routes import (
    Handler,
    delete,
    get,
    hot_route,
    patch,
    post,
    put,
)

__all__ = [
    "Authenticate",
    "Front",
    "Handler",
    "Hot",
    "HotHandle",
    "HotRequest",
    "HotResponse",
    "HotRoute",
    "Paged",
    "Place",
    "Plan",
    "Principal",
    "Reply",
    "Role",
    "Room",
    "build_app",
    "delete",
    "fingerprint",
    "get",
    "hot_route",
    "idempotency_key",
    "patch",
    "post",
    "put",
    "received",
    "require_tier",
    "role_at_least",
    "take",
    "tier_at_least",
]
