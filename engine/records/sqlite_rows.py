"""The record store's rows of transfers and their histories: written within a transaction of another's, and read.

Synchronous. Three trees would each be dirtied at random by every row: by identifier, by user, and the rows themselves.
Rows lie in the order of their arrival; where they are by identifier (``id_tree``), and by user (``sqlite_history``),
waits in memory until many entries go to one page.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from transfer_engine.engine import crash_points, id_tree
from transfer_engine.engine.bulk_statements import BulkInsert, BulkSelect
from transfer_engine.engine.id_tree import Entry, IdTree, key_of
from transfer_engine.engine.recent_entries import Due
from transfer_engine.engine.records.protocol import HistoryPage, RecordPage
from transfer_engine.engine.records.sqlite_columns import (
    COLUMNS,
    CREATED_AT,
    RECORD_COLUMNS,
    ROWS_MOST,
    TARGET_USER_ID,
    UPSERT,
    USER_ID,
    VERSION,
    Values,
    record_of,
)
from transfer_engine.engine.records.sqlite_history import HistoryEntry, SqliteHistory, history_entries
from transfer_engine.schema.transfers import TransferRecord

_insert_records = BulkInsert("transfers", ("number", *COLUMNS), UPSERT, rows_most=ROWS_MOST)
_select_numbers = BulkSelect("SELECT req_id, number FROM transfers WHERE number IN ({keys})", rows_most=ROWS_MOST)
_select_by_number = BulkSelect(
    f"SELECT {RECORD_COLUMNS} FROM transfers t WHERE t.number IN ({{keys}})",  # noqa: S608
    rows_most=ROWS_MOST,
)

_SCAN: Final = f"SELECT t.number, {RECORD_COLUMNS} FROM transfers t WHERE t.number > ? ORDER BY t.number LIMIT ?"  # noqa: S608


class Staged:
    """What a transaction that wrote rows changes in memory, once it is committed."""

    __slots__ = ("entries", "history_due", "history_entries", "ids_due")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.history_entries: list[HistoryEntry] = []
        self.ids_due: Due | None = None
        self.history_due: Due | None = None


class SqliteRows:
    """The rows of one file. One thread writes; reads may run in others, each on a connection of its own.

    Another process must not write to the file; one that did is noticed by the next write, and what is kept in memory
    is then read anew.
    """

    def __init__(self, writer: sqlite3.Connection) -> None:
        self._writer = writer
        self._data_version = self._read_data_version()
        self._load()

    def _read_data_version(self) -> int:
        """Return a number that changes when another connection than the writer's changed the file."""
        version: int = self._writer.execute("PRAGMA data_version").fetchone()[0]
        return version

    def _load(self) -> None:
        # Readers may be looking: each part takes the former's place when it is complete.
        ids = IdTree(id_tree.ENTRIES_MAX)
        rows = self._writer.execute(
            "SELECT req_id, number FROM transfers WHERE number >= (SELECT ids FROM row_marks) ORDER BY number"
        )
        ids.load((key_of(int.from_bytes(req_id, "big")), number) for req_id, number in rows)
        self._ids = ids
        self._history = SqliteHistory(self._writer)
        (last,) = self._writer.execute("SELECT max(number) FROM transfers").fetchone()
        self._next_number: int = 0 if last is None else last + 1

    def write(self, rows: Sequence[tuple[int, Values]]) -> Staged:
        """Write rows, each with its identifier, and their histories, within the writer's transaction.

        A stored row of a higher version stays. Call :meth:`committed` with the answer once the transaction is
        committed, and forget it otherwise.
        """
        data_version = self._read_data_version()
        if data_version != self._data_version:
            self._load()
            self._data_version = data_version
        staged = Staged()
        records, replaced = self._number(_winners(rows), staged)
        crash_points.reach("before_rows")
        _insert_records.run(self._writer, records)
        crash_points.reach("between_rows")
        self._history.enter(self._writer, replaced)
        staged.history_due = self._history.merge(self._writer, len(staged.history_entries), self._next_number)
        staged.ids_due = self._merge_ids(len(staged.entries))
        return staged

    def committed(self, staged: Staged) -> None:
        """Take over what a transaction changed, now that it is durable."""
        self._ids.committed(staged.ids_due, staged.entries)
        self._history.committed(staged.history_due, staged.history_entries)
        self._next_number += len(staged.entries)

    def _number(self, rows: Mapping[int, Values], staged: Staged) -> tuple[list[Any], list[HistoryEntry]]:
        """Give every row its number, the stored one's or the next.

        Return the values of all rows, and the entries into the history of those that are replaced.
        """
        keys = list(map(key_of, rows))
        numbers = self._numbers_of(self._ids.look_up_new(self._writer, keys))
        next_number = self._next_number
        records: list[Any] = []
        replaced: list[HistoryEntry] = []
        for key, (req_id, values) in zip(keys, rows.items(), strict=True):
            number = numbers.get(req_id)
            entries = staged.history_entries
            if number is None:
                number = next_number
                next_number += 1
                staged.entries.append((key, number))
            else:
                entries = replaced
            records.append(number)
            records += values
            entries += history_entries(values[USER_ID], values[TARGET_USER_ID], values[CREATED_AT], number)
        return records, replaced

    def _numbers_of(self, entries: Iterable[Entry]) -> dict[int, int]:
        """Return the numbers of the rows that entries name, by their identifiers."""
        rows = _select_numbers.run(self._writer, [number for _, number in entries])
        return {int.from_bytes(req_id, "big"): number for req_id, number in rows}

    def _merge_ids(self, incoming: int) -> Due | None:
        due = self._ids.merge(self._writer, incoming)
        if due is not None:
            mark = self._next_number if due.first_kept is None else due.first_kept
            self._writer.execute("UPDATE row_marks SET ids = ?", (mark,))
        return due

    def read_history(
        self, connection: sqlite3.Connection, user_id: int, limit: int, position: tuple[int, int] | None
    ) -> HistoryPage:
        """Return a page of a user's history, see `RecordStore`."""
        return self._history.read(connection, user_id, limit, position)

    def find(self, connection: sqlite3.Connection, keys: Sequence[int]) -> Iterable[TransferRecord]:
        """Yield the records that exist under some identifiers, in no order."""
        wanted = set(keys)
        entries = self._ids.look_up(connection, list(map(key_of, wanted)))
        numbers = {number for _, number in entries}
        for row in _select_by_number.run(connection, list(numbers)):
            if int.from_bytes(row[0], "big") in wanted:
                yield record_of(row)


def _winners(rows: Sequence[tuple[int, Values]]) -> Mapping[int, Values]:
    """Return the rows by their identifiers; where some have the same, the one of the highest version."""
    winners = dict(rows)
    if len(winners) < len(rows):
        winners = {}
        for key, values in rows:
            former = winners.get(key)
            if former is None or former[VERSION] < values[VERSION]:
                winners[key] = values
    return winners


def scan_rows(connection: sqlite3.Connection, position: int | None, limit: int) -> RecordPage:
    """Return a page of all rows in the order of their arrival, see `RecordStore`."""
    rows = connection.execute(_SCAN, (-1 if position is None else position, limit + 1)).fetchall()
    return RecordPage(
        records=[record_of(row[1:]) for row in rows[:limit]],
        next_position=rows[limit - 1][0] if len(rows) > limit else None,
    )
