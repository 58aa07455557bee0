"""The connection to NATS: append to the log, publish, wake, ask.

When NATS is away a request is refused within a second or two, not held: clients keep what was not acknowledged and come
again. A publish whose answer is late is repeated under the same `Nats-Msg-Id`, which saves work and is no proof
(reliability.md 1.1); what is stored twice is recognised in Postgres.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final

import nats.errors
import nats.js.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from sendora.kernel import config
from sendora.kernel.bus.checks import BusRefused, connect, refusals, syncs, varz_of
from sendora.kernel.bus.lane import Lane
from sendora.kernel.bus.position import LANE, SYSTEM, Position
from sendora.kernel.errors import Unavailable
from sendora.kernel.metrics import Metrics

EVENTS: Final = "EVENTS"
LIFECYCLE: Final = "LIFECYCLE"
DEAD: Final = "DEAD"
KEEP_S: Final = 72 * 3600
"""The log is a buffer and a bus, not an archive: a long weekend's outage of Postgres fits."""

DEAD_KEEP_S: Final = 30 * 24 * 3600
"""As long as bad rows: time for somebody to look."""

DEADLINE_S: Final = 10.0
"""How long a publish is repeated before its requests are told 503."""

ACK_S: Final = 3.0
"""A PubAck that is not there after this is late, and the publish is repeated."""

AWAY_S: Final = 1.0
"""How long a lost connection may be looked for before requests are refused: a server that restarts is back sooner."""

PAUSE_S: Final = 0.1
"""Between two tries of one publish: a stream that elects its leader needs a moment."""

LEADERLESS: Final = frozenset({10008, 10009})
"""JetStream's codes for "temporarily unavailable" and "not the leader": an election, worth another try."""

ANSWERS_MAX: Final = 32
"""Questions that a process works on at the same time; the rest wait in the subscription until their askers give up."""

FAILED: Final = "Sendora-Failed"
"""The header of an answer that is none."""

NO_HEADERS: Final[Mapping[str, str]] = {}

log: Final = structlog.get_logger(__name__)


def is_away(error: BaseException) -> bool:
    """Whether this says that NATS is away, rather than that something is wrong."""
    return isinstance(error, _GONE)


