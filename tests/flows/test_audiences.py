"""Audiences in a whole cluster: the worker's index answers, and a send sees what was said just before it."""

from typing import Any

import pytest
from tests.conftest import eventually
from tests.world import World

BOUGHT: dict[str, Any] = {"all": [{"event": "purchase", "op": "occurred_in_last", "value": "1d"}]}


def loads(world: World) -> int:
    """How many indexes the worker has loaded, as its log says."""
    log = world.cluster.roles["worker"].log
    assert log is not None
    return log.read_text().count("audience_index_loaded")


@pytest.mark.rule("B075")
async def test_a_send_right_after_an_event(world: World) -> None:
    """B075: whoever bought a moment ago is in, by rows at first and by the index once it is there."""
    before = loads(world)
    audience = await world.server.post("/audiences", {"name": "buyers", "rules": BOUGHT})
    for n in range(4):
        await world.device(f"ok-phone-{n}", userId=f"user-{n}")
        await world.app.post("/identify", {"userId": f"user-{n}"})
        await world.app.post("/events", {"eventType": "purchase", "module": "shop", "userId": f"user-{n}"})
        send = await world.sent(audienceId=audience["id"])
        assert len(await world.pushed(send)) == n + 1
        shown = await world.server.get(f"/audiences/{audience['id']}")
        assert shown["estimatedSize"] == n + 1

    await eventually(lambda: loads(world) > before)
    preview = await world.server.post("/audiences/preview", {"rules": BOUGHT})
    assert (preview["count"], preview["addresses"]) == (4, {"ios": 0, "android": 4, "web": 0})


async def test_the_index_outlives_its_worker(world: World) -> None:
    """A worker that is restarted carries its snapshot on by the log; meanwhile nobody's answer is wrong."""
    before = loads(world)
    audience = await world.server.post("/audiences", {"name": "everybody", "rules": {"all": []}})
    await world.app.post("/identify", {"userId": "anna"})

    async def size(n: int) -> bool:
        shown = await world.server.get(f"/audiences/{audience['id']}")
        assert shown["estimatedSize"] in (None, n), shown
        return shown["estimatedSize"] == n

    await eventually(lambda: size(1))
    snapshots = world.cluster.folder / "audiences"
    worker = world.cluster.roles["worker"]

    await eventually(lambda: loads(world) > before)
    await worker.stop()
    assert list(snapshots.glob(f"{world.keys.project.hex}.*.index"))
    await world.app.post("/identify", {"userId": "bert"})
    await worker.start()
    await eventually(lambda: size(2), 20)
