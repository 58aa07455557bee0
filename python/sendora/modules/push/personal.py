"""Placeholders outside of title and body: in `data`, and in the texts and addresses of buttons (B122). Pure.

The library renders title and body with the decision, because nearly every send has placeholders there. The few that
have them elsewhere too are rendered here, by the library's own templates, so that they mean the same. A button's id is
no text: it is what the app knows the button by.
"""

from collections.abc import Callable
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
        texts = [text for action in parts.actions for text in _texts(action).values()]
        self.button_texts = list(dict.fromkeys(text for text in texts if text is not None and MARK in text))
        """The different ones that have placeholders."""
        self.needed = bool(self.button_texts) or _has_mark(dict(parts.data))

    def parts(self, scopes: bytes) -> Parts:
        """As they are for the person of these scopes: a JSON object {event, user, trait}."""

        def render(text: str) -> str:
            return self._template(text).render(scopes)

        return msgspec.structs.replace(
            self._parts, data=self.replaced_data(render), actions=self.replaced_actions(render)
        )

    def replaced_data(self, replace: Callable[[str], str]) -> dict[str, Any]:
        """`data` with something else for every text that has placeholders."""
        replaced: dict[str, Any] = _replaced(dict(self._parts.data), replace)
        return replaced

    def replaced_actions(self, replace: Callable[[str], str]) -> list[Action]:
        return [msgspec.structs.replace(one, **_replaced(_texts(one), replace)) for one in self._parts.actions]

    def _template(self, text: str) -> _core.Template:
        template = self._templates.get(text)
        if template is None:
            template = self._templates[text] = _core.Template(text)
        return template


def _texts(action: Action) -> dict[str, str | None]:
    return {"title": action.title, "url": action.url, "icon": action.icon}


def _replaced(value: Any, replace: Callable[[str], str]) -> Any:
    if isinstance(value, str) and MARK in value:
        return replace(value)
    if isinstance(value, dict):
        return {key: _replaced(inner, replace) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, replace) for inner in value]
    return value


def _has_mark(value: Any) -> bool:
    if isinstance(value, str):
        return MARK in value
    if isinstance(value, dict):
        return any(_has_mark(inner) for inner in value.values())
    return isinstance(value, list) and any(_has_mark(inner) for inner in value)
