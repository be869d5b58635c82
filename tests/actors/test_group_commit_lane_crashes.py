"""One of several flushes crashes, or all are cancelled: none is lost, and each is repeated in its place."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from support.flush_server import Callers, Server, Unavailable, cancellable, restarting, tell_all
from transfer_engine.actors import FlushCrashed, FlushMiscounted, GroupCommit


@pytest.fixture
def server():
    return Server()


@pytest.mark.parametrize("crashing", list("abc"))
async def test_a_crash_of_one_cancels_the_others_and_all_are_repeated_in_order(server, nursery, crashing):
    group_commit = server.group_commit()
    callers = Callers(group_commit, nursery)
    crashes = []
    await nursery.start(restarting, group_commit, crashes)
    await callers.submit(*"abcde")
    crash = OSError("disk")
    await server.end(crashing, crash)
    assert crashes == [crash]  # itself: not in a group
    assert sorted(server.cancelled) == sorted(set("abc") - set(crashing))
    assert server.started == [*"abc", *"abc"]
    await server.end("b")
    assert server.started == [*"abc", *"abc", "de"]
    for batch in ("a", "c", "de"):
        await server.end(batch)
    assert callers.got == {entry: f"result of {entry}" for entry in "abcde"}
    assert group_commit.statistics().crashes == 1


async def test_a_cancelled_run_leaves_its_flushes_to_the_next_one(server, nursery):
    group_commit = server.group_commit(batch_weight_most=2)
    tell_all(group_commit, "abcdefgh")
    scope = trio.CancelScope()
    nursery.start_soon(cancellable, scope, group_commit.run)
    await wait_all_tasks_blocked()
    await server.end("cd")
    assert list(server.in_flight) == ["ab", "ef", "gh"]
    scope.cancel()
    await wait_all_tasks_blocked()
    group_commit.submit_nowait("i")
    statistics = group_commit.statistics()
    assert (statistics.entries_in_flight, statistics.flushes_in_flight, statistics.entries_waiting) == (6, 0, 7)
    server.started.clear()
    await nursery.start(group_commit.run)
    await wait_all_tasks_blocked()
    assert server.started == ["ab", "ef", "gh"]
    await server.end("gh")
    assert server.started == ["ab", "ef", "gh"]  # one entry is too little beside four
    await server.end("ab")
    assert server.started == ["ab", "ef", "gh", "i"]


async def test_a_flush_that_ends_well_amid_its_cancellation_is_answered_and_not_repeated(server, nursery):
    with server.stubborn():
        group_commit = server.group_commit()
        callers = Callers(group_commit, nursery)
        crashes = []
        await nursery.start(restarting, group_commit, crashes)
        await callers.submit(*"abcd")
        await server.end("a", OSError("disk"))
        assert not crashes  # the others see to their ends
        await server.end("b")
        assert callers.got == {"b": "result of b"}
        assert server.started == [*"abc"]  # none starts after the crash
        await server.end("c")
        assert len(crashes) == 1
        assert server.started == [*"abc", "a", "d"]


async def test_only_the_first_crash_counts(server, nursery):
    """What crashes while it is being cancelled may have crashed for that reason: its entries are not to blame."""
    with server.stubborn():
        group_commit = server.group_commit(crashes_most=1)
        callers = Callers(group_commit, nursery)
        crashes = []
        await callers.submit(*"abcd")
        await nursery.start(restarting, group_commit, crashes)
        await wait_all_tasks_blocked()
        await callers.submit(*"efgh")
        assert server.started == ["abcd", "ef", "gh"]
        await server.end("ef", first := OSError("disk"))
        await server.end("abcd", OSError("disk"))
        await server.end("gh", ["one result"])
        assert crashes == [first]
        assert group_commit.statistics().crashes == 1
        # Only the one that is to blame is cut up.
        assert server.started[3:] == ["abcd", "e", "f"]


async def test_only_the_poisonous_entry_gets_the_error_and_the_others_keep_their_places(server, nursery):
    server.poisonous = {"d"}
    group_commit = server.group_commit(batch_weight_most=2)
    callers = Callers(group_commit, nursery)
    crashes = []
    await callers.submit(*"abcdefgh")
    await nursery.start(restarting, group_commit, crashes)
    await wait_all_tasks_blocked()
    for _ in range(2):
        assert list(server.in_flight) == ["ab", "cd", "ef"]
        await server.end("cd")
    assert list(server.in_flight) == ["ab", "c", "d"]
    await server.end("d")
    assert len(crashes) == 3
    assert list(server.in_flight) == ["ab", "c", "d"]
    await server.end("d")
    # Its last crash is dealt with at once: it cancels nobody.
    assert len(crashes) == 3
    error = callers.got.pop("d")
    assert isinstance(error, FlushCrashed)
    assert isinstance(error.__cause__, ArithmeticError)
    assert list(server.in_flight) == ["ab", "c", "ef"]
    for batch in ("c", "ab", "ef", "gh"):
        await server.end(batch)
    assert callers.got == {entry: f"result of {entry}" for entry in "abcefgh"}


async def test_a_flush_that_miscounts_has_crashed(server, nursery):
    group_commit = server.group_commit()
    crashes = []
    await nursery.start(restarting, group_commit, crashes)
    await Callers(group_commit, nursery).submit(*"ab")
    await server.end("b", [])
    assert [type(crash) for crash in crashes] == [FlushMiscounted]
    assert server.started == [*"ab", *"ab"]


@pytest.mark.parametrize("flushes_most", [2, 4])
def test_cancelled_at_every_step_it_loses_no_entry(at_every_step, cancelled_after, flushes_most):
    async def program(steps):
        flushed = []
        running = []

        async def flush(entries):
            running.append(entries)
            assert len(running) <= flushes_most
            try:
                await trio.sleep(0.1 if entries[0] % 2 else 0.05)
                if 5 in entries:
                    raise ArithmeticError
                if entries[0] == 2 and 2 not in flushed:
                    flushed.append(2)
                    raise Unavailable
                flushed.extend(entries)
                return entries
            finally:
                running.remove(entries)

        group_commit = GroupCommit(
            "recorder", flush, batch_weight_most=2, waiting_weight_most=99, flushes_most=flushes_most,
            expected_faults=(Unavailable,), crashes_most=2,
        )  # fmt: skip
        answers = {}

        async def call(entry):
            try:
                answers[entry] = await group_commit.submit(entry)
            except (Unavailable, FlushCrashed) as error:
                answers[entry] = type(error)

        async def drain():
            async with trio.open_nursery() as nursery:
                await nursery.start(restarting, group_commit, [])
                await group_commit.wait_drained()
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as callers:
            for entry in range(9):
                callers.start_soon(call, entry)
                await wait_all_tasks_blocked()
            with cancelled_after(steps) as scope:
                await drain()
            await drain()
        expected = dict(enumerate(range(9))) | {2: Unavailable, 3: Unavailable, 5: FlushCrashed}
        assert answers == expected
        statistics = group_commit.statistics()
        assert (statistics.weight_waiting, statistics.entries_in_flight, statistics.flushes_in_flight) == (0, 0, 0)
        return scope.cancelled_caught

    at_every_step(program, at_least=30)
