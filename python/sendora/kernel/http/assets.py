"""The browser's files under /sdk: a fixed table, read once. Outside of keys, limits and the document, as in `health`.

There is one version, the server's own, so there are no paths with a version: a page that pinned one would break on the
day of an upgrade. Browsers keep a file for an hour and then ask whether it has changed.
"""

import hashlib
from importlib.resources import files
from typing import Any, Final

from litestar import Request, Response, get

SCRIPT: Final = "text/javascript"

FILES: Final = {
    "sendora.js": SCRIPT,
    "sw.js": SCRIPT,
    # What editors and `tsc` read; it has no type of its own.
    "sendora.d.ts": "text/plain",
}

HEADERS: Final = {
    "cache-control": "public, max-age=3600",
    # An answer to another origin says so, and a cache must not give a page the one without (B252).
    "vary": "origin",
    "cross-origin-resource-policy": "cross-origin",
    "x-content-type-options": "nosniff",
}


def handlers() -> list[Any]:
    return [_handler(name, media_type) for name, media_type in FILES.items()]


def _handler(name: str, media_type: str) -> Any:
    content = (files("sendora") / "sdk" / "browser" / name).read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "etag": etag}
    if name == "sw.js":
        # Where the API stands behind the page's own origin, the worker may have all of it and not only /sdk.
        headers["service-worker-allowed"] = "/"

    @get(f"/sdk/{name}", include_in_schema=False, sync_to_thread=False)
    def asset(request: Request[Any, Any, Any]) -> Response[bytes]:
        known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
        if etag in known or known == ["*"]:
            return Response(b"", status_code=304, headers=headers, media_type=media_type)
        return Response(content, headers=headers, media_type=media_type)

    return asset
