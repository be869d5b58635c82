"""More than the engine can do: what is still committed, and how quickly the rest is refused.

First the peak: a closed loop. Then transfers come at multiples of it, whatever the answers do (an open loop), so the
server has to refuse some of them, and to let others wait in the sockets.

How it is measured:

* Every transfer has a time at which it is to be sent, and its latency counts from then on, whenever it was written.
* What may wait between the two processes is bounded (:data:`SEND_BUFFER_BYTES` of a websocket here, the server's own
  bound there; one request of an HTTP connection). A connection whose last write is not through when more is due is
  full, as its client can see: what came due meanwhile is not queued up for later, where it would only tell how long
  the load lasted, but counted as dropped.
* Goodput is what was committed, and so told here, behind the first second of the load and before its end: what is
  carried out of the backlog afterwards counts for nothing, nor does the time in which it builds up.
* The load is a process of its own. Its CPU is told: near a second each second it is what is measured.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

import msgspec
import trio

from transfer_engine.benchmarks.door_subject import DoorSubject
from transfer_engine.benchmarks.frames import Socket, frame, open_socket
from transfer_engine.benchmarks.measures import Meter, Usage, rss_mib
from transfer_engine.benchmarks.orders import Orders
from transfer_engine.benchmarks.outcomes import Told, outcome_of
from transfer_engine.benchmarks.plan import Closed, Length, Open, Plan, Target, Traffic
from transfer_engine.benchmarks.progress import Progress
from transfer_engine.benchmarks.recording import histogram_of, percentiles_of
from transfer_engine.benchmarks.result import Cpu, Percentiles, Result, Sweep
from transfer_engine.benchmarks.running import NOT_LOOKED_AT, Bench, open_bench
from transfer_engine.benchmarks.sending import COMMITTED, FAULT
from transfer_engine.benchmarks.sources import Sources
from transfer_engine.benchmarks.websocket_sender import call_of

SEND_BUFFER_BYTES: Final = 16 << 10
SETTLING_S: Final = 1.0
"""Of each load, before what is committed counts."""
UNANSWERED: Final = f"{FAULT}unanswered"
"""Some seconds after the end of the load."""
_TICK_S: Final = 0.005
_LAST_ANSWERS_S: Final = 10.0
_LATE_S: Final = 4 * _TICK_S
"""What is due for longer than this, and not written, is held back."""


class _Answer(msgspec.Struct, frozen=True, gc=False):
    id: int | None = None
    data: Told | None = None
    error: Told | None = None


Used = Callable[[], Usage]

_decode: Final = msgspec.msgpack.Decoder(_Answer).decode
_encode: Final = msgspec.msgpack.Encoder().encode


class Overload(msgspec.Struct, frozen=True):
    """The peak, and what multiples of it come to."""

    peak: Result
    sweep: Sweep


async def measure_overload(
    target: Target,
    traffic: Traffic,
    factors: Sequence[float],
    *,
    seconds: float,
    in_flight: int,
    sources: Sources,
    progress: Progress,
) -> Overload:
    """Measure the peak, then offer each multiple of it; look at the books once, at the end.

    Args:
        target: HTTP or a websocket, of a server of its own.
        traffic: of all loads.
        factors: how many times the peak is offered.
        seconds: of each load, behind its first second.
        in_flight: at the peak.
        sources: where the books are.
        progress: who is told.

    Raises:
        what :func:`transfer_engine.benchmarks.running.open_bench` and ``Bench.measure`` raise.
    """
    length = Length(seconds=seconds, warm_up_s=SETTLING_S)
    async with open_bench(target, traffic, sources, progress) as bench:
        plan = Plan(target=target, traffic=traffic, loop=Closed(in_flight=in_flight), length=length, name="the peak")
        results = [peak := await bench.measure(plan)]
        progress.result(peak)
        for factor in factors:
            loop = Open(rate=max(peak.achieved, 1.0) * factor, arrivals="even", in_flight_most=in_flight)
            plan = msgspec.structs.replace(plan, loop=loop, name=f"{factor:g} times the peak")
            if target.kind == "websocket":
                progress.load(plan)
                results.append(await _offer(bench, plan))
            else:
                results.append(await bench.measure(plan))
            progress.result(results[-1])
        books = await bench.books()
    peak, *others = (msgspec.structs.replace(result, books=books) for result in results)
    return Overload(peak=peak, sweep=Sweep(over="overload", values=tuple(factors), results=tuple(others)))


async def _offer(bench: Bench, plan: Plan) -> Result:
    """Offer a load over websockets of its own, which hold little back."""
    subject = bench.subject
    if not isinstance(subject, DoorSubject) or not isinstance(plan.loop, Open):
        raise TypeError("overload is offered to a door, by an open loop")
    token = subject.server.token if subject.server is not None else None
    headers = f"Authorization: Bearer {token}\r\n" if token is not None else ""
    orders = Orders(plan.traffic, f"{time.time_ns():x}-")
    async with AsyncExitStack() as stack:
        sockets = []
        for _ in range(plan.target.connections):
            sockets.append(
                socket := await open_socket(
                    subject.address.port, headers, host=subject.address.host, send_buffer_bytes=SEND_BUFFER_BYTES
                )
            )
            stack.push_async_callback(socket.aclose)
        offer = _Offer(sockets, orders, subject.expectations.offset, plan.loop.rate, plan.length.seconds)
        meter = Meter(subject.servers, subject.pid)
        await offer.run(lambda: meter.read(subject.pid))
    # By name nobody could tell which of the last ones were carried out: their sum is looked at, and the whole books.
    subject.expectations.nameless += offer.sent
    return offer.result(plan, rss_mib(subject.pid) if subject.pid else 0.0)


class _Offer:
    """Sends transfers at a rate, over all connections alike, each tick's share in one write; counts the answers."""

    def __init__(self, sockets: list[Socket], orders: Orders, offset: int, rate: float, seconds: float) -> None:
        self._sockets = sockets
        self._orders = orders
        self._offset = offset
        self._seconds = seconds
        self._share = rate / len(sockets)
        self._began = time.perf_counter()
        self._counts_from = self._began + SETTLING_S
        self._end = self._counts_from + seconds
        self._all_answered = trio.Event()
        self._is_over = False
        self._sent_at: dict[int, float] = {}
        self._next = 0
        self._dropped = 0
        self._in_time = 0
        """Committed while it counted."""
        self._committed_us: Counter[int] = Counter()
        self._others_us: Counter[int] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._committed_meanwhile = 0
        self._usage: Usage | None = None

    @property
    def sent(self) -> int:
        """How many transfers were sent."""
        return self._next

    async def run(self, used: Used) -> None:
        """Send all of it, and wait some seconds for the last answers; ``used`` is read at the end of the load."""
        async with trio.open_nursery() as receivers:
            for socket in self._sockets:
                receivers.start_soon(self._receive, socket)
            async with trio.open_nursery() as senders:
                for index, socket in enumerate(self._sockets):
                    senders.start_soon(self._send, index, socket)
            self._usage, self._committed_meanwhile = used(), self._outcomes[COMMITTED]
            self._is_over = True
            with trio.move_on_after(_LAST_ANSWERS_S):
                if self._sent_at:
                    await self._all_answered.wait()
            receivers.cancel_scope.cancel()

    def result(self, plan: Plan, rss: float) -> Result:
        """Return what became of it."""
        whole_s = self._seconds + SETTLING_S
        outcomes = self._outcomes + Counter({UNANSWERED: len(self._sent_at)})
        histogram = histogram_of(self._committed_us)
        return Result(
            plan=plan,
            name=plan.name,
            offered=(self.sent + self._dropped) / whole_s,
            achieved=self._in_time / self._seconds,
            seconds=whole_s,
            outcomes=dict(outcomes.most_common()),
            latencies=percentiles_of(histogram, max(self._committed_us, default=0) / 1e3),
            histogram=bytes(histogram.encode()).decode(),
            late=0,
            dropped=self._dropped,
            series=(),
            flushes=(),
            writes_a_transfer=None,
            cpu=self._cpu(),
            rss_mib=rss,
            loop_lag_ms=None,
            books=NOT_LOOKED_AT,
            refusals=self._refusals(),
        )

    def _cpu(self) -> Cpu:
        """Return what was used while the load lasted, for each transfer that was committed meanwhile."""
        usage, each = self._usage, 1e6 / max(self._committed_meanwhile, 1)
        if usage is None:
            return Cpu(total_us=0.0, threads_us={}, servers_us=0.0, load_us=0.0, machine_us=0.0)
        return Cpu(
            total_us=usage.engine_s * each,
            threads_us={name: cpu_s * each for name, cpu_s in usage.engine_threads_s.items() if cpu_s},
            servers_us=usage.servers_s * each,
            load_us=usage.cpu_s * each,
            machine_us=usage.machine_s * each,
        )

    def _refusals(self) -> Percentiles | None:
        if not self._others_us:
            return None
        return percentiles_of(histogram_of(self._others_us), max(self._others_us) / 1e3)

    async def _send(self, index: int, socket: Socket) -> None:
        mine = 0
        await trio.sleep(_TICK_S * index / len(self._sockets))
        while (now := time.perf_counter()) < self._end:
            late = max(0, int((now - _LATE_S - self._began) * self._share) - mine)
            self._dropped += late
            mine += late
            count = int((now - self._began) * self._share) - mine
            frames = []
            for turn in range(mine, mine + count):
                self._next += 1
                self._sent_at[self._next] = self._began + turn / self._share
                (order,) = self._orders.take(1)
                if self._offset:
                    order = msgspec.structs.replace(order, user_id=order.user_id + self._offset)
                frames.append(frame(_encode(call_of(self._next, order))))
            mine += count
            if frames:
                await socket.send(b"".join(frames))
            await trio.sleep(_TICK_S)

    async def _receive(self, socket: Socket) -> None:
        while messages := await socket.receive():
            now = time.perf_counter()
            for message in messages:
                self._take(_decode(message), now)
            if self._is_over and not self._sent_at:
                self._all_answered.set()

    def _take(self, answer: _Answer, now: float) -> None:
        since = self._sent_at.pop(answer.id, None) if answer.id is not None else None
        if since is None:
            return  # a notice
        outcome = outcome_of(answer.data or answer.error or Told())
        self._outcomes[outcome] += 1
        if outcome == COMMITTED:
            self._committed_us[int((now - since) * 1e6)] += 1
            self._in_time += self._counts_from <= now < self._end
        else:
            self._others_us[int((now - since) * 1e6)] += 1
