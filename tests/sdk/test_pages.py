"""The module for web pages, in a browser: what is told of a page, in which requests, and that none of it gets lost."""

import math
from typing import Any
from uuid import UUID

import pytest
from tests.chrome import Refused
from tests.conftest import eventually
from tests.sdk.conftest import Shop, Site
from tests.world import World

HURRY = """
  window.delays = [];
  const patient = window.setTimeout;
  window.setTimeout = (work, ms) => { window.delays.push(ms); return patient(work, 0); };
"""
"""Timers that note how long they were asked to wait, and do not."""


@pytest.mark.rule("B021")
async def test_a_secret_key_is_refused(shop: Shop, world: World) -> None:
    for key in (world.keys.secret_key, "sk_test_x", "", "nonsense"):
        with pytest.raises(Refused, match="public key"):
            await shop.start(publicKey=key)
    assert await shop.waiting() == 0


@pytest.mark.rule("B055", "C27", "C28")
async def test_events_are_sent_together_and_say_who_and_where(shop: Shop, site: Site, world: World) -> None:
    """B055: device, session and person are attached, and events leave in batches; C27: so is the module."""
    await shop.start()
    ids = await shop.run("return ['one', 'two', 'three'].map((name) => sendora.track(name, { n: 1 }))")
    named = await shop.run("return sendora.track('paid', {}, { module: 'billing', timestamp: '2026-01-02T03:04:05Z' })")
    assert site.calls == []
    await shop.run("await sendora.flush()")
    [batch] = site.to("/events/batch")
    assert batch.answer["data"] == {"accepted": 4, "rejected": 0, "errors": []}
    events = batch.body["events"]
    assert [event["eventId"] for event in events] == [*ids, named]
    assert [UUID(event["eventId"]).version for event in events] == [7] * 4
    assert ids == sorted(ids)
    assert [event["module"] for event in events] == ["analytics"] * 3 + ["billing"]
    assert events[3]["timestamp"] == "2026-01-02T03:04:05.000Z"
    who = await shop.run("return [sendora.deviceId, sendora.sessionId, sendora.anonymousId]")
    assert {(event["deviceId"], event["sessionId"], event["anonymousId"]) for event in events} == {tuple(who)}
    assert all("userId" not in event for event in events)
    assert await shop.waiting() == 0

    await shop.run("await sendora.identify('ada')")
    await shop.run("sendora.track('four'); await sendora.flush()")
    assert site.events[-1]["userId"] == "ada"
    assert (site.events[-1]["deviceId"], site.events[-1]["anonymousId"]) == (who[0], who[2])


@pytest.mark.rule("C28", "C94")
async def test_a_batch_is_what_a_request_may_hold(shop: Shop, site: Site) -> None:
    """At most 1 MiB, and no event is left behind; one that is too large for any request is told at once."""
    await shop.start()
    await shop.run("for (let n = 0; n < 12; n++) sendora.track('large', { n, text: 'x'.repeat(150_000) })")
    await shop.run("sendora.track('monster', { text: 'x'.repeat(300_000) }); await sendora.flush()")
    assert [event["properties"]["n"] for event in site.named("large")] == list(range(12))
    assert len(site.to("/events/batch")) == math.ceil(12 / 6)
    assert [error.split(":")[0] for error in await shop.run("return errors")] == ["EVENT_TOO_LARGE"]


async def test_what_waits_is_bounded(shop: Shop, site: Site) -> None:
    """The oldest goes, and the page hears of it."""
    site.away = True
    await shop.start()
    await shop.run("for (let n = 0; n < 1_003; n++) sendora.track('counted', { n })")
    assert await shop.waiting() == 1_000
    assert {error.split(":")[0] for error in await shop.run("return errors")} == {"QUEUE_FULL"}
    site.away = False
    await eventually(lambda: _flushed(shop, site, 1_000), 60)
    assert {event["properties"]["n"] for event in site.named("counted")} == set(range(3, 1_003))


async def _flushed(shop: Shop, site: Site, number: int) -> bool:
    await shop.run("await sendora.flush()")
    return len(site.events) >= number


@pytest.mark.rule("B031", "B032")
@pytest.mark.parametrize("status", [429, 500, 502, 503, 0])
async def test_what_fails_for_a_while_is_tried_again(shop: Shop, site: Site, status: int) -> None:
    """Waits double from a second, give or take a fifth; the same events are told, and told once."""
    await shop.target.run(f"() => {{ {HURRY} }}")
    await shop.start()
    site.faults.extend([(status, {})] * 3)
    id_ = await shop.run("const id = sendora.track('late'); await sendora.flush(); return id")
    waits = [ms for ms in await shop.run("return delays") if ms != 5_000]
    assert len(waits) == 3
    for n, ms in enumerate(waits):
        assert 800 * 2**n <= ms <= 1_200 * 2**n
    assert [event["eventId"] for event in site.events] == [id_]
    assert [event["eventId"] for one in site.calls for event in one.body["events"]] == [id_] * 4


