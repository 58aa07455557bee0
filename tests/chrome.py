"""A headless Chromium, driven by hand over the DevTools protocol: as much of it as the tests of the browser SDK need.

    async with chrome() as browser:
        page = await browser.page("http://127.0.0.1:8000/")
        assert await page.run("async (n) => n + 1", 41) == 42

Every page has a profile of its own (a browser context), unless it is opened beside another one.
"""

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from tests.conftest import eventually

NAMES = ("chromium", "chromium-browser", "google-chrome")

ANSWER_S = 30.0
MESSAGE_MAX = 16 * 2**20

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root has none, and the pages are ours
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-port=0",
)


def found() -> str | None:
    """The browser's command; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Refused(RuntimeError):
    """The browser did not do it, or what was run in it threw."""


class Target:
    """A page or a worker."""

    def __init__(self, browser: "Chrome", id_: str, session: str, context: str | None) -> None:
        self.id = id_
        self.context = context
        self._browser = browser
        self._session = session

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        return await self._browser.call(method, params, self._session)

    async def run(self, function: str, *args: Any) -> Any:
        """The JSON value that this function of JavaScript returns; raises Refused with what it throws."""
        given = ", ".join(msgspec.json.encode(arg).decode() for arg in args)
        said = await self.call(
            "Runtime.evaluate",
            expression=f"({function})({given})",
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in said:
            raise Refused(said["exceptionDetails"].get("exception", {}).get("description") or said["exceptionDetails"])
        return said["result"].get("value")

    async def before(self, script: str) -> None:
        """Run this in each document before its own scripts."""
        await self.call("Page.addScriptToEvaluateOnNewDocument", source=script)

    async def go(self, url: str) -> None:
        marker = f"left-{next(_numbers)}"
        await self.run("(marker) => { window.__left = marker }", marker)
        await self.call("Page.navigate", url=url)

        async def there() -> bool:
            state = "(marker) => document.readyState === 'complete' && window.__left !== marker"
            return bool(await self.run(state, marker))

        await eventually(there)

    async def close(self) -> None:
        await self._browser.call("Target.closeTarget", {"targetId": self.id})

    def told(self, method: str) -> list[dict[str, Any]]:
        """The parameters of the events of this name, as they came."""
        return [event["params"] for event in self._browser.events if _is(event, method, self._session)]


class Chrome:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.events: list[dict[str, Any]] = []
        self._socket = socket
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def read(self) -> None:
        async for message in self._socket:
            said = msgspec.json.decode(message.data)
            if "id" not in said:
                self.events.append(said)
            elif (waiting := self._waiting.pop(said["id"], None)) is not None and not waiting.done():
                waiting.set_result(said)

    async def call(
        self, method: str, params: dict[str, Any] | None = None, session: str | None = None
    ) -> dict[str, Any]:
        number = next(_numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        request = {"id": number, "method": method, "params": params or {}}
        await self._socket.send_str(msgspec.json.encode(request | ({"sessionId": session} if session else {})).decode())
        said = await asyncio.wait_for(self._waiting[number], ANSWER_S)
        if "error" in said:
            raise Refused(f"{method}: {said['error']['message']}")
        result: dict[str, Any] = said["result"]
        return result

    async def page(self, url: str = "about:blank", beside: Target | None = None) -> Target:
        if beside is None:
            context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        else:
            context = beside.context
        made = await self.call("Target.createTarget", {"url": "about:blank", "browserContextId": context})
        page = await self.attach(made["targetId"], context)
        await page.call("Page.enable")
        if url != "about:blank":
            await page.go(url)
        return page

    async def attach(self, id_: str, context: str | None = None) -> Target:
        said = await self.call("Target.attachToTarget", {"targetId": id_, "flatten": True})
        return Target(self, id_, said["sessionId"], context)

    async def worker(self, url: str) -> Target:
        """The service worker with this URL."""

        async def there() -> str | None:
            listed = (await self.call("Target.getTargets"))["targetInfos"]
            return next(
                (one["targetId"] for one in listed if (one["type"], one["url"]) == ("service_worker", url)), None
            )

        id_ = await eventually(there)
        assert id_ is not None
        return await self.attach(id_)

    async def grant(self, page: Target, origin: str, *permissions: str) -> None:
        given = {"origin": origin, "permissions": list(permissions), "browserContextId": page.context}
        await self.call("Browser.grantPermissions", given)


@asynccontextmanager
async def chrome() -> AsyncIterator[Chrome]:
    command = found()
    assert command is not None, "no browser"
    with tempfile.TemporaryDirectory(prefix="sendora-chrome-", ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            command,
            *FLAGS,
            f"--user-data-dir={folder}",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            # The port, then the path of the browser's own socket.
            port, path = await eventually(lambda: _address(Path(folder) / "DevToolsActivePort"), 30.0)
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(f"ws://127.0.0.1:{port}{path}", max_msg_size=MESSAGE_MAX) as socket,
            ):
                browser = Chrome(socket)
                reading = asyncio.create_task(browser.read())
                yield browser
                await browser.call("Browser.close")
                await reading
            await asyncio.wait_for(process.wait(), ANSWER_S)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


_numbers = itertools.count(1)


def _address(file: Path) -> list[str]:
    lines = file.read_text().split() if file.exists() else []
    return lines if len(lines) == 2 else []


def _is(event: dict[str, Any], method: str, session: str) -> bool:
    return event.get("method") == method and event.get("sessionId") == session
