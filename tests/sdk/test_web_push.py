"""A browser subscribes, gets a push, shows it, is clicked: against the whole cluster, from a site on another origin.

Headless Chromium has no push service. So the page's `PushManager.subscribe` gives out a subscription of the
simulator's, whose log tells what was sent to it, decrypted; and that is handed to the page's worker as a push service
would.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.conftest import eventually
from tests.sdk.browser import Refused, Tab
from tests.sdk.site import Site
from tests.world import LIMIT, POLL_S, World, cluster, settle

from sendora.cluster import Cluster
from sendora.kernel.pg import Database
from sendora.modules import orgs

PUSH_SERVICE = """
(() => {
  const key = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
  window.subscribed = [];
  const subscription = (minted) => ({
    endpoint: minted.endpoint,
    toJSON: () => ({ ...minted, expirationTime: null }),
    unsubscribe: async () => (localStorage.removeItem("minted"), true),
  });
  PushManager.prototype.subscribe = async function (options) {
    subscribed.push([options.userVisibleOnly, options.applicationServerKey.length]);
    localStorage.setItem("minted", JSON.stringify(minted));
    return subscription(minted);
  };
  PushManager.prototype.getSubscription = async () => {
    const kept = localStorage.getItem("minted");
    return kept && subscription(JSON.parse(kept));
  };
  Notification.requestPermission = () => { window.asked = true; return Promise.resolve("denied"); };
  window.minted = %s;
})();
"""

SHOWN = """
const registration = await navigator.serviceWorker.getRegistration();
return (await registration.getNotifications()).map(({ title, body, icon, image, data, actions }) =>
  ({ title, body, icon, image, data, actions }));
"""

WATCH = """
self.shown = 0;
const show = ServiceWorkerRegistration.prototype.showNotification;
ServiceWorkerRegistration.prototype.showNotification = async function (...given) {
  await show.apply(this, given);
  self.shown += 1;
};
self.opened = [];
self.clients.openWindow = async (url) => { self.opened.push(url); return null; };
"""
"""What the worker does is counted: Chromium forgets a notification that is asked for before it is on the screen."""

CLICK = """
const [notification] = await self.registration.getNotifications();
self.dispatchEvent(new NotificationEvent("notificationclick", { notification, action: %s }));
return self.opened.splice(0);
"""


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Cluster]:
    async with cluster("sdk") as started:
        yield started


@pytest.fixture
async def world(running: Cluster) -> AsyncIterator[World]:
    async with settle(running) as settled:
        yield settled
    running.check()


class Shop:
    """A page of the site with the SDK of the cluster in it."""

    def __init__(self, world: World, site: Site, tab: Tab) -> None:
        self.world = world
        self.site = site
        self.tab = tab

    async def open(self, options: str = "autoTrack: false", key: str | None = None) -> None:
        await self.tab.go(f"{self.site.url}/shop")
        await self.tab.run(
            f"window.sdk = await import('{self.world.cluster.url}/sdk/sendora.js');"
            f"window.sendora = sdk.init({{ publicKey: '{key or self.world.keys.public_key}', {options} }})"
        )

    async def mint(self, name: str) -> dict[str, Any]:
        """What the push service gives to whoever subscribes from the next page on."""
        minted = await self.subscription(name)
        await self.tab.before_pages(PUSH_SERVICE % json.dumps(minted))
        return minted

    async def subscription(self, name: str) -> dict[str, Any]:
        asked = {"transport": "webpush", "tokens": [name]}
        minted: dict[str, Any]
        (minted,) = (await self.world.cluster.ask_simulator("POST", "/_/mint", asked))["tokens"]
        return minted

    async def allow(self) -> None:
        """What the visitor has answered to the browser's question."""
        await self.tab.grant(self.site.url, "notifications")

    async def subscribe(self) -> dict[str, Any]:
        device: dict[str, Any] = await self.tab.run("return sendora.webPush.subscribe('/sw.js')")
        await self.tab.in_worker(WATCH)
        return device

    async def push(self, message: dict[str, Any] | str) -> list[dict[str, Any]]:
        """What is on the screen once the worker has shown it."""
        before = await self.tab.in_worker("return self.shown")
        await self.tab.push(self.site.url, message if isinstance(message, str) else json.dumps(message))
        await eventually(lambda: self._shown_after(before), 30, POLL_S)
        shown: list[dict[str, Any]] = await self.tab.run(SHOWN)
        return shown

    async def _shown_after(self, before: int) -> bool:
        return bool(await self.tab.in_worker("return self.shown") > before)


