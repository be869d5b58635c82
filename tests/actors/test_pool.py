"""Order, bounds, idle actors, closing and draining. Faults are in test_pool_faults."""

import contextvars
import gc
import weakref
from contextlib import asynccontextmanager

import pytest
import trio
import trio.lowlevel
from trio.testing import Sequencer, wait_all_tasks_blocked

from transfer_engine.actors import ActorPool, MailboxFull, PoolClosed


async def no_poison(key, message, error):
    raise AssertionError(f"{message} of {key} is no poison: {error!r}")


def make_pool(handle, **changes):
    settings = {"mailbox_capacity": 100, "batch_most": 10, "idle_ms": 1_000, "poison": no_poison, **changes}
    return ActorPool("users", handle, **settings)


@asynccontextmanager
async def running(pool):
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        yield
        nursery.cancel_scope.cancel()


async def test_messages_of_a_key_are_handled_in_order_and_in_batches(autojump_clock):
    batches = []

    async def handle(key, messages):
        await trio.sleep(1)
        batches.append((key, messages))

    pool = make_pool(handle, batch_most=3)
    async with running(pool):
        for message in range(8):
            pool.tell_nowait("alice", message)
        await pool.wait_drained()
    assert batches == [("alice", [0, 1, 2]), ("alice", [3, 4, 5]), ("alice", [6, 7])]


async def test_messages_that_come_while_the_handler_runs_are_the_next_batch(autojump_clock):
    batches = []

    async def handle(key, messages):
        await trio.sleep(1)
        batches.append(messages)

    pool = make_pool(handle)
    async with running(pool):
        pool.tell_nowait("alice", 1)
        await trio.sleep(0.5)
        pool.tell_nowait("alice", 2)
        pool.tell_nowait("alice", 3)
        await pool.wait_drained()
    assert batches == [[1], [2, 3]]


async def test_keys_do_not_wait_for_each_other(autojump_clock):
    finished = {}

    async def handle(key, messages):
        await trio.sleep(1)
        finished[key] = trio.current_time()

    pool = make_pool(handle)
    async with running(pool):
        for key in range(50):
            pool.tell_nowait(key, "message")
        await pool.wait_drained()
    assert finished == dict.fromkeys(range(50), 1.0)


async def test_one_key_never_has_two_handlers(autojump_clock):
    inside = set()

    async def handle(key, messages):
        assert key not in inside
        inside.add(key)
        await trio.sleep(len(messages))
        inside.remove(key)

    pool = make_pool(handle, batch_most=1)
    async with running(pool):
        for message in range(40):
            pool.tell_nowait(message % 4, message)
            await trio.sleep(0.7)
        await pool.wait_drained()
        assert pool.statistics().messages_handled == 40


async def test_a_handler_may_tell_its_own_actor_without_starving_the_others(autojump_clock):
    seen = []
    stopped = trio.Event()

    async def handle(key, messages):  # no checkpoint in here
        seen.extend(messages)
        if not stopped.is_set():
            pool.tell_nowait(key, messages[-1] + 1)

    pool = make_pool(handle)
    async with running(pool):
        pool.tell_nowait("alice", 0)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        stopped.set()
        await pool.wait_drained()
    assert seen == list(range(len(seen)))


async def test_a_full_mailbox_refuses_but_not_what_was_admitted_before(autojump_clock):
    handled = []

    async def handle(key, messages):
        await trio.sleep(1)
        handled.extend(messages)

    pool = make_pool(handle, mailbox_capacity=2, batch_most=1)
    async with running(pool):
        pool.tell_nowait("alice", 1)
        pool.tell_nowait("alice", 2)
        with pytest.raises(MailboxFull):
            pool.tell_nowait("alice", 3)
        pool.tell_nowait("bob", 4)
        pool.tell_nowait("alice", 5, admitted=True)
        assert pool.statistics().messages_refused == 1
        assert pool.statistics().messages_waiting == 4
        await pool.wait_drained()
        pool.tell_nowait("alice", 6)
        await pool.wait_drained()
    assert sorted(handled) == [1, 2, 4, 5, 6]


