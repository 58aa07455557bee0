"""The OpenAPI document as a Postman collection (v2.1.0), for who would rather click than read.

A folder for each room, a request for each operation in its short form; the base URL and the key are variables of the
collection. Bodies are examples with the fields that are required, made from the document's own schemas, so they are as
true as it is.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

SCHEMA: Final = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"

METHODS: Final = ("get", "post", "put", "patch", "delete")

DEPTH_MAX: Final = 6
"""Rules contain rules; an example need not."""

BASE: Final = "{{baseUrl}}"

EXAMPLES: Final[Mapping[str, Any]] = {
    "uuid": "00000000-0000-4000-8000-000000000000",
    "date-time": "2030-01-01T09:00:00Z",
}
"""By format."""

PLAIN: Final[Mapping[str, Any]] = {"string": "text", "integer": 1, "number": 1.0, "boolean": True}
"""By type."""

Document = Mapping[str, Any]


def collection(document: Document, base_url: str) -> dict[str, Any]:
    """`base_url` is what comes before the paths of the document, without a slash at its end."""
    folders: dict[str, list[dict[str, Any]]] = {}
    for path, method, operation in _operations(document):
        folders.setdefault(operation["tags"][0], []).append(_request(document, path, method, operation))
    return {
        "info": {"name": document["info"]["title"], "version": document["info"]["version"], "schema": SCHEMA},
        "auth": {
            "type": "apikey",
            "apikey": [
                {"key": "key", "value": "x-api-key", "type": "string"},
                {"key": "value", "value": "{{apiKey}}", "type": "string"},
                {"key": "in", "value": "header", "type": "string"},
            ],
        },
        "variable": [{"key": "baseUrl", "value": base_url}, {"key": "apiKey", "value": ""}],
        "item": [{"name": name, "item": requests} for name, requests in folders.items()],
    }


def _operations(document: Document) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Those that belong to a room, in the form whose organisation comes from the key (B002)."""
    for path, found in document["paths"].items():
        for method in METHODS:
            operation = found.get(method)
            if operation is not None and operation.get("tags") and not operation["operationId"].endswith("InOrg"):
                yield path, method, operation


def _request(document: Document, path: str, method: str, operation: Mapping[str, Any]) -> dict[str, Any]:
    parameters = operation.get("parameters", ())
    of = {place: [one for one in parameters if one["in"] == place] for place in ("path", "query")}
    segments = [f":{part[1:-1]}" if part.startswith("{") else part for part in path.strip("/").split("/")]
    request: dict[str, Any] = {
        "method": method.upper(),
        "header": [],
        "description": operation.get("description", ""),
        "url": {
            "raw": f"{BASE}/{'/'.join(segments)}",
            "host": [BASE],
            "path": segments,
            "variable": [{"key": one["name"], "value": ""} for one in of["path"]],
            "query": [
                {"key": one["name"], "value": "", "disabled": True, "description": one.get("description", "")}
                for one in of["query"]
            ],
        },
    }
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is not None:
        example = msgspec.json.format(msgspec.json.encode(_example(document, content["schema"], 0)), indent=2).decode()
        request["header"] = [{"key": "content-type", "value": "application/json"}]
        request["body"] = {"mode": "raw", "raw": example, "options": {"raw": {"language": "json"}}}
    return {"name": operation["summary"], "request": request, "response": []}


def _example(document: Document, schema: Mapping[str, Any], depth: int) -> Any:
    """The smallest value of a schema that says something."""
    if "$ref" in schema:
        return _example(document, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], depth)
    if "default" in schema:
        return schema["default"]
    if enum := [value for value in schema.get("enum", ()) if value is not None]:
        return enum[0]
    alternatives = [*schema.get("oneOf", ()), *schema.get("anyOf", ())]
    if alternatives:
        return _example(document, next((one for one in alternatives if one.get("type") != "null"), {}), depth)
    if schema.get("type") == "object" or "properties" in schema:
        if depth >= DEPTH_MAX:
            return {}
        fields = schema.get("properties", {})
        return {name: _example(document, fields[name], depth + 1) for name in schema.get("required", ())}
    if schema.get("type") == "array":
        return [] if depth >= DEPTH_MAX else [_example(document, schema.get("items", {}), depth + 1)]
    return EXAMPLES.get(schema.get("format", ""), PLAIN.get(schema.get("type", ""), None))