@pytest.mark.rule("B031", "B032")
async def test_three_times_and_then_later(shop: Shop, site: Site) -> None:
    """A server that stays away is left alone longer and longer, to a minute, and then told all."""
    await shop.target.run(f"() => {{ {HURRY} }}")
    await shop.start()
    site.faults.extend([(503, {})] * 12)
    await shop.run("sendora.track('patient')")
    await eventually(lambda: site.named("patient"))
    waits = [ms for ms in await shop.run("return delays") if ms != 5_000]
    assert len(waits) == 12
    assert all(800 <= ms <= 72_000 for ms in waits)
    # 1, 2, 4 s within a call; 16, 32, 60 s between them.
    assert [round(math.log2(ms / 1_000)) for ms in waits[:8]] == [0, 1, 2, 4, 0, 1, 2, 5]


@pytest.mark.rule("B031")
async def test_retry_after_is_respected(shop: Shop, site: Site) -> None:
    """A wait within a minute is waited; a longer one leaves the events to another time."""
    await shop.target.run(f"() => {{ {HURRY} }}")
    await shop.start()
    expose = {"access-control-expose-headers": "Retry-After"}
    site.faults.extend([(429, {"Retry-After": "17", **expose}), (429, {"Retry-After": "3600", **expose})])
    await shop.run("sendora.track('asked to wait')")
    await eventually(lambda: site.named("asked to wait"))
    waits = [ms for ms in await shop.run("return delays") if ms != 5_000]
    assert waits == [17_000, 3_600_000]


async def test_refusals_are_told(shop: Shop, site: Site) -> None:
    """A bad event does not fail its neighbours, and a key that is not known any more loses nothing."""
    await shop.start()
    await shop.run("sendora.track('x'.repeat(300)); sendora.track('good'); await sendora.flush()")
    assert [(one.answer["data"]["accepted"], one.answer["data"]["rejected"]) for one in site.to("/events/batch")] == [
        (1, 1)
    ]
    assert [error.split(":")[0] for error in await shop.run("return errors")] == ["VALIDATION_ERROR"]
    site.faults.append((401, {}))
    await shop.run("sendora.track('kept'); await sendora.flush(); await sendora.flush()")
    assert [one.status for one in site.calls] == [200, 401]
    assert await shop.waiting() == 1


@pytest.mark.rule("B055")
async def test_the_queue_outlives_the_page(shop: Shop, site: Site) -> None:
    """What was said while there was no server is told by the next page."""
    site.away = True
    await shop.start()
    ids = await shop.run("return [sendora.track('before'), sendora.track('before')]")
    await shop.target.go(f"{site.pages}/next")
    # The page's own last attempt.
    await eventually(lambda: site.calls)
    site.away = False
    await shop.start()
    assert await shop.waiting() == 2
    await shop.run("await sendora.flush()")
    assert [event["eventId"] for event in site.named("before")] == ids
    assert await shop.waiting() == 0


@pytest.mark.rule("B055")
async def test_a_page_that_goes_sends_what_it_has(shop: Shop, site: Site) -> None:
    """Nothing waits for a timer; if the next page repeats it, then under the same id."""
    await shop.start()
    id_ = await shop.run("return sendora.track('last words')")
    await shop.target.go(f"{site.pages}/next")
    await eventually(lambda: site.named("last words"))
    await shop.start()
    await shop.run("sendora.track('first words'); await sendora.flush()")
    assert {event["eventId"] for event in site.named("last words")} == {id_}


async def test_tabs_share_a_visitor(browser: Any, shop: Shop, site: Site, world: World) -> None:
    """One device, one session, one queue; and one of them sends."""
    await shop.start()
    other = Shop(await browser.page(f"{site.pages}/other", beside=shop.target), site, world.keys.public_key)
    await other.start()
    who = "return [sendora.deviceId, sendora.sessionId, sendora.anonymousId]"
    assert await shop.run(who) == await other.run(who)
    await shop.run("sendora.track('here')")
    await other.run("sendora.track('there'); await sendora.flush()")
    assert [event["eventType"] for event in site.events] == ["here", "there"]
    await other.target.close()


@pytest.mark.rule("B055")
async def test_a_session_ends_after_half_an_hour_of_nothing(shop: Shop) -> None:
    await shop.start()
    first = await shop.run("return sendora.sessionId")
    for minutes, same in ((29, True), (58, True), (89, False)):
        now = await shop.run(
            "window.real ??= Date.now(); Date.now = () => window.real + given[0] * 60_000; return sendora.sessionId",
            minutes,
        )
        assert (now == first) is same


