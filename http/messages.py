"""A request and its answer as the handlers see them: no framework, no socket. Every door speaks this."""

from typing import Final

import msgspec

JSON: Final = b"application/json"
PROBLEM_JSON: Final = b"application/problem+json"


class Request(msgspec.Struct, frozen=True, gc=False):
    """What a handler needs of a request.

    Attributes:
        method: in capitals.
        path: without the query, percent-decoded.
        body: whole; the door has bounded it.
        content_type: the header's value, empty where there is none.
        idempotency_keys: the values of every ``Idempotency-Key`` header, in order.
    """

    method: str
    path: str
    body: bytes = b""
    content_type: bytes = b""
    idempotency_keys: tuple[bytes, ...] = ()


class Response(msgspec.Struct, frozen=True, gc=False):
    """What a door sends back; it adds ``Content-Type`` and ``Content-Length`` itself."""

    status: int
    body: bytes
    media_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()
