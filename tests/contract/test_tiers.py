"""Which plan opens which door, read from the contract: one below it is refused, and it itself is not (B038 to B044).

What of the contract the program does not have yet is test_contract's word; it is tested here from its first day.
"""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from tests.api import Api
from tests.contract.coverage import PARAMETER, contract, gaps
from tests.make import Make
from tests.modules.push.conftest import APNS

from sendora.app import document
from sendora.kernel.http.principal import PLANS
from sendora.kernel.life import Kernel

ENTRIES = {entry["id"]: entry for entry in contract() if entry["auth"] != ["public"]}

MISSING = {gap for entry in ENTRIES.values() for gap in gaps(document(), entry)}

DOORS = [id_ for id_, entry in ENTRIES.items() if f"{entry['method']} {entry['path']}" not in MISSING]

TIER_FIELDS = [
    (id_, field)
    for id_ in DOORS
    for field in ENTRIES[id_].get("tier_fields", ())
    if f"{id_} body {field}" not in MISSING
]

BADGED_FREE = {
    "consent.deletion_request",
    "data_io.export",
    "ingest.events",
    "ingest.events_batch",
    "ingest.identify",
    "profiles.delete",
    "profiles.get",
    "push.providers.get",
    "push.providers.put_apns",
    "push.providers.put_fcm",
    "push.send",
    "push.sends.delivery_health",
    "push.sends.list",
    "push.settings.get",
    "push.settings.patch",
    "push.tokens.register",
    "push.track_open",
}
"""What B044 lists of these systems."""

GROWTH = {"geofences", "live_activities"}
"""What B040 lists of these systems."""

SEND = {"title": "T", "body": "B"}
TO_ADA = {**SEND, "userIds": ["ada"]}
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")

BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("push.send", "audienceId"): {**SEND, "audienceId": str(uuid4())},
    ("push.send", "scheduledFor"): {**TO_ADA, "scheduledFor": TOMORROW},
    ("push.send", "abTestId"): {**TO_ADA, "abTestId": str(uuid4())},
    ("push.send", "templateId"): {**TO_ADA, "templateId": str(uuid4())},
    ("push.send", "excludeAudienceIds"): {**TO_ADA, "excludeAudienceIds": [str(uuid4())]},
    ("push.send", "schedule"): {**TO_ADA, "schedule": {"at": TOMORROW[:19], "zone": "Europe/Berlin"}},
    ("keys.mint", "rateLimit"): {"type": "sk", "environment": "prod", "rateLimit": {"perSecond": 1, "burst": 1}},
}
"""For each field with a plan of its own a whole body that has it."""


@pytest.mark.rule("B038", "B040", "B044", "C12", "C15", "C17")
@pytest.mark.parametrize("id_", DOORS)
async def test_each_door_opens_from_its_plan_on(everything: Api, kernel: Kernel, id_: str) -> None:
    """In both forms of the path, with a key that holds every scope, before the body is looked at."""
    entry = ENTRIES[id_]
    least = PLANS.index(entry["tier"])
    path = PARAMETER.sub(str(uuid4()), entry["path"].removeprefix("/api/v1"))
    body = None if entry["method"] in ("GET", "DELETE") else {}
    for plan in PLANS:
        org = await Make(kernel, everything).org(plan)
        for form in (None, org.id):
            answer = await everything.request(entry["method"], path, body, key=org.sk, org=form)
            if PLANS.index(plan) < least:
                assert (answer.status, answer.code) == (402, "tier_required"), answer
                assert answer.details["requiredPlan"] == entry["tier"]
            else:
                assert answer.status in (200, 201, 204, 400, 404), answer


@pytest.mark.rule("B039", "B041", "C87")
@pytest.mark.parametrize(("id_", "field"), TIER_FIELDS)
async def test_each_field_opens_from_its_plan_on(everything: Api, kernel: Kernel, id_: str, field: str) -> None:
    """A whole body with the field: 402 below its plan, and from it on what becomes of it (nothing is configured)."""
    entry = ENTRIES[id_]
    needed = entry["tier_fields"][field]
    path = entry["path"].removeprefix("/api/v1")
    for plan in PLANS:
        org = await Make(kernel, everything).org(plan)
        answer = await everything.request(entry["method"], path, BODIES[id_, field], key=org.sk)
        if PLANS.index(plan) < PLANS.index(needed):
            assert (answer.status, answer.code) == (402, "tier_required"), answer
            assert answer.details["requiredPlan"] == needed
        else:
            assert answer.status in (201, 404, 412), answer


@pytest.mark.rule("B040", "B044", "C15", "C17")
def test_the_contract_gives_each_badge_its_plan() -> None:
    assert {ENTRIES[id_]["tier"] for id_ in BADGED_FREE} == {"free"}
    assert {entry["tier"] for entry in ENTRIES.values() if entry["system"] in GROWTH} == {"growth"}


@pytest.mark.rule("B044")
async def test_a_free_org_sends_to_its_devices(everything: Api, kernel: Kernel) -> None:
    """From the credential and the first device to a direct push that is taken, and its history."""
    make = Make(kernel, everything)
    org = await make.org("free")
    assert (await everything.put("/push/providers/apns", APNS, key=org.sk)).status == 200
    await make.token(org, userId="ada")
    sent = await everything.post("/push/send", TO_ADA, key=org.sk)
    assert (sent.status, sent.data["tokenCount"]) == (200, 1), sent
    assert [row["id"] for row in (await everything.get("/push/sends", key=org.sk)).data] == [sent.data["id"]]
