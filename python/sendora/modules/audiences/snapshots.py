"""Files in which a worker keeps its indexes, so that a start need not read everything from Postgres.

A snapshot is as good as the log behind it: it is carried on from its position. Its name says under which number of cuts
(`event_cuts`) and of which log it was made; under any other it would count what was taken away, and goes. So does one
that is older than the log reaches back. They hold people's data: the folder is the owner's alone.
"""

import re
import time
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec

from sendora.kernel import bus
from sendora.kernel.ids import ProjectId

_NAME: Final = re.compile(
    r"(?P<project>[0-9a-f]{32})\.(?P<part>\d+)-(?P<parts>\d+)\.(?P<cuts>\d+)\.(?P<log>\d+)\.index"
)


class Snapshot(msgspec.Struct, frozen=True):
    """What the name of a file says."""

    project: ProjectId
    part: int
    parts: int
    cuts: int
    log: int
    """When the log was made, in milliseconds since 1970."""

    @property
    def file(self) -> str:
        return f"{self.project.hex}.{self.part}-{self.parts}.{self.cuts}.{self.log}.index"


def path_of(folder: Path, snapshot: Snapshot) -> Path:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder / snapshot.file


def sweep(folder: Path, wanted: Snapshot) -> None:
    """Remove what was kept of the same part under another number, and whatever the log has left behind."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        found = read(path)
        if found is None:
            continue
        same = (found.project, found.part, found.parts) == (wanted.project, wanted.part, wanted.parts)
        if (same and found != wanted) or path.stat().st_mtime < time.time() - bus.KEEP_S:
            path.unlink(missing_ok=True)


def kept(folder: Path) -> list[Snapshot]:
    """All that there are."""
    return [found for path in folder.iterdir() if (found := read(path))] if folder.is_dir() else []


def read(path: Path) -> Snapshot | None:
    named = _NAME.fullmatch(path.name)
    if named is None:
        return None
    project, *numbers = named.groups()
    part, parts, cuts, log = map(int, numbers)
    return Snapshot(ProjectId(UUID(project)), part, parts, cuts, log)
