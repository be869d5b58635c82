"""The record store's rows: the statements that write them in bulk, and what turns a row into a record.

Synchronous. A thread that runs SQLite gives up the interpreter's lock around every statement, and waits for it after
every statement: behind a busy event loop that wait is what counts. So many rows go into one statement.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final
from uuid import UUID

from transfer_engine.engine.records.protocol import HistoryPage, RecordsDamaged
from transfer_engine.schema.transfers import TransferRecord, TransferState

_COLUMNS: Final = (
    "req_id",
    "source",
    "target",
    "user_id",
    "target_user_id",
    "asset_id",
    "amount",
    "state",
    "created_at",
    "updated_at",
    "error",
    "retry_count",
    "fingerprint",
    "version",
)
RECORD_VALUES: Final = len(_COLUMNS)
HISTORY_VALUES: Final = 3

ROWS_MOST: Final = 512
"""Rows in one statement: 7,168 parameters, of the 32,766 that SQLite allows; a statement of 100 KiB when prepared."""

HISTORY_RECENT_MOST: Final = 4_096
"""Rows of ``history_recent`` before they are moved: more of them save more pages, but make one write longer."""

_STATES: Final = {state.value: state for state in TransferState}
_NAMES: Final = {state: state.value for state in TransferState}

_RECORD_COLUMNS: Final = ", ".join(f"t.{column}" for column in _COLUMNS[:-1])

_UPSERT: Final = (
    "ON CONFLICT (req_id) DO UPDATE SET "
    + ", ".join(f"{column} = excluded.{column}" for column in _COLUMNS[1:])
    + " WHERE excluded.version > transfers.version"
)

# OR ROLLBACK: a broken constraint ends the whole transaction, so SQLite need not keep a copy of each page that one
# statement changes (the "statement journal", a temporary file written beside the WAL).
MOVE_HISTORY: Final = (
    "INSERT OR ROLLBACK INTO history SELECT * FROM history_recent WHERE true ON CONFLICT DO NOTHING",
    "DELETE FROM history_recent",
)

_SELECT_HISTORY: Final = f"""
SELECT h.created_at, h.req_id, {_RECORD_COLUMNS}
FROM (
    SELECT created_at, req_id FROM history
    WHERE user_id = :user_id AND (created_at, req_id) < (:created_at, :req_id)
    UNION
    SELECT created_at, req_id FROM history_recent
    WHERE user_id = :user_id AND (created_at, req_id) < (:created_at, :req_id)
    ORDER BY created_at DESC, req_id DESC LIMIT :limit
) h
LEFT JOIN transfers t
    ON t.req_id = h.req_id AND t.created_at = h.created_at AND :user_id IN (t.user_id, t.target_user_id)
