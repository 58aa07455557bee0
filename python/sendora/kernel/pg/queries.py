"""Named SQL: the statements of a module live in `queries.sql` beside it.

    -- name: find_key
    SELECT ... FROM api_keys WHERE prefix = $1;

What stands before the first name is the file's head (its why, and `-- reads:` for other rooms' tables). A statement
keeps its name as a leading comment, so that pg_stat_activity says which one is running.
"""

import re
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"^-- name: (?P<name>\S+)[ \t]*$", re.MULTILINE)
_END: Final = re.compile(r"\s*;[ \t]*(--.*)?\Z")
_IDENTIFIER: Final = re.compile(r"[a-z][a-z0-9_]*")


class Queries:
    """Statements by attribute: `sql.find_key`."""

    def __init__(self, texts: dict[str, str], source: str) -> None:
        self._texts = texts
        self._source = source

    def __getattr__(self, name: str) -> str:
        try:
            return self.__dict__["_texts"][name]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError(f"{self.__dict__.get('_source')}: no statement named {name}") from None

    def __dir__(self) -> list[str]:
        return sorted(self._texts)


def queries(module_file: str, name: str = "queries.sql") -> Queries:
    """Load the SQL beside a module: `SQL = queries(__file__)`."""
    path = Path(module_file).with_name(name)
    text = path.read_text(encoding="utf-8")
    found: dict[str, str] = {}
    marks = list(_NAME.finditer(text))
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        statement = mark["name"]
        if not _IDENTIFIER.fullmatch(statement):
            raise ValueError(f"{path}: {statement!r} is no name for a statement")
        if statement in found:
            raise ValueError(f"{path}: {statement} stands there twice")
        body = _tidy(text[mark.end() : following.start() if following else len(text)])
        if not body:
            raise ValueError(f"{path}: {statement} is empty")
        found[statement] = f"/* {path.parent.name}.{statement} */ {body}"
    return Queries(found, str(path))


def _tidy(text: str) -> str:
    """Without the semicolon and what stands behind it: a statement may be put inside of COPY (...)."""
    lines = text.strip().splitlines()
    while lines and (not lines[-1].strip() or lines[-1].lstrip().startswith("--")):
        lines.pop()
    body = _END.sub("", "\n".join(lines))
    return body + "\n" if "--" in body.rpartition("\n")[2] else body
