"""One client's connection to the express door: reads, has the requests answered in order, writes, and ends well.

One task for each connection. It is parked while its client sends what nearly every client sends: one whole request,
then nothing before the answer. Where no task is needed to answer that, it is read, begun and answered by callbacks
(:meth:`ExpressConnection._ready`, :meth:`ExpressConnection._tell`), and the task does not notice. Whatever is different
wakes it, and is its to do: a part of a request, several at once, one that takes a task, a client that does not read, a
refusal, the end.

Requests that come together (pipelined) are begun in their order, answered beside each other, at most
:data:`PIPELINED_MOST` at a time, and told in order. Nothing further is read meanwhile: a client that is ahead of its
answers waits in its socket.

It works on a plain non-blocking socket, and waits by `trio.lowlevel`: a stream's checkpoints would cost as much as the
request does here. Deadlines are numbers that the door looks at now and then; setting one costs nothing.
"""

import math
import socket
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from transfer_engine.http.express_answers import CONTINUE
from transfer_engine.http.express_requests import FEED_BYTES_MOST, RequestParser, Upgrade
from transfer_engine.http.express_socket import ExpressSocket, Gone, Phase
from transfer_engine.http.messages import Request, Response
from transfer_engine.http.problems import ProblemCode, Rejected

if TYPE_CHECKING:
    from transfer_engine.http.express import ExpressDoor

PIPELINED_MOST: Final = 64
"""Requests of one connection that are answered beside each other."""

_DISCARDED_BYTES_MOST: Final = 1 << 20
"""How much of what follows the last answer is read and dropped, so that its client sees it before a reset."""


_IDLE: Final = Phase.IDLE
_ANSWERING: Final = Phase.ANSWERING


class _Unsent:
    """An answer that the task has to see to: not all of it was sent, or something follows from it."""

    __slots__ = ("closes", "data", "overloaded", "sent")

    def __init__(self, data: bytes, sent: int, *, closes: bool, overloaded: int) -> None:
        self.data = data
        self.sent = sent
        self.closes = closes
        self.overloaded = overloaded


class ExpressConnection(ExpressSocket):
    """One connection; the door's watch reads :attr:`deadline` and calls :meth:`expire`."""

    def __init__(self, door: "ExpressDoor", connected: socket.socket, peer: str) -> None:
        super().__init__(door, connected)
        self._was_refused = False
        self._has_come = False
        """Something has come while the last request was being answered."""
        self._unparsed: bytes | None = None
        """What a callback has read, and left to the task."""
        self._read = b""
        """… and has parsed, too."""
        self._unsent: _Unsent | None = None
        self._parser = RequestParser(peer, door.usual_body_bytes_most, door.body_bytes_most)

    def __repr__(self) -> str:
        return f"<ExpressConnection {self.phase.value} until {self.deadline:.1f}>"

    async def run(self) -> Upgrade | None:
        """Serve to the end; return the request that leaves HTTP, its socket then being another's to serve.

        Cancellation cuts the client off; what the engine took goes on.
        """
        try:
            with self._watched():
                return await self._serve()
        except Gone:
            return None
        finally:
            self._parser.close()

    async def _serve(self) -> Upgrade | None:
        parser = self._parser
        while data := await self._receive():
            size = len(data)
            fed = 0
            while fed < size:
                if data is self._read:
                    fed = size
                    self._read = b""
                else:
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
            if parser.is_in_body and self.phase is not Phase.READING_BODY and await self._is_refused_ahead():
                return None
            await self._settle()
        return None

    async def _is_refused_ahead(self) -> bool:
        """Refuse a request whose body is still to come, where that would change nothing; return whether it was."""
        self.phase = _ANSWERING
        self.deadline = math.inf
        try:
            await self._door.api.look_ahead(self._parser.unfinished)
        except Rejected as rejected:
            await self._refuse(rejected)
            return True
        return False

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
                await self._wait_readable()
            except trio.ClosedResourceError:
                if self.phase is Phase.IDLE and self._door.is_stopping:
                    continue
                if self.phase in {Phase.READING_HEAD, Phase.READING_BODY}:
                    await self._refuse(self._too_slow())
                return b""
            if self._unparsed is not None:
                data, self._unparsed = self._unparsed, None
                return data
            if self._read:
                return self._read
            if self._unsent is not None:
                if await self._see_to(self._unsent):
                    return b""
                continue
            some = self._receive_now()
            if some is not None:
                return some

    def _ready(self, is_last: bool = True) -> None:
        """Read what may have come. A plain request is begun; anything else is the task's, as far as it was read.

        ``is_last`` says that an end may have come behind it: one read does not tell, and nobody calls again for it.
        """
        if not self._is_parked or self.phase is _ANSWERING:
            self._has_come = True
            return
        self._has_come = is_last
        data = self._receive_now()
        if data is None:
            self._has_come = False
            return
        if self.phase is not _IDLE or not 0 < len(data) <= FEED_BYTES_MOST:
            self._unparsed = data
            self._wake()
            return
        parser = self._parser
        parser.feed(data)
        requests = parser.requests
        if len(requests) == 1 and parser.is_between and not parser.closes and parser.refused is None:
            request = requests.pop()  # first of all: it may be answered at once, and the next one read
            self.phase = _ANSWERING
            self.deadline = math.inf
            if self._door.api.begin(request, self._tell):
                return
            requests.append(request)
        self._read = data
        self._wake()

    def _tell(self, response: Response) -> None:
        """Send the answer to a request that a callback has begun; the task sees to what does not go by itself."""
        if self.phase is Phase.OVER:
            return
        closes = self._door.is_stopping
        answer = self._door.answers.encode(response, closes=closes)
        try:
            sent = self._socket.send(answer)
        except OSError:
            sent = 0
        if sent != len(answer) or closes or response.overloaded:
            self._unsent = _Unsent(answer, sent, closes=closes, overloaded=response.overloaded)
            self._wake()
            return
        self.phase = _IDLE
        self.deadline = self._door.now + self._door.keep_alive_s
        if self._has_come:
            self._ready()

    async def _see_to(self, unsent: _Unsent) -> bool:
        """Do what remains of an answer; return whether it was the connection's last."""
        self._unsent = None
        await self._send(unsent.data, unsent.sent)
        if unsent.overloaded:
            await self._hold(unsent.overloaded)
        if unsent.closes:
            await self._finish(is_more_coming=False)
            return True
        await self._settle()
        return False

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
            except Gone:
                self._parser.closes = True
                nursery.cancel_scope.cancel()
        if told <= last:
            raise Gone
        self._was_refused = overloaded > 0
        if overloaded:
            await self._hold(overloaded)

    async def _hold(self, count: int) -> None:
        """Let the client wait for its turn, that was refused so often for want of room; it has been told."""
        self.phase = _ANSWERING
        self.deadline = math.inf
        await self._door.api.pace.wait(count)

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
