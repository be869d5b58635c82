"""Logs: a line an event on stderr; coloured on a terminal, JSON elsewhere. The libraries' logs take the same way."""

import logging
import sys

import structlog

from transfer_engine.http.access_log import AccessLog
from transfer_engine.http.settings import ServerSettings
from transfer_engine.http.trace_context import add_trace


def access_log_of(settings: ServerSettings) -> AccessLog | None:
    """Return the access log, or None where none is wanted."""
    return AccessLog(is_json=_is_json(settings), level=_level(settings)) if settings.access_log else None


def configure_logs(settings: ServerSettings) -> None:
    """Send structlog's and the standard library's logs to stderr, as the settings say. For a process's start."""
    is_json = _is_json(settings)
    level = _level(settings)
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        add_trace,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    # Without local variables: what clients sent, and later their secrets, is no log's matter.
    tracebacks = structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    )
    renderers: list[structlog.types.Processor] = (
        [tracebacks, structlog.processors.JSONRenderer()]
        if is_json
        else [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.getLogger("hypercorn").setLevel(max(level, logging.WARNING))  # the ready line says what its infos say
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _is_json(settings: ServerSettings) -> bool:
    return settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())


def _level(settings: ServerSettings) -> int:
    return logging.getLevelNamesMapping()[settings.log_level.upper()]
