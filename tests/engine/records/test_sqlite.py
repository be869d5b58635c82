"""The embedded record store's own matters: faults of its file, threads, groups, and the two parts of the history."""

# ruff: noqa: ASYNC240  the files are small, and nothing else runs

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from support.record_stores import record
from transfer_engine.engine import bulk_statements, id_tree
from transfer_engine.engine.recent_entries import KEY_MODULUS
from transfer_engine.engine.records import sqlite_columns, sqlite_file, sqlite_history
from transfer_engine.engine.records.protocol import JournalBlob, RecordsDamaged, RecordsUnavailable
from transfer_engine.engine.records.sqlite import open_sqlite_records
from transfer_engine.schema.ids import issued_req_id
from transfer_engine.schema.transfers import TransferState


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.db"


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


async def fill(path: Path, count: int) -> None:
    async with open_sqlite_records(path) as store:
        await store.write([], [record(number) for number in range(count)])


# Opening


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordsUnavailable, match=r"nowhere/records\.db"):
        async with open_sqlite_records(tmp_path / "nowhere" / "records.db"):
            pass


async def test_what_is_no_database_is_damage_and_stays_as_it_is(path: Path) -> None:
    path.write_bytes(b"not a database, whatever it is called " * 100)
    with pytest.raises(RecordsDamaged, match=r"records\.db is damaged.*backup"):
        async with open_sqlite_records(path):
            pass
    assert path.read_bytes().startswith(b"not a database")


async def test_another_applications_database_is_refused(path: Path) -> None:
    change(path, "CREATE TABLE recipes (name TEXT)")
    with pytest.raises(RecordsDamaged, match="another application"):
        async with open_sqlite_records(path):
            pass


@pytest.mark.parametrize(("step", "found"), [(1, 6), (-1, 4)])
async def test_a_later_or_an_earlier_schema_is_refused(path: Path, step: int, found: int) -> None:
    await fill(path, 1)
    change(path, f"PRAGMA user_version = {sqlite_file.SCHEMA_VERSION + step}")
    with pytest.raises(RecordsDamaged, match=rf"records\.db has schema {found}, and this engine knows 5"):
        async with open_sqlite_records(path):
            pass


async def test_a_missing_file_beside_its_wal_is_refused(path: Path) -> None:
    path.with_name("records.db-wal").write_bytes(b"acknowledged rows")
    with pytest.raises(RecordsDamaged, match=r"records\.db-wal is not empty"):
        async with open_sqlite_records(path):
            pass
    assert path.with_name("records.db-wal").read_bytes() == b"acknowledged rows"


async def test_the_file_is_there_before_its_wal(path: Path) -> None:
    # So that a crash at any moment of the very first start is no damage.
    async with open_sqlite_records(path):
        assert path.stat().st_size > 0


async def test_commits_are_durable_and_deletions_cheap(path: Path) -> None:
    with closing(sqlite_file.connect_writer(path)) as connection:
        pragmas = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "secure_delete", "page_size")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 0, "page_size": 4096}


# Faults of an open file


async def test_pages_that_are_no_pages_are_damage(path: Path) -> None:
    await fill(path, 2_000)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(RecordsDamaged, match=r"records\.db is damaged"):
        async with open_sqlite_records(path) as store:
            await store.scan_records(limit=10)


async def test_a_missing_table_is_damage(path: Path) -> None:
    await fill(path, 1)
    async with open_sqlite_records(path) as store:
        change(path, "DROP TABLE history", "DROP TABLE row_marks", "DROP TABLE claims")
        with pytest.raises(RecordsDamaged, match=r"records\.db lacks .*no such table: claims"):
            await store.claim(1, "a", former=None, ceiling_ms=0)
        with pytest.raises(RecordsDamaged, match="no such table: row_marks"):
            await store.write([], [record(1)])
        with pytest.raises(RecordsDamaged, match="no such table: history"):
            await store.history(1, limit=1)
    with pytest.raises(RecordsDamaged, match="no such table: row_marks"):
        async with open_sqlite_records(path):
            pass


async def test_an_unknown_state_is_never_guessed(path: Path) -> None:
    await fill(path, 3)
    change(path, "UPDATE transfers SET state = 'comitted' WHERE created_at = 1800000000001")
    async with open_sqlite_records(path) as store:
        message = f"{record(1).req_id} has the unknown state 'comitted'"
        for read in (
            lambda: store.get(issued_req_id(1)),
            lambda: store.history(1, limit=9),
            lambda: store.scan_records(limit=9),
        ):
            with pytest.raises(RecordsDamaged, match=message):
                await read()
        assert await store.get(issued_req_id(2)) == record(2)


async def test_another_blob_in_a_blobs_place_is_a_fault_and_lands_nothing(path: Path) -> None:
    async with open_sqlite_records(path) as store:
        await store.write([JournalBlob(1, 1, 1, b"one")], [])
        with pytest.raises(RecordsDamaged, match=r"\(1, 1, 1\)"):
            await store.write([JournalBlob(1, 1, 2, b"two"), JournalBlob(1, 1, 1, b"another")], [record(1)])
        assert [blob.body async for blob in store.read_journal(1, from_bucket=0)] == [b"one"]
        assert await store.get(issued_req_id(1)) is None


