"""`{{path}}` templates (B122-B126) against a regular expression."""

import json
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sendora import _core

PATH = re.compile(r"\{\{[ \t\n\r\f]*([\w.$-]+)[ \t\n\r\f]*\}\}")
USER = {"userId", "email", "createdAt", "lastSeenAt", "locale", "timezone"}


def render(text: str, scopes: dict[str, Any]) -> str:
    def value(match: re.Match[str]) -> str:
        found: Any = scopes
        path = match[1].split(".")
        if path[0] == "user" and (len(path) != 2 or path[1] not in USER):
            return ""
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        if isinstance(found, str):
            return found
        return json.dumps(found) if isinstance(found, bool | int | float) else ""

    return PATH.sub(value, text).encode()[:4096].decode(errors="ignore")


leaves = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text('a{}\\\n"é😀', max_size=4)
inner = st.recursive(
    leaves, lambda inside: st.dictionaries(st.sampled_from("abé"), inside) | st.lists(inside, max_size=2), max_leaves=4
)
scopes = st.fixed_dictionaries(
    {
        "event": st.dictionaries(st.sampled_from(["a", "b", "$c", "d-e_1"]), inner),
        "user": st.dictionaries(st.sampled_from(["email", "plan"]), leaves),
        "trait": st.dictionaries(st.sampled_from(["a", "é"]), inner),
    }
)
pieces = st.sampled_from(
    ["{", "}", "{{", "}}", " ", "\n", ".", "x", "é", "{{event.a}}", "{{ event.a.b }}", "{{trait.é}}", "{{user.email}}",
     "{{user.plan}}",     "{{event.$c}}", "{{event.d-e_1}}", "{{none}}", "{{event..a}}", "{{#if a}}", "event", "a"]
)  # fmt: skip


@given(st.lists(pieces, max_size=10).map("".join), scopes)
def test_templates(text: str, values: dict[str, Any]) -> None:
    template = _core.Template(text)
    assert template.render(json.dumps(values).encode()) == render(text, values)
    assert template.paths() == [match[1] for match in PATH.finditer(text)]


@given(st.integers(4080, 4100), st.sampled_from(["é", "😀", "x"]), st.booleans())
def test_the_output_is_cut_between_characters(length: int, tail: str, by_value: bool) -> None:
    """reliability 3.7: output cap 4 KB."""
    text, values = (
        ("{{event.a}}", {"event": {"a": "x" * length + tail * 5}}) if by_value else ("x" * length + tail * 5, {})
    )
    assert _core.Template(text).render(json.dumps(values).encode()) == render(text, values)
