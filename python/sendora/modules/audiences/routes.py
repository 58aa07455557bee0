"""Audiences over HTTP (Starter and up, secret keys alone: B080)."""

from uuid import UUID

from sendora.kernel.clock import iso
from sendora.kernel.errors import Conflict, NotFound, Unavailable, ValidationFailed
from sendora.kernel.http import Paged, Principal, delete, get, patch, post
from sendora.kernel.ids import AudienceId, ProjectId, parse_id
from sendora.kernel.life import Kernel
from sendora.kernel.wire import UNSET, Page
from sendora.modules import orgs
from sendora.modules.audiences import contacts, service, store
from sendora.modules.audiences.model import (
    Audience,
    AudienceDeleted,
    AudienceIn,
    AudiencePatch,
    AudienceShown,
    Contact,
    ContactRemoved,
    ContactsAdded,
    ContactsIn,
    Counted,
    Evaluated,
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
    """Those of the organisation, or of one project (B077). `estimatedSize` is null where no index has answered within
    2 s; `evaluation` says what was known last (B076)."""
    project = None if project_id is None else ProjectId(project_id)
    listed = await store.listed(kernel.db, principal.org, project, page)
    sizes = await service.sizes_of(kernel, principal.org, listed.rows)
    known = await store.evaluations(kernel.db, principal.org, [audience.id for audience in listed.rows])
    shown = [_shown(audience, sizes.get(audience.id), known.get(audience.id)) for audience in listed.rows]
    return Paged(shown, page.pagination(listed.total))


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
    asked for, never stored (B075). With type `list` it has no rules: people are put into it by
    `POST /audiences/{id}/contacts`."""
    _same_project(principal, data.project_id)
    if data.type == "list" and data.rules is not None:
        raise ValidationFailed({"rules": ["A contact list has none"]})
    if data.type == "rules":
        if data.rules is None:
            raise ValidationFailed({"rules": ["Required"]})
        compiled(data.rules)
    audience = await store.insert(kernel.db, principal.org, principal.project, data.name, data.description, data.rules)
    return await _counted(kernel, audience)


@get(
    "/audiences/{audience_id}",
    scope="audiences:read",
    tier="starter",
    operation="getAudience",
    summary="Get an audience and its size",
)
async def get_audience(kernel: Kernel, principal: Principal, audience_id: str) -> AudienceShown:
    """`estimatedSize` is exact as of `estimatedAt`, and null when no worker has answered within 2 s (B076);
    `evaluation` says how the last evaluations went, those of sends included."""
    return await _counted(kernel, await _alive(kernel, principal, audience_id))


@patch(
    "/audiences/{audience_id}",
    scope="audiences:write",
    tier="starter",
    operation="updateAudience",
    summary="Change an audience",
)
async def update_audience(kernel: Kernel, principal: Principal, audience_id: str, data: AudiencePatch) -> AudienceShown:
    """Only the fields that are given; `rules` replaces the whole tree (B078). A contact list has none to replace."""
    if data.rules is not UNSET:
        compiled(data.rules)
        if (await _alive(kernel, principal, audience_id)).rules is None:
            raise ValidationFailed({"rules": ["A contact list has none"]})
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
    return await _counted(kernel, audience)


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
    """Exact, with a funnel: for each leaf as written, who holds it alone, and who is left after it. The people of
    `excludeAudienceIds` are taken off `count` and `addresses`. 503 when nobody has counted within 2 s; a project that
    was asked about for the first time may need a second try."""
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
    """The tree with its truths, what was observed at each leaf within its window, the first event that it counts, and
    when time alone changes it."""
    _same_project(principal, data.project_id)
    if (data.rules is None) == (data.audience_id is None):
        raise ValidationFailed({"rules": ["Give either rules or audienceId"]})
    org, project = principal.org, principal.project
    if data.audience_id is not None:
        return await service.explain_audience(kernel, org, project, data.user_id, AudienceId(data.audience_id))
    rules = data.rules or {}
    compiled(rules)
    return await service.explain(kernel, org, project, data.user_id, rules)


@get(
    "/audiences/{audience_id}/contacts",
    scope="audiences:read",
    tier="starter",
    raises=(Conflict,),
    operation="listContacts",
    summary="List the people of a contact list",
)
async def list_contacts(kernel: Kernel, principal: Principal, page: Page, audience_id: str) -> Paged[Contact]:
    """Each under the external id that they had when they were added, in an order that stays. 409 for an audience of
    rules: `GET /profiles?audienceId=` lists its people, and those of a list as whoever they are now."""
    found = await service.list_of(kernel.db, principal.org, _id(audience_id))
    listed = await contacts.listed(kernel.db, principal.org, found.id, page)
    shown = [Contact(user_id=user_id, added_at=iso(added_at)) for user_id, added_at in listed.rows]
    return Paged(shown, page.pagination(listed.total))


@post(
    "/audiences/{audience_id}/contacts",
    scope="audiences:write",
    tier="starter",
    raises=(Conflict,),
    operation="addContacts",
    summary="Add people to a contact list",
)
async def add_contacts(kernel: Kernel, principal: Principal, audience_id: str, data: ContactsIn) -> ContactsAdded:
    """Up to 1,000 external ids. Repeating it is harmless; whoever is already there stays with the time of the first
    call. Who has no profile yet is told in `unknown`, and is not added."""
    return await service.add_contacts(kernel, principal.org, _id(audience_id), data.user_ids)


@delete(
    "/audiences/{audience_id}/contacts/{user_id}",
    scope="audiences:write",
    tier="starter",
    raises=(Conflict,),
    operation="removeContact",
    summary="Remove somebody from a contact list",
)
async def remove_contact(kernel: Kernel, principal: Principal, audience_id: str, user_id: str) -> ContactRemoved:
    """By external id or profile id, under whatever name the person was added; `removed` is false for somebody who was
    not there."""
    return ContactRemoved(removed=await service.remove_contact(kernel, principal.org, _id(audience_id), user_id))


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


async def _counted(kernel: Kernel, audience: Audience) -> AudienceShown:
    counted = await service.size_of(kernel, audience)
    known = await store.evaluations(kernel.db, audience.org, [audience.id])
    return _shown(audience, counted, known.get(audience.id))


def _shown(audience: Audience, counted: Counted | None, known: Evaluated | None) -> AudienceShown:
    return AudienceShown(
        id=audience.id,
        project_id=audience.project,
        name=audience.name,
        description=audience.description,
        type=audience.type,
        rules=audience.rules,
        estimated_size=None if counted is None else counted.count,
        estimated_at=None if counted is None else iso(counted.as_of),
        evaluation=known,
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
    list_contacts,
    add_contacts,
    remove_contact,
)
