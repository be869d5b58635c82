"""Names of transfers: Snowflakes, `req_id`s (UUIDv8), `request_id`s and ledger leg ids.

A `req_id` is 128 bits. From the top: 48 bits payload, version (8), 12 bits payload, variant (0b10), 3 bits payload,
a tag (0 issued, 1 keyed), 54 bits payload, 4 zero bits. The zero bits leave room for the legs of the transfer in the
ledger: a leg's id is ``req_id | leg``. Identifiers are built in this shape, never masked into it.
"""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import Final

SNOWFLAKE_EPOCH_MS: Final = 1_735_689_600_000
"""2025-01-01T00:00:00Z, in Unix ms: millisecond 0 of the Snowflakes."""

MILLISECOND_BITS: Final = 41
NODE_BITS: Final = 10
SEQUENCE_BITS: Final = 12
NODE_MAX: Final = (1 << NODE_BITS) - 1
SEQUENCE_MAX: Final = (1 << SEQUENCE_BITS) - 1
MILLISECOND_MAX: Final = (1 << MILLISECOND_BITS) - 1
_LAST_MS: Final = SNOWFLAKE_EPOCH_MS + MILLISECOND_MAX

_LOW_PAYLOAD_BITS: Final = 54
_LOW_PAYLOAD_MASK: Final = (1 << _LOW_PAYLOAD_BITS) - 1
_TAG_SHIFT: Final = 58
_VERSION_AND_VARIANT: Final = (8 << 76) | (0b10 << 62)
_VERSION_AND_VARIANT_MASK: Final = (0xF << 76) | (0b11 << 62)

LEG_MAX: Final = 15
"""The highest leg: four low bits of the `req_id` are kept for it."""

HOLD: Final = 1
"""The leg of the pending transfer that arbitrates between all others, and of the tombstone that takes its place."""

POSTS: Final = range(2, LEG_MAX + 1, 2)
"""The legs that post the hold: the next one is used only when the former is burnt."""

VOIDS: Final = range(3, LEG_MAX + 1, 2)
"""The legs that void the hold: likewise."""

KEY_LENGTH_MAX: Final = 255
"""Characters in a client's own key (`Idempotency-Key`)."""


class CeilingReached(Exception):
    """No identifier may be issued now: the life's ceiling has not been raised in time."""


class SnowflakeGenerator:
    """Issues Snowflakes: 41 bits of ms since 2025-01-01, 10 bits of node, 12 bits of sequence.

    The millisecond is a logical one, ``max(last, clock)``: a clock that steps back repeats nothing. It never passes
    the ceiling that :meth:`raise_ceiling` set, so the next life of this node can start above it.

    Args:
        node: this engine's number, 0..1023.
        clock_ms: the wall clock, Unix ms.
        after_ms: the ceiling of the node's former life, Unix ms; every identifier is issued above it.

    Raises:
        ValueError: the node, or the former ceiling, does not fit its bits.
    """

    def __init__(self, *, node: int, clock_ms: Callable[[], int], after_ms: int = SNOWFLAKE_EPOCH_MS) -> None:
        if not 0 <= node <= NODE_MAX:
            raise ValueError(f"node is {node}: it must be between 0 and {NODE_MAX}")
        if not SNOWFLAKE_EPOCH_MS <= after_ms <= _LAST_MS:
            raise ValueError(f"after_ms is {after_ms}: it must be between {SNOWFLAKE_EPOCH_MS} and {_LAST_MS}")
        self._node = node << SEQUENCE_BITS
        self._clock_ms = clock_ms
        self._last_ms = after_ms
        self._sequence = SEQUENCE_MAX  # the first identifier opens the next millisecond
        self._ceiling_ms = after_ms

    @property
    def logical_ms(self) -> int:
        """The logical clock, Unix ms: no identifier has been issued for a later millisecond."""
        return self._last_ms

    @property
    def ceiling_ms(self) -> int:
        """The latest millisecond (Unix ms) for which identifiers may be issued."""
        return self._ceiling_ms

    def raise_ceiling(self, ceiling_ms: int) -> None:
        """Allow identifiers up to ``ceiling_ms`` (Unix ms), once that promise is durable. It is never lowered.

        Whatever the clock says, it stays within the 41 bits of milliseconds (until 2094): no identifier wraps.
        """
        self._ceiling_ms = max(self._ceiling_ms, min(ceiling_ms, _LAST_MS))

    def advance(self) -> int:
        """Move the logical clock to the wall clock, but not above the ceiling; return it (Unix ms)."""
        now_ms = min(self._clock_ms(), self._ceiling_ms)
        if now_ms > self._last_ms:
            self._last_ms = now_ms
            self._sequence = -1
        return self._last_ms

    def creep(self, ms: int) -> None:
        """Move a logical clock that is ahead of the wall clock on by ``ms``, but not above the ceiling.

        So what is counted in logical time goes on, however far the wall clock has stepped back; creep slower than time
        passes, and the wall clock catches up.
        """
        later_ms = min(self._last_ms + ms, self._ceiling_ms)
        if self._clock_ms() < self._last_ms < later_ms:
            self._last_ms = later_ms
            self._sequence = -1

    def issue(self) -> int:
        """Return the next Snowflake.

        Raises:
            CeilingReached: every identifier up to the ceiling has been issued.
        """
        self.advance()
        if self._sequence == SEQUENCE_MAX:
            if self._last_ms >= self._ceiling_ms:
                raise CeilingReached(f"no identifiers are left below {self._ceiling_ms} ms")
            self._last_ms += 1
            self._sequence = -1
        self._sequence += 1
        return ((self._last_ms - SNOWFLAKE_EPOCH_MS) << (NODE_BITS + SEQUENCE_BITS)) | self._node | self._sequence


