"""Loads over a target whose answers take a known time, on trio's own clock."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio
import trio.testing

from transfer_engine.benchmarks import loops
from transfer_engine.benchmarks.loops import moments, run_loop
from transfer_engine.benchmarks.orders import Orders
from transfer_engine.benchmarks.plan import Closed, Length, Open, Traffic
from transfer_engine.benchmarks.recording import Recording
from transfer_engine.benchmarks.sending import COMMITTED, Order


class Target:
    """Answers after a while; remembers what it was asked, and when."""

    def __init__(self, answer_s: Callable[[float], float], callers_most: int | None = None) -> None:
        self.callers_most = callers_most
        self.asked: list[tuple[float, int]] = []
        self.under_way = self.most_under_way = 0
        self.indexes: set[int] = set()
        self.outcome = COMMITTED
        self._answer_s = answer_s

    @asynccontextmanager
    async def caller(self, index: int) -> AsyncIterator["Target"]:
        assert index not in self.indexes
        self.indexes.add(index)
        yield self

    async def send(self, orders: Sequence[Order]) -> Sequence[str]:
        now = trio.current_time()
        self.asked.append((now, len(orders)))
        self.under_way += len(orders)
        self.most_under_way = max(self.most_under_way, self.under_way)
        await trio.sleep(self._answer_s(now))
        self.under_way -= len(orders)
        return (self.outcome,) * len(orders)


class Around:
    def __init__(self) -> None:
        self.at: list[float] = []

    async def begin(self) -> None:
        self.at.append(trio.current_time())

    async def end(self) -> None:
        self.at.append(trio.current_time())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    """The loops' clock is trio's, which jumps."""
    monkeypatch.setattr(loops, "clock", trio.current_time)
    return autojump_clock


async def load(
    target: Target, loop: Closed | Open, *, batch: int = 1, length: Length | None = None
) -> tuple[Recording, Around]:
    recording, around = Recording(), Around()
    await run_loop(
        target,
        Orders(Traffic()),
        recording,
        loop=loop,
        batch=batch,
        length=length or Length(seconds=2, warm_up_s=1),
        around=around,
    )
    return recording, around


async def test_a_closed_loop_has_so_many_under_way(clock: trio.testing.MockClock) -> None:
    target = Target(lambda _: 0.1)
    recording, around = await load(target, Closed(in_flight=10))
    assert target.most_under_way == 10
    assert around.at[1] - around.at[0] == pytest.approx(2)
    assert recording.achieved == pytest.approx(200, abs=10)
    assert recording.percentiles().max_ms == pytest.approx(100, rel=0.01)


async def test_its_warm_up_counts_for_nothing(clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    recording, _ = await load(Target(lambda now: 0.5 if now < start + 0.5 else 0.01), Closed(in_flight=10))
    assert recording.percentiles().max_ms == pytest.approx(10, rel=0.01)


async def test_it_lasts_until_something_is_answered(clock: trio.testing.MockClock) -> None:
    recording, _ = await load(Target(lambda _: 1.5), Closed(in_flight=10), length=Length(seconds=0.5, warm_up_s=0))
    assert recording.achieved == 10
    assert recording.ended is not None
    assert recording.began is not None
    assert recording.ended - recording.began == pytest.approx(1.5, abs=0.01)


async def test_it_sends_so_many_in_batches_and_no_more(clock: trio.testing.MockClock) -> None:
    target = Target(lambda _: 0.1)
    length = Length(transfers=50, warm_up_s=0)
    recording, _ = await load(target, Closed(in_flight=16), batch=8, length=length)
    assert recording.outcomes.total() == sum(count for _, count in target.asked) == 50
    assert target.indexes == {0, 1}


async def test_it_has_no_more_callers_than_the_target_has_room_for(clock: trio.testing.MockClock) -> None:
    target = Target(lambda _: 0.1, callers_most=3)
    await load(target, Closed(in_flight=100))
    assert target.indexes == {0, 1, 2}
    assert target.most_under_way == 3


async def test_refusals_do_not_spin(clock: trio.testing.MockClock) -> None:
    target = Target(lambda _: 0)
    target.outcome = "refused: overloaded"
    recording, _ = await load(target, Closed(in_flight=1), length=Length(seconds=1, warm_up_s=0))
    assert 0 < len(target.asked) <= 201
    assert recording.achieved == 0


@pytest.mark.parametrize("arrivals", ["even", "poisson"])
async def test_an_open_loop_sends_at_its_rate(arrivals: str, clock: trio.testing.MockClock) -> None:
    target = Target(lambda _: 0.1)
    recording, _ = await load(target, Open(rate=100, arrivals="even" if arrivals == "even" else "poisson"))
    assert recording.sent == pytest.approx(200, abs=1 if arrivals == "even" else 60)
    assert (recording.late, recording.dropped) == (0, 0)
    assert recording.percentiles().max_ms == pytest.approx(100, rel=0.02)


async def test_its_latencies_count_from_the_intended_moment(clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    # Nobody is answered for a second of the load: with one connection, all behind it wait as well.
    target = Target(lambda now: start + 2 - now if start + 1 <= now < start + 2 else 0.001, callers_most=1)
    recording, _ = await load(target, Open(rate=100, arrivals="even"))
    found = recording.percentiles()
    assert found.max_ms == pytest.approx(1_000, rel=0.05)
    assert found.p50_ms > 10  # the wait of those behind it was not left out
    assert recording.late >= 95
    assert recording.sent == pytest.approx(200, abs=1)


async def test_what_finds_no_room_is_dropped_and_counted(clock: trio.testing.MockClock) -> None:
    target = Target(lambda _: 10)
    recording, _ = await load(target, Open(rate=100, arrivals="even", in_flight_most=50))
    assert target.most_under_way == 50
    assert recording.dropped == pytest.approx(200, abs=1)


async def test_batches_come_due_together(clock: trio.testing.MockClock) -> None:
    target = Target(lambda _: 0.1)
    recording, _ = await load(target, Open(rate=1_000, arrivals="even"), batch=100)
    assert {count for _, count in target.asked} == {100}
    assert recording.sent == pytest.approx(2_000, abs=100)


async def test_an_open_loop_sends_so_many(clock: trio.testing.MockClock) -> None:
    recording, _ = await load(Target(lambda _: 0.1), Open(rate=100), length=Length(transfers=30, warm_up_s=0.5))
    assert recording.sent == recording.outcomes.total() == 30


async def test_what_was_due_in_the_warm_up_is_none_of_them(clock: trio.testing.MockClock) -> None:
    length = Length(transfers=30, warm_up_s=0.500_25)  # between two wakes of the loop, each for several calls
    recording, _ = await load(Target(lambda _: 0.1), Open(rate=10_000, arrivals="even"), length=length)
    assert recording.sent == recording.outcomes.total() == 30


async def test_a_target_that_is_not_there(clock: trio.testing.MockClock) -> None:
    class Nowhere(Target):
        @asynccontextmanager
        async def caller(self, index: int) -> AsyncIterator[Target]:
            raise OSError(f"nobody is there for {index}")
            yield self

    for loop in (Closed(), Open(rate=10)):
        with pytest.raises(OSError, match="nobody"):
            await load(Nowhere(lambda _: 0), loop)


def test_moments_are_the_same_in_every_run_and_as_many_as_asked() -> None:
    first, second = moments(100, "poisson"), moments(100, "poisson")
    times = [next(first) for _ in range(10_000)]
    assert times == [next(second) for _ in range(10_000)]
    assert times[-1] == pytest.approx(100, rel=0.05)
    gaps = [later - sooner for sooner, later in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert variance == pytest.approx(mean**2, rel=0.1)  # as an exponential distribution has it
