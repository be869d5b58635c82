# ruff: noqa: S608  # statements are put together from this package's own words; values are always bound
"""How the ledger's values stand in SQLite's columns, and statements that take many rows in one step.

SQLite gives the interpreter lock back in every step, and a busy event loop makes each return cost: so a batch is
read and written in few large steps, not in one step a row.

What is bound is an ``int`` or a ``bytearray`` wherever it can be: each ``bytes`` or ``None`` costs the binding a search
for an adapter, three times as much.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final

INTEGER_END: Final = 1 << 63
"""SQLite's integers end here; wider numbers are stored as 16 big-endian bytes."""

ROWS_MOST: Final = 1024
"""Rows in one statement: with 16 columns half the parameters that SQLite allows."""

_MODULUS_64: Final = 1 << 64

Value = int | bytes | bytearray | None


def to_id(number: int) -> bytearray:
    """Return an id as it is stored: its order is the ids' order."""
    return bytearray(number.to_bytes(16, "big"))


def from_id(stored: bytes) -> int:
    """Return the id that :func:`to_id` stored."""
    return int.from_bytes(stored, "big")


def to_wide(number: int) -> int | bytearray:
    """Return an unsigned number of up to 128 bits as it is stored."""
    return number if number < INTEGER_END else bytearray(number.to_bytes(16, "big"))


def from_wide(stored: int | bytes) -> int:
    """Return the number that :func:`to_wide` stored."""
    return stored if type(stored) is int else int.from_bytes(stored, "big")  # type: ignore[arg-type]


def to_signed(number: int) -> int:
    """Return an unsigned number of up to 64 bits as it is stored: its highest bit is the sign."""
    return number if number < INTEGER_END else number - _MODULUS_64


def from_signed(stored: int) -> int:
    """Return the number that :func:`to_signed` stored."""
    return stored if stored >= 0 else stored + _MODULUS_64


class BulkInsert:
    """An insert of many rows a step; ``on_conflict``: what becomes of a row whose key is there.

    A slice of rows may be filled up by its last one once more, so a row that is repeated must do no harm.

    OR ROLLBACK: a broken constraint ends the whole transaction, so SQLite need not keep a copy of each page that one
    statement changes.
    """

    def __init__(self, table: str, columns: Sequence[str], on_conflict: str) -> None:
        self._width = len(columns)
        head = f"INSERT OR ROLLBACK INTO {table} ({','.join(columns)}) VALUES "
        row = f"({','.join('?' * self._width)})"
        self._statements = {
            size: f"{head}{','.join([row] * size)} ON CONFLICT {on_conflict}" for size in _sizes(ROWS_MOST)
        }

    def run(self, connection: sqlite3.Connection, values: list[Any]) -> None:
        """Insert the rows whose columns stand one after the other in ``values``."""
        for size, part in _slices(values, self._width, ROWS_MOST):
            connection.execute(self._statements[size], part)


class BulkSelect:
    """``SELECT … WHERE column IN (…)`` for many keys a step. ``{keys}`` stands for the list."""

    def __init__(self, statement: str) -> None:
        self._statements = {size: statement.format(keys=",".join("?" * size)) for size in _sizes(ROWS_MOST)}

    def run(self, connection: sqlite3.Connection, keys: list[Any]) -> list[tuple[Any, ...]]:
        """Return the rows of all keys, in no order."""
        found: list[tuple[Any, ...]] = []
        for size, part in _slices(keys, 1, ROWS_MOST):
            found += connection.execute(self._statements[size], part).fetchall()
        return found


def _sizes(most: int) -> list[int]:
    """Return the sizes of statements: powers of two, because each is a text that SQLite has to keep prepared."""
    return [1 << power for power in range(most.bit_length())]


def _slices(values: list[Any], width: int, most: int) -> Iterator[tuple[int, list[Any]]]:
    """Split rows of values into few slices, each of a statement's size, the last row repeated where some are missing.

    At most an eighth of a slice is.
    """
    rows = len(values) // width
    first = 0
    while first < rows:
        left = min(rows - first, most)
        size = 1 << (left - 1).bit_length()
        if left < size - size // 8:
            size = left = size // 2
        part = values[first * width : (first + left) * width]
        yield size, part + part[-width:] * (size - left)
        first += left
