# ruff: noqa: S608  # statements are put together from this package's own words; values are always bound
"""Statements of SQLite that take many rows in one step, for the ledger's file and the records'.

SQLite gives the interpreter lock back in every step, and a busy event loop makes each return cost: so a batch is
read and written in few large steps, not in one step a row.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final

ROWS_MOST: Final = 1024
"""Rows in one statement: with 16 columns half the parameters that SQLite allows."""


class BulkInsert:
    """An insert of many rows a step; ``on_conflict``: what becomes of a row whose key is there.

    A slice of rows may be filled up by its last one once more, so a row that is repeated must do no harm.

    OR ROLLBACK: a broken constraint ends the whole transaction, so SQLite need not keep a copy of each page that one
    statement changes (the "statement journal", a temporary file written beside the WAL).
    """

    def __init__(self, table: str, columns: Sequence[str], on_conflict: str, *, rows_most: int = ROWS_MOST) -> None:
        self._width = len(columns)
        self._rows_most = rows_most
        head = f"INSERT OR ROLLBACK INTO {table} ({','.join(columns)}) VALUES "
        row = f"({','.join('?' * self._width)})"
        self._statements = {
            size: f"{head}{','.join([row] * size)} ON CONFLICT {on_conflict}" for size in _sizes(rows_most)
        }

    def run(self, connection: sqlite3.Connection, values: list[Any]) -> None:
        """Insert the rows whose columns stand one after the other in ``values``."""
        for size, part in _parts(values, self._width, self._rows_most):
            connection.execute(self._statements[size], part)


class BulkSelect:
    """``SELECT … WHERE column IN (…)`` for many keys a step. ``{keys}`` stands for the list."""

    def __init__(self, statement: str, *, rows_most: int = ROWS_MOST) -> None:
        self._rows_most = rows_most
        self._statements = {size: statement.format(keys=",".join("?" * size)) for size in _sizes(rows_most)}

    def run(self, connection: sqlite3.Connection, keys: list[Any]) -> list[tuple[Any, ...]]:
        """Return the rows of all keys, in no order."""
        found: list[tuple[Any, ...]] = []
        for size, part in _parts(keys, 1, self._rows_most):
            found += connection.execute(self._statements[size], part).fetchall()
        return found


def _sizes(most: int) -> list[int]:
    """Return the sizes of statements: powers of two, because each is a text that SQLite has to keep prepared."""
    return [1 << power for power in range(most.bit_length())]


def slices(rows: int, most: int) -> Iterator[tuple[int, int, int]]:
    """Split ``rows`` into (first, last, size): powers of two up to ``most``, so that few statements are ever prepared.

    A slice may be a little shorter than its size, by an eighth at most: then its last row is repeated.
    """
    first = 0
    while first < rows:
        left = min(rows - first, most)
        size = 1 << (left - 1).bit_length()
        if left < size - size // 8:
            size = left = size // 2
        yield first, first + left, size
        first += left


def _parts(values: list[Any], width: int, most: int) -> Iterator[tuple[int, list[Any]]]:
    """Yield the values of each slice, filled up to its size."""
    for first, last, size in slices(len(values) // width, most):
        part = values[first * width : last * width]
        yield size, part + part[-width:] * (size - (last - first))
