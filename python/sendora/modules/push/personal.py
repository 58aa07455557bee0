"""Placeholders outside of title and body: in `data` and in the addresses of buttons (B122). Pure.

The library renders title and body with the decision, because nearly every send has placeholders there. The few that
have them elsewhere too are rendered here, by the library's own templates, so that they mean the same.
"""

from typing import Any, Final

import msgspec

from sendora import _core
from sendora.modules.push.model.content import Action
from sendora.modules.push.parts import Parts

MARK: Final = "{{"


class Personal:
    """The parts of a send that differ from person to person."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._templates: dict[str, _core.Template] = {}
        self.needed = _has_mark(dict(parts.data)) or _has_mark(msgspec.to_builtins(parts.actions))

    def parts(self, scopes: bytes) -> Parts:
        """As they are for the person of these scopes: a JSON object {event, user, trait}."""
        return msgspec.structs.replace(
            self._parts,
            data=self._rendered(dict(self._parts.data), scopes),
            actions=msgspec.convert(self._rendered(msgspec.to_builtins(self._parts.actions), scopes), list[Action]),
        )

    def _rendered(self, value: Any, scopes: bytes) -> Any:
        if isinstance(value, str) and MARK in value:
            template = self._templates.get(value)
            if template is None:
                template = self._templates[value] = _core.Template(value)
            return template.render(scopes)
        if isinstance(value, dict):
            return {key: self._rendered(inner, scopes) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._rendered(inner, scopes) for inner in value]
        return value


def _has_mark(value: Any) -> bool:
    if isinstance(value, str):
        return MARK in value
    if isinstance(value, dict):
        return any(_has_mark(inner) for inner in value.values())
    return isinstance(value, list) and any(_has_mark(inner) for inner in value)
