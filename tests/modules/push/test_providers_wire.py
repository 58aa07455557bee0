"""What is written to APNs, FCM and push services, and what their answers mean."""

import base64
from typing import Any
from uuid import UUID, uuid5

import http_ece
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from tests.modules.push.conftest import P8, RSA, b64url, subscription

from sendora.delivery.phases import Identity
from sendora.modules.push import apns, fcm, grants, webpush
from sendora.modules.push.consumers import RETIRES
from sendora.modules.push.model.content import Action, Critical, Raw
from sendora.modules.push.model.providers import Apns, Fcm
from sendora.modules.push.parts import Address, Parts, Posted, Verdict, merge

SEND = UUID("0190b0a0-0000-7000-8000-000000000001")
RECIPIENT = UUID("0190b0a0-0000-7000-8000-000000000002")
STAMPS = {"sendoraSendId": str(SEND), "sendoraDeliveryId": SEND.hex + RECIPIENT.hex}
NOW_S = 1_800_000_000

APNS = Apns(p8=P8, key_id="ABC123DEFG", team_id="TEAM123456", bundle_ids=["com.a", "com.b"], environment=None)
FCM = Fcm(
    project="shop-1", client_email="a@b", private_key=RSA, private_key_id="k1", token_uri="https://oauth.example/token"
)


def parts(**said: Any) -> Parts:
    given: dict[str, Any] = {
        "send": SEND,
        "data": {},
        "actions": [],
        "critical": None,
        "interruption": None,
        "silent": False,
        "collapse_id": None,
        "icon": None,
        "image": None,
        "raw": Raw(),
        "expires_at_s": NOW_S + 600,
        "now_or_never": False,
        "urgent": True,
    }
    return Parts(**(given | said))


def address(**said: Any) -> Address:
    given: dict[str, Any] = {
        "position": 3,
        "recipient": RECIPIENT,
        "platform": "ios",
        "token": "ab" * 32,
        "subscription": None,
        "environment": "production",
        "bundle_id": None,
        "user_id": "u1",
        "title": "T",
        "body": "B",
        "variant": "A",
    }
    return Address(**(given | said))


def built_apns(built: Parts, whom: Address) -> tuple[Posted, dict[str, Any]]:
    body = apns.payload(built, whom)
    to = apns.destination(APNS, whom)
    assert to is not None
    call = apns.build(
        built, whom, APNS, to, url="https://apple", lane="apns:x", provider="apns", bearer="jwt", now_s=NOW_S, body=body
    )
    return call, msgspec.json.decode(body)


@pytest.mark.rule("B100", "C38")
def test_apns_alert() -> None:
    """B100, C38: the ids stand in `data` and at the top; headers as Apple wants them."""
    call, body = built_apns(parts(data={"url": "/x"}), address())
    assert body == {
        "aps": {"alert": {"title": "T", "body": "B"}, "sound": "default"},
        **STAMPS,
        "data": {"url": "/x", **STAMPS},
    }
    assert call.url == "https://apple/3/device/" + "ab" * 32
    assert call.headers == {
        "authorization": "bearer jwt",
        "apns-topic": "com.a",
        "apns-push-type": "alert",
        "apns-priority": "10",
        "apns-expiration": str(NOW_S + 600),
        "apns-id": str(uuid5(SEND, RECIPIENT.hex)),
    }
    assert (call.position, call.recipient, call.user_id, call.variant) == (3, RECIPIENT, "u1", "A")


