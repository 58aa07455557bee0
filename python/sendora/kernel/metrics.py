"""The closed list of metrics: each with its kind, its labels and one sentence.

Code counts by a name that mypy knows, so a metric can be neither invented in passing nor misspelt; the operator's
reference is this list. A label has few values that we choose; what callers choose (ids, paths, tokens) is never one,
except for the project, on the four numbers that must balance for each project.

With PROMETHEUS_MULTIPROC_DIR set, several processes behind one port answer with their sum.
"""

import os
from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

Name = Literal[
    "events_accepted",
    "events_stored",
    "events_duplicate",
    "events_bad",
    "events_rejected",
    "http_requests",
    "http_seconds",
    "log_publishes",
    "log_publish_seconds",
    "log_frame_events",
    "log_frame_bytes",
    "log_retries",
    "log_buffered_bytes",
    "log_refused",
    "stage_batches",
    "stage_messages",
    "stage_seconds",
    "stage_retries",
    "stage_dead",
    "stage_pending",
    "profiles_written",
    "deletions_open",
    "limiter_refused",
    "limiter_local",
    "idempotency_replayed",
    "key_lookups",
    "audience_evaluations",
    "audience_seconds",
    "audience_indexes",
    "audience_index_people",
    "audience_index_bytes",
    "audience_index_lag",
    "audience_index_loads",
    "sends",
    "plan_chunks",
    "plan_seconds",
    "plan_late",
    "dispatch_outcomes",
    "dispatch_chunks",
    "dispatch_in_flight",
    "dispatch_flush_rows",
    "dispatch_flush_seconds",
    "dispatch_repeated",
    "dispatch_lease_lost",
    "lane_requests",
    "lane_seconds",
    "lane_connections",
    "lane_open_breakers",
    "lane_token_renewals",
    "prune_retired",
    "prune_held",
    "tokens_registered",
    "opens_recorded",
    "receipts_recorded",
    "leases_held",
    "lease_changes",
    "jobs",
    "service_restarts",
    "fence_standing",
    "outbound_blocked",
    "build_info",
]

Kind = Literal["counter", "gauge", "histogram"]


class Metric(NamedTuple):
    kind: Kind
    sentence: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""From a hot route's answer to the longest wait that we allow."""

ROWS: Final = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0)
BYTES: Final = (256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0)

