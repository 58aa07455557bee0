"""Headless Chromium, driven over the DevTools protocol: as much of it as the tests of the SDK need.

    async with chromium() as browser, browser.tab() as tab:
        await tab.go("http://127.0.0.1:8000/")
        assert await tab.run("return document.title") == "Shop"

A tab has a profile of its own: nothing that one test stores is seen by another.
"""

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from tests.conftest import eventually

FOUND = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

FLAGS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    # A desktop that may not be there would be asked to show the first notification, and be waited for.
    "--disable-features=SystemNotifications",
)

START_S = 60.0
MESSAGE_MAX = 16 * 2**20


class Refused(Exception):
    """What the protocol, or the script in the page, says went wrong."""


class Browser:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.heard: list[dict[str, Any]] = []
        """Events, as they came."""

    async def listen(self) -> None:
        async for message in self._socket:
            said = message.json()
            if "id" not in said:
                self.heard.append(said)
            elif (waiting := self._waiting.pop(said["id"], None)) is not None and not waiting.done():
                waiting.set_result(said)
        for waiting in self._waiting.values():
            waiting.set_exception(Refused("the browser has gone"))

    async def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        id_ = next(self._ids)
        answer = self._waiting[id_] = asyncio.get_running_loop().create_future()
        addressed = {} if session is None else {"sessionId": session}
        await self._socket.send_json({"id": id_, "method": method, "params": params, **addressed})
        said = await asyncio.wait_for(answer, START_S)
        if "error" in said:
            raise Refused(f"{method}: {said['error']}")
        result: dict[str, Any] = said["result"]
        return result

    async def attach(self, target: str) -> str:
        session: str = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        return session

    async def evaluate(self, session: str, script: str) -> Any:
        """The body of an async function, and what it returns, as JSON."""
        said = await self.call(
            "Runtime.evaluate",
            session,
            expression=f"(async () => {{ {script} }})()",
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in said:
            raise Refused(said["exceptionDetails"].get("exception", {}).get("description", str(said)))
        return said["result"].get("value")

    @asynccontextmanager
    async def tab(self) -> AsyncIterator["Tab"]:
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        yield await self.open(context)
        await self.call("Target.disposeBrowserContext", browserContextId=context)

    async def open(self, context: str) -> "Tab":
        target = (await self.call("Target.createTarget", url="about:blank", browserContextId=context))["targetId"]
        session = await self.attach(target)
        for domain in ("Page", "Runtime", "Network", "ServiceWorker"):
            await self.call(f"{domain}.enable", session)
        return Tab(self, context, session)


class Tab:
    def __init__(self, browser: Browser, context: str, session: str) -> None:
        self._browser = browser
        self._context = context
        self._session = session
        self._workers: dict[str, str] = {}

    async def another(self) -> "Tab":
        """A tab beside this one, of the same visitor."""
        return await self._browser.open(self._context)

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        return await self._browser.call(method, self._session, **params)

    async def go(self, url: str) -> None:
        seen = len(self._browser.heard)
        await self.call("Page.navigate", url=url)
        await eventually(lambda: any(self._mine("Page.loadEventFired", seen)), START_S)

    async def run(self, script: str) -> Any:
        return await self._browser.evaluate(self._session, script)

    async def before_pages(self, script: str) -> None:
        """Runs in every page from now on, before anything of its own does."""
        await self.call("Page.addScriptToEvaluateOnNewDocument", source=script)

    async def grant(self, origin: str, *permissions: str) -> None:
        await self._browser.call(
            "Browser.grantPermissions", browserContextId=self._context, origin=origin, permissions=list(permissions)
        )

    async def offline(self, away: bool) -> None:
        await self.call(
            "Network.emulateNetworkConditions", offline=away, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )

    async def push(self, origin: str, text: str) -> None:
        """What a push service would hand to the page's worker, once it has been decrypted."""

        def registered() -> str | None:
            found = [
                one for said in self._mine("ServiceWorker.workerRegistrationUpdated") for one in said["registrations"]
            ]
            return found[-1]["registrationId"] if found else None

        registration = await eventually(registered)
        await self.call("ServiceWorker.deliverPushMessage", origin=origin, registrationId=registration, data=text)

    async def in_worker(self, script: str) -> Any:
        """As `run`, in the worker of this tab, which is never idle from then on: it is watched."""
        targets = (await self._browser.call("Target.getTargets"))["targetInfos"]
        (worker,) = (
            one for one in targets if one["type"] == "service_worker" and one["browserContextId"] == self._context
        )
        target = worker["targetId"]
        if target not in self._workers:
            self._workers[target] = await self._browser.attach(target)
        return await self._browser.evaluate(self._workers[target], script)

    def _mine(self, method: str, since: int = 0) -> list[dict[str, Any]]:
        heard = self._browser.heard[since:]
        return [one["params"] for one in heard if one["method"] == method and one.get("sessionId") == self._session]


def _address(file: Path) -> list[str] | None:
    """Port and path of the socket, once the browser has written both."""
    said = file.read_text().split() if file.exists() else []
    return said if len(said) == 2 else None


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    if FOUND is None:
        raise FileNotFoundError("no Chromium")
    with tempfile.TemporaryDirectory(prefix="sendora-browser-", ignore_cleanup_errors=True) as folder:
        flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else []), f"--user-data-dir={folder}"]
        quiet = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(FOUND, *flags, "about:blank", stdout=quiet, stderr=quiet)
        try:
            port, path = await eventually(partial(_address, Path(folder) / "DevToolsActivePort"), START_S)
            async with (
                aiohttp.ClientSession() as client,
                client.ws_connect(f"ws://127.0.0.1:{port}{path}", max_msg_size=MESSAGE_MAX) as socket,
            ):
                browser = Browser(socket)
                listening = asyncio.create_task(browser.listen())
                yield browser
                with suppress(Refused, ConnectionError):
                    await browser.call("Browser.close")
                await listening
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.terminate()
            await process.wait()
