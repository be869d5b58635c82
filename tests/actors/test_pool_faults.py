"""Crashes, poison, escalation, restarts and cancellation at every step: nothing is lost, nothing blocks for good."""

import random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from transfer_engine.actors import ActorPool, Backoff, PoolEscalation


class Crash(Exception):
    pass


class Recorder:
    """A handler that crashes when told so, and remembers what it was given and what it answered."""

    def __init__(self, crashes_of=()):
        self.crashes_left = dict(crashes_of)
        self.given = []
        self.answered = []
        self.poison = []
        self.poison_crashes_left = 0
        self.inside = set()

    async def handle(self, key, messages):
        assert messages
        assert key not in self.inside, f"two handlers for {key}"
        self.inside.add(key)
        try:
            self.given.append(list(messages))
            for message in messages:
                await trio.lowlevel.checkpoint()
                if self.crashes_left.get(message, 0) > 0:
                    self.crashes_left[message] -= 1
                    raise Crash(message)
            await trio.lowlevel.checkpoint()
            self.answered += [(key, message) for message in messages]
        finally:
            self.inside.remove(key)

    async def set_aside(self, key, message, error):
        await trio.lowlevel.checkpoint()
        if self.poison_crashes_left > 0:
            self.poison_crashes_left -= 1
            raise Crash("poison callback")
        self.poison.append((key, message, str(error)))

    def pool(self, **changes):
        settings = {
            "mailbox_capacity": 100,
            "batch_most": 10,
            "idle_ms": 1_000,
            "poison": self.set_aside,
            "crashes_most": 3,
            "backoff": Backoff(first_ms=100, most_ms=1_000, random=random.Random(1).random),
            **changes,
        }
        return ActorPool("users", self.handle, **settings)


async def drained(pool):
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        await pool.wait_drained()
        nursery.cancel_scope.cancel()


async def test_a_crashed_batch_is_handled_message_by_message_and_loses_none(autojump_clock):
    recorder = Recorder({"b": 1})
    pool = recorder.pool()
    for message in "abc":
        pool.tell_nowait("alice", message)
    await drained(pool)
    assert recorder.given == [["a", "b", "c"], ["a"], ["b"], ["c"]]
    assert recorder.answered == [("alice", "a"), ("alice", "b"), ("alice", "c")]
    assert recorder.poison == []
    assert pool.statistics().crashes == 1
    assert pool.statistics().last_error == "Crash('b')"


async def test_batches_are_back_once_the_crashed_one_is_past(autojump_clock):
    recorder = Recorder({0: 1})
    pool = recorder.pool(batch_most=2)
    for message in range(6):
        pool.tell_nowait("alice", message)
    await drained(pool)
    assert recorder.given == [[0, 1], [0], [1], [2, 3], [4, 5]]


async def test_a_poison_message_is_set_aside_and_those_behind_it_go_on(autojump_clock):
    recorder = Recorder({"b": 99})
    pool = recorder.pool()
    for message in "abc":
        pool.tell_nowait("alice", message)
    await drained(pool)
    # Once in the batch, which proves nothing against it, and three times alone.
    assert recorder.given == [["a", "b", "c"], ["a"], ["b"], ["b"], ["b"], ["c"]]
    assert recorder.answered == [("alice", "a"), ("alice", "c")]
    assert recorder.poison == [("alice", "b", "b")]
    statistics = pool.statistics()
    assert (statistics.messages_handled, statistics.messages_poisoned, statistics.crashes) == (2, 1, 4)
    assert statistics.messages_waiting == 0


async def test_a_message_that_is_alone_from_the_start_is_tried_as_often_as_it_may(autojump_clock):
    recorder = Recorder({"a": 3})
    pool = recorder.pool(crashes_most=3)
    pool.tell_nowait("alice", "a")
    await drained(pool)
    assert recorder.given == [["a"]] * 3
    assert recorder.poison == [("alice", "a", "a")]


async def test_one_crash_less_than_poison_is_no_poison(autojump_clock):
    recorder = Recorder({"a": 2})
    pool = recorder.pool(crashes_most=3)
    pool.tell_nowait("alice", "a")
    await drained(pool)
    assert recorder.answered == [("alice", "a")]
    assert recorder.poison == []


async def test_every_message_has_crashes_of_its_own(autojump_clock):
    recorder = Recorder({0: 2, 1: 2, 2: 2})
    pool = recorder.pool(crashes_most=3, batch_most=1)
    for message in range(3):
        pool.tell_nowait("alice", message)
    await drained(pool)
    assert recorder.poison == []
    assert [message for _, message in recorder.answered] == [0, 1, 2]


async def test_a_poison_callback_that_crashes_is_tried_again(autojump_clock):
    recorder = Recorder({"a": 99})
    recorder.poison_crashes_left = 2
    pool = recorder.pool(crashes_most=3)
    pool.tell_nowait("alice", "a")
    pool.tell_nowait("alice", "b")
    await drained(pool)
    assert recorder.poison == [("alice", "a", "a")]
    assert recorder.answered == [("alice", "b")]


