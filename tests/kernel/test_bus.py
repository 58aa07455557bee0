"""The log and what reads it, over a real nats-server: group commit, outages, poison, order."""

import asyncio
import shutil
import sysconfig
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import nats.js.errors
import pytest
from nats.js import api
from tests.conftest import eventually

from sendora import _core
from sendora.kernel import config
from sendora.kernel.bus import (
    DEAD,
    EVENTS,
    LIFECYCLE,
    Answering,
    Bus,
    BusRefused,
    Message,
    Missing,
    StageRunner,
    examine,
    parse_position,
    position_text,
    refusals,
    tail,
)
from sendora.kernel.bus import lane as lane_module
from sendora.kernel.bus import stage as stage_module
from sendora.kernel.bus.pull import Gap, pull
from sendora.kernel.config import Settings, load
from sendora.kernel.embedded import Embedded
from sendora.kernel.errors import Unavailable
from sendora.kernel.ids import new_id
from sendora.kernel.life import Kernel, open_kernel
from sendora.kernel.metrics import Metrics
from sendora.kernel.module import Answer, Consumer
from sendora.kernel.pg import migrate
from sendora.kernel.pg.positions import reached

ORG, PROJECT = new_id().bytes, new_id().bytes


def record(n: int = 1, filler: int = 0) -> bytes:
    """The records of one request with n events."""
    event = {"eventType": "tested", "module": "m", "userId": "u", "properties": {"filler": "x" * filler}}
    checked = _core.check_events(msgspec.json.encode([event] * n), ORG, PROJECT, "prod", int(time.time() * 1000), True)
    assert checked.accepted == n
    return checked.records


@pytest.fixture
async def bus(settings: Settings) -> AsyncIterator[Bus]:
    opened = await Bus.open(settings.nats, Metrics())
    yield opened
    await opened.close()


@pytest.fixture
async def own(server_folder: Path) -> AsyncIterator[Embedded]:
    """Servers that may be killed."""
    embedded = Embedded(server_folder / new_id().hex[-8:])
    await asyncio.to_thread(embedded.start)
    yield embedded
    await asyncio.to_thread(embedded.stop)


async def message_at(bus: Bus, position: int, stream: str = EVENTS) -> bytes:
    return (await bus.stream.get_msg(stream, seq=position)).data or b""


# -- positions ---------------------------------------------------------------------------------------------------------


def test_positions_as_text() -> None:
    """X-Sendora-Position: what we gave comes back, and nothing else is a position."""
    for text in ("0-1", "0-4711", "0-999999999999999999"):
        position = parse_position(text)
        assert position is not None
        assert position_text(position) == text
    for text in ("", "1", "1-1", "0-", "0--1", "0-1 ", "0-x", "0-1\n", "0-٣", "0-" + "9" * 19, "00-1", "0-1e3"):
        assert parse_position(text) is None


# -- append ------------------------------------------------------------------------------------------------------------


async def test_requests_share_a_frame(bus: Bus) -> None:
    """Group commit: what comes while a publish is under way goes out together, and each request is answered."""
    before = await bus.head()
    positions = await asyncio.gather(*(bus.append(record(), 1) for _ in range(300)))
    assert before < min(positions)
    assert len(set(positions)) < 10
    frames = [await message_at(bus, position) for position in sorted(set(positions))]
    assert len(_core.EventBatch(frames)) == 300
    assert await bus.head() >= max(positions)


async def test_a_frame_is_bounded(bus: Bus) -> None:
    """At most 2,000 events or 1 MiB, and a request is never torn apart."""
    many = await asyncio.gather(*(bus.append(record(900), 900) for _ in range(6)))
    large = await asyncio.gather(*(bus.append(record(2, 200_000), 2) for _ in range(6)))
    for position in {*many, *large}:
        frame = await message_at(bus, position)
        assert len(_core.EventBatch([frame])) <= 2_000
        assert len(frame) <= 1_048_576 + 64
    assert max(many.count(position) for position in many) == 2
    assert max(large.count(position) for position in large) == 2


async def test_order_within_a_lane(bus: Bus) -> None:
    """What was appended later stands later."""
    positions = [await bus.append(record(), 1) for _ in range(20)]
    assert positions == sorted(set(positions))


