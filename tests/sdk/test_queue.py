"""What a page says and what leaves it: buffered, in batches, once more after a failure, and never lost by a reload."""

import re
from typing import Any

import pytest
from tests.conftest import eventually
from tests.sdk.browser import Refused, Tab
from tests.sdk.site import Site

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

CLOCK = """
const later = setTimeout, now = Date.now, began = now();
window.waits = [];
window.ahead = 0;
Date.now = () => began + ahead;
window.setTimeout = (act, ms = 0) => (waits.push(ms), later(() => { ahead += ms; act(); }, 0));
"""
"""Hours pass at once, nothing passes beside them, and what was waited for is written down."""

QUIET = "autoTrack: false"

KEPT = "return Object.keys(localStorage).filter((name) => name.includes('.queue.')).length"


async def start(tab: Tab, site: Site, options: str = QUIET) -> None:
    await tab.go(f"{site.url}/")
    await again(tab, options)


async def again(tab: Tab, options: str = QUIET) -> None:
    await tab.run(
        "window.sdk = await import('/sdk/sendora.js');"
        f"window.sendora = sdk.init({{ publicKey: 'pk_prod_test', {options} }});"
    )


@pytest.mark.rule("B021")
async def test_a_secret_key_is_refused(tab: Tab, site: Site) -> None:
    await tab.go(f"{site.url}/")
    for key, code in (("sk_prod_x", "SECRET_KEY"), ("nonsense", "PUBLIC_KEY_REQUIRED"), ("", "PUBLIC_KEY_REQUIRED")):
        said = await tab.run(
            f"const sdk = await import('/sdk/sendora.js');"
            f"try {{ sdk.init({{ publicKey: '{key}' }}) }} catch (error) {{ return error.code }}"
        )
        assert said == code
    assert not site.asked
    assert await tab.run("return localStorage.length") == 0, "nor is it kept anywhere"


@pytest.mark.rule("B055", "C27", "C28")
async def test_what_an_event_carries(tab: Tab, site: Site) -> None:
    """B055: device, session and user; C27: "analytics" unless the page says otherwise; C28: one request for all."""
    await start(tab, site)
    ids = await tab.run(
        """
        const ids = [sendora.track("first", { amount: 49.99 }), sendora.track("second", {}, { module: "support" })];
        await sendora.flush();
        await sendora.identify("ada", {});
        ids.push(sendora.track("third"));
        await sendora.flush();
        return [...ids, sendora.deviceId, sendora.sessionId, sendora.anonymousId];
        """
    )
    *ids, device, session, anonymous = ids
    assert [len(one.events) for one in site.at("/events/batch")] == [2, 1]
    assert {one.key for one in site.asked} == {"pk_prod_test"}
    assert ids == sorted(ids)
    assert all(UUID7.fullmatch(one) for one in (*ids, device, session, anonymous))
    first, second, third = site.events
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "eventType": "first",
        "module": "analytics",
        "properties": {"amount": 49.99},
        "eventId": ids[0],
        "anonymousId": anonymous,
        "deviceId": device,
        "sessionId": session,
    }
    assert (second["module"], third["userId"], third["deviceId"]) == ("support", "ada", device)
    assert "anonymousId" not in third


