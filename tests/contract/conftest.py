"""All rooms behind one door."""

from collections.abc import AsyncIterator

import pytest
from tests.api import Api, serve

from sendora.app import MODULES, bind
from sendora.kernel.bus import Answering, StageRunner
from sendora.kernel.life import Kernel, Service, running


@pytest.fixture(scope="session")
async def everything(kernel: Kernel) -> AsyncIterator[Api]:
    """All rooms behind one door, with what they need at work."""
    bind()
    services: list[Service] = []
    for module in MODULES:
        services += [StageRunner(kernel, consumer) for consumer in module.consumers]
        services += [Answering(kernel, answer) for answer in module.answers]
        services += [service(kernel) for service in module.services]
    async with serve(kernel, MODULES) as served, running(kernel, services):
        yield served
