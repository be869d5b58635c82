"""A transfer's row in Cassandra: records packed into batch entries, and rows read back. Synchronous."""

import struct
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from transfer_engine.engine.records.cassandra_messages import text_value
from transfer_engine.engine.records.protocol import RecordsDamaged
from transfer_engine.schema.ids import is_req_id
from transfer_engine.schema.transfers import TransferRecord, TransferState

PERIOD_MS: Final = 6 * 3_600_000
"""A partition of a user's history: an entry takes about 50 bytes, so 97 transfers a second fill 100 MB in 6 hours."""

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
"""Texts first: what follows them has one length, and is packed at once."""

ROW_VALUES: Final = len(COLUMNS) + 1
"""Values of a row's insert: its columns, and its timestamp."""

_FIXED: Final = struct.Struct(">i16siqiqiiiqiqiqiiiqiq")
_HISTORY: Final = struct.Struct(">iqiqiqi16s")
_PERIOD: Final = struct.Struct(">iqiq")
_TEXTS_MOST: Final = 4_096
_TEXT_CACHED_MOST: Final = 128

_SIGN: Final = 1 << 63
_MODULUS: Final = 1 << 64
"""Fingerprints have 64 bits without a sign; a ``bigint`` has one."""

_STATES: Final = {state.value: state for state in TransferState}


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
                16,
                record.req_id.bytes,
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
                8,
                record.version,
            )
        except struct.error:
            raise ValueError(_misfit(record)) from None

    def _pack_texts(self, texts: tuple[str, str, str, str]) -> bytes:
        head = self._row_prefix + b"".join(map(text_value, texts))
        if len(texts[3]) <= _TEXT_CACHED_MOST:
            if len(self._texts) >= _TEXTS_MOST:
                self._texts.clear()
            self._texts[texts] = head
        return head

    def history(self, user_id: int, record: TransferRecord) -> bytes:
        """Return the entry of a user's history."""
        created_at = record.created_at
        return self._history_prefix + _HISTORY.pack(
            8, user_id, 8, created_at // PERIOD_MS, 8, created_at, 16, record.req_id.bytes
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
