"""Identifiers that wait in memory: found until they are merged, the oldest first, and never too many."""

from hypothesis import given
from hypothesis import strategies as st

from transfer_engine.engine.records.sqlite_ids import RecentIds
from transfer_engine.schema.ids import issued_req_id, keyed_req_id


def keyed(number: int) -> int:
    return keyed_req_id("", "transfer", str(number))


def issued(number: int) -> int:
    return issued_req_id(number << 22)


def test_what_was_added_is_found() -> None:
    ids = RecentIds(10, 1)
    ids.add([(keyed(1), 7), (issued(2), 8)])
    assert ids.find([keyed(1), issued(2), keyed(2)]) == {keyed(1): 7, issued(2): 8}
    assert len(ids) == 2


def test_nothing_is_due_while_there_is_room() -> None:
    ids = RecentIds(10, 4)
    ids.add((keyed(number), number) for number in range(8))
    assert ids.due(2) == []
    assert ids.due(3) != []


def test_ids_in_the_order_of_time_are_due_in_the_order_of_time() -> None:
    ids = RecentIds(10, 4)
    ids.add((issued(number), number) for number in range(10))
    assert ids.due(1) == [(issued(number), number) for number in range(4)]


def test_of_random_ids_a_neighbourhood_is_due_at_once() -> None:
    ids = RecentIds(6_400, 100)
    ids.add((keyed(number), number) for number in range(6_400))
    due = ids.due(50)
    assert len(due) == 100
    assert len({key >> 122 for key, _ in due}) <= 3  # of 64


@given(
    work=st.lists(st.tuples(st.booleans(), st.integers(1, 30)), max_size=40),
    ids_most=st.integers(1, 40),
    merge_least=st.integers(1, 20),
)
def test_every_id_is_here_or_merged_and_the_mark_never_passes_one(
    work: list[tuple[bool, int]], ids_most: int, merge_least: int
) -> None:
    ids = RecentIds(ids_most, merge_least)
    merged: dict[int, int] = {}
    waiting: dict[int, int] = {}
    number = 0
    mark = 0
    for is_keyed, count in work:
        due = ids.due(count)
        lower = ids.merged_below(due, number)
        ids.remove(due)
        assert merged.keys().isdisjoint(key for key, _ in due)
        for key, its_number in due:
            assert waiting.pop(key) == its_number
            merged[key] = its_number
        assert lower >= mark
        mark = lower
        assert all(its_number >= mark for its_number in waiting.values())
        make = keyed if is_keyed else issued
        added = [(make(each), each) for each in range(number, number + count)]
        ids.add(added)
        waiting.update(added)
        number += count
        assert len(ids) == len(waiting) <= max(ids_most, *(each for _, each in work))
        assert ids.find([*waiting, *merged]) == waiting
