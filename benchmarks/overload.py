"""More than the engine can do, over websockets: what is still committed, and how quickly the rest is refused.

First the peak: a closed loop. Then transfers come at multiples of it, whatever the answers do (an open loop), so the
server has to refuse some of them, and to let others wait in the sockets.

How it is measured:

* Every transfer has a time at which it is to be sent, and its latency counts from then on, whenever it was written.
* What may wait between the two processes is bounded (:data:`_SEND_BUFFER_BYTES` here, the server's own bound there). A
  connection whose last write is not through when more is due is full, as its client can see: what came due
  meanwhile is not queued up for later, where it would only tell how long the load lasted, but counted as held back.
* Goodput is what was committed, and so told here, behind the first second of the load and before its end: what is
  carried out of the backlog afterwards counts for nothing, nor does the time in which it builds up.
* The load is a process of its own. The share of its time that it was busy is told: near 1 it is what is measured.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import trio

from transfer_engine.benchmarks.frames import Socket, open_socket
from transfer_engine.benchmarks.measures import Latencies, LatencySummary, Meter
from transfer_engine.benchmarks.server_processes import Books, engine_server
from transfer_engine.benchmarks.websocket_door import Frames, closed_loop

_TICK_S: Final = 0.005
_LAST_ANSWERS_S: Final = 10.0
_IN_FLIGHT_AT_PEAK: Final = 64
_SEND_BUFFER_BYTES: Final = 16 << 10
_SETTLING_S: Final = 1.0
"""Of each load, before what is committed counts."""
_LATE_S: Final = 4 * _TICK_S
"""What is due for longer than this, and not written, is held back."""


class _Error(msgspec.Struct, frozen=True, gc=False):
    code: str = ""


class _Data(msgspec.Struct, frozen=True, gc=False):
    status: str = ""


class _Answer(msgspec.Struct, frozen=True, gc=False):
    id: int | None = None
    data: _Data | None = None
    error: _Error | None = None
    op: str | None = None


_decode: Final = msgspec.msgpack.Decoder(_Answer).decode


class Overloaded(msgspec.Struct, frozen=True):
    """What became of an offered load."""

    factor: float
    offered: float
    """Transfers a second that were due."""
    held_back: float
    """Transfers a second that were due while their connection took nothing: the server did not read."""
    goodput: float
    """Committed transfers a second, while the load lasted."""
    server_us: float
    """The server's CPU while the load lasted, for each transfer that was committed meanwhile (µs)."""
    busy: float
    """The share of its time that the load itself computed."""
    outcomes: dict[str, int]
    committed: LatencySummary
    refused: LatencySummary
    unanswered: int


class OverloadResult(msgspec.Struct, frozen=True):
    """The peak, and what more than that does."""

    peak: float
    peak_us: float
    """The server's CPU for each transfer of it (µs)."""
    loads: list[Overloaded]
    books: Books


async def run_overload(
    *,
    door: str,
    factors: Sequence[float],
    connections: int,
    seconds: float,
    token: bool,
    limits: bool,
    access_log: bool,
    tell: Callable[[float, Overloaded | None], None],
) -> OverloadResult:
    """Measure the peak, then offer each multiple of it."""
    loads = []
    async with engine_server(token=token, limits=limits, access_log=access_log) as (server, books):
        make = Frames(0)
        sockets = [await open_socket(server.port_of(door), server.headers) for _ in range(connections)]
        await closed_loop(sockets, make.build, seconds=1.0, in_flight=_IN_FLIGHT_AT_PEAK, is_echo=False)
        began, meter = time.perf_counter(), Meter((server.pid,))
        counts = await closed_loop(sockets, make.build, seconds=seconds, in_flight=_IN_FLIGHT_AT_PEAK, is_echo=False)
        peak = counts.committed / (time.perf_counter() - began)
        peak_us = meter.read().servers_s / max(counts.committed, 1) * 1e6
        for socket in sockets:
            await socket.aclose()
        tell(peak, None)
        for factor in factors:
            sockets = [
                await open_socket(server.port_of(door), server.headers, send_buffer_bytes=_SEND_BUFFER_BYTES)
                for _ in range(connections)
            ]
            offer = _Offer(sockets, make, rate=peak * factor, seconds=seconds, server=server.pid)
            await offer.run()
            loads.append(offer.result(factor))
            tell(peak, loads[-1])
            for socket in sockets:
                await socket.aclose()
    return OverloadResult(peak=peak, peak_us=peak_us, loads=loads, books=books[0])


