"""Several flushes in flight: they start in order and end in any order, alone, together, or by crashes."""

from contextlib import contextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from transfer_engine.actors import FlushCrashed, FlushMiscounted, GroupCommit


class Unavailable(Exception):
    pass


class Server:
    """A flush that ends when it is told to, and as it is told to."""

    def __init__(self):
        self.started = []
        self.in_flight = {}
        self.ends = {}
        self.cancelled = []
        self.poisonous = set()
        self.is_stubborn = False

    async def flush(self, entries):
        batch = "".join(entries)
        self.started.append(batch)
        assert batch not in self.in_flight
        gate = self.in_flight[batch] = trio.Event()
        try:
            with trio.CancelScope(shield=self.is_stubborn):
                await gate.wait()
        except trio.Cancelled:
            self.cancelled.append(batch)
            raise
        finally:
            del self.in_flight[batch]
        if self.poisonous.intersection(entries):
            raise ArithmeticError(f"poison in {batch}")
        end = self.ends.pop(batch, None)
        if isinstance(end, Exception):
            raise end
        return [f"result of {entry}" for entry in entries] if end is None else end

    @contextmanager
    def stubborn(self):
        """No flush that starts in here is cancelled. Those that are left at the end, end well."""
        self.is_stubborn = True
        try:
            yield
        finally:
            self.is_stubborn = False
            for gate in self.in_flight.values():
                gate.set()

    async def end(self, batch, how=None):
        """Let a flush end: well, by an exception, or with results of its own."""
        self.ends[batch] = how
        self.in_flight[batch].set()
        await wait_all_tasks_blocked()

    def group_commit(self, **changes):
        settings = {
            "batch_weight_most": 100,
            "waiting_weight_most": 1_000,
            "expected_faults": (Unavailable,),
            "crashes_most": 2,
            "flushes_most": 3,
            **changes,
        }
        return GroupCommit("recorder", self.flush, **settings)


@pytest.fixture
def server():
    return Server()


class Callers:
    """Tasks that each submit one entry and keep what they got for it."""

    def __init__(self, group_commit, nursery):
        self.group_commit = group_commit
        self.nursery = nursery
        self.got = {}

    async def submit(self, *entries):
        """Start one caller an entry, each when the one before has nothing left to do."""
        for entry in entries:
            self.nursery.start_soon(self._call, entry)
            await wait_all_tasks_blocked()

    async def _call(self, entry):
        try:
            self.got[entry] = await self.group_commit.submit(entry)
        except Exception as error:  # noqa: BLE001
            self.got[entry] = error


async def restarting(group_commit, crashes, task_status=trio.TASK_STATUS_IGNORED):
    """A supervisor without limits."""
    task_status.started()
    while True:
        try:
            await group_commit.run()
        except Exception as crash:  # noqa: BLE001
            crashes.append(crash)


def tell_all(group_commit, entries):
    return [group_commit.submit_nowait(entry) for entry in entries]


async def test_as_many_flushes_are_in_flight_as_may_be_and_the_rest_is_the_next(server, nursery):
    group_commit = server.group_commit()
    await nursery.start(group_commit.run)
    callers = Callers(group_commit, nursery)
    await callers.submit(*"abcde")
    assert list(server.in_flight) == ["a", "b", "c"]
    statistics = group_commit.statistics()
    assert (statistics.flushes_in_flight, statistics.entries_in_flight, statistics.entries_waiting) == (3, 3, 5)
    assert repr(group_commit) == (
        "<GroupCommit 'recorder' running: 5 entries waiting, 3 of them in flight, 3 flushes of 3, "
        "weight 5 of 1000, 0 crashes>"
    )
    await server.end("b")
    assert server.started == ["a", "b", "c", "de"]
    assert callers.got == {"b": "result of b"}


async def test_a_flush_is_answered_when_it_returns_whatever_the_others_do(server, nursery):
    group_commit = server.group_commit()
    await nursery.start(group_commit.run)
    callers = Callers(group_commit, nursery)
    await callers.submit(*"abc")
    for entries in ("c", "a", "b"):
        assert not set(entries) & set(callers.got)
        await server.end(entries)
        assert callers.got.pop(entries) == f"result of {entries}"
    with trio.fail_after(1):
        await group_commit.wait_drained()


async def test_the_last_answer_ends_the_wait_whichever_it_is(server, nursery):
    group_commit = server.group_commit()
    await nursery.start(group_commit.run)
    callers = Callers(group_commit, nursery)
    await callers.submit(*"ab")
    drained = []

    async def wait():
        await group_commit.wait_drained()
        drained.append(True)

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    await server.end("b")
    assert not drained
    await server.end("a")
    assert drained


async def test_entries_that_are_ready_at_once_are_one_flush(server, nursery):
    group_commit = server.group_commit()
    await nursery.start(group_commit.run)
    await wait_all_tasks_blocked()
    tell_all(group_commit, "abcdefgh")
    await wait_all_tasks_blocked()
    assert server.started == ["abcdefgh"]


async def test_what_one_flush_cannot_take_is_started_at_once_too_and_in_order(server, nursery):
    group_commit = server.group_commit(batch_weight_most=2)
    tell_all(group_commit, "abcdefgh")
    await nursery.start(group_commit.run)
    await wait_all_tasks_blocked()
    assert server.started == ["ab", "cd", "ef"]
    await server.end("cd")
    assert server.started == ["ab", "cd", "ef", "gh"]