@pytest.fixture
async def shop(world: World, site: Site, tab: Tab) -> Shop:
    site.worker = f"importScripts('{world.cluster.url}/sdk/sw.js');"
    return Shop(world, site, tab)


@pytest.mark.rule("B247", "B250", "B251", "B252", "B253", "C93")
async def test_from_the_subscription_to_the_click(shop: Shop) -> None:
    """B253: the worker at the path that the page names; B250: what it shows; B251, B252: what it tells after the click,
    across origins; C93: the receipt."""
    world, tab = shop.world, shop.tab
    minted = await shop.mint("ok-shop")
    await shop.allow()
    await shop.open()
    await tab.run("await sendora.identify('ada', { plan: 'pro' })")
    device = await shop.subscribe()
    assert (device["token"], device["userId"], device["isActive"]) == (minted["endpoint"], "ada", True)
    assert await tab.run("return [subscribed, window.asked ?? null]") == [[[True, 65]], None]
    scripts = await tab.run(
        "return (await navigator.serviceWorker.getRegistrations()).map((one) => new URL(one.active.scriptURL).pathname)"
    )
    assert scripts == ["/sw.js"]

    data = {"url": "/orders/7"}
    buttons = [
        {"id": "track", "title": "Track", "url": "/orders/7/track", "icon": "square.and.arrow.up"},
        {"id": "later", "title": "Later"},
    ]
    said = {"title": "Shipped", "body": "On its way", "data": data, "actions": buttons, "icon": "/icon.png"}
    await world.cluster.ask_simulator("POST", "/_/switches", {"logPayloads": True})
    send = await world.sent(userIds=["ada"], **said)
    await world.cluster.ask_simulator("POST", "/_/switches", {"logPayloads": None})
    (pushed,) = await world.pushed(send)
    assert (pushed.transport, pushed.title, pushed.body, pushed.status) == ("webpush", "Shipped", "On its way", 201)
    ids = {"sendoraSendId": str(send), "sendoraDeliveryId": pushed.delivery_id}
    assert pushed.send_id == str(send) and pushed.delivery_id is not None

    # What the worker is handed is what the sender has sent, as the simulator decrypted it.
    assert pushed.payload is not None
    (notification,) = await shop.push(pushed.payload)
    assert (notification["title"], notification["body"]) == ("Shipped", "On its way")
    assert notification["icon"] == f"{shop.site.url}/icon.png"
    assert notification["data"].items() >= {**data, **ids}.items()
    assert [(one["action"], one["title"]) for one in notification["actions"]] == [
        ("track", "Track"),
        ("later", "Later"),
    ]

    async def recipient() -> dict[str, Any]:
        (found,) = await world.server.get(f"/push/sends/{send}/recipients")
        return dict(found)

    async def delivered() -> dict[str, Any]:
        found = await recipient()
        assert found["deliveredAt"], found
        return found

    assert not (await eventually(delivered))["openedAt"]
    assert await tab.in_worker(CLICK % '""') == [f"{shop.site.url}/orders/7"]

    async def opened() -> dict[str, Any]:
        found = await recipient()
        assert found["openedAt"], found
        return found

    assert not (await eventually(opened))["clickedAt"]
    assert not await tab.run(SHOWN), "a click closes it"

    # A button: its own address, and its name.
    await shop.push(pushed.payload)
    assert await tab.in_worker(CLICK % '"track"') == [f"{shop.site.url}/orders/7/track"]

    async def clicked() -> dict[str, Any]:
        found: dict[str, Any] = await world.server.get(f"/push/sends/{send}")
        assert found["clickAction"] == "track", found
        return found

    assert (await eventually(clicked))["clickedAt"]