METRICS: Final[dict[Name, Metric]] = {
    "events_accepted": Metric("counter", "Events answered with a 2xx, as the frames of the log declare.", ("project",)),
    "events_stored": Metric("counter", "Events that became rows.", ("project",)),
    "events_duplicate": Metric("counter", "Events that were there already.", ("project",)),
    "events_bad": Metric("counter", "Events that PostgreSQL refused, kept with the reason.", ("project",)),
    "events_rejected": Metric("counter", "Events refused at the door, before they were accepted."),
    "http_requests": Metric("counter", "Answers by route template and status.", ("route", "status")),
    "http_seconds": Metric("histogram", "From the request's head to the last byte of its answer.", ("route",), SECONDS),
    "log_publishes": Metric("counter", "Frames that the log has confirmed.", ("lane",)),
    "log_publish_seconds": Metric("histogram", "From publishing a frame to its confirmation.", ("lane",), SECONDS),
    "log_frame_events": Metric("histogram", "Events in a frame: how well group commit gathers.", ("lane",), ROWS),
    "log_frame_bytes": Metric("histogram", "Bytes of a frame.", ("lane",), BYTES),
    "log_retries": Metric("counter", "Frames published again because their confirmation was late.", ("lane",)),
    "log_buffered_bytes": Metric("gauge", "Bytes that wait for the publish in flight.", ("lane",)),
    "log_refused": Metric("counter", "Requests answered 503 because the log was away or the buffer full.", ("reason",)),
    "stage_batches": Metric("counter", "Batches that a consumer has finished.", ("consumer",)),
    "stage_messages": Metric("counter", "Messages that a consumer has finished.", ("consumer",)),
    "stage_seconds": Metric("histogram", "Time of one batch.", ("consumer",), SECONDS),
    "stage_retries": Metric("counter", "Batches handed back to be delivered again.", ("consumer",)),
    "stage_dead": Metric("counter", "Messages put aside after their last try.", ("consumer",)),
    "stage_pending": Metric("gauge", "Messages of the stream that the consumer has not read yet.", ("consumer",)),
    "profiles_written": Metric("counter", "Profile rows written."),
    "deletions_open": Metric("gauge", "Requests to forget a person that are not completed yet."),
    "limiter_refused": Metric("counter", "Requests answered 429 or 413 by the token bucket.", ("reason",)),
    "limiter_local": Metric("gauge", "1 while Redis is away and this process spends its own share."),
    "idempotency_replayed": Metric("counter", "Requests answered from an earlier answer."),
    "key_lookups": Metric("counter", "API keys looked up, by where they were found.", ("result",)),
    "audience_evaluations": Metric(
        "counter", "Audience evaluations by purpose and by who answered: index, rows, both.", ("purpose", "engine")
    ),
    "audience_seconds": Metric("histogram", "Time of one audience evaluation.", ("purpose",), SECONDS),
    "audience_indexes": Metric("gauge", "Audience indexes (projects, or parts of them) that this worker holds."),
    "audience_index_people": Metric("gauge", "People in the audience indexes of this worker."),
    "audience_index_bytes": Metric("gauge", "Memory that the audience indexes of this worker take."),
    "audience_index_lag": Metric("gauge", "Frames of the log that are stored and not yet in every audience index."),
    "audience_index_loads": Metric(
        "counter", "Audience indexes loaded, by what from, and dropped, by why.", ("change",)
    ),
    "sends": Metric("counter", "Sends by the status they came to.", ("channel", "status")),
    "plan_chunks": Metric("counter", "Chunks committed by the planner.", ("class",)),
    "plan_seconds": Metric("histogram", "From taking a send up to its last chunk.", (), SECONDS),
    "plan_late": Metric("counter", "Sends planned as of what was known, because a store lagged too far behind."),
    "dispatch_outcomes": Metric("counter", "Recipients by outcome and reason.", ("channel", "state", "reason")),
    "dispatch_chunks": Metric(
        "counter",
        "Chunks closed, by how: sent to the end, stopped, late, or parked after too many owners.",
        ("result",),
    ),
    "dispatch_in_flight": Metric("gauge", "Recipients on the wire without a recorded outcome.", ("class",)),
    "dispatch_flush_rows": Metric("histogram", "Outcomes in one flush of the ledger.", (), ROWS),
    "dispatch_flush_seconds": Metric("histogram", "Time of one flush of the ledger.", (), SECONDS),
    "dispatch_repeated": Metric("counter", "Recipients written to again after a crash left them unknown."),
    "dispatch_lease_lost": Metric("counter", "Flushes that were refused because the shard has another owner."),
    "lane_requests": Metric("counter", "Requests to providers by status (0: no answer).", ("provider", "status")),
    "lane_seconds": Metric("histogram", "From writing a request to its answer.", ("provider",), SECONDS),
    "lane_connections": Metric("gauge", "Open connections to a provider.", ("provider",)),
    "lane_open_breakers": Metric("gauge", "Lanes that are not tried for now.", ("provider",)),
    "lane_token_renewals": Metric("counter", "Provider tokens minted.", ("provider",)),
    "prune_retired": Metric("counter", "Device tokens retired on a provider's word.", ("platform", "reason")),
    "prune_held": Metric("counter", "Retirements held back because a lane's dead rate jumped.", ("platform",)),
    "tokens_registered": Metric("counter", "Registrations of device tokens.", ("platform",)),
    "opens_recorded": Metric("counter", "Opens and clicks by what became of them.", ("result",)),
    "receipts_recorded": Metric("counter", "Device receipts by what became of them.", ("result",)),
    "leases_held": Metric("gauge", "Leases that this process holds.", ("kind",)),
    "lease_changes": Metric("counter", "Leases taken and lost.", ("kind", "change")),
    "jobs": Metric("counter", "Runs of a scheduled job: ok, away (a server was), failed.", ("job", "result")),
    "service_restarts": Metric(
        "counter", "Services that ended with an exception and were started again.", ("service",)
    ),
    "fence_standing": Metric("gauge", "1 while this process waits behind the restore fence."),
    "outbound_blocked": Metric("counter", "Addresses that the outbound guard refused.", ("reason",)),
    "build_info": Metric("gauge", "Always 1; tells the version and the library's digest.", ("version", "digest")),
}

