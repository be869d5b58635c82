"""How the ledger's values stand in SQLite's columns.

What is bound is an ``int`` or a ``bytearray`` wherever it can be: each ``bytes`` or ``None`` costs the binding a search
for an adapter, three times as much.
"""

from typing import Final

INTEGER_END: Final = 1 << 63
"""SQLite's integers end here; wider numbers are stored as 16 big-endian bytes."""

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
