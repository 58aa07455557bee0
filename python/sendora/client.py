"""Sendora for servers: an asynchronous client of the API with a secret key. Of the cluster's it needs nothing.

    async with Sendora("https://sendora.example", os.environ["SENDORA_KEY"]) as sendora:
        await sendora.track("order.placed", {"amount": 49.99}, user_id="u_1")
        send = await sendora.push.send(user_ids=["u_1"], title="Thank you", body="It is on its way.")
        balance = await sendora.push.reconciliation(send["id"])
        async for audience in sendora.audiences.list():
            print(audience["name"])

Answers are the API's own objects, in its own words. What the API refuses is raised as SendoraError. Every event has an
id and every call that makes something an Idempotency-Key, so what got no answer is safely said again: 429 until the
retries are used up, 500 to 504 and silence likewise (B031, B032).
"""

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx
from uuid_utils.compat import uuid7

API: Final = "/api/v1"

RETRIES: Final = 3
BACKOFF_S: Final = 1.0
BACKOFF_MAX_S: Final = 60.0
JITTER: Final = 0.2
TRANSIENT: Final = frozenset({429, 500, 502, 503, 504})

IN_FLIGHT: Final = "idempotency_in_flight"
"""An earlier try of the same call is still at work: its answer will be this one's."""

TIMEOUT_S: Final = 30.0

BATCH_MAX: Final = 1_000
BATCH_BYTES: Final = 2**20 - 1_024
"""What one request may hold (C94), less its brackets."""

PAGE_SIZE: Final = 100

IN_BATCH: Final = re.compile(r"(?:events\.)?(\d+)\.(.+)")
"""A field error of a refused batch."""

Object = dict[str, Any]
Id = UUID | str