@pytest.mark.rule("C29")
async def test_both_shapes_of_identify(tab: Tab, site: Site) -> None:
    """C29: an e-mail among the traits is a trait, one beside them is the user's. Whoever comes after a reset, or is
    identified next, is never taken for the one before."""
    await start(tab, site)
    before = await tab.run(
        """
        const before = [sendora.anonymousId, sendora.deviceId];
        await sendora.identify("ada", { email: "trait@example.com", plan: "pro" });
        await sendora.identify({ userId: "ada", email: "ada@example.com", traits: { plan: "team" } });
        await sendora.identify("bob");
        await sendora.reset();
        await sendora.identify("eve");
        return [...before, sendora.deviceId];
        """
    )
    said = [one.body for one in site.at("/identify")]
    shown = [{key: one.get(key) for key in ("userId", "email", "traits")} for one in said]
    assert shown[:2] == [
        {"userId": "ada", "email": None, "traits": {"email": "trait@example.com", "plan": "pro"}},
        {"userId": "ada", "email": "ada@example.com", "traits": {"plan": "team"}},
    ]
    anonymous = [one["anonymousId"] for one in said]
    assert anonymous[0] == anonymous[1] == before[0]
    assert len(set(anonymous)) == 3, "bob and eve were never ada's anonymous self"
    assert before[1] == before[2], "the device stays the same"
    assert all(UUID7.fullmatch(one["eventId"]) and one["timezone"] for one in said)
    with pytest.raises(Refused, match="userId must be a text"):
        await tab.run("await sendora.identify({ email: 'nobody@example.com' })")


@pytest.mark.rule("C28", "C94")
async def test_batches_keep_to_what_the_server_takes(tab: Tab, site: Site) -> None:
    """C94: at most 1,000 events and 1 MiB a request, however much has gathered."""
    await start(tab, site)
    await tab.offline(True)
    await tab.run("for (let n = 0; n < 1500; n++) sendora.track('many', { n })")
    assert await tab.run(KEPT) == 1_500
    await tab.offline(False)
    await eventually(lambda: len(site.events) == 1_500, 30)
    assert [len(one.events) for one in site.at("/events/batch")] == [1_000, 500]
    assert [event["properties"]["n"] for event in site.events] == list(range(1_500))

    site.asked.clear()
    await tab.offline(True)
    await tab.run("for (let n = 0; n < 12; n++) sendora.track('large', { text: '\\u20ac'.repeat(70_000) })")
    await tab.offline(False)
    await eventually(lambda: len(site.events) == 12, 30)
    assert [len(one.events) for one in site.at("/events/batch")] == [4, 4, 4]
    with pytest.raises(Refused, match="RangeError"):
        await tab.run("sendora.track('huge', { text: 'x'.repeat(300_000) })")


async def test_a_full_queue_lets_the_oldest_go(tab: Tab, site: Site) -> None:
    await start(tab, site)
    await tab.offline(True)
    await tab.run("for (let n = 0; n < 2010; n++) sendora.track('many', { n })")
    assert await tab.run(KEPT) == 2_000
    await tab.offline(False)
    await eventually(lambda: len(site.events) == 2_000, 30)
    assert site.events[0]["properties"] == {"n": 10}


@pytest.mark.rule("B031", "B032")
async def test_a_server_in_trouble(tab: Tab, site: Site) -> None:
    """B031: from one second on, doubling, 20 % to either side; B032: three times, then it stays in the queue for the
    next event."""
    await tab.before_pages(CLOCK)
    await start(tab, site)
    site.planned.extend([(503, {})] * 4)
    await tab.run("sendora.track('one'); waits.length = 0; await sendora.flush()")
    await eventually(lambda: len(site.asked) == 4)
    first, second, third = await tab.run("return waits")
    assert 800 <= first <= 1_200 and 1_600 <= second <= 2_400 and 3_200 <= third <= 4_800
    assert await tab.run(KEPT) == 1

    await tab.run("waits.length = 0; sendora.track('two')")
    await eventually(lambda: len(site.asked) == 5)
    assert [event["eventType"] for event in site.asked[-1].events] == ["one", "two"]
    assert len({event["eventId"] for event in site.events}) == 2, "the same event, however often it is sent"
    (wait,) = await tab.run("return waits")
    assert 6_400 <= wait <= 9_600
    await eventually(lambda: _none(tab))


