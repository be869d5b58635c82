"""Loads: a closed loop, whose callers wait for their answers, and an open one, whose moments wait for nobody.

Both begin with a warm-up that counts for nothing, and end when all that they sent is answered. What is measured around
the part that counts is begun and ended by ``Around``, at the moments that only a loop knows.
"""

import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, Protocol

import trio

from transfer_engine.benchmarks.orders import Orders
from transfer_engine.benchmarks.plan import Arrivals, Closed, Length, Open
from transfer_engine.benchmarks.recording import LATE_S, Recording
from transfer_engine.benchmarks.sending import FAULT, REFUSED, Sender

_REFUSED_PAUSE_S: Final = 0.005
"""A caller of a closed loop that was refused waits a little: else nothing but refusals would be measured."""
_TICK_S: Final = 0.000_5
"""An open loop wakes no more often than this: half of what counts as late, and a wake costs some 50 µs of CPU."""

clock = time.perf_counter


class Around(Protocol):
    """What is measured around the part of a load that counts."""

    async def begin(self) -> None:
        """The warm-up is over; what is sent after this returns counts."""
        ...

    async def end(self) -> None:
        """Nothing more is sent."""
        ...


async def run_loop(
    sender: Sender,
    orders: Orders,
    recording: Recording,
    *,
    loop: Closed | Open,
    batch: int,
    length: Length,
    around: Around,
) -> None:
    """Run a load from its warm-up to its last answer. Cancellation leaves what was sent with whoever has it.

    Args:
        sender: takes the orders.
        orders: what is sent.
        recording: keeps what becomes of it.
        loop: closed, or open at a rate.
        batch: transfers in one call.
        length: of the warm-up, and of what counts.
        around: begun and ended with what counts.

    Raises:
        OSError, RuntimeError: the target can't be reached.
    """
    if isinstance(loop, Closed):
        load: _Load = _ClosedLoad(sender, orders, recording, batch, length, around, loop)
    else:
        load = _OpenLoad(sender, orders, recording, batch, length, around, loop)
    await load.run()


class _Load:
    """What both loops have in common: when it counts, and when it is over."""

    def __init__(
        self, sender: Sender, orders: Orders, recording: Recording, batch: int, length: Length, around: Around
    ) -> None:
        self.sender = sender
        self.orders = orders
        self.recording = recording
        self.batch = batch
        self.length = length
        self.around = around
        self.left = length.transfers
        """Transfers that are still to be sent, where a number was given and they count already."""
        self.is_over = False
        self.all_sent = trio.Event()
        self.fault: Exception | None = None

    async def run(self) -> None:
        """Run it; an exception of a caller is raised as it is."""
        if not self.length.warm_up_s:
            await self._begin()
        async with trio.open_nursery() as nursery:

            async def guarded(work: Callable[[], Awaitable[None]]) -> None:
                try:
                    await work()
                except Exception as fault:  # noqa: BLE001  not for the nursery to wrap
                    self.fault = self.fault or fault
                    nursery.cancel_scope.cancel()

            self.start(nursery, guarded)
            nursery.start_soon(guarded, self._keep_time)
        if self.fault is not None:
            raise self.fault
        if self.recording.ended is None:  # a number of transfers: what counts ends with the last answer
            self.recording.end(max(self.recording.last_answer, self.recording.began or 0.0))

    def start(self, nursery: trio.Nursery, guarded: "_Guarded") -> None:
        """Start what sends."""
        raise NotImplementedError

    async def last_longer(self) -> None:
        """Wait where the time is over, and nothing could be measured yet."""
        await trio.lowlevel.checkpoint()

    def stop(self) -> None:
        """Send no more."""
        self.is_over = True
        self.all_sent.set()

    def take(self) -> int:
        """Return how many transfers the next call of what counts (or of the warm-up) has; 0 ends the load."""
        if self.left is None or self.recording.began is None:
            return self.batch
        count = min(self.batch, self.left)
        self.left -= count
        if not self.left:
            self.stop()
        return count

    async def _begin(self) -> None:
        await self.around.begin()
        self.recording.begin(clock())

    async def _keep_time(self) -> None:
        if self.length.warm_up_s:
            await trio.sleep(self.length.warm_up_s)
            await self._begin()
        if self.left is None:
            with trio.move_on_after(self.length.seconds):
                await self.all_sent.wait()
            await self.last_longer()
            self.recording.end(clock())
            self.stop()
        else:
            await self.all_sent.wait()
        await self.around.end()


_Guarded = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]


