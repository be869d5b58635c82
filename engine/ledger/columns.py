# ruff: noqa: S608  # statements are put together from this package's own words; values are always bound
"""How the ledger's values stand in SQLite's columns, and statements that take many rows in one step.

SQLite gives the interpreter lock back in every step, and a busy event loop makes each return cost: so a batch is
read and written in few large steps, not in one step a row.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

INTEGER_END: Final = 1 << 63
"""SQLite's integers end here; wider numbers are stored as 16 big-endian bytes."""

# Few sizes, because each is a statement that SQLite has to keep; what is left over in one is padded with NULL.
_ROWS_A_STATEMENT: Final = (1, 8, 64, 256, 1024)
_KEYS_A_STATEMENT: Final = (2, 32, 256, 2048)

Value = int | bytes | None


def to_id(number: int) -> bytes:
    """Return an id as it is stored: its order is the ids' order."""
    return number.to_bytes(16, "big")


def from_id(stored: bytes) -> int:
    """Return the id that :func:`to_id` stored."""
    return int.from_bytes(stored, "big")


def to_wide(number: int) -> int | bytes:
    """Return an unsigned number of up to 128 bits as it is stored."""
    return number if number < INTEGER_END else number.to_bytes(16, "big")


def from_wide(stored: int | bytes) -> int:
    """Return the number that :func:`to_wide` stored."""
    return stored if type(stored) is int else int.from_bytes(stored, "big")  # type: ignore[arg-type]


class BulkInsert:
    """``INSERT`` of many rows a step. The first column must never be NULL. ``suffix``: order, conflicts."""

    def __init__(self, table: str, columns: Sequence[str], *, suffix: str = "") -> None:
        self._width = len(columns)
        head = f"INSERT INTO {table} ({','.join(columns)})"
        row = f"({','.join('?' * self._width)})"
        self._statements = [
            (rows, f"{head} SELECT * FROM (VALUES {','.join([row] * rows)}) WHERE column1 IS NOT NULL {suffix}")
            for rows in _ROWS_A_STATEMENT
        ]

    def run(self, connection: sqlite3.Connection, values: list[Value]) -> None:
        """Insert the rows whose columns stand one after the other in ``values``."""
        width = self._width
        for start, rows, statement in _pieces(self._statements, len(values) // width):
            taken = values[start * width : (start + rows) * width]
            taken.extend([None] * (rows * width - len(taken)))
            connection.execute(statement, taken)


class BulkSelect:
    """``SELECT … WHERE column IN (…)`` for many keys a step. ``{keys}`` stands for the list."""

    def __init__(self, statement: str) -> None:
        self._statements = [(keys, statement.format(keys=",".join("?" * keys))) for keys in _KEYS_A_STATEMENT]

    def run(self, connection: sqlite3.Connection, keys: Sequence[Value]) -> Iterable[tuple[Any, ...]]:
        """Return the rows of all keys, in no order."""
        found = []
        for start, size, statement in _pieces(self._statements, len(keys)):
            taken = list(keys[start : start + size])
            taken.extend([None] * (size - len(taken)))
            found.append(connection.execute(statement, taken).fetchall())
        return chain.from_iterable(found)


def _pieces(statements: list[tuple[int, str]], count: int) -> Iterator[tuple[int, int, str]]:
    """Yield where each piece starts, and the size and text of its statement: few pieces, at least half full."""
    start = 0
    while start < count:
        left = count - start
        size, statement = statements[0]
        for larger in statements:
            if larger[0] <= 2 * left:
                size, statement = larger
        yield start, size, statement
        start += size