class _Offer:
    """Sends transfers at a rate, over all connections alike, each tick's share in one write; counts the answers."""

    def __init__(self, sockets: list[Socket], make: Frames, *, rate: float, seconds: float, server: int) -> None:
        self._seconds = seconds
        self._server = server
        self._sockets = sockets
        self._make = make
        self._share = rate / len(sockets)
        self._began = time.perf_counter()
        self._counts_from = self._began + _SETTLING_S
        self._end = self._counts_from + seconds
        self._all_answered = trio.Event()
        self._is_over = False
        self.sent_at: dict[int, float] = {}
        self.sent = 0
        self.held_back = 0
        self.server_us = 0.0
        self.busy = 0.0
        self.in_time = 0
        """Committed while it counted."""
        self.committed, self.refused = Latencies(), Latencies()
        self.outcomes: Counter[str] = Counter()

    async def run(self) -> None:
        """Send all of it, and wait some seconds for the last answers."""
        computed, meter = time.process_time(), Meter((self._server,))
        async with trio.open_nursery() as receivers:
            for socket in self._sockets:
                receivers.start_soon(self._receive, socket)
            async with trio.open_nursery() as senders:
                for index, socket in enumerate(self._sockets):
                    senders.start_soon(self._send, index, socket)
            self.busy = (time.process_time() - computed) / (time.perf_counter() - self._began)
            self.server_us = meter.read().servers_s / max(self.outcomes["committed"], 1) * 1e6
            self._is_over = True
            with trio.move_on_after(_LAST_ANSWERS_S):
                if self.sent_at:
                    await self._all_answered.wait()
            receivers.cancel_scope.cancel()

    def result(self, factor: float) -> Overloaded:
        """Return what became of it."""
        whole_s = self._seconds + _SETTLING_S
        return Overloaded(
            factor=factor,
            offered=(self.sent + self.held_back) / whole_s,
            held_back=self.held_back / whole_s,
            goodput=self.in_time / self._seconds,
            server_us=self.server_us,
            busy=self.busy,
            outcomes=dict(self.outcomes),
            committed=self.committed.summary(),
            refused=self.refused.summary(),
            unanswered=len(self.sent_at),
        )

    async def _send(self, index: int, socket: Socket) -> None:
        mine = 0
        await trio.sleep(_TICK_S * index / len(self._sockets))
        while (now := time.perf_counter()) < self._end:
            late = max(0, int((now - _LATE_S - self._began) * self._share) - mine)
            self.held_back += late
            mine += late
            frames = []
            for turn in range(mine, int((now - self._began) * self._share)):
                number, data = self._make.build()
                self.sent_at[number] = self._began + turn / self._share
                frames.append(data)
            mine += len(frames)
            self.sent += len(frames)
            if frames:
                await socket.send(b"".join(frames))
            await trio.sleep(_TICK_S)

    async def _receive(self, socket: Socket) -> None:
        while messages := await socket.receive():
            now = time.perf_counter()
            for message in messages:
                self._take(_decode(message), now)
            if self._is_over and not self.sent_at:
                self._all_answered.set()

    def _take(self, answer: _Answer, now: float) -> None:
        since = self.sent_at.pop(answer.id, None) if answer.id is not None else None
        if since is None:
            self.outcomes[f"told {answer.op}"] += 1
        elif answer.data is not None and answer.data.status == "committed":
            self.outcomes["committed"] += 1
            self.committed.add(now - since)
            self.in_time += self._counts_from <= now < self._end
        else:
            status = answer.data.status if answer.data is not None else ""
            self.outcomes[answer.error.code if answer.error is not None else status] += 1
            self.refused.add(now - since)
