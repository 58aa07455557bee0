"""An export: a question that may be answered for a day (B068)."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from sendora.kernel.ids import NIL, OrgId, ProjectId
from sendora.kernel.wire import Wire, WireIn

KEPT_S: Final = 24 * 3_600
"""How long an export can be downloaded, and how long asking the same gives the same one."""

EVERYTHING: Final = "all"
"""Instead of a room's name: whatever any room knows."""

DATA_MAX: Final = 500
"""Records of one person that the answer itself holds; more are downloaded."""


class Filter(WireIn, frozen=True, kw_only=True):
    profile_id: Annotated[str, Meta(min_length=1, max_length=256)]
    """A profile's UUID or its external id (C70)."""


class AskExport(WireIn, frozen=True, kw_only=True):
    """Body of `POST /data-io/export`."""

    module: Annotated[str, Meta(min_length=1, max_length=64)]
    """A room that keeps people's data, such as profiles, events or push; or `all`."""
    filter: Filter | None = None
    """Whose; everybody's without it."""


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `exports`."""

    org: OrgId
    id: UUID
    project: ProjectId
    module: str
    profile_id: UUID
    created_at: datetime
    expires_at: datetime

    @property
    def is_bulk(self) -> bool:
        return self.profile_id == NIL


class ExportShown(Wire, frozen=True, kw_only=True):
    """An export as the API shows it. It is complete when it is made: its records are read at the download."""

    id: UUID
    status: Literal["completed"]
    module: str
    profile_id: UUID | None
    url: str
    """Where it is downloaded; `downloadUrl` is the same."""
    download_url: str
    expires_at: datetime
    data: dict[str, Any] | None
    """{"records": [...]} as of now, in the answer to a POST for one person with at most 500 of them; else null."""


def show(export: Export, base_url: str, data: dict[str, Any] | None = None) -> ExportShown:
    url = f"{base_url}/api/v1/data-io/exports/{export.id}/download"
    return ExportShown(
        id=export.id,
        status="completed",
        module=export.module,
        profile_id=None if export.is_bulk else export.profile_id,
        url=url,
        download_url=url,
        expires_at=export.expires_at,
        data=data,
    )