async def test_a_full_disk_is_unavailable_and_leaves_nothing_half_done(path: Path) -> None:
    async with open_sqlite_records(path) as store:
        await store.write([], [record(1)])
        # SQLite's own bound on the file: the same error as a full disk, in the midst of a transaction.
        (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
        store._writer.execute(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(RecordsUnavailable, match=r"records\.db: database or disk is full"):
            await store.write([JournalBlob(0, 0, 0, b"intents")], [record(number) for number in range(2, 500)])
        assert (await store.scan_records(limit=9)).records == [record(1)]
        assert [blob async for blob in store.read_journal(0, from_bucket=0)] == []
        store._writer.execute("PRAGMA max_page_count = 1000000")
        await store.write([], [record(2)])
        assert await store.history(1, limit=1)
        assert await store.get(issued_req_id(2)) == record(2)


@pytest.fixture
def foreign_writer(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    """Another process's connection that holds the file's only write lock."""
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_S", 0.01)
    with closing(sqlite_file.connect_writer(path)) as connection:
        yield connection


async def test_a_file_held_by_another_process_is_unavailable(path: Path, foreign_writer: sqlite3.Connection) -> None:
    async with open_sqlite_records(path) as store:
        foreign_writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(RecordsUnavailable, match="database is locked"):
            await store.write([], [record(1)])
        with pytest.raises(RecordsUnavailable, match="database is locked"):
            await store.claim(1, "a", former=None, ceiling_ms=0)
        foreign_writer.execute("ROLLBACK")
        await store.write([], [record(1)])


async def test_reads_do_not_wait_for_a_writer(path: Path, foreign_writer: sqlite3.Connection) -> None:
    await fill(path, 5)
    async with open_sqlite_records(path) as store:
        foreign_writer.execute("BEGIN IMMEDIATE")
        foreign_writer.execute("DELETE FROM transfers")
        assert await store.get(issued_req_id(1)) == record(1)
        assert len((await store.history(1, limit=9)).records) == 5
        assert len((await store.scan_records(limit=9)).records) == 5
        assert await store.low_water_mark(1) == 0
        foreign_writer.execute("ROLLBACK")


async def test_rows_that_another_process_wrote_are_neither_lost_nor_doubled(path: Path) -> None:
    async with open_sqlite_records(path) as first, open_sqlite_records(path) as second:
        for number in range(0, 20, 2):
            await first.write([], [record(number), record(number + 1, "init")])
            await second.write([], [record(number + 1), record(100 + number)])
    rows = [record(number) for number in [*range(20), *range(100, 120, 2)]]
    async with open_sqlite_records(path) as store:
        scanned = (await store.scan_records(limit=100)).records
        assert sorted(scanned, key=lambda row: row.req_id) == rows
        assert (await store.history(1, limit=100)).records == rows[::-1]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM transfers").fetchone() == (len(rows),)


# Groups


async def test_a_call_that_can_not_be_written_fails_alone(path: Path) -> None:
    async with open_sqlite_records(path) as store:

        async def fail() -> None:
            with pytest.raises(ValueError, match=r"user_id, .* must be less than 2\^63"):
                await store.write([], [record(5, user_id=2**63)])

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(store.write, [], [record(number)])
            nursery.start_soon(fail)
            for number in range(6, 10):
                nursery.start_soon(store.write, [], [record(number)])
        assert len((await store.scan_records(limit=100)).records) == 9


async def test_a_write_that_was_cancelled_before_its_turn_never_lands(path: Path) -> None:
    with closing(sqlite_file.connect_writer(path)) as foreign:
        async with open_sqlite_records(path) as store, trio.open_nursery() as nursery:
            foreign.execute("BEGIN IMMEDIATE")  # so the first write waits in its thread
            nursery.start_soon(store.write, [], [record(1)])
            await trio.testing.wait_all_tasks_blocked()
            with trio.CancelScope() as scope:
                scope.cancel()
                await store.write([], [record(2)])
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel_when_blocked, scope)
                await store.write([], [record(3)])
            foreign.execute("ROLLBACK")
            await store.write([], [record(4)])
            assert [row.req_id for row in (await store.scan_records(limit=9)).records] == [
                record(number).req_id for number in (1, 4)
            ]


async def test_a_cancelled_write_lands_whole_or_not_at_all(path: Path) -> None:
    async with open_sqlite_records(path) as store, trio.open_nursery() as nursery:
        for number in range(0, 40, 2):
            nursery.start_soon(store.write, [], [record(number), record(number + 1)])
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    async with open_sqlite_records(path) as store:
        landed = {row.req_id for row in (await store.scan_records(limit=100)).records}
        assert all(
            (record(number).req_id in landed) == (record(number + 1).req_id in landed) for number in range(0, 40, 2)
        )


async def cancel_when_blocked(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


async def test_calls_that_wait_share_a_commit(path: Path) -> None:
    async with open_sqlite_records(path) as store:
        await store.write([], [record(0)])
        commits: list[str] = []
        store._writer.set_trace_callback(lambda statement: commits.append(statement) if statement == "COMMIT" else None)
        async with trio.open_nursery() as nursery:
            for number in range(1, 51):
                nursery.start_soon(store.write, [], [record(number)])
        assert len(commits) == 1
        assert len((await store.scan_records(limit=100)).records) == 51


async def test_a_closed_store_says_so(path: Path) -> None:
    async with open_sqlite_records(path) as store:
        await store.write([], [record(1)])
    with pytest.raises(trio.ClosedResourceError):
        await store.write([], [record(2)])
    with pytest.raises(trio.ClosedResourceError):
        await store.get(issued_req_id(1))
    with pytest.raises(trio.ClosedResourceError):
        await store.claim(1, "a", former=None, ceiling_ms=0)
    assert not path.with_name("records.db-wal").exists()


async def test_closing_waits_for_what_is_under_way(path: Path) -> None:
    async with trio.open_nursery() as nursery, open_sqlite_records(path) as store:
        nursery.start_soon(store.write, [], [record(number) for number in range(2_000)])
        nursery.start_soon(partial(store.history, 1, limit=5))
        for _ in range(3):
            await trio.lowlevel.checkpoint()
    async with open_sqlite_records(path) as store:
        assert len((await store.scan_records(limit=5_000)).records) == 2_000


# Rows


async def test_a_history_over_both_its_parts_is_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_history, "HISTORY_RECENT_MOST", 300)
    rows = [record(number, created_at=number % 100) for number in range(1_000)]
    async with open_sqlite_records(path) as store:
        await store.write([], rows[:700])
        await store.write([], rows[500:])  # 200 of them again
        expected = sorted(rows, key=lambda row: (row.created_at, row.req_id.int), reverse=True)
        assert (await store.history(1, limit=10_000)).records == expected
    with closing(sqlite3.connect(path)) as connection:
        (entered,) = connection.execute("SELECT count(*) FROM history").fetchone()
    assert 0 < entered < len(rows)
    async with open_sqlite_records(path) as store:
        assert (await store.history(1, limit=10_000)).records == expected


async def test_a_page_of_a_long_history_reads_little_of_it(path: Path) -> None:
    await fill(path, 10)
    values = {"key": 1, "user_id": 1, "created_at": 5, "req_id": b"", "newest": "[]", "limit": 5}
    async with open_sqlite_records(path) as store:
        of_entered, of_newest = (
            "\n".join(row[3] for row in store._writer.execute("EXPLAIN QUERY PLAN " + statement, values))
            for statement in (sqlite_history.SELECT_ENTERED, sqlite_history.SELECT_NEWEST)
        )
    assert "USING PRIMARY KEY (key=? AND created_at<?)" in of_entered
    assert "USE TEMP B-TREE FOR RIGHT PART OF ORDER BY" in of_entered  # within one created_at
    assert "INTEGER PRIMARY KEY (rowid=?)" in of_entered
    assert "INTEGER PRIMARY KEY (rowid=?)" in of_newest


async def test_identifiers_and_users_that_share_a_key_are_told_apart(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(id_tree, "ENTRIES_MAX", 4)
    monkeypatch.setattr(sqlite_history, "HISTORY_RECENT_MOST", 4)
    twins = [
        record(number, "init", req_id=UUID(int=1 + number * KEY_MODULUS), user_id=7 + KEY_MODULUS * number)
        for number in range(9)
    ]
    async with open_sqlite_records(path) as store:
        for row in twins:
            assert await store.get(row.req_id.int) is None
            await store.write([], [row])
    twins[0] = replace(twins[0], state=TransferState.COMMITTED)
    twins[8] = replace(twins[8], state=TransferState.COMMITTED, created_at=5)
    for _ in range(2):
        async with open_sqlite_records(path) as store:
            await store.write([], [twins[0], twins[8]])
            assert [await store.get(row.req_id.int) for row in twins] == twins
            assert await store.get_many([1 + 9 * KEY_MODULUS]) == {}
            assert [(await store.history(row.user_id, limit=9)).records for row in twins] == [[row] for row in twins]
            assert (await store.history(7 + 9 * KEY_MODULUS, limit=9)).records == []
            assert (await store.scan_records(limit=99)).records == twins


@given(rows=st.integers(0, 5_000))
def test_rows_are_cut_into_few_statements(rows: int) -> None:
    cuts = list(bulk_statements.slices(rows, sqlite_columns.ROWS_MOST))
    assert [number for first, last, _ in cuts for number in range(first, last)] == list(range(rows))
    for first, last, size in cuts:
        assert size in [1 << power for power in range(10)]
        assert size - size // 8 <= last - first <= size
    assert len(cuts) <= rows // sqlite_columns.ROWS_MOST + 9
