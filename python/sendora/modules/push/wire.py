"""A send's requests as the library fills them for each recipient. Pure.

What a payload looks like is said by the builders alone (`apns`, `fcm`, `webpush`). They are called here for nobody:
where a recipient's own words belong stand marks, and the library (`_core.Wire`) cuts the texts at the marks. A mark is
made of private-use characters around a number that is drawn anew for each compilation, so no client's text can be one;
the line feed within it is written `\\n` in a JSON string and `\\\\n` in JSON within a JSON string, so that the library
sees how often a word is to be escaped there. Seconds and ids have plain marks: numbers and ids that nobody else has.

A button's text or address that renders as nothing is left out of the payload (`parts.shown_actions`), so there is a
prototype for each combination of those that do.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4, uuid5

import msgspec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from sendora import _core
from sendora.kernel.config import Push
from sendora.modules.push import apns, fcm, webpush
from sendora.modules.push.compose import Composed
from sendora.modules.push.model.providers import Apns, Credential, Credentials, Fcm, Vapid
from sendora.modules.push.model.tokens import Environment
from sendora.modules.push.parts import Address, Parts, Transport
from sendora.modules.push.personal import Personal

OPTIONAL_MAX: Final = 6
"""Texts of buttons that differ from person to person: 64 prototypes of each payload, built in a few milliseconds."""

TRANSPORTS: Final[tuple[Transport, ...]] = ("apns", "fcm", "webpush")

OPEN: Final = "\ue000"
CLOSE: Final = "\ue001"

SLOTS: Final = ("title", "body", "token", "bundle", "proof")
ENVIRONMENTS: Final[tuple[Environment, ...]] = ("production", "sandbox")

NONE: Final = Credentials([])


class _Host(msgspec.Struct, frozen=True):
    lane: str
    provider: str
    url: str
    elsewhere: bool = False


class _Credential(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One credential's side of a transport's."""

    headers: list[tuple[str, str]]
    bundle: str = ""
    hosts: dict[str, _Host | None] = {}
    proofs: Mapping[str, str] = {}


class _Carrier(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One transport's side of the spec of `_core.Wire`."""

    bytes_max: int
    bodies: list[str]
    sizes: list[str] = []
    credentials: list[_Credential | None]
    """None: its provider token cannot be had right now."""
    apps: Mapping[str, int]
    """Places in `credentials`, by bundle id."""
    rest: int | None


def spec(
    composed: Composed,
    *,
    credentials: Mapping[Transport, Credentials],
    tokens: Mapping[UUID, str],
    proofs: Mapping[str, str],
    urls: Push,
    halted: Callable[[str], str | None],
) -> bytes | None:
    """What `_core.Wire` compiles; None when the buttons differ in too many ways, and then the builders serve.

    `tokens` are those that can be had right now, by credential ("" for who needs none). `proofs` are VAPID tokens by
    origin (a `Prover` makes those that are missing), `halted` says why nobody is asked any more on a lane.
    """
    marks = _Marks(composed.parts)
    if not marks.combinations:
        return None
    carriers: dict[Transport, _Carrier | None] = {
        "apns": _apns(marks, credentials.get("apns", NONE), tokens, urls),
        "fcm": _fcm(marks, credentials.get("fcm", NONE), tokens, urls),
        "webpush": _webpush(marks, credentials.get("webpush", NONE), tokens, proofs),
    }
    known = [one for carrier in carriers.values() if carrier is not None for one in carrier.credentials]
    hosts = [host for one in known if one is not None for host in one.hosts.values()]
    reasons = {host.lane: halted(host.lane) for host in hosts if host is not None}
    return msgspec.json.encode(
        {
            "send": composed.parts.send,
            "expiresAt": composed.parts.expires_at_s,
            "titled": composed.title is not None,
            "marks": {
                "open": marks.open,
                "close": CLOSE,
                "slots": SLOTS,
                "plain": {
                    str(marks.expires_at_s): "expires",
                    str(marks.expires_at_s - marks.now_s): "ttl",
                    marks.recipient.hex: "recipient",
                    str(uuid5(composed.parts.send, marks.recipient.hex)): "requestId",
                },
            },
            "templates": marks.templates,
            "optional": [marks.templates.index(text) for text in marks.optional],
            "halted": {lane: reason for lane, reason in reasons.items() if reason is not None},
            **carriers,
        }
    )


def prover(secret: Vapid, subject: str) -> _core.Prover:
    """What proves to any push service that a request is the org's (`webpush.prove`, natively)."""
    key = load_pem_private_key(secret.private_key.encode(), password=None)
    return _core.Prover(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), subject)


