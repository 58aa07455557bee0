"""What the library fills for a recipient is, byte for byte, what the builders write for that recipient."""

import base64
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import http_ece
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey
from tests.core.copybytes import Json, Ms, stream
from tests.modules.push.conftest import P8, RSA, b64url

from sendora import _core
from sendora.delivery.phases import Identity, Outcome
from sendora.kernel.config import Push
from sendora.kernel.ids import OrgId
from sendora.modules.push import apns, fcm, webpush, wire
from sendora.modules.push.channel import NO_TOKEN, PushSending, _address
from sendora.modules.push.compose import Composed, note
from sendora.modules.push.halts import REFUSALS_MAX, Halts
from sendora.modules.push.model.content import Action, Critical, Raw
from sendora.modules.push.model.policies import Policies
from sendora.modules.push.model.providers import Apns, Credential, Credentials, Fcm
from sendora.modules.push.parts import Address, Parts, Posted, Transport
from sendora.modules.push.personal import Personal
from sendora.modules.push.wire import OPTIONAL_MAX, spec

SEND = UUID("0190b0a0-0000-7000-8000-000000000001")
NOW = datetime(2026, 5, 28, 20, 26, 40, 250_000, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1_000)
NOW_S = NOW_MS // 1_000
TRAITS = {"name": 'Zoë "Z" \\ \n\x01\U0001f600', "n": 1.5, "empty": "", "deep": {"er": "}}{{"}, "long": "é" * 900}
SHORT = TRAITS | {"long": ""}

KNOWN = Identity(certificate="c", key="k")
APNS = Apns(p8=P8, key_id="ABC123DEFG", team_id="TEAM123456", bundle_ids=["com.a", "com.b"], environment=None)
FCM = Fcm(project="shop-1", client_email="a@b", private_key=RSA, private_key_id=None, token_uri="https://o/token")
VAPID = webpush.generate()
BROWSER = ec.generate_private_key(ec.SECP256R1())
POINT = BROWSER.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
AUTH = b"0123456789abcdef"
KEYS = {"p256dh": b64url(POINT), "auth": b64url(AUTH)}
URLS = Push(apns_sandbox_url="http://127.0.0.1:81", fcm_url="https://fcm.example/base")


# -- the oracle: the channel itself, without its servers -------------------------------------------------------------


class Case(msgspec.Struct):
    composed: Composed
    credentials: dict[Transport, Credentials]
    tokens: dict[UUID, str]
    halts: Halts
    rows: list[dict[str, Any]]

    def halted(self, lane: str) -> str | None:
        return self.halts.reason((SEND, None), lane)


def plainly(case: Case, decided: _core.Decided) -> tuple[list[Posted], list[tuple[int, str, str]]]:
    """As `PushSending.build` does it."""
    sending = PushSending.__new__(PushSending)
    sending._composed = case.composed
    sending._personal = Personal(case.composed.parts)
    sending._credentials = case.credentials
    sending._send = cast(Any, SimpleNamespace(id=SEND, retried_at=None))
    sending._process = cast(Any, SimpleNamespace(halts=case.halts))
    clock = SimpleNamespace(now=lambda: NOW)
    sending._kernel = cast(Any, SimpleNamespace(settings=SimpleNamespace(push=URLS), clock=clock))
    addresses = [_address(row) for row in decided.sends()]
    away = [one for one in addresses if sending._is_away(one, case.tokens)]
    refused = [(one.position, "deferred", NO_TOKEN) for one in away]
    addresses = [one for one in addresses if one not in away]
    found: dict[UUID, bytes] = {}
    if sending._personal.needed:
        found = {one.recipient: scopes(case.rows[one.position]) for one in addresses}
    calls, outcomes = sending._build(addresses, case.tokens, proofs(addresses), found)
    refused += [(one.position, one.state, one.reason or "") for one in outcomes if isinstance(one, Outcome)]
    return cast(list[Posted], calls), refused