PREFIX: Final = "sendora"


class Metrics:
    """The metrics of one process; each instance counts for itself, so that tests do not share numbers."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._collectors: dict[Name, Counter | Gauge | Histogram] = {
            name: _collector(name, metric, self._registry) for name, metric in METRICS.items()
        }
        # Labels are few by rule, so every child is kept: finding one by its labels costs more than counting does.
        self._children: dict[tuple[object, ...], Counter | Gauge | Histogram] = {}

    def count(self, name: Name, n: float = 1, **labels: str | int) -> None:
        collector = self._child(name, labels)
        if not isinstance(collector, Counter):
            raise TypeError(f"{name} is no counter")
        collector.inc(n)

    def gauge(self, name: Name, value: float, **labels: str | int) -> None:
        collector = self._child(name, labels)
        if not isinstance(collector, Gauge):
            raise TypeError(f"{name} is no gauge")
        collector.set(value)

    def observe(self, name: Name, value: float, **labels: str | int) -> None:
        collector = self._child(name, labels)
        if not isinstance(collector, Histogram):
            raise TypeError(f"{name} is no histogram")
        collector.observe(value)

    def observe_many(self, name: Name, buckets: Sequence[int], total: float, **labels: str | int) -> None:
        """Observations that were gathered elsewhere: how many in each bucket, the last one above all bounds; their sum.

        The library has no public way to add them; its tests would notice if the private one moved.
        """
        collector = self._child(name, labels)
        if not isinstance(collector, Histogram):
            raise TypeError(f"{name} is no histogram")
        for bucket, n in zip(collector._buckets, buckets, strict=True):
            bucket.inc(n)
        collector._sum.inc(total)

    def counting(self, name: Name, **labels: str | int) -> Callable[[float], None]:
        """`count` for one set of labels, for who counts so often that finding it each time would be the larger part."""
        collector = self._child(name, labels)
        if not isinstance(collector, Counter):
            raise TypeError(f"{name} is no counter")
        return collector.inc

    def observing(self, name: Name, **labels: str | int) -> Callable[[float], None]:
        """`observe` for one set of labels."""
        collector = self._child(name, labels)
        if not isinstance(collector, Histogram):
            raise TypeError(f"{name} is no histogram")
        return collector.observe

    def value(self, name: Name, **labels: str | int) -> float:
        """What a counter or a gauge stands at: for tests and for the demo's progress."""
        suffix = "_total" if METRICS[name].kind == "counter" else ""
        wanted = {label: str(value) for label, value in labels.items()}
        return self._registry.get_sample_value(f"{PREFIX}_{name}{suffix}", wanted) or 0.0

    def text(self) -> bytes:
        """The exposition format, for `/metrics`."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)

    def _child(self, name: Name, labels: dict[str, str | int]) -> Counter | Gauge | Histogram:
        key = (name, *labels.items())
        child = self._children.get(key)
        if child is None:
            collector = self._collectors[name]
            child = self._children[key] = collector.labels(**labels) if METRICS[name].labels else collector
        return child


def _collector(name: Name, metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    full = f"{PREFIX}_{name}"
    if metric.kind == "counter":
        return Counter(full, metric.sentence, metric.labels, registry=registry)
    if metric.kind == "gauge":
        return Gauge(full, metric.sentence, metric.labels, registry=registry, multiprocess_mode="livesum")
    return Histogram(full, metric.sentence, metric.labels, registry=registry, buckets=metric.buckets)