@pytest.mark.rule("B031")
async def test_a_pause_that_the_server_asks_for(tab: Tab, site: Site) -> None:
    """B031: a 429 is repeated for as long as it takes, never after more than a minute of our own; Retry-After counts
    when it is longer, for the next page as well."""
    await tab.before_pages(CLOCK)
    await start(tab, site)
    site.planned.extend([(429, {"retry-after": "30"}), *[(429, {})] * 8])
    await tab.run("sendora.track('one'); waits.length = 0; await sendora.flush()")
    await eventually(lambda: len(site.asked) == 10)
    waits = await tab.run("return waits")
    assert waits[0] == 30_000
    assert 48_000 <= waits[-1] <= 72_000 and len(waits) == 9 and max(waits) <= 72_000

    await tab.run("Date.now = now")
    site.planned.append((429, {"retry-after": "3600"}))
    said = await tab.run("window.setTimeout = () => 1; return sendora.identify('ada')")
    assert said is None, "nobody waits for an hour"
    asked = len(site.asked)
    await tab.go(f"{site.url}/")
    await tab.run("window.setTimeout = (act, ms) => (waits.push(ms), 1)")
    await again(tab)
    await tab.run("sendora.track('two'); await sendora.flush()")
    (wait,) = await tab.run("return waits")
    assert 3_000_000 <= wait <= 3_600_000
    assert len(site.asked) == asked


@pytest.mark.rule("B055")
async def test_a_reload_loses_nothing(tab: Tab, site: Site) -> None:
    """What waits is sent by the next page, in its order and under its ids."""
    await tab.before_pages(CLOCK)
    await start(tab, site)
    await tab.run("window.setTimeout = () => 1")  # This page never tries again.
    site.planned.append((503, {"retry-after": "3600"}))
    ids = await tab.run("return [sendora.track('one'), sendora.track('two')]")
    assert await tab.run("return sendora.identify('ada', { plan: 'pro' })") is None, "it waits in the queue"
    assert len(site.asked) == 1
    await tab.go(f"{site.url}/next")
    await again(tab)
    await eventually(lambda: len(site.asked) == 3)
    first, second, third = site.asked
    assert first == second
    assert [event["eventId"] for event in second.events] == ids
    assert (third.path, third.body["traits"]) == ("/identify", {"plan": "pro"})
    await eventually(lambda: _none(tab))


async def test_tabs_share_what_waits(tab: Tab, site: Site) -> None:
    """One sends for all, and neither overwrites what the other has said; they are the same visitor."""
    second = await tab.another()
    for one in (tab, second):
        await start(one, site)
        await one.run("window.setTimeout = () => 1")  # Nothing is sent before it is asked for.
    ids = []
    for one in (tab, second, tab):
        ids.append(await one.run("return sendora.track('said')"))
        # Browsers carry what a page stores to other processes in their own time.
        await eventually(lambda: _holds(second, len(ids)))
    await second.run("await sendora.flush()")
    (batch,) = site.asked
    assert sorted(event["eventId"] for event in batch.events) == sorted(ids)
    assert len({(event["deviceId"], event["sessionId"], event["anonymousId"]) for event in batch.events}) == 1
    assert await tab.run("await sendora.flush(); return sendora.userId") is None
    assert len(site.asked) == 1


async def _holds(tab: Tab, entries: int) -> bool:
    return bool(await tab.run(KEPT) == entries)


async def test_what_is_left_when_the_page_goes(tab: Tab, site: Site) -> None:
    await start(tab, site)
    await tab.run("sendora.track('last'); location.href = '/elsewhere'")
    await eventually(lambda: len(site.events) >= 1)
    assert site.events[0]["eventType"] == "last"


async def test_what_the_server_refuses_is_told_and_dropped(tab: Tab, site: Site) -> None:
    """A refusal is for good: what comes behind it must not wait for it."""
    await start(tab, site)
    site.planned.append((400, {}))
    said = await tab.run("return sendora.push.trackOpen('nonsense').catch((error) => [error.code, error.status])")
    assert said == ["PLANNED_400", 400]
    site.planned.append((413, {}))
    await tab.run("sendora.track('one'); sendora.track('two'); sendora.track('three'); await sendora.flush()")
    assert [len(one.events) for one in site.at("/events/batch")] == [3, 2, 1]
    assert await tab.run(KEPT) == 0