ORDER BY h.created_at DESC, h.req_id DESC
"""  # noqa: S608

_SELECT_SCAN: Final = f"SELECT {_RECORD_COLUMNS} FROM transfers t WHERE req_id > ? ORDER BY req_id LIMIT ?"  # noqa: S608

_FIRST_POSITION: Final = ((1 << 63) - 1, (1 << 128) - 1)


def record_key(req_id: int) -> bytes:
    """Return the 16 bytes under which a transfer is stored.

    Raises:
        ValueError: the number has more than 128 bits, or is negative.
    """
    if req_id < 0 or req_id >> 128:
        raise ValueError(f"req_id is {req_id}: it must have 128 bits")
    return req_id.to_bytes(16, "big")


def flatten(records: Sequence[TransferRecord]) -> tuple[list[Any], list[Any]]:
    """Return the values of the rows in ``transfers``, and of those in the history, one after the other."""
    values: list[Any] = []
    history: list[Any] = []
    names = _NAMES
    for record in records:
        key = record.req_id.bytes
        user_id, target_user_id, created_at = record.user_id, record.target_user_id, record.created_at
        values += (
            key,
            record.source,
            record.target,
            user_id,
            target_user_id,
            record.asset_id,
            record.amount,
            names[record.state],
            created_at,
            record.updated_at,
            record.error,
            record.retry_count,
            record.fingerprint.to_bytes(8, "big"),
            record.version,
        )
        history += (user_id, created_at, key)
        if target_user_id != user_id:
            history += (target_user_id, created_at, key)
    return values, history


def _slices(rows: int) -> Iterator[tuple[int, int, int]]:
    """Split ``rows`` into (first, last, size): powers of two, so that few statements are ever prepared.

    A slice may be a little shorter than its size (by an eighth at most): its last row is then written again.
    """
    first = 0
    while first < rows:
        left = min(rows - first, ROWS_MOST)
        size = 1 << (left - 1).bit_length()
        if left < size - size // 8:
            size = left = size // 2
        yield first, first + left, size
        first += left


def _insert(into: str, width: int, conflict: str) -> dict[int, str]:
    row = f"({', '.join('?' * width)})"
    return {
        1 << power: f"INSERT OR ROLLBACK INTO {into} VALUES {', '.join([row] * (1 << power))} {conflict}"  # noqa: S608
        for power in range(ROWS_MOST.bit_length())
    }


_INSERT_RECORDS: Final = _insert("transfers", RECORD_VALUES, _UPSERT)
_INSERT_HISTORY: Final = _insert("history_recent", HISTORY_VALUES, "ON CONFLICT DO NOTHING")
_SELECT_RECORDS: Final = {
    1 << power: f"SELECT {_RECORD_COLUMNS} FROM transfers t WHERE req_id IN ({', '.join('?' * (1 << power))})"  # noqa: S608
    for power in range(ROWS_MOST.bit_length())
}


def _execute_bulk(connection: sqlite3.Connection, statements: dict[int, str], values: list[Any], width: int) -> None:
    for first, last, size in _slices(len(values) // width):
        part = values[first * width : last * width]
        part += part[-width:] * (size - (last - first))
        connection.execute(statements[size], part)


def write_records(connection: sqlite3.Connection, values: list[Any]) -> None:
    """Write rows of ``transfers``; a stored row with a higher or equal version stays. Repeated rows do no harm."""
    _execute_bulk(connection, _INSERT_RECORDS, values, RECORD_VALUES)


def write_history(connection: sqlite3.Connection, values: list[Any]) -> None:
    """Write rows of the history."""
    _execute_bulk(connection, _INSERT_HISTORY, values, HISTORY_VALUES)


def _record(row: Sequence[Any]) -> TransferRecord:
    """Build the record of a row.

    Raises:
        RecordsDamaged: the row's state is none that we know.
    """
    req_id = UUID(bytes=row[0])
    state = _STATES.get(row[7])
    if state is None:
        raise RecordsDamaged(
            f"transfer {req_id} has the unknown state {row[7]!r} in table transfers: "
            "run the engine that wrote it, or restore the file from a backup"
        )
    return TransferRecord(
        req_id=req_id,
        source=row[1],
        target=row[2],
        user_id=row[3],
        target_user_id=row[4],
        asset_id=row[5],
        amount=row[6],
        state=state,
        created_at=row[8],
        updated_at=row[9],
        error=row[10],
        retry_count=row[11],
        fingerprint=int.from_bytes(row[12], "big"),
    )


def read_records(connection: sqlite3.Connection, keys: Sequence[bytes]) -> Iterable[TransferRecord]:
    """Return the records that exist under some keys, in no order."""
    for first, last, size in _slices(len(keys)):
        part = list(keys[first:last])
        part += part[-1:] * (size - (last - first))
        yield from map(_record, connection.execute(_SELECT_RECORDS[size], part))


def scan_records(connection: sqlite3.Connection, after: bytes, limit: int) -> list[TransferRecord]:
    """Return records with a key above ``after``, in its order."""
    return [_record(row) for row in connection.execute(_SELECT_SCAN, (after, limit))]


def read_history(
    connection: sqlite3.Connection, user_id: int, limit: int, position: tuple[int, int] | None
) -> HistoryPage:
    """Return a page of a user's history, see :meth:`RecordStore.history`.

    A row of the history counts where it agrees with the row in ``transfers``, and that is in one place at most: so
    every transfer is listed once, by the time of its winning version.
    """
    records: list[TransferRecord] = []
    at = position or _FIRST_POSITION
    while True:
        rows = connection.execute(
            _SELECT_HISTORY,
            {"user_id": user_id, "created_at": at[0], "req_id": record_key(at[1]), "limit": limit + 1},
        ).fetchall()
        for row in rows:
            if row[2] is None:
                continue
            if len(records) == limit:
                last = records[-1]
                return HistoryPage(records, (last.created_at, last.req_id.int))
            records.append(_record(row[2:]))
        if len(rows) <= limit:
            return HistoryPage(records, None)
        at = (rows[-1][0], int.from_bytes(rows[-1][1], "big"))
