"""What a push says is what was written, on the send or in the template that it names: nothing is added or rewritten."""

from typing import Any

import msgspec
import pytest
from tests.api import Api
from tests.make import Make, Org
from tests.modules.push.conftest import ACCOUNT, APNS
from tests.modules.push.test_channel import asked, built, devices
from tests.modules.push.test_providers_wire import address, parts

from sendora.kernel.life import Kernel
from sendora.modules.push import apns, fcm, webpush
from sendora.modules.push.model.content import Action

CRITICAL = {"soundName": "siren.caf", "volume": 0.5}

LINKS = {
    "url": "https://shop.example/p/1?utm_source=push&x=%7B1%7D#top",
    "deep": ["shop://cart?id=7", {"url": "HTTPS://Other.Example:8443/ä b"}],
}


@pytest.fixture
async def shop(api: Api, org: Org) -> Org:
    """An org with both credentials."""
    assert (await api.put("/push/providers/apns", APNS, key=org.sk)).status == 200
    assert (await api.put("/push/providers/fcm", {"serviceAccount": ACCOUNT}, key=org.sk)).status == 200
    return org


@pytest.mark.rule("B098", "B106")
@pytest.mark.parametrize("where", ["send", "template", "both"])
async def test_a_critical_alert_from_either_place(kernel: Kernel, api: Api, make: Make, shop: Org, where: str) -> None:
    """B098: `criticalAlert` may sit on the send or on its template; the send's own wins."""
    (phone,) = await devices(make, shop, "anna")
    quieter = {**CRITICAL, "volume": 0.1}
    template = {"name": "t", "title": "T", "body": "B", "criticalAlert": quieter if where == "both" else CRITICAL}
    if where == "send":
        template["criticalAlert"] = None
    made = await api.post("/push/templates", template, key=shop.sk)
    said: dict[str, Any] = {"userIds": ["anna"], "templateId": made.data["id"]}
    if where != "template":
        said["criticalAlert"] = CRITICAL
    _, _, (call,), _ = await built(kernel, await asked(api, kernel, shop, **said), [phone])
    aps = msgspec.json.decode(call.body)["aps"]
    assert aps["sound"] == {"critical": 1, "name": "siren.caf", "volume": 0.5}
    assert aps["interruption-level"] == "critical"


@pytest.mark.rule("B265")
async def test_links_are_not_rewritten(kernel: Kernel, api: Api, make: Make, shop: Org) -> None:
    """B265: no deep link is wrapped: an address in `data`, on a button or in the words arrives as it was given."""
    (phone,) = await devices(make, shop, "anna")
    button = {"id": "go", "title": "Go", "url": "https://shop.example/r?to=shop%3A%2F%2Fx"}
    made = await api.post(
        "/push/templates", {"name": "t", "title": "T", "body": "https://shop.example/b", "data": LINKS}, key=shop.sk
    )
    send = await asked(api, kernel, shop, userIds=["anna"], body=None, templateId=made.data["id"], actions=[button])
    _, _, (call,), _ = await built(kernel, send, [phone])
    body = msgspec.json.decode(call.body)
    assert {name: body["data"][name] for name in LINKS} == LINKS
    assert [action["url"] for action in body["actions"]] == [button["url"]]
    assert body["aps"]["alert"]["body"] == "https://shop.example/b"


@pytest.mark.rule("B265")
def test_links_are_not_rewritten_for_any_transport() -> None:
    """B265: on the way through any of the builders."""
    said = parts(data={"url": LINKS["url"]}, actions=[Action(id="go", title="Go", url="https://shop.example/?a=%7B")])
    for payload in (
        apns.payload(said, address()),
        msgspec.json.encode(fcm.message(said, address(platform="android"))),
        webpush.plaintext(said, address(platform="web")),
    ):
        text = payload.decode().replace("\\", "")  # FCM's data holds JSON as text.
        assert f'"url":"{LINKS["url"]}"' in text
        assert '"url":"https://shop.example/?a=%7B"' in text


@pytest.mark.rule("B098")
async def test_a_template_that_is_gone_leaves_a_send_its_own_words(
    kernel: Kernel, api: Api, make: Make, shop: Org
) -> None:
    """Deleted before the send goes out: a send with a title of its own goes out with what it has, one without is
    rejected for everybody (`template_missing`)."""
    (phone,) = await devices(make, shop, "anna")
    template = (await api.post("/push/templates", {"name": "t", "title": "T", "body": "B"}, key=shop.sk)).data["id"]
    own = await asked(api, kernel, shop, userIds=["anna"], title="Own", body=None, templateId=template)
    bare = await asked(api, kernel, shop, userIds=["anna"], title=None, body=None, templateId=template)
    assert (await api.delete(f"/push/templates/{template}", key=shop.sk)).status == 200
    _, _, (call,), _ = await built(kernel, own, [phone])
    assert msgspec.json.decode(call.body)["aps"]["alert"] == {"title": "Own", "body": ""}
    _, _, calls, (outcome,) = await built(kernel, bare, [phone])
    assert (calls, outcome.state, outcome.reason) == ([], "rejected", "template_missing")
    after = await api.post("/push/send", {"userIds": ["anna"], "templateId": template}, key=shop.sk)
    assert (after.status, after.code) == (404, "NOT_FOUND")
