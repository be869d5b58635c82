"""Ids in memory until they are merged: none lost, none kept too long, the mark never ahead of the tree."""

from hypothesis import given
from hypothesis import strategies as st

from transfer_engine.engine.ledger.recent_ids import PREFIX_SHIFT, RecentIds, each_id, has_id, id_cells, move_cells

IDS_MAX = 20
ids = st.integers(1, 2**128 - 2) | st.integers(1, 40) | st.integers(0, 15).map(lambda leg: 77 << 100 | leg)


@given(batches=st.lists(st.lists(st.tuples(ids, st.booleans()), max_size=9), max_size=30))
def test_every_id_is_in_memory_or_in_the_tree_and_after_the_mark(batches) -> None:
    recent = RecentIds(IDS_MAX)
    tree: dict[int, int] = {}
    used: dict[int, int] = {}
    timestamp = 0
    mark = 0
    for batch in batches:
        entries = []
        for transfer_id, burnt in batch:
            if transfer_id not in used:
                timestamp += 1
                used[transfer_id] = -timestamp if burnt else timestamp
                entries.append(id_cells(transfer_id, used[transfer_id]))
        merged = recent.due(len(entries))
        if merged:
            mark = recent.complete_until(merged, timestamp - len(entries))
            recent.remove(merged)
            tree |= {one: signed for prefix, cells in merged for one, signed in each_id(prefix, cells)}
        recent.add(entries)
        in_memory = {
            one: signed
            for prefix in {one >> PREFIX_SHIFT for one in used}
            for one, signed in each_id(prefix, recent.cells(prefix) or b"")
        }
        assert in_memory | tree == used
        assert not in_memory.keys() & tree.keys()
        assert len(recent) == len(in_memory) <= IDS_MAX
        assert all(abs(signed) > mark for signed in in_memory.values())


def test_the_mark_reaches_the_end_when_all_are_merged() -> None:
    recent = RecentIds(2)
    recent.add([id_cells(5, 100), id_cells(6, -101)])
    merged = recent.due(1)
    assert recent.complete_until(merged, 140) == 140


def test_an_id_is_told_from_its_neighbours() -> None:
    recent = RecentIds(10)
    recent.add([id_cells(0x1201, 100), id_cells(0x1202, 300)])
    cells = recent.cells(0x12)
    assert cells is not None
    assert has_id(cells, 0x1202)
    assert not has_id(cells, 0x1203)
    assert recent.cells(0x13) is None


def test_a_moves_ids_come_together_one_nanosecond_apart() -> None:
    recent = RecentIds(10)
    recent.add([(0x12, move_cells(0x01F2, 100))])
    [(prefix, cells)] = recent.find([0x12, 0x13])
    assert list(each_id(prefix, cells)) == [(0x1201, 100), (0x12F2, 101)]
    assert len(recent) == 2
