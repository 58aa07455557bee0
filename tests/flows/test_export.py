"""An export through the real server: in pieces, at the pace of whoever reads it."""

import pytest
from tests.world import World

from sendora.demo.client import spread

PEOPLE = 300


@pytest.mark.rule("B068")
async def test_a_large_export(world: World) -> None:
    """B068: everybody of the project, each once, in one JSON document of several pieces."""

    async def identify(number: int) -> None:
        said = {"userId": f"user-{number:03}", "traits": {"n": number, "filling": "x" * 1_000}}
        await world.app.post("/identify", said)

    await spread(range(PEOPLE), identify, lambda _: None)
    _, headers = await world.app.call("POST", "/identify", {"userId": "user-000"})
    await world.server.get(f"/profiles/user-000?after={headers['x-sendora-position']}")
    export = await world.server.post("/data-io/export", {"module": "profiles"})
    assert export["url"].startswith(world.cluster.url)
    answer = await world.ask("GET", export["downloadUrl"].partition("/api/v1")[2])
    assert answer.headers["transfer-encoding"] == "chunked" and len(answer.body) > PEOPLE * 1_000
    people = answer.envelope["records"]
    assert answer.envelope["count"] == PEOPLE
    assert [(person["externalId"], person["traits"]["n"]) for person in people] == [
        (f"user-{number:03}", number) for number in range(PEOPLE)
    ]
