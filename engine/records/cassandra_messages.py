"""The bodies of CQL requests (native protocol v4), packed by hand: the driver's own way costs 95 us a row.

Protocol v4 is what both Cassandra and ScyllaDB speak. Synchronous, no I/O: bytes in, bytes out.
"""

import struct
from collections.abc import Sequence
from typing import IO, Final

from cassandra import ConsistencyLevel
from cassandra.protocol import _MessageType

PROTOCOL_VERSION: Final = 4

_UNLOGGED: Final = 1
_PREPARED: Final = b"\x01"
_VALUES_FLAG: Final = 0x01
_SERIAL_FLAG: Final = 0x10

_SHORT: Final = struct.Struct(">H")
_INT_VALUE: Final = struct.Struct(">ii")
_BIGINT_VALUE: Final = struct.Struct(">iq")
_LENGTH: Final = struct.Struct(">i")

BATCH_STATEMENTS_MOST: Final = 65_535
"""A batch counts its statements in two bytes."""


class _Packed(_MessageType):  # type: ignore[misc]  # the driver has no types
    """A request whose body is packed already; the driver frames it, sends it and matches its answer.

    The underscore keeps it out of the driver's table of the messages that a server may send.
    """

    opcode: int

    def __init__(self, opcode: int, body: bytes) -> None:
        self.opcode = opcode
        self.body = body

    def send_body(self, f: IO[bytes], protocol_version: int) -> None:
        """Write the body, as the driver asks it to."""
        if protocol_version != PROTOCOL_VERSION:
            raise AssertionError(f"packed for protocol {PROTOCOL_VERSION}, asked for {protocol_version}")
        f.write(self.body)


Request = _Packed

_OPCODE_EXECUTE: Final = 0x0A
_OPCODE_BATCH: Final = 0x0D


def int_value(number: int) -> bytes:
    """Return an ``int`` as a bound value."""
    return _INT_VALUE.pack(4, number)


def bigint_value(number: int) -> bytes:
    """Return a ``bigint`` as a bound value."""
    return _BIGINT_VALUE.pack(8, number)


def bytes_value(content: bytes) -> bytes:
    """Return a ``blob``, or anything that is encoded already, as a bound value."""
    return _LENGTH.pack(len(content)) + content


def text_value(text: str) -> bytes:
    """Return a ``text`` as a bound value."""
    return bytes_value(text.encode())


def list_value(elements: Sequence[bytes]) -> bytes:
    """Return a list of encoded elements as a bound value."""
    return bytes_value(_LENGTH.pack(len(elements)) + b"".join(map(bytes_value, elements)))


def int_key(number: int) -> bytes:
    """Return the routing key, or a component of it, of an ``int``."""
    return number.to_bytes(4, "big", signed=True)


def bigint_key(number: int) -> bytes:
    """Return the routing key, or a component of it, of a ``bigint``."""
    return number.to_bytes(8, "big", signed=True)


def composite_key(*components: bytes) -> bytes:
    """Return the routing key of a partition key with several columns."""
    return b"".join(_SHORT.pack(len(component)) + component + b"\0" for component in components)


def batch_prefix(statement_id: bytes, values: int) -> bytes:
    """Return what stands before the values of a prepared statement within a batch."""
    return _PREPARED + _SHORT.pack(len(statement_id)) + statement_id + _SHORT.pack(values)


def execute_request(
    statement_id: bytes, values: Sequence[bytes], consistency: int, *, serial_consistency: int | None = None
) -> Request:
    """Return the request to execute a prepared statement; its answer carries its own metadata, and is not paged."""
    flags = _VALUES_FLAG if serial_consistency is None else _VALUES_FLAG | _SERIAL_FLAG
    parts = [
        _SHORT.pack(len(statement_id)),
        statement_id,
        _SHORT.pack(consistency),
        bytes((flags,)),
        _SHORT.pack(len(values)),
        *values,
    ]
    if serial_consistency is not None:
        parts.append(_SHORT.pack(serial_consistency))
    return Request(_OPCODE_EXECUTE, b"".join(parts))


def batch_request(entries: Sequence[bytes], consistency: int) -> Request:
    """Return an unlogged batch of entries, each ``batch_prefix`` and its values; they carry their own timestamps."""
    body = bytes((_UNLOGGED,)) + _SHORT.pack(len(entries)) + b"".join(entries) + _SHORT.pack(consistency) + b"\0"
    return Request(_OPCODE_BATCH, body)


SERIAL_CONSISTENCY: Final = {
    "LOCAL_QUORUM": ConsistencyLevel.LOCAL_SERIAL,
    "QUORUM": ConsistencyLevel.SERIAL,
    "EACH_QUORUM": ConsistencyLevel.SERIAL,
    "ALL": ConsistencyLevel.SERIAL,
}
"""Claims are decided within the data centre only if nothing leaves it."""

WRITE_CONSISTENCY: Final = {name: getattr(ConsistencyLevel, name) for name in SERIAL_CONSISTENCY}

READ_CONSISTENCY: Final = WRITE_CONSISTENCY | {"EACH_QUORUM": ConsistencyLevel.LOCAL_QUORUM}
"""EACH_QUORUM is for writes: a quorum of one data centre then sees them all."""

CLAIM_CONSISTENCY: Final = WRITE_CONSISTENCY | {
    "EACH_QUORUM": ConsistencyLevel.QUORUM,
    "ALL": ConsistencyLevel.QUORUM,
}
"""How widely a decided claim is known before it is answered; the decision itself is SERIAL_CONSISTENCY's."""
