"""One client's connection to the express door: reads, has the requests answered in order, writes, and ends well.

One task for each connection. A request that comes alone is answered in it; those that come together (pipelined) are
begun in their order, answered beside each other, at most :data:`PIPELINED_MOST` at a time, and told in order. Nothing
further is read meanwhile: a client that is ahead of its answers waits in its socket.

It works on a plain non-blocking socket, and waits by `trio.lowlevel`: a stream's checkpoints would cost as much as the
request does here. Deadlines are numbers that the door looks at now and then; setting one costs nothing.
"""

import enum
import math
import socket
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from transfer_engine.http.express_answers import CONTINUE
from transfer_engine.http.express_requests import FEED_BYTES_MOST, RequestParser, Upgrade
from transfer_engine.http.messages import Request
from transfer_engine.http.problems import ProblemCode, Rejected

if TYPE_CHECKING:
    from transfer_engine.http.express import ExpressDoor

PIPELINED_MOST: Final = 64
"""Requests of one connection that are answered beside each other."""

_READ_BYTES: Final = 64 << 10
_DISCARDED_BYTES_MOST: Final = 1 << 20
"""How much of what follows the last answer is read and dropped, so that its client sees it before a reset."""


class Phase(enum.Enum):
    """What a connection is doing."""

    IDLE = "idle"
    """Nothing of a request has come."""
    READING_HEAD = "reading head"
    READING_BODY = "reading body"
    ANSWERING = "answering"
    """The engine has its time, and its deadline."""
    SENDING = "sending"
    """The client does not read as fast as it is answered."""
    LINGERING = "lingering"
    """The last answer is out; what still comes is dropped."""


_IDLE: Final = Phase.IDLE
_ANSWERING: Final = Phase.ANSWERING


class _Gone(Exception):
    """The client has left, or is given up."""


