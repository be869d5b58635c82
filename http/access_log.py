"""The access log: one line for every transfer that is asked for, and for every refusal and fault.

A line is a struct in a bounded queue, which costs a request about 2 µs; one task encodes and writes what has
gathered. A pipe that nobody reads never holds the server up: the oldest lines give way, and a line says how many.
Never in a line: tokens, idempotency keys, queries, bodies, paths that are no endpoint's.
"""

import logging
import math
import os
import select
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import msgspec
import structlog
import trio

from transfer_engine.http.identity import Caller
from transfer_engine.http.messages import Response
from transfer_engine.http.trace_context import Trace

LOGGER: Final = "transfer_engine.access"
EVENT: Final = "request"
NO_ENDPOINT: Final = "*"
"""Stands for the path where it is no endpoint's: a stranger may have written anything there."""

_LINES_MOST: Final = 10_000
"""Lines that wait to be written, about 4 MiB; at 8,000 a second more than a second's."""
_GATHER_S: Final = 0.1
"""How long lines gather before they are written together."""
_GATHER_LINES: Final = 256
"""... or how many, about 64 KiB."""
_LAST_WORDS_S: Final = 1.0
"""How long the end of the server waits for the last lines to be written."""
_WRITE_BYTES_MOST: Final = select.PIPE_BUF
"""Bytes in one write, whole lines: a pipe that polls as ready takes so much without blocking, and in one piece, so that
other loggers' lines never land inside one of ours. No thread is needed for it: one would cost more than the lines, and
starves while the loop is busy."""
_PIECES_AT_ONCE: Final = 32
"""Writes in a row before others have their turn."""

_encode: Final = msgspec.json.Encoder().encode
_write_log: Final = structlog.stdlib.get_logger(LOGGER)


class AccessLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One line; the first four members are those of every line of the log. What is not known is left out."""

    timestamp: datetime
    level: str
    logger: str
    event: str
    method: str
    """The HTTP method, or ``WS`` for a websocket's message."""
    path: str
    """The endpoint's template, or :data:`NO_ENDPOINT`."""
    status: int
    """The HTTP status; a websocket's message has the one that its answer would have."""
    duration_ms: float
    trace_id: str
    span_id: str
    req_id: UUID | str | None = None
    user: int | None = None
    """Whose money is moved, or else who asks."""
    subject: str | None = None
    """The token's subject, where it is no user."""
    peer: str | None = None
    """The client's address, where nobody has proved who he is."""
    outcome: str | None = None
    """The transfer's status: ``committed``, ``pending``, ``failed`` or ``rolled_back``."""
    replayed: bool = False
    count: int | None = None
    """How many transfers a batch asked for."""
    code: str | None = None
    """Of the problem."""
    refused: int = 0
    """How many of a batch were not taken."""
    op: str | None = None
    """What a websocket's message asked for."""


class _Dropped(msgspec.Struct, frozen=True):
    """The line that tells of lines that nobody read in time."""

    timestamp: datetime
    level: str = "warning"
    logger: str = LOGGER
    event: str = "access lines dropped"
    count: int = 0


class AccessLogStatistics(msgspec.Struct, frozen=True):
    """Lines since the start."""

    written: int
    dropped: int
    waiting: int


