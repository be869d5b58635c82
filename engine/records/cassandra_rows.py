"""A transfer's row in Cassandra: records packed into batch entries, and rows read back. Synchronous."""

import struct
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from transfer_engine.engine.records.cassandra_messages import text_value
from transfer_engine.engine.records.protocol import RecordsDamaged
from transfer_engine.schema.ids import is_req_id
from transfer_engine.schema.transfers import TransferRecord, TransferState

PERIOD_MS: Final = 600_000
"""A partition of histories holds ten minutes of a share of all users."""

HISTORY_PARTS: Final = 16
"""Shares of users: rows of one partition cost the server a third less than rows of their own.

More of them spread the load over more nodes, and make partitions smaller. An entry takes about 50 bytes: 10,000
transfers a second are 19 MB in ten minutes."""

COLUMNS: Final = (
    "source",
    "target",
    "state",
    "error",
    "req_id",
    "user_id",
    "target_user_id",
    "asset_id",
    "amount",
    "created_at",
    "updated_at",
    "retry_count",
    "fingerprint",
)
"""A record's `req_id`, and its fields in their order; texts first: what follows them has one length."""

SELECTED: Final = ", ".join(name if name == "req_id" else f"record.{name}" for name in COLUMNS)
"""What :func:`record_of` reads."""

ROW_VALUES: Final = 3
"""Values of a row's insert: its record, its `req_id`, and its timestamp."""

HISTORY_VALUES: Final = 5
PERIOD_VALUES: Final = 2

_FIXED: Final = struct.Struct(">iqiqiiiqiqiqiiiqi16siq")
_FIXED_IN_RECORD: Final = _FIXED.size - struct.calcsize(">i16siq")
_LENGTH: Final = struct.Struct(">i")
_HISTORY: Final = struct.Struct(">iiiqiqiqi16s")
_PERIOD: Final = struct.Struct(">iqiq")
_TEXTS_MOST: Final = 4_096
_TEXT_CACHED_MOST: Final = 128

_SIGN: Final = 1 << 63
_MODULUS: Final = 1 << 64
"""Fingerprints have 64 bits without a sign; a ``bigint`` has one."""

_PART_MULTIPLIER: Final = 0x9E37_79B9_7F4A_7C15
_PART_SHIFT: Final = 64 - (HISTORY_PARTS - 1).bit_length()

_STATES: Final = {state.value: state for state in TransferState}


def history_part(user_id: int) -> int:
    """Return which share of the histories a user's entries are in: however the numbers of users are made, even ones."""
    return user_id * _PART_MULTIPLIER % _MODULUS >> _PART_SHIFT


class RowPacker:
    """Packs rows, history entries and periods into entries of a batch, each behind its statement's prefix."""

    def __init__(self, *, row: bytes, history: bytes, period: bytes) -> None:
        self._row_prefix = row
        self._history_prefix = history
        self._period_prefix = period
        self._texts: dict[tuple[str, str, str, str], bytes] = {}

    def row(self, record: TransferRecord) -> bytes:
        """Return the entry of a record's row.

        Raises:
            ValueError: a number does not fit its column; the message names it.
        """
        texts = (record.source, record.target, record.state, record.error)
        head = self._texts.get(texts)
        if head is None:
            head = self._pack_texts(texts)
        fingerprint = record.fingerprint
        try:
            return head + _FIXED.pack(
                8,
                record.user_id,
                8,
                record.target_user_id,
                4,
                record.asset_id,
                8,
                record.amount,
                8,
                record.created_at,
                8,
                record.updated_at,
                4,
                record.retry_count,
                8,
                fingerprint if fingerprint < _SIGN else fingerprint - _MODULUS,
                16,
                record.req_id.bytes,
                8,
                record.version,
            )
        except struct.error:
            raise ValueError(_misfit(record)) from None

    def _pack_texts(self, texts: tuple[str, str, str, str]) -> bytes:
        packed = b"".join(map(text_value, texts))
        head = self._row_prefix + _LENGTH.pack(len(packed) + _FIXED_IN_RECORD) + packed
        if len(texts[3]) <= _TEXT_CACHED_MOST:
            if len(self._texts) >= _TEXTS_MOST:
                self._texts.clear()
            self._texts[texts] = head
        return head

    def history(self, user_id: int, record: TransferRecord) -> bytes:
        """Return the entry of a user's history."""
        created_at = record.created_at
        return self._history_prefix + _HISTORY.pack(
            4,
            history_part(user_id),
            8,
            created_at // PERIOD_MS,
            8,
            user_id,
            8,
            created_at,
            16,
            record.req_id.bytes,
        )

    def period(self, user_id: int, period: int) -> bytes:
        """Return the entry that says that a user has entries in a period."""
        return self._period_prefix + _PERIOD.pack(8, user_id, 8, period)


def _misfit(record: TransferRecord) -> str:
    for name in COLUMNS[5:]:
        number = getattr(record, name)
        bits = 31 if name in {"asset_id", "retry_count"} else 64 if name == "fingerprint" else 63
        if not 0 <= number < 1 << bits:
            return f"transfer {record.req_id}: {name} is {number}: it must have {bits} bits, without a sign"
    return f"transfer {record.req_id} does not fit its row"


def record_of(row: Sequence[Any]) -> TransferRecord:
    """Build the record of a row (``COLUMNS``).

    Raises:
        RecordsDamaged: the row's state or `req_id` is none that we know, or a column is empty.
    """
    source, target, state_name, error, req_id, *numbers = row
    state = _STATES.get(state_name)
    if state is None:
        raise _damaged(req_id, f"has the unknown state {state_name!r}")
    if not is_req_id(req_id.int):
        raise _damaged(req_id, "has a req_id of a foreign shape")
    if source is None or target is None or error is None or None in numbers:
        empty = [name for name, value in zip(COLUMNS, row, strict=True) if value is None]
        raise _damaged(req_id, f"has no {', '.join(empty)}")
    user_id, target_user_id, asset_id, amount, created_at, updated_at, retry_count, fingerprint = numbers
    return TransferRecord(
        req_id=req_id,
        source=source,
        target=target,
        user_id=user_id,
        target_user_id=target_user_id,
        asset_id=asset_id,
        amount=amount,
        state=state,
        created_at=created_at,
        updated_at=updated_at,
        error=error,
        retry_count=retry_count,
        fingerprint=fingerprint % _MODULUS,
    )


def _damaged(req_id: UUID, what: str) -> RecordsDamaged:
    return RecordsDamaged(
        f"transfer {req_id} {what} in table transfers: another program wrote it, or a later release of this one; "
        "repair it through the engine that did"
    )
