"""The tokens that providers want with each request, made from a credential and shared by the whole cluster.

Apple refuses a team that changes its token more often than every 20 minutes, and Google's endpoint is not to be asked
by each worker. So a token is one sealed row: whoever finds it old takes the row's lock, looks again and makes the next
one, and everybody else waits for that lock or goes on with the old token. Its age is PostgreSQL's business: a worker
whose clock is wrong neither makes a token with a wrong date nor thinks one old (F-V8). What a process has read it keeps
for a while.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Final
from urllib.parse import urlencode
from uuid import UUID

import httpx
import msgspec
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from sendora.delivery.phases import Identity
from sendora.kernel.errors import Unavailable
from sendora.kernel.life import Kernel
from sendora.kernel.outbound import read_body
from sendora.modules.push.model.providers import Apns, Credential, Fcm, Vapid
from sendora.modules.push.parts import object_of
from sendora.modules.push.store import providers as store

RENEW_S: Final = 45 * 60.0
"""Apple takes a token for an hour, Google names 3,600 s."""

APNS_FLOOR_S: Final = 20 * 60.0
"""Apple: more often is TooManyProviderTokenUpdates."""

FCM_FLOOR_S: Final = 10.0
"""Google names none. A token that is refused so soon after it was made was not refused for its age, and the endpoint is
not asked in a circle; the tries of one recipient last longer than this."""

APNS_LIFE_S: Final = 3_600.0
MARGIN_S: Final = 120.0
"""Of a token that lives shorter than expected, the end that is not used: a request in flight must still be good."""

KEPT_S: Final = 60.0
"""How long a process believes what it has read; another may have renewed it meanwhile."""

KEPT_MAX: Final = 10_000

EXCHANGE_S: Final = 10.0
"""Google's token endpoint; the row is locked meanwhile, and nobody else could do better."""

MINTS_MAX: Final = 4
"""Tokens that one process makes at a time: each holds a connection of the pool, and with a token endpoint that hangs as
many as there are tenants would wait for it, while leases and outcomes need connections too."""

AWAY_S: Final = 1.0
"""Who waited for an exchange that failed gets its failure, and does not start another one in turn."""

PATIENCE_S: Final = 2.0
"""How long a chunk waits for one credential's token when it has another's: an endpoint that hangs holds up its own."""

AWAY: Final = "A provider's token cannot be had right now."
SEALED: Final = "A provider's credential cannot be opened right now."

FCM_SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
ASSERTION_LIFE_S: Final = 3_600
JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class Minted(msgspec.Struct, frozen=True, kw_only=True):
    value: str
    life_s: float

    def __repr__(self) -> str:
        return f"Minted(life_s={self.life_s})"


class _Kept(msgspec.Struct, frozen=True):
    value: str
    until: float

    def __repr__(self) -> str:
        return f"_Kept(until={self.until})"


