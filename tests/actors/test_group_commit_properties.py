"""Whatever faults, crashes, restarts and cancelled callers there are: each caller gets its own answer, in order."""

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from transfer_engine.actors import FlushCrashed, GroupCommit, GroupCommitFull

BATCH_WEIGHT_MOST = 7
WAITING_WEIGHT_MOST = 30


class Unavailable(Exception):
    pass


weights = st.integers(1, BATCH_WEIGHT_MOST)
submits = st.tuples(st.just("submit"), weights, st.sampled_from([None, None, None, 0, 15]), st.booleans())
"""How heavy, after how many ms the caller leaves, whether the bound is ignored."""
tells = st.tuples(st.just("tell"), weights)
pauses = st.tuples(st.just("pause"), st.sampled_from([0, 1, 10, 100]))
restarts = st.tuples(st.just("restart"))
flush_ends = st.sampled_from(["ok", "ok", "ok", "fault", "crash", "applied, then crash", "miscount"])


class World:
    def __init__(self, ends, poisonous):
        self.ends = iter(ends)
        self.poisonous = poisonous
        self.taken = {}  # number -> weight
        self.leavers = set()
        self.answers = {}
        self.first_flushed = []
        self.applied = set()
        self.flushing = False
        self.run_scope = trio.CancelScope()
        self.group_commit = GroupCommit(
            "property",
            self.flush,
            weigh=lambda entry: entry[1],
            batch_weight_most=BATCH_WEIGHT_MOST,
            waiting_weight_most=WAITING_WEIGHT_MOST,
            expected_faults=(Unavailable,),
            crashes_most=2,
        )

    async def flush(self, entries):
        assert not self.flushing
        assert 1 <= sum(weight for _, weight in entries) <= BATCH_WEIGHT_MOST
        numbers = [number for number, _ in entries]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        self.first_flushed += [number for number in numbers if number not in self.first_flushed]
        self.flushing = True
        try:
            await trio.sleep(0.01)
            end = next(self.ends, "ok")
            if end == "fault":
                raise Unavailable
            if end == "crash" or self.poisonous.intersection(numbers):
                raise ArithmeticError
            self.applied.update(numbers)
            if end == "applied, then crash":
                raise ArithmeticError
            return [("result", number) for number in numbers[end == "miscount" :]]
        finally:
            self.flushing = False

    async def call(self, number, weight, leaves_ms, admitted, task_status):
        task_status.started()  # it goes on to take its entry before anybody else runs
        with trio.move_on_after(float("inf") if leaves_ms is None else leaves_ms / 1000) as scope:
            try:
                self.answers[number] = await self.group_commit.submit((number, weight), admitted=admitted)
            except (Unavailable, FlushCrashed) as error:
                self.answers[number] = error
        if scope.cancelled_caught:
            self.leavers.add(number)

    async def play(self, operations):
        async with trio.open_nursery() as nursery, trio.open_nursery() as callers:
            nursery.start_soon(self.supervise)
            for operation, *arguments in operations:
                if operation == "pause":
                    await trio.sleep(arguments[0] / 1000)
                elif operation == "restart":
                    self.run_scope.cancel()
                    await trio.lowlevel.checkpoint()
                else:
                    await self.enter(operation, callers, *arguments)
            with trio.fail_after(3_600):
                await self.group_commit.wait_drained()
            await trio.testing.wait_all_tasks_blocked()
            assert not callers.child_tasks, "somebody is still waiting"
            nursery.cancel_scope.cancel()

    async def enter(self, operation, callers, weight, leaves_ms=None, admitted=False):
        number = len(self.taken)
        before = self.group_commit.statistics().weight_waiting
        try:
            if operation == "tell":
                self.group_commit.submit_nowait((number, weight))
                self.leavers.add(number)
            else:
                if before + weight > WAITING_WEIGHT_MOST and not admitted:
                    await self.group_commit.submit((number, weight))
                await callers.start(self.call, number, weight, leaves_ms, admitted)
        except GroupCommitFull:
            assert before + weight > WAITING_WEIGHT_MOST
            return
        self.taken[number] = weight

    async def supervise(self):
        while True:
            with self.run_scope:
                try:
                    await self.group_commit.run()
                except Exception:  # noqa: BLE001
                    await trio.sleep(0.005)
            self.run_scope = trio.CancelScope()


@settings(max_examples=150, deadline=None)
@given(
    operations=st.lists(st.one_of(submits, submits, submits, tells, pauses, restarts), max_size=50),
    ends=st.lists(flush_ends, max_size=30),
    poisonous=st.sets(st.integers(0, 20), max_size=3),
)
def test_every_caller_gets_its_own_answer_in_order(operations, ends, poisonous):
    async def main():
        world = World(ends, poisonous)
        await world.play(operations)
        assert world.first_flushed == list(range(len(world.taken)))
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
        assert (statistics.entries_waiting, statistics.weight_waiting, statistics.entries_in_flight) == (0, 0, 0)

    trio.run(main, clock=MockClock(autojump_threshold=0))
