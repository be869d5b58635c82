"""The ids of transfers in the ledger's tree of ids (``id_tree``): loaded when the file is opened, merged with a batch.

A row of ``transfers``, be it a move with its two ids or one transfer, is one entry, and so is a row of ``burnt_ids``.
The key is made from the id without its last byte, which the legs of one move share; the row is named by its timestamp,
which is negative where the id was burnt then. So an entry says where an id may be: who asks reads that row.
"""

import sqlite3
from collections.abc import Iterable
from heapq import merge
from typing import Final

from transfer_engine.engine.id_tree import ENTRIES_MAX, Entry, IdTree, key_of
from transfer_engine.engine.ledger.columns import from_id
from transfer_engine.engine.recent_entries import Due

IDS_MAX: Final = ENTRIES_MAX
"""How many entries wait in memory at most."""

PREFIX_SHIFT: Final = 8
PREFIX_BYTES: Final = 15


def load_recent_ids(connection: sqlite3.Connection, ids: IdTree) -> None:
    """Take in what is not in the file's tree yet."""
    ids.load(_after_mark(connection))


def _after_mark(connection: sqlite3.Connection) -> Iterable[Entry]:
    """Return the entries after the file's mark, in the order of time."""
    rows = connection.execute(
        "SELECT id, timestamp, legs FROM transfers WHERE timestamp > (SELECT ids_merged_until FROM clock) "
        "ORDER BY timestamp"
    )
    transfers = (
        (key_of(from_id(stored) >> PREFIX_SHIFT if legs is None else from_id(stored)), timestamp)
        for stored, timestamp, legs in rows
    )
    rows = connection.execute(
        "SELECT id, timestamp FROM burnt_ids WHERE timestamp > (SELECT ids_merged_until FROM clock) ORDER BY timestamp"
    )
    burnt = [(key_of(from_id(stored) >> PREFIX_SHIFT), -timestamp) for stored, timestamp in rows]
    return merge(transfers, burnt, key=_moment) if burnt else transfers


def _moment(entry: Entry) -> int:
    return abs(entry[1])


def merge_ids(connection: sqlite3.Connection, ids: IdTree, incoming: int, last_timestamp: int) -> Due | None:
    """Make room for a batch inside its transaction, and note how far the file's tree is complete.

    ``last_timestamp`` (ns) is that of the batch before. Returns what :meth:`IdTree.committed` is to be told.
    """
    due = ids.merge(connection, incoming)
    if due is not None:
        until = last_timestamp if due.first_kept is None else due.first_kept - 1
        connection.execute("UPDATE clock SET ids_merged_until = ?", (until,))
    return due
