"""Push over HTTP: `tokens` (devices and opens, the hot ones), `sends`, `schedules`, `content` (templates, A/B tests),
and `setup` (policies, credentials)."""

from sendora.modules.push.routes import content, schedules, sends, setup, tokens

HOT = tokens.HOT
ROUTES = (*tokens.ROUTES, *sends.ROUTES, *schedules.ROUTES, *content.ROUTES, *setup.ROUTES)
