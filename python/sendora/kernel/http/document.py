"""The OpenAPI document of the Sendora surface, generated from the handlers (B001, B213), and what is made of it:

/api/v1/docs/openapi.json    the document
/api/v1/docs/postman.json    the same as a Postman collection
/docs                        the same as a page (assets.py)
"""

from typing import Any, Final

from litestar import Request, get
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from sendora.kernel.http.postman import collection

TITLE: Final = "Sendora Cloud"
VERSION: Final = "1.2.0"
"""The version of the seeds' API."""

SCHEME: Final = "x-api-key"


def configuration() -> OpenAPIConfig:
    """Only the JSON: the pages that Litestar brings load their scripts from somebody else's server."""
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


@get("/api/v1/docs/postman.json", include_in_schema=False, sync_to_thread=False)
def postman(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """As the server is reached by whoever asks."""
    return collection(request.app.openapi_schema.to_schema(), str(request.base_url).rstrip("/"))
