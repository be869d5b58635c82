"""What is packed by hand is, byte for byte, what the driver itself would send; and what is remembered is bounded."""

import io
from collections import Counter
from typing import Any
from uuid import UUID

import pytest
from cassandra import ConsistencyLevel
from cassandra.cqltypes import Int32Type, LongType, UserType, UTF8Type
from cassandra.protocol import BatchMessage, ExecuteMessage
from cassandra.query import BatchType
from hypothesis import given
from hypothesis import strategies as st

from support.record_stores import record
from transfer_engine.engine.records.cassandra_messages import (
    PROTOCOL_VERSION,
    Request,
    batch_prefix,
    batch_request,
    bigint_value,
    bytes_value,
    composite_key,
    execute_request,
    int_value,
    list_value,
    text_value,
)
from transfer_engine.engine.records.cassandra_rows import (
    COLUMNS,
    HISTORY_PARTS,
    HISTORY_VALUES,
    PERIOD_MS,
    PERIOD_VALUES,
    ROW_VALUES,
    RowPacker,
    history_part,
    record_of,
)
from transfer_engine.engine.records.known import KnownKeys
from transfer_engine.engine.records.protocol import RecordsDamaged
from transfer_engine.schema.transfers import TransferRecord, TransferState

ROW, HISTORY, PERIOD = b"r" * 16, b"h" * 16, b"p" * 16
TYPES = {"source": UTF8Type, "target": UTF8Type, "state": UTF8Type, "error": UTF8Type} | {
    "asset_id": Int32Type,
    "retry_count": Int32Type,
}
FIELDS = [name for name in COLUMNS if name != "req_id"]
RECORD = UserType.make_udt_class("trading", "transfer", FIELDS, [TYPES.get(name, LongType) for name in FIELDS])

numbers = st.integers(0, 2**63 - 1)
small_numbers = st.integers(0, 2**31 - 1)
texts = st.text(max_size=200)
records = st.builds(
    record,
    st.integers(0, 2**63 - 1),
    st.sampled_from([state.value for state in TransferState]),
    source=texts,
    target=texts,
    user_id=numbers,
    target_user_id=numbers,
    asset_id=small_numbers,
    amount=numbers,
    created_at=numbers,
    updated_at=numbers,
    error=texts,
    retry_count=small_numbers,
    fingerprint=st.integers(0, 2**64 - 1),
)


def body(message: Any) -> bytes:
    written = io.BytesIO()
    message.send_body(written, PROTOCOL_VERSION)
    return written.getvalue()


def packer() -> RowPacker:
    return RowPacker(
        row=batch_prefix(ROW, ROW_VALUES),
        history=batch_prefix(HISTORY, HISTORY_VALUES),
        period=batch_prefix(PERIOD, PERIOD_VALUES),
    )


def values_of(row: TransferRecord) -> list[bytes]:
    """A row's bound values, as the driver's own types serialize them."""
    signed = row.fingerprint - 2**64 if row.fingerprint >= 2**63 else row.fingerprint
    fields = tuple(signed if name == "fingerprint" else getattr(row, name) for name in FIELDS)
    packed = RECORD.serialize(fields, PROTOCOL_VERSION)
    return [packed, row.req_id.bytes, LongType.serialize(row.version, PROTOCOL_VERSION)]


@given(st.lists(records, min_size=1, max_size=4))
def test_a_batch_is_what_the_driver_would_send(rows: list[TransferRecord]) -> None:
    pack = packer()
    entries: list[bytes] = []
    queries: list[tuple[bool, bytes, list[bytes]]] = []
    for row in rows:
        period = row.created_at // PERIOD_MS
        entries += [pack.row(row), pack.history(row.user_id, row), pack.period(row.user_id, period)]
        user, at = LongType.serialize(row.user_id, 4), LongType.serialize(period, 4)
        created_at = LongType.serialize(row.created_at, 4)
        part = Int32Type.serialize(history_part(row.user_id), 4)
        queries += [
            (True, ROW, values_of(row)),
            (True, HISTORY, [part, at, user, created_at, row.req_id.bytes]),
            (True, PERIOD, [user, at]),
        ]
    theirs = BatchMessage(BatchType.UNLOGGED, queries, ConsistencyLevel.LOCAL_QUORUM)
    ours = batch_request(entries, ConsistencyLevel.LOCAL_QUORUM)
    assert (ours.opcode, body(ours)) == (theirs.opcode, body(theirs))


