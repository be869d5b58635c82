"""The record store's rows of transfers and their histories: written within a transaction of another's, and read.

Synchronous. Three trees would each be dirtied at random by every row: by identifier, by user, and the rows themselves.
Rows lie in the order of their arrival; identifiers wait in memory (``sqlite_ids``), and the users' newest history in a
small tree of its own, until many of them go to one page.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from transfer_engine.engine import crash_points
from transfer_engine.engine.records import sqlite_ids
from transfer_engine.engine.records.protocol import HistoryPage, RecordPage
from transfer_engine.engine.records.sqlite_columns import (
    CREATED_AT,
    RECORD_COLUMNS,
    REQ_ID,
    TARGET_USER_ID,
    UPSERT,
    USER_ID,
    VERSION,
    BulkStatement,
    Values,
    blob_parameter,
    bulk_insert,
    record_key,
    record_of,
)
from transfer_engine.engine.records.sqlite_ids import Entry, RecentIds
from transfer_engine.schema.transfers import TransferRecord

HISTORY_RECENT_MOST: Final = 8_192
"""Rows of ``history_recent`` before they are moved: more of them save more pages, but make one write longer."""

_insert_records = bulk_insert("transfers", 1 + VERSION + 1, UPSERT)
_insert_history = bulk_insert("history_recent", 4, "DO NOTHING")
_insert_ids = bulk_insert("transfer_ids", 2, "DO NOTHING")
_select_numbers = BulkStatement("SELECT req_id, number FROM transfer_ids WHERE req_id IN ({rows})", "?")
_select_by_id = BulkStatement(
    f"SELECT {RECORD_COLUMNS} FROM transfer_ids i JOIN transfers t USING (number) WHERE i.req_id IN ({{rows}})",  # noqa: S608
    "?",
)
_select_by_number = BulkStatement(f"SELECT {RECORD_COLUMNS} FROM transfers t WHERE t.number IN ({{rows}})", "?")  # noqa: S608

_MOVE_HISTORY: Final = (
    "INSERT OR ROLLBACK INTO history SELECT * FROM history_recent WHERE true ON CONFLICT DO NOTHING",
    "DELETE FROM history_recent",
)

_SCAN: Final = f"SELECT t.number, {RECORD_COLUMNS} FROM transfers t WHERE t.number > ? ORDER BY t.number LIMIT ?"  # noqa: S608

SELECT_HISTORY: Final = f"""
SELECT h.created_at, h.req_id, {RECORD_COLUMNS}
FROM (
    SELECT created_at, req_id, number FROM history
    WHERE user_id = :user_id AND (created_at, req_id) < (:created_at, :req_id)
    UNION
    SELECT created_at, req_id, number FROM history_recent
    WHERE user_id = :user_id AND (created_at, req_id) < (:created_at, :req_id)
    ORDER BY created_at DESC, req_id DESC LIMIT :limit
) h
LEFT JOIN transfers t
    ON t.number = h.number AND t.created_at = h.created_at AND :user_id IN (t.user_id, t.target_user_id)
