"""A client of Sendora for servers: events, people, audiences, sends.

    async with Sendora("https://push.example.com", key) as sendora:
        await sendora.track("purchase", user_id="ada", properties={"amount": 49.9})
        send = await sendora.push(user_ids=["ada"], title="Thank you", body="It is on its way.")
        async for recipient in sendora.recipients(send["id"], state="rejected"):
            print(recipient["reason"])

Arguments are in snake_case and go out in the API's words; what comes back is `data` of its answers, as the OpenAPI
document shows it. A request is repeated only where that is harmless: events carry ids, sends an idempotency key, and
reading changes nothing. The wait is what the server asks for, else it grows from one second to a minute with a fifth of
jitter (B031, B032).
"""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

import httpx
import msgspec
from uuid_utils.compat import uuid7

RETRIES: Final = 3
WAIT_S: Final = 1.0
WAIT_MAX_S: Final = 60.0
JITTER: Final = 0.2

EVENTS_MAX: Final = 1_000
BATCH_BYTES_MAX: Final = 900_000
"""Of one request: the server takes 1 MiB (C94)."""

PAGE_SIZE: Final = 100

REPEATABLE: Final = frozenset({"GET", "PUT", "PATCH", "DELETE"})
"""Methods that come to the same when they are done twice."""

TRANSIENT: Final = frozenset({500, 502, 503, 504})


class SendoraError(Exception):
    """The API refused a request, or could not be reached (`status` 0)."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: Mapping[str, Any] | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.details = dict(details or {})
        self.request_id = request_id
        """Names the request in the server's logs."""

    @property
    def field_errors(self) -> dict[str, list[str]]:
        """Field -> what is wrong with it; of a 400."""
        found: dict[str, list[str]] = self.details.get("fieldErrors", {})
        return found