class SendoraError(Exception):
    """The API said no, or nothing at all (`status` 0, code NO_ANSWER)."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int = 0,
        details: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        retry_after_s: float = 0.0,
    ) -> None:
        super().__init__(f"{code}: {message}" + (f" (request {request_id})" if request_id else ""))
        self.code = code
        self.message = message
        self.status = status
        self.details: Mapping[str, Any] = details or {}
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    @property
    def field_errors(self) -> Mapping[str, Sequence[str]]:
        """Of a VALIDATION_ERROR: what is wrong, by dotted path."""
        errors: Mapping[str, Sequence[str]] = self.details.get("fieldErrors", {})
        return errors

    @property
    def transient(self) -> bool:
        return self.status == 0 or self.status in TRANSIENT or self.details.get("reason") == IN_FLIGHT


class Sendora:
    """One key's client; `async with` opens and closes its connections.

    `transport`: instead of the network (an ASGI app in a test).
    """

    def __init__(
        self,
        base_url: str,
        secret_key: str,
        *,
        timeout_s: float = TIMEOUT_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if not secret_key.startswith("sk_"):
            raise ValueError("a server takes a secret key (sk_...)")
        self._client = httpx.AsyncClient(
            base_url=base_url.rstrip("/") + API,
            headers={"x-api-key": secret_key},
            timeout=timeout_s,
            transport=transport,
        )
        self.profiles = Profiles(self)
        self.audiences = Audiences(self)
        self.push = Push(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._client.aclose()

    async def track(
        self,
        event_type: str,
        properties: Mapping[str, Any] | None = None,
        *,
        user_id: str | None = None,
        anonymous_id: str | None = None,
        module: str = "analytics",
        timestamp: datetime | None = None,
    ) -> Object:
        """Says that something happened; the event's id is in the answer."""
        event = {
            "eventType": event_type,
            "properties": properties,
            "userId": user_id,
            "anonymousId": anonymous_id,
            "module": module,
            "timestamp": timestamp,
        }
        return await self.call("POST", "/events", _stamped(event))

    async def track_many(self, events: Iterable[Mapping[str, Any]]) -> Object:
        """Any number of events in the API's words (`eventType`, `userId`, ...), in as many requests as it takes.

        `module`, `eventId` and `timestamp` are filled in. Gives {accepted, rejected, errors}; `index` in
        `errors` counts over all of them. A bad event fails none of its neighbours.
        """
        total: Object = {"accepted": 0, "rejected": 0, "errors": []}
        at = 0
        for batch in _batches(events):
            try:
                said = await self.call("POST", "/events/batch", b'{"events":[' + b",".join(batch) + b"]}")
            except SendoraError as error:
                if error.status != 400 or not error.field_errors:
                    raise
                said = _all_bad(error, len(batch))
            total["accepted"] += said["accepted"]
            total["rejected"] += said["rejected"]
            total["errors"] += [{**one, "index": at + one["index"]} for one in said["errors"]]
            at += len(batch)
        return total

    async def identify(
        self,
        user_id: str,
        traits: Mapping[str, Any] | None = None,
        *,
        email: str | None = None,
        anonymous_id: str | None = None,
        locale: str | None = None,
        timezone: str | None = None,
    ) -> Object:
        """Who somebody is (C29: `email` is the user's, `traits["email"]` a trait); gives {id, externalId}."""
        body = {
            "userId": user_id,
            "traits": traits,
            "email": email,
            "anonymousId": anonymous_id,
            "locale": locale,
            "timezone": timezone,
        }
        return await self.call("POST", "/identify", _stamped(body))

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Object:
        """`data` of any route's answer; `path` is below /api/v1. For what has no method of its own here."""
        data: Object = (await self._ask(method, path, body, query, idempotency_key))["data"]
        return data

    async def list(self, path: str, **query: Any) -> AsyncIterator[Object]:
        """The rows of a list, page after page as they are needed."""
        for page in range(1, 2**31):
            said = await self._ask("GET", path, None, {**query, "page": page, "pageSize": PAGE_SIZE})
            for row in said["data"]:
                yield row
            if not said["pagination"]["hasMore"]:
                return

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes | None = None,
        query: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Object:
        # One for all tries of this call; the routes that make nothing do not look at it.
        headers = {"idempotency-key": idempotency_key or str(uuid4())} if method == "POST" else {}
        content = _encode(body) if isinstance(body, Mapping) else body
        if content is not None:
            headers["content-type"] = "application/json"
        params = {name: value for name, value in (query or {}).items() if value is not None}
        for n in range(RETRIES + 1):
            try:
                return await self._once(method, path, content, headers, params)
            except SendoraError as error:
                if not error.transient or n == RETRIES or error.retry_after_s > BACKOFF_MAX_S:
                    raise
                await asyncio.sleep(max(error.retry_after_s, backoff_s(n)))
        raise AssertionError("unreachable")

    async def _once(
        self, method: str, path: str, content: bytes | None, headers: Mapping[str, str], params: Mapping[str, Any]
    ) -> Object:
        try:
            response = await self._client.request(method, path, content=content, headers=headers, params=params)
        except httpx.TransportError as error:
            raise SendoraError("NO_ANSWER", f"{method} {path}: {type(error).__name__}") from error
        try:
            envelope = response.json()
        except ValueError:
            envelope = None
        said: Object = envelope if isinstance(envelope, dict) else {}
        if response.is_success and "data" in said:
            return said
        failed = said.get("error") or {}
        retry_after = response.headers.get("retry-after", "")
        raise SendoraError(
            failed.get("code", "UNKNOWN"),
            failed.get("message", f"{method} {path}: {response.status_code}"),
            status=response.status_code,
            details=failed.get("details"),
            request_id=response.headers.get("x-request-id"),
            retry_after_s=float(retry_after) if retry_after.isdigit() else 0.0,
        )


class _Room:
    def __init__(self, sendora: Sendora) -> None:
        self._sendora = sendora


class Profiles(_Room):
    async def get(self, profile_id: Id) -> Object:
        return await self._sendora.call("GET", f"/profiles/{_part(profile_id)}")

    def list(
        self, *, external_id: str | None = None, email: str | None = None, audience_id: Id | None = None
    ) -> AsyncIterator[Object]:
        return self._sendora.list("/profiles", externalId=external_id, email=email, audienceId=audience_id)

    async def update(self, profile_id: Id, **changed: Any) -> Object:
        return await self._sendora.call("PATCH", f"/profiles/{_part(profile_id)}", changed)

    async def delete(self, profile_id: Id) -> Object:
        return await self._sendora.call("DELETE", f"/profiles/{_part(profile_id)}")


class Audiences(_Room):
    async def create(self, name: str, rules: Mapping[str, Any], *, description: str | None = None) -> Object:
        body = _given(name=name, rules=rules, description=description)
        return await self._sendora.call("POST", "/audiences", body)

    def list(self) -> AsyncIterator[Object]:
        return self._sendora.list("/audiences")

    async def get(self, audience_id: Id) -> Object:
        return await self._sendora.call("GET", f"/audiences/{_part(audience_id)}")

    async def update(self, audience_id: Id, **changed: Any) -> Object:
        return await self._sendora.call("PATCH", f"/audiences/{_part(audience_id)}", changed)

    async def delete(self, audience_id: Id) -> Object:
        return await self._sendora.call("DELETE", f"/audiences/{_part(audience_id)}")

    async def preview(self, rules: Mapping[str, Any]) -> Object:
        """How many people, and how the rule comes to so few."""
        return await self._sendora.call("POST", "/audiences/preview", {"rules": rules})

    async def explain(
        self, user_id: str, *, audience_id: Id | None = None, rules: Mapping[str, Any] | None = None
    ) -> Object:
        """Why somebody is in it or not; exactly one of `audience_id` and `rules`."""
        body = _given(userId=user_id, audienceId=audience_id, rules=rules)
        return await self._sendora.call("POST", "/audiences/explain", body)