async def test_what_waits_is_bounded(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """F-N2: beyond the bound a request is refused at once, and the others are not."""
    monkeypatch.setattr(lane_module, "WAITING_EVENTS_MAX", 10)
    results = await asyncio.gather(*(bus.append(record(4), 4) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(result, Unavailable) for result in results) == 3
    assert sum(isinstance(result, int) for result in results) == 2
    assert await bus.append(record(), 1)


async def test_equal_requests_are_both_kept(bus: Bus) -> None:
    """Two clients may send the same bytes; neither is the other's repetition."""
    same = record()
    assert await bus.append(same, 1) != await bus.append(same, 1)


async def test_a_repeated_publish_is_stored_once(bus: Bus) -> None:
    """The same message id within two minutes: the position of the first."""
    subject, msg_id = f"lifecycle.{new_id().hex}", new_id().hex
    first = await bus.publish(subject, b"once", msg_id)
    assert await bus.publish(subject, b"once", msg_id) == first


# -- outages -----------------------------------------------------------------------------------------------------------


async def test_nats_killed_and_back(own: Embedded) -> None:
    """F-N1: refused within two seconds while it is away, served again by itself, and nothing acknowledged is lost."""
    bus = await Bus.open(load(own.environment).nats)
    loop = asyncio.get_running_loop()
    acknowledged = [await bus.append(record(), 1)]
    await asyncio.to_thread(own.kill, "nats")
    for _ in range(3):
        began = loop.time()
        with pytest.raises(Unavailable) as refused:
            await bus.append(record(), 1)
        assert refused.value.retry_after == 1
        assert loop.time() - began < 2
    with pytest.raises(Unavailable):
        await bus.head()
    with pytest.raises(Unavailable):
        await bus.ask("ask.nobody", b"", 1.0)
    await bus.wake("wake.nobody")
    await asyncio.to_thread(own.restart, "nats")

    async def served() -> bool:
        with suppress(Unavailable):
            acknowledged.append(await bus.append(record(), 1))
            return True
        return False

    await eventually(served, 10)
    for position in acknowledged:
        assert len(_core.EventBatch([await message_at(bus, position)])) == 1
    await bus.close()


async def test_a_late_acknowledgement(own: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stalls: the publish is repeated under the same id, answered, and stored once."""
    monkeypatch.setattr("sendora.kernel.bus.client.ACK_S", 0.3)
    metrics = Metrics()
    bus = await Bus.open(load(own.environment).nats, metrics)
    first = await bus.append(record(), 1)
    await asyncio.to_thread(own.pause, "nats")
    appending = asyncio.create_task(bus.append(record(), 1))
    await eventually(lambda: metrics.value("log_retries", lane=0) >= 2)
    await asyncio.to_thread(own.resume, "nats")
    assert await appending == first + 1
    assert await bus.head() == first + 1
    await bus.close()


async def test_a_stalled_server_ends_in_unavailable(own: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline holds for everybody who waits."""
    monkeypatch.setattr("sendora.kernel.bus.client.ACK_S", 0.1)
    monkeypatch.setattr("sendora.kernel.bus.client.DEADLINE_S", 0.4)
    bus = await Bus.open(load(own.environment).nats)
    await asyncio.to_thread(own.pause, "nats")
    results = await asyncio.gather(*(bus.append(record(), 1) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    await asyncio.to_thread(own.resume, "nats")
    await bus.close()


async def test_a_full_log_refuses(own: Embedded) -> None:
    """F-N8: never the oldest dropped; and what an operator set on the stream survives the next start."""
    settings = load(own.environment).nats
    bus = await Bus.open(settings)
    first = await bus.append(record(), 1)
    current = (await bus.stream.stream_info(EVENTS)).config
    await bus.stream.update_stream(current.evolve(max_bytes=2_000_000))
    again = await Bus.open(settings)
    assert (await again.stream.stream_info(EVENTS)).config.max_bytes == 2_000_000
    await again.close()
    loop = asyncio.get_running_loop()
    with pytest.raises(Unavailable):
        for _ in range(5):
            began = loop.time()
            await bus.append(record(4, 200_000), 4)
    assert loop.time() - began < 1
    assert await message_at(bus, first)
    await bus.close()


# -- what is refused at start ------------------------------------------------------------------------------------------


SOUND = {"jetstream": {"config": {"sync_always": True}}}
LAZY = {"jetstream": {"config": {"sync_interval": 120_000_000_000}}}


@pytest.mark.parametrize(
    ("version", "payload", "varz", "durability", "said"),
    [
        ("2.15.1", 4_194_304, [SOUND], "checked", None),
        ("2.12.3", 4_194_304, [SOUND, SOUND], "checked", None),
        ("2.12.2", 4_194_304, [SOUND], "checked", "too old"),
        ("2.9.25", 4_194_304, [SOUND], "trusted", "too old"),
        ("", 4_194_304, [SOUND], "checked", "too old"),
        ("2.15.1", 1_048_576, [SOUND], "checked", "max_payload"),
        ("2.15.1", 4_194_304, [LAZY], "checked", "sync_interval: always"),
        ("2.15.1", 4_194_304, [SOUND, LAZY], "checked", "sync_interval: always"),
        ("2.15.1", 4_194_304, [{}], "checked", "sync_interval: always"),
        ("2.15.1", 4_194_304, [{"jetstream": "odd"}], "checked", "sync_interval: always"),
        ("2.15.1", 4_194_304, [None], "checked", "MONITORING_URL"),
        ("2.15.1", 4_194_304, [], "checked", "MONITORING_URL"),
        ("2.15.1", 4_194_304, [LAZY], "trusted", None),
        ("2.15.1", 4_194_304, [], "trusted", None),
    ],
)
def test_refusals(version: str, payload: int, varz: list[Any], durability: Any, said: str | None) -> None:
    """F-N6: too old, too small a payload, or a sync that nothing proves."""
    found = refusals(version, payload, varz, config.Nats(durability=durability))
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


async def test_a_server_with_its_defaults_is_refused(server_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F-N6: a plain nats-server acknowledges before it syncs; trusting it is possible, and says so."""
    monkeypatch.setattr("sendora.kernel.bus.checks.OPENING_S", 1.0)
    async with plain_nats(server_folder / new_id().hex[-8:]) as settings:
        with pytest.raises(BusRefused) as refused:
            await Bus.open(settings)
        assert "max_payload" in str(refused.value)
        assert "sync_interval" in str(refused.value)
        assert len(await examine(settings)) == 2
    unreachable = config.Nats(url="nats://name:secret@127.0.0.1:1")
    (said,) = await examine(unreachable)
    assert "does not answer" in said
    assert "secret" not in said


async def test_trusted_is_not_proved(settings: Settings) -> None:
    """F-N6: readiness is degraded when only the operator vouches."""
    trusting = msgspec.structs.replace(settings.nats, durability="trusted", monitoring_url="")
    bus = await Bus.open(trusting)
    assert not bus.durable
    await bus.close()
    assert await examine(settings.nats) == []


@asynccontextmanager
async def plain_nats(folder: Path) -> AsyncIterator[config.Nats]:
    """A nats-server as it comes, with JetStream."""
    folder.mkdir()
    arguments = ("-js", "-sd", str(folder), "-a", "127.0.0.1", "-p", "-1", "-m", "-1", "--ports_file_dir", str(folder))
    process = await asyncio.create_subprocess_exec(nats_binary(), *arguments, stderr=asyncio.subprocess.DEVNULL)
    try:
        ports = await eventually(lambda: [path for path in folder.glob("*.ports") if path.stat().st_size])
        told = msgspec.json.decode(ports[0].read_bytes())
        yield config.Nats(url=told["nats"][0], monitoring_url=told["monitoring"][0])
    finally:
        process.terminate()
        await process.wait()


def nats_binary() -> str:
    found = shutil.which("nats-server", path=sysconfig.get_path("scripts"))
    assert found is not None
    return found


# -- wakes and questions -----------------------------------------------------------------------------------------------


async def test_a_reading_beside_the_consumers(own: Embedded) -> None:
    """From a position on, in order; what is not there any more is said, and so is a consumer that went."""
    bus = await Bus.open(load(own.environment).nats, Metrics())
    try:
        positions = [await bus.append(record(), 1) for _ in range(5)]
        async with tail(bus, EVENTS, positions[0]) as reading:
            assert [message.position for message in await reading.fetch(2)] == positions[1:3]
            assert [message.position for message in await reading.fetch(9)] == positions[3:]
            assert await reading.fetch(9) == []
            positions.append(await bus.append(record(), 1))
            (last,) = await reading.fetch(9)
            assert (last.position, reading.position) == (positions[-1], positions[-1])
            (info,) = await bus.stream.consumers_info(EVENTS)
            await bus.stream.delete_consumer(EVENTS, info.name)
            with pytest.raises(Gap):
                await reading.fetch(1)
        assert await bus.stream.consumers_info(EVENTS) == []
        await bus.stream.purge_stream(EVENTS, seq=positions[3])
        async with tail(bus, EVENTS, positions[1]) as reading:
            with pytest.raises(Missing):
                await reading.fetch(9)
    finally:
        await bus.close()


async def test_wakes(bus: Bus, kernel: Kernel) -> None:
    """Whoever listens hears it, also by wildcard; one that fails does not silence the others; ended is ended."""
    heard: list[str] = []
    name = new_id().hex

    def fail(subject: str) -> None:
        raise RuntimeError(subject)

    ends = [bus.on_wake(f"wake.{name}.*", heard.append), bus.on_wake(f"wake.{name}.*", fail)]

    async def woken() -> bool:
        await kernel.bus.wake(f"wake.{name}.7")
        return f"wake.{name}.7" in heard

    await eventually(woken)
    await eventually(woken)
    for end in ends:
        end()
    await eventually(lambda: not any("wake" in task.get_name() for task in bus._tasks))
    await bus.client.flush()
    heard.clear()
    await kernel.bus.wake(f"wake.{name}.8")
    await kernel.bus.client.flush()
    await bus.client.flush()
    assert heard == []


async def test_questions(bus: Bus, kernel: Kernel) -> None:
    """One of those who answer does; nobody, too late and failed are all Unavailable."""
    subject = f"ask.{new_id().hex}"
    with pytest.raises(Unavailable):
        await bus.ask(subject, b"", 1.0)
    release = asyncio.Event()

    async def handle(kernel: Kernel, question: bytes) -> bytes:
        if question == b"fail":
            raise RuntimeError("no")
        if question == b"slow":
            await release.wait()
        return question.upper()

    stop = asyncio.Event()
    service = Answering(kernel, Answer(subject=subject, handle=handle))
    assert service.name == f"answer.{subject}"
    serving = asyncio.create_task(service.run(stop))

    async def answered() -> bool:
        with suppress(Unavailable):
            return await bus.ask(subject, b"what", 1.0) == b"WHAT"
        return False

    await eventually(answered)
    with pytest.raises(Unavailable):
        await bus.ask(subject, b"fail", 1.0)
    slow = asyncio.create_task(bus.ask(subject, b"slow", 5.0))
    assert await bus.ask(subject, b"fast", 1.0) == b"FAST"
    with pytest.raises(Unavailable):
        await bus.ask(subject, b"slow", 0.05)
    release.set()
    assert await slow == b"SLOW"
    stop.set()
    await serving


# -- stages ------------------------------------------------------------------------------------------------------------


class Eaten:
    """A consumer of this test's own subject, and what became of its messages."""

    def __init__(self, kernel: Kernel, *, single: bool = False, batch_max: int = 10, stream: str = LIFECYCLE) -> None:
        self.kernel = kernel
        self.id = f"t{new_id().hex}"
        self.seen: list[bytes] = []
        self.batches: list[int] = []
        self.tries: dict[bytes, int] = {}
        self.react: Callable[[Message], Awaitable[None]] | None = None
        self.consumer = Consumer(
            name=self.id,
            stream=stream,
            subject=f"lifecycle.{self.id}",
            batch_max=batch_max,
            handle=self._handle,
            single=single,
        )

    async def _handle(self, kernel: Kernel, messages: list[Message]) -> None:
        for message in messages:
            self.tries[message.data] = self.tries.get(message.data, 0) + 1
            if self.react is not None:
                await self.react(message)
        self.batches.append(len(messages))
        self.seen += [message.data for message in messages]

    async def say(self, *texts: bytes) -> list[int]:
        subject = f"lifecycle.{self.id}"
        return [await self.kernel.bus.publish(subject, text, new_id().hex) for text in texts]

    async def dead(self) -> list[tuple[bytes, dict[str, str]]]:
        """What stands in DEAD of this consumer."""
        found = []
        position = 0
        with suppress(nats.js.errors.NotFoundError):
            while True:
                raw = await self.kernel.bus.stream.get_msg(DEAD, seq=position + 1, subject=f"dead.{self.id}", next=True)
                position = raw.seq or 0
                found.append((raw.data or b"", dict(raw.headers or {})))
        return found

    @asynccontextmanager
    async def running(self, count: int = 1) -> AsyncIterator[list[asyncio.Task[None]]]:
        stop = asyncio.Event()
        tasks = [asyncio.create_task(StageRunner(self.kernel, self.consumer).run(stop)) for _ in range(count)]
        try:
            yield tasks
        finally:
            stop.set()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert result is None or isinstance(result, asyncio.CancelledError), result

    async def pending(self) -> tuple[int, int]:
        info = await self.kernel.bus.stream.consumer_info(LIFECYCLE, self.id)
        return info.num_pending or 0, info.num_ack_pending or 0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_module, "BACKOFF_S", (0.02, 0.02, 0.02, 0.02))
    monkeypatch.setattr(stage_module, "LOOK_S", 0.05)


@pytest.mark.parametrize("single", [False, True])
async def test_a_stage_eats_and_acknowledges(kernel: Kernel, single: bool) -> None:
    """Everything once, in batches, and nothing is left with the server."""
    eaten = Eaten(kernel, single=single)
    texts = [b"%d" % n for n in range(35)]
    await eaten.say(*texts)
    async with eaten.running():
        await eventually(lambda: len(eaten.seen) == 35)
        assert eaten.seen == texts
        assert max(eaten.batches) == 10

        async def acknowledged() -> bool:
            return await eaten.pending() == (0, 0)

        await eventually(acknowledged)
        await eaten.say(b"later")
        await eventually(lambda: eaten.seen[-1] == b"later")
    assert len(eaten.seen) == 36
    assert kernel.metrics.value("stage_messages", consumer=eaten.id) == 36


@pytest.mark.parametrize("single", [False, True])
async def test_poison_takes_only_itself(kernel: Kernel, single: bool) -> None:
    """reliability.md 2.2: five tries, then byte for byte into DEAD; its neighbours are eaten."""
    eaten = Eaten(kernel, single=single)
    positions = await eaten.say(b"a", b"poison", b"b", b"c")

    async def react(message: Message) -> None:
        if message.data == b"poison":
            raise ValueError("cannot be read\r\nX: y é")

    eaten.react = react
    async with eaten.running():
        await eventually(lambda: set(eaten.seen) == {b"a", b"b", b"c"})
        ((data, headers),) = await eventually(eaten.dead)
    assert data == b"poison"
    assert headers["Sendora-Position"] == str(positions[1])
    assert headers["Sendora-Subject"] == f"lifecycle.{eaten.id}"
    assert "cannot be read" in headers["Sendora-Reason"]
    assert "X" not in headers
    assert 5 <= eaten.tries[b"poison"] <= 6
    assert sorted(eaten.seen) == [b"a", b"b", b"c"]
    if single:
        assert eaten.seen == [b"a", b"b", b"c"]
        assert await reached(kernel.db, eaten.id) == positions[-1]


@pytest.mark.parametrize("single", [False, True])
async def test_an_outage_is_no_poison(kernel: Kernel, single: bool) -> None:
    """While a server is away the batch is held, however long; nothing is counted and nothing dies."""
    eaten, away = Eaten(kernel, single=single), 12
    await eaten.say(b"a", b"b")

    async def react(message: Message) -> None:
        nonlocal away
        if away > 0:
            away -= 1
            raise Unavailable

    eaten.react = react
    async with eaten.running():
        await eventually(lambda: eaten.seen == [b"a", b"b"])
    assert await eaten.dead() == []


@pytest.mark.parametrize("single", [False, True])
async def test_a_consumer_that_vanishes_is_made_again(kernel: Kernel, single: bool) -> None:
    """An operator, or another server, may have removed it."""
    eaten = Eaten(kernel, single=single)
    await eaten.say(b"a")
    async with eaten.running():
        await eventually(lambda: eaten.seen == [b"a"])
        await kernel.bus.stream.delete_consumer(LIFECYCLE, eaten.id)
        await eaten.say(b"b")
        await eventually(lambda: b"b" in eaten.seen)
    if single:
        assert eaten.seen == [b"a", b"b"]


async def test_shared_by_many(kernel: Kernel) -> None:
    """Each message goes to one of them."""
    eaten = Eaten(kernel, batch_max=2)
    await eaten.say(*(b"%d" % n for n in range(40)))
    async with eaten.running(3):
        await eventually(lambda: len(eaten.seen) >= 40)
    assert len(eaten.seen) == len(set(eaten.seen)) == 40


async def test_one_that_killed_its_readers_is_not_handed_on(kernel: Kernel) -> None:
    """Counted before it is decoded: after five deliveries that nobody survived it is dead without a sixth look."""
    eaten = Eaten(kernel)
    await eaten.say(b"killer")
    configuration = StageRunner(kernel, eaten.consumer)._configuration(api.DeliverPolicy.ALL)
    await kernel.bus.stream.add_consumer(LIFECYCLE, configuration)
    for _ in range(5):
        async with pull(kernel.bus.client, LIFECYCLE, eaten.id) as source:
            (message,) = await source.fetch(1)
            await message.nak()
    await eaten.say(b"good")
    async with eaten.running():
        await eventually(lambda: eaten.seen == [b"good"])
        ((data, _),) = await eventually(eaten.dead)
    assert data == b"killer"
    assert b"killer" not in eaten.tries


async def test_a_single_consumer_has_one_reader(kernel: Kernel) -> None:
    """The lease decides; the order is the log's, across a change of the reader."""
    eaten = Eaten(kernel, single=True, batch_max=3)
    texts = [b"%d" % n for n in range(60)]
    active = most = 0

    async def react(message: Message) -> None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await asyncio.sleep(0)
        active -= 1

    eaten.react = react
    await eaten.say(*texts[:30])
    async with eaten.running(2) as tasks:
        await eventually(lambda: len(eaten.seen) >= 30)
        # Whichever holds the lease.
        for task in tasks[:1]:
            task.cancel()
        await eaten.say(*texts[30:])
        await eventually(lambda: len(eaten.seen) >= 60)
    assert eaten.seen == texts
    assert most == 1


async def test_a_crash_loses_nothing_and_keeps_the_order(kernel: Kernel) -> None:
    """A reader dies with a batch in hand: the next one begins with that batch, at once, not with what is behind it."""
    eaten = Eaten(kernel, single=True, batch_max=4)
    texts = [b"%d" % n for n in range(12)]
    await eaten.say(*texts)
    stuck = asyncio.Event()

    async def react(message: Message) -> None:
        if message.data == b"5" and eaten.tries[b"5"] == 1:
            stuck.set()
            await asyncio.Event().wait()

    eaten.react = react
    async with eaten.running() as tasks:
        await stuck.wait()
        tasks[0].cancel()
    assert eaten.seen == texts[:4]
    async with eaten.running():
        await eventually(lambda: len(eaten.seen) >= 12, 5)
    assert eaten.seen == texts


async def test_a_single_reader_is_not_killed_for_ever(kernel: Kernel) -> None:
    """After five readers that died over one message it is put aside, and the rest is eaten in order."""
    eaten = Eaten(kernel, single=True, batch_max=4)
    await eaten.say(b"a", b"killer", b"b")

    async def react(message: Message) -> None:
        if message.data == b"killer":
            await asyncio.Event().wait()

    eaten.react = react
    for _ in range(10):
        before = eaten.tries.get(b"killer", 0)
        async with eaten.running() as tasks:

            def over(before: int = before) -> bool:
                return eaten.tries.get(b"killer", 0) > before or b"b" in eaten.seen

            await eventually(over)
            tasks[0].cancel()
    assert eaten.seen == [b"a", b"b"]
    ((data, headers),) = await eaten.dead()
    assert (data, headers["Sendora-Reason"]) == (b"killer", "its readers died")
    assert eaten.tries[b"killer"] <= stage_module.SUSPECT_AFTER + 1 + stage_module.TRIES_MAX


async def test_leaving_in_peace_counts_for_nothing(kernel: Kernel) -> None:
    """Restarts while a server is away are no deaths."""
    eaten = Eaten(kernel, single=True)
    await eaten.say(b"a")

    async def react(message: Message) -> None:
        raise Unavailable

    eaten.react = react
    for _ in range(7):
        before = eaten.tries.get(b"a", 0)
        async with eaten.running():
            await eventually(lambda before=before: eaten.tries.get(b"a", 0) > before)  # type: ignore[misc]
    eaten.react = None
    async with eaten.running():
        await eventually(lambda: eaten.seen == [b"a"])
    assert await eaten.dead() == []


async def test_a_lost_lease_stops_the_reader(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was taken for dead stops within a renewal, in the middle of a batch."""
    monkeypatch.setattr(stage_module, "RENEW_S", 0.05)
    eaten, ended = Eaten(kernel, single=True), asyncio.Event()
    await eaten.say(b"a")

    async def react(message: Message) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    eaten.react = react
    async with eaten.running() as tasks:
        await eventually(lambda: eaten.tries)
        await kernel.db.execute(
            "UPDATE leases SET epoch = epoch + 1, holder = 'other', lease_until = 'infinity' WHERE name = $1",
            f"consumer.{eaten.id}",
        )
        await asyncio.wait_for(ended.wait(), 5)
        assert not tasks[0].done()


async def test_a_gap_in_the_deliveries_is_noticed(kernel: Kernel) -> None:
    """Messages that went to somebody else come again, before those behind them."""
    eaten, said = Eaten(kernel, single=True, batch_max=2), [b"0"]
    await eaten.say(b"0")
    async with eaten.running():
        await eventually(lambda: eaten.seen == [b"0"])
        async with pull(kernel.bus.client, LIFECYCLE, eaten.id) as thief:
            # The reader has a pull of its own waiting, so the thief may have to try again.
            async def stolen() -> bool:
                texts = [b"%d" % (len(said) + n) for n in range(3)]
                said.extend(texts)
                await eaten.say(*texts)
                try:
                    return bool(await thief.fetch(1))
                except Gap:
                    return False

            await eventually(stolen)
        said.append(b"last")
        (last,) = await eaten.say(b"last")

        async def caught_up() -> bool:
            return await reached(kernel.db, eaten.id) == last

        await eventually(caught_up)
    assert eaten.seen == said


async def test_a_silent_subject_is_not_left_behind(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose messages are rare goes on with the log, so that it is not thought to have missed what expires; and misses
    nothing that comes meanwhile."""
    monkeypatch.setattr(stage_module, "IDLE_S", 0.0)
    eaten, other = Eaten(kernel, single=True), Eaten(kernel)
    await eaten.say(b"first")
    async with eaten.running():
        (last, *_) = reversed(await other.say(*[b"x"] * 5))

        async def followed() -> bool:
            return await reached(kernel.db, eaten.id) >= last

        await eventually(followed)
        for n in range(20):
            await asyncio.gather(eaten.say(b"%d" % n), other.say(b"y"))
        await eventually(lambda: len(eaten.seen) == 21)
    assert eaten.seen == [b"first", *(b"%d" % n for n in range(20))]


async def test_a_stream_that_began_anew(own: Embedded) -> None:
    """The log was lost and made again: its numbers are below the position, and what is in it is eaten all the same."""
    settings = load({**own.environment, "SENDORA_LOG__LEVEL": "error"})
    await migrate(settings.postgres)
    async with open_kernel(settings) as kernel:
        eaten = Eaten(kernel, single=True)
        await eaten.say(b"a", b"b", b"c")
        async with eaten.running():
            await eventually(lambda: len(eaten.seen) == 3)
        configuration = (await kernel.bus.stream.stream_info(LIFECYCLE)).config
        await kernel.bus.stream.delete_stream(LIFECYCLE)
        await kernel.bus.stream.add_stream(configuration)
        await eaten.say(b"new")
        async with eaten.running():
            await eventually(lambda: eaten.seen[-1] == b"new")
            await asyncio.to_thread(own.restart, "nats")

            async def said() -> bool:
                with suppress(Unavailable):
                    await eaten.say(b"after the restart")
                    return True
                return False

            await eventually(said)
            await eventually(lambda: b"after the restart" in eaten.seen, 20)
