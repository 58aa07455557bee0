"""Log lines: one event each, with fields instead of sentences, in JSON for collectors or in colour for people.

They go to stderr, so that a command's own answer on stdout stays clean. Libraries that use the standard `logging` end
in the same stream and format. Nothing is printed that would have to be kept secret: tracebacks show no local variables,
and fields with tell-tale names are covered. Numbers belong into metrics.
"""

import logging
import sys
from typing import Any, Final, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from sendora.kernel import config

HIDDEN: Final = frozenset({"authorization", "x-api-key", "api_key", "password", "secret", "private_key", "credentials"})

QUIET: Final = ("nats", "httpx", "httpcore", "hpack", "asyncio")
"""Libraries whose information is of interest to their own authors."""


def configure(settings: config.Log, stream: TextIO | None = None) -> FilteringBoundLogger:
    """Set up the process's log; the logger that the kernel hands on."""
    stream = stream or sys.stderr
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        _hide,
    ]
    renderer: list[Processor]
    if settings.format == "json":
        renderer = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
    else:
        renderer = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,  # Tests configure more than once.
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    for old in [kept for kept in root.handlers if isinstance(kept.formatter, structlog.stdlib.ProcessorFormatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger


def _hide(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    for key in event:
        if key.lower() in HIDDEN:
            event[key] = "<hidden>"
    return event


def _json(event: Any, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()