class Push(_Room):
    async def send(self, *, idempotency_key: str | None = None, **said: Any) -> Object:
        """`POST /push/send`, its fields in snake_case: `user_ids`, `audience_id` or `tokens`, `title`, `body`, ...

        Gives the send with its `id`. The key is made for this call, so that its retries make one send; give one of your
        own to make a repetition of the call itself harmless.
        """
        body = {_camel(name): value for name, value in said.items()}
        return await self._sendora.call("POST", "/push/send", body, idempotency_key=idempotency_key)

    def sends(self, *, status: str | None = None) -> AsyncIterator[Object]:
        return self._sendora.list("/push/sends", status=status)

    async def get(self, send_id: Id) -> Object:
        return await self._of(send_id, "GET")

    async def reconciliation(self, send_id: Id) -> Object:
        return await self._of(send_id, "GET", "/reconciliation")

    def recipients(self, send_id: Id, **asked: Any) -> AsyncIterator[Object]:
        """Who is behind the numbers; `asked`: state, reason, variant, user_id."""
        query = {_camel(name): value for name, value in asked.items()}
        return self._sendora.list(f"/push/sends/{_part(send_id)}/recipients", **query)

    async def cancel(self, send_id: Id) -> Object:
        """Of a send that is still scheduled; a running one is stopped."""
        return await self._of(send_id, "DELETE")

    async def pause(self, send_id: Id) -> Object:
        return await self._of(send_id, "POST", "/pause")

    async def resume(self, send_id: Id) -> Object:
        return await self._of(send_id, "POST", "/resume")

    async def stop(self, send_id: Id) -> Object:
        return await self._of(send_id, "POST", "/stop")

    async def retry_failed(self, send_id: Id, reasons: Sequence[str] | None = None) -> Object:
        return await self._of(send_id, "POST", "/retry-failed", _given(reasons=reasons))

    async def _of(self, send_id: Id, method: str, what: str = "", body: Mapping[str, Any] | None = None) -> Object:
        return await self._sendora.call(method, f"/push/sends/{_part(send_id)}{what}", body)


def backoff_s(n: int) -> float:
    """Before try n + 1: doubling from a second to a minute, give or take a fifth (B031)."""
    base_s: float = min(BACKOFF_S * 2**n, BACKOFF_MAX_S)
    return base_s * random.uniform(1 - JITTER, 1 + JITTER)


def _batches(events: Iterable[Mapping[str, Any]]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for event in events:
        encoded = _encode(_stamped({"module": "analytics", **event}))
        if batch and (len(batch) == BATCH_MAX or size + len(encoded) + 1 > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(encoded)
        size += len(encoded) + 1
    if batch:
        yield batch


def _all_bad(error: SendoraError, number: int) -> Object:
    """A batch without a good event is refused as a whole (C94); to the caller it is a batch like the others."""
    by_index: dict[int, dict[str, Sequence[str]]] = {}
    for field, messages in error.field_errors.items():
        found = IN_BATCH.fullmatch(field)
        if found is None:
            raise error
        by_index.setdefault(int(found[1]), {})[found[2]] = messages
    errors = [{"index": index, "fieldErrors": fields} for index, fields in sorted(by_index.items())]
    return {"accepted": 0, "rejected": number, "errors": errors}


def _stamped(said: Mapping[str, Any]) -> Object:
    """With the id and the time by which a repetition is recognised."""
    given = _given(**said)
    return {"eventId": str(uuid7()), "timestamp": datetime.now(UTC), **given}


def _given(**said: Any) -> Object:
    return {name: value for name, value in said.items() if value is not None}


def _encode(body: Mapping[str, Any]) -> bytes:
    """Raises TypeError for what is not JSON; UUIDs and aware datetimes are written as the API reads them."""
    return json.dumps(body, default=_plain, separators=(",", ":"), allow_nan=False).encode()


def _plain(value: Any) -> str:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _part(id_: Id) -> str:
    return quote(str(id_), safe="")


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
