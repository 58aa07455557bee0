"""One cluster for each file, an org for each story."""

from collections.abc import AsyncIterator

import pytest
from tests.world import World, cluster, settle

from sendora.cluster import Cluster


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Cluster]:
    async with cluster("flows") as started:
        yield started


@pytest.fixture
async def world(running: Cluster) -> AsyncIterator[World]:
    """Configured for APNs and FCM. What went on in it must add up in the end."""
    async with settle(running) as settled:
        await settled.configure()
        yield settled
    running.check()
