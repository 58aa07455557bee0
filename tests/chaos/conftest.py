"""A cluster for each test, because it breaks it; the simulator is the oracle."""

from collections.abc import AsyncIterator

import pytest
from tests.world import World, cluster, settle


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with cluster("chaos", dispatchers=2) as running, settle(running) as settled:
        yield settled
