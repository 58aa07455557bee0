"""Push over HTTP: `tokens` (devices and opens) and `receipts`, the hot ones; `sends`, `control` (pause, resume, stop,
retry), `schedules`, `recipients` and `traces`; `content` (templates, A/B tests), and `setup` (policies,
credentials)."""

from sendora.modules.push.routes import (
    content,
    control,
    receipts,
    recipients,
    schedules,
    sends,
    setup,
    tokens,
    traces,
)

HOT = (*tokens.HOT, *receipts.HOT)
ROUTES = (
    *tokens.ROUTES,
    *receipts.ROUTES,
    *sends.ROUTES,
    *control.ROUTES,
    *schedules.ROUTES,
    *recipients.ROUTES,
    *traces.ROUTES,
    *content.ROUTES,
    *setup.ROUTES,
)
