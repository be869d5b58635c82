"""Messages that are begun without a task, and what becomes of those that take one."""

from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from transfer_engine.actors import ActorPool, Backoff


class Beginner:
    """Begins all messages, keeps their turns, and remembers who was given what."""

    def __init__(self, **changes):
        self.turns = []
        self.begun = []
        self.handled = []
        self.poisoned = []
        self.refuses = False
        self.crashes_handler = 0
        settings = {"mailbox_capacity": 100, "batch_most": 10, "idle_ms": 1_000, "crashes_most": 2, **changes}
        self.pool = ActorPool(
            "users",
            self.handle,
            poison=self.poison,
            begin=self.begin,
            backoff=Backoff(first_ms=1_000, most_ms=1_000, random=lambda: 1.0),
            **settings,
        )

    def begin(self, key, messages, turn):
        if self.refuses:
            return False
        self.begun.append((key, messages))
        self.turns.append(turn)
        return True

    async def handle(self, key, messages):
        await trio.lowlevel.checkpoint()
        self.handled.append((key, messages))
        if self.crashes_handler:
            self.crashes_handler -= 1
            raise ArithmeticError

    async def poison(self, key, message, error):
        await trio.lowlevel.checkpoint()
        self.poisoned.append((key, message, type(error)))

    @asynccontextmanager
    async def running(self):
        async with trio.open_nursery() as nursery:
            await nursery.start(self.pool.run)
            yield
            nursery.cancel_scope.cancel()

    def tell(self, *messages, key="alice"):
        for message in messages:
            self.pool.tell_nowait(key, message)


@pytest.fixture
def users():
    return Beginner(batch_most=3)


async def test_messages_that_come_together_are_begun_together_and_no_task_serves_them(autojump_clock, users):
    async with users.running():
        users.tell(1, 2, 3, 4)
        users.tell(5, key="bob")
        await wait_all_tasks_blocked()
        assert users.begun == [("alice", [1, 2, 3]), ("bob", [5])]
        for turn in users.turns:
            turn.done()
        await wait_all_tasks_blocked()
        assert users.begun[2:] == [("alice", [4])]
        assert users.pool.messages_waiting == 1
        users.turns[2].done()
        await users.pool.wait_drained()
        statistics = users.pool.statistics()
        assert (statistics.messages_handled, statistics.actors, statistics.tasks_spare) == (5, 0, 0)
    assert users.handled == []


async def test_a_key_is_never_begun_twice_at_a_time(autojump_clock, users):
    async with users.running():
        users.tell(1)
        await wait_all_tasks_blocked()
        users.tell(2, 3)
        await wait_all_tasks_blocked()
        assert users.begun == [("alice", [1])]
        users.turns[0].done()
        await wait_all_tasks_blocked()
        assert users.begun == [("alice", [1]), ("alice", [2, 3])]


async def test_what_can_not_be_begun_is_handled_by_a_task(autojump_clock, users):
    users.refuses = True
    async with users.running():
        users.tell(1, 2)
        await users.pool.wait_drained()
        assert users.handled == [("alice", [1, 2])]
        users.refuses = False
        users.tell(3)
        await wait_all_tasks_blocked()
        assert users.begun == [("alice", [3])]


async def test_what_was_begun_may_be_handed_over_and_those_behind_it_are_begun_again(autojump_clock, users):
    async with users.running():
        users.tell(1, 2)
        await wait_all_tasks_blocked()
        users.tell(3, 4)
        users.turns[0].hand_over()
        await wait_all_tasks_blocked()
        assert users.handled == [("alice", [1, 2, 3])]
        assert users.begun == [("alice", [1, 2]), ("alice", [4])]


async def test_a_crash_of_what_was_begun_is_one_of_the_handler(autojump_clock, users):
    async with users.running():
        users.tell(1, 2)
        await wait_all_tasks_blocked()
        users.turns[0].crashed(ArithmeticError())
        users.tell(3)
        await wait_all_tasks_blocked()
        assert users.handled == []
        await trio.sleep(1.5)
        assert users.handled == [("alice", [1]), ("alice", [2])]
        assert users.begun == [("alice", [1, 2]), ("alice", [3])]
        assert users.pool.statistics().crashes == 1


async def test_a_message_that_was_begun_alone_has_had_its_first_crash(autojump_clock, users):
    users.crashes_handler = 1
    async with users.running():
        users.tell(1)
        await wait_all_tasks_blocked()
        users.turns[0].crashed(ArithmeticError())
        await users.pool.wait_drained()
    assert users.handled == [("alice", [1])]
    assert users.poisoned == [("alice", 1, ArithmeticError)]


async def test_a_beginner_that_raises_has_crashed(autojump_clock, users, caplog):
    def fail(key, messages, turn):
        raise ArithmeticError

    users.pool._begin = fail
    async with users.running():
        users.tell(1)
        await users.pool.wait_drained()
    assert users.handled == [("alice", [1])]
    assert users.pool.statistics().crashes == 1


async def test_what_is_begun_outlives_a_run_and_is_served_by_nobody_else(autojump_clock, users):
    async with users.running():
        users.tell(1)
        await wait_all_tasks_blocked()
    users.tell(2)
    async with users.running():
        users.tell(3, key="bob")
        await wait_all_tasks_blocked()
        assert users.begun == [("alice", [1]), ("bob", [3])]
        users.turns[0].done()
        await wait_all_tasks_blocked()
        assert users.begun[2:] == [("alice", [2])]
    assert users.handled == []


@pytest.mark.parametrize("ending", ["done", "hand_over", "crashed"])
async def test_between_two_runs_a_turn_may_end_as_well(autojump_clock, users, ending):
    async with users.running():
        users.tell(1)
        await wait_all_tasks_blocked()
        users.tell(2)
    if ending == "crashed":
        users.turns[0].crashed(ArithmeticError())
    else:
        getattr(users.turns[0], ending)()
    async with users.running():
        await trio.sleep(5)
        for turn in users.turns[1:]:
            turn.done()
        await users.pool.wait_drained()
    assert users.handled == {"done": [], "hand_over": [("alice", [1, 2])], "crashed": [("alice", [1])]}[ending]
    assert users.pool.statistics().messages_handled == 2


async def test_what_waits_for_the_first_run_is_begun_by_it(autojump_clock, users):
    users.tell(1, 2)
    async with users.running():
        await wait_all_tasks_blocked()
        assert users.begun == [("alice", [1, 2])]


async def test_drained_means_that_nothing_is_begun(autojump_clock, users):
    drained = []

    async def wait():
        await users.pool.wait_drained()
        drained.append(True)

    async with users.running(), trio.open_nursery() as nursery:
        users.tell(1)
        users.pool.close()
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert not drained
        users.turns[0].done()
        await wait_all_tasks_blocked()
        assert drained
