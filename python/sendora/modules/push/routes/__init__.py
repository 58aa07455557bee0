"""Push over HTTP: `tokens` (devices and opens) and `receipts`, the hot ones; `sends`, `control` (pause, resume, stop,
retry) and `recipients`; `content` (templates, A/B tests), and `setup` (policies, credentials)."""

from sendora.modules.push.routes import content, control, receipts, recipients, sends, setup, tokens

HOT = (*tokens.HOT, *receipts.HOT)
ROUTES = (
    *tokens.ROUTES,
    *receipts.ROUTES,
    *sends.ROUTES,
    *control.ROUTES,
    *recipients.ROUTES,
    *content.ROUTES,
    *setup.ROUTES,
)
