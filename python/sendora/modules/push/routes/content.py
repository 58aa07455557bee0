"""Templates and A/B tests over HTTP (Starter and up)."""

from typing import TypeVar

import msgspec

from sendora.kernel.errors import Conflict, NotFound
from sendora.kernel.http import Paged, Principal, delete, get, patch, post
from sendora.kernel.ids import TemplateId, TestId, parse_id
from sendora.kernel.life import Kernel
from sendora.kernel.wire import UNSET, Page, UnsetType, Wire
from sendora.modules.push.model.content import (
    Status,
    TemplateContent,
    TemplateIn,
    TemplatePatch,
    TemplateShown,
    TestIn,
    TestPatch,
    TestShown,
    TestStats,
    VariantStats,
    check_template,
    raise_for,
    variant_errors,
    winner_errors,
)
from sendora.modules.push.store import content as store

T = TypeVar("T")


class Deleted(Wire, frozen=True, kw_only=True):
    id: str
    deleted: bool


@post(
    "/push/templates",
    scope="templates:write",
    tier="starter",
    status=201,
    idempotent=True,
    operation="createPushTemplate",
    summary="Save a push template",
)
async def create_template(kernel: Kernel, principal: Principal, data: TemplateIn) -> TemplateShown:
    """B128: what a send may refer to by `templateId`."""
    content = TemplateContent(
        title=data.title,
        body=data.body,
        data=data.data or {},
        actions=data.actions or [],
        localized_body=data.localized_body or {},
        localized_title=data.localized_title or {},
        critical_alert=data.critical_alert,
    )
    raise_for(check_template(content))
    made = await store.insert_template(kernel.db, principal.org, principal.project, data.name, content)
    return made.shown()


@get(
    "/push/templates",
    scope="templates:read",
    tier="starter",
    operation="listPushTemplates",
    summary="List push templates",
)
async def list_templates(kernel: Kernel, principal: Principal, page: Page) -> Paged[TemplateShown]:
    listed = await store.list_templates(kernel.db, principal.org, principal.project, page)
    return Paged([template.shown() for template in listed.rows], page.pagination(listed.total))


@get(
    "/push/templates/{template_id}",
    scope="templates:read",
    tier="starter",
    operation="getPushTemplate",
    summary="Get a push template",
)
async def get_template(kernel: Kernel, principal: Principal, template_id: str) -> TemplateShown:
    found = await store.find_template(kernel.db, principal.org, principal.project, _template_id(template_id))
    if found is None:
        raise NotFound("Template")
    return found.shown()


@patch(
    "/push/templates/{template_id}",
    scope="templates:write",
    tier="starter",
    operation="updatePushTemplate",
    summary="Change a push template",
)
async def update_template(kernel: Kernel, principal: Principal, template_id: str, data: TemplatePatch) -> TemplateShown:
    """Sends that have not gone out yet use it as it will be then (B098)."""
    async with kernel.db.transaction() as connection:
        found = await store.find_template(
            connection, principal.org, principal.project, _template_id(template_id), lock=True
        )
        if found is None:
            raise NotFound("Template")
        old = found.content
        content = TemplateContent(
            title=_or(data.title, old.title),
            body=_or(data.body, old.body),
            data=_emptied(data.data, old.data, {}),
            actions=_emptied(data.actions, old.actions, []),
            localized_body=_emptied(data.localized_body, old.localized_body, {}),
            localized_title=_emptied(data.localized_title, old.localized_title, {}),
            critical_alert=_or(data.critical_alert, old.critical_alert),
        )
        raise_for(check_template(content))
        name = _or(data.name, found.name)
        changed = await store.update_template(
            connection, principal.org, principal.project, TemplateId(found.id), name, content
        )
    return changed.shown()


@delete(
    "/push/templates/{template_id}",
    scope="templates:write",
    tier="starter",
    operation="deletePushTemplate",
    summary="Delete a push template",
)
async def delete_template(kernel: Kernel, principal: Principal, template_id: str) -> Deleted:
    """A send that still refers to it goes out with its own words, or is rejected for everybody if it has no title."""
    if not await store.delete_template(kernel.db, principal.org, principal.project, _template_id(template_id)):
        raise NotFound("Template")
    return Deleted(id=template_id, deleted=True)


@post(
    "/push/ab-tests",
    scope="ab_tests:write",
    tier="starter",
    status=201,
    idempotent=True,
    operation="createAbTest",
    summary="Make an A/B test",
)
async def create_test(kernel: Kernel, principal: Principal, data: TestIn) -> TestShown:
    """Variants whose weights sum to 100 (B116). Who gets which is decided by a hash of the test and the person, so the
    same person always gets the same one (B117, C44)."""
    raise_for(variant_errors(data.variants))
    made = await store.insert_test(
        kernel.db, principal.org, principal.project, data.name, data.status, data.variants, data.auto_promote
    )
    return made.shown()


