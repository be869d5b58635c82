"""The record store's rows of transfers and their histories: written within a transaction of another's, and read.

Synchronous. Three trees would each be dirtied at random by every row: by identifier, by user, and the rows themselves.
Rows lie in the order of their arrival; identifiers wait in memory (``sqlite_ids``), and so does which users the newest
rows are of, until many of them go to one page.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from transfer_engine.engine import crash_points
from transfer_engine.engine.bulk_statements import BulkInsert, BulkSelect
from transfer_engine.engine.records import sqlite_ids
from transfer_engine.engine.records.protocol import HistoryPage, RecordPage
from transfer_engine.engine.records.sqlite_columns import (
    COLUMNS,
    CREATED_AT,
    RECORD_COLUMNS,
    REQ_ID,
    ROWS_MOST,
    TARGET_USER_ID,
    UPSERT,
    USER_ID,
    VERSION,
    Values,
    record_key,
    record_of,
    require_req_id,
)
from transfer_engine.engine.records.sqlite_ids import Entry, RecentIds
from transfer_engine.schema.transfers import TransferRecord

HISTORY_RECENT_MOST: Final = 8_192
"""Rows before they are entered into ``history``: more of them save more pages, but make one write longer."""

_insert_records = BulkInsert("transfers", ("number", *COLUMNS), UPSERT, rows_most=ROWS_MOST)
_insert_history = BulkInsert(
    "history", ("user_id", "created_at", "req_id", "number"), "DO NOTHING", rows_most=ROWS_MOST
)
_insert_ids = BulkInsert("transfer_ids", ("req_id", "number"), "DO NOTHING", rows_most=ROWS_MOST)
_select_numbers = BulkSelect("SELECT req_id, number FROM transfer_ids WHERE req_id IN ({keys})", rows_most=ROWS_MOST)
_select_by_id = BulkSelect(
    f"SELECT {RECORD_COLUMNS} FROM transfer_ids i JOIN transfers t USING (number) WHERE i.req_id IN ({{keys}})",  # noqa: S608
    rows_most=ROWS_MOST,
)
_select_by_number = BulkSelect(
    f"SELECT {RECORD_COLUMNS} FROM transfers t WHERE t.number IN ({{keys}})",  # noqa: S608
    rows_most=ROWS_MOST,
)

_ENTER_HISTORY: Final = """
INSERT OR ROLLBACK INTO history
SELECT user_id, created_at, req_id, number FROM transfers WHERE number >= :number
UNION ALL
SELECT target_user_id, created_at, req_id, number FROM transfers WHERE number >= :number AND target_user_id <> user_id
ON CONFLICT DO NOTHING
"""

_SCAN: Final = f"SELECT t.number, {RECORD_COLUMNS} FROM transfers t WHERE t.number > ? ORDER BY t.number LIMIT ?"  # noqa: S608

SELECT_HISTORY: Final = f"""
SELECT h.created_at, h.req_id, {RECORD_COLUMNS}
FROM (
    SELECT created_at, req_id, number FROM history
    WHERE user_id = :user_id AND (created_at, req_id) < (:created_at, :req_id)
    UNION
    SELECT n.created_at, n.req_id, n.number FROM json_each(:newest) e CROSS JOIN transfers n ON n.number = e.value
    WHERE (n.created_at, n.req_id) < (:created_at, :req_id)
    ORDER BY created_at DESC, req_id DESC LIMIT :limit
) h
LEFT JOIN transfers t
    ON t.number = h.number AND t.created_at = h.created_at AND :user_id IN (t.user_id, t.target_user_id)