class ExpressConnection:
    """One connection; the door's watch reads :attr:`deadline` and calls :meth:`expire`."""

    def __init__(self, door: "ExpressDoor", connected: socket.socket, peer: str) -> None:
        self.phase = _IDLE
        self.deadline = door.now + door.keep_alive_s
        self._door = door
        self._socket = connected
        self._was_refused = False
        self._parser = RequestParser(peer, door.usual_body_bytes_most, door.body_bytes_most)

    def __repr__(self) -> str:
        return f"<ExpressConnection {self.phase.value} until {self.deadline:.1f}>"

    def expire(self) -> None:
        """Wake it where it waits for its client; it finds out why. Where it waits for the engine nothing happens."""
        trio.lowlevel.notify_closing(self._socket)

    async def run(self) -> Upgrade | None:
        """Serve to the end; return the request that leaves HTTP, its socket then being another's to serve.

        Cancellation cuts the client off; what the engine took goes on.
        """
        try:
            return await self._serve()
        except _Gone:
            return None
        finally:
            self.deadline = math.inf
            self._parser.close()

    async def _serve(self) -> Upgrade | None:
        parser = self._parser
        while data := await self._receive():
            size = len(data)
            fed = 0
            while fed < size:
                part = data if size <= FEED_BYTES_MOST else data[fed : fed + FEED_BYTES_MOST]
                fed += len(part)
                parser.feed(part)
                if parser.requests:
                    requests, parser.requests = parser.requests, []
                    if await self._answer(requests, is_all=fed == size):
                        await self._finish(is_more_coming=fed < size or not parser.is_between)
                        return None
                if parser.refused is not None:
                    await self._refuse(parser.refused)
                    return None
                if parser.upgrade is not None:
                    return await self._leave(parser.upgrade, data[fed:])
            await self._settle()
        return None

    async def _settle(self) -> None:
        """Set the deadline for what is to come: another request, or the rest of this one."""
        parser = self._parser
        if parser.is_between:
            if self.phase is not _IDLE:
                self.phase = _IDLE
                self.deadline = self._door.now + self._door.keep_alive_s
            return
        phase = Phase.READING_BODY if parser.is_in_body else Phase.READING_HEAD
        if self.phase is not phase:
            self.phase = phase
            self.deadline = self._door.now + self._door.body_timeout_s
        if parser.awaits_continue:
            parser.awaits_continue = False
            deadline = self.deadline
            await self._send(CONTINUE)
            self.phase, self.deadline = phase, deadline

    async def _receive(self) -> bytes:
        """Return what has come; nothing where the connection is to end. A request that is too slow is refused."""
        while True:
            if self.phase is _IDLE and self._door.is_stopping:
                return self._receive_now() or b""
            try:
                await trio.lowlevel.wait_readable(self._socket)
            except trio.ClosedResourceError:
                if self.phase is Phase.IDLE and self._door.is_stopping:
                    continue
                if self.phase in {Phase.READING_HEAD, Phase.READING_BODY}:
                    await self._refuse(self._too_slow())
                return b""
            data = self._receive_now()
            if data is not None:
                return data

    def _receive_now(self) -> bytes | None:
        """Return what has come: None for nothing yet, empty for nothing any more."""
        try:
            return self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    async def _answer(self, requests: list[Request], *, is_all: bool) -> bool:
        """Answer requests; ``is_all`` says that nothing is read but not parsed. Return whether these were the last."""
        self.phase = _ANSWERING
        self.deadline = math.inf
        door = self._door
        parser = self._parser
        if len(requests) == 1:
            request = requests[0]
            response = await door.api.answer(request)
            closes = parser.closes or (door.is_stopping and is_all)
            answer = door.answers.encode(response, is_head=request.method == "HEAD", closes=closes)
            try:
                sent = self._socket.send(answer)
            except OSError:
                sent = 0
            if sent != len(answer):
                await self._send(answer, sent)
            if response.overloaded:
                await self._hold(response.overloaded)
            return closes
        start = 0
        while start < len(requests):
            # Who has just been refused for want of room tries again with one, and waits for its answer.
            group = requests[start : start + (1 if self._was_refused else PIPELINED_MOST)]
            start += len(group)
            await self._answer_group(group, is_all=is_all and start >= len(requests))
        return parser.closes or (door.is_stopping and is_all)

    async def _answer_group(self, requests: list[Request], *, is_all: bool) -> None:
        """Answer requests beside each other, in order; those that follow each other at once leave together."""
        door = self._door
        last = len(requests) - 1
        answers: dict[int, bytes] = {}
        overloaded = 0
        progress = trio.Event()

        async def answer(index: int, request: Request) -> None:
            nonlocal overloaded
            response = await door.api.answer(request)
            overloaded += response.overloaded
            closes = index == last and is_all and (self._parser.closes or door.is_stopping)
            answers[index] = door.answers.encode(response, is_head=request.method == "HEAD", closes=closes)
            progress.set()

        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            for index, request in enumerate(requests):
                nursery.start_soon(answer, index, request)
                await trio.lowlevel.checkpoint()  # it takes its first step before the next one: order is kept
            told = 0
            try:
                while told <= last:
                    if told not in answers:
                        progress = trio.Event()
                        await progress.wait()
                    ready = []
                    while told in answers:
                        ready.append(answers.pop(told))
                        told += 1
                    await self._send(b"".join(ready))
            except _Gone:
                self._parser.closes = True
                nursery.cancel_scope.cancel()
        if told <= last:
            raise _Gone
        self._was_refused = overloaded > 0
        if overloaded:
            await self._hold(overloaded)

    async def _hold(self, count: int) -> None:
        """Let the client wait for its turn, that was refused so often for want of room; it has been told."""
        self.phase = _ANSWERING
        self.deadline = math.inf
        await self._door.api.pace.wait(count)

    async def _send(self, data: bytes, sent: int = 0) -> None:
        """Send all; the client has its time to read it.

        Raises:
            _Gone: it has left, or did not read in time.
        """
        view = memoryview(data)
        is_first = True
        while sent < len(data):
            try:
                sent += self._socket.send(view[sent:])
            except BlockingIOError:
                pass
            except OSError:
                raise _Gone from None
            if sent == len(data):
                return
            if is_first:
                is_first = False
                self.phase = Phase.SENDING
                self.deadline = self._door.now + self._door.send_timeout_s
            try:
                await trio.lowlevel.wait_writable(self._socket)
            except trio.ClosedResourceError:
                raise _Gone from None

    async def _refuse(self, rejected: Rejected) -> None:
        """Answer before the request is whole, or although it is none; the connection ends with it."""
        request = self._parser.unfinished
        response = self._door.api.refuse(rejected, request)
        await self._send(self._door.answers.encode(response, is_head=request.method == "HEAD", closes=True))
        await self._finish(is_more_coming=True)

    async def _finish(self, *, is_more_coming: bool) -> None:
        """End, after the last answer. Closing a socket with unread bytes in it would take the answer back."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return
        data = self._receive_now()
        if data == b"" or (data is None and not is_more_coming):
            return
        self.phase = Phase.LINGERING
        self.deadline = self._door.now + self._door.linger_s
        discarded = 0
        while discarded <= _DISCARDED_BYTES_MOST and (data := await self._receive()):
            discarded += len(data)

    async def _leave(self, upgrade: Upgrade, more: bytes) -> Upgrade | None:
        """Hand over what the door has another protocol for; anything else is answered, and is the last."""
        if self._door.takes(upgrade):
            return msgspec.structs.replace(upgrade, rest=upgrade.rest + more)
        self._parser.closes = True
        await self._answer([upgrade.request], is_all=True)
        await self._finish(is_more_coming=True)
        return None

    def _too_slow(self) -> Rejected:
        seconds = self._door.body_timeout_s
        if self.phase is Phase.READING_BODY:
            return Rejected(ProblemCode.BODY_TOO_SLOW, f"the body was not whole within {seconds:g} s")
        return Rejected(ProblemCode.HEAD_TOO_SLOW, f"the head was not whole within {seconds:g} s")
