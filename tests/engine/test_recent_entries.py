"""Entries that wait in memory: found until they are merged, the oldest first, never too many, none lost."""

from hypothesis import given
from hypothesis import strategies as st

from transfer_engine.engine.recent_entries import KEY_MODULUS, RecentEntries

keys = st.integers(0, KEY_MODULUS - 1) | st.integers(0, 3) | st.integers(KEY_MODULUS - 3, KEY_MODULUS - 1)


def test_what_was_added_is_found_by_its_key() -> None:
    entries = RecentEntries(3, 10)
    entries.add([(5, 70, 1), (6, 71, 2), (5, 72, -3)])
    assert entries.of(5) == [(5, 70, 1), (5, 72, -3)]
    assert entries.of(7) == []
    assert len(entries) == 3


def test_a_key_is_not_found_across_the_numbers_of_entries() -> None:
    # The bytes of a key stand elsewhere, too: as another number, or from the middle of one to the middle of the next.
    entries = RecentEntries(2, 10)
    entries.add([(1, 1 << 8), (2, 5), (5, 9)])
    assert entries.of(5) == [(5, 9)]
    assert entries.of(1 << 8) == []
    assert entries.of(0) == []


def test_nothing_is_due_while_there_is_room() -> None:
    entries = RecentEntries(2, 10)
    assert entries.due(11) is None
    entries.add((key << 40, key) for key in range(8))
    assert entries.due(2) is None
    assert entries.due(3) is not None


def test_the_oldest_are_due_with_their_neighbours_by_key() -> None:
    entries = RecentEntries(2, 4)
    entries.add([(9, 100), (1 << 46, 101), (8, 102), (2 << 40, -103)])
    due = entries.due(1)
    assert due is not None
    assert due.values == [9, 100, 8, 102]
    assert due.first_kept == 101
    assert entries.of(9) == [(9, 100)], "until its merge is committed"
    entries.remove(due)
    assert entries.of(9) == []
    assert entries.due(2) is None
    due = entries.due(4)
    assert due is not None
    assert due.values == [1 << 46, 101, 2 << 40, -103]
    assert due.first_kept is None


def test_little_more_is_due_than_comes_in_however_keys_crowd() -> None:
    entries = RecentEntries(2, 20_000)
    for first in range(0, 100_000, 1_000):
        due = entries.due(1_000)
        if due is not None:
            assert len(due.values) // 2 <= 1_000 + 4_096
            entries.remove(due)
        entries.add((7, row) for row in range(first, first + 1_000))
        assert len(entries.of(7)) <= 2_000, "one key's entries are looked at one by one"


def test_what_is_too_much_after_loading_is_merged_a_little_at_a_time() -> None:
    entries = RecentEntries(2, 1_000)
    entries.add((row * 2**31 % KEY_MODULUS, row) for row in range(50_000))
    due = entries.due(10)
    assert due is not None
    assert 4_096 <= len(due.values) // 2 <= 2 * 4_096


@given(batches=st.lists(st.lists(keys, max_size=9), max_size=30), commits=st.lists(st.booleans(), min_size=30))
def test_every_entry_is_here_or_merged_and_the_mark_never_passes_one(
    batches: list[list[int]], commits: list[bool]
) -> None:
    entries = RecentEntries(2, 10)
    merged: list[tuple[int, int]] = []
    used: list[tuple[int, int]] = []
    mark = 0
    for batch, commit in zip(batches, commits, strict=False):
        due = entries.due(len(batch))
        if not commit:
            continue  # rolled back
        if due is not None:
            entries.remove(due)
            merged += zip(due.values[::2], due.values[1::2], strict=True)
            lower = len(used) + 1 if due.first_kept is None else due.first_kept
            assert lower >= mark
            mark = lower
        added = [(key, number * (-1) ** number) for number, key in enumerate(batch, len(used) + 1)]
        entries.add(added)
        used += added
        waiting = [entry for key in {key for key, _ in used} for entry in entries.of(key)]
        assert sorted(waiting + merged) == sorted(used)
        assert len(entries) == len(waiting) <= 10
        assert all(abs(row) >= mark for _, row in waiting)