@pytest.mark.rule("B051", "B052", "B053", "C23")
@pytest.mark.parametrize("spelling", ["autoTrack", "autotrack"])
async def test_what_is_told_by_itself(shop: Shop, site: Site, world: World, spelling: str) -> None:
    """B053: sessions, views, own links, visibility; B051: they count like other events; C23: both spellings."""
    await shop.start(**{"autoTrack": None, spelling: True})
    await shop.run("history.pushState({}, '', '/cart?step=1'); history.pushState({}, '', '/cart?step=1')")
    await shop.run("addEventListener('click', (event) => event.preventDefault())")
    await shop.run("document.querySelector('#own').click(); document.querySelector('#far').click()")
    for state in ("hidden", "visible"):
        await shop.run(
            """Object.defineProperty(document, 'visibilityState', { value: given[0], configurable: true });
            document.dispatchEvent(new Event('visibilitychange'))""",
            state,
        )
    await shop.run("await sendora.flush()")
    # What was hidden and what came after travel in two requests.
    await eventually(lambda: site.named("app.backgrounded") and site.named("app.foregrounded"))
    told = {event["eventId"]: event for event in site.events}
    assert [event["eventType"] for event in sorted(told.values(), key=lambda event: event["eventId"])] == [
        "session.started",
        "page.viewed",
        "page.viewed",
        "link.clicked",
        "app.backgrounded",
        "app.foregrounded",
    ]
    views = {event["properties"]["path"] for event in told.values() if event["eventType"] == "page.viewed"}
    assert views == {"/", "/cart"}
    [clicked] = site.named("link.clicked")
    assert clicked["properties"] == {"url": f"{site.pages}/orders"}

    async def counted() -> bool:
        return int((await world.server.get("/usage"))["eventsThisMonth"]) >= len(told)

    assert await eventually(counted)


@pytest.mark.rule("B052", "B056", "C23")
@pytest.mark.parametrize("spelling", ["autoTrack", "autotrack"])
async def test_what_is_only_told_when_it_is_said(shop: Shop, site: Site, spelling: str) -> None:
    """B052: nothing fires by itself, and views that are said still are; B056: page() is `page_viewed`."""
    await shop.start(**{"autoTrack": None, spelling: False})
    await shop.run(
        "history.pushState({}, '', '/checkout?card=1'); document.dispatchEvent(new Event('visibilitychange'))"
    )
    await shop.run(
        "sendora.page('Checkout', { plan: 'growth' }); sendora.track('page.viewed', { own: 1 }); sendora.page()"
    )
    await shop.run("await sendora.flush()")
    assert [event["eventType"] for event in site.events] == ["page_viewed", "page.viewed", "page_viewed"]
    assert site.events[0]["properties"] == {
        "name": "Checkout",
        "path": "/checkout",
        "url": f"{site.pages}/checkout",
        "title": "Shop",
        "plan": "growth",
    }


@pytest.mark.rule("C29")
async def test_identify_takes_both_shapes(shop: Shop, site: Site, world: World) -> None:
    """The email beside the traits is the user's, the one among them is a trait."""
    await shop.start()
    anonymous = await shop.run("return sendora.anonymousId")
    first = await shop.run("return await sendora.identify('ada', { plan: 'pro', email: 'trait@example.com' })")
    second = await shop.run(
        "return await sendora.identify({ userId: 'ada', email: 'user@example.com', traits: { company: 'Acme' } })"
    )
    assert first == second == {"id": first["id"], "externalId": "ada"}
    said = [one.body for one in site.to("/identify")]
    assert [one["anonymousId"] for one in said] == [anonymous] * 2
    assert [one.get("email") for one in said] == [None, "user@example.com"]
    assert UUID(said[0]["eventId"]).version == 7

    async def stored() -> dict[str, Any]:
        found = await world.ask("GET", f"/profiles/{first['id']}")
        assert found.status == 200, found
        profile: dict[str, Any] = found.data
        assert profile["traits"] == {"plan": "pro", "email": "trait@example.com", "company": "Acme"}
        return profile

    assert (await eventually(stored))["email"] == "user@example.com"
    # Somebody else takes the browser over: nothing that was anonymous before is theirs.
    await shop.run("await sendora.identify('bob')")
    assert site.to("/identify")[-1].body["anonymousId"] != anonymous


async def test_a_login_without_a_server_is_told_later(shop: Shop, site: Site) -> None:
    site.away = True
    await shop.target.run(f"() => {{ {HURRY} }}")
    await shop.start()
    assert await shop.run("return await sendora.identify('ada')") is None
    site.away = False
    await eventually(lambda: site.to("/identify"))
    with pytest.raises(Refused, match="not valid"):
        await shop.run("await sendora.identify({ userId: 'ada', traits: [] })")


async def test_a_logout_forgets_the_person(shop: Shop) -> None:
    await shop.start()
    who = "return [sendora.userId, sendora.anonymousId, sendora.sessionId, sendora.deviceId]"
    before = await shop.run(f"await sendora.identify('ada'); {who}")
    after = await shop.run(f"await sendora.logout(); {who}")
    assert (before[0], after[0]) == ("ada", None)
    assert before[1] != after[1] and before[2] != after[2] and before[3] == after[3]
