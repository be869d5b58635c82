"""Whatever faults, crashes, restarts and cancelled callers there are: each caller gets its own answer, once.

Flushes start in order, as many at a time as may be, and the ones that died before anything else.
"""

from collections import Counter

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from transfer_engine.actors import FlushCrashed, FlushMiscounted, GroupCommit, GroupCommitFull

BATCH_WEIGHT_MOST = 7
WAITING_WEIGHT_MOST = 30
CRASHES_MOST = 2


class Unavailable(Exception):
    pass


weights = st.integers(1, BATCH_WEIGHT_MOST)
submits = st.tuples(st.just("submit"), weights, st.sampled_from([None, None, None, 0, 15]), st.booleans())
"""How heavy, after how many ms the caller leaves, whether the bound is ignored."""
tells = st.tuples(st.just("tell"), weights)
pauses = st.tuples(st.just("pause"), st.sampled_from([0, 1, 10, 100]))
looks = st.tuples(st.just("look"))
restarts = st.tuples(st.just("restart"))
flushes = st.tuples(
    st.sampled_from(
        ["ok"] * 4 + ["fault", "crash", "crash", "applied, then crash", "miscount", "stubborn", "crash when cancelled"]
    ),
    st.sampled_from([10, 10, 0, 1, 5, 25]),
)
"""How it ends, after how many ms."""


class World:
    """Callers, a flush that ends as it is told, and a model of what is in flight and what is to be repeated."""

    def __init__(self, ends, poisonous, flushes_most, batch_weight_least):
        self.ends = iter(ends)
        self.poisonous = poisonous
        self.flushes_most = flushes_most
        self.taken = {}  # number -> weight
        self.leavers = set()
        self.answers = {}
        self.applied = set()
        self.run_scope = trio.CancelScope()
        self.never_flushed = 0
        self.in_flight = []  # tuples of numbers, in the order in which their flushes started
        self.again = []
        self.crashes = Counter()
        self.stopping = False
        self.passed = set()
        self.group_commit = GroupCommit(
            "property",
            self.flush,
            weigh=lambda entry: entry[1],
            batch_weight_most=BATCH_WEIGHT_MOST,
            batch_weight_least=batch_weight_least,
            waiting_weight_most=WAITING_WEIGHT_MOST,
            expected_faults=(Unavailable,),
            crashes_most=CRASHES_MOST,
            flushes_most=flushes_most,
        )

    async def flush(self, entries):
        batch = tuple(number for number, _ in entries)
        assert 1 <= sum(weight for _, weight in entries) <= BATCH_WEIGHT_MOST
        assert not self.stopping, "started after a crash"
        if self.again:
            assert batch == self.again.pop(0)
        else:
            assert batch == tuple(range(self.never_flushed, self.never_flushed + len(batch)))
            self.never_flushed += len(batch)
        self.in_flight.append(batch)
        assert len(self.in_flight) <= self.flushes_most
        end, duration_ms = next(self.ends, ("ok", 10))
        try:
            with trio.CancelScope(shield=end == "stubborn"):
                await trio.sleep(duration_ms / 1000)
        except trio.Cancelled:
            if end != "crash when cancelled":
                raise
            self.crash(batch)
        if end == "fault":
            self.answer(batch)
            raise Unavailable
        if end == "crash" or self.poisonous.intersection(batch):
            self.crash(batch)
        self.applied.update(batch)
        if end == "applied, then crash":
            self.crash(batch)
        if end == "miscount":
            self.count_crash(batch)
            return ["too", "many", *batch]
        self.answer(batch)
        return [("result", number) for number in batch]

    def answer(self, batch):
        assert not self.passed.intersection(batch), "flushed again, though it was answered"
        self.in_flight.remove(batch)
        self.passed.update(batch)

    def crash(self, batch):
        self.count_crash(batch)
        raise ArithmeticError

    def count_crash(self, batch):
        if self.stopping:
            return
        self.crashes[batch] += 1
        if len(batch) == 1 and self.crashes[batch] == CRASHES_MOST:
            self.answer(batch)
        else:
            self.stopping = True

    def ended(self):
        """What the next run has to begin with."""
        again = []
        for batch in self.in_flight:
            again += [batch] if self.crashes[batch] < CRASHES_MOST else [(number,) for number in batch]
        self.again = again + self.again
        self.in_flight = []
        self.stopping = False

    async def call(self, number, weight, leaves_ms, admitted, task_status):
        task_status.started()  # it goes on to take its entry before anybody else runs
        with trio.move_on_after(float("inf") if leaves_ms is None else leaves_ms / 1000) as scope:
            try:
                answer = await self.group_commit.submit((number, weight), admitted=admitted)
            except (Unavailable, FlushCrashed) as error:
                answer = error
            assert number not in self.answers
            self.answers[number] = answer
        if scope.cancelled_caught:
            self.leavers.add(number)

    async def play(self, operations):
        async with trio.open_nursery() as nursery, trio.open_nursery() as callers:
            nursery.start_soon(self.supervise)
            for operation, *arguments in operations:
                if operation == "pause":
                    await trio.sleep(arguments[0] / 1000)
                elif operation == "look":
                    await wait_all_tasks_blocked()
                    self.look()
                elif operation == "restart":
                    self.run_scope.cancel()
                    await trio.lowlevel.checkpoint()
                else:
                    await self.enter(operation, callers, *arguments)
            with trio.fail_after(3_600):
                await self.group_commit.wait_drained()
            await wait_all_tasks_blocked()
            self.look()
            assert not callers.child_tasks, "somebody is still waiting"
            nursery.cancel_scope.cancel()

    def look(self):
        statistics = self.group_commit.statistics()
        held = self.in_flight + self.again
        assert statistics.entries_in_flight == sum(map(len, held))
        assert statistics.flushes_in_flight == len(self.in_flight)
        assert statistics.entries_waiting == len(self.taken) - len(self.passed)
        assert statistics.weight_waiting == sum(w for number, w in self.taken.items() if number not in self.passed)
        assert all(self.group_commit.has_passed(number + 1) == (number in self.passed) for number in self.taken)
        if statistics.running and statistics.entries_waiting:
            assert self.in_flight, "nothing is under way, and something waits"
            assert not self.again or len(self.in_flight) == self.flushes_most, "a flush waits to be repeated"

    async def enter(self, operation, callers, weight, leaves_ms=None, admitted=False):
        number = len(self.taken)
        before = self.group_commit.statistics().weight_waiting
        self.taken[number] = weight
        try:
            if operation == "tell":
                assert self.group_commit.submit_nowait((number, weight)) == number + 1
                self.leavers.add(number)
            else:
                if before + weight > WAITING_WEIGHT_MOST and not admitted:
                    await self.group_commit.submit((number, weight))
                await callers.start(self.call, number, weight, leaves_ms, admitted)
        except GroupCommitFull:
            assert before + weight > WAITING_WEIGHT_MOST
            del self.taken[number]

    async def supervise(self):
        while True:
            with self.run_scope:
                try:
                    await self.group_commit.run()
                except (ArithmeticError, FlushMiscounted):
                    self.ended()
                    await trio.sleep(0.005)
            self.ended()
            self.run_scope = trio.CancelScope()


