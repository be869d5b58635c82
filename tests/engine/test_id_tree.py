"""The tree of identifiers: what was committed is found, through memory, filter and table, at any time and reopening."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer_engine.engine import id_tree
from transfer_engine.engine.id_tree import IdTree, key_of
from transfer_engine.engine.recent_entries import KEY_MODULUS

ENTRIES_MAX = 6


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(make_file()) as connection:
        yield connection


def make_file() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE transfer_ids (key INTEGER, row INTEGER, PRIMARY KEY (key, row)) WITHOUT ROWID")
    return connection


def write(tree: IdTree, connection: sqlite3.Connection, entries: list[tuple[int, int]]) -> int | None:
    """Commit entries; return the mark that the file would be given."""
    due = tree.merge(connection, len(entries))
    tree.committed(due, entries)
    return None if due is None else due.first_kept or entries[0][1]


def test_identifiers_that_share_their_key_are_all_told(connection: sqlite3.Connection) -> None:
    tree = IdTree(2)
    identifiers = [77, 77 + KEY_MODULUS, 77 + KEY_MODULUS * 2**70]
    for row, identifier in enumerate(identifiers, 1):
        write(tree, connection, [(key_of(identifier), row)])
    assert connection.execute("SELECT count(*) FROM transfer_ids").fetchone() != (0,)
    for identifier in identifiers:
        assert {row for _, row in tree.look_up_new(connection, [key_of(identifier)])} == {1, 2, 3}


def test_new_identifiers_cost_no_look_into_the_tree(connection: sqlite3.Connection) -> None:
    tree = IdTree(2)
    write(tree, connection, [(key, key) for key in range(1, 9)])
    assert not looks_into_the_tree(tree, connection, 1 << 40)
    assert tree.look_up_new(connection, [1 << 40, 8, 1 << 45]) == [(8, 8)]


def test_the_filter_learns_of_a_large_tree_a_little_with_every_batch(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(id_tree, "_SCANNED_MIN", 10)
    stored = [(key << 24, key) for key in range(1, 100)]
    connection.executemany("INSERT INTO transfer_ids VALUES (?, ?)", stored)
    tree = IdTree(2)
    batches = 0
    while looks_into_the_tree(tree, connection, 5 << 40 | 3):
        for key, row in stored:
            assert tree.look_up_new(connection, [key]) == [(key, row)]
        write(tree, connection, [])
        batches += 1
    assert batches == 10
    for key, row in stored:
        assert tree.look_up_new(connection, [key]) == [(key, row)]


def looks_into_the_tree(tree: IdTree, connection: sqlite3.Connection, new_key: int) -> bool:
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    assert tree.look_up_new(connection, [new_key]) == []
    connection.set_trace_callback(None)
    return bool(statements)


few_keys = st.integers(0, 5)
keys = few_keys | few_keys.map(lambda number: number << 40) | st.integers(0, KEY_MODULUS - 1)
steps = st.lists(
    st.tuples(st.just("write"), st.lists(keys, max_size=8))
    | st.tuples(st.just("fail"), st.lists(keys, max_size=8))
    | st.tuples(st.just("reopen"), st.just([])),
    max_size=25,
)


@settings(deadline=None)
@given(steps=steps, scanned=st.integers(1, 4))
def test_every_entry_is_found_whatever_fails_and_whenever_the_file_is_reopened(
    steps: list[tuple[str, list[int]]], scanned: int
) -> None:
    rows: list[tuple[int, int]] = []
    mark = 1
    with closing(make_file()) as connection, pytest.MonkeyPatch.context() as patch:
        patch.setattr(id_tree, "_SCANNED_MIN", scanned)
        patch.setattr(id_tree, "_SCANNED_AN_ENTRY", 1)
        tree = IdTree(ENTRIES_MAX)
        for step, batch in steps:
            if step == "reopen":
                tree = IdTree(ENTRIES_MAX)
                tree.load(entry for entry in rows if entry[1] >= mark)
            else:
                entries = [(key, len(rows) + number) for number, key in enumerate(batch, 1)]
                connection.execute("BEGIN")
                due = tree.merge(connection, len(entries))
                if step == "fail":
                    connection.execute("ROLLBACK")
                    continue
                connection.execute("COMMIT")
                if due is not None:
                    mark = len(rows) + 1 if due.first_kept is None else due.first_kept
                tree.committed(due, entries)
                rows += entries
            for key in {key for key, _ in rows} | set(batch):
                wanted = {entry for entry in rows if entry[0] == key}
                assert set(tree.look_up_new(connection, [key])) == wanted
                assert set(tree.look_up(connection, [key])) == wanted