async def test_the_messages_of_all_actors_together_are_bounded(autojump_clock):
    async def handle(key, messages):
        await trio.sleep(1)

    pool = make_pool(handle, messages_most=3)
    async with running(pool):
        for key in range(3):
            pool.tell_nowait(key, "message")
        for key in (0, 3):
            with pytest.raises(MailboxFull, match="3 messages wait"):
                pool.tell_nowait(key, "message")
        pool.tell_nowait(3, "message", admitted=True)
        with pytest.raises(MailboxFull):
            pool.tell_nowait(4, "message")
        await pool.wait_drained()
        pool.tell_nowait(4, "message")
        await pool.wait_drained()
        assert pool.statistics().messages_handled == 5


async def test_messages_wait_for_the_pool_to_run(autojump_clock):
    handled = []

    async def handle(key, messages):
        handled.append((key, messages))

    pool = make_pool(handle)
    pool.tell_nowait("alice", 1)
    pool.tell_nowait("bob", 2)
    pool.tell_nowait("alice", 3)
    await wait_all_tasks_blocked()
    assert handled == []
    async with running(pool):
        await pool.wait_drained()
    assert sorted(handled) == [("alice", [1, 3]), ("bob", [2])]


async def test_many_actors_are_respawned_in_slices_that_let_others_run(autojump_clock):
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await trio.lowlevel.checkpoint()
            ticks += 1

    async def handle(key, messages):
        await trio.sleep(1)

    pool = make_pool(handle)
    for key in range(5_000):
        pool.tell_nowait(key, "message")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        await nursery.start(pool.run)
        assert ticks >= 4
        nursery.cancel_scope.cancel()


async def test_a_pool_runs_once_at_a_time(autojump_clock):
    async def handle(key, messages):
        pass

    pool = make_pool(handle)
    async with running(pool):
        with pytest.raises(RuntimeError, match="running already"):
            await pool.run()
    async with running(pool):
        assert pool.statistics().running


async def test_a_task_is_lent_to_the_next_actor_and_dismissed_when_nobody_needs_it(autojump_clock):
    tasks = []

    async def handle(key, messages):
        tasks.append(trio.lowlevel.current_task())
        await trio.lowlevel.checkpoint()

    pool = make_pool(handle, idle_ms=1_000)
    async with running(pool):
        pool.tell_nowait("alice", 1)
        await pool.wait_drained()
        pool.tell_nowait("bob", 2)
        await pool.wait_drained()
        assert tasks[0] is tasks[1]
        await wait_all_tasks_blocked()
        assert pool.statistics().tasks_spare == 1
        await trio.sleep(2.1)
        assert pool.statistics().tasks_spare == 0
        pool.tell_nowait("alice", 3)
        await pool.wait_drained()
        assert tasks[2] is not tasks[0]


async def test_tasks_that_are_needed_every_now_and_then_are_kept(autojump_clock):
    tasks = set()

    async def handle(key, messages):
        tasks.add(trio.lowlevel.current_task())
        await trio.sleep(0.1)

    pool = make_pool(handle, idle_ms=1_000)
    async with running(pool):
        for key in range(10):
            pool.tell_nowait(key, "a burst")
        for _ in range(30):
            await trio.sleep(0.5)
            for key in range(3):
                pool.tell_nowait(key, "steady")
        await trio.sleep(0.2)
        # Seven of the ten were surplus; the three that the steady load needs were not respawned.
        assert pool.statistics().tasks_spare == 3
        assert len(tasks) == 10


async def test_a_hundred_thousand_actors_touched_once_leave_nothing_behind(autojump_clock):
    class Key:
        pass

    keys = weakref.WeakSet()

    async def handle(key, messages):
        await trio.lowlevel.checkpoint()

    pool = make_pool(handle, idle_ms=1_000)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        [pool_task] = nursery.child_tasks
        for _ in range(20):
            for _ in range(5_000):
                key = Key()
                keys.add(key)
                pool.tell_nowait(key, object())
            await pool.wait_drained()
        assert pool.statistics().messages_handled == 100_000
        del key
        await trio.sleep(2.1)
        statistics = pool.statistics()
        assert (statistics.actors, statistics.tasks_spare, statistics.messages_waiting) == (0, 0, 0)
        [pool_nursery] = pool_task.child_nurseries
        assert not pool_nursery.child_tasks
        gc.collect()
        assert len(keys) == 0
        nursery.cancel_scope.cancel()