@get("/push/ab-tests", scope="ab_tests:read", tier="starter", operation="listAbTests", summary="List A/B tests")
async def list_tests(
    kernel: Kernel, principal: Principal, page: Page, status: Status | None = None
) -> Paged[TestShown]:
    listed = await store.list_tests(kernel.db, principal.org, principal.project, status, page)
    return Paged([test.shown() for test in listed.rows], page.pagination(listed.total))


@get(
    "/push/ab-tests/{test_id}", scope="ab_tests:read", tier="starter", operation="getAbTest", summary="Get an A/B test"
)
async def get_test(kernel: Kernel, principal: Principal, test_id: str) -> TestShown:
    found = await store.find_test(kernel.db, principal.org, principal.project, _test_id(test_id))
    if found is None:
        raise NotFound("A/B test")
    return found.shown()


@patch(
    "/push/ab-tests/{test_id}",
    scope="ab_tests:write",
    tier="starter",
    raises=(Conflict,),
    operation="updateAbTest",
    summary="Change an A/B test",
)
async def update_test(kernel: Kernel, principal: Principal, test_id: str, data: TestPatch) -> TestShown:
    """Status and winner at any time (B121); the variants until the test has been sent, because the hash is the
    assignment and nothing of it is stored (C44)."""
    if data.variants is not UNSET:
        raise_for(variant_errors(data.variants))
    async with kernel.db.transaction() as connection:
        found = await store.find_test(connection, principal.org, principal.project, _test_id(test_id), lock=True)
        if found is None:
            raise NotFound("A/B test")
        variants = _or(data.variants, found.variants)
        if found.first_sent_at is not None and variants != found.variants:
            raise Conflict("This test has been sent: its variants are fixed.", "already_dispatched")
        winner = _or(data.winner_key, found.winner_key)
        raise_for(winner_errors(winner, variants))
        changed = await store.update_test(
            connection,
            principal.org,
            principal.project,
            msgspec.structs.replace(
                found,
                name=_or(data.name, found.name),
                status=_or(data.status, found.status),
                variants=variants,
                winner_key=winner,
                auto_promote=_or(data.auto_promote, found.auto_promote),
            ),
        )
    return changed.shown()


@delete(
    "/push/ab-tests/{test_id}",
    scope="ab_tests:write",
    tier="starter",
    operation="deleteAbTest",
    summary="Delete an A/B test",
)
async def delete_test(kernel: Kernel, principal: Principal, test_id: str) -> Deleted:
    """A send that still refers to it goes out with its own words."""
    if not await store.delete_test(kernel.db, principal.org, principal.project, _test_id(test_id)):
        raise NotFound("A/B test")
    return Deleted(id=test_id, deleted=True)


@get(
    "/push/ab-tests/{test_id}/stats",
    scope="ab_tests:read",
    tier="starter",
    operation="abTestStats",
    summary="Count what came of each variant",
)
async def test_stats(kernel: Kernel, principal: Principal, test_id: str) -> TestStats:
    """B120. `delivered` counts device receipts (C93)."""
    id_ = _test_id(test_id)
    found = await store.find_test(kernel.db, principal.org, principal.project, id_)
    if found is None:
        raise NotFound("A/B test")
    rows = await store.test_stats(kernel.db, principal.org, principal.project, id_)
    nothing = store.VariantRow(assigned=0, sent=0, opened=0, clicked=0)
    variants = [
        VariantStats(
            key=variant.key,
            assigned=(row := rows.get(variant.key, nothing)).assigned,
            sent=row.sent,
            delivered=0,
            opened=row.opened,
            clicked=row.clicked,
        )
        for variant in found.variants
    ]
    return TestStats(variants=variants, winner_key=found.winner_key)


def _or(given: T | UnsetType, old: T) -> T:
    return old if isinstance(given, UnsetType) else given


def _emptied(given: T | UnsetType | None, old: T, empty: T) -> T:
    return empty if given is None else _or(given, old)


def _template_id(text: str) -> TemplateId:
    parsed = parse_id(text)
    if parsed is None:
        raise NotFound("Template")
    return TemplateId(parsed)


def _test_id(text: str) -> TestId:
    parsed = parse_id(text)
    if parsed is None:
        raise NotFound("A/B test")
    return TestId(parsed)


ROUTES = (
    create_template,
    list_templates,
    get_template,
    update_template,
    delete_template,
    create_test,
    list_tests,
    get_test,
    update_test,
    delete_test,
    test_stats,
)
