"""What Google lets a project send is counted before anybody leaves (providers.md 2.4)."""

import pytest
from tests.world import cluster, settle

pytestmark = pytest.mark.timeout(180)


async def test_who_is_too_many_waits_and_keeps_nobody_up() -> None:
    """One a minute: the second waits, Apple's device does not, and the worker still drains when it is told to."""
    extra = {"SENDORA_DISPATCH__FCM_PER_MINUTE": "1"}
    async with cluster("quota", extra=extra) as running, settle(running) as world:
        await world.configure()
        for user, platform in (("ada", "android"), ("bob", "android"), ("eve", "ios")):
            await world.device(f"ok-{user}", platform, userId=user)
        first = await world.sent(userIds=["ada"])
        waits = await world.send(userIds=["bob"])
        others = await world.sent(userIds=["eve"])
        assert [push.send_id for push in await world.pushed(first, waits, others)] == [str(first), str(others)]
        worker = running.roles["dispatch-1"]
        await worker.stop()
        assert worker.process is not None
        assert worker.process.returncode == 0, "it left by itself and was not killed"
        balance = await world.balance(waits)
        assert (balance["targeted"], balance["open"]) == (1, 1)