@settings(max_examples=300, deadline=None)
@given(
    operations=st.lists(st.one_of(submits, submits, submits, tells, pauses, looks, restarts), max_size=50),
    ends=st.lists(flushes, max_size=30),
    poisonous=st.sets(st.integers(0, 20), max_size=3),
    flushes_most=st.integers(1, 4),
    batch_weight_least=st.sampled_from([None, 1, 3]),
)
def test_every_caller_gets_its_own_answer_and_flushes_start_in_order(
    operations, ends, poisonous, flushes_most, batch_weight_least
):
    async def main():
        world = World(ends, poisonous, flushes_most, batch_weight_least)
        await world.play(operations)
        assert world.never_flushed == len(world.taken)
        for number in world.taken:
            if number in world.leavers:
                assert number not in world.answers
                continue
            answer = world.answers[number]
            if isinstance(answer, Exception):
                continue
            assert answer == ("result", number)
            assert number in world.applied
            assert number not in poisonous
        statistics = world.group_commit.statistics()
        answered = statistics.entries_flushed + statistics.entries_faulted + statistics.entries_crashed
        assert answered == len(world.taken)
        assert statistics.crashes == world.crashes.total()
        assert (statistics.entries_waiting, statistics.weight_waiting, statistics.entries_in_flight) == (0, 0, 0)

    trio.run(main, clock=MockClock(autojump_threshold=0))
