"""Several flushes in flight: they start in order, share what waits, and end in any order."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from support.flush_server import Callers, Server, Unavailable, restarting, tell_all


@pytest.fixture
def server():
    return Server()


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
