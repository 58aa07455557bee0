"""The files for browsers: what they are, who may load them, and how long they are kept."""

import re

import httpx
import pytest
from tests.api import serve

from sendora.kernel.http.assets import ASSETS
from sendora.kernel.life import Kernel


@pytest.mark.parametrize("path", ASSETS)
@pytest.mark.rule("B252")
async def test_a_file_of_the_browsers(kernel: Kernel, path: str) -> None:
    """Any page may load it without a key, and a cache asks whether it has changed and is told that it has not."""
    async with serve(kernel, []) as api:
        origin = ("origin", "https://shop.example")
        got = await api.plain("GET", path, [origin])
        assert got.status_code == 200 and got.content
        assert got.headers["content-type"] == f"{ASSETS[path].media_type}; charset=utf-8"
        assert got.headers["access-control-allow-origin"] == "*"
        assert got.headers["cross-origin-resource-policy"] == "cross-origin"
        assert "origin" in got.headers["vary"].lower()
        assert got.headers["cache-control"] == "public, max-age=3600"
        assert got.headers.get("service-worker-allowed") == ("/" if path == "/sdk/sw.js" else None)
        etag = got.headers["etag"]
        head = await api.plain("HEAD", path)
        assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", etag)
        assert head.headers["content-length"] == str(len(got.content))
        for said in (etag, f'"other", W/{etag}', "*"):
            same = await api.plain("GET", path, [("if-none-match", said), origin])
            assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
            assert same.headers["access-control-allow-origin"] == "*"
        changed = await api.plain("GET", path, [("if-none-match", '"other"')])
        assert (changed.status_code, changed.content) == (200, got.content)
        assert "access-control-allow-origin" not in changed.headers


@pytest.mark.parametrize("path", ["/sdk/", "/sdk/secrets", "/sdk/../app.py", "/sdk/%2e%2e/app.py", "/sdk/sendora.js/x"])
async def test_nothing_else_is_there(kernel: Kernel, path: str) -> None:
    async with serve(kernel, []) as api:
        missing: httpx.Response = await api.plain("GET", path)
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "NOT_FOUND")
        assert (await api.plain("POST", "/sdk/sw.js")).status_code == 405


async def test_the_reference_asks_nobody_else(kernel: Kernel) -> None:
    """Everything that the page names is the server's own, and the browser is told to load nothing from elsewhere."""
    async with serve(kernel, []) as api:
        page = await api.plain("GET", "/docs")
        assert page.headers["content-security-policy"].startswith("default-src 'self';")
        named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert named and set(named) < set(ASSETS)