def proofs(addresses: list[Address]) -> dict[str, str]:
    origins = {webpush.origin(one.token) for one in addresses if one.platform == "web"}
    return {origin: f"proof.for.{origin}" for origin in origins}


def scopes(row: dict[str, Any]) -> bytes:
    """As `targets.scopes` gives them."""
    user = {"userId": row["user"], "email": row["email"], "locale": "de", "timezone": None, "lastSeenAt": None}
    user["createdAt"] = "2026-01-02T03:04:05.678Z"
    known = {key: value for key, value in user.items() if value is not None}
    return msgspec.json.encode({"event": {}, "user": known, "trait": row["traits"]})


def rows_of(rows: list[dict[str, Any]]) -> bytes:
    return stream(
        (
            position, row["recipient"], row["platform"], row["token"],
            Json(msgspec.json.encode(KEYS).decode()) if row["platform"] == "web" and row["keys"] else None,
            row["environment"], row["bundle"], row["user"], True, Ms(0), "de", None,
            Json(msgspec.json.encode(row["traits"]).decode()), row["email"],
            Ms(1_767_323_045_678), None,
        )
        for position, row in enumerate(rows)
    )  # fmt: skip


def natively(case: Case) -> tuple[_core.Decided, Any, list[tuple[int, str, str]]]:
    policies = Policies()
    compiled = _core.Note(
        msgspec.json.encode(
            note(case.composed, policies, raw=True, planned_at=NOW, expires_at=NOW + timedelta(seconds=60))
        )
    )
    rows = rows_of(case.rows)
    addresses = [_address(row) for row in compiled.decide(rows, None, NOW_MS).sends()]
    written = spec(
        case.composed,
        credentials=case.credentials,
        tokens=case.tokens,
        proofs=proofs(addresses),
        urls=URLS,
        halted=case.halted,
    )
    assert written is not None
    native = _core.Wire(written)
    decided = compiled.decide(rows, None, NOW_MS, native)
    parcels = _core.Parcels(native, decided)
    requests, failed = parcels.requests(NOW_S)
    assert len(parcels) == len(requests) + len(failed)
    return decided, requests, parcels.refused() + failed


def unseal(body: bytes) -> bytes:
    opened: bytes = http_ece.decrypt(body, private_key=BROWSER, auth_secret=AUTH, version="aes128gcm")
    return opened


def compare(case: Case) -> int:
    decided, requests, refused = natively(case)
    calls, outcomes = plainly(case, decided)
    assert sorted(refused) == sorted(outcomes)
    found = {position: built for position, *built in requests}
    assert sorted(found) == sorted(call.position for call in calls)
    for call in calls:
        lane, provider, url, headers, body = found[call.position]
        host = len(webpush.origin(call.url))  # A lane's connections know it in lower case.
        assert (lane, url) == (call.lane, call.url[:host].lower() + call.url[host:])
        assert provider == call.provider
        assert headers == list(call.headers.items())
        if call.transport == "webpush":
            body, said = unseal(body), unseal(call.body)
        else:
            said = call.body
        assert body == said
    return len(calls)


# -- what is generated -----------------------------------------------------------------------------------------------