class Bus:
    """A connection to NATS."""

    def __init__(self, client: Client, settings: config.Nats, metrics: Metrics, *, durable: bool) -> None:
        self.client = client
        self.stream: JetStreamContext = client.jetstream(timeout=ACK_S)
        self.durable = durable
        """Whether /varz proved that each publish is synced; False when the operator vouches for it."""
        self._settings = settings
        self._metrics = metrics
        self._lane = Lane(f"events.{LANE}", self._commit, settings, metrics)
        self._system = Lane(SYSTEM, self._commit, settings, metrics)
        self._connected = asyncio.Event()
        self._connected.set()
        self._closing = False
        self._away_at: float | None = None
        self._scopes: set[asyncio.Timeout] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    @classmethod
    async def open(cls, settings: config.Nats, metrics: Metrics | None = None) -> "Bus":
        """Connects, checks what the promise needs and makes the streams; raises BusRefused."""
        hooks: dict[str, Bus] = {}

        async def disconnected() -> None:
            if "bus" in hooks:
                hooks["bus"]._lost()

        async def reconnected() -> None:
            if "bus" in hooks:
                hooks["bus"]._found()

        client = await connect(settings, "sendora", disconnected_cb=disconnected, reconnected_cb=reconnected)
        try:
            varz = await varz_of(settings)
            said = refusals(str(client.connected_server_version), client.max_payload, varz, settings)
            if said:
                raise BusRefused(" ".join(said))
            proved = bool(varz) and all(map(syncs, varz))
            if not proved:
                log.warning("durability_trusted")
            bus = hooks["bus"] = cls(client, settings, metrics or Metrics(), durable=proved)
            await bus._make_streams()
        except BaseException:
            await client.close()
            raise
        return bus

    async def close(self) -> None:
        """What was appended is answered first; new records are refused."""
        self._closing = True
        await self._lane.close()
        await self._system.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(nats.errors.Error, TimeoutError, OSError):
            async with asyncio.timeout(ACK_S):
                await self.client.flush()
        await self.client.close()

    # -- the log -----------------------------------------------------------------------------------------------------

    async def append(self, record: bytes, n: int, *, system: bool = False) -> Position:
        """The records of one request (n of them, length-prefixed) are on disk at this position; else Unavailable.
        `system`: nobody posted them as events, so nobody's quota pays for them (C30)."""
        if self._gone():
            self._metrics.count("log_refused", reason="away")
            raise Unavailable(message="The log is away.")
        return await (self._system if system else self._lane).append(record, n)

    async def head(self) -> Position:
        """The last position that is taken."""
        try:
            async with self._while_connected(ACK_S):
                info = await self.stream.stream_info(EVENTS)
        except _AWAY as error:
            raise Unavailable(message="The log is away.") from error
        return Position(info.state.last_seq)

    async def publish(
        self, subject: str, payload: bytes, msg_id: str, headers: Mapping[str, str] = NO_HEADERS
    ) -> Position:
        """One message of a stream is on disk; the same `msg_id` within two minutes is stored once."""
        return await self._commit(subject, payload, msg_id, headers)

    # -- wakes -------------------------------------------------------------------------------------------------------

    async def wake(self, subject: str) -> None:
        """Tell whoever listens that there is something to do. Best effort: it never fails and never waits."""
        if self.client.is_connected:
            with suppress(nats.errors.Error, OSError):
                await self.client.publish(subject)

    def on_wake(self, subject: str, callback: Callable[[str], object]) -> Callable[[], None]:
        """Call back with the subject of each wake, wildcards allowed; gives the function that ends it.

        The subscription survives reconnects; wakes of the time between are lost, so callers also look by themselves.
        """

        async def received(message: Msg) -> None:
            try:
                callback(message.subject)
            except Exception:
                log.exception("wake_failed", subject=message.subject)

        async def listen() -> None:
            subscription = await self.client.subscribe(subject, cb=received)
            try:
                await asyncio.Event().wait()
            finally:
                with suppress(nats.errors.Error, OSError):
                    await subscription.unsubscribe()

        listening = self._start(listen(), f"wake {subject}")

        def end() -> None:
            listening.cancel()

        return end

    # -- questions ---------------------------------------------------------------------------------------------------

    async def ask(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        """Somebody's answer; Unavailable if nobody listens, it comes too late, or it failed over there."""
        try:
            async with self._while_connected(timeout_s):
                answer = await self.client.request(subject, payload, timeout=timeout_s)
        except _AWAY as error:
            raise Unavailable(message="Nobody answers at the moment.") from error
        if answer.headers and FAILED in answer.headers:
            raise Unavailable(message="The question could not be answered.")
        return answer.data

    async def answer(
        self, subject: str, queue: str, handler: Callable[[bytes], Awaitable[bytes]]
    ) -> Callable[[], Awaitable[None]]:
        """Answer questions, one process of the queue each; gives the function that ends it. Slow answers do not hold up
        the others."""
        slots = asyncio.Semaphore(ANSWERS_MAX)

        async def respond(message: Msg) -> None:
            try:
                reply, headers = await handler(message.data), None
            except Exception:
                log.exception("answer_failed", subject=message.subject)
                reply, headers = b"", {FAILED: "1"}
            finally:
                slots.release()
            with suppress(nats.errors.Error, OSError):
                await self.client.publish(message.reply, reply, headers=headers)

        async def received(message: Msg) -> None:
            await slots.acquire()
            self._start(respond(message), f"answer {subject}")

        subscription = await self.client.subscribe(subject, queue=queue, cb=received)

        async def end() -> None:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

        return end

    # -- how a publish is made ---------------------------------------------------------------------------------------

    async def _commit(
        self, subject: str, payload: bytes, msg_id: str, headers: Mapping[str, str] = NO_HEADERS
    ) -> Position:
        """Publish until it is acknowledged, the deadline is over, or NATS has been gone for a while."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DEADLINE_S
        sent = {**headers, api.Header.MSG_ID.value: msg_id}
        while True:
            left = deadline - loop.time()
            if left <= 0 or not await self._connection(left):
                raise Unavailable(message="The log does not answer.")
            try:
                async with self._while_connected(min(ACK_S, left)):
                    # A duplicate is as good as the first: its sequence is where the record stands.
                    return Position((await self.stream.publish(subject, payload, headers=sent)).seq)
            except (nats.js.errors.APIError, *_AWAY) as error:
                if isinstance(error, nats.js.errors.APIError) and error.err_code not in LEADERLESS:
                    # The server answered and did not store: full (`discard: new`, F-N8), out of disk, overloaded.
                    log.warning("publish_refused", subject=subject, error=repr(error))
                    raise Unavailable(message="The log takes nothing at the moment.") from error
                log.warning("publish_repeated", subject=subject, error=repr(error))
                self._metrics.count("log_retries", lane=LANE)
                if self.client.is_connected:
                    await asyncio.sleep(PAUSE_S)

    async def _connection(self, timeout_s: float) -> bool:
        """Whether there is a connection, after waiting for a lost one as long as a request may."""
        if self.client.is_connected:
            return True
        if self.client.is_closed or self._gone():
            return False
        try:
            async with asyncio.timeout(min(AWAY_S, timeout_s)):
                await self._connected.wait()
        except TimeoutError:
            return False
        return True

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _while_connected(self, timeout_s: float) -> "_Scope":
        return _Scope(self._scopes, timeout_s)

    def _gone(self) -> bool:
        """Whether the connection has been lost for longer than a request should wait."""
        return self._away_at is not None and asyncio.get_running_loop().time() - self._away_at > AWAY_S

    def _lost(self) -> None:
        loop = asyncio.get_running_loop()
        if self._closing:
            return
        log.warning("nats_lost")
        self._connected.clear()
        self._away_at = loop.time()
        for scope in self._scopes:
            # What waits for an answer on that connection waits in vain.
            scope.reschedule(loop.time())

    def _found(self) -> None:
        log.info("nats_found")
        self._away_at = None
        self._connected.set()

    async def _make_streams(self) -> None:
        wanted = (
            # A log that is full must say so: dropping the oldest would lose what no storer has read yet (F-N8).
            (EVENTS, "events.*", api.DiscardPolicy.NEW, KEEP_S),
            (LIFECYCLE, "lifecycle.>", api.DiscardPolicy.OLD, KEEP_S),
            (DEAD, "dead.>", api.DiscardPolicy.OLD, DEAD_KEEP_S),
        )
        for name, subjects, discard, keep_s in wanted:
            await self._make_stream(name, subjects, discard, keep_s)

    async def _make_stream(self, name: str, subjects: str, discard: api.DiscardPolicy, keep_s: float) -> None:
        """Create it, or bring what is ours in it up to date; what an operator added (placement, max_bytes) stays."""
        ours: dict[str, Any] = {
            "subjects": [subjects],
            "discard": discard,
            "max_age": float(keep_s),
            "num_replicas": self._settings.replicas,
        }
        try:
            try:
                current = (await self.stream.stream_info(name)).config
            except nats.js.errors.NotFoundError:
                fresh = api.StreamConfig(
                    name=name, storage=api.StorageType.FILE, retention=api.RetentionPolicy.LIMITS, **ours
                )
                with suppress(nats.js.errors.BadRequestError):
                    # Another process may have made it in between; the comparison below decides.
                    await self.stream.add_stream(fresh)
                current = (await self.stream.stream_info(name)).config
            if any(getattr(current, key) != value for key, value in ours.items()):
                await self.stream.update_stream(current.evolve(**ours))
        except nats.js.errors.ServiceUnavailableError as error:
            raise BusRefused(f"JetStream is off or has no leader: {error}") from error
        except (nats.js.errors.Error, nats.errors.Error) as error:
            raise BusRefused(f"The stream {name} cannot be made: {error!r}") from error


class _Scope:
    """A deadline that a lost connection brings forward."""

    def __init__(self, scopes: set[asyncio.Timeout], timeout_s: float) -> None:
        self._scopes = scopes
        self._timeout = asyncio.timeout(timeout_s)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._scopes.add(self._timeout)

    async def __aexit__(self, *raised: Any) -> None:
        self._scopes.discard(self._timeout)
        await self._timeout.__aexit__(*raised)


_GONE: Final = (
    nats.errors.TimeoutError,
    nats.errors.NoRespondersError,
    nats.errors.ConnectionClosedError,
    nats.errors.ConnectionReconnectingError,
    nats.errors.ConnectionDrainingError,
    nats.errors.NoServersError,
    nats.errors.StaleConnectionError,
    nats.errors.UnexpectedEOF,
    nats.errors.OutboundBufferLimitError,
    nats.js.errors.NoStreamResponseError,
    nats.js.errors.ServiceUnavailableError,
)

_AWAY: Final = (TimeoutError, OSError, *_GONE)
"""Around calls of NATS alone, its bare timeouts and broken sockets count too."""
