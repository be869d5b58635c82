"""The pool against a model of one sentence: what was taken is answered or set aside, once, in its key's order."""

from collections import defaultdict

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from transfer_engine.actors import ActorPool, Backoff, MailboxFull, PoolEscalation

CRASHES_MOST = 2
CAPACITY = 4

tells = st.tuples(
    st.just("tell"),
    st.integers(0, 3),  # the key
    st.sampled_from([0, 0, 0, 0, 1, 2, 9]),  # how often the message crashes its handler
    st.booleans(),  # admitted
)
pauses = st.tuples(st.just("pause"), st.sampled_from([0, 1, 10, 300]))
restarts = st.tuples(st.just("restart"), st.integers(0, 5))


class World:
    """A pool, the model beside it, and a handler that crashes as each message says."""

    def __init__(self, batch_most, handle_ms, pool_crashes_most, begins):
        self.batch_most = batch_most
        self.handle_ms = handle_ms
        self.waiting = defaultdict(list)  # the model: what each mailbox holds
        self.done = defaultdict(list)  # the messages that left, in order
        self.taken = defaultdict(list)
        self.crashes = defaultdict(int)
        self.inside = set()
        self.begins = begins  # what becomes of what is begun, in turn; nothing is begun where there is nothing
        self.begun = 0
        self.nursery = None
        self.run_scope = trio.CancelScope()
        self.pool = ActorPool(
            "property",
            self.handle,
            mailbox_capacity=CAPACITY,
            batch_most=batch_most,
            idle_ms=50,
            poison=self.poison,
            begin=self.begin if begins else None,
            crashes_most=CRASHES_MOST,
            backoff=Backoff(first_ms=10, most_ms=40),
            pool_crashes_most=pool_crashes_most,
            pool_crashes_window_ms=100,
        )

    def tell(self, key, crashes, admitted):
        message = (len(self.taken[key]), crashes)
        full = len(self.waiting[key]) >= CAPACITY
        try:
            self.pool.tell_nowait(key, message, admitted=admitted)
        except MailboxFull:
            assert full
            assert not admitted
        else:
            assert admitted or not full
            self.taken[key].append(message)
            self.waiting[key].append(message)

    def begin(self, key, messages, turn):
        self.begun += 1
        ending = self.begins[self.begun % len(self.begins)]
        if ending == "refused":
            return False
        self.enter(key, messages)
        self.nursery.start_soon(self.go_on, key, messages, turn, ending)
        return True

    async def go_on(self, key, messages, turn, ending):
        # Not the pool's: it lives on while that is cancelled.
        await trio.sleep(self.handle_ms / 1000)
        self.inside.remove(key)
        if ending == "handed over":
            turn.hand_over()
            return
        try:
            self.carry_out(key, messages)
        except ArithmeticError as error:
            turn.crashed(error)
        else:
            turn.done()

    def enter(self, key, messages):
        assert key not in self.inside
        assert 1 <= len(messages) <= self.batch_most
        assert messages == self.waiting[key][: len(messages)]
        self.inside.add(key)

    async def handle(self, key, messages):
        self.enter(key, messages)
        try:
            await trio.sleep(self.handle_ms / 1000)
            self.carry_out(key, messages)
        finally:
            self.inside.remove(key)

    def carry_out(self, key, messages):
        for message in messages:
            if self.crashes[key, message] < message[1]:
                # A batch does not say which of its messages crashed it; alone, each crash counts.
                if len(messages) == 1:
                    self.crashes[key, message] += 1
                raise ArithmeticError(message)
        self.leave(key, messages)

    async def poison(self, key, message, error):
        assert message == self.waiting[key][0]
        assert message[1] >= CRASHES_MOST
        assert self.crashes[key, message] == CRASHES_MOST
        assert isinstance(error, ArithmeticError)
        await trio.lowlevel.checkpoint()
        self.leave(key, [message])

    def leave(self, key, messages):
        del self.waiting[key][: len(messages)]
        self.done[key] += messages

    async def play(self, operations):
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            nursery.start_soon(self.supervise)
            for operation, *arguments in operations:
                if operation == "tell":
                    self.tell(*arguments)
                elif operation == "pause":
                    await trio.sleep(arguments[0] / 1000)
                else:
                    for _ in range(arguments[0]):
                        await trio.lowlevel.checkpoint()
                    self.run_scope.cancel()
                    await trio.lowlevel.checkpoint()
            with trio.fail_after(3_600):
                await self.pool.wait_drained()
            nursery.cancel_scope.cancel()

    async def supervise(self):
        while True:
            with self.run_scope:
                try:
                    await self.pool.run()
                except PoolEscalation:
                    await trio.sleep(0.1)
            self.run_scope = trio.CancelScope()


@settings(max_examples=150, deadline=None)
@given(
    operations=st.lists(st.one_of(tells, tells, tells, pauses, restarts), max_size=60),
    batch_most=st.integers(1, 5),
    handle_ms=st.sampled_from([0, 1, 20]),
    pool_crashes_most=st.sampled_from([2, 1_000]),
    begins=st.lists(st.sampled_from(["refused", "handed over", "carried out", "carried out"]), max_size=4),
)
def test_what_is_taken_leaves_once_and_in_order(operations, batch_most, handle_ms, pool_crashes_most, begins):
    async def main():
        world = World(batch_most, handle_ms, pool_crashes_most, begins)
        await world.play(operations)
        for key, taken in world.taken.items():
            assert world.done[key] == taken
        statistics = world.pool.statistics()
        assert statistics.messages_handled + statistics.messages_poisoned == sum(map(len, world.taken.values()))
        assert (statistics.actors, statistics.messages_waiting) == (0, 0)

    trio.run(main, clock=MockClock(autojump_threshold=0))
