"""Exports over HTTP (B068)."""

from typing import Final

from litestar.response import Stream

from sendora.kernel.http import Principal, get, post
from sendora.kernel.life import Kernel
from sendora.modules.data_io import service
from sendora.modules.data_io.model import AskExport, ExportShown, show


@post("/data-io/export", scope="profiles:read", operation="exportData", summary="Export what is known of people")
async def export_data(kernel: Kernel, principal: Principal, data: AskExport) -> ExportShown:
    """Of one person (`filter.profileId`) or of everybody. Asking the same within a day gives the same export."""
    export, found = await service.ask(kernel, principal, data)
    return show(export, kernel.settings.http.base_url, found)


@get("/data-io/exports/{export_id}", scope="profiles:read", operation="getExport", summary="Where an export is")
async def get_export(kernel: Kernel, principal: Principal, export_id: str) -> ExportShown:
    """Until its day is over."""
    return show(await service.find(kernel, principal, export_id), kernel.settings.http.base_url)


@get(
    "/data-io/exports/{export_id}/download",
    scope="profiles:read",
    operation="downloadExport",
    summary="Download an export",
)
async def download_export(kernel: Kernel, principal: Principal, export_id: str) -> Stream:
    """One JSON document, `{id, module, profileId, exportedAt, records: [...], count}`, each record on a line of its
    own, as of the download. One that breaks off has no `count` and is no JSON: download it again."""
    export = await service.find(kernel, principal, export_id)
    pieces = await service.download(kernel, export)
    name = f'attachment; filename="{export.module}-{export.id}.json"'
    return Stream(pieces, media_type="application/json", headers={"content-disposition": name})


ROUTES: Final = (export_data, get_export, download_export)
