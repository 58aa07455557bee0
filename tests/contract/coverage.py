"""What of the contract is here, and which test proves each rule: `python -m tests.contract.coverage` reports both.

`contract.yaml` is the inventory of endpoints, `not_here.toml` names what of it and of the rules this program does not
build, each with its reason. An entry is here when both its URL forms stand in the OpenAPI document with the fields, the
statuses and the codes that the contract writes; a rule is proven when a test names it, in its marker
(`@pytest.mark.rule`) or in its docstring. Whether the test is right about that is for its reader to judge.
"""

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

HERE: Final = Path(__file__).parent
TESTS: Final = HERE.parent

SYSTEMS: Final = (
    "ingest",
    "profiles",
    "audiences",
    "push",
    "push_templates",
    "ab_tests",
    "live_activities",
    "geofences",
    "settings",
    "keys",
    "data_io",
    "consent",
    "openapi",
)
"""What is built so far: the other systems of the contract are other channels and surfaces."""

RULES: Final = tuple(f"B{n:03}" for n in (*range(1, 137), 213, *range(247, 279)))
"""The rules about those systems."""

NUMBER: Final = re.compile(r"\bB\d{3}\b")
PARAMETER: Final = re.compile(r"\{(\w+)(?::\w+)?\}")

Document = Mapping[str, Any]


def contract() -> list[dict[str, Any]]:
    """Every entry of the contract that belongs to the systems, in its order."""
    entries: list[dict[str, Any]] = yaml.safe_load((HERE / "contract.yaml").read_text())
    return [entry for entry in entries if entry["system"] in SYSTEMS]


def not_here() -> tuple[dict[str, str], dict[str, str]]:
    """What is not built: rules, and parts of entries as `<entry id> <part>`; each with its reason."""
    read = tomllib.loads((HERE / "not_here.toml").read_text())
    return read["rules"], read["parts"]


def gaps(document: Document, entry: Mapping[str, Any]) -> list[str]:
    """What the document lacks of an entry, in words that `not_here.toml` may repeat; nothing: it is here."""
    found: list[str] = []
    forms = [entry["path"], *(entry.get("aliases") or ())]
    if entry.get("explicit_path"):
        forms.append(entry["explicit_path"])
    for path in forms:
        operation = _operation(document, entry["method"], path)
        if operation is None:
            found.append(f"{entry['method']} {path}")
            continue
        found += [f"{entry['id']} {part}" for part in _operation_gaps(document, operation, entry)]
    return list(dict.fromkeys(found))


def proofs() -> dict[str, list[str]]:
    """Rule -> the tests that name it, as `file::test`."""
    named: dict[str, list[str]] = {rule: [] for rule in RULES}
    for path in sorted(TESTS.rglob("test_*.py")):
        for test, rules in _named_in(ast.parse(path.read_text())):
            for rule in sorted(rules & named.keys()):
                named[rule].append(f"{path.relative_to(TESTS)}::{test}")
    return named


def _operation(document: Document, method: str, path: str) -> dict[str, Any] | None:
    wanted = PARAMETER.sub("{}", path)
    for known, operations in document["paths"].items():
        if PARAMETER.sub("{}", known) == wanted and method.lower() in operations:
            return dict(operations[method.lower()])
    return None


def _operation_gaps(document: Document, operation: Mapping[str, Any], entry: Mapping[str, Any]) -> Iterator[str]:
    request, response = entry.get("request") or {}, entry["response"]
    answers = operation["responses"]
    parameters = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"}
    yield from (f"query {one['name']}" for one in request.get("query") or () if one["name"] not in parameters)
    content = operation.get("requestBody", {}).get("content", {})
    taken = {name for one in content.values() for name in _properties(document, one.get("schema", {}))}
    yield from (f"body {one['name']}" for one in request.get("body") or () if one["name"] not in taken)
    status = str(response.get("success_status", 200))
    if status not in answers:
        yield f"status {status}"
    given: set[str] = set()
    for answer in answers.values():
        for one in answer.get("content", {}).values():
            data = _properties(document, one.get("schema", {})).get("data")
            given |= set(_properties(document, data)) if data else set()
    yield from (f"field {one['name']}" for one in response.get("fields") or () if one["name"] not in given)
    for error in entry["errors"]:
        said = answers.get(str(error["status"]), {}).get("description", "")
        if error["code"] not in said.split(", "):
            yield f"error {error['status']} {error['code']}"


def _properties(document: Document, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an object, of the items of a list, and of each alternative."""
    if "$ref" in schema:
        return _properties(document, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    found: dict[str, Any] = dict(schema.get("properties", {}))
    for part in (schema.get("items"), *schema.get("oneOf", ()), *schema.get("anyOf", ()), *schema.get("allOf", ())):
        if part:
            found |= _properties(document, part)
    return found


def _named_in(tree: ast.Module) -> Iterator[tuple[str, set[str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            marks = [one for one in node.decorator_list if isinstance(one, ast.Call) and _is_rule(one.func)]
            said = [arg.value for mark in marks for arg in mark.args if isinstance(arg, ast.Constant)]
            yield node.name, set(NUMBER.findall(" ".join([*map(str, said), ast.get_docstring(node) or ""])))


def _is_rule(function: ast.expr) -> bool:
    return isinstance(function, ast.Attribute) and function.attr == "rule"


def report(document: Document) -> Sequence[str]:
    """Lines for a reader: per system what is here and what is missing, then each rule with its tests."""
    rules, parts = not_here()
    lines: list[str] = []
    entries = contract()
    for system in SYSTEMS:
        of_system = [entry for entry in entries if entry["system"] == system]
        missing = {
            entry["id"]: lacks
            for entry in of_system
            if (lacks := [one for one in gaps(document, entry) if one not in parts])
        }
        lines.append(f"{system}: {len(of_system) - len(missing)} of {len(of_system)} entries")
        lines += [f"  missing {name}: {'; '.join(lacks)}" for name, lacks in missing.items()]
    named = proofs()
    proven = sum(bool(tests) for tests in named.values())
    lines.append(f"rules: {proven} of {len(RULES)} are named by a test, {len(rules)} are not here")
    for rule, tests in named.items():
        said = ", ".join(tests) or (f"not here: {rules[rule]}" if rule in rules else "MISSING")
        lines.append(f"  {rule} {said}")
    return lines


if __name__ == "__main__":
    from sendora.app import document as current

    print("\n".join(report(current())))