async def test_an_answer_that_is_not_the_apis(tab: Tab, site: Site) -> None:
    """The sign-in page of a hotel says 200 as well, and has taken nothing."""
    await start(tab, site)
    await tab.run(
        """
        window.fetch = async () => new Response("<html>Welcome", { headers: { "content-type": "text/html" } });
        sendora.track("kept");
        await sendora.flush();
        """
    )
    assert await tab.run(KEPT) == 1


@pytest.mark.rule("B052", "B053", "C23")
async def test_what_is_tracked_without_being_asked_for(tab: Tab, site: Site) -> None:
    """B053: each of the five, and nothing of links that lead away; C23: as they are spelt there."""
    await start(tab, site, "")
    await tab.run(
        """
        history.pushState(null, "", "/second?x=1");
        history.pushState(null, "", "/second?x=1");
        document.querySelector("#inside b").click();
        document.querySelector("#outside").click();
        for (const hidden of [true, false]) {
          Object.defineProperty(document, "hidden", { configurable: true, value: hidden });
          document.dispatchEvent(new Event("visibilitychange"));
        }
        await sendora.flush();
        """
    )
    assert [(event["eventType"], event.get("properties", {}).get("path")) for event in site.events] == [
        ("session.started", None),
        ("page.viewed", "/"),
        ("page.viewed", "/second"),
        ("link.clicked", "/inside"),
        ("app.backgrounded", None),
        ("app.foregrounded", None),
    ]
    assert {event["module"] for event in site.events} == {"analytics"}
    assert site.events[3]["properties"]["url"] == f"{site.url}/inside?from=shop"
    # Back in the history is another page again.
    await tab.run("history.go(-2); await new Promise((go) => addEventListener('popstate', go)); await sendora.flush()")
    assert (site.events[-1]["eventType"], site.events[-1]["properties"]["path"]) == ("page.viewed", "/")


@pytest.mark.rule("B053")
async def test_a_session_ends_after_half_an_hour_of_nothing(tab: Tab, site: Site) -> None:
    await tab.before_pages(CLOCK)
    await start(tab, site, "")
    await tab.run(
        """
        ahead += 29 * 60_000;
        sendora.track("still there");
        ahead += 31 * 60_000;
        sendora.track("back again");
        await sendora.flush();
        """
    )
    told = [(event["eventType"], event["sessionId"]) for event in site.events if event["eventType"] != "page.viewed"]
    assert [name for name, _ in told] == ["session.started", "still there", "session.started", "back again"]
    first, still, second, back = (session for _, session in told)
    assert first == still != second == back


@pytest.mark.rule("B052", "B056", "C23")
@pytest.mark.parametrize("option", ["autoTrack: false", "autotrack: false"])
async def test_only_what_is_asked_for(tab: Tab, site: Site, option: str) -> None:
    """B052: what is called goes out all the same; B056: a page is a `page_viewed`; C23: either spelling, verbatim."""
    await start(tab, site, option)
    await tab.run(
        """
        history.pushState(null, "", "/second");
        document.querySelector("#inside").click();
        sendora.page("Checkout", { plan: "growth" });
        sendora.track("page.viewed", { own: true });
        sendora.track("screen.viewed");
        await sendora.flush();
        """
    )
    said: list[tuple[str, Any]] = [(event["eventType"], event.get("properties")) for event in site.events]
    assert said == [
        (
            "page_viewed",
            {"url": f"{site.url}/second", "path": "/second", "title": "Shop", "name": "Checkout", "plan": "growth"},
        ),
        ("page.viewed", {"own": True}),
        ("screen.viewed", None),
    ]


async def _none(tab: Tab) -> bool:
    return await tab.run(KEPT) == 0