async def test_a_poison_callback_that_always_crashes_blocks_nobody_for_good(autojump_clock, caplog):
    recorder = Recorder({"a": 99})
    recorder.poison_crashes_left = 99
    pool = recorder.pool(crashes_most=3)
    pool.tell_nowait("alice", "a")
    pool.tell_nowait("alice", "b")
    await drained(pool)
    assert recorder.poison == []
    assert recorder.poison_crashes_left == 96
    assert recorder.answered == [("alice", "b")]
    assert "its message is dropped: 'a'" in caplog.text
    assert pool.statistics().messages_poisoned == 1


async def test_the_backoff_grows_with_the_crashes_in_a_row_and_delays_no_other_key(autojump_clock):
    times = []

    async def handle(key, messages):
        times.append((key, trio.current_time()))
        if key == "alice" and len(times) < 5:
            raise Crash

    recorder = Recorder()
    pool = recorder.pool(crashes_most=9, backoff=Backoff(first_ms=100, most_ms=300, random=lambda: 1.0))
    pool._handle = handle
    pool.tell_nowait("alice", 1)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        await trio.sleep(0.15)
        pool.tell_nowait("bob", 1)
        await pool.wait_drained()
        nursery.cancel_scope.cancel()
    assert [key for key, _ in times] == ["alice", "alice", "bob", "alice", "alice"]
    assert [time for _, time in times] == pytest.approx([0, 0.1, 0.15, 0.3, 0.6])


async def test_too_many_crashes_escalate_and_the_next_run_goes_on(autojump_clock):
    recorder = Recorder(dict.fromkeys(range(5), 1))
    pool = recorder.pool(pool_crashes_most=3, pool_crashes_window_ms=1_000)
    for key in range(5):
        pool.tell_nowait(key, key)
    with pytest.raises(PoolEscalation, match="users") as escalation:
        await pool.run()
    assert isinstance(escalation.value.__cause__, Crash)
    assert not pool.statistics().running
    assert pool.statistics().messages_waiting == 5
    await drained(pool)
    assert sorted(recorder.answered) == [(key, key) for key in range(5)]


async def test_crashes_spread_over_time_do_not_escalate(autojump_clock):
    recorder = Recorder(dict.fromkeys(range(20), 1))
    pool = recorder.pool(pool_crashes_most=3, pool_crashes_window_ms=1_000)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        for key in range(20):
            pool.tell_nowait(key, key)
            await trio.sleep(0.5)
        await pool.wait_drained()
        nursery.cancel_scope.cancel()
    assert len(recorder.answered) == 20


async def test_a_base_exception_ends_the_run_and_keeps_the_messages(autojump_clock):
    async def handle(key, messages):
        raise SystemExit

    pool = Recorder().pool()
    pool._handle = handle
    pool.tell_nowait("alice", 1)
    with pytest.raises(BaseExceptionGroup) as group:
        await pool.run()
    assert group.group_contains(SystemExit)
    assert pool.statistics().messages_waiting == 1
    assert pool.statistics().crashes == 0


async def test_messages_told_while_the_pool_dies_wait_for_the_next_run(autojump_clock):
    """Between the cancellation of a run and its end there is no moment at which a message is lost."""
    told = []

    class TellAtEveryStep(trio.abc.Instrument):
        def after_task_step(self, task):
            if dying:
                told.append(len(told))
                pool.tell_nowait(len(told) % 3, told[-1])

    dying = False
    recorder = Recorder()
    pool = recorder.pool()
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        for key in range(5):
            pool.tell_nowait(key, -1)
        await pool.wait_drained()
        await wait_all_tasks_blocked()
        assert pool.statistics().tasks_spare == 5
        instrument = TellAtEveryStep()
        dying = True
        trio.lowlevel.add_instrument(instrument)
        nursery.cancel_scope.cancel()
    dying = False
    trio.lowlevel.remove_instrument(instrument)
    assert len(told) > 5
    await drained(pool)
    assert sorted(message for _, message in recorder.answered if message >= 0) == told


def check(recorder, told, poisonous=()):
    """Every message was answered or set aside once, in its key's order."""
    for key in {key for key, _ in told}:
        assert [m for k, m in recorder.answered if k == key] == [m for k, m in told if k == key and m not in poisonous]
    assert sorted(message for _, message, _ in recorder.poison) == sorted(poisonous)


def test_cancelled_at_every_step_a_pool_loses_no_message(at_every_step, cancelled_after):
    async def program(steps):
        recorder = Recorder({1: 1, 4: 99, 5: 1})
        recorder.poison_crashes_left = 1
        pool = recorder.pool(mailbox_capacity=3, batch_most=2, crashes_most=2, idle_ms=20)
        told = []

        def tell(key, message):
            pool.tell_nowait(key, message, admitted=True)
            told.append((key, message))

        with cancelled_after(steps) as scope:
            for message in range(6):
                tell(message % 2, message)
            async with trio.open_nursery() as nursery:
                await nursery.start(pool.run)
                await trio.sleep(0.05)
                for message in range(6, 12):
                    tell(message % 3, message)
                    await trio.lowlevel.checkpoint()
                await pool.wait_drained()
                await trio.sleep(0.05)  # lets the sweeper dismiss
                nursery.cancel_scope.cancel()
        await drained(pool)
        check(recorder, told, poisonous=[4])
        statistics = pool.statistics()
        assert statistics.messages_handled + statistics.messages_poisoned == len(told)
        assert (statistics.actors, statistics.messages_waiting, statistics.tasks_spare) == (0, 0, 0)
        return scope.cancelled_caught

    at_every_step(program, at_least=80)
