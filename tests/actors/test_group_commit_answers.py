"""Answers that are told to a callback instead of a task."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from transfer_engine.actors import FlushCrashed, GroupCommit, GroupCommitFull


def make_commit(flush, **changes):
    settings = {"batch_weight_most": 10, "waiting_weight_most": 100, **changes}
    return GroupCommit("answers", flush, **settings)


async def test_each_is_called_once_with_his_own_result_in_order(nursery, autojump_clock):
    async def flush(entries):
        await trio.sleep(1)
        return [entry * 10 for entry in entries]

    commit = make_commit(flush, batch_weight_most=2)
    told = []
    await nursery.start(commit.run)
    for entry in range(5):
        commit.submit_nowait(entry, on_answer=lambda result, error: told.append((trio.current_time(), result, error)))
    await commit.wait_drained()
    assert told == [(1, 0, None), (1, 10, None), (2, 20, None), (2, 30, None), (3, 40, None)]


async def test_who_is_told_may_submit_again_and_comes_in_the_next_flush(nursery, autojump_clock):
    flushed = []

    async def flush(entries):
        flushed.append(entries)
        await trio.sleep(1)
        return entries

    def again(result, error):
        if result < 3:
            commit.submit_nowait(result + 2, on_answer=again)

    commit = make_commit(flush)
    await nursery.start(commit.run)
    commit.submit_nowait(1, on_answer=again)
    commit.submit_nowait(2, on_answer=again)
    await commit.wait_drained()
    assert flushed == [[1, 2], [3, 4]]


async def test_an_expected_fault_is_told_to_each_as_a_copy_of_its_own(nursery, autojump_clock):
    async def flush(entries):
        await trio.lowlevel.checkpoint()
        raise OSError("no disk")

    commit = make_commit(flush, expected_faults=(OSError,))
    told = []
    await nursery.start(commit.run)
    for entry in range(2):
        commit.submit_nowait(entry, on_answer=lambda result, error: told.append((result, error)))
    await commit.wait_drained()
    assert [(result, repr(error)) for result, error in told] == [(None, "OSError('no disk')")] * 2
    assert told[0][1] is not told[1][1]


async def test_an_entry_that_crashes_its_flushes_is_told_so(autojump_clock):
    async def flush(entries):
        await trio.lowlevel.checkpoint()
        raise ArithmeticError

    commit = make_commit(flush, crashes_most=1)
    told = []
    commit.submit_nowait("entry", on_answer=lambda result, error: told.append((result, type(error))))
    with trio.move_on_after(1):
        await commit.run()
    assert told == [(None, FlushCrashed)]


async def test_a_callback_that_raises_robs_nobody_else_of_his_answer(nursery, autojump_clock, caplog):
    async def flush(entries):
        await trio.lowlevel.checkpoint()
        return entries

    def fail(result, error):
        raise ArithmeticError

    commit = make_commit(flush)
    told = []
    await nursery.start(commit.run)
    commit.submit_nowait(1, on_answer=fail)
    commit.submit_nowait(2, on_answer=lambda result, error: told.append(result))
    await wait_all_tasks_blocked()
    assert told == [2]
    assert await commit.submit(3) == 3
    assert "an answer could not be told: 1" in caplog.text


async def test_a_loop_that_dies_amid_a_flush_tells_after_the_next_one(autojump_clock):
    async def flush(entries):
        await trio.sleep(2)
        return entries

    commit = make_commit(flush)
    told = []
    commit.submit_nowait(1, on_answer=lambda result, error: told.append(result))
    with trio.move_on_after(1):
        await commit.run()
    assert told == []
    with trio.move_on_after(3):
        await commit.run()
    assert told == [1]


async def test_what_was_not_taken_is_not_told():
    async def flush(entries):
        await trio.lowlevel.checkpoint()
        return entries

    commit = make_commit(flush, waiting_weight_most=10)
    told = []
    for _ in range(10):
        commit.submit_nowait(1)
    with pytest.raises(GroupCommitFull):
        commit.submit_nowait(1, on_answer=lambda result, error: told.append(result))
    with trio.move_on_after(0.1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit.run)
            await commit.wait_drained()
            nursery.cancel_scope.cancel()
    assert told == []