class _Marks:
    """The marks of one compilation, and the send with marks for words."""

    def __init__(self, parts: Parts) -> None:
        self.open = OPEN + secrets.token_hex(16)
        # So long that no client's number is one of them, nor their difference.
        self.now_s = 10**29 + secrets.randbelow(10**29)
        self.expires_at_s = 10**30 + secrets.randbelow(10**30)
        self.recipient: UUID = uuid4()
        self.templates: list[str] = []
        personal = Personal(parts)
        self.optional = personal.button_texts
        self.combinations: list[Parts] = []
        """The send with its placeholders marked, for each way in which buttons' texts may be empty: the first of them
        is empty where the lowest bit of the number is set."""
        if len(self.optional) <= OPTIONAL_MAX:
            marked = msgspec.structs.replace(
                parts, expires_at_s=self.expires_at_s, data=personal.replaced_data(self._template)
            )
            for number in range(1 << len(self.optional)):
                actions = personal.replaced_actions(partial(self._button, number))
                self.combinations.append(msgspec.structs.replace(marked, actions=actions))

    def address(self, *, bundle: bool = True, environment: str = ENVIRONMENTS[0]) -> Address:
        return Address(
            position=0,
            recipient=self.recipient,
            platform="",
            token=self.slot("token"),
            subscription=None,
            environment=environment,
            bundle_id=self.slot("bundle") if bundle else None,
            user_id=None,
            title=self.slot("title"),
            body=self.slot("body"),
            variant=None,
        )

    def slot(self, name: str) -> str:
        return self._mark(SLOTS.index(name))

    def _button(self, number: int, text: str) -> str:
        return "" if number >> self.optional.index(text) & 1 else self._template(text)

    def _template(self, text: str) -> str:
        if text not in self.templates:
            self.templates.append(text)
        return self._mark(len(SLOTS) + self.templates.index(text))

    def _mark(self, number: int) -> str:
        return f"{self.open}\n{number}{CLOSE}"


def _apns(marks: _Marks, of: Credentials, tokens: Mapping[UUID, str], urls: Push) -> _Carrier | None:
    def compiled(credential: Credential, secret: Apns, token: str) -> _Credential:
        hosts: dict[str, _Host | None] = {}
        headers: dict[str, str] = {}
        bundle = ""
        for device in (one + suffix for one in ENVIRONMENTS for suffix in ("", apns.GUESS)):
            address = marks.address(environment=device)
            to = apns.destination(secret, address)
            if to is None:
                hosts[device] = None
                continue
            said: dict[str, Any] = {
                "url": apns.url(urls, to.environment),
                "lane": apns.lane(credential.id, to.environment),
                "provider": apns.provider(to.environment, credential.app),
                "bearer": token,
                "now_s": marks.now_s,
                "body": b"",
            }
            call = apns.build(marks.combinations[0], address, secret, to, **said)
            plain = apns.build(marks.combinations[0], marks.address(bundle=False), secret, to, **said)
            headers, bundle = call.headers, plain.headers["apns-topic"]
            hosts[device] = _Host(call.lane, call.provider, call.url, to.elsewhere)
        return _Credential(headers=list(headers.items()), bundle=bundle, hosts=hosts)

    bodies = [apns.payload(parts, marks.address()).decode() for parts in marks.combinations]
    return _carrier(of, tokens, Apns, compiled, apns.PAYLOAD_MAX, bodies)


def _fcm(marks: _Marks, of: Credentials, tokens: Mapping[UUID, str], urls: Push) -> _Carrier | None:
    address = marks.address()
    messages = [(parts, fcm.message(parts, address)) for parts in marks.combinations]

    def compiled(credential: Credential, secret: Fcm, token: str) -> _Credential:
        call = fcm.build(
            marks.combinations[0],
            address,
            secret,
            url=urls.fcm_url,
            lane=fcm.lane(credential.id),
            provider=fcm.provider(credential.app),
            bearer=token,
            now_s=marks.now_s,
            built=messages[0][1],
        )
        hosts: dict[str, _Host | None] = {"": _Host(call.lane, call.provider, call.url)}
        return _Credential(headers=list(call.headers.items()), hosts=hosts)

    bodies = [fcm.body(parts, address, message, marks.now_s).decode() for parts, message in messages]
    sizes = [msgspec.json.encode(message).decode() for _, message in messages]
    return _carrier(of, tokens, Fcm, compiled, fcm.PAYLOAD_MAX, bodies, sizes)


def _webpush(marks: _Marks, of: Credentials, tokens: Mapping[UUID, str], proofs: Mapping[str, str]) -> _Carrier | None:
    def compiled(_: Credential, secret: Vapid, __: str) -> _Credential:
        headers = webpush.headers(marks.combinations[0], secret, proof=marks.slot("proof"), now_s=marks.now_s)
        return _Credential(headers=list(headers.items()), proofs=proofs)

    bodies = [webpush.plaintext(parts, marks.address()).decode() for parts in marks.combinations]
    return _carrier(of, tokens, Vapid, compiled, webpush.PLAINTEXT_MAX, bodies)


Secret = TypeVar("Secret", Apns, Fcm, Vapid)


def _carrier(
    of: Credentials,
    tokens: Mapping[UUID, str],
    kind: type[Secret],
    compiled: Callable[[Credential, Secret, str], _Credential],
    bytes_max: int,
    bodies: list[str],
    sizes: Sequence[str] = (),
) -> _Carrier | None:
    """None where no credential is configured. A payload is the same under each of them."""
    if not of.listed:
        return None

    def known(one: Credential) -> _Credential | None:
        token = tokens.get(one.id)
        return None if token is None or not isinstance(one.secret, kind) else compiled(one, one.secret, token)

    places = {one.id: place for place, one in enumerate(of.listed)}
    return _Carrier(
        bytes_max=bytes_max,
        bodies=bodies,
        sizes=list(sizes),
        credentials=[known(one) for one in of.listed],
        apps={bundle: places[one.id] for bundle, one in of.apps.items()},
        rest=None if of.rest is None else places[of.rest.id],
    )
