"""Which rows an identifier may have: a tree of short keys in a SQLite file, whose newest entries are in memory.

An entry is a key, made from the identifier, and the number of a row. Identifiers that differ may have the same key: who
looks one up is told of rows that *may* be its own, and reads them to be sure. Entries of some 17 bytes, and comparisons
of plain integers, are what the short keys are for.

Nearly every identifier that a writer looks up is a new one. A filter says so without a look into the tree or the
entries in memory; after the file was opened it learns of the tree a little with every batch, and until it knows all of
it, the tree is asked.

One thread changes it, within the transactions of its file. Others may call :meth:`IdTree.look_up` at any time.

The table is ``CREATE TABLE transfer_ids (key INTEGER, row INTEGER, PRIMARY KEY (key, row)) WITHOUT ROWID``.
"""

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from transfer_engine.engine.bulk_statements import BulkInsert, BulkSelect
from transfer_engine.engine.recent_entries import KEY_BITS, KEY_MODULUS, Due, RecentEntries

ENTRIES_MAX: Final = 262_144
"""Entries that wait in memory, 16 bytes each. With more of them a page of the tree takes more at once.

When the file is opened, twice as many rows are read and wait, at most.
"""

_FILTER_SHIFT: Final = KEY_BITS - 24
_FILTER_BYTES: Final = 1 << (KEY_BITS - _FILTER_SHIFT)
"""16 MiB: of new identifiers, 4 % are looked up in the tree when it has 5 million entries, 14 % with 20 million."""

_SCANNED_AN_ENTRY: Final = 8
_SCANNED_MIN: Final = 512
_SCANNED_MAX: Final = 16_384
"""Entries of the tree that the filter learns with a batch, until it knows all."""

Entry = tuple[int, int]
"""A key, and the number of a row. What the number's sign says is the owner's matter; its absolute value grows."""

_select = BulkSelect("SELECT key, row FROM transfer_ids WHERE key IN ({keys})")
_insert = BulkInsert("transfer_ids", ("key", "row"), "DO NOTHING")


def key_of(identifier: int) -> int:
    """Return the key of an identifier."""
    return identifier % KEY_MODULUS


class IdTree:
    """The entries of one file."""

    def __init__(self, entries_max: int) -> None:
        self._recent = RecentEntries(2, entries_max)
        self._filter = bytearray(_FILTER_BYTES)
        self._scanned: int | None = -1
        """Up to which key the filter knows the tree; None: all of it."""

    def look_up(self, connection: sqlite3.Connection, keys: Collection[int]) -> list[Entry]:
        """Return the entries with these keys, in no order, some maybe twice."""
        found: list[Entry] = []
        for key in self._maybe_known(keys):
            found += [(key, row) for _, row in self._recent.of(key)]
        found += _select.run(connection, list(keys))
        return found

    def look_up_new(self, connection: sqlite3.Connection, keys: Collection[int]) -> list[Entry]:
        """Return what :meth:`look_up` does, sooner where most are new. For the writer."""
        return self.look_up(connection, self._maybe_known(keys) if self._scanned is None else keys)

    def load(self, entries: Iterable[Entry]) -> None:
        """Take in the entries of the rows from the mark on, in their order; the tree may have some of them."""
        self._add(list(entries))

    def merge(self, connection: sqlite3.Connection, incoming: int) -> Due | None:
        """Make room for ``incoming`` entries, within the transaction that the caller has begun; None: there is room.

        :meth:`committed` must follow once the transaction is committed, and nothing if it is not.
        """
        if self._scanned is not None:
            self._scan(connection, self._scanned, incoming)
        due = self._recent.due(incoming)
        if due is not None:
            _insert.run(connection, due.values)
        return due

    def committed(self, due: Due | None, added: Sequence[Entry]) -> None:
        """Forget what was merged, and add entries, in the order of their rows, which are later than all before."""
        if due is not None:
            self._recent.remove(due)
        self._add(added)

    def _maybe_known(self, keys: Collection[int]) -> list[int]:
        """Return the keys that the filter does not exclude: among others, all that are in memory."""
        bits = self._filter
        return [key for key in keys if bits[key >> _FILTER_SHIFT] >> (key & 7) & 1]

    def _add(self, added: Sequence[Entry]) -> None:
        self._tell_filter(added)
        self._recent.add(added)

    def _tell_filter(self, entries: Iterable[tuple[int, ...]]) -> None:
        bits = self._filter
        for entry in entries:
            key = entry[0]
            bits[key >> _FILTER_SHIFT] |= 1 << (key & 7)

    def _scan(self, connection: sqlite3.Connection, after: int, incoming: int) -> None:
        """Tell the filter of some more of the tree; what is merged later has been told when it was added."""
        most = min(max(incoming * _SCANNED_AN_ENTRY, _SCANNED_MIN), _SCANNED_MAX)
        keys = connection.execute(
            "SELECT key FROM transfer_ids WHERE key > ? ORDER BY key LIMIT ?", (after, most)
        ).fetchall()
        self._tell_filter(keys)
        self._scanned = keys[-1][0] if len(keys) == most else None