ORDER BY h.created_at DESC, h.req_id DESC
"""  # noqa: S608

_FIRST_POSITION: Final = ((1 << 63) - 1, (1 << 128) - 1)


class Staged:
    """What a transaction that wrote rows changes in memory, once it is committed."""

    __slots__ = ("added", "history_recent", "merged")

    def __init__(self) -> None:
        self.added: list[Entry] = []
        self.merged: list[Entry] = []
        self.history_recent = 0


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
        ids = RecentIds(sqlite_ids.IDS_MOST, sqlite_ids.MERGE_LEAST)
        (merged_below,) = self._writer.execute("SELECT number FROM transfer_ids_mark").fetchone()
        self._next_number: int = merged_below
        unmerged = self._writer.execute(
            "SELECT req_id, number FROM transfers t WHERE number >= ? "
            "AND NOT EXISTS (SELECT 1 FROM transfer_ids i WHERE i.req_id = t.req_id) ORDER BY number",
            (merged_below,),
        )
        ids.add(unmerged)
        (last,) = self._writer.execute("SELECT max(number) FROM transfers").fetchone()
        self._next_number = 0 if last is None else last + 1
        (self._history_recent,) = self._writer.execute("SELECT count(*) FROM history_recent").fetchone()
        self._ids = ids

    def write(self, rows: Iterable[Values]) -> Staged:
        """Write rows and their histories, within the writer's transaction; a stored row of a higher version stays.

        Call :meth:`committed` with the answer once the transaction is committed, and forget it otherwise.
        """
        data_version = self._read_data_version()
        if data_version != self._data_version:
            self._load()
            self._data_version = data_version
        highest: dict[bytes, Values] = {}
        for values in rows:
            stored = highest.get(values[REQ_ID])
            if stored is None or stored[VERSION] < values[VERSION]:
                highest[values[REQ_ID]] = values
        staged = Staged()
        records, history = self._number(highest, staged)
        crash_points.reach("before_rows")
        _insert_records.execute(self._writer, records)
        crash_points.reach("between_rows")
        self._write_history(history, staged)
        self._merge_ids(staged)
        return staged

    def committed(self, staged: Staged) -> None:
        """Take over what a transaction changed, now that it is durable."""
        self._ids.add(staged.added)
        self._ids.remove(staged.merged)
        self._next_number += len(staged.added)
        self._history_recent = staged.history_recent

    def _number(self, rows: dict[bytes, Values], staged: Staged) -> tuple[list[Any], list[Any]]:
        """Give every row its number, the stored one's or the next; return the values of rows and of the history."""
        number_of = self._ids.number_of
        numbers = {key: number_of(key) for key in rows}
        elsewhere = [key for key, number in numbers.items() if number is None]
        numbers.update(_select_numbers.select(self._writer, list(map(blob_parameter, elsewhere))))
        next_number = self._next_number
        records: list[Any] = []
        history: list[Any] = []
        for key, values in rows.items():
            number = numbers[key]
            if number is None:
                number = next_number + len(staged.added)
                staged.added.append((key, number))
            parameter = blob_parameter(key)
            records += (number, parameter)
            records += values[1:]
            user_id, target_user_id, created_at = values[USER_ID], values[TARGET_USER_ID], values[CREATED_AT]
            history += (user_id, created_at, parameter, number)
            if target_user_id != user_id:
                history += (target_user_id, created_at, parameter, number)
        return records, history

    def _write_history(self, history: list[Any], staged: Staged) -> None:
        _insert_history.execute(self._writer, history)
        staged.history_recent = self._history_recent + len(history) // 4
        if staged.history_recent >= HISTORY_RECENT_MOST:
            for statement in _MOVE_HISTORY:
                self._writer.execute(statement)
            staged.history_recent = 0

    def _merge_ids(self, staged: Staged) -> None:
        staged.merged = self._ids.due(len(staged.added))
        if staged.merged:
            values = [value for key, number in sorted(staged.merged) for value in (blob_parameter(key), number)]
            _insert_ids.execute(self._writer, values)
            mark = self._ids.merged_below(staged.merged, self._next_number)
            self._writer.execute("UPDATE transfer_ids_mark SET number = ?", (mark,))

    def find(self, connection: sqlite3.Connection, keys: Sequence[bytes]) -> Iterable[TransferRecord]:
        """Yield the records that exist under some keys, in no order."""
        numbers: list[Any] = []
        elsewhere: list[Any] = []
        for key in keys:
            number = self._ids.number_of(key)
            if number is None:
                elsewhere.append(blob_parameter(key))
            else:
                numbers.append(number)
        yield from map(record_of, _select_by_number.select(connection, numbers))
        yield from map(record_of, _select_by_id.select(connection, elsewhere))


def scan_rows(connection: sqlite3.Connection, position: int | None, limit: int) -> RecordPage:
    """Return a page of all rows in the order of their arrival, see `RecordStore`."""
    rows = connection.execute(_SCAN, (-1 if position is None else position, limit + 1)).fetchall()
    return RecordPage(
        records=[record_of(row[1:]) for row in rows[:limit]],
        next_position=rows[limit - 1][0] if len(rows) > limit else None,
    )


def read_history(
    connection: sqlite3.Connection, user_id: int, limit: int, position: tuple[int, int] | None
) -> HistoryPage:
    """Return a page of a user's history, see `RecordStore`.

    A row of the history counts where it agrees with the row in ``transfers``, and that is in one place at most: so
    every transfer is listed once, by the time of its winning version.
    """
    records: list[TransferRecord] = []
    at = position or _FIRST_POSITION
    while True:
        rows = connection.execute(
            SELECT_HISTORY,
            {"user_id": user_id, "created_at": at[0], "req_id": record_key(at[1]), "limit": limit + 1},
        ).fetchall()
        for row in rows:
            if row[2] is None:
                continue
            if len(records) == limit:
                last = records[-1]
                return HistoryPage(records, (last.created_at, last.req_id.int))
            records.append(record_of(row[2:]))
        if len(rows) <= limit:
            return HistoryPage(records, None)
        at = (rows[-1][0], int.from_bytes(rows[-1][1], "big"))
