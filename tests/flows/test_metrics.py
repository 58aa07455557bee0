"""What an operator sees of the lanes at `/metrics`, where the processes of one machine answer with their sum."""

from pathlib import Path

import pytest
from tests.conftest import eventually
from tests.world import cluster, settle

pytestmark = pytest.mark.timeout(180)


async def test_connections_circuits_and_refused_addresses(tmp_path: Path) -> None:
    connections = 'sendora_lane_connections{provider="webpush"}'
    extra = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    async with cluster("metrics", dispatchers=0, extra=extra) as running, settle(running) as world:
        await world.configure()
        # A worker that may not dial the simulator, although the API knows it as a push service.
        blind = await running.add("dispatch-1", ["dispatch"], {"SENDORA_OUTBOUND__ALLOW": ""})
        await world.device("ok-refused", "web", userId="ada")
        await world.device("ok-waits", "ios", userId="bob")
        refused, waits = await world.sent(userIds=["ada"]), await world.send(userIds=["bob"])
        assert (await world.balance(refused))["rejected"] == 1
        assert await world.told('sendora_outbound_blocked_total{reason="endpoint"}') == 1
        await eventually(lambda: world.told('sendora_outbound_blocked_total{reason="port"}'))
        await blind.stop()

        seeing = await running.add("dispatch-2", ["dispatch"])
        await world.bring_forward(waits)
        await world.ended(waits)
        await world.device("ok-reached", "web", userId="eve")
        await world.sent(userIds=["eve"])
        await eventually(lambda: world.told(connections))
        assert await world.told('sendora_lane_open_breakers{provider="webpush"}') == 0
        await seeing.stop()
        assert await world.told(connections) == 0