@pytest.mark.rule("B103", "B106")
def test_apns_parts() -> None:
    """B106: a critical alert; B103: buttons beside `aps`, under a category."""
    said = parts(
        critical=Critical(sound_name="siren.caf", volume=0.5),
        actions=[Action(id="track", title="Track", url="https://x"), Action(id="share", title="Share", icon="sq")],
        collapse_id="order-1",
        image="https://x/i.png",
        now_or_never=True,
    )
    call, body = built_apns(said, address(bundle_id="com.b"))
    assert body["aps"]["sound"] == {"critical": 1, "name": "siren.caf", "volume": 0.5}
    assert body["aps"]["interruption-level"] == "critical"
    assert body["aps"]["category"] == "sendora:track,share"
    assert body["actions"] == [
        {"id": "track", "title": "Track", "url": "https://x"},
        {"id": "share", "title": "Share", "icon": "sq"},
    ]
    assert call.headers["apns-topic"] == "com.b"
    assert call.headers["apns-collapse-id"] == "order-1"
    assert call.headers["apns-expiration"] == "0"


def test_apns_silent_and_raw() -> None:
    """A background push has priority 5 and nothing to see; `raw` is merged over what was built."""
    call, body = built_apns(parts(silent=True, raw=Raw(apns={"aps": {"thread-id": "t"}})), address())
    assert body["aps"] == {"content-available": 1, "thread-id": "t"}
    assert (call.headers["apns-push-type"], call.headers["apns-priority"]) == ("background", "5")
    assert built_apns(parts(interruption="passive"), address())[0].headers["apns-priority"] == "5"


def test_raw_parts_can_take_something_out() -> None:
    """RFC 7396: null removes, so that an app may get data alone and show it itself."""
    raw = Raw(fcm={"notification": None, "android": {"notification": {"channel_id": "orders"}}})
    built = fcm.message(parts(raw=raw), address())
    assert "notification" not in built
    assert built["android"] == {"priority": "HIGH", "notification": {"channel_id": "orders"}}


@pytest.mark.rule("B089")
def test_a_certificate_needs_no_token() -> None:
    secret = msgspec.structs.replace(APNS, p8=None, identity=Identity(certificate="c", key="k"))
    to = apns.destination(secret, address())
    assert to is not None
    said = {"url": "https://apple", "lane": "apns:x", "provider": "apns", "bearer": "", "now_s": NOW_S, "body": b"{}"}
    call = apns.build(parts(), address(), secret, to, **said)  # type: ignore[arg-type]
    assert "authorization" not in call.headers
    assert call.identity == secret.identity


@pytest.mark.parametrize(
    ("credential", "device", "host"),
    [
        (None, "production", ("production", True)),
        (None, "production?", ("production", False)),
        (None, "sandbox", ("sandbox", True)),
        (None, "sandbox?", ("sandbox", False)),
        ("production", "production", ("production", False)),
        ("production", "sandbox", None),
        ("sandbox", "production", ("sandbox", False)),
        ("sandbox", "sandbox", ("sandbox", False)),
    ],
)
def test_apns_destination(credential: str | None, device: str, host: tuple[str, bool] | None) -> None:
    """A production key never tries a development device: Apple would call its token bad. A key for both tries twice."""
    secret = msgspec.structs.replace(APNS, environment=credential)
    assert apns.destination(secret, address(environment=device)) == host


D, R, A = "deferred", "rejected", "accepted"

APNS_TABLE = [
    (200, None, A, None, False, False),
    (400, "BadCollapseId", R, None, False, False),
    (400, "BadDeviceToken", R, None, True, True),
    (400, "DeviceTokenNotForTopic", R, None, True, True),
    (400, "IdleTimeout", D, 5, False, False),
    (400, "TopicDisallowed", R, None, False, False),
    (403, "ExpiredProviderToken", D, 5, False, False),
    (403, "InvalidProviderToken", R, None, False, False),
    (403, "UnrelatedKeyIdInToken", D, 5, False, False),
    (403, "BadEnvironmentKeyInToken", R, None, False, False),
    (404, "BadPath", R, None, False, False),
    (405, "MethodNotAllowed", R, None, False, False),
    (410, "ExpiredToken", R, None, True, False),
    (410, "Unregistered", R, None, True, False),
    (413, "PayloadTooLarge", R, None, False, False),
    (429, "TooManyProviderTokenUpdates", D, 60, False, False),
    (429, "TooManyRequests", D, 60, False, False),
    (500, "InternalServerError", D, 900, False, False),
    (503, "ServiceUnavailable", D, 900, False, False),
    (503, "Shutdown", D, 5, False, False),
]
"""Status, reason, state, wait, retires the address, only if others are accepted (providers.md 1.6)."""


