"""A browser for the session, a site and a profile for each test."""

from collections.abc import AsyncIterator

import pytest
from tests.sdk.browser import FOUND, Browser, Tab, chromium
from tests.sdk.site import Site, serve


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    if FOUND is None:
        pytest.skip("no Chromium on this machine")
    async with chromium() as started:
        yield started


@pytest.fixture
async def tab(browser: Browser) -> AsyncIterator[Tab]:
    async with browser.tab() as opened:
        yield opened


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with serve() as served:
        yield served
