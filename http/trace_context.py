"""W3C Trace Context: a client's ``traceparent`` is taken over, so that his trace and our log lines find each other.

Nothing is exported from here. The trace of the request that a task answers is in every line that this task logs
meanwhile (:func:`add_trace`); what other tasks log about a transfer carries its `req_id`, which is in the same access
line as the trace. Source: https://www.w3.org/TR/trace-context-2/ (``traceparent``; there is nobody to hand a
``tracestate`` on to).
"""

import random
import re
from contextvars import ContextVar, Token
from typing import Final

import msgspec
import structlog
import trio

_TRACEPARENT: Final = re.compile(
    rb"(?P<version>[0-9a-f]{2})-(?P<trace_id>[0-9a-f]{32})-(?P<parent_id>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    rb"(?P<more>-.*)?",
    re.DOTALL,
)
_NO_TRACE: Final = b"0" * 32
_NO_PARENT: Final = b"0" * 16
_KNOWN_FLAGS: Final = 0b11  # sampled, and random trace id: the others must be zero in what we send

_random_bits: Final = random.getrandbits
"""Ids tell requests apart and protect nothing."""


class Trace(msgspec.Struct, frozen=True, gc=False):
    """One request's place in a trace: ids are lower-case hex, 32 and 16 digits."""

    trace_id: str
    span_id: str
    flags: int = 0

    def header(self) -> bytes:
        """Return the value of ``traceparent`` that an answer carries: the same trace, our span."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}".encode()


def begin_trace() -> Trace:
    """Return a trace of our own, for a request that came without one."""
    digits = f"{_random_bits(192):048x}"
    return Trace(digits[:32], digits[32:])


def span_of(trace: Trace) -> Trace:
    """Return another span of a trace."""
    return Trace(trace.trace_id, f"{_random_bits(64):016x}", trace.flags)


def take_over(traceparent: bytes) -> Trace | None:
    """Return a new span of the client's trace, or None where the header is none: whatever is invalid is left out."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    if version == b"ff" or trace_id == _NO_TRACE or parent_id == _NO_PARENT or (more is not None and version == b"00"):
        return None
    return Trace(trace_id.decode(), f"{_random_bits(64):016x}", int(flags, 16) & _KNOWN_FLAGS)


_current: Final[ContextVar[tuple[Trace, trio.lowlevel.Task] | None]] = ContextVar("transfer_engine_trace", default=None)


def enter(trace: Trace) -> Token[tuple[Trace, trio.lowlevel.Task] | None]:
    """Put a trace into the lines that this task logs, until :func:`leave`."""
    return _current.set((trace, trio.lowlevel.current_task()))


leave: Final = _current.reset
"""Undo one :func:`enter`, by what it returned."""


def add_trace(_logger: object, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Structlog's processor: name the trace of the request that the task answers.

    Tasks inherit the context that they were started in; an actor that a request brought to life is not about it.
    """
    current = _current.get()
    if current is not None and trio.lowlevel.in_trio_task() and trio.lowlevel.current_task() is current[1]:
        event.setdefault("trace_id", current[0].trace_id)
        event.setdefault("span_id", current[0].span_id)
    return event
