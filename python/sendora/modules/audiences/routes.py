"""Audiences over HTTP (Starter and up, secret keys alone: B080)."""

from uuid import UUID

from sendora.kernel.clock import iso
from sendora.kernel.errors import NotFound, Unavailable, ValidationFailed
from sendora.kernel.http import Paged, Principal, delete, get, patch, post
from sendora.kernel.ids import AudienceId, ProjectId, parse_id
from sendora.kernel.life import Kernel
from sendora.kernel.wire import UNSET, Page
from sendora.modules import orgs
from sendora.modules.audiences import service, store
from sendora.modules.audiences.model import (
    Audience,
    AudienceDeleted,
    AudienceIn,
    AudiencePatch,
    AudienceShown,
    Counted,
    Explained,
    ExplainIn,
    Preview,
    PreviewIn,
    compiled,
)


@get("/audiences", scope="audiences:read", tier="starter", operation="listAudiences", summary="List audiences")
async def list_audiences(
    kernel: Kernel, principal: Principal, page: Page, project_id: UUID | None = None
) -> Paged[AudienceShown]:
    """Those of the organisation, or of one project (B077). Sizes are null here: each is an evaluation; ask for one
    audience to have it counted."""
    project = None if project_id is None else ProjectId(project_id)
    listed = await store.listed(kernel.db, principal.org, project, page)
    return Paged([_shown(audience, None) for audience in listed.rows], page.pagination(listed.total))


@post(
    "/audiences",
    scope="audiences:write",
    tier="starter",
    status=201,
    idempotent=True,
    operation="createAudience",
    summary="Save an audience",
)
async def create_audience(kernel: Kernel, principal: Principal, data: AudienceIn) -> AudienceShown:
    """A tree of `all`, `any` and `not` over traits and events (B071-B074, C72). Membership is evaluated whenever it is
    asked for, never stored (B075)."""
    _same_project(principal, data.project_id)
    compiled(data.rules)
    audience = await store.insert(kernel.db, principal.org, principal.project, data.name, data.description, data.rules)
    return _shown(audience, await service.size_of(kernel, audience))


@get(
    "/audiences/{audience_id}",
    scope="audiences:read",
    tier="starter",
    operation="getAudience",
    summary="Get an audience and its size",
)
async def get_audience(kernel: Kernel, principal: Principal, audience_id: str) -> AudienceShown:
    """`estimatedSize` is exact as of `evaluatedAt`, and null when no worker has answered within 2 s (B076)."""
    audience = await _alive(kernel, principal, audience_id)
    return _shown(audience, await service.size_of(kernel, audience))


@patch(
    "/audiences/{audience_id}",
    scope="audiences:write",
    tier="starter",
    operation="updateAudience",
    summary="Change an audience",
)
async def update_audience(kernel: Kernel, principal: Principal, audience_id: str, data: AudiencePatch) -> AudienceShown:
    """Only the fields that are given; `rules` replaces the whole tree (B078)."""
    if data.rules is not UNSET:
        compiled(data.rules)
    audience = await store.update(
        kernel.db,
        principal.org,
        _id(audience_id),
        name=None if data.name is UNSET else data.name,
        describes=data.description is not UNSET,
        description=None if data.description is UNSET else data.description,
        rules=None if data.rules is UNSET else data.rules,
    )
    if audience is None:
        raise NotFound("Audience")
    return _shown(audience, await service.size_of(kernel, audience))


@delete(
    "/audiences/{audience_id}",
    scope="audiences:write",
    tier="starter",
    operation="deleteAudience",
    summary="Delete an audience",
)
async def delete_audience(kernel: Kernel, principal: Principal, audience_id: str) -> AudienceDeleted:
    """What still refers to it resolves to nobody (B079, C47); the audit log says who deleted it."""
    async with kernel.db.transaction() as connection:
        audience = await store.bury(connection, principal.org, _id(audience_id))
        if audience is None:
            raise NotFound("Audience")
        await orgs.audit(connection, principal, "audience.deleted", f"audience:{audience.id}", {"name": audience.name})
    return AudienceDeleted(id=audience.id, deleted=True)


@post(
    "/audiences/preview",
    scope="audiences:read",
    tier="starter",
    raises=(Unavailable,),
    operation="previewAudience",
    summary="Count a rule before it is saved",
)
async def preview_audience(kernel: Kernel, principal: Principal, data: PreviewIn) -> Preview:
    """Exact, with a funnel: for each leaf as written, who holds it alone, and who is left after it. 503 when nobody has
    counted within 2 s; a project that was asked about for the first time may need a second try."""
    _same_project(principal, data.project_id)
    return await service.preview(kernel, principal.org, principal.project, data.rules, data.exclude_audience_ids)


@post(
    "/audiences/explain",
    scope="audiences:read",
    tier="starter",
    raises=(Unavailable,),
    operation="explainAudience",
    summary="Say why somebody is in an audience, or not",
)
async def explain_audience(kernel: Kernel, principal: Principal, data: ExplainIn) -> Explained:
    """The tree with its truths, what was observed at each leaf within its window, and when time alone changes it."""
    _same_project(principal, data.project_id)
    if (data.rules is None) == (data.audience_id is None):
        raise ValidationFailed({"rules": ["Give either rules or audienceId"]})
    rules = data.rules
    if data.audience_id is not None:
        rules = await service.rules_of(kernel, principal.org, principal.project, AudienceId(data.audience_id))
    return await service.explain(kernel, principal.org, principal.project, data.user_id, compiled(rules or {}))


def _same_project(principal: Principal, named: UUID | None) -> None:
    if named not in (None, principal.project):
        raise ValidationFailed({"projectId": ["Is not the project of this key"]})


async def _alive(kernel: Kernel, principal: Principal, audience_id: str) -> Audience:
    audience = await store.find(kernel.db, principal.org, _id(audience_id))
    if audience is None or audience.deleted_at is not None:
        raise NotFound("Audience")
    return audience


def _id(text: str) -> AudienceId:
    parsed = parse_id(text)
    if parsed is None:
        raise NotFound("Audience")
    return AudienceId(parsed)


def _shown(audience: Audience, counted: Counted | None) -> AudienceShown:
    return AudienceShown(
        id=audience.id,
        project_id=audience.project,
        name=audience.name,
        description=audience.description,
        rules=audience.rules,
        estimated_size=None if counted is None else counted.count,
        evaluated_at=None if counted is None else counted.as_of,
        created_at=iso(audience.created_at),
        updated_at=iso(audience.updated_at),
    )


ROUTES = (
    list_audiences,
    create_audience,
    get_audience,
    update_audience,
    delete_audience,
    preview_audience,
    explain_audience,
)