class Grants:
    """The provider tokens that one process knows."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._kept: dict[UUID, _Kept] = {}
        self._away: dict[UUID, float] = {}
        self._locks: dict[UUID, asyncio.Lock] = {}
        self._minting = asyncio.Semaphore(MINTS_MAX)
        self._asking: set[asyncio.Task[str]] = set()

    async def tokens(self, credentials: Iterable[Credential]) -> dict[UUID, str]:
        """By credential, those that can be had right now; what comes too late is there for the next who asks."""
        asked = {one.id: asyncio.create_task(self.token(one)) for one in credentials}
        self._asking.update(asked.values())
        for task in asked.values():
            task.add_done_callback(self._answered)
        waiting = set(asked.values())
        while waiting:
            _, waiting = await asyncio.wait(waiting, timeout=PATIENCE_S)
            if any(_has_token(task) for task in asked.values()):
                break
        tokens: dict[UUID, str] = {}
        for id_, task in asked.items():
            if task.done():
                with suppress(Unavailable):
                    tokens[id_] = task.result()
        return tokens

    def _answered(self, task: asyncio.Task[str]) -> None:
        self._asking.discard(task)
        if not task.cancelled():
            task.exception()  # Heard, though nobody may have waited for it.

    async def token(self, credential: Credential, *, refused: str | None = None) -> str:
        """A token that is good now. `refused` is one that the provider has just called expired: a fresh one is made
        unless the last is too young; "" for who is known by a certificate or by a proof for each push service. Raises
        Unavailable when none can be had; a credential that this process cannot open is away, not wrong: it may be our
        key that is missing."""
        match credential.secret:
            case None:
                raise Unavailable(message=SEALED)
            case Vapid() | Apns(identity=Identity()):
                return ""
        kept = self._kept.get(credential.id)
        if kept is not None and kept.value != refused and self._kernel.clock.monotonic() < kept.until:
            return kept.value
        # One task of this process asks, the others take its answer.
        async with self._locks.setdefault(credential.id, asyncio.Lock()):
            kept = self._kept.get(credential.id)
            if kept is not None and kept.value != refused and self._kernel.clock.monotonic() < kept.until:
                return kept.value
            if self._kernel.clock.monotonic() < self._away.get(credential.id, 0.0):
                raise Unavailable(message=AWAY)
            try:
                value, good_s = await self._read_or_mint(credential, refused)
            except Unavailable:
                self._away[credential.id] = self._kernel.clock.monotonic() + AWAY_S
                raise
            if len(self._kept) >= KEPT_MAX:
                self._kept.clear()
                self._away.clear()
                self._locks = {credential.id: self._locks[credential.id]}
            self._kept[credential.id] = _Kept(value, self._kernel.clock.monotonic() + min(good_s, KEPT_S))
            return value

    async def _read_or_mint(self, credential: Credential, refused: str | None) -> tuple[str, float]:
        """The token, and for how many seconds it may be kept."""
        row = await store.find_grant(self._kernel.db, credential.org, credential.id)
        if row is not None and row.sealed is not None and row.age_s < RENEW_S and row.left_s > MARGIN_S:
            value = await self._opened(credential, row.sealed)
            if value != refused:
                return value, min(row.left_s - MARGIN_S, max(RENEW_S - row.age_s, 1.0))
        async with self._minting:
            return await self._look_again_and_mint(credential, refused)

    async def _opened(self, credential: Credential, sealed: bytes) -> str:
        return (await self._kernel.vault.open(credential.org, _identity(credential), sealed)).decode()

    async def _look_again_and_mint(self, credential: Credential, refused: str | None) -> tuple[str, float]:
        org, id_, vault = credential.org, credential.id, self._kernel.vault
        floor_s = APNS_FLOOR_S if isinstance(credential.secret, Apns) else FCM_FLOOR_S
        await store.make_grant(self._kernel.db, org, id_)
        async with self._kernel.db.transaction() as connection:
            row = await store.lock_grant(connection, org, id_)
            value = None if row.sealed is None else await self._opened(credential, row.sealed)
            left_s = row.left_s - MARGIN_S
            if value is not None and left_s > 0:
                young = row.age_s < RENEW_S and value != refused
                if young or (value == refused and row.age_s < floor_s):
                    return value, min(left_s, max(RENEW_S - row.age_s, 1.0))
            try:
                minted = await mint(self._kernel, credential, int(row.now_s))
            except (Unavailable, httpx.HTTPError, TimeoutError) as error:
                if value is not None and row.left_s > 0 and value != refused:
                    # The endpoint is down and the old token still holds (F-V10).
                    return value, 1.0
                raise Unavailable(message=AWAY) from error
            sealed = await vault.seal(org, _identity(credential), minted.value.encode())
            await store.store_grant(connection, org, id_, sealed, minted.life_s)
        provider = "apns" if isinstance(credential.secret, Apns) else "fcm"
        self._kernel.metrics.count("lane_token_renewals", provider=provider)
        return minted.value, max(min(minted.life_s - MARGIN_S, RENEW_S), 1.0)


def _has_token(task: asyncio.Task[str]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _identity(credential: Credential) -> str:
    return f"push_grants.sealed.{credential.id}"


async def mint(kernel: Kernel, credential: Credential, now_s: int) -> Minted:
    match credential.secret:
        case Apns() as secret:
            value = await asyncio.to_thread(apns_token, secret, now_s)
            return Minted(value=value, life_s=APNS_LIFE_S)
        case Fcm() as secret:
            return await _exchange(kernel, secret, now_s)
        case _:
            raise TypeError("no token is made with it")


def apns_token(secret: Apns, now_s: int) -> str:
    """ES256 with the signature as r and s, which is what JOSE means by it; no claims but these two."""
    if secret.p8 is None:
        raise TypeError("a certificate needs no token")
    header = {"alg": "ES256", "kid": secret.key_id}
    claims = {"iss": secret.team_id, "iat": now_s}
    return jwt.encode(header, claims, ECKey.import_key(secret.p8), algorithms=["ES256"])


def fcm_assertion(secret: Fcm, now_s: int) -> str:
    header = {"alg": "RS256"} | ({"kid": secret.private_key_id} if secret.private_key_id else {})
    claims = {
        "iss": secret.client_email,
        "scope": FCM_SCOPE,
        "aud": secret.token_uri,
        "iat": now_s,
        "exp": now_s + ASSERTION_LIFE_S,
    }
    return jwt.encode(header, claims, RSAKey.import_key(secret.private_key), algorithms=["RS256"])


async def _exchange(kernel: Kernel, secret: Fcm, now_s: int) -> Minted:
    """The assertion for an access token (RFC 7523), at an address that the outbound guard allows."""
    assertion = await asyncio.to_thread(fcm_assertion, secret, now_s)
    kernel.outbound.allow_token_endpoint(secret.token_uri)
    async with (
        asyncio.timeout(EXCHANGE_S),
        kernel.outbound.client(http2=False) as client,
        client.stream(
            "POST",
            secret.token_uri,
            content=urlencode({"grant_type": JWT_BEARER, "assertion": assertion}),
            headers={"content-type": "application/x-www-form-urlencoded"},
        ) as answer,
    ):
        said = object_of(await read_body(answer))
    token, life = said.get("access_token"), said.get("expires_in")
    if answer.status_code != 200 or not isinstance(token, str) or not token.isascii() or not token.isprintable():
        kernel.log.warning("fcm_token_refused", status=answer.status_code, error=str(said.get("error"))[:200])
        raise Unavailable(message="Google gave no access token.")
    return Minted(value=token, life_s=float(life) if isinstance(life, int | float) and life > 0 else APNS_LIFE_S)