@pytest.mark.rule("B087")
@pytest.mark.parametrize(("status", "reason", "state", "wait", "dead", "doubtful"), APNS_TABLE)
def test_apns_answers(
    status: int, reason: str | None, state: str, wait: int | None, dead: bool, doubtful: bool
) -> None:
    """B087: Apple's reasons, row by row; a named wait is kept for who waits."""
    body = b"" if reason is None else msgspec.json.encode({"reason": reason})
    read = apns.read(status, {"apns-id": "id-1", "retry-after": "7"}, body)
    assert (read.state, read.reason, read.provider_id) == (state, reason, "id-1")
    assert (read.retry.base_s if read.retry else None) == wait
    assert read.retry_after == (None if state == A else "7")
    assert (reason in RETIRES) is dead
    assert not dead or RETIRES[reason or ""].doubtful is doubtful
    assert read.renews is (reason == "ExpiredProviderToken")


def test_apns_gone_carries_apples_instant() -> None:
    """F-V9: since when the token is gone stands with the id, and comes back out."""
    read = apns.read(410, {"apns-id": "id-1"}, b'{"reason":"Unregistered","timestamp":1800000000123}')
    assert (read.provider_id, apns.gone_at_ms(read.provider_id)) == ("id-1@1800000000123", 1_800_000_000_123)
    assert apns.gone_at_ms("id-1") is None and apns.gone_at_ms(None) is None and apns.gone_at_ms("x@y") is None


def fcm_error(
    code: int, status: str, detail: str | None = None, message: str = "", more: list[Any] | None = None
) -> bytes:
    details = list(more or [])
    if detail is not None:
        details.append({"@type": fcm.ERROR_TYPE, "errorCode": detail})
    return msgspec.json.encode({"error": {"code": code, "status": status, "message": message, "details": details}})


BAD_REQUEST = {"@type": fcm.BAD_REQUEST_TYPE, "fieldViolations": []}
TOKEN_SAID = "The registration token is not a valid FCM registration token"

