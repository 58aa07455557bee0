"""The OpenAPI document of the Sendora surface: /api/v1/docs/openapi.json, generated from the handlers (B001)."""

from typing import Final

from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

TITLE: Final = "Sendora Cloud"
VERSION: Final = "1.2.0"
"""The version of the seeds' API."""

SCHEME: Final = "x-api-key"


def configuration() -> OpenAPIConfig:
    """Only the JSON: every page that renders it would load its scripts from somebody else's server."""
    return OpenAPIConfig(
        title=TITLE,
        version=VERSION,
        path="/api/v1/docs",
        render_plugins=[JsonRenderPlugin(path="/openapi.json")],
        components=Components(
            security_schemes={
                SCHEME: SecurityScheme(
                    type="apiKey",
                    name=SCHEME,
                    security_scheme_in="header",
                    description="`pk_<environment>_...` for browsers and apps, `sk_<environment>_...` for servers.",
                )
            }
        ),
        security=[{SCHEME: []}],
    )
