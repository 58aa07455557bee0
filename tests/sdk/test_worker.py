"""What the service worker tells the server, word for word, and that it says so again when the server is in trouble."""

import json

import pytest
from tests.conftest import eventually
from tests.sdk.browser import Tab
from tests.sdk.site import Site

SEND = "0198c0de-0000-7000-8000-000000000002"
DELIVERY = "ab" * 32
MESSAGE = {
    "title": "Shipped",
    "sendoraSendId": SEND,
    "sendoraDeliveryId": DELIVERY,
    "data": {"sendoraSendId": SEND, "sendoraDeliveryId": DELIVERY},
    "actions": [{"id": "track", "action": "track", "title": "Track"}],
}


async def register(tab: Tab, site: Site) -> None:
    """The address says where to tell it, and by which key."""
    site.worker = "importScripts('/sdk/sw.js');"
    await tab.grant(site.url, "notifications")
    await tab.go(f"{site.url}/")
    await tab.run(
        f"await navigator.serviceWorker.register('/sw.js?sendoraApi={site.url}&sendoraKey=pk_prod_test');"
        "await navigator.serviceWorker.ready"
    )


@pytest.mark.rule("B032", "C93", "C94")
async def test_a_receipt(tab: Tab, site: Site) -> None:
    """B032: sent again, and the same one; also of a message that shows nothing."""
    await register(tab, site)
    site.planned.append((503, {}))
    await tab.push(site.url, json.dumps(MESSAGE))
    await eventually(lambda: len(site.asked) == 2)
    first, second = site.asked
    assert first == second
    assert (first.method, first.path, first.key) == ("POST", "/push/receipts", "pk_prod_test")
    assert set(first.body) == {"sendId", "deliveryId", "deliveredAt", "eventId"}
    assert (first.body["sendId"], first.body["deliveryId"]) == (SEND, DELIVERY)
    assert first.body["eventId"][14] == "7"

    silent = {"silent": True, "data": MESSAGE["data"]}
    await tab.push(site.url, json.dumps(silent))
    await eventually(lambda: len(site.asked) == 3)
    assert site.asked[2].body["deliveryId"] == DELIVERY
    assert site.asked[2].body["eventId"] != first.body["eventId"]


@pytest.mark.rule("B251", "C38", "C39")
@pytest.mark.parametrize(("action", "told"), [("", "body"), ("track", "track")])
async def test_a_click(tab: Tab, site: Site, action: str, told: str) -> None:
    """B251: an action's id, or "body"; C38: by the id that says whose it was."""
    await register(tab, site)
    await tab.push(site.url, json.dumps(MESSAGE))
    await eventually(lambda: site.at("/push/receipts"))
    await tab.in_worker(
        f"""
        self.clients.openWindow = async () => null;
        const notification = {{ data: {json.dumps(MESSAGE["data"])}, close() {{}} }};
        const event = new ExtendableEvent("notificationclick");
        self.dispatchEvent(Object.assign(event, {{ notification, action: "{action}" }}));
        """
    )
    (opened,) = await eventually(lambda: site.at("/push/track-open"))
    assert (opened.method, opened.key) == ("POST", "pk_prod_test")
    assert opened.body == {"sendId": DELIVERY, "clickAction": told}
