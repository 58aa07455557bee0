"""The closed list of metrics."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from sendora.kernel.metrics import METRICS, Metrics, Name


def test_every_name_has_a_sentence_and_every_sentence_a_name() -> None:
    assert list(METRICS) == list(get_args(Name))
    for metric in METRICS.values():
        assert metric.sentence.endswith(".")
        assert (metric.kind == "histogram") is bool(metric.buckets)


def test_what_is_counted_is_told() -> None:
    metrics = Metrics()
    metrics.count("http_requests", route="POST /events", status=200)
    metrics.count("http_requests", 2, route="POST /events", status=200)
    metrics.gauge("limiter_local", 1)
    metrics.observe("http_seconds", 0.02, route="POST /events")
    assert metrics.value("http_requests", route="POST /events", status=200) == 3
    told = metrics.text().decode()
    assert 'sendora_http_requests_total{route="POST /events",status="200"} 3.0' in told
    assert "sendora_limiter_local 1.0" in told
    assert 'sendora_http_seconds_bucket{le="0.025",route="POST /events"} 1.0' in told


def test_two_instances_do_not_share_numbers() -> None:
    one, other = Metrics(), Metrics()
    one.count("plan_late")
    assert (one.value("plan_late"), other.value("plan_late")) == (1, 0)


def test_a_wrong_kind_or_label_is_a_fault() -> None:
    metrics = Metrics()
    with pytest.raises(TypeError):
        metrics.gauge("plan_late", 1)
    with pytest.raises(TypeError):
        metrics.count("limiter_local")
    with pytest.raises(TypeError):
        metrics.observe("plan_late", 1)
    with pytest.raises(ValueError, match="label"):
        metrics.count("sends", channel="push")


def test_several_processes_answer_with_their_sum(tmp_path: Path) -> None:
    program = (
        "from sendora.kernel.metrics import Metrics; "
        "metrics = Metrics(); metrics.count('plan_late', 2); print(metrics.text().decode())"
    )
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for total in (2, 4):
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert f"sendora_plan_late_total {total}.0" in done.stdout
