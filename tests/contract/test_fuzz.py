"""The OpenAPI document against the running program: whatever the schemas allow and whatever they do not, each answer is
one that the document names, and none is the program's own failure.

Requests are schemathesis'; a cluster of real processes answers them. The suite sends a few hundred of each kind;
`make fuzz-api CASES=20000` sends as many as are asked for.
"""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.world import World, cluster, settle

from sendora.app import document

pytestmark = pytest.mark.timeout(3_600)

CASES = int(os.environ.get("CASES", "2000"))
"""Requests altogether, of both kinds."""

CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
async def world() -> Any:
    async with cluster("fuzz", dispatchers=0) as running, settle(running) as settled:
        await settled.configure()
        yield settled


def operations() -> Iterator[Any]:
    """In both of their modes: what the schemas allow, and what they do not."""
    schema = schemathesis.openapi.from_dict(document())
    for found in schema.get_all_operations():
        yield found.ok()


@pytest.mark.rule("B017", "B018", "B024")
def test_answers_are_those_of_the_document(world: World) -> None:
    """No 5xx but 503 with Retry-After, no status, no content type and no body that the document does not show."""
    everything = list(operations())
    each = max(CASES // len(everything) // 2, 1)
    asked: Counter[int] = Counter()
    found: dict[tuple[str, str], str] = {}

    def ask(case: Any) -> None:
        answer = case.call(base_url=world.cluster.url, headers={"x-api-key": world.keys.secret_key})
        asked[answer.status_code] += 1
        try:
            assert answer.status_code != 503 or "retry-after" in answer.headers
            case.validate_response(answer, checks=CHECKS)
        except (AssertionError, FailureGroup) as failure:
            # One example of each kind says as much as a hundred.
            found.setdefault((case.operation.label, str(failure)[:500]), case.as_curl_command()[:2_000])

    for number, operation in enumerate(everything):
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            generated = given(operation.as_strategy(generation_mode=mode))(ask)
            seed(number)(
                settings(
                    max_examples=each,
                    database=None,
                    deadline=None,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )(generated)
            )()
    assert found == {}
    assert asked.total() > CASES // 2
    assert not [status for status in asked if status >= 500 and status != 503]
