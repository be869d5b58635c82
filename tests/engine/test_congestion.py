"""How many transfers may wait: by a model of a queue on a clock of its own, then in an engine on slow backends."""

from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from support.engines import FREEZING, World
from transfer_engine.engine.callers import TransferOrder
from transfer_engine.engine.congestion import WAIT_MOST, Congestion
from transfer_engine.engine.engine import Engine
from transfer_engine.engine.outcomes import Overloaded, RefusalCode, TransferOutcome
from transfer_engine.engine.services.simulated import Behaviour
from transfer_engine.schema.transfers import TransferStatus

DEADLINE_S = 2.0
WAIT_S = DEADLINE_S * WAIT_MOST
LEAST = 2_048
STEP_S = DEADLINE_S / 40


class Queue:
    """A queue that is emptied at a rate, and one look a step."""

    def __init__(self, least: int = LEAST) -> None:
        self.now = 1e6
        self.mail = 0
        self.rows = 0
        self.aside = 0
        self.gone = 0
        self.owed = 0.0
        self.congestion = Congestion(
            waiting=lambda: (self.mail, self.rows),
            held_up=lambda: self.aside,
            left=lambda: self.gone,
            clock=lambda: self.now,
            deadline_ms=int(DEADLINE_S * 1_000),
            waiting_least=least,
        )

    def take(self, arrivals: int) -> int:
        """Let in what comes as long as it is not too much; return how many that was."""
        congestion = self.congestion
        taken = min(arrivals, max(0, congestion.waiting_most + 1 - congestion.waiting))
        self.mail += taken
        assert taken == arrivals or congestion.is_too_much
        return taken

    def step(self, arrivals: int, rate: float) -> int:
        """Let a step pass; return how many of its arrivals were refused."""
        refused = arrivals - self.take(arrivals)
        self.owed += rate * STEP_S
        leaving = min(int(self.owed), self.mail - self.aside)
        self.owed = min(self.owed - leaving, rate * STEP_S)
        self.mail -= leaving
        self.gone += leaving
        self.now += STEP_S
        self.congestion.look()
        return refused

    def run(self, seconds: float, *, arrivals: float, rate: float) -> int:
        return sum(self.step(int(arrivals * STEP_S), rate) for _ in range(round(seconds / STEP_S)))


@given(
    steps=st.lists(st.tuples(st.integers(0, 400), st.floats(0, 20_000)), max_size=60),
    rows=st.integers(0, 500),
)
def test_nothing_is_refused_below_the_floor(steps: list[tuple[int, float]], rows: int) -> None:
    queue = Queue()
    queue.rows = rows
    for arrivals, rate in steps:
        waited = queue.mail + queue.rows
        refused = queue.step(arrivals, rate)
        assert not refused or waited + arrivals > LEAST
        assert queue.congestion.waiting_most >= LEAST


@given(rate=st.floats(6_000, 50_000), factor=st.floats(1.5, 6))
def test_who_is_let_in_has_no_more_before_him_than_time_for(rate: float, factor: float) -> None:
    queue = Queue()
    queue.run(5, arrivals=rate * factor, rate=rate)
    bound = rate * WAIT_S
    assert queue.congestion.rate == pytest.approx(rate, rel=0.05)
    assert 0.9 * bound <= queue.mail + rate * STEP_S <= 1.1 * bound + 2 * rate * STEP_S
    refused = queue.run(5, arrivals=rate * factor, rate=rate)
    assert refused == pytest.approx(5 * rate * (factor - 1), rel=0.1), "what can be carried out is let in"


@given(rate=st.floats(3_000, 50_000))
def test_it_is_over_when_the_backlog_is(rate: float) -> None:
    queue = Queue()
    queue.run(3, arrivals=4 * rate, rate=rate)
    queue.run(3, arrivals=0, rate=rate)
    assert queue.mail == 0
    assert queue.run(3, arrivals=0.9 * rate, rate=rate) == 0


@given(rate=st.floats(3_000, 50_000), hang_s=st.floats(0.5, 30))
def test_a_backend_that_hung_is_trusted_again_soon(rate: float, hang_s: float) -> None:
    queue = Queue()
    queue.run(3, arrivals=2 * rate, rate=rate)
    queue.run(hang_s, arrivals=2 * rate, rate=0)
    assert queue.mail <= max(LEAST, rate * WAIT_S * 1.1) + 2 * rate * STEP_S, "nothing more was let in"
    queue.run(4, arrivals=2 * rate, rate=rate)
    assert queue.congestion.rate >= 0.8 * rate


