"""Activities over HTTP, with the rooms' consumers at work. Nothing here dispatches: the channel is asked as delivery
asks it, and outcomes are handed to the consumer."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from tests.api import Answer, Api
from tests.make import Org
from tests.modules.push.conftest import APNS

from sendora.kernel.life import Kernel
from sendora.modules.live_activities import jobs

PATH = "/push/live-activities"

ORDER: dict[str, Any] = {"userId": "ada", "activityType": "OrderAttributes", "externalId": "order-1"}

Told = list[tuple[str, dict[str, Any]]]


def token() -> str:
    return uuid4().hex * 2


class Live:
    """One org's, as its app (with the public key) and its server (with the secret one) ask. `took` insists on 200."""

    def __init__(self, api: Api, org: Org) -> None:
        self.api = api
        self.org = org

    async def register(self, **said: Any) -> Answer:
        return await self.api.post(f"{PATH}/start-token", {**ORDER, "pushToken": token(), **said}, key=self.org.pk)

    async def begun(self, **said: Any) -> str:
        answer = await self.register(**said)
        assert answer.status == 201, answer
        id_: str = answer.data["id"]
        return id_

    async def register_starter(self, **said: Any) -> Answer:
        body = {"userId": "ada", "activityType": "OrderAttributes", "pushToken": token(), **said}
        return await self.api.post(f"{PATH}/push-to-start-token", body, key=self.org.pk)

    async def start(self, users: list[str], **said: Any) -> Answer:
        body = {
            "userIds": users,
            "activityType": "OrderAttributes",
            "externalId": "order-1",
            "attributes": {"number": 7},
            "contentState": {"step": 0},
            "alert": {"title": "Order", "body": "On its way"},
            **said,
        }
        return await self.api.post(PATH, body, key=self.org.sk)

    async def update(self, id_: str, state: Any = None, **said: Any) -> Answer:
        body = {"contentState": {"step": 1} if state is None else state, **said}
        return await self.api.patch(f"{PATH}/{id_}/update", body, key=self.org.sk)

    async def end(self, id_: str, body: Any = None) -> Answer:
        return await self.api.request("DELETE", f"{PATH}/{id_}", body, key=self.org.sk)

    async def listed(self, **query: Any) -> list[dict[str, Any]]:
        answer = await self.api.get(PATH, key=self.org.sk, **query)
        assert answer.status == 200, answer
        rows: list[dict[str, Any]] = answer.data
        return rows


@pytest.fixture
async def live(api: Api, org: Org) -> Live:
    """An org with an APNs credential."""
    assert (await api.put("/push/providers/apns", APNS, key=org.sk)).status == 200
    return Live(api, org)


@pytest.fixture
async def told(kernel: Kernel, org: Org) -> AsyncIterator[Told]:
    """What is told of this org's activities while the test runs: (event, message), once each, as the stream keeps
    it."""
    heard: Told = []
    ids: set[str] = set()

    async def listen(message: Any) -> None:
        said = msgspec.json.decode(message.data)
        id_ = message.headers["Nats-Msg-Id"]
        if said["org"] == str(org.id) and id_ not in ids:
            ids.add(id_)
            heard.append((message.subject.removeprefix("lifecycle."), said))

    subscription = await kernel.bus.client.subscribe("lifecycle.push.>", cb=listen)
    await kernel.bus.client.flush()
    yield heard
    await subscription.unsubscribe()


async def tell(kernel: Kernel) -> None:
    """The job, and everything that it published has been heard."""
    await jobs.tell(kernel)
    await kernel.bus.client.flush()
