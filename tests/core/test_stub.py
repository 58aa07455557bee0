"""`_core.pyi` is the contract: the binary has its names and signatures, and was built from the sources in the tree."""

import ast
import inspect
from pathlib import Path
from typing import Any

from sendora import _core

ROOT = Path(__file__).parents[2]
STUB = ast.parse((ROOT / "python/sendora/_core.pyi").read_text())


def test_the_binary_is_built_from_these_sources() -> None:
    """FNV-1a of 64 bits over paths and contents, as `rust/python/build.rs` does it."""
    rust = ROOT / "rust"
    files = {
        path.relative_to(rust).as_posix(): path
        for name in ("core", "lanes", "python", "simulator")
        for path in (rust / name).rglob("*")
        if path.suffix in {".rs", ".toml", ".pem"}
    }
    digest = 0xCBF29CE484222325
    for name in sorted(files):
        for byte in name.encode() + files[name].read_bytes():
            digest = (digest ^ byte) * 0x100000001B3 % 2**64
    assert f"{digest:016x}" == _core.DIGEST, "the extension is stale: run `make setup`"


def test_the_stub_names_what_the_binary_has() -> None:
    stubbed = {node.name for node in STUB.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    constants = {
        node.target.id for node in STUB.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert {name for name in vars(_core) if not name.startswith("_")} == stubbed | constants


def test_functions_and_classes_have_the_stubbed_signatures() -> None:
    for node in STUB.body:
        if isinstance(node, ast.FunctionDef):
            assert _signature(getattr(_core, node.name)) == _stubbed(node), node.name
        elif isinstance(node, ast.ClassDef):
            _compare_class(getattr(_core, node.name), node)


def _compare_class(found: type, node: ast.ClassDef) -> None:
    methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
    fields = {
        item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    public = {name for name in vars(found) if not name.startswith("_")}
    assert public == fields | {name for name in methods if not name.startswith("_")}, node.name
    for name, method in methods.items():
        if name == "__init__":
            assert _signature(found) == _stubbed(method)[1:], node.name
        elif name == "__len__":
            assert hasattr(found, "__len__"), node.name
        else:
            assert _signature(getattr(found, name)) == _stubbed(method), f"{node.name}.{name}"


def _signature(found: Any) -> list[tuple[str, str, object]]:
    return [(p.name, p.kind.name, p.default) for p in inspect.signature(found).parameters.values()]


def _stubbed(node: ast.FunctionDef) -> list[tuple[str, str, object]]:
    """Parameters of a stub. `self` is positional only in the binary, and nothing else is."""
    empty = inspect.Parameter.empty
    arguments, defaults = node.args.args, node.args.defaults
    values = [empty] * (len(arguments) - len(defaults)) + [ast.literal_eval(default) for default in defaults]
    plain = [
        (argument.arg, "POSITIONAL_ONLY" if argument.arg == "self" else "POSITIONAL_OR_KEYWORD", value)
        for argument, value in zip(arguments, values, strict=True)
    ]
    keywords = [
        (argument.arg, "KEYWORD_ONLY", empty if default is None else ast.literal_eval(default))
        for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    ]
    return plain + keywords
