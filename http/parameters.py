"""What paths and headers hold: identifiers, users, keys. What is wrong with one is told by name."""

import re
from typing import Final
from uuid import UUID

import msgspec

from transfer_engine.engine.admission import USER_ID_MAX
from transfer_engine.http.problems import ProblemCode, Rejected
from transfer_engine.schema import ids
from transfer_engine.schema.ids import KEY_LENGTH_MAX

_KEY_CHARACTERS: Final = bytes(range(0x20, 0x7F))
_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,38}", re.ASCII)
_USER_ID_DIGITS_MAX: Final = len(str(USER_ID_MAX))


def parse_req_id(text: str) -> UUID:
    """Return the UUID of a path.

    Raises:
        Rejected: it is none (``invalid_req_id``).
    """
    try:
        return msgspec.convert(text, UUID)
    except msgspec.ValidationError:
        raise Rejected(ProblemCode.INVALID_REQ_ID, "Invalid req_id format", field="req_id") from None


def parse_user_id(text: str) -> int:
    """Return the user of a path.

    Raises:
        Rejected: it is none (``invalid_user_id``).
    """
    if text.isascii() and text.isdigit() and len(text) <= _USER_ID_DIGITS_MAX and 1 <= int(text) <= USER_ID_MAX:
        return int(text)
    raise Rejected(ProblemCode.INVALID_USER_ID, f"user_id must be an integer from 1 to {USER_ID_MAX}", field="user_id")


def parse_request_id(text: str) -> int | None:
    """Return the `req_id` that a `request_id` (decimal) or `req_id` (a UUID) of a path names; None where nothing can.

    Digits alone are always a `request_id`.

    Raises:
        Rejected: it is neither (``invalid_request_id``).
    """
    if _DECIMAL.fullmatch(text):
        return ids.parse_request_id(text)
    try:
        if not text.isdigit():
            return msgspec.convert(text, UUID).int
    except msgspec.ValidationError:
        pass
    raise Rejected(
        ProblemCode.INVALID_REQUEST_ID,
        "request_id must be a decimal number of at most 39 digits, or the UUID of a req_id",
        field="request_id",
    )


def idempotency_key(values: tuple[bytes, ...], name: str = "Idempotency-Key") -> str | None:
    """Return the client's own key, or None; a key that can't be one is refused rather than left out.

    Raises:
        Rejected: doubled, empty, too long, or not printable ASCII (``invalid_idempotency_key``).
    """
    if not values:
        return None
    value = values[0]
    fault = None
    if len(values) > 1:
        fault = f"stands in {len(values)} headers: send one"
    elif not value:
        fault = "is empty: leave it out, or name one"
    elif len(value) > KEY_LENGTH_MAX:
        fault = f"is {len(value)} characters long: at most {KEY_LENGTH_MAX} are allowed"
    elif value.translate(None, _KEY_CHARACTERS):
        fault = "has characters in it that are not printable ASCII: use letters, digits and punctuation"
    if fault is not None:
        raise Rejected(ProblemCode.INVALID_IDEMPOTENCY_KEY, f"{name} {fault}", field=name)
    return value.decode("ascii")
