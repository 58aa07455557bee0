"""The curl samples of the API reference, run: paths, bodies, and the content type that curl sends with `-d`.

Nearly all of them show a public key where the text asks for a secret one; the text wins (C04), so each is tried as it
is printed, and where that is refused by scope with a secret key.
"""

import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from tests.api import Api
from tests.make import Make, Org
from tests.modules.push.conftest import APNS

from sendora.kernel.life import Kernel

SAMPLES = (Path(__file__).parent / "samples.sh").read_text()

FORM = {"content-type": "application/x-www-form-urlencoded"}
"""What curl says of a body that came by `-d`."""


class Sample(NamedTuple):
    method: str
    path: str
    """Below the base URL, with its placeholders."""
    public: bool
    body: str | None


def samples() -> list[Sample]:
    found = []
    for block in re.split(r"\n\n(?=\w)", SAMPLES.partition("\n\n")[2]):
        # A sample that keeps an id wraps its call in $(... | jq ...).
        call = re.sub(r"^\w+=\$\(|\s*\|\s*jq [^)]*\)\s*$", "", block)
        words = iter(shlex.split(call.replace("\\\n", " "))[1:])
        method, url, headers, body = "GET", "", "", None
        for word in words:
            match word:
                case "-X":
                    method = next(words)
                case "-H":
                    headers += next(words)
                case "-d":
                    body = next(words)
                case "-s":
                    pass
                case _:
                    url = word
        found.append(Sample(method, url.partition("/api/v1")[2], "pk_prod" in headers, body))
    return found


def test_samples_are_found() -> None:
    assert len(samples()) == SAMPLES.count("curl ") > 25
    assert {one.method for one in samples()} == {"GET", "POST", "PATCH", "DELETE"}
    assert all(one.path.startswith("/") for one in samples())


async def things(api: Api, make: Make, org: Org) -> dict[str, Any]:
    """What the placeholders of the samples stand for."""
    await api.put("/push/providers/apns", APNS, key=org.sk)
    await make.token(org, "ok-sample", userId="u_1")
    audience = await api.post("/audiences", {"name": "a", "rules": {"all": []}}, key=org.sk)
    variants = [{"key": "A", "weight": 100}]
    test = await api.post("/push/ab-tests", {"name": "t", "status": "active", "variants": variants}, key=org.sk)
    profile = await make.profile(org, "u_abc123")
    token = {"userId": "u_1", "activityType": "Order", "externalId": "order-1234", "pushToken": "ab" * 32}
    activity = await api.post("/push/live-activities/start-token", {**token, "platform": "ios"}, key=org.pk)
    fence = {"name": "f", "latitude": 0, "longitude": 0, "radiusMeters": 100, "triggers": ["enter"]}
    geofence = await api.post("/push/geofences", fence, key=org.sk)
    return {
        "<ORG_UUID>": org.id,
        "<AUDIENCE_UUID>": audience.data["id"],
        "<AUD>": audience.data["id"],
        "<TEST_UUID>": test.data["id"],
        "$TEST_ID": test.data["id"],
        "<SEND_UUID>": uuid4(),
        "<PROFILE_UUID>": profile["id"],
        "<ACTIVITY_UUID>": activity.data["id"],
        "<GEOFENCE_UUID>": geofence.data["id"],
    }


@pytest.mark.rule("B001", "B002", "B014", "C04")
async def test_every_sample_works(everything: Api, kernel: Kernel) -> None:
    """As printed or, where the text asks for it, with a secret key; each of them is a success."""
    make = Make(kernel, everything)
    org = await make.org(plan="business")
    named = await things(everything, make, org)
    for sample in samples():
        path, body = sample.path, sample.body
        for placeholder, id_ in named.items():
            path = path.replace(placeholder, str(id_))
            body = None if body is None else body.replace(placeholder, str(id_))
        raw = None if body is None else body.encode()
        # The explicit form's path is whole already.
        options: dict[str, Any] = {} if raw is None else {"headers": FORM}
        answer = await everything.request(sample.method, path, raw, key=org.pk if sample.public else org.sk, **options)
        if sample.public and answer.code == "scope_required":
            answer = await everything.request(sample.method, path, raw, key=org.sk, **options)
        assert answer.status in (200, 201), (sample, answer)
