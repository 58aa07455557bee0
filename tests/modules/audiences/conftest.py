"""Audiences over HTTP, with the stores of the log and the worker's answers at work."""

from collections.abc import AsyncIterator

import pytest
from tests.api import Api, serve
from tests.make import Make

from sendora.kernel.bus import Answering, StageRunner
from sendora.kernel.life import Kernel, Service, running
from sendora.modules import audiences, events, orgs, profiles

MODULES = (orgs.module, profiles.module, events.module, audiences.module)


@pytest.fixture(scope="session")
async def api(kernel: Kernel) -> AsyncIterator[Api]:
    profiles.bind(memberships=audiences.memberships_of, members=audiences.members_of)
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
