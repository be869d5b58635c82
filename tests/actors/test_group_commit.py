"""Batches, bounds, answers, faults, crashes, and cancellation at every step."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from support.flush_server import Callers
from transfer_engine.actors import FlushCrashed, FlushMiscounted, GroupCommit, GroupCommitFull


class Unavailable(Exception):
    """A fault with a constructor of its own, as drivers have them."""

    def __init__(self, *, host):
        super().__init__(f"{host} does not answer")
        self.host = host


class Store:
    """A flush that takes 100 ms, remembers its batches, and fails in the ways it is told."""

    def __init__(self):
        self.batches = []
        self.stored = []
        self.errors = []
        self.poisonous = set()
        self.flushing = False

    async def flush(self, entries):
        assert entries
        assert not self.flushing, "two flushes at a time"
        self.flushing = True
        try:
            self.batches.append(list(entries))
            await trio.sleep(0.1)
            if self.errors:
                error = self.errors.pop(0)
                if error is not None:
                    raise error
            if self.poisonous & set(entries):
                raise ArithmeticError(f"poison in {entries}")
            self.stored += [entry for entry in entries if entry not in self.stored]
            return [f"result of {entry}" for entry in entries]
        finally:
            self.flushing = False

    def group_commit(self, **changes):
        settings = {
            "batch_weight_most": 100,
            "waiting_weight_most": 1_000,
            "expected_faults": (Unavailable,),
            "crashes_most": 3,
            **changes,
        }
        return GroupCommit("recorder", self.flush, **settings)


@pytest.fixture
def store():
    return Store()


async def restarting(group_commit, crashes, task_status=trio.TASK_STATUS_IGNORED):
    """A supervisor without limits."""
    task_status.started()
    while True:
        try:
            await group_commit.run()
        except Exception as crash:  # noqa: BLE001
            crashes.append(crash)
            await trio.sleep(0.01)


async def test_what_waits_while_a_flush_runs_is_the_next_flush(autojump_clock, store):
    group_commit = store.group_commit()
    async with trio.open_nursery() as nursery:
        await nursery.start(group_commit.run)
        callers = Callers(group_commit, nursery)
        await callers.submit("a", "b", "c")
        assert store.batches == [["a"]]
        await group_commit.wait_drained()
        await wait_all_tasks_blocked()
        assert store.batches == [["a"], ["b", "c"]]
        assert callers.got == {entry: f"result of {entry}" for entry in "abc"}
        assert trio.current_time() == pytest.approx(0.2)
        nursery.cancel_scope.cancel()


async def test_callers_that_are_ready_at_once_share_the_first_flush(autojump_clock, store):
    group_commit = store.group_commit()
    async with trio.open_nursery() as nursery:
        await nursery.start(group_commit.run)
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as callers:
            for entry in range(50):
                callers.start_soon(group_commit.submit, entry)
        assert [len(batch) for batch in store.batches] == [50]
        assert group_commit.statistics().entries_most_in_a_flush == 50
        nursery.cancel_scope.cancel()


async def test_a_flush_takes_no_more_than_its_weight_and_never_splits_an_entry(autojump_clock, store):
    group_commit = store.group_commit(weigh=len, batch_weight_most=5)
    async with trio.open_nursery() as nursery:
        callers = Callers(group_commit, nursery)
        await callers.submit("aa", "bb", "cc", "ddddd", "e", "ffff")
        assert group_commit.statistics().weight_waiting == 16
        await nursery.start(group_commit.run)
        await group_commit.wait_drained()
        assert store.batches == [["aa", "bb"], ["cc"], ["ddddd"], ["e", "ffff"]]
        assert group_commit.statistics().weight_waiting == 0
        nursery.cancel_scope.cancel()
    assert callers.got == {entry: f"result of {entry}" for entry in store.stored}


@pytest.mark.parametrize("entry", ["", "abcdef"])
async def test_an_entry_that_can_never_be_flushed_is_refused(store, entry):
    group_commit = store.group_commit(weigh=len, batch_weight_most=5)
    with pytest.raises(ValueError, match=f"weight {len(entry)}"):
        await group_commit.submit(entry)
    with pytest.raises(ValueError, match="takes 1 to 5"):
        group_commit.submit_nowait(entry)
    assert group_commit.statistics().entries_waiting == 0


async def test_more_than_may_wait_is_refused_the_flush_under_way_included(autojump_clock, store):
    group_commit = store.group_commit(batch_weight_most=2, waiting_weight_most=3)
    async with trio.open_nursery() as nursery:
        await nursery.start(group_commit.run)
        for entry in "abc":
            group_commit.submit_nowait(entry)
        await wait_all_tasks_blocked()
        assert group_commit.statistics().entries_in_flight == 2
        with pytest.raises(GroupCommitFull, match="weight 3 of 3"):
            await group_commit.submit("d")
        assert group_commit.statistics().entries_refused == 1
        group_commit.submit_nowait("e", admitted=True)
        await group_commit.wait_drained()
        assert await group_commit.submit("f") == "result of f"
        nursery.cancel_scope.cancel()
    assert store.stored == ["a", "b", "c", "e", "f"]


async def test_a_caller_that_leaves_does_not_take_its_entry_along(autojump_clock, store):
    group_commit = store.group_commit()
    async with trio.open_nursery() as nursery:
        await nursery.start(group_commit.run)
        callers = Callers(group_commit, nursery)
        await callers.submit("a")
        with trio.move_on_after(0.05) as scope:
            await group_commit.submit("b")
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel()
            await group_commit.submit("c")
        await callers.submit("d")
        await group_commit.wait_drained()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert store.stored == ["a", "b", "c", "d"]
    assert callers.got == {"a": "result of a", "d": "result of d"}


async def test_a_result_that_is_on_its_way_is_not_lost_to_a_cancellation(autojump_clock, store):
    """The waiter accepts its result: once it is answered, a cancellation comes too late."""
    group_commit = store.group_commit()
    results = []

    async def call():
        with scope:
            results.append(await group_commit.submit("a"))

    scope = trio.CancelScope()

    class CancelAsItIsAnswered(trio.abc.Instrument):
        def task_scheduled(self, task):
            if task is caller and not group_commit.statistics().entries_waiting:
                scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        [caller] = nursery.child_tasks
        await wait_all_tasks_blocked()
        await nursery.start(group_commit.run)
        instrument = CancelAsItIsAnswered()
        trio.lowlevel.add_instrument(instrument)
        await group_commit.wait_drained()
        await wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(instrument)
        assert scope.cancel_called
        nursery.cancel_scope.cancel()
    assert results == ["result of a"]


async def test_an_expected_fault_is_raised_to_each_caller_as_its_own_and_the_loop_goes_on(autojump_clock, store):
    fault = Unavailable(host="node 1")
    store.errors = [None, fault]
    group_commit = store.group_commit()
    async with trio.open_nursery() as nursery:
        await nursery.start(group_commit.run)
        callers = Callers(group_commit, nursery)
        await callers.submit("a", "b", "c")
        group_commit.submit_nowait("d")
        await group_commit.wait_drained()
        await callers.submit("e")
        await group_commit.wait_drained()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert callers.got["a"] == "result of a"
    assert callers.got["e"] == "result of e"
    b, c = callers.got["b"], callers.got["c"]
    assert b is not c
    for error in (b, c):
        assert error is not fault
        assert isinstance(error, Unavailable)
        assert (str(error), error.host) == ("node 1 does not answer", "node 1")
        assert error.__cause__ is fault
    statistics = group_commit.statistics()
    assert (statistics.entries_faulted, statistics.entries_flushed, statistics.crashes) == (3, 2, 0)
    assert "Unavailable" in statistics.last_error


async def test_a_fault_that_cannot_be_copied_still_answers_everybody(autojump_clock, store):
    class Stubborn(Exception):
        made = False

        def __new__(cls, *arguments):
            if cls.made:
                raise TypeError("one of me is enough")
            cls.made = True
            return super().__new__(cls, *arguments)

    store.errors = [Stubborn("no")]
    group_commit = store.group_commit(expected_faults=(Stubborn,))
    async with trio.open_nursery() as nursery:
        callers = Callers(group_commit, nursery)
        await callers.submit("a", "b")
        await nursery.start(group_commit.run)
        await group_commit.wait_drained()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [type(error) for error in callers.got.values()] == [Stubborn, Stubborn]


async def test_a_crash_leaves_the_batch_waiting_and_the_next_run_flushes_the_same_one(autojump_clock, store):
    store.errors = [None, OSError("disk"), OSError("disk")]
    group_commit = store.group_commit()
    async with trio.open_nursery() as nursery:
        callers = Callers(group_commit, nursery)
        crashes = []
        await nursery.start(restarting, group_commit, crashes)
        await callers.submit("a", "b", "c")
        await trio.sleep(0.15)
        await callers.submit("d")
        await group_commit.wait_drained()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    # "d" came while the second batch was failing: it waits behind it.
    assert store.batches == [["a"], ["b", "c"], ["b", "c"], ["b", "c"], ["d"]]
    assert callers.got == {entry: f"result of {entry}" for entry in "abcd"}
    assert [str(crash) for crash in crashes] == ["disk", "disk"]
    assert group_commit.statistics().crashes == 2


async def test_only_the_poisonous_entry_gets_the_error(autojump_clock, store, caplog):
    store.poisonous = {"c"}
    group_commit = store.group_commit(crashes_most=2)
    async with trio.open_nursery() as nursery:
        callers = Callers(group_commit, nursery)
        await callers.submit("a", "b", "c", "d")
        crashes = []
        await nursery.start(restarting, group_commit, crashes)
        await trio.sleep(0.25)
        await callers.submit("e", "f")
        await group_commit.wait_drained()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    whole = ["a", "b", "c", "d"]
    assert store.batches == [whole, whole, ["a"], ["b"], ["c"], ["c"], ["d"], ["e", "f"]]
    error = callers.got.pop("c")
    assert isinstance(error, FlushCrashed)
    assert isinstance(error.__cause__, ArithmeticError)
    assert callers.got == {entry: f"result of {entry}" for entry in "abdef"}
    # The last crash of the entry alone is dealt with in the loop; the ones before it were the supervisor's.
    assert len(crashes) == 3
    assert group_commit.statistics().entries_crashed == 1
    assert "set aside: 'c'" in caplog.text


@pytest.mark.parametrize("poison", list("abc"))
async def test_the_crashes_of_its_batch_do_not_count_against_an_entry(autojump_clock, store, poison):
    store.poisonous = {poison}
    group_commit = store.group_commit(crashes_most=2)
    for entry in "abc":
        group_commit.submit_nowait(entry)
    async with trio.open_nursery() as nursery:
        await nursery.start(restarting, group_commit, [])
        await group_commit.wait_drained()
        nursery.cancel_scope.cancel()
    assert store.batches.count([poison]) == 2
    assert store.stored == [entry for entry in "abc" if entry != poison]


async def test_a_single_entry_that_crashes_is_set_aside_after_its_crashes(autojump_clock, store):
    store.poisonous = {"a"}
    group_commit = store.group_commit(crashes_most=3)
    group_commit.submit_nowait("a")
    async with trio.open_nursery() as nursery:
        crashes = []
        await nursery.start(restarting, group_commit, crashes)
        await group_commit.wait_drained()
        nursery.cancel_scope.cancel()
    assert store.batches == [["a"]] * 3
    assert len(crashes) == 2


async def test_crashes_are_in_a_row(autojump_clock, store):
    """Two crashes, a success, two crashes: nobody reaches three."""
    crash = OSError("disk")
    store.errors = [crash, crash, None, crash, crash, None]
    group_commit = store.group_commit(crashes_most=3)
    async with trio.open_nursery() as nursery:
        callers = Callers(group_commit, nursery)
        crashes = []
        await nursery.start(restarting, group_commit, crashes)
        for entry in "ab":
            await callers.submit(entry)
            await group_commit.wait_drained()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert callers.got == {"a": "result of a", "b": "result of b"}


async def test_a_flush_that_miscounts_its_results_has_crashed(autojump_clock, store):
    async def flush(entries):
        await trio.lowlevel.checkpoint()
        return entries[:-1]

    group_commit = GroupCommit("recorder", flush, batch_weight_most=9, waiting_weight_most=9)
    group_commit.submit_nowait("a")
    group_commit.submit_nowait("b")
    with pytest.raises(FlushMiscounted, match="2 entries and got 1 results"):
        await group_commit.run()
    assert group_commit.statistics().entries_waiting == 2


async def test_an_entry_that_comes_as_the_waiter_wakes_is_waited_for(autojump_clock, store):
    group_commit = store.group_commit()

    class SubmitAsTheWaiterWakes(trio.abc.Instrument):
        def task_scheduled(self, task):
            if task is waiter and group_commit.statistics().entries_flushed == 1:
                group_commit.submit_nowait("b")

    async with trio.open_nursery() as nursery:
        await nursery.start(group_commit.run)
        group_commit.submit_nowait("a")
        async with trio.open_nursery() as waiters:
            waiters.start_soon(group_commit.wait_drained)
            [waiter] = waiters.child_tasks
            await wait_all_tasks_blocked()
            trio.lowlevel.add_instrument(SubmitAsTheWaiterWakes())
        assert store.stored == ["a", "b"]
        nursery.cancel_scope.cancel()


async def test_it_runs_once_at_a_time(autojump_clock, store):
    group_commit = store.group_commit()
    async with trio.open_nursery() as nursery:
        await nursery.start(group_commit.run)
        with pytest.raises(RuntimeError, match="running already"):
            await group_commit.run()
        nursery.cancel_scope.cancel()
    assert not group_commit.statistics().running


async def test_it_says_what_it_does(autojump_clock, store):
    group_commit = store.group_commit()
    group_commit.submit_nowait("a")
    assert repr(group_commit) == (
        "<GroupCommit 'recorder' not running: 1 entries waiting, 0 of them in flight, 0 flushes of 1, "
        "weight 1 of 1000, 0 crashes>"
    )
    statistics = group_commit.statistics()
    with pytest.raises(AttributeError):
        statistics.crashes = 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_weight_most": 0}, "1 <= batch_weight_most"),
        ({"waiting_weight_most": 99}, "batch_weight_most <= waiting_weight_most"),
        ({"crashes_most": 0}, "crashes_most"),
    ],
)
def test_senseless_bounds_are_refused(store, changes, message):
    with pytest.raises(ValueError, match=message):
        store.group_commit(**changes)


def test_cancelled_at_every_step_it_loses_no_entry(at_every_step, cancelled_after):
    async def program(steps):
        store = Store()
        store.errors = [None, OSError("disk"), None, Unavailable(host="node 1")]
        store.poisonous = {5}
        group_commit = store.group_commit(batch_weight_most=3, crashes_most=2)
        answers = {}

        async def call(entry):
            try:
                answers[entry] = await group_commit.submit(entry)
            except (Unavailable, FlushCrashed) as error:
                answers[entry] = type(error)

        async with trio.open_nursery() as callers:
            for entry in range(9):
                callers.start_soon(call, entry)
            await wait_all_tasks_blocked()
            with cancelled_after(steps) as scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(restarting, group_commit, [])
                    await group_commit.wait_drained()
                    nursery.cancel_scope.cancel()
            async with trio.open_nursery() as nursery:
                await nursery.start(restarting, group_commit, [])
                await group_commit.wait_drained()
                nursery.cancel_scope.cancel()
        assert sorted(answers) == list(range(9))
        assert answers.pop(5) in {FlushCrashed, Unavailable}
        faulted = [entry for entry, answer in answers.items() if answer is Unavailable]
        assert len(faulted) <= 3
        assert all(answer == f"result of {entry}" for entry, answer in answers.items() if entry not in faulted)
        assert group_commit.statistics().weight_waiting == 0
        return scope.cancelled_caught

    at_every_step(program, at_least=15)


def test_callers_cancelled_at_every_step_leave_all_entries_to_be_flushed_once(at_every_step, cancelled_after):
    async def program(steps):
        store = Store()
        group_commit = store.group_commit(batch_weight_most=3)
        results = []

        async def call(entry):
            submitted.append(entry)
            results.append((entry, await group_commit.submit(entry)))

        submitted = []
        async with trio.open_nursery() as nursery:
            await nursery.start(group_commit.run)
            with cancelled_after(steps) as scope:
                async with trio.open_nursery() as callers:
                    for entry in range(5):
                        callers.start_soon(call, entry)
            await group_commit.wait_drained()
            nursery.cancel_scope.cancel()
        assert store.stored == submitted
        assert [entry for batch in store.batches for entry in batch] == submitted
        assert all(result == f"result of {entry}" for entry, result in results)
        return scope.cancelled_caught

    at_every_step(program, at_least=10)


async def test_what_gathers_decides_when_a_batch_begins(autojump_clock: MockClock) -> None:
    flushed: list[list[int]] = []

    async def flush(entries: list[int]) -> list[None]:
        flushed.append(entries)
        return [None] * len(entries)

    async def gather() -> None:
        with trio.move_on_after(5):
            await commit.wait_for_weight(3)

    commit: GroupCommit[int, None] = GroupCommit(
        "gathering", flush, batch_weight_most=10, waiting_weight_most=10, gather=gather
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(commit.run)
        commit.submit_nowait(1)
        await trio.sleep(1)
        commit.submit_nowait(2)
        await trio.sleep(1)
        assert flushed == []
        commit.submit_nowait(3)
        await wait_all_tasks_blocked()
        assert flushed == [[1, 2, 3]]
        commit.submit_nowait(4)
        await trio.sleep(4.9)
        assert flushed == [[1, 2, 3]]
        await trio.sleep(0.2)
        assert flushed == [[1, 2, 3], [4]]
        nursery.cancel_scope.cancel()


async def test_a_run_that_ends_while_it_gathers_holds_nothing(autojump_clock: MockClock) -> None:
    flushed: list[list[int]] = []
    is_gathering = True

    async def flush(entries: list[int]) -> list[None]:
        flushed.append(entries)
        return [None] * len(entries)

    async def gather() -> None:
        if is_gathering:
            await trio.sleep_forever()

    commit: GroupCommit[int, None] = GroupCommit(
        "gathering", flush, batch_weight_most=10, waiting_weight_most=10, gather=gather
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(commit.run)
        commit.submit_nowait(1)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    is_gathering = False
    assert flushed == []
    async with trio.open_nursery() as nursery:
        await nursery.start(commit.run)
        await commit.wait_drained()
        nursery.cancel_scope.cancel()
    assert flushed == [[1]]


def test_only_one_flush_at_a_time_gathers() -> None:
    async def flush(entries: list[int]) -> list[None]:
        return [None] * len(entries)

    with pytest.raises(ValueError, match="can't gather for 2 flushes at a time"):
        GroupCommit("g", flush, batch_weight_most=1, waiting_weight_most=1, flushes_most=2, gather=trio.sleep_forever)