FCM_TABLE: list[tuple[int, bytes, str, str, int | None, bool]] = [
    (404, fcm_error(404, "NOT_FOUND", "UNREGISTERED"), R, "UNREGISTERED", None, True),
    (404, fcm_error(404, "NOT_FOUND"), R, "NOT_FOUND", None, False),
    (400, fcm_error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", TOKEN_SAID), R, fcm.BAD_TOKEN, None, True),
    (400, fcm_error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "too big"), R, "INVALID_ARGUMENT", None, False),
    (
        400,
        fcm_error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", TOKEN_SAID, [BAD_REQUEST]),
        R,
        "INVALID_ARGUMENT",
        None,
        False,
    ),
    (403, fcm_error(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"), R, "SENDER_ID_MISMATCH", None, True),
    (403, fcm_error(403, "PERMISSION_DENIED"), R, "PERMISSION_DENIED", None, False),
    (401, fcm_error(401, "UNAUTHENTICATED"), D, "UNAUTHENTICATED", 5, False),
    (401, fcm_error(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"), R, "THIRD_PARTY_AUTH_ERROR", None, False),
    (429, fcm_error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), D, "QUOTA_EXCEEDED", 60, False),
    (500, fcm_error(500, "INTERNAL", "INTERNAL"), D, "INTERNAL", 10, False),
    (503, fcm_error(503, "UNAVAILABLE", "UNAVAILABLE"), D, "UNAVAILABLE", 10, False),
    (502, b"<html>", D, "http_502", 10, False),
    (418, b"{}", R, "http_418", None, False),
]
"""Status, body, state, reason, wait, retires the address (providers.md 2.3)."""


@pytest.mark.rule("B087")
@pytest.mark.parametrize(("status", "body", "state", "reason", "wait", "dead"), FCM_TABLE)
def test_fcm_answers(status: int, body: bytes, state: str, reason: str, wait: int | None, dead: bool) -> None:
    """B087: by FCM's own code first, then google.rpc's, then the status."""
    read = fcm.read(status, {}, body)
    assert (read.state, read.reason, read.retry.base_s if read.retry else None) == (state, reason, wait)
    assert (reason in RETIRES) is dead
    assert read.renews is (reason == "UNAUTHENTICATED")


def test_fcm_success_must_be_fcms() -> None:
    """A 200 without a name is not Google's: whether the message left is unknown."""
    assert fcm.read(200, {}, b'{"name":"projects/p/messages/1"}').provider_id == "projects/p/messages/1"
    assert fcm.read(200, {}, b"<html>").state == "damaged"


@pytest.mark.rule("B249", "C38")
def test_fcm_message() -> None:
    """B249: the ids stand in `data`, where every value is a string; the rest as Google names it."""
    said = parts(
        data={"url": "/x", "n": 1, "deep": {"a": [1]}},
        actions=[Action(id="a", title="A")],
        collapse_id="c",
        image="https://x/i.png",
    )
    whom = address(token="fcm-token")
    message = fcm.message(said, whom)
    call = fcm.build(
        said, whom, FCM, url="https://fcm", lane="fcm:x", provider="fcm", bearer="tok", now_s=NOW_S, built=message
    )
    assert call.url == "https://fcm/v1/projects/shop-1/messages:send"
    assert call.headers["authorization"] == "Bearer tok"
    assert msgspec.json.decode(call.body) == {
        "message": {
            "token": "fcm-token",
            "notification": {"title": "T", "body": "B", "image": "https://x/i.png"},
            "data": {"url": "/x", "n": "1", "deep": '{"a":[1]}', "actions": '[{"id":"a","title":"A"}]', **STAMPS},
            "android": {"priority": "HIGH", "ttl": "600s", "collapse_key": "c", "notification": {"tag": "c"}},
        }
    }
    silent = fcm.message(parts(silent=True), whom)
    assert "notification" not in silent and silent["android"]["priority"] == "NORMAL"


@pytest.mark.rule("B250", "C38")
def test_web_push_message() -> None:
    """B250: what the service worker reads; ids in `data` and at the top; the browser's word for an id is `action`."""
    said = parts(data={"url": "/x"}, actions=[Action(id="a", title="A")], icon="/i.png", image="/b.png")
    expected: dict[str, Any] = {
        "title": "T",
        "body": "B",
        "icon": "/i.png",
        "image": "/b.png",
        **STAMPS,
        "data": {"url": "/x", **STAMPS},
        "actions": [{"id": "a", "title": "A", "action": "a"}],
    }
    assert msgspec.json.decode(webpush.plaintext(said, address(platform="web"))) == expected


def test_web_push_request() -> None:
    """TTL is mandatory, the topic is hashed to 32 characters, the proof names the service alone."""
    vapid = webpush.generate()
    said = subscription("one")
    whom = address(platform="web", token=said["endpoint"], subscription=said["keys"])
    proof = webpush.prove(vapid, webpush.origin(whom.token), "mailto:a@b", NOW_S)
    call = webpush.build(parts(collapse_id="x" * 64), whom, vapid, proof=proof, now_s=NOW_S, body=b"hello")
    assert call.url == said["endpoint"] and call.lane == "webpush:https://fcm.googleapis.com"
    assert call.headers["ttl"] == "600" and call.headers["urgency"] == "high"
    assert call.headers["content-encoding"] == "aes128gcm"
    assert len(call.headers["topic"]) == 32 and set(call.headers["topic"]) <= set(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    )
    assert call.headers["authorization"] == f"vapid t={proof}, k={vapid.public_key}"
    point = base64.urlsafe_b64decode(vapid.public_key + "==")
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    token = jwt.decode(proof, ECKey.import_key(key), algorithms=["ES256"])
    assert token.claims == {"aud": "https://fcm.googleapis.com", "exp": NOW_S + 12 * 3_600, "sub": "mailto:a@b"}


def test_web_push_vector() -> None:
    """RFC 8291, appendix A, byte for byte."""
    private = ec.derive_private_key(
        int.from_bytes(base64.urlsafe_b64decode("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw=")), ec.SECP256R1()
    )
    sealed = webpush.encrypt(
        b"When I grow up, I want to be a watermelon",
        "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
        "BTBZMqHH6r4Tts7J_aSIgg",
        private_key=private,
        salt=base64.urlsafe_b64decode("DGv6ra1nlYgDCS1FRnbzlw=="),
    )
    assert b64url(sealed) == (
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3"
        "jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
    )


@given(st.binary(max_size=webpush.PLAINTEXT_MAX))
def test_web_push_round_trip(content: bytes) -> None:
    """Any content of the allowed size is one record of at most 4,096 bytes, and comes out as it went in."""
    key = ec.generate_private_key(ec.SECP256R1())
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    auth = b"0123456789abcdef"
    sealed = webpush.encrypt(content, b64url(point), b64url(auth))
    assert len(sealed) <= 4_096
    assert http_ece.decrypt(sealed, private_key=key, auth_secret=auth, version="aes128gcm") == content


WEB_TABLE: list[tuple[int, str, str | None, int | None]] = [
    (201, A, None, None),
    (400, R, "http_400", None),
    (401, R, "http_401", None),
    (403, R, "http_403", None),
    (404, R, "subscription_gone", None),
    (410, R, "subscription_gone", None),
    (413, R, "http_413", None),
    (429, D, "http_429", 60),
    (500, D, "http_500", 30),
    (503, D, "http_503", 30),
]
"""providers.md 3.5."""


@pytest.mark.parametrize(("status", "state", "reason", "wait"), WEB_TABLE)
def test_web_push_answers(status: int, state: str, reason: str | None, wait: int | None) -> None:
    """Only 404 and 410 are the end of a subscription; 401 and 403 are about our key."""
    read = webpush.read(status, {"location": "/m/1"}, b"")
    assert (read.state, read.reason, read.retry.base_s if read.retry else None) == (state, reason, wait)
    assert (reason in RETIRES) is (status in (404, 410))


@given(st.integers(100, 599), st.binary(max_size=200), st.sampled_from(["apns", "fcm", "webpush"]))
def test_any_answer_can_be_read(status: int, body: bytes, provider: str) -> None:
    """A provider, or whatever answers in its place, may say anything."""
    reader = {"apns": apns.read, "fcm": fcm.read, "webpush": webpush.read}[provider]
    read: Verdict = reader(status, {}, body)
    assert (read.state == "deferred") == (read.retry is not None and read.state != "damaged")
    assert read.state == "accepted" or read.reason


def test_provider_tokens() -> None:
    """Apple's has its two claims and no more; Google's assertion names its scope and its endpoint."""
    token = jwt.decode(grants.apns_token(APNS, NOW_S), ECKey.import_key(P8), algorithms=["ES256"])
    assert token.claims == {"iss": "TEAM123456", "iat": NOW_S}
    assert (token.header["alg"], token.header["kid"]) == ("ES256", "ABC123DEFG")
    assertion = jwt.decode(grants.fcm_assertion(FCM, NOW_S), RSAKey.import_key(RSA), algorithms=["RS256"])
    assert assertion.claims == {
        "iss": "a@b",
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": "https://oauth.example/token",
        "iat": NOW_S,
        "exp": NOW_S + 3_600,
    }
    assert assertion.header["kid"] == "k1"


def test_raw_is_merged_deeply() -> None:
    """Objects are merged, everything else is replaced."""
    assert merge({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2]}) == {"a": {"b": 3, "c": 2}, "d": [2]}