@pytest.mark.rule("B250", "B251")
async def test_messages_that_are_not_as_usual(shop: Shop) -> None:
    """A silent one shows nothing; without an address, or with one for apps alone, "/" opens; text that is no JSON is
    shown as it is."""
    tab, site = shop.tab, shop.site
    home = f"{site.url}/"
    await shop.mint("ok-odd")
    await shop.allow()
    await shop.open()
    await shop.subscribe()
    await tab.push(site.url, json.dumps({"silent": True, "data": {}}))
    for message, title, opens in (
        ({"title": "Bare"}, "Bare", home),
        ({"title": "App", "data": {"url": "shop://orders/7"}}, "App", home),
        ({"title": "Far", "data": {"url": "https://far.test/x"}}, "Far", "https://far.test/x"),
        ("just text", "just text", home),
    ):
        # The silent one came before the first.
        assert [one["title"] for one in await shop.push(message)] == [title]
        assert await tab.in_worker(CLICK % '""') == [opens]


@pytest.mark.rule("B247")
async def test_the_question_is_the_sites_to_ask(shop: Shop) -> None:
    """B247: without a permission nothing is shown, asked, registered or sent."""
    await shop.mint("ok-never")
    await shop.open()
    assert await shop.tab.run("return Notification.permission") != "granted"
    with pytest.raises(Refused, match="requestPermission"):
        await shop.subscribe()
    assert await shop.tab.run("return [window.asked ?? null, subscribed]") == [None, []]
    assert await shop.tab.run("return (await navigator.serviceWorker.getRegistrations()).length") == 0
    assert await shop.world.devices() == {}


@pytest.mark.rule("B257")
async def test_a_subscription_that_the_browser_replaces(shop: Shop) -> None:
    """B257: the new one is registered, by the next page or by the worker; the old one is left to the next send."""
    tab, world = shop.tab, shop.world
    first = await shop.mint("ok-first")
    await shop.allow()
    await shop.open()
    await tab.run("await sendora.identify('ada')")
    old = await shop.subscribe()

    second = await shop.mint("ok-second")
    await tab.run("localStorage.removeItem('minted')")
    await shop.open()

    async def registered(endpoint: str) -> dict[str, Any]:
        found = {device["token"]: device for device in (await world.devices()).values()}
        assert endpoint in found, found
        return found[endpoint]

    assert (await eventually(lambda: registered(second["endpoint"])))["userId"] == "ada"
    assert (await world.devices())[old["id"]]["isActive"] is True, "nothing was deleted"

    third = await shop.mint("ok-third")
    await tab.in_worker(
        f"""
        PushManager.prototype.subscribe = async (options) => {{
          self.options = options;
          return {{ toJSON: () => ({json.dumps({**third, "expirationTime": None})}) }};
        }};
        self.dispatchEvent(new ExtendableEvent("pushsubscriptionchange"));
        """
    )
    assert (await eventually(lambda: registered(third["endpoint"])))["userId"] == "ada"
    vapid = await world.app.get("/push/vapid")
    assert await tab.in_worker("return [options.userVisibleOnly, options.applicationServerKey]") == [
        True,
        vapid["publicKey"],
    ]
    assert sorted(one["token"] for one in (await world.devices()).values()) == sorted(
        one["endpoint"] for one in (first, second, third)
    )


