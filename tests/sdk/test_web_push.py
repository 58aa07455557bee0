"""Web Push from end to end: a browser registers, the cluster sends, the worker shows, a click comes back.

A headless browser has no push service. So its subscription is one that the simulator minted, the simulator takes and
decrypts what the cluster sends, and the DevTools protocol hands the browser's worker the text that was encrypted.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec
import pytest
from tests.chrome import Chrome, Refused, Target
from tests.conftest import eventually
from tests.sdk.conftest import Shop, Site
from tests.world import Pushed, World

from sendora.modules.push import webpush
from sendora.modules.push.model.content import Action, Raw
from sendora.modules.push.parts import Address, Parts

SUBSCRIBED = """
  window.subscriptions = given[0];
  window.asked = [];
  const current = () => window.subscriptions[0];
  PushManager.prototype.subscribe = async (options) => (window.asked.push(options), window.live = made(options));
  PushManager.prototype.getSubscription = async () => window.live ?? null;
  const made = (options) => ({
    endpoint: current().endpoint,
    options,
    toJSON: () => ({ ...current(), expirationTime: null }),
    unsubscribe: async () => { window.live = null; return true; },
  });
  window.rotate = () => { window.subscriptions.shift(); window.live = made(window.live.options); };
  Notification.requestPermission = () => { window.prompted = true; };
