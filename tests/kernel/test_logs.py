"""Log lines."""

import io
import logging

import msgspec
import pytest
import structlog

from sendora.kernel import config, logs


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def test_a_line_is_json_with_fields(stream: io.StringIO) -> None:
    log = logs.configure(config.Log(), stream)
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        log.info("stored", events=3)
    log.debug("not shown")
    logging.getLogger("some.library").warning("careful: %s", "x")
    first, second = (msgspec.json.decode(line) for line in stream.getvalue().splitlines())
    assert (first["event"], first["events"], first["request_id"], first["level"]) == ("stored", 3, "r1", "info")
    assert first["at"].endswith("Z")
    assert (second["event"], second["logger"], second["level"]) == ("careful: x", "some.library", "warning")


@pytest.mark.parametrize("format_", ["json", "console"])
def test_no_secret_gets_into_a_line(stream: io.StringIO, format_: str) -> None:
    log = logs.configure(msgspec.convert({"format": format_}, config.Log), stream)
    canary = "canary-" + "91c2"
    log.info("call", authorization=canary, Password=canary)
    try:
        raise ValueError("failed")
    except ValueError:
        log.exception("failed")
        logging.getLogger("some.library").exception("failed")
    written = stream.getvalue()
    assert canary not in written
    assert written.count("ValueError: failed") >= 2


def test_what_json_does_not_know_is_told_all_the_same(stream: io.StringIO) -> None:
    logs.configure(config.Log(), stream).info("odd", thing=object)
    assert "<class 'object'>" in stream.getvalue()


def test_configuring_again_does_not_double_the_lines(stream: io.StringIO) -> None:
    logs.configure(config.Log(), io.StringIO())
    logs.configure(config.Log(), stream)
    logging.getLogger("some.library").warning("once")
    assert stream.getvalue().count("once") == 1