@pytest.mark.rule("C36")
async def test_signing_out_and_in_again(shop: Shop) -> None:
    """C36: out of service after the logout, in service again after the login, whoever it is; an anonymous visitor's
    device becomes the user's."""
    tab = shop.tab
    await shop.mint("ok-shared")
    await shop.allow()
    await shop.open()
    anonymous = await tab.run("return sendora.anonymousId")
    id_ = (await shop.subscribe())["id"]

    async def stands(user: str, active: bool) -> None:
        device = (await shop.world.devices())[id_]
        assert (device["userId"], device["isActive"]) == (user, active), device

    await stands(anonymous, True)
    await tab.run("await sendora.identify('ada'); await sendora.flush()")
    await stands("ada", True)
    await tab.run("await sendora.logout()")
    await stands("ada", False)
    # A subscription that the browser replaces meanwhile is nobody's: it must not bring back who has left.
    await tab.in_worker(
        f"""
        let renewed;
        const event = new ExtendableEvent("pushsubscriptionchange");
        event.newSubscription = {{ toJSON: () => ({json.dumps(await shop.subscription("ok-replaced"))}) }};
        event.waitUntil = (work) => {{ renewed = work; }};
        self.dispatchEvent(event);
        await renewed;
        """
    )
    assert list(await shop.world.devices()) == [id_]
    await shop.open()
    await tab.run("await sendora.flush()")
    await stands("ada", False)
    await tab.run("await sendora.identify('ada'); await sendora.flush()")
    await stands("ada", True)
    # Retired by the server: the same user, who is still there, does not bring it back.
    await shop.world.app.call("DELETE", f"/push/tokens/{id_}")
    await tab.run("await sendora.identify('ada'); await sendora.flush()")
    await stands("ada", False)
    await tab.run("await sendora.identify('bob'); await sendora.flush()")
    await stands("bob", True)

    await tab.run("await sendora.webPush.unsubscribe(); await sendora.flush()")
    await stands("bob", False)
    await tab.run("await sendora.logout(); await sendora.identify('eve'); await sendora.flush()")
    await stands("bob", False)
    await shop.subscribe()
    await stands("eve", True)


@pytest.mark.rule("B051", "B056", "B057", "B252", "C27", "C28", "C29")
async def test_what_the_server_keeps(shop: Shop) -> None:
    """B051: what is tracked by itself counts like all else; B057: everything is of the key's project; B056, C27, C28,
    C29: as it was said in the page."""
    world, tab = shop.world, shop.tab
    db = await Database.open(world.cluster.settings.postgres)
    try:
        other = await orgs.create_project(db, world.keys.org, "other")
        minted = await orgs.create_key(db, world.keys.org, other, kind="pk", limit=LIMIT, plan="business")
    finally:
        await db.close()
    await shop.open("")
    await tab.run(
        """
        sendora.page("Checkout", { plan: "growth" });
        await sendora.identify({ userId: "ada", email: "ada@example.com", traits: { email: "trait@example.com" } });
        sendora.track("checkout_completed", { amount: 49.99 });
        await sendora.flush();
        """
    )
    await shop.open("autoTrack: false", minted.key)
    await tab.run("sendora.track('elsewhere'); await sendora.flush()")

    async def stored() -> list[tuple[Any, ...]]:
        rows = await world.fetch(
            "SELECT project_id, event_type, module FROM events WHERE org_id = $1 ORDER BY occurred_at, event_id",
            world.keys.org,
        )
        assert len(rows) >= 6, rows
        return [tuple(row) for row in rows]

    kept = await eventually(stored)
    mine = [(name, module) for project, name, module in kept if project == world.keys.project]
    assert [name for name, _ in mine if name != "user.identified"] == [
        "session.started",
        "page.viewed",
        "page_viewed",
        "checkout_completed",
    ]
    assert {module for name, module in mine if name != "user.identified"} == {"analytics"}
    assert [name for project, name, _ in kept if project == other] == ["elsewhere"]
    assert (await world.server.get("/usage"))["eventsThisMonth"] == len(kept)
    (ada,) = await eventually(lambda: world.server.get("/profiles?externalId=ada"))
    assert (ada["email"], ada["traits"]) == ("ada@example.com", {"email": "trait@example.com"})