ORDER BY h.created_at DESC, h.req_id DESC
"""  # noqa: S608

_FIRST_POSITION: Final = ((1 << 63) - 1, (1 << 128) - 1)


class Staged:
    """What a transaction that wrote rows changes in memory, once it is committed."""

    __slots__ = ("added", "history_from", "merged", "of_users")

    def __init__(self, history_from: int) -> None:
        self.added: list[Entry] = []
        self.merged: list[Entry] = []
        self.of_users: list[tuple[int, int]] = []
        """Users, each with the number of a row."""
        self.history_from = history_from


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
        merged_below, history_from = self._writer.execute("SELECT ids, history FROM row_marks").fetchone()
        unmerged = self._writer.execute(
            "SELECT req_id, number FROM transfers t WHERE number >= ? "
            "AND NOT EXISTS (SELECT 1 FROM transfer_ids i WHERE i.req_id = t.req_id) ORDER BY number",
            (merged_below,),
        )
        ids.add((int.from_bytes(req_id, "big"), number) for req_id, number in unmerged)
        (last,) = self._writer.execute("SELECT max(number) FROM transfers").fetchone()
        of_users = self._writer.execute(
            "SELECT user_id, number FROM transfers WHERE number >= :number UNION "
            "SELECT target_user_id, number FROM transfers WHERE number >= :number",
            {"number": history_from},
        )
        self._next_number = 0 if last is None else last + 1
        self._history_from: int = history_from
        self._newest: dict[int, list[int]] = {}
        self._add_newest(of_users)
        self._ids = ids

    def write(self, rows: Sequence[tuple[int, Values]]) -> Staged:
        """Write rows, each with its identifier, and their histories, within the writer's transaction.

        A stored row of a higher version stays. Call :meth:`committed` with the answer once the transaction is
        committed, and forget it otherwise.
        """
        data_version = self._read_data_version()
        if data_version != self._data_version:
            self._load()
            self._data_version = data_version
        staged = Staged(self._history_from)
        records, history = self._number(_winners(rows), staged)
        crash_points.reach("before_rows")
        _insert_records.run(self._writer, records)
        crash_points.reach("between_rows")
        _insert_history.run(self._writer, history)
        next_number = self._next_number + len(staged.added)
        if next_number - self._history_from >= HISTORY_RECENT_MOST:
            self._writer.execute(_ENTER_HISTORY, {"number": self._history_from})
            self._writer.execute("UPDATE row_marks SET history = ?", (next_number,))
            staged.history_from = next_number
        self._merge_ids(staged)
        return staged

    def committed(self, staged: Staged) -> None:
        """Take over what a transaction changed, now that it is durable."""
        self._ids.add(staged.added)
        self._ids.remove(staged.merged)
        self._next_number += len(staged.added)
        if staged.history_from != self._history_from:
            self._history_from = staged.history_from
            self._newest = {}
        else:
            self._add_newest(staged.of_users)

    def _add_newest(self, of_users: Iterable[tuple[int, int]]) -> None:
        newest = self._newest
        for user_id, number in of_users:
            numbers = newest.get(user_id)
            if numbers is None:
                newest[user_id] = [number]
            else:
                numbers.append(number)

    def _number(self, rows: Mapping[int, Values], staged: Staged) -> tuple[list[Any], list[Any]]:
        """Give every row its number, the stored one's or the next; return the values of rows and of the history.

        The history's are those of rows that are replaced after they were entered: the others are entered later.
        """
        numbers = self._ids.find(rows)
        elsewhere = [values[REQ_ID] for key, values in rows.items() if key not in numbers]
        for req_id, number in _select_numbers.run(self._writer, elsewhere):
            numbers[int.from_bytes(req_id, "big")] = number
        next_number = self._next_number
        records: list[Any] = []
        history: list[Any] = []
        for key, values in rows.items():
            number = numbers.get(key)
            if number is None:
                number = next_number
                next_number += 1
                staged.added.append((key, number))
            records.append(number)
            records += values
            user_id, target_user_id = values[USER_ID], values[TARGET_USER_ID]
            staged.of_users.append((user_id, number))
            if target_user_id != user_id:
                staged.of_users.append((target_user_id, number))
            if number < self._history_from:
                for each in {user_id, target_user_id}:
                    history += (each, values[CREATED_AT], values[REQ_ID], number)
        return records, history

    def _merge_ids(self, staged: Staged) -> None:
        staged.merged = self._ids.due(len(staged.added))
        if staged.merged:
            values = [value for key, number in sorted(staged.merged) for value in (record_key(key), number)]
            _insert_ids.run(self._writer, values)
            mark = self._ids.merged_below(staged.merged, self._next_number)
            self._writer.execute("UPDATE row_marks SET ids = ?", (mark,))

    def newest_of(self, user_id: int) -> list[int]:
        """Return the numbers of a user's rows that may not be in ``history``; ask here before you ask there."""
        return list(self._newest.get(user_id, ()))

    def find(self, connection: sqlite3.Connection, keys: Sequence[int]) -> Iterable[TransferRecord]:
        """Yield the records that exist under some identifiers, in no order."""
        numbers = self._ids.find(keys)
        yield from map(record_of, _select_by_number.run(connection, list(numbers.values())))
        elsewhere = [record_key(key) for key in keys if key not in numbers]
        yield from map(record_of, _select_by_id.run(connection, elsewhere))


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


def read_history(
    connection: sqlite3.Connection,
    user_id: int,
    limit: int,
    position: tuple[int, int] | None,
    newest_of: Callable[[int], list[int]],
) -> HistoryPage:
    """Return a page of a user's history, see `RecordStore`; ``newest_of`` is :meth:`SqliteRows.newest_of`.

    A row of the history counts where it agrees with the row in ``transfers``, and that is in one place at most: so
    every transfer is listed once, by the time of its winning version.
    """
    records: list[TransferRecord] = []
    at = position or _FIRST_POSITION
    while True:
        newest = str(newest_of(user_id))
        rows = connection.execute(
            SELECT_HISTORY,
            {
                "user_id": user_id,
                "created_at": at[0],
                "req_id": record_key(require_req_id(at[1])),
                "newest": newest,
                "limit": limit + 1,
            },
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