plain = st.text(max_size=12) | st.text('"\\/\b\f\n\r\t\x00\x1f\x7f\u2028\ue000\ue001é{}\U0001f600', max_size=12)
placeholders = st.sampled_from(
    [
        "{{trait.name}}", "a {{ user.email }}\n", "{{trait.none}}", "{{trait.empty}}{{trait.n}}", "{{", "{{user.plan}}",
        "{{trait.deep.er}}", "{{trait.long}}", "{{user.createdAt}}|{{user.userId}}|{{event.x}}",
    ]
)  # fmt: skip
texts = plain | placeholders
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    scalars | texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain, inner, max_size=3), max_leaves=6
)
data = st.dictionaries(plain, values, max_size=4)
actions = st.lists(
    st.builds(
        Action,
        id=plain.filter(bool),
        title=texts.filter(bool),
        url=st.none() | texts,
        icon=st.none() | plain,
    ),
    max_size=3,
)
raws = st.none() | data | st.sampled_from(
    [
        {"aps": {"alert": {"title": "t", "subtitle": "{{trait.name}}"}, "badge": 3}},
        {"aps": {"alert": "only"}}, {"aps": None}, {"data": 5}, {"data": {"sendoraSendId": "mine"}},
        {"android": {"ttl": "5s", "priority": "NORMAL"}}, {"android": "x"}, {"token": "theirs"},
        {"notification": {"body": "theirs", "image": "i"}}, {"android": {"ttl": {"deep": 1}}}, {"fid": "f"},
    ]
)  # fmt: skip
header = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=64).map(
    lambda text: text.strip() or "c"
)
parts = st.builds(
    Parts,
    send=st.just(SEND),
    data=data,
    actions=actions,
    critical=st.none() | st.builds(Critical, sound_name=plain.filter(bool), volume=st.floats(0, 1)),
    interruption=st.sampled_from([None, "passive", "active", "time-sensitive", "critical"]),
    silent=st.booleans(),
    collapse_id=st.none() | header,
    icon=st.none() | plain,
    image=st.none() | plain,
    raw=st.builds(Raw, apns=raws, fcm=raws, webpush=raws),
    expires_at_s=st.sampled_from([NOW_S - 5, NOW_S, NOW_S + 1, NOW_S + 86_400]),
    now_or_never=st.booleans(),
    urgent=st.booleans(),
)
stored = texts.filter(lambda text: "\0" not in text)
composeds = st.builds(
    Composed,
    title=st.none() | stored,
    body=stored | st.integers(0, 1_400).map(lambda n: 'é"' * n),
    localized_title=st.just({}),
    localized_body=st.just({}),
    test=st.none(),
    variants=st.just([]),
    parts=parts,
)
rows = st.fixed_dictionaries(
    {
        "recipient": st.uuids(),
        "user": st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5),
        "email": st.none() | st.just("z@example.com"),
        "traits": st.sampled_from([TRAITS, SHORT, SHORT, {}, {"name": "\\"}]),
        "environment": st.sampled_from(["production", "sandbox", "production?", "sandbox?"]),
        "bundle": st.sampled_from([None, "", "com.b", "com.c", "com.d"]),
        "keys": st.sampled_from([True, True, True, False]),
    }
).flatmap(
    lambda row: st.one_of(
        st.just({"platform": "ios", "token": "ab" * 32}),
        st.just({"platform": "android", "token": "fcm:token-" + "x" * 140}),
        st.sampled_from(
            [
                "https://fcm.googleapis.com/fcm/send/x",
                "https://Updates.Push.Services.Mozilla.com/wpush/v2/y?z=1",
                "HTTPS://127.0.0.1:8443/p",
            ]
        ).map(lambda endpoint: {"platform": "web", "token": endpoint}),
    ).map(lambda more: row | more)
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    environment = draw(st.sampled_from([None, "production", "sandbox"]))
    secrets: dict[Transport, Any] = {
        "apns": msgspec.structs.replace(APNS, environment=environment, identity=draw(st.sampled_from([None, KNOWN]))),
        "fcm": FCM,
        "webpush": VAPID,
    }
    credentials: dict[Transport, Credentials] = {}
    tokens: dict[UUID, str] = {}
    mostly = st.sampled_from([True, True, True, True, False])
    for number, (transport, secret) in enumerate(secrets.items()):
        listed: list[tuple[Credential, list[str]]] = []
        for place, (app, bundles) in enumerate([("", ["com.a"]), ("drivers", ["com.b", "com.c"]), ("tv", ["com.d"])]):
            if not draw(mostly if not app else st.booleans()) or (app and transport == "webpush"):
                continue
            id_ = UUID(int=10 * place + number + 1)
            opened = (
                secret if app != "tv" or transport != "apns" else msgspec.structs.replace(secret, bundle_ids=bundles)
            )
            listed.append((Credential(org=OrgId(UUID(int=9)), id=id_, app=app, secret=opened), bundles))
            if draw(mostly):
                tokens[id_] = f"bearer.{transport}.{app}"
        credentials[transport] = Credentials(listed)
    halts = Halts()
    if draw(st.sampled_from([False, False, False, True])):
        lane = draw(st.sampled_from([f"apns:{UUID(int=1)}:production", f"fcm:{UUID(int=2)}", f"fcm:{UUID(int=12)}"]))
        refusal = apns.read(403, {}, b'{"reason":"InvalidProviderToken"}')
        for _ in range(REFUSALS_MAX):
            halts.heard((SEND, None), lane, refusal)
    return Case(draw(composeds), credentials, tokens, halts, draw(st.lists(rows, min_size=1, max_size=4)))


@pytest.mark.rule("B100", "B103", "B106", "B122", "C38")
@settings(max_examples=400)
@given(cases())
def test_requests_are_what_the_builders_write(case: Case) -> None:
    """Payloads, headers in their order, lanes, addresses, and reasons of refusal."""
    if len(Personal(case.composed.parts).button_texts) > OPTIONAL_MAX:
        return
    compare(case)


def one(platform: str, **said: Any) -> dict[str, Any]:
    token = {"ios": "ab" * 32, "android": "t", "web": "https://push.example/x"}[platform]
    row = {
        "recipient": UUID(int=77), "user": "u", "email": None, "traits": TRAITS, "environment": "production",
        "bundle": None, "keys": True, "platform": platform, "token": token,
    }  # fmt: skip
    return row | said


def simple(row: dict[str, Any], *, title: str | None = "T", body: str = "B", **said: Any) -> Case:
    given: dict[str, Any] = {
        "send": SEND, "data": {}, "actions": [], "critical": None, "interruption": None, "silent": False,
        "collapse_id": None, "icon": None, "image": None, "raw": Raw(), "expires_at_s": NOW_S + 60,
        "now_or_never": False, "urgent": True,
    }  # fmt: skip
    composed = Composed(
        title=title,
        body=body,
        localized_title={},
        localized_body={},
        test=None,
        variants=[],
        parts=Parts(**(given | said)),
    )
    secrets: dict[Transport, Any] = {"apns": APNS, "fcm": FCM, "webpush": VAPID}
    credentials = {
        transport: Credentials([(Credential(org=OrgId(UUID(int=9)), id=UUID(int=number), secret=secret), [])])
        for number, (transport, secret) in enumerate(secrets.items())
    }
    tokens = {UUID(int=0): "a", UUID(int=1): "f", UUID(int=2): ""}
    return Case(composed, credentials, tokens, Halts(), [row])


@pytest.mark.parametrize("platform", ["ios", "android", "web"])
def test_sizes_are_exact(platform: str) -> None:
    """The last byte that a provider takes, and the first that it does not."""
    limit = webpush.PLAINTEXT_MAX if platform == "web" else apns.PAYLOAD_MAX
    sending = []
    for length in range(3_500, 4_000):
        case = simple(one(platform), body='"' + "x" * length)
        parts = case.composed.parts
        address = Address(
            position=0, recipient=UUID(int=77), platform=platform, token="", subscription=None, environment="",
            bundle_id=None, user_id=None, title="T", body=case.composed.body, variant=None,
        )  # fmt: skip
        size = {
            "ios": lambda parts=parts, address=address: len(apns.payload(parts, address)),
            "android": lambda parts=parts, address=address: fcm.size(fcm.message(parts, address)),
            "web": lambda parts=parts, address=address: len(webpush.plaintext(parts, address)),
        }[platform]()
        if abs(size - limit) <= 1:
            sending.append((size - limit, compare(case)))
    assert sending == [(-1, 1), (0, 1), (1, 0)]


@pytest.mark.rule("B122", "B125")
@pytest.mark.parametrize("platform", ["ios", "android", "web"])
def test_buttons_that_render_as_nothing_are_left_out(platform: str) -> None:
    """Text and address of a button are as the person has them, in every combination."""
    actions = [
        Action(id="a", title="{{trait.empty}}", url="{{trait.none}}", icon="{{trait.name}}"),
        Action(id="b{{trait.name}}", title="B", url="{{trait.name}}?{{trait.none}}", icon="{{trait.none}}"),
        Action(id="c", title="{{user.email}}", url="https://x/{{user.userId}}"),
    ]
    for traits in ({}, TRAITS, {"name": "n", "none": "http://y"}, {"none": "\\", "empty": '"'}):
        for email in (None, "e"):
            assert compare(simple(one(platform, traits=traits, email=email), actions=actions)) == 1


def test_buttons_that_differ_in_too_many_ways_are_left_to_the_builders() -> None:
    actions = [Action(id=str(i), title=f"{{{{trait.a{i}}}}}", url=f"{{{{trait.b{i}}}}}") for i in range(4)]
    case = simple(one("ios"), actions=actions)
    written = spec(case.composed, credentials={}, tokens={}, proofs={}, urls=URLS, halted=lambda lane: None)
    assert written is None


def test_nested_data_is_escaped_twice() -> None:
    """FCM's data is text: an object within is JSON within a JSON string."""
    said = {"deep": {"list": ["{{trait.name}}", {"x": "a{{trait.name}}b"}]}, "flat": "{{trait.name}}"}
    case = simple(one("android"), data=said)
    assert compare(case) == 1
    _, [(*_, body)], _ = natively(case)
    sent = msgspec.json.decode(body)["message"]["data"]
    assert sent["flat"] == TRAITS["name"]
    assert msgspec.json.decode(sent["deep"])["list"][1]["x"] == f"a{TRAITS['name']}b"


def test_texts_too_long_for_any_payload() -> None:
    """A few placeholders in a template must not become gigabytes over a chunk."""
    said = {str(i): "{{trait.long}}" + str(i) for i in range(200)}
    case = simple(one("ios"), data=said)
    _, requests, refused = natively(case)
    assert (requests, refused) == ([], [(0, "rejected", "payload_too_large")])


def test_a_decision_without_this_wires_templates_is_refused() -> None:
    case = simple(one("ios"), data={"a": "{{trait.name}}"})
    written = spec(
        case.composed, credentials=case.credentials, tokens=case.tokens, proofs={}, urls=URLS, halted=lambda lane: None
    )
    assert written is not None
    compiled = _core.Note(
        msgspec.json.encode(note(case.composed, Policies(), raw=True, planned_at=NOW, expires_at=NOW + timedelta(1)))
    )
    with pytest.raises(ValueError, match="without the templates"):
        _core.Parcels(_core.Wire(written), compiled.decide(rows_of(case.rows), None, NOW_MS))


def test_a_browser_without_usable_keys_takes_nobody_along() -> None:
    """What was checked at registration may be broken all the same; it is one recipient's."""
    case = simple(one("web"))
    case.rows.append(one("web", token="https://other.example/y"))
    rows = rows_of(case.rows).replace(KEYS["auth"].encode(), b"!" * len(KEYS["auth"]), 1)
    written = spec(
        case.composed,
        credentials=case.credentials,
        tokens=case.tokens,
        proofs={"https://push.example": "p"},
        urls=URLS,
        halted=lambda lane: None,
    )
    assert written is not None
    compiled = _core.Note(
        msgspec.json.encode(note(case.composed, Policies(), raw=True, planned_at=NOW, expires_at=NOW + timedelta(1)))
    )
    failures = []
    for prover in (None, wire.prover(VAPID, "mailto:a@b")):
        native = _core.Wire(written, prover)
        parcels = _core.Parcels(native, compiled.decide(rows, None, NOW_MS, native))
        requests, failed = parcels.requests(NOW_S)
        failures.append(failed)
    bad = 0, "rejected", "bad_subscription"
    # Without a prover there is no proof for the second one's push service.
    assert failures == [[bad, (1, "deferred", "token_unavailable")], [bad]]
    [(position, lane, _, url, headers, _)] = requests
    assert (position, lane, url) == (1, "webpush:https://other.example", "https://other.example/y")
    assert dict(headers)["authorization"].endswith(f", k={VAPID.public_key}")


def test_native_proofs() -> None:
    """RFC 8292: signed with the org's key, for one push service, and kept until half of its life is over."""
    prover = wire.prover(VAPID, "mailto:a@b")
    proof = prover.proof("https://push.example", NOW_S)
    point = base64.urlsafe_b64decode(VAPID.public_key + "==")
    key = ECKey.import_key(ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point))
    for made, at_s in ((proof, NOW_S), (webpush.prove(VAPID, "https://push.example", "mailto:a@b", NOW_S), NOW_S)):
        token = jwt.decode(made, key, algorithms=["ES256"])
        assert token.header == {"typ": "JWT", "alg": "ES256"}
        assert token.claims == {"aud": "https://push.example", "exp": at_s + webpush.PROOF_LIFE_S, "sub": "mailto:a@b"}
    assert prover.proof("https://push.example", NOW_S + webpush.PROOF_LIFE_S // 2 - 1) == proof
    assert prover.proof("https://push.example", NOW_S + webpush.PROOF_LIFE_S // 2) != proof
    assert prover.proof("https://push.example", NOW_S - 1) != proof
    with pytest.raises(ValueError):
        _core.Prover(b"no key", "mailto:a@b")


@pytest.mark.parametrize("broken", [b"", b"{}", b'{"send": "x"}'])
def test_a_spec_that_makes_no_sense(broken: bytes) -> None:
    with pytest.raises(ValueError):
        _core.Wire(broken)


@settings(max_examples=300)
@given(st.binary(max_size=webpush.PLAINTEXT_MAX), st.binary(min_size=16, max_size=16), st.booleans())
def test_what_is_encrypted_natively_http_ece_decrypts(content: bytes, auth: bytes, padded: bool) -> None:
    """RFC 8291 against the peer's own implementation, under keys of every shape."""
    private = ec.generate_private_key(ec.SECP256R1())
    point = private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    write = (lambda raw: base64.b64encode(raw).decode()) if padded else b64url
    bodies = _core.encrypt_webpush([(content, write(point), write(auth)), (content, b64url(point), b64url(auth))])
    assert bodies[0] != bodies[1]
    for body in bodies:
        assert body is not None and len(body) == 86 + len(content) + 1 + 16
        assert http_ece.decrypt(body, private_key=private, auth_secret=auth, version="aes128gcm") == content


def test_keys_that_are_none_are_an_error() -> None:
    """None of them is a panic, and none takes the others along."""
    good = KEYS["p256dh"], KEYS["auth"]
    off = bytearray(POINT)
    off[64] ^= 1
    bad = [
        ("", good[1]),
        (good[0], ""),
        (good[0][:-1], good[1]),
        (good[0], good[1] + "x"),
        (b64url(bytes(off)), good[1]),
    ]
    bad += [(b64url(b"\x02" + POINT[1:]), good[1]), ("é" * 87, good[1]), (good[0], "=" * 22)]
    sealed = _core.encrypt_webpush([(b"x", *keys) for keys in [good, *bad, good]])
    assert [body is None for body in sealed] == [False, *[True] * len(bad), False]
    assert _core.encrypt_webpush([(bytes(webpush.PLAINTEXT_MAX + 1), *good)]) == [None]
