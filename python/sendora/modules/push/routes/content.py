"""Templates and A/B tests over HTTP (Starter and up)."""

from typing import TypeVar

import msgspec

from sendora.kernel.clock import EPOCH
from sendora.kernel.errors import Conflict, NotFound
from sendora.kernel.http import Paged, Principal, delete, get, patch, post
from sendora.kernel.ids import NIL, TemplateId, TestId, parse_id
from sendora.kernel.life import Kernel
from sendora.kernel.wire import UNSET, Page, UnsetType, Wire
from sendora.modules.push import lint, tallies
from sendora.modules.push.compose import check_sizes, compose
from sendora.modules.push.model import readout
from sendora.modules.push.model.content import (
    Status,
    TemplateContent,
    TemplateIn,
    TemplatePatch,
    TemplateSaved,
    TemplateShown,
    TestIn,
    TestPatch,
    TestSaved,
    TestShown,
    check_template,
    raise_for,
    variant_errors,
    winner_errors,
)
from sendora.modules.push.model.readout import TestStats
from sendora.modules.push.model.sends import Content
from sendora.modules.push.store import content as store
from sendora.modules.push.store.content import Template, Test

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
async def create_template(kernel: Kernel, principal: Principal, data: TemplateIn) -> TemplateSaved:
    """B128: what a send may refer to by `templateId`; `warnings` names what will hardly do what was meant (C31)."""
    content = TemplateContent(
        title=data.title,
        body=data.body,
        data=data.data or {},
        actions=data.actions or [],
        localized_body=data.localized_body or {},
        localized_title=data.localized_title or {},
        critical_alert=data.critical_alert,
    )
    _check(content)
    made = await store.insert_template(kernel.db, principal.org, principal.project, data.name, content)
    return _saved_template(made)


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
async def update_template(kernel: Kernel, principal: Principal, template_id: str, data: TemplatePatch) -> TemplateSaved:
    """What is absent stays, null empties what may be empty. Sends that have not gone out yet use it as it will be then
    (B098)."""
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
        _check(content)
        name = _or(data.name, found.name)
        changed = await store.update_template(
            connection, principal.org, principal.project, TemplateId(found.id), name, content
        )
    return _saved_template(changed)


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
async def create_test(kernel: Kernel, principal: Principal, data: TestIn) -> TestSaved:
    """Variants whose weights sum to 100 (B116). Who gets which is decided by a hash of the test and the person, so the
    same person always gets the same one (B117, C44). With `autoPromote` the test completes itself once it is decided
    (C45)."""
    raise_for(variant_errors(data.variants))
    made = await store.insert_test(
        kernel.db, principal.org, principal.project, data.name, data.status, data.variants, data.auto_promote
    )
    return _saved_test(made)


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
async def update_test(kernel: Kernel, principal: Principal, test_id: str, data: TestPatch) -> TestSaved:
    """Status and winner at any time (B121); the variants until the test has been sent, because the hash is the
    assignment and nothing of it is stored (C44). A winner that is named here is for the record (C45): sends use it only
    after the test has completed itself, and no longer once status, winner or `autoPromote` are changed. While a test
    has a winner it does not complete itself; `winnerKey: null` lets it."""
    if data.variants is not UNSET:
        raise_for(variant_errors(data.variants))
    async with kernel.db.transaction() as connection:
        found = await store.find_test(connection, principal.org, principal.project, _test_id(test_id), lock=True)
        if found is None:
            raise NotFound("A/B test")
        variants = _or(data.variants, found.variants)
        if found.first_sent_at is not None and variants != found.variants:
            raise Conflict("This test has been sent: its variants are fixed.", "already_dispatched")
        asked = msgspec.structs.replace(
            found,
            name=_or(data.name, found.name),
            status=_or(data.status, found.status),
            variants=variants,
            winner_key=_or(data.winner_key, found.winner_key),
            auto_promote=_or(data.auto_promote, found.auto_promote),
        )
        raise_for(winner_errors(asked.winner_key, variants))
        if _outcome(asked) != _outcome(found):
            asked = msgspec.structs.replace(asked, promoted_at=None)
        changed = await store.update_test(connection, principal.org, principal.project, asked)
    return _saved_test(changed)


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
    summary="Count what came of each variant, and what may be concluded",
)
async def test_stats(kernel: Kernel, principal: Principal, test_id: str) -> TestStats:
    """B120, in people. Rates and their differences from the control have bounds that hold however often one looks, and
    `sampleRatio` tells when people are missing (B267). `delivered` counts device receipts (C93). What took long to
    count is shown again for a while: `asOf`."""
    found = await store.find_test(kernel.db, principal.org, principal.project, _test_id(test_id))
    if found is None:
        raise NotFound("A/B test")
    counted = await tallies.of_test(kernel, principal.org, principal.project, TestId(found.id))
    return readout.read(found.variants, found.winner_key, counted)


def _check(content: TemplateContent) -> None:
    """The rules of its parts, and that a send with nothing of its own would not be too large for every provider."""
    raise_for(check_template(content))
    check_sizes(compose(Content(), content, None, send=NIL, expires_at=EPOCH, urgent=True))


def _saved_template(template: Template) -> TemplateSaved:
    shown = msgspec.structs.asdict(template.shown())
    return TemplateSaved(**shown, warnings=lint.of_template(template.content))


def _saved_test(test: Test) -> TestSaved:
    shown = msgspec.structs.asdict(test.shown())
    return TestSaved(**shown, warnings=lint.of_variants(test.variants))


def _outcome(test: Test) -> tuple[str, str | None, bool]:
    return test.status, test.winner_key, test.auto_promote


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
