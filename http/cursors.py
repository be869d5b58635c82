"""Cursors of a history: where the next page begins, sealed to the user and the filters of the first page.

A cursor opens nothing: whose history is read follows from the token alone, and the place in it can as well be asked for
by time. So it needs no secret, which every engine of a cluster would have to share and keep over restarts. The seal is
a hash without a key: it tells a cursor of another user or of other filters, or one that was changed on its way, from a
right one. Whoever makes one up reads his own history from another place on.
"""

import hashlib
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from struct import Struct
from typing import Final

import msgspec

from transfer_engine.http.problems import ProblemCode, Rejected

_VERSION: Final = 1
_PLACE: Final = Struct(">BQ16sQ")
_SEAL_BYTES: Final = 15  # with the place a multiple of 3: base64 without padding, and one text for each cursor
_TIME_MOST: Final = (1 << 63) - 1  # what a store can be asked for
_TEXT: Final = re.compile(r"[A-Za-z0-9_-]{64}", re.ASCII)


class Cursor(msgspec.Struct, frozen=True, gc=False):
    """Where a page begins: below ``created_at`` and `req_id`; ``oldest_ms`` is where the whole walk ends."""

    created_at: int
    req_id: int
    oldest_ms: int


def encode_cursor(cursor: Cursor, scope: bytes) -> str:
    """Return the text of a cursor that is good within ``scope``: the user and the filters."""
    place = _PLACE.pack(_VERSION, cursor.created_at, cursor.req_id.to_bytes(16), cursor.oldest_ms)
    return urlsafe_b64encode(place + _seal(place, scope)).decode()


def decode_cursor(text: str, scope: bytes) -> Cursor:
    """Return the cursor of a text.

    Raises:
        Rejected: it is none, was changed, or belongs to another user or other filters (``invalid_cursor``).
    """
    if not _TEXT.fullmatch(text):
        raise _invalid("is none of ours: send next_cursor of the former page as it was answered")
    sealed = urlsafe_b64decode(text)
    place, seal = sealed[: _PLACE.size], sealed[_PLACE.size :]
    version, created_at, req_id, oldest_ms = _PLACE.unpack(place)
    if version != _VERSION or seal != _seal(place, scope) or max(created_at, oldest_ms) > _TIME_MOST:
        raise _invalid("belongs to another user or other filters, or was changed: send it with those of the first page")
    return Cursor(created_at, int.from_bytes(req_id), oldest_ms)


def _seal(place: bytes, scope: bytes) -> bytes:
    return hashlib.blake2b(place + scope, digest_size=_SEAL_BYTES, person=b"history cursor").digest()


def _invalid(fault: str) -> Rejected:
    return Rejected(ProblemCode.INVALID_CURSOR, f"cursor {fault}", field="cursor")