@given(small_numbers, numbers, texts, st.binary(max_size=300), st.lists(st.uuids(), max_size=5))
def test_an_execution_is_what_the_driver_would_send(
    small: int, number: int, text: str, blob: bytes, keys: list[UUID]
) -> None:
    listed = b"".join([len(keys).to_bytes(4, "big"), *(b"\0\0\0\x10" + key.bytes for key in keys)])
    values = [small.to_bytes(4, "big"), number.to_bytes(8, "big"), text.encode(), blob, listed]
    packed = [int_value(small), bigint_value(number), text_value(text), bytes_value(blob)]
    packed.append(list_value([key.bytes for key in keys]))
    for serial in (None, ConsistencyLevel.LOCAL_SERIAL):
        theirs = ExecuteMessage(ROW, values, ConsistencyLevel.QUORUM, serial_consistency_level=serial)
        ours = execute_request(ROW, packed, ConsistencyLevel.QUORUM, serial_consistency=serial)
        assert (ours.opcode, body(ours)) == (theirs.opcode, body(theirs))


def test_another_protocol_is_never_spoken() -> None:
    request: Request = execute_request(ROW, [], ConsistencyLevel.ONE)
    with pytest.raises(AssertionError):
        request.send_body(io.BytesIO(), PROTOCOL_VERSION + 1)


def test_a_partition_key_of_two_columns() -> None:
    assert composite_key(b"\1\2\3\4", b"12345678") == b"\0\4\1\2\3\4\0" + b"\0\x0812345678\0"


@pytest.mark.parametrize("name", ["user_id", "target_user_id", "asset_id", "amount", "created_at", "retry_count"])
def test_a_number_that_does_not_fit_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        packer().row(record(1, **{name: 2**63}))


@given(records)
def test_a_row_is_read_as_it_was_written(row: TransferRecord) -> None:
    signed = row.fingerprint - 2**64 if row.fingerprint >= 2**63 else row.fingerprint
    columns = [signed if name == "fingerprint" else getattr(row, name) for name in COLUMNS]
    columns[COLUMNS.index("state")] = row.state.value
    assert record_of(columns) == row


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("state", value) for value in ("limbo", "", None)),
        *(("req_id", UUID(int=number)) for number in (0, 5, 2**128 - 1)),
        *((name, None) for name in COLUMNS if name not in {"state", "req_id"}),
    ],
)
def test_a_row_that_nobody_of_us_wrote_is_damaged(name: str, value: object) -> None:
    row = record(1)
    columns = [getattr(row, column) for column in COLUMNS]
    columns[COLUMNS.index("state")] = "committed"
    columns[COLUMNS.index("fingerprint")] = -5
    columns[COLUMNS.index(name)] = value
    with pytest.raises(RecordsDamaged, match="table transfers") as caught:
        record_of(columns)
    assert str(columns[COLUMNS.index("req_id")]) in str(caught.value)


@pytest.mark.parametrize("step", [1, 2, 16, 1_000, 4_096, 1 << 22, 1 << 40])
def test_histories_are_shared_out_evenly_whatever_users_are_called(step: int) -> None:
    parts = Counter(history_part(7 + number * step) for number in range(16_000))
    assert sorted(parts) == list(range(HISTORY_PARTS))
    assert max(parts.values()) < 1_500


def test_known_keys_are_bounded_and_keep_those_in_use() -> None:
    known: KnownKeys[int] = KnownKeys(10)
    for number in range(1_000):
        known.add(number)
        assert 0 in known or not number
        known.add(0)
        assert len(known) <= 11
    assert 999 in known
    assert 500 not in known