class _ClosedLoad(_Load):
    """So many callers, each of which sends its next call when the last one is answered."""

    def __init__(
        self,
        sender: Sender,
        orders: Orders,
        recording: Recording,
        batch: int,
        length: Length,
        around: Around,
        loop: Closed,
    ) -> None:
        super().__init__(sender, orders, recording, batch, length, around)
        self._callers = callers_of(sender, loop.in_flight, batch)

    def start(self, nursery: trio.Nursery, guarded: _Guarded) -> None:
        """Start the callers."""
        for index in range(self._callers):
            nursery.start_soon(guarded, lambda index=index: self._call(index))

    async def last_longer(self) -> None:
        """Wait for the first answer: whoever answers thousands at a time is not measured in between."""
        while not self.recording.answered and not self.all_sent.is_set():  # noqa: ASYNC110  an answer rings no bell
            await trio.sleep(_TICK_S)

    async def _call(self, index: int) -> None:
        take, orders, record = self.take, self.orders.take, self.recording.record
        async with self.sender.caller(index) as caller:
            while not self.is_over and (count := take()):
                sent = clock()
                outcomes = await caller.send(orders(count))
                record(outcomes, sent, clock())
                if outcomes[0].startswith((REFUSED, FAULT)):
                    await trio.sleep(_REFUSED_PAUSE_S)


class _OpenLoad(_Load):
    """Calls come due at their moments; whoever is idle takes the next one, and its latency counts from its moment."""

    def __init__(
        self,
        sender: Sender,
        orders: Orders,
        recording: Recording,
        batch: int,
        length: Length,
        around: Around,
        loop: Open,
    ) -> None:
        super().__init__(sender, orders, recording, batch, length, around)
        self._loop = loop
        self._callers_most = callers_of(sender, loop.in_flight_most, batch)
        self._calls_most = max(loop.in_flight_most // batch, 1)
        self._moments = moments(loop.rate / batch, loop.arrivals)
        self._due: deque[tuple[float, int]] = deque()
        self._idle = trio.lowlevel.ParkingLot()
        self._callers = 0
        self._under_way = 0

    def start(self, nursery: trio.Nursery, guarded: _Guarded) -> None:
        """Start what makes calls due; callers are started as they are needed."""

        def add_caller() -> None:
            index = self._callers
            self._callers += 1
            nursery.start_soon(guarded, lambda: self._call(index))

        if self.sender.callers_most is not None:  # connections: made before the first moment
            for _ in range(self._callers_most):
                add_caller()
        nursery.start_soon(guarded, lambda: self._come_due(add_caller))

    def stop(self) -> None:
        """Send what is due already, and no more."""
        super().stop()
        self._idle.unpark_all()

    async def last_longer(self) -> None:
        """Send no more, and wait for the first answer, if there was none yet."""
        self.stop()
        while not self.recording.answered and (self._due or self._under_way):  # noqa: ASYNC110  an answer rings no bell
            await trio.sleep(_TICK_S)

    async def _come_due(self, add_caller: Callable[[], None]) -> None:
        recording, due = self.recording, self._due
        start = clock()
        for since_start in self._moments:
            moment = start + since_start
            wait_s = moment - clock()
            if wait_s > 0:
                await trio.sleep(max(wait_s, _TICK_S))
            if self.is_over:
                return
            count = self.take() if recording.counts(moment) else self.batch
            if len(due) + self._under_way >= self._calls_most:
                if recording.counts(moment):
                    recording.dropped += count
                continue
            due.append((moment, count))
            if self._idle:
                self._idle.unpark()
            elif self._callers < self._callers_most:
                add_caller()

    async def _call(self, index: int) -> None:
        orders, recording, due = self.orders.take, self.recording, self._due
        async with self.sender.caller(index) as caller:
            while True:
                while not due:
                    if self.is_over:
                        return
                    await self._idle.park()
                moment, count = due.popleft()
                self._under_way += 1
                if clock() - moment > LATE_S and recording.counts(moment):
                    recording.late += count
                recording.record(await caller.send(orders(count)), moment, clock())
                self._under_way -= 1


def callers_of(sender: Sender, in_flight: int, batch: int) -> int:
    """Return how many callers have so many transfers under way, as far as the sender has room for them."""
    callers = max(-(-in_flight // batch), 1)
    return callers if sender.callers_most is None else min(callers, sender.callers_most)


def moments(rate: float, arrivals: Arrivals, seed: int = 1) -> Iterator[float]:
    """Yield the moments of calls, in seconds from the start: independent of each other (Poisson), or evenly spaced."""
    chance = random.Random(seed)
    moment = 0.0
    while True:
        moment += chance.expovariate(rate) if arrivals == "poisson" else 1 / rate
        yield moment
