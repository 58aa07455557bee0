"""Push as a channel of delivery: whom, what, and over which wire.

`recipients` is asked once while a send is planned, `open` when a worker takes up its first chunk. What `open` returns
serves every chunk of that send for a few seconds; templates, tests, policies and credentials are as they are then. The
words and the decision are the library's, the requests are built by apns, fcm and webpush.
"""

import asyncio
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from sendora import _core
from sendora.delivery.channel import Connection, Ready, Shipped
from sendora.delivery.phases import (
    BLOCKED,
    ENDPOINT_BLOCKED,
    SHARDS,
    Call,
    Chunk,
    Identity,
    Outcome,
    Reply,
    Send,
    State,
    Targets,
)
from sendora.delivery.retry import retry_after_s, wait_s
from sendora.kernel.clock import from_millis, millis
from sendora.kernel.errors import Unavailable
from sendora.kernel.ids import AudienceId, TemplateId, TestId
from sendora.kernel.life import Kernel
from sendora.kernel.wire import encode
from sendora.modules import audiences
from sendora.modules.push import apns, credentials, fcm, webpush, wire
from sendora.modules.push.compose import NO_TEMPLATE, Composed, bypasses, compose, note
from sendora.modules.push.grants import AWAY
from sendora.modules.push.halts import Since
from sendora.modules.push.model.providers import Apns, Credential, Credentials, Fcm, Vapid
from sendora.modules.push.model.sends import Content, Target, to_row
from sendora.modules.push.parts import (
    AGE_PART,
    DAMAGED,
    SOON,
    TOO_LARGE,
    TRANSPORTS,
    UNSENT_MAX_S,
    Address,
    Parts,
    Posted,
    Transport,
    Verdict,
)
from sendora.modules.push.personal import MARK, Personal
from sendora.modules.push.process import process
from sendora.modules.push.store import content as content_store
from sendora.modules.push.store import targets

NAME: Final = "push"

NO_CREDENTIAL: Final = "no_credential"
"""C43: the recipient's transport is not configured."""

NO_TOKEN: Final = "token_unavailable"  # noqa: S105 - a reason's name
"""The provider's own token endpoint is away (F-V10)."""

NO_ANSWER: Final = "no_answer"

FALLBACK_ZONE: Final = "UTC"

OURS: Final = frozenset({"closed", "lanes_busy"})
"""Why a request stayed here through nobody's fault: the worker drains, or has its hands full."""

INLINE_MAX: Final = 32
"""So many requests are built right here; more are built in a thread, so that the loop goes on answering."""


class PushChannel:
    """The door of this room to delivery."""

    name = NAME

    async def recipients(self, kernel: Kernel, connection: Connection, send: Send, ready: Ready) -> Targets:
        """B093: users and raw tokens as they were named, an audience as it is now (B075), shard by shard; people of
        excluded audiences are left out before they are anybody's recipients. Where each has the send in their own zone,
        it is the device's, else the org's default one, else UTC."""
        target = msgspec.convert(send.target, Target)
        excluded = [AudienceId(id_) for id_ in target.exclude_audience_ids or ()]
        zone = None
        if send.local_at is not None:
            policies = await content_store.policies(kernel.db, send.org)
            zone = policies.org_default_timezone or FALLBACK_ZONE
        if target.audience_id is not None:
            members = await audiences.members(
                kernel, send.org, send.project, AudienceId(target.audience_id), excluded, send.log_position
            )
            unreachable = 0
            async with targets.slices(kernel, send.org, send.project, zone) as slices:
                await members.open(slices.connection)
                for shard in range(SHARDS):
                    named = await members.of(shard)
                    if named is not None:
                        unreachable += await slices.plan(connection, shard, named)
                        await ready()
            return Targets(unreachable=unreachable, as_of=members.as_of, complete=True)
        as_of = None
        if target.tokens is not None:
            unreachable = await targets.plan_tokens(connection, send.org, send.project, target.tokens, zone)
            kept = Target(tokens=[])
        else:
            users = target.user_ids or []
            if excluded:
                as_of, users = await audiences.leave_out(kernel, send.org, send.project, users, excluded)
            unreachable = await targets.plan_users(connection, send.org, send.project, users, zone)
            kept = Target(user_ids=[], exclude_audience_ids=target.exclude_audience_ids)
        return Targets(unreachable=unreachable, as_of=as_of, complete=True, kept=to_row(kept))

    async def open(self, kernel: Kernel, send: Send) -> "PushSending":
        content = msgspec.convert(send.content, Content)
        template = test = None
        if content.template_id is not None:
            found = await content_store.find_template(
                kernel.db, send.org, send.project, TemplateId(content.template_id)
            )
            template = found.content if found is not None else None
        if content.ab_test_id is not None:
            test = await content_store.find_test(kernel.db, send.org, send.project, TestId(content.ab_test_id))
        composed = compose(
            content, template, test, send=send.id, expires_at=send.expires_at, urgent=send.class_ == "now"
        )
        policies = await content_store.policies(kernel.db, send.org)
        raw = msgspec.convert(send.target, Target).tokens is not None
        spec = encode(note(composed, policies, raw=raw, planned_at=planned_at(send), expires_at=send.expires_at))
        capped = not bypasses(composed, policies) and (
            policies.freq_cap_per_user_per_day is not None or policies.freq_cap_per_user_per_hour is not None
        )
        return PushSending(
            kernel,
            send,
            composed,
            _core.Note(spec),
            capped,
            known=MARK.encode() in spec or Personal(composed.parts).needed,
        )


