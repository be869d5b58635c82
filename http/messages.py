"""A request and its answer as the handlers see them: no framework, no socket. Every door speaks this."""

from typing import Final
from uuid import UUID

import msgspec

JSON: Final = b"application/json"
PROBLEM_JSON: Final = b"application/problem+json"
NDJSON: Final = b"application/x-ndjson"

Headers = tuple[tuple[bytes, bytes], ...]
"""Names in lower case, and values."""


class Request(msgspec.Struct, frozen=True, gc=False):
    """What a handler needs of a request.

    Attributes:
        method: in capitals.
        path: without the query, percent-decoded.
        body: whole; the door has bounded it.
        content_type: the header's value, empty where there is none.
        idempotency_keys: the values of every ``Idempotency-Key`` header, in order.
        query: the raw query string, without the question mark.
        accept: the header's value, empty where there is none.
        authorization: the values of every ``Authorization`` header, in order.
        traceparent: the header's value (W3C Trace Context), empty where there is none.
        peer: the client's address, without port.
        forwarded_for: the values of every ``X-Forwarded-For`` header, in order. Anybody can send it: only what trusted
            proxies have added is to be believed.
        host: the ``Host`` header's value (``:authority`` in HTTP/2), empty where there is none. Every door fills it:
            without tokens the gate refuses names that are not this machine's.
        origin: the ``Origin`` header's value, empty where there is none; looked at as ``host`` is.
    """

    method: str
    path: str
    body: bytes = b""
    content_type: bytes = b""
    idempotency_keys: tuple[bytes, ...] = ()
    query: bytes = b""
    accept: bytes = b""
    authorization: tuple[bytes, ...] = ()
    traceparent: bytes = b""
    peer: str = ""
    forwarded_for: tuple[bytes, ...] = ()
    host: bytes = b""
    origin: bytes = b""


class About(msgspec.Struct, frozen=True, gc=False):
    """What the access log tells of an answer beside its status (``AccessLine`` in ``access_log.py``).

    Handlers that move money, or decide on a transfer, put one into their response; problems have one by themselves.
    What is only looked at has none, and no line.
    """

    req_id: UUID | str | None = None
    user_id: int | None = None
    """Whose money is moved; where it is None the line names who asks."""
    outcome: str | None = None
    """The transfer's status."""
    replayed: bool = False
    count: int | None = None
    """How many transfers a batch asked for: a batch is one line."""
    code: str | None = None
    """Of the problem."""
    refused: int = 0
    """How many of a batch were not taken."""
    op: str | None = None
    """What a websocket's message asked for."""


class Response(msgspec.Struct, frozen=True, gc=False):
    """What a door sends back; it adds ``Content-Type`` and ``Content-Length`` itself.

    ``about`` is for the access log alone: an answer that has one has a line. ``overloaded`` says how many refusals for
    want of room are in it: doors let who gets them wait for his turn before they read from him again.
    """

    status: int
    body: bytes
    media_type: bytes = JSON
    headers: Headers = ()
    about: About | None = None
    overloaded: int = 0
