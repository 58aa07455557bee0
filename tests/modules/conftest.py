"""What the rooms' tests share: the app over HTTP, makers, and the rooms' consumers and answers at work."""

from collections.abc import AsyncIterator

import pytest
from tests.api import Api, serve
from tests.make import Make, Org

from sendora.app import MODULES, bind
from sendora.kernel.bus import Answering, StageRunner
from sendora.kernel.life import Kernel, Service, running


@pytest.fixture(scope="session")
async def api(kernel: Kernel) -> AsyncIterator[Api]:
    bind()
    services: list[Service] = []
    for module in MODULES:
        services += [StageRunner(kernel, consumer) for consumer in module.consumers]
        services += [Answering(kernel, answer) for answer in module.answers]
        services += [service(kernel) for service in module.services]
    async with serve(kernel, MODULES) as served, running(kernel, services):
        yield served


@pytest.fixture(scope="session")
def make(kernel: Kernel, api: Api) -> Make:
    return Make(kernel, api)


@pytest.fixture
async def org(make: Make) -> Org:
    """An org for this test alone, on the plan that has everything."""
    return await make.org()