def test_what_is_slower_than_its_latency_says_is_not_refused() -> None:
    """A backend that is far away, and carries out all that comes: the bound rises with what is let in."""
    queue = Queue()
    on_the_way: list[int] = []
    refused_late = 0
    for step in range(200):
        on_the_way.append(queue.take(1_000))
        if len(on_the_way) > 8:  # 0.4 s
            queue.gone += on_the_way[0]
            queue.mail -= on_the_way.pop(0)
        queue.now += STEP_S
        queue.congestion.look()
        refused_late += 1_000 - on_the_way[-1] if step >= 150 else 0
    assert refused_late == 0


def test_what_stands_behind_a_core_does_not_count() -> None:
    queue = Queue()
    queue.mail = queue.aside = 50_000
    queue.run(1, arrivals=0, rate=0)
    assert queue.congestion.waiting == 0
    assert queue.run(3, arrivals=5_000, rate=6_000) == 0


class Flood:
    """Many orders, and what became of each, and when."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.asked = 0
        self.committed: list[float] = []
        self.refused = 0
        self.others: list[Any] = []

    def ask(self, user_id: int, source: str = "funding", target: str = "trading") -> None:
        began = trio.current_time()

        def answered(answer: Any) -> None:
            if isinstance(answer, TransferOutcome) and answer.status is TransferStatus.COMMITTED:
                self.committed.append(trio.current_time() - began)
            elif isinstance(answer, Overloaded) and answer.code is RefusalCode.OVERLOADED:
                self.refused += 1
            else:
                self.others.append(answer)

        self.asked += 1
        self.engine.submit(TransferOrder(source, target, user_id, 1, 1), answered)


USERS = range(1, 101)
RATE = 500
"""Rows a second that the slow store takes."""


def slow_rows(world: World) -> None:
    """Make the record store take its time for each row of a transfer's end."""
    original = world.records.write

    async def write(blobs: Any, rows: Any) -> None:
        await trio.sleep(len(rows) / RATE)
        await original(blobs, rows)

    world.records.write = write  # type: ignore[method-assign]


async def test_what_is_taken_ends_within_its_deadline_at_five_times_the_rate(world: World) -> None:
    await world.fund(*USERS, amount=1_000_000)
    slow_rows(world)
    async with world.engine(waiting_least=64) as engine:
        flood = Flood(engine)
        for tick in range(1_000):
            for number in range(25):
                flood.ask(USERS[(tick * 25 + number) % len(USERS)])
            await trio.sleep(0.01)
        in_time = len(flood.committed)
        await trio.sleep(5)
        assert flood.others == [], "nobody is told pending"
        assert len(flood.committed) + flood.refused == flood.asked
        assert max(flood.committed) < DEADLINE_S
        assert in_time >= 0.8 * 10 * RATE
        refused = flood.refused
        for _ in range(100):
            flood.ask(1)
            await trio.sleep(0.01)
        assert flood.refused == refused, "it is over"
        await world.heal(engine)
    await world.check()


async def test_users_that_wait_for_a_dead_core_have_nobody_else_refused(world: World) -> None:
    blocked = range(1, 21)
    await world.fund(*USERS, amount=10_000)
    world.cores[FREEZING].behave(Behaviour(crash_before=1_000_000))
    async with world.engine(waiting_least=64, mailbox_capacity=200) as engine:
        dead, alive = Flood(engine), Flood(engine)
        for _ in range(150):
            for user_id in blocked:
                dead.ask(user_id, FREEZING, "funding")
            await trio.sleep(0.05)  # between two looks fewer come than may wait anyway
        for _ in range(100):
            for user_id in USERS[50:]:
                alive.ask(user_id)
            await trio.sleep(0.01)
        await trio.sleep(1)
        assert engine.statistics().users.messages_waiting > 2_000
        assert (dead.refused, alive.refused, alive.others) == (0, 0, [])
        assert len(alive.committed) == alive.asked
        world.cores[FREEZING].behave(Behaviour())
        await world.heal(engine, within_s=600)
    await world.check()


def test_what_was_seen_without_a_backlog_weighs_little_once_there_is_one() -> None:
    queue = Queue()
    queue.run(10, arrivals=100, rate=12_000)
    queue.run(0.4, arrivals=20_000, rate=12_000)
    assert queue.congestion.rate >= 0.6 * 12_000
