"""Query strings: each parameter once, by name, percent-decoded; what is unknown or garbled is refused by name."""

import re
from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from transfer_engine.engine.outcomes import TransferNotFound
from transfer_engine.http.identity import Caller
from transfer_engine.http.parameters import parse_user_id
from transfer_engine.http.problems import ProblemCode, Rejected

QUERY_BYTES_MOST: Final = 8_192
"""The longest query string: several times what all parameters of an endpoint can need."""

_PERCENT_GARBAGE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def parse_query(query: bytes, names: Collection[str]) -> dict[str, str]:
    """Return the parameters of a query string; an empty value counts as given.

    ``+`` stands for a blank, as in HTML forms: write a plus as ``%2B``.

    Raises:
        Rejected: a parameter is unknown, doubled, garbled or too long; its name is told.
    """
    if not query:
        return {}
    if len(query) > QUERY_BYTES_MOST:
        raise Rejected(
            ProblemCode.INVALID_PARAMETER, f"the query string is longer than {QUERY_BYTES_MOST} bytes: shorten it"
        )
    parameters: dict[str, str] = {}
    for part in query.split(b"&"):
        raw_name, _, raw_value = part.partition(b"=")
        name = _decode(raw_name, "a parameter's name")
        if name not in names:
            raise Rejected(
                ProblemCode.UNKNOWN_PARAMETER,
                f"{name[:64]!r} is no parameter here: {_known(names)}",
                field=name[:64],
            )
        if name in parameters:
            raise Rejected(ProblemCode.DUPLICATE_PARAMETER, f"{name} is given twice: give it once", field=name)
        parameters[name] = _decode(raw_value, name)
    return parameters


def invalid_parameter(name: str, fault: str) -> Rejected:
    """Return the refusal of a parameter's value."""
    return Rejected(ProblemCode.INVALID_PARAMETER, f"{name} {fault}", field=name)


def _decode(raw: bytes, name: str) -> str:
    if _PERCENT_GARBAGE.search(raw):
        raise invalid_parameter(name, "has a % in it that begins no percent-encoding: write it as %25")
    try:
        return unquote_to_bytes(raw.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise invalid_parameter(name, "is not UTF-8: percent-encode the bytes of its UTF-8 form") from None


def _known(names: Collection[str]) -> str:
    return f"use {', '.join(names)}" if names else "it takes none"


def asked_user(parameters: Mapping[str, str], caller: Caller) -> int:
    """Return whose things are asked for: ``user_id``'s, or the token's own user's.

    Raises:
        Rejected: ``user_id`` is no user (``invalid_user_id``), or missing where the token names none either.
        TransferNotFound: it is another user, and the token is not for any.
    """
    text = parameters.get("user_id")
    if text is not None:
        user_id = parse_user_id(text)
        if not caller.owns(user_id):
            raise TransferNotFound(message="User not found", field="user_id")
        return user_id
    if caller.user_id is None:
        raise Rejected(
            ProblemCode.MISSING_PARAMETER,
            "user_id is missing: without a user's token say who is meant, as in ?user_id=4001",
            field="user_id",
        )
    return caller.user_id