class Sendora:
    """One secret key's view of the API. Safe to share between tasks; close it, or use it as a context."""

    def __init__(self, url: str, key: str, *, timeout_s: float = 30.0, retries: int = RETRIES) -> None:
        """`url` without `/api/v1`. Raises ValueError for a public key: this is a server's client."""
        if not key.startswith("sk_"):
            raise ValueError("expected a secret key (sk_...): this client belongs on a server")
        self._retries = retries
        self._client = httpx.AsyncClient(
            base_url=f"{url.rstrip('/')}/api/v1", headers={"x-api-key": key}, timeout=timeout_s
        )

    def __repr__(self) -> str:
        return f"Sendora({str(self._client.base_url)!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._client.aclose()

    # -- any request

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        repeatable: bool | None = None,
    ) -> Any:
        """`data` of the answer. `path` is below `/api/v1`. Raises SendoraError."""
        envelope = await self._ask(method, path, body, query, idempotency_key, repeatable)
        return envelope.get("data")

    async def pages(self, path: str, **query: Any) -> AsyncIterator[dict[str, Any]]:
        """Every row of a list, page by page."""
        number, more = 1, True
        while more:
            asked = {**_camel(query), "page": number, "pageSize": PAGE_SIZE}
            envelope = await self._ask("GET", path, None, asked, None, None)
            for row in envelope["data"]:
                yield row
            number, more = number + 1, envelope["pagination"]["hasMore"]

    # -- events and people

    async def track(self, event_type: str, *, module: str = "analytics", **said: Any) -> dict[str, Any]:
        """`said`: user_id or anonymous_id, properties, timestamp, ..."""
        event = _event({"event_type": event_type, "module": module, **said})
        tracked: dict[str, Any] = await self.request("POST", "/events", event, repeatable=True)
        return tracked

    async def track_many(self, events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """As `track`, in as few requests as fit; the answer to each, in order. `index` counts within its request."""
        batches = _batches([_event({"module": "analytics", **event}) for event in events])
        return [await self.request("POST", "/events/batch", {"events": one}, repeatable=True) for one in batches]

    async def identify(self, user_id: str, traits: Mapping[str, Any] | None = None, **said: Any) -> dict[str, Any]:
        """`said`: email, anonymous_id, locale, timezone."""
        body = _camel({"user_id": user_id, "traits": dict(traits or {}), **said})
        identified: dict[str, Any] = await self.request("POST", "/identify", _stamped(body), repeatable=True)
        return identified

    async def profile(self, profile: str) -> dict[str, Any]:
        """By id or external id."""
        return dict(await self.request("GET", f"/profiles/{profile}"))

    def profiles(self, **query: Any) -> AsyncIterator[dict[str, Any]]:
        return self.pages("/profiles", **query)

    async def why_not(self, profile: str, **query: Any) -> dict[str, Any]:
        """`send_id` or `audience_id`."""
        return dict(await self.request("GET", f"/profiles/{profile}/why-not", query=_camel(query)))

    # -- audiences

    def audiences(self) -> AsyncIterator[dict[str, Any]]:
        return self.pages("/audiences")

    async def create_audience(self, name: str, **said: Any) -> dict[str, Any]:
        """`rules`, or `type="list"`."""
        return dict(await self.request("POST", "/audiences", _camel({"name": name, **said})))

    async def preview(self, rules: Mapping[str, Any], **said: Any) -> dict[str, Any]:
        return dict(await self.request("POST", "/audiences/preview", _camel({"rules": rules, **said}), repeatable=True))

    async def explain(self, user_id: str, **said: Any) -> dict[str, Any]:
        """`rules` or `audience_id`."""
        body = _camel({"user_id": user_id, **said})
        return dict(await self.request("POST", "/audiences/explain", body, repeatable=True))

    # -- push

    async def push(self, *, idempotency_key: str | None = None, **said: Any) -> dict[str, Any]:
        """`user_ids`, `audience_id` or `tokens`, and what to say. With a key of the caller's own the same send is made
        once, whoever calls again within a day (C89); without one it is made once for this call."""
        key = idempotency_key or str(uuid7())
        return dict(await self.request("POST", "/push/send", _camel(said), idempotency_key=key, repeatable=True))

    async def send(self, send_id: str) -> dict[str, Any]:
        return dict(await self.request("GET", f"/push/sends/{send_id}"))

    def sends(self, **query: Any) -> AsyncIterator[dict[str, Any]]:
        return self.pages("/push/sends", **query)

    def recipients(self, send_id: str, **query: Any) -> AsyncIterator[dict[str, Any]]:
        return self.pages(f"/push/sends/{send_id}/recipients", **query)

    async def reconciliation(self, send_id: str) -> dict[str, Any]:
        return dict(await self.request("GET", f"/push/sends/{send_id}/reconciliation"))

    async def trace(self, send_id: str, recipient_id: str) -> dict[str, Any]:
        return dict(await self.request("GET", f"/push/sends/{send_id}/recipients/{recipient_id}/trace"))

    async def cancel(self, send_id: str) -> dict[str, Any]:
        """One that is scheduled."""
        return dict(await self.request("DELETE", f"/push/sends/{send_id}", repeatable=False))

    async def pause(self, send_id: str) -> dict[str, Any]:
        return await self._step(send_id, "pause")

    async def resume(self, send_id: str) -> dict[str, Any]:
        return await self._step(send_id, "resume")

    async def stop(self, send_id: str) -> dict[str, Any]:
        return await self._step(send_id, "stop")

    async def retry_failed(self, send_id: str, reasons: Sequence[str] | None = None) -> dict[str, Any]:
        return await self._step(send_id, "retry-failed", {} if reasons is None else {"reasons": list(reasons)})

    async def _step(self, send_id: str, step: str, body: Any = None) -> dict[str, Any]:
        path, key = f"/push/sends/{send_id}/{step}", str(uuid7())
        return dict(await self.request("POST", path, body, idempotency_key=key, repeatable=True))

    # -- the wire

    async def _ask(
        self,
        method: str,
        path: str,
        body: Any,
        query: Mapping[str, Any] | None,
        idempotency_key: str | None,
        repeatable: bool | None,
    ) -> dict[str, Any]:
        content = None if body is None else msgspec.json.encode(body)
        headers = {"content-type": "application/json"} if content is not None else {}
        if idempotency_key is not None:
            headers["idempotency-key"] = idempotency_key
        params = {name: value for name, value in (query or {}).items() if value is not None}
        again = method in REPEATABLE if repeatable is None else repeatable
        for tried in range(self._retries + 1):
            try:
                answer = await self._client.request(method, path, content=content, headers=headers, params=params)
            except httpx.TransportError as error:
                # Nothing was asked of anybody who could not be reached.
                harmless = again or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                failure, named_s = SendoraError(0, "UNREACHABLE", str(error) or type(error).__name__), None
            else:
                if answer.is_success:
                    return dict(msgspec.json.decode(answer.content))
                failure, named_s = _failure(answer), _retry_after_s(answer)
                harmless = answer.status_code == 429 or (answer.status_code in TRANSIENT and again)
            if not harmless or tried == self._retries:
                raise failure
            await asyncio.sleep(_wait_s(tried, named_s))
        raise AssertionError("the last try returns or raises")


def _event(said: Mapping[str, Any]) -> dict[str, Any]:
    return _stamped(_camel(said))


def _stamped(event: dict[str, Any]) -> dict[str, Any]:
    """With what makes a repetition one event: an id of its own, and its time."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"eventId": str(uuid7()), "timestamp": now, **event}


def _batches(events: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    batches: list[list[dict[str, Any]]] = []
    size = 0
    for event in events:
        length = len(msgspec.json.encode(event)) + 1
        if not batches or len(batches[-1]) == EVENTS_MAX or size + length > BATCH_BYTES_MAX:
            batches.append([])
            size = 0
        batches[-1].append(event)
        size += length
    return batches


def _camel(said: Mapping[str, Any]) -> dict[str, Any]:
    """The API's words for the arguments; None is not said. Values are the caller's own."""
    words = ((name.rstrip("_").split("_"), value) for name, value in said.items() if value is not None)
    return {first + "".join(map(str.title, rest)): value for (first, *rest), value in words}


def _failure(answer: httpx.Response) -> SendoraError:
    try:
        error = msgspec.json.decode(answer.content)["error"]
        code, message, details = str(error["code"]), str(error["message"]), error.get("details")
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError):
        # Something between us and the API has answered.
        code, message, details = "UNEXPECTED_ANSWER", answer.text[:500], None
    return SendoraError(answer.status_code, code, message, details, answer.headers.get("x-request-id"))


def _retry_after_s(answer: httpx.Response) -> float | None:
    text: str = answer.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else None


def _wait_s(tried: int, named_s: float | None) -> float:
    """What the server asked for, else 1 s, 2 s, 4 s, .. up to a minute, a fifth more or less (B031)."""
    if named_s is not None:
        return min(named_s, WAIT_MAX_S)
    wait_s: float = min(WAIT_S * 2.0**tried, WAIT_MAX_S)
    return wait_s * random.uniform(1 - JITTER, 1 + JITTER)