class AccessLog:
    """Takes lines from whoever answers, and writes them inside :meth:`running`.

    Args:
        is_json: lines as JSON to the descriptor; else they go through structlog, one by one, for people on a terminal.
        level: the least severe level that is logged, as in ``logging``.
        descriptor: an open file, pipe or socket; stderr by default.
    """

    def __init__(self, *, is_json: bool = True, level: int = logging.INFO, descriptor: int = 2) -> None:
        self._is_json = is_json
        self._level = level
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._piece = bytearray()
        self._lines: deque[AccessLine] = deque(maxlen=_LINES_MOST)
        self._is_ending = False
        self._wake = trio.Event()
        self._wakes_at = 1
        self._written = 0
        self._dropped = 0
        self._dropped_told = 0

    def record(
        self,
        method: str,
        path: str,
        response: Response,
        trace: Trace,
        started: float,
        caller: Caller | None = None,
        peer: str = "",
    ) -> None:
        """Write a line about an answer, if its ``about`` says that it wants one; costs nothing otherwise.

        Args:
            method: as in :class:`AccessLine`.
            path: the endpoint's template, or :data:`NO_ENDPOINT`.
            response: the answer; a websocket session may build one for the log alone.
            trace: the request's place in its trace.
            started: ``time.perf_counter()`` when the request was whole.
            caller: who asks, where that is known.
            peer: the client's address.
        """
        about = response.about
        if about is None:
            return
        status = response.status
        level = "info" if status < 500 else "warning"
        if self._level > logging.INFO and (status < 500 or self._level > logging.WARNING):
            return
        user = about.user_id
        subject = None
        if caller is not None:
            if user is None:
                user = caller.user_id
            if caller.user_id is None and caller.subject:
                subject = caller.subject
        line = AccessLine(
            datetime.now(UTC),
            level,
            LOGGER,
            EVENT,
            method,
            path,
            status,
            round((time.perf_counter() - started) * 1_000, 3),
            trace.trace_id,
            trace.span_id,
            about.req_id,
            user,
            subject,
            peer or None if user is None and subject is None else None,
            about.outcome,
            about.replayed,
            about.count,
            about.code,
            about.refused,
            about.op,
        )
        lines = self._lines
        if len(lines) == _LINES_MOST:
            self._dropped += 1
        lines.append(line)
        if len(lines) >= self._wakes_at:
            self._wake.set()

    def statistics(self) -> AccessLogStatistics:
        """Return how many lines were written, dropped, and wait."""
        return AccessLogStatistics(written=self._written, dropped=self._dropped, waiting=len(self._lines))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write lines meanwhile; at the end what is left, for at most a second. Cancellation ends it likewise."""
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            writing = trio.CancelScope(shield=True)
            ended = trio.Event()
            nursery.start_soon(self._run, writing, ended)
            try:
                yield
            finally:
                self._is_ending = True
                self._wake.set()
                with trio.move_on_after(_LAST_WORDS_S, shield=True):
                    await ended.wait()
                writing.cancel()

    async def _run(self, writing: trio.CancelScope, ended: trio.Event) -> None:
        with writing:
            await self._write_on()
        ended.set()

    async def _write_on(self) -> None:
        while self._lines or self._piece or not self._is_ending:
            if not self._lines and not self._piece:
                await self._wait(lines=1, seconds=math.inf)
            await self._wait(lines=_GATHER_LINES, seconds=_GATHER_S)
            await self._flush()

    async def _wait(self, *, lines: int, seconds: float) -> None:
        """Wait until so many lines are there, or the end comes."""
        if len(self._lines) >= lines or self._is_ending:
            return
        self._wake = trio.Event()
        self._wakes_at = lines
        with trio.move_on_after(seconds):
            await self._wake.wait()

    async def _flush(self) -> None:
        """Write what has gathered, as far as it is taken; pause where nobody reads."""
        if not self._is_json:
            while self._lines:
                self._tell(self._lines.popleft())
            return
        for _ in range(_PIECES_AT_ONCE):
            if not self._lines and not self._piece:
                return
            if not self._poll.poll(0) or not self._write_piece():
                await trio.sleep(_GATHER_S)
                return
        await trio.lowlevel.checkpoint()

    def _write_piece(self) -> bool:
        """Write some whole lines, so few that a descriptor that is ready takes them all without blocking.

        Returns:
            Whether it was ready, as it had said.
        """
        lines, piece = self._lines, self._piece
        if self._dropped > self._dropped_told and not piece:
            piece += _encode(_Dropped(datetime.now(UTC), count=self._dropped - self._dropped_told))
            piece += b"\n"
            self._dropped_told = self._dropped
        while lines:
            line = _encode(lines[0])
            if piece and len(piece) + len(line) >= _WRITE_BYTES_MOST:
                break
            lines.popleft()
            piece += line
            piece += b"\n"
            self._written += 1
        try:
            del piece[: os.write(self._descriptor, piece)]
        except BlockingIOError:
            return False
        except OSError:  # nobody reads the log any more, or its disk is full: nothing to tell it to
            piece.clear()
        return True

    def _tell(self, line: AccessLine) -> None:
        fields = msgspec.to_builtins(line)
        for name in ("timestamp", "level", "logger", "event"):
            del fields[name]
        (_write_log.info if line.level == "info" else _write_log.warning)(EVENT, **fields)
        self._written += 1
