"""Push over HTTP: `tokens` (devices and opens, the hot ones), `sends`, `content` (templates, A/B tests), and `setup`
(policies, credentials), and `traces`."""

from sendora.modules.push.routes import content, sends, setup, tokens, traces

HOT = tokens.HOT
ROUTES = (*tokens.ROUTES, *sends.ROUTES, *content.ROUTES, *setup.ROUTES, *traces.ROUTES)