def _build(payload: int, tag: int) -> int:
    """Lay a 117-bit payload and a tag out as a UUIDv8 with four low zero bits."""
    low = payload & _LOW_PAYLOAD_MASK
    next_three = (payload >> 54) & 0b111
    next_twelve = (payload >> 57) & 0xFFF
    top = payload >> 69
    return (
        (top << 80) | _VERSION_AND_VARIANT | (next_twelve << 64) | (next_three << 59) | (tag << _TAG_SHIFT) | (low << 4)
    )


def issued_req_id(snowflake: int) -> int:
    """Return the `req_id` of a transfer that the engine named: the payload is ``snowflake << 54``."""
    return _build(snowflake << 54, 0)


def keyed_req_id(subject: str, scheme: str, key: str) -> int:
    """Return the `req_id` of a transfer that its client named.

    The payload is the top 117 bits of BLAKE2b-128 over (subject, scheme, key), each as UTF-8 behind its length in
    four bytes, big-endian. No table of keys is needed, and every engine derives the same identifier.

    Args:
        subject: the token's subject, or an empty string where there is no token.
        scheme: what the key names: ``transfer`` or ``credit``.
        key: the client's key, at most ``KEY_LENGTH_MAX`` characters.
    """
    encoded = key.encode()
    named = b"%b%b%b" % (_key_prefix(subject, scheme), len(encoded).to_bytes(4, "big"), encoded)
    return _build(int.from_bytes(hashlib.blake2b(named, digest_size=16).digest(), "big") >> 11, 1)


@lru_cache(maxsize=1_024)
def _key_prefix(subject: str, scheme: str) -> bytes:
    parts = (subject.encode(), scheme.encode())
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def is_req_id(number: int) -> bool:
    """Tell whether a 128-bit number has the shape of a `req_id`."""
    if number >> 128 or number & LEG_MAX or number & _VERSION_AND_VARIANT_MASK != _VERSION_AND_VARIANT:
        return False
    return is_keyed(number) or (number >> 4) & _LOW_PAYLOAD_MASK == 0


def is_keyed(req_id: int) -> bool:
    """Tell whether the client named the transfer (the tag is 1)."""
    return bool((req_id >> _TAG_SHIFT) & 1)


def snowflake_of(req_id: int) -> int:
    """Return the Snowflake of an issued `req_id`."""
    return ((req_id >> 80) << 15) | (((req_id >> 64) & 0xFFF) << 3) | ((req_id >> 59) & 0b111)


def request_id(req_id: int) -> str:
    """Return the second API's decimal name: the Snowflake (< 2^63) or, keyed, the whole UUID (>= 2^79)."""
    return str(req_id if is_keyed(req_id) else snowflake_of(req_id))


def parse_request_id(text: str) -> int | None:
    """Return the `req_id` that a decimal `request_id` names, or None where it names none."""
    if not (text.isascii() and text.isdigit() and len(text) <= 39) or (text[0] == "0" and text != "0"):
        return None
    number = int(text)
    if number < 1 << 63:
        return issued_req_id(number)
    return number if is_req_id(number) and is_keyed(number) else None


def leg_id(req_id: int, leg: int) -> int:
    """Return the ledger id of one leg of a transfer."""
    return req_id | leg


def fingerprint(*, source: str, target: str, user_id: int, target_user_id: int, asset_id: int, amount: int) -> int:
    """Return 64 bits that tell two bodies under one key apart (BLAKE2b over the canonical body)."""
    body = f"{source}\0{target}\0{user_id}\0{target_user_id}\0{asset_id}\0{amount}"
    return int.from_bytes(hashlib.blake2b(body.encode(), digest_size=8).digest(), "big")