class PushSending:
    """A send on its way."""

    def __init__(
        self,
        kernel: Kernel,
        send: Send,
        composed: Composed,
        compiled: _core.Note,
        capped: bool,
        *,
        known: bool,
    ) -> None:
        """`known`: whether a placeholder asks for what is known of a person."""
        self._kernel = kernel
        self._send = send
        self._composed = composed
        self._note = compiled
        self._capped = capped
        self._known = known
        self._credentials: dict[Transport, Credentials] = {}
        self._process = process(kernel)
        self._personal = Personal(composed.parts)
        self._compiled: tuple[dict[UUID, str], _core.Wire] | None = None

    @property
    def capped(self) -> bool:
        return self._capped

    @property
    def _since(self) -> Since:
        return self._send.id, self._send.retried_at

    async def rows(self, connection: Connection, chunk: Chunk) -> bytes:
        return await targets.rows(connection, self._send.project, chunk, known=self._known)

    def explain(self, row: bytes, caps: _core.Caps | None, now_ms: int) -> dict[str, Any]:
        """The decision on one recipient, as `_core.Note.explain` tells it."""
        said: dict[str, Any] = msgspec.json.decode(self._note.explain(row, caps, now_ms))
        return said

    def decide(self, rows: bytes, caps: _core.Caps | None, now_ms: int) -> _core.Decided:
        return self._note.decide(rows, caps, now_ms)

    async def build(self, decided: _core.Decided, chunk: Chunk) -> tuple[Sequence[Call], Sequence[Outcome]]:
        addresses = [_address(row) for row in decided.sends()]
        for transport in {_transport(one) for one in addresses}:
            await self._of(transport)
        tokens = await self._tokens([self._credential(one) for one in addresses])
        waiting = [self._waiting(one, NO_TOKEN, SOON.base_s) for one in addresses if self._is_away(one, tokens)]
        addresses = [one for one in addresses if not self._is_away(one, tokens)]
        proofs = self._proofs(addresses)
        scopes: dict[UUID, bytes] = {}
        if self._personal.needed and addresses:
            recipients = [one.recipient for one in addresses]
            scopes = await targets.scopes(self._kernel.db, self._send.org, self._send.project, recipients)
        if len(addresses) <= INLINE_MAX:
            calls, outcomes = self._build(addresses, tokens, proofs, scopes)
        else:
            calls, outcomes = await asyncio.to_thread(self._build, addresses, tokens, proofs, scopes)
        return calls, [*outcomes, *waiting]

    def read(self, call: Call, reply: Reply, chunk: Chunk, now_ms: int) -> Outcome:
        posted = _posted(call)
        if reply.fate == "unsent":
            return self._unsent(posted, reply.detail or "unsent", now_ms)
        if reply.fate == "unknown":
            return self._unanswered(posted, NO_ANSWER, chunk, now_ms)
        verdict = READERS[posted.transport](reply.status, reply.headers, reply.body)
        if posted.elsewhere and verdict.reason == apns.BAD_DEVICE_TOKEN:
            verdict = msgspec.structs.replace(verdict, state="deferred", retry=apns.ELSEWHERE, retry_after=None)
        if self._process.halts.heard(self._since, call.lane, verdict):
            self._kernel.log.error("push.halted", send=str(self._send.id), lane=call.lane, reason=verdict.reason)
        if verdict.state == "damaged":
            return self._unanswered(posted, verdict.reason or NO_ANSWER, chunk, now_ms)
        if verdict.state == "deferred" and verdict.retry is not None:
            named = retry_after_s(verdict.retry_after, from_millis(now_ms))
            wait = wait_s(verdict.retry, chunk.tries, named, random.random())
            return self._deferred(posted, verdict.reason or "", now_ms, wait, provider_id=verdict.provider_id)
        state: State = "accepted" if verdict.state == "accepted" else "rejected"
        return outcome(posted, state, verdict.reason, provider=posted.provider, provider_id=verdict.provider_id)

    async def renew(self, call: Call, reply: Reply) -> bool:
        posted = _posted(call)
        credential = self._by_lane().get(call.lane)
        if reply.fate != "answered" or credential is None:
            return False
        if not READERS[posted.transport](reply.status, reply.headers, reply.body).renews:
            return False
        return await self._process.grants.token(credential, refused=posted.grant) != posted.grant

    # -- as a shipment

    @property
    def ships(self) -> bool:
        return len(self._personal.button_texts) <= wire.OPTIONAL_MAX

    async def ship(
        self, lanes: _core.Lanes, chunk: Chunk, rows: bytes, caps: _core.Caps | None, now_ms: int
    ) -> Shipped:
        tokens = await self._tokens([one for each in wire.TRANSPORTS for one in (await self._of(each)).listed])
        for lane, credential in self._by_lane().items():
            match credential.secret:
                case Apns(identity=Identity() as identity):
                    lanes.identify(lane, identity.certificate.encode(), identity.key.encode())
        send = self._send
        expires_ms = -int(-send.expires_at.timestamp() * 1_000 // 1)
        retried_ms = 0 if send.retried_at is None else millis(send.retried_at)
        shipment = await asyncio.to_thread(
            _core.Shipment,
            lanes,
            self._note,
            self._wire(tokens),
            rows,
            caps,
            (
                *(chunk.org.bytes, send.id.bytes, chunk.shard, chunk.seq),
                *(chunk.attempt, chunk.tries, chunk.started, chunk.repeated),
            ),
            (send.delivery == "at_most_once", millis(planned_at(send)), expires_ms, retried_ms),
            chunk.class_,
            now_ms,
        )
        return Shipped(shipment, tokens)

    async def renew_shipped(self, shipped: Shipped, lanes: Sequence[str]) -> None:
        by_lane = self._by_lane()
        fresh: dict[UUID, str] = dict(shipped.tokens)
        for credential in {by_lane[lane].id: by_lane[lane] for lane in lanes}.values():
            with suppress(Unavailable):  # Then the refusals stand, and are tried later.
                refused = shipped.tokens.get(credential.id)
                fresh[credential.id] = await self._process.grants.token(credential, refused=refused)
        renewed = [lane for lane in lanes if fresh.get(id_ := by_lane[lane].id) != shipped.tokens.get(id_)]
        shipped.tokens = fresh
        if renewed:
            shipped.shipment.renew(renewed, self._wire(fresh))
        if len(renewed) < len(lanes):
            shipped.shipment.renew([lane for lane in lanes if lane not in renewed], None)

    def _by_lane(self) -> dict[str, Credential]:
        """The lanes of those credentials that have their own."""
        found: dict[str, Credential] = {}
        for of in self._credentials.values():
            for one in of.listed:
                match one.secret:
                    case Apns():
                        found |= {apns.lane(one.id, environment): one for environment in wire.ENVIRONMENTS}
                    case Fcm():
                        found[fcm.lane(one.id)] = one
        return found

    def _wire(self, tokens: dict[UUID, str]) -> _core.Wire:
        """Compiled once for as long as the provider tokens stay the same."""
        if self._compiled is None or self._compiled[0] != tokens:
            vapid = self._credentials["webpush"].rest
            prover = self._process.prover(vapid) if vapid is not None else None
            spec = wire.spec(
                self._composed,
                credentials=self._credentials,
                tokens=tokens,
                proofs={},
                urls=self._kernel.settings.push,
                halted=lambda lane: None,  # The library remembers by itself who was refused.
            )
            if spec is None:
                raise ValueError("this send does not ship")
            self._compiled = tokens, _core.Wire(spec, prover)
        return self._compiled[1]

    # -- as calls

    async def _tokens(self, credentials_: Collection[Credential | None]) -> dict[UUID, str]:
        """By credential, the provider tokens that can be had right now. When none can the chunk waits as it is
        (Unavailable); where some are away the others' recipients go, and their own wait for themselves."""
        wanted = {one.id: one for one in credentials_ if one is not None}
        tokens = await self._process.grants.tokens(wanted.values())
        if wanted and not tokens and None not in credentials_:
            raise Unavailable(message=AWAY)
        return tokens

    async def _of(self, transport: Transport) -> Credentials:
        """As they were when the send was taken up: the same for all of its chunks, whose parcels name them by place."""
        if transport not in self._credentials:
            org, project = self._send.org, self._send.project
            if transport == "webpush":
                found = await credentials.vapid(self._kernel, org)
            else:
                found = await credentials.find(self._kernel, org, project, transport)
            self._credentials.setdefault(transport, found)
        return self._credentials[transport]

    def _credential(self, address: Address) -> Credential | None:
        return self._credentials[_transport(address)].of(address.bundle_id)

    def _is_away(self, address: Address, tokens: Mapping[UUID, str]) -> bool:
        credential = self._credential(address)
        return credential is not None and credential.id not in tokens

    def _proofs(self, addresses: Sequence[Address]) -> dict[str, str]:
        """A VAPID token for each push service that is about to be asked."""
        found = {webpush.origin(one.token): self._credential(one) for one in addresses if one.platform == "web"}
        return {origin: self._process.proof(one, origin) for origin, one in found.items() if one is not None}

    def _build(
        self,
        addresses: Sequence[Address],
        tokens: dict[UUID, str],
        proofs: dict[str, str],
        scopes: dict[UUID, bytes],
    ) -> tuple[list[Call], list[Outcome]]:
        calls: list[Call] = []
        outcomes: list[Outcome] = []
        now_s = millis(self._kernel.clock.now()) // 1_000
        for address in addresses:
            credential = self._credential(address)
            said = scopes.get(address.recipient)
            parts = self._composed.parts if said is None else self._personal.parts(said)
            if self._composed.title is None:
                built: Posted | Outcome | str = NO_TEMPLATE
            elif credential is None:
                built = NO_CREDENTIAL
            elif isinstance(credential.secret, Vapid):
                built = self._web(parts, address, credential.secret, proofs, now_s)
            else:
                built = self._native(parts, address, credential, tokens[credential.id], now_s)
            if isinstance(built, Outcome):
                outcomes.append(built)
            elif isinstance(built, str):
                outcomes.append(outcome(address, "rejected", built))
            else:
                calls.append(built)
        return calls, outcomes

    def _native(
        self, parts: Parts, address: Address, credential: Credential, token: str, now_s: int
    ) -> Posted | Outcome | str:
        urls = self._kernel.settings.push
        match credential:
            case Credential(id=id_, app=app, secret=Apns() as secret):
                to = apns.destination(secret, address)
                if to is None:
                    return apns.MISMATCH
                body = self._apns_payload(parts, address)
                if len(body) > apns.PAYLOAD_MAX:
                    return TOO_LARGE
                url, lane = apns.url(urls, to.environment), apns.lane(id_, to.environment)
                if halted := self._process.halts.reason(self._since, lane):
                    return halted
                return apns.build(
                    parts,
                    address,
                    secret,
                    to,
                    url=url,
                    lane=lane,
                    provider=apns.provider(to.environment, app),
                    bearer=token,
                    now_s=now_s,
                    body=body,
                )
            case Credential(id=id_, app=app, secret=Fcm() as secret):
                built = self._fcm_message(parts, address)
                if fcm.size(built) > fcm.PAYLOAD_MAX:
                    return TOO_LARGE
                lane = fcm.lane(id_)
                if halted := self._process.halts.reason(self._since, lane):
                    return halted
                return fcm.build(
                    parts,
                    address,
                    secret,
                    url=urls.fcm_url,
                    lane=lane,
                    provider=fcm.provider(app),
                    bearer=token,
                    now_s=now_s,
                    built=built,
                )
        return NO_CREDENTIAL

    def _apns_payload(self, parts: Parts, address: Address) -> bytes:
        return apns.payload(parts, address)

    def _fcm_message(self, parts: Parts, address: Address) -> dict[str, Any]:
        return fcm.message(parts, address)

    def _web(self, parts: Parts, address: Address, secret: Vapid, proofs: dict[str, str], now_s: int) -> Posted | str:
        if address.subscription is None:
            return NO_CREDENTIAL
        body = webpush.plaintext(parts, address)
        if len(body) > webpush.PLAINTEXT_MAX:
            return TOO_LARGE
        proof = proofs[webpush.origin(address.token)]
        return webpush.build(parts, address, secret, proof=proof, now_s=now_s, body=body)

    def _waiting(self, address: Address, reason: str, wait_s: float) -> Outcome:
        due_at = self._kernel.clock.now() + timedelta(seconds=wait_s)
        return outcome(address, "deferred", reason, due_at=due_at, counted=False)

    def _unsent(self, posted: Posted, detail: str, now_ms: int) -> Outcome:
        """Nothing has left, so this was no try. An endpoint that we may not dial stays one, whenever it is tried."""
        if posted.transport == "webpush" and detail.startswith(BLOCKED):
            return outcome(posted, "rejected", ENDPOINT_BLOCKED)
        wait = SOON.base_s
        if detail not in OURS:
            age_s = (now_ms - millis(planned_at(self._send))) / 1_000
            wait = min(max(wait, age_s * AGE_PART), UNSENT_MAX_S)
        return self._deferred(posted, detail, now_ms, wait, counted=False)

    def _unanswered(self, posted: Posted, reason: str, chunk: Chunk, now_ms: int) -> Outcome:
        """Promise 3: what was written and not answered may be repeated, if the send says so; delivery asks it."""
        wait = wait_s(DAMAGED, chunk.tries, None, random.random())
        return msgspec.structs.replace(self._deferred(posted, reason, now_ms, wait), repeated=True)

    def _deferred(
        self,
        posted: Posted,
        reason: str,
        now_ms: int,
        wait: float,
        *,
        counted: bool = True,
        provider_id: str | None = None,
    ) -> Outcome:
        due_at = from_millis(now_ms + int(wait * 1_000))
        told = {"provider": posted.provider, "provider_id": provider_id}
        return outcome(posted, "deferred", reason, due_at=due_at, counted=counted, **told)


READERS: Final[dict[Transport, Callable[..., Verdict]]] = {
    "apns": apns.read,
    "fcm": fcm.read,
    "webpush": webpush.read,
}


def planned_at(send: Send) -> datetime:
    """Since when a change of hands keeps a device out: the instant of the audience, else when the send was due.

    Before the plan has ended that instant is not known yet, and an earlier one errs to the safe side.
    """
    return send.audience_as_of or max(send.created_at, send.scheduled_for or send.created_at)


Row = tuple[int, bytes, str, str, str | None, str, str | None, str | None, str, str, str | None]


def _address(row: Row) -> Address:
    position, recipient, platform, token, subscription, environment, bundle_id, user_id, title, body, variant = row
    return Address(
        position=position,
        recipient=UUID(bytes=recipient),
        platform=platform,
        token=token,
        subscription=None if subscription is None else msgspec.json.decode(subscription, type=dict[str, str]),
        environment=environment,
        bundle_id=bundle_id,
        user_id=user_id,
        title=title,
        body=body,
        variant=variant,
    )


def _transport(address: Address) -> Transport:
    return TRANSPORTS[address.platform]


def outcome(of: Address | Posted, state: State, reason: str | None, **more: Any) -> Outcome:
    """Of whoever has this address."""
    return Outcome(
        position=of.position,
        recipient=of.recipient,
        user_id=of.user_id,
        variant=of.variant,
        state=state,
        reason=reason,
        **more,
    )


def _posted(call: Call) -> Posted:
    """Lanes hand back the call that they were given."""
    if not isinstance(call, Posted):
        raise TypeError("not a call of this channel")
    return call
