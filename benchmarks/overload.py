"""More than the engine can do, over websockets: what is still committed, and how quickly the rest is refused.

First the peak: a closed loop. Then transfers come at multiples of it, whatever the answers do (an open loop), so the
connections' queues fill up and the server has to refuse.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import trio

from transfer_engine.benchmarks.frames import Socket, open_socket
from transfer_engine.benchmarks.measures import Latencies, LatencySummary
from transfer_engine.benchmarks.server_processes import Books, engine_server
from transfer_engine.benchmarks.websocket_door import Frames, closed_loop

_TICK_S: Final = 0.005
_LAST_ANSWERS_S: Final = 10.0
_IN_FLIGHT_AT_PEAK: Final = 64


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
    """Transfers a second that were sent in fact."""
    goodput: float
    """Committed transfers a second, while the load lasted."""
    outcomes: dict[str, int]
    committed: LatencySummary
    refused: LatencySummary
    unanswered: int


class OverloadResult(msgspec.Struct, frozen=True):
    """The peak, and what more than that does."""

    peak: float
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
        began = time.perf_counter()
        counts = await closed_loop(sockets, make.build, seconds=seconds, in_flight=_IN_FLIGHT_AT_PEAK, is_echo=False)
        peak = counts.committed / (time.perf_counter() - began)
        for socket in sockets:
            await socket.aclose()
        tell(peak, None)
        for factor in factors:
            sockets = [await open_socket(server.port_of(door), server.headers) for _ in range(connections)]
            loads.append(await _offer(sockets, make, factor=factor, rate=peak * factor, seconds=seconds))
            tell(peak, loads[-1])
            for socket in sockets:
                await socket.aclose()
    return OverloadResult(peak=peak, loads=loads, books=books[0])


class _Offer:
    """Sends transfers at a rate, over all connections alike, each tick's share in one write; counts the answers."""

    def __init__(self, sockets: list[Socket], make: Frames, *, rate: float, seconds: float) -> None:
        self._sockets = sockets
        self._make = make
        self._share = rate / len(sockets)
        self._began = time.perf_counter()
        self._end = self._began + seconds
        self._all_answered = trio.Event()
        self._is_over = False
        self.sent_at: dict[int, float] = {}
        self.sent = 0
        self.took_s = seconds
        self.in_time = 0
        """Committed before the load ended."""
        self.committed, self.refused = Latencies(), Latencies()
        self.outcomes: Counter[str] = Counter()

    async def run(self) -> None:
        """Send all of it, and wait some seconds for the last answers."""
        async with trio.open_nursery() as receivers:
            for socket in self._sockets:
                receivers.start_soon(self._receive, socket)
            async with trio.open_nursery() as senders:
                for index, socket in enumerate(self._sockets):
                    senders.start_soon(self._send, index, socket)
            self.took_s = time.perf_counter() - self._began
            self._is_over = True
            with trio.move_on_after(_LAST_ANSWERS_S):
                if self.sent_at:
                    await self._all_answered.wait()
            receivers.cancel_scope.cancel()

    async def _send(self, index: int, socket: Socket) -> None:
        mine = 0
        await trio.sleep(_TICK_S * index / len(self._sockets))
        while (now := time.perf_counter()) < self._end:
            due = int((now - self._began) * self._share) - mine
            frames = []
            for _ in range(due):
                number, data = self._make.build()
                self.sent_at[number] = now
                frames.append(data)
            mine += due
            self.sent += due
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
            self.in_time += now < self._end
        else:
            status = answer.data.status if answer.data is not None else ""
            self.outcomes[answer.error.code if answer.error is not None else status] += 1
            self.refused.add(now - since)


async def _offer(sockets: list[Socket], make: Frames, *, factor: float, rate: float, seconds: float) -> Overloaded:
    offer = _Offer(sockets, make, rate=rate, seconds=seconds)
    await offer.run()
    return Overloaded(
        factor=factor,
        offered=offer.sent / offer.took_s,
        goodput=offer.in_time / seconds,
        outcomes=dict(offer.outcomes),
        committed=offer.committed.summary(),
        refused=offer.refused.summary(),
        unanswered=len(offer.sent_at),
    )
