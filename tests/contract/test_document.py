"""What is published of the API: the OpenAPI document as it was checked in, the Postman collection, both over HTTP."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.api import Api
from tests.contract.coverage import PARAMETER

from sendora.app import document
from sendora.kernel.http.document import VERSION
from sendora.kernel.http.postman import SCHEMA, collection

SNAPSHOT = Path(__file__).parent / "openapi.json"


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    return document()


def test_the_document_is_the_one_that_was_checked_in(published: dict[str, Any]) -> None:
    """A change of the API is seen as one: `sendora openapi > tests/contract/openapi.json` accepts it."""
    assert published == msgspec.json.decode(SNAPSHOT.read_bytes())


@pytest.mark.rule("B001", "B213")
async def test_the_document_is_served(everything: Api, published: dict[str, Any]) -> None:
    answer = await everything.plain("GET", "/api/v1/docs/openapi.json")
    served = answer.json()
    assert served["openapi"].startswith("3.1")
    assert served["info"]["version"] == VERSION == "1.2.0"
    assert served["paths"].keys() == published["paths"].keys()


def test_the_document_tells_everything(published: dict[str, Any]) -> None:
    """Each operation has a name, a word and a room; its path's parameters are told, and what it may refuse."""
    operations = [
        (path, operation)
        for path, found in published["paths"].items()
        for method, operation in found.items()
        if method in ("get", "post", "put", "patch", "delete")
    ]
    for path, operation in operations:
        assert operation["operationId"] and operation["summary"] and operation["tags"], path
        told = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
        assert told == set(PARAMETER.findall(path)), path
        assert {"401", "429"} <= operation["responses"].keys(), path
        if "requestBody" in operation:
            assert operation["requestBody"]["content"]["application/json"]["schema"], path
    assert published["components"]["securitySchemes"]


@pytest.mark.rule("B261")
async def test_the_postman_collection(everything: Api, published: dict[str, Any]) -> None:
    """Every operation in its short form once, generated from the document and so never beside it (B261)."""
    served = (await everything.plain("GET", "/api/v1/docs/postman.json")).json()
    made = collection(published, "http://x")
    assert served["info"] == made["info"]
    assert made["info"]["schema"] == SCHEMA
    requests = [one["request"] for folder in made["item"] for one in folder["item"]]
    told = {(one["method"], one["url"]["raw"].removeprefix("{{baseUrl}}")) for one in requests}
    wanted = {
        (method.upper(), PARAMETER.sub(r":\1", path))
        for path, found in published["paths"].items()
        for method, operation in found.items()
        if not operation["operationId"].endswith("InOrg")
    }
    assert told == wanted and len(requests) == len(wanted)
    for one in requests:
        if "body" in one:
            assert isinstance(msgspec.json.decode(one["body"]["raw"]), dict | list)
    [send] = [one for one in requests if one["url"]["raw"].endswith("/push/sends/:send_id/pause")]
    assert [variable["key"] for variable in send["url"]["variable"]] == ["send_id"]
