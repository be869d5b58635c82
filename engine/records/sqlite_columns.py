"""The columns of a transfer's row: what turns a record into values and back."""

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from transfer_engine.engine.records.protocol import RecordsDamaged
from transfer_engine.schema.transfers import TransferRecord, TransferState

COLUMNS: Final = (
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
REQ_ID: Final = COLUMNS.index("req_id")
USER_ID: Final = COLUMNS.index("user_id")
TARGET_USER_ID: Final = COLUMNS.index("target_user_id")
CREATED_AT: Final = COLUMNS.index("created_at")
VERSION: Final = COLUMNS.index("version")

Values = tuple[Any, ...]
"""A row of ``transfers`` without its number, in the order of its columns.

Identifiers are given as ``bytearray``: ``bytes`` would cost a statement a search for an adapter, about 0.3 us each.
"""

RECORD_COLUMNS: Final = ", ".join(f"t.{column}" for column in COLUMNS[:-1])
"""What :func:`record_of` reads."""

UPSERT: Final = (
    "(number) DO UPDATE SET "
    + ", ".join(f"{column} = excluded.{column}" for column in COLUMNS[1:])
    + " WHERE excluded.version > transfers.version"
)

ROWS_MOST: Final = 512
"""Rows in one statement: 7,680 parameters, of the 32,766 that SQLite allows; a statement of 100 KiB when prepared."""

_SIGN: Final = 1 << 63
_MODULUS: Final = 1 << 64
"""Fingerprints have 64 bits without a sign; SQLite's integers have one."""

_STATES: Final = {state.value: state for state in TransferState}
_NAMES: Final = {state: state.value for state in TransferState}


def require_req_id(req_id: int) -> int:
    """Return an identifier.

    Raises:
        ValueError: the number has more than 128 bits, or is negative.
    """
    if req_id < 0 or req_id >> 128:
        raise ValueError(f"req_id is {req_id}: it must have 128 bits")
    return req_id


def record_key(req_id: int) -> bytearray:
    """Return the 16 bytes under which a transfer is stored."""
    return bytearray(req_id.to_bytes(16, "big"))


def values_of(record: TransferRecord) -> Values:
    """Return the values of a record's row."""
    fingerprint = record.fingerprint
    return (
        bytearray(record.req_id.int.to_bytes(16, "big")),
        record.source,
        record.target,
        record.user_id,
        record.target_user_id,
        record.asset_id,
        record.amount,
        _NAMES[record.state],
        record.created_at,
        record.updated_at,
        record.error,
        record.retry_count,
        fingerprint if fingerprint < _SIGN else fingerprint - _MODULUS,
        record.version,
    )


def record_of(row: Sequence[Any]) -> TransferRecord:
    """Build the record of a row (``RECORD_COLUMNS``).

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
        fingerprint=row[12] % _MODULUS,
    )