async def test_a_spare_task_keeps_no_hold_on_the_actor_it_served(autojump_clock):
    class Key:
        pass

    async def handle(key, messages):
        pass

    pool = make_pool(handle, idle_ms=1_000_000)
    async with running(pool):
        key = Key()
        message = Key()
        references = weakref.ref(key), weakref.ref(message)
        pool.tell_nowait(key, message)
        del key, message
        await pool.wait_drained()
        await wait_all_tasks_blocked()
        assert pool.statistics().tasks_spare == 1
        gc.collect()
        assert [reference() for reference in references] == [None, None]


async def test_a_closed_pool_takes_nothing_more_and_drains(autojump_clock):
    handled = []

    async def handle(key, messages):
        await trio.sleep(1)
        handled.extend(messages)

    pool = make_pool(handle, batch_most=1)
    async with running(pool):
        pool.tell_nowait("alice", 1)
        pool.tell_nowait("alice", 2)
        pool.close()
        pool.close()
        with pytest.raises(PoolClosed, match="users"):
            pool.tell_nowait("alice", 3)
        with pytest.raises(PoolClosed):
            pool.tell_nowait("bob", 4, admitted=True)
        await pool.wait_drained()
        assert trio.current_time() == 2
    assert handled == [1, 2]
    assert pool.statistics().closed
    assert pool.statistics().messages_refused == 2


async def test_drained_means_that_no_handler_runs(autojump_clock):
    sequencer = Sequencer()

    async def handle(key, messages):
        async with sequencer(0):
            pass
        async with sequencer(2):
            pass

    pool = make_pool(handle)

    async def drain():
        await pool.wait_drained()
        async with sequencer(3):
            assert pool.statistics().messages_handled == 1

    async with running(pool):
        await pool.wait_drained()
        pool.tell_nowait("alice", 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            nursery.start_soon(drain_and_be_cancelled, pool)
            async with sequencer(1):
                await trio.sleep(10)


async def test_a_message_that_comes_as_the_waiter_wakes_is_waited_for(autojump_clock):
    async def handle(key, messages):
        await trio.sleep(1)

    pool = make_pool(handle)

    class TellAsTheWaiterWakes(trio.abc.Instrument):
        def task_scheduled(self, task):
            if task is waiter and pool.statistics().messages_handled == 1:
                pool.tell_nowait("alice", 2)

    async with running(pool):
        pool.tell_nowait("alice", 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.wait_drained)
            [waiter] = nursery.child_tasks
            await wait_all_tasks_blocked()
            trio.lowlevel.add_instrument(TellAsTheWaiterWakes())
        assert trio.current_time() == 2


async def drain_and_be_cancelled(pool):
    with trio.move_on_after(5) as scope:
        await pool.wait_drained()
    assert scope.cancelled_caught


async def test_the_context_of_a_caller_does_not_leak_into_the_tasks(autojump_clock):
    request = contextvars.ContextVar("request", default="none")
    seen = []

    async def handle(key, messages):
        seen.append(request.get())

    pool = make_pool(handle)
    async with running(pool):
        request.set("of the first caller")
        pool.tell_nowait("alice", 1)
        await pool.wait_drained()
    assert seen == ["none"]


async def test_it_says_what_it_does(autojump_clock):
    async def handle(key, messages):
        await trio.sleep(1)

    pool = make_pool(handle)
    assert repr(pool) == ("<ActorPool 'users' not running: 0 actors, 0 messages waiting, 0 tasks spare, 0 crashes>")
    async with running(pool):
        pool.tell_nowait("alice", 1)
        assert "'users' running: 1 actors, 1 messages waiting" in repr(pool)
        pool.close()
        assert "running, closed" in repr(pool)
        statistics = pool.statistics()
        with pytest.raises(AttributeError):
            statistics.actors = 5


@pytest.mark.parametrize("field", ["mailbox_capacity", "batch_most", "idle_ms", "crashes_most", "messages_most"])
def test_a_senseless_bound_is_refused_by_name(field):
    with pytest.raises(ValueError, match=field):
        make_pool(None, **{field: 0})
