"""What is told to whoever saves words with placeholders that will not do what was meant (C31). Pure.

Nothing of this is an error: a placeholder that leads nowhere renders as nothing (B125), and braces around anything but
a path are text. But the mistake shows on a million phones, and the place to say so is where it is made.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from sendora import _core
from sendora.modules.push.model.content import TemplateContent, TextWarning, Variant

SCOPES: Final = ("event", "user", "trait")
"""B122."""

USER_FIELDS: Final = ("userId", "email", "createdAt", "lastSeenAt", "locale", "timezone")
"""B123: all that `user.*` holds."""

WARNINGS_MAX: Final = 50
"""Whoever has made so many mistakes has made one, many times."""

SHOWN_MAX: Final = 100
"""Characters of a placeholder that are shown again."""

OPEN: Final = "{{"


def of_template(content: TemplateContent) -> list[TextWarning]:
    """Of all texts of a template that are rendered: words, their translations, `data` and buttons."""
    actions = [{"title": one.title, "url": one.url, "icon": one.icon} for one in content.actions]
    texts = {
        "title": content.title,
        "body": content.body,
        "localizedTitle": content.localized_title,
        "localizedBody": content.localized_body,
        "data": content.data,
        "actions": actions,
    }
    return _warnings(texts)


def of_variants(variants: Sequence[Variant]) -> list[TextWarning]:
    return _warnings({"variants": [{"title": one.title, "body": one.body} for one in variants]})


def _warnings(texts: Mapping[str, Any]) -> list[TextWarning]:
    found = (warning for field, text in _texts("", texts) for warning in _of_text(field, text))
    return list(islice(found, WARNINGS_MAX))


def _texts(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """(dotted path, text) of everything that has an open brace."""
    if isinstance(value, str):
        if OPEN in value:
            yield path, value
        return
    inner: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, Mapping):
        inner = iter(value.items())
    elif isinstance(value, list):
        inner = iter(enumerate(value))
    for name, one in inner:
        yield from _texts(f"{path}.{name}" if path else str(name), one)


def _of_text(field: str, text: str) -> Iterator[TextWarning]:
    paths = _core.Template(text).paths()
    for path in dict.fromkeys(paths):
        message = _of_path(path)
        if message is not None:
            yield TextWarning(field=field, placeholder=f"{{{{{path[:SHOWN_MAX]}}}}}", message=message)
    if text.count(OPEN) > len(paths):
        message = "Not every {{ begins a path: what does not is sent as text"
        yield TextWarning(field=field, placeholder=OPEN, message=message)


def _of_path(path: str) -> str | None:
    scope, _, rest = path.partition(".")
    if scope not in SCOPES:
        return f"Renders as nothing: a path begins with one of {', '.join(SCOPES)}"
    if not all(rest.split(".")):
        return "Renders as nothing: a name is missing"
    if scope == "user" and rest not in USER_FIELDS:
        return f"Renders as nothing: user holds only {', '.join(USER_FIELDS)}; traits are in trait"
    return None