async def test_woken_from_idleness_the_flushes_are_in_order_too(server, nursery):
    group_commit = server.group_commit(batch_weight_most=2)
    await nursery.start(group_commit.run)
    await wait_all_tasks_blocked()
    tell_all(group_commit, "abcdef")
    await wait_all_tasks_blocked()
    assert server.started == ["ab", "cd", "ef"]


@pytest.mark.parametrize(
    ("entries", "least", "flushes"),
    [
        ("abcdefghi", 3, ["abc", "def", "ghi"]),
        ("abcdefghij", 1, ["abcd", "efg", "hij"]),
        ("abcdefg", 3, ["abcd", "efg"]),
        ("abcde", 3, ["abcde"]),
        ("ab", 1, ["a", "b"]),
        ("abcdefghi", None, ["abcdefghi"]),
        ("abcdefghijklmnop", 1, ["abcde", "fghij", "klmno"]),
    ],
)
async def test_what_waits_is_shared_out_in_parts_that_are_worth_it(server, nursery, entries, least, flushes):
    group_commit = server.group_commit(batch_weight_least=least, batch_weight_most=5 if len(entries) > 10 else 10)
    tell_all(group_commit, entries)
    await nursery.start(group_commit.run)
    await wait_all_tasks_blocked()
    assert server.started == flushes


async def test_an_entry_heavier_than_its_share_is_taken_whole(server, nursery):
    group_commit = server.group_commit(weigh=len, batch_weight_most=8, batch_weight_least=1)
    tell_all(group_commit, ["aaaaaaaa", "b", "c"])
    await nursery.start(group_commit.run)
    await wait_all_tasks_blocked()
    assert server.started == ["aaaaaaaa"]  # what is left is no even share of what is in flight
    await server.end("aaaaaaaa")
    assert server.started == ["aaaaaaaa", "b", "c"]


async def test_beside_others_a_flush_starts_for_an_even_share_of_what_they_hold(server, nursery):
    group_commit = server.group_commit()
    tell_all(group_commit, "abcdefg")
    await nursery.start(group_commit.run)
    callers = Callers(group_commit, nursery)
    await callers.submit("h", "i")
    assert server.started == ["abcdefg"]
    await callers.submit("j")
    assert server.started == ["abcdefg", "hij"]
    await callers.submit("k")
    assert server.started == ["abcdefg", "hij"]
    await server.end("abcdefg")
    assert server.started == ["abcdefg", "hij", "k"]


async def test_what_was_too_little_is_flushed_when_nothing_else_is(server, nursery):
    group_commit = server.group_commit()
    tell_all(group_commit, "abcdefg")
    await nursery.start(group_commit.run)
    callers = Callers(group_commit, nursery)
    await callers.submit("h")
    await server.end("abcdefg")
    assert server.started == ["abcdefg", "h"]


async def test_a_fault_of_one_flush_is_its_own(server, nursery):
    group_commit = server.group_commit()
    await nursery.start(group_commit.run)
    callers = Callers(group_commit, nursery)
    await callers.submit(*"abc")
    await server.end("b", Unavailable("b"))
    assert isinstance(callers.got["b"], Unavailable)
    assert list(server.in_flight) == ["a", "c"]
    await server.end("c")
    await server.end("a")
    assert [callers.got["a"], callers.got["c"]] == ["result of a", "result of c"]


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


async def cancellable(scope, run):
    with scope:
        await run()


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


async def test_a_ticket_has_passed_when_its_entry_was_answered_by_whatever(server, nursery):
    server.poisonous = {"d"}
    group_commit = server.group_commit(batch_weight_most=2)
    crashes = []
    tickets = dict(zip("abcdefgh", tell_all(group_commit, "abcdefgh"), strict=True))
    assert list(tickets.values()) == sorted(set(tickets.values()))

    def passed():
        return "".join(entry for entry, ticket in tickets.items() if group_commit.has_passed(ticket))

    assert not passed()
    await nursery.start(restarting, group_commit, crashes)
    await wait_all_tasks_blocked()
    assert not passed()
    await server.end("ef", Unavailable("ef"))
    assert passed() == "ef"
    await server.end("cd")
    await server.end("cd")
    await server.end("c")
    assert passed() == "cef"
    await server.end("d")
    await server.end("d")
    assert passed() == "cdef"
    await server.end("gh")
    await server.end("ab")
    assert passed() == "abcdefgh"


@pytest.mark.parametrize("ticket", [-1, 0, 2])
async def test_a_ticket_that_was_never_given_out_is_refused(server, ticket):
    group_commit = server.group_commit()
    group_commit.submit_nowait("a")
    with pytest.raises(ValueError, match=f"no ticket {ticket}: those given out are 1 to 1"):
        group_commit.has_passed(ticket)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flushes_most": 0}, "flushes_most"),
        ({"batch_weight_least": 0}, "1 <= batch_weight_least"),
        ({"batch_weight_least": 101}, "batch_weight_least <= batch_weight_most, not 101 and 100"),
    ],
)
def test_senseless_bounds_are_refused(server, changes, message):
    with pytest.raises(ValueError, match=message):
        server.group_commit(**changes)


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
