"""Which transfers a user has, by time: the table ``history``, whose newest entries wait in memory, and its pages.

Synchronous. Users come in random order, and each of their rows would dirty a page of its own; so entries wait in
``recent_entries`` until many go to one page. Entries are found again in ``transfers`` from the mark on.

An entry counts where it agrees with the row in ``transfers``: of a transfer that was recorded under several times, or
with several users, one version has won.
"""

import sqlite3
from collections.abc import Iterable
from typing import Any, Final

from transfer_engine.engine.bulk_statements import BulkInsert
from transfer_engine.engine.recent_entries import KEY_MODULUS, Due, RecentEntries
from transfer_engine.engine.records.protocol import HistoryPage
from transfer_engine.engine.records.sqlite_columns import RECORD_COLUMNS, record_key, record_of, require_req_id

HISTORY_RECENT_MOST: Final = 131_072
"""Entries that wait in memory, 24 bytes each. With more of them a page takes more at once, and a history is read from
more places."""

HistoryEntry = tuple[int, int, int]
"""A user's key, the transfer's ``created_at`` (Unix ms), and the number of its row."""

_KEY_FACTOR: Final = 86_249_275_684_813
"""Users often count up from 1: this spreads them over all keys. The golden section of ``KEY_MODULUS``, about."""

_insert = BulkInsert("history", ("key", "created_at", "number"), "DO NOTHING")

SELECT_ENTERED: Final = f"""
SELECT t.number, {RECORD_COLUMNS} FROM history h CROSS JOIN transfers t ON t.number = h.number
WHERE h.key = :key AND h.created_at <= :created_at AND (h.created_at < :created_at OR t.req_id < :req_id)
AND t.created_at = h.created_at AND :user_id IN (t.user_id, t.target_user_id)
ORDER BY h.created_at DESC, t.req_id DESC LIMIT :limit
"""  # noqa: S608

SELECT_NEWEST: Final = f"""
SELECT t.number, {RECORD_COLUMNS} FROM json_each(:newest) e CROSS JOIN transfers t ON t.number = e.value
WHERE (t.created_at, t.req_id) < (:created_at, :req_id) AND :user_id IN (t.user_id, t.target_user_id)
ORDER BY t.created_at DESC, t.req_id DESC LIMIT :limit
"""  # noqa: S608

_FIRST_POSITION: Final = ((1 << 63) - 1, (1 << 128) - 1)


def history_key(user_id: int) -> int:
    """Return the key of a user; others may have the same."""
    return user_id * _KEY_FACTOR % KEY_MODULUS


def history_entries(user_id: int, target_user_id: int, created_at: int, number: int) -> list[HistoryEntry]:
    """Return the entries of a transfer's row: one, or two if it has two users."""
    entry = (history_key(user_id), created_at, number)
    return [entry] if target_user_id == user_id else [entry, (history_key(target_user_id), created_at, number)]


class SqliteHistory:
    """The histories of one file. One thread writes, within its transactions; others may read at any time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._recent = RecentEntries(3, HISTORY_RECENT_MOST)
        rows = connection.execute(
            "SELECT user_id, target_user_id, created_at, number FROM transfers "
            "WHERE number >= (SELECT history FROM row_marks) ORDER BY number"
        )
        self._recent.add(entry for row in rows for entry in history_entries(*row))

    def enter(self, connection: sqlite3.Connection, entries: list[HistoryEntry]) -> None:
        """Enter at once what the mark would not tell of: entries of rows that were there before."""
        _insert.run(connection, [value for entry in sorted(entries) for value in entry])

    def merge(self, connection: sqlite3.Connection, incoming: int, next_number: int) -> Due | None:
        """Make room for ``incoming`` entries; ``next_number``: of the first row whose entries come."""
        due = self._recent.due(incoming)
        if due is not None:
            _insert.run(connection, due.values)
            mark = next_number if due.first_kept is None else due.first_kept
            connection.execute("UPDATE row_marks SET history = ?", (mark,))
        return due

    def committed(self, due: Due | None, added: Iterable[HistoryEntry]) -> None:
        """Forget what was merged, and add the entries of new rows, in the order of the rows."""
        if due is not None:
            self._recent.remove(due)
        self._recent.add(added)

    def read(
        self, connection: sqlite3.Connection, user_id: int, limit: int, position: tuple[int, int] | None
    ) -> HistoryPage:
        """Return a page of a user's history, see `RecordStore`."""
        created_at, req_id = position or _FIRST_POSITION
        key = history_key(user_id)
        # Memory first: an entry leaves it only when it is in the table for all to see.
        newest = str([entry[-1] for entry in self._recent.of(key)])
        values = {
            "key": key,
            "user_id": user_id,
            "created_at": created_at,
            "req_id": record_key(require_req_id(req_id)),
            "newest": newest,
            "limit": limit + 1,
        }
        rows: dict[int, tuple[Any, ...]] = {}
        for statement in (SELECT_ENTERED, SELECT_NEWEST):
            rows.update({row[0]: row[1:] for row in connection.execute(statement, values).fetchall()})
        records = [record_of(row) for row in rows.values()]
        records.sort(key=lambda record: (record.created_at, record.req_id.int), reverse=True)
        if len(records) <= limit:
            return HistoryPage(records, None)
        last = records[limit - 1]
        return HistoryPage(records[:limit], (last.created_at, last.req_id.int))