"""
"""A push service in the page: it hands out what the simulator minted."""

ACTIONS = [Action(id="track", title="Track", url="/tracking/42"), Action(id="share", title="Share")]


async def subscribed(shop: Shop, site: Site, world: World, browser: Chrome, *names: str) -> list[dict[str, Any]]:
    """The page has permission and a push service; the subscriptions that it will hand out."""
    minted = await world.cluster.ask_simulator("POST", "/_/mint", {"transport": "webpush", "tokens": list(names)})
    subscriptions: list[dict[str, Any]] = minted["tokens"]
    await shop.start()
    await shop.run(SUBSCRIBED, subscriptions)
    await browser.grant(shop.target, site.pages, "notifications")
    return subscriptions


async def deliver(shop: Shop, site: Site, text: str) -> None:
    """Hands the worker of this page a push message."""
    await shop.target.call("ServiceWorker.enable")

    async def registered() -> str | None:
        told = shop.target.told("ServiceWorker.workerRegistrationUpdated")
        known = [one for said in told for one in said["registrations"] if one["scopeURL"] == f"{site.pages}/"]
        return known[-1]["registrationId"] if known else None

    id_ = await eventually(registered)
    await shop.target.call("ServiceWorker.deliverPushMessage", origin=site.pages, registrationId=id_, data=text)


async def shown(shop: Shop, title: str) -> dict[str, Any]:
    """The notification with this title, once it is there."""

    async def there() -> dict[str, Any]:
        listed = await shop.run(
            """const registration = await navigator.serviceWorker.ready;
            return (await registration.getNotifications()).map(({ title, body, icon, image, data, actions }) =>
              ({ title, body, icon, image, data, actions: actions.map(({ action, title }) => ({ action, title })) }))"""
        )
        found = [one for one in listed if one["title"] == title]
        assert len(found) == 1, listed
        notification: dict[str, Any] = found[0]
        return notification

    return await eventually(there)


async def click(worker: Target, action: str) -> str:
    """Clicks the only notification; the URL that the worker opens. An event made by a script may not be waited for and
    may open no window, so the worker hears of neither."""
    opened: str = await worker.run(
        """async (action) => {
          const [notification] = await self.registration.getNotifications();
          ExtendableEvent.prototype.waitUntil = () => {};
          const opened = new Promise((resolve) => { self.clients.openWindow = async (url) => resolve(url); });
          self.dispatchEvent(new NotificationEvent("notificationclick", { notification, action }));
          return await opened;
        }""",
        action,
    )
    return opened


def plaintext(pushed: Pushed, data: Mapping[str, Any]) -> str:
    """What the simulator decrypted, by the builder of the sender: its log keeps the words and the ids of it."""
    assert pushed.send_id is not None and pushed.delivery_id is not None
    parts = Parts(
        send=UUID(pushed.send_id),
        data=data,
        actions=ACTIONS,
        critical=None,
        interruption=None,
        silent=False,
        collapse_id=None,
        icon="/icon.png",
        image=None,
        raw=Raw(),
        expires_at_s=0,
        now_or_never=False,
        urgent=True,
    )
    address = Address(
        position=0,
        recipient=UUID(pushed.delivery_id[32:]),
        platform="web",
        token=pushed.token,
        subscription=None,
        environment="production",
        bundle_id=None,
        user_id=None,
        title=pushed.title or "",
        body=pushed.body or "",
        variant=None,
    )
    return webpush.plaintext(parts, address).decode()


@pytest.mark.rule("B250", "B251", "B252", "B253", "C38", "C39")
@pytest.mark.parametrize(("action", "opens"), [("", "/orders/42"), ("track", "/tracking/42"), ("share", "/orders/42")])
async def test_a_push_from_the_call_to_the_click(
    browser: Chrome, shop: Shop, site: Site, world: World, action: str, opens: str
) -> None:
    """A notification shows, its arrival is told, and the click is told from another origin and opens the right page."""
    await subscribed(shop, site, world, browser, "ok-browser")
    device = await shop.run("await sendora.identify('ada'); return await sendora.webPush.subscribe('/sw.js')")
    assert (device["userId"], device["platform"], device["isActive"]) == ("ada", "web", True)
    data = {"orderId": "ord_42", "url": "/orders/42"}
    send = await world.sent(
        userIds=["ada"],
        title="Order shipped",
        body="On its way",
        data=data,
        actions=msgspec.to_builtins(ACTIONS),
        icon="/icon.png",
    )
    [pushed] = await world.pushed(send)
    assert (pushed.title, pushed.body, pushed.send_id) == ("Order shipped", "On its way", str(send))
    await deliver(shop, site, plaintext(pushed, data))

    seen = await shown(shop, "Order shipped")
    assert (seen["body"], seen["icon"]) == ("On its way", f"{site.pages}/icon.png")
    assert seen["actions"] == [{"action": "track", "title": "Track"}, {"action": "share", "title": "Share"}]
    stamped = {**data, "sendoraSendId": str(send), "sendoraDeliveryId": pushed.delivery_id}
    assert {key: seen["data"][key] for key in stamped} == stamped
    [receipt] = await eventually(lambda: site.to("/push/receipts"))
    assert (receipt.body["sendId"], receipt.body["deliveryId"]) == (str(send), pushed.delivery_id)
    assert UUID(receipt.body["eventId"]).version == 7
    assert receipt.answer["data"]["accepted"] == 1

    worker = await browser.worker(f"{site.pages}/sw.js")
    assert await click(worker, action) == site.pages + opens
    [opened] = await eventually(lambda: site.to("/push/track-open"))
    assert opened.body == {"sendId": pushed.delivery_id, "clickAction": action or "body"}

    async def told() -> bool:
        [recipient] = await world.server.get(f"/push/sends/{send}/recipients")
        assert recipient["deliveredAt"] and recipient["openedAt"], recipient
        assert (recipient["clickedAt"] is not None) is (action != "")
        return True

    assert await eventually(told)


@pytest.mark.rule("B247", "B253")
async def test_nobody_is_asked_but_by_the_page(browser: Chrome, shop: Shop, site: Site, world: World) -> None:
    """B247: without a permission nothing happens, and nothing prompts; B253: the worker stands at the path given."""
    subscriptions = await subscribed(shop, site, world, browser, "ok-quiet")
    await browser.call("Browser.resetPermissions", {"browserContextId": shop.target.context})
    with pytest.raises(Refused, match="requestPermission"):
        await shop.run("await sendora.webPush.subscribe('/sw.js')")
    assert site.calls == []
    assert await shop.run("return [window.prompted, (await navigator.serviceWorker.getRegistrations()).length]") == [
        None,
        0,
    ]

    await browser.grant(shop.target, site.pages, "notifications")
    device = await shop.run("return await sendora.webPush.subscribe('/sw.js')")
    assert await shop.run("return (await navigator.serviceWorker.ready).active.scriptURL") == f"{site.pages}/sw.js"
    assert await shop.run("return window.prompted") is None
    [asked] = await shop.run(
        "return asked.map((one) => [one.userVisibleOnly, btoa(String.fromCharCode(...one.applicationServerKey))])"
    )
    vapid = (await world.app.get("/push/vapid"))["publicKey"]
    assert asked == [True, vapid.replace("-", "+").replace("_", "/") + "=" * (-len(vapid) % 4)]
    [said] = site.to("/push/tokens")
    anonymous = await shop.run("return sendora.anonymousId")
    assert said.body == {
        "platform": "web",
        "userId": anonymous,
        "locale": await shop.run("return navigator.language"),
        "timezone": await shop.run("return Intl.DateTimeFormat().resolvedOptions().timeZone"),
        "token": subscriptions[0]["endpoint"],
        "subscription": subscriptions[0],
    }
    # Once more changes nothing.
    again = await shop.run("return await sendora.webPush.subscribe('/sw.js')")
    assert again["id"] == device["id"]
    assert len(await shop.run("return asked")) == 1


@pytest.mark.rule("B086", "C36")
async def test_a_device_follows_its_person(browser: Chrome, shop: Shop, site: Site, world: World) -> None:
    """Nothing is sent to who has signed out; signing in brings the device back, to whoever it is."""
    await subscribed(shop, site, world, browser, "ok-shared")
    device = await shop.run("return await sendora.webPush.subscribe('/sw.js')")

    async def is_(user: str | None, active: bool) -> None:
        known = (await world.devices())[device["id"]]
        assert (known["userId"], known["isActive"]) == (user or known["userId"], active)

    for user in ("ada", "ada", "bob"):
        await shop.run("await sendora.identify(given[0])", user)
        assert site.to("/push/tokens")[-1].body["reactivate"] is True
        await is_(user, True)
        await shop.run("await sendora.logout()")
        await is_(user, False)
    await shop.run("await sendora.identify('bob'); await sendora.webPush.unsubscribe()")
    await is_("bob", False)
    assert await shop.run("return window.live") is None
    await shop.run("await sendora.identify('bob')")
    await is_("bob", False)


@pytest.mark.rule("B257")
async def test_a_new_subscription_takes_the_old_ones_place(
    browser: Chrome, shop: Shop, site: Site, world: World
) -> None:
    """It is registered when the page opens, and nothing is deleted first."""
    old, new = await subscribed(shop, site, world, browser, "ok-old", "ok-new")
    await shop.run("await sendora.identify('ada'); await sendora.webPush.subscribe('/sw.js')")
    await shop.run("rotate(); await sendora.webPush.renew()")
    assert [one.body["token"] for one in site.to("/push/tokens")] == [old["endpoint"], new["endpoint"]]
    assert not [one for one in site.calls if one.method == "DELETE"]
    devices = (await world.devices()).values()
    assert {(one["token"], one["userId"]) for one in devices} == {(old["endpoint"], "ada"), (new["endpoint"], "ada")}


@pytest.mark.rule("B251", "C39")
async def test_a_page_tells_of_an_open_itself(shop: Shop, site: Site, world: World) -> None:
    await world.device("ok-tab", "web", userId="ada")
    send = await world.sent(userIds=["ada"])
    await shop.start()
    await shop.run("await sendora.push.trackOpen(given[0]); await sendora.push.trackOpen(given[0], 'save')", str(send))
    assert [one.body for one in site.to("/push/track-open")] == [
        {"sendId": str(send)},
        {"sendId": str(send), "clickAction": "save"},
    ]
    with pytest.raises(Refused, match="not valid"):
        await shop.run("await sendora.push.trackOpen('nonsense')")
