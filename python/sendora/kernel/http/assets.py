"""Files for browsers: the SDK's under /sdk, the API reference under /docs. A fixed table, read once. Outside of keys,
limits and the document, as in `health`.

There is one version, the server's own, so there are no paths with a version: a page that pinned one would break on the
day of an upgrade. Browsers keep a file for an hour and then ask whether it has changed.
"""

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from litestar import HttpMethod, Request, Response, route

SCRIPT: Final = "text/javascript"
STYLE: Final = "text/css"
PAGE: Final = "text/html"
TEXT: Final = "text/plain"

HEADERS: Final = {
    "cache-control": "public, max-age=3600",
    # An answer to another origin says so, and a cache must not give a page the one without (B252).
    "vary": "origin",
    "cross-origin-resource-policy": "cross-origin",
    "x-content-type-options": "nosniff",
}

ALONE: Final = {
    # The reference shows what is the server's own, and asks nobody else for anything.
    "content-security-policy": "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'",
}


class Asset(NamedTuple):
    """A file of the package, by its path from there."""

    file: str
    media_type: str
    headers: Mapping[str, str] = MappingProxyType({})


ASSETS: Final = {
    "/sdk/sendora.js": Asset("sdk/browser/sendora.js", SCRIPT),
    # Where the API stands behind the page's own origin, the worker may have all of it and not only /sdk.
    "/sdk/sw.js": Asset("sdk/browser/sw.js", SCRIPT, {"service-worker-allowed": "/"}),
    # What editors and `tsc` read; it has no type of its own.
    "/sdk/sendora.d.ts": Asset("sdk/browser/sendora.d.ts", TEXT),
    "/docs": Asset("docs/index.html", PAGE, ALONE),
    "/docs/reference.js": Asset("docs/reference.js", SCRIPT),
    "/docs/swagger-ui-bundle.js": Asset("docs/swagger-ui-bundle.js", SCRIPT),
    "/docs/swagger-ui.css": Asset("docs/swagger-ui.css", STYLE),
}


def handlers() -> list[Any]:
    return [_handler(path, asset) for path, asset in ASSETS.items()]


def _handler(path: str, asset: Asset) -> Any:
    content = files("sendora").joinpath(asset.file).read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, **asset.headers, "etag": etag}

    @route(path, http_method=[HttpMethod.GET, HttpMethod.HEAD], include_in_schema=False, sync_to_thread=False)
    def read(request: Request[Any, Any, Any]) -> Response[bytes]:
        known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
        if etag in known or known == ["*"]:
            return Response(b"", status_code=304, headers=headers, media_type=asset.media_type)
        if request.method == "HEAD":
            told = {**headers, "content-length": str(len(content))}
            return Response(b"", headers=told, media_type=asset.media_type)
        return Response(content, headers=headers, media_type=asset.media_type)

    return read
