"""From bytes to requests: HTTP/1.1 as `httptools` parses it, with the bounds and refusals that it leaves to its user.

No sockets and no clock live here, and nothing of what a request means: only what it is, whether it is one, and whether
another may follow it on the connection.
"""

from collections.abc import Callable
from typing import Final, NoReturn

import httptools
import msgspec

from transfer_engine.http.messages import Request
from transfer_engine.http.problems import ProblemCode, Rejected
from transfer_engine.http.targets import split_target

TARGET_BYTES_MOST: Final = 8 << 10
HEADERS_BYTES_MOST: Final = 16 << 10
HEADERS_MOST: Final = 64
FEED_BYTES_MOST: Final = 4 << 10
"""How much is parsed at a time: it bounds how many requests are in memory before the first is answered."""

_UNFINISHED_BYTES_MOST: Final = TARGET_BYTES_MOST + HEADERS_BYTES_MOST + FEED_BYTES_MOST
"""Bytes of a head, or of a chunk's frame, that have not come to an end."""

_HEAD_TOO_LARGE: Final = f"the headers are too large: at most {HEADERS_MOST} with {HEADERS_BYTES_MOST} bytes are taken"
_LINE_BYTES: Final = 4
"""What a header's line has beside name and value: a colon, a blank, and its end."""
_BLANKS: Final = b" \t"

_HOST: Final = 1
_CONTENT_TYPE: Final = 2
_CONTENT_LENGTH: Final = 3
_IDEMPOTENCY_KEY: Final = 4
_AUTHORIZATION: Final = 5
_ACCEPT: Final = 6
_TRACEPARENT: Final = 7
_TRANSFER_ENCODING: Final = 8
_CONNECTION: Final = 9
_EXPECT: Final = 10
_UPGRADE: Final = 11
_FORWARDED_FOR: Final = 12
_ORIGIN: Final = 13
_WEBSOCKET_KEY: Final = 14
_WEBSOCKET_VERSION: Final = 15
_WEBSOCKET_PROTOCOL: Final = 16
_WEBSOCKET_EXTENSIONS: Final = 17

_HANDSHAKE: Final = {
    _WEBSOCKET_KEY: b"sec-websocket-key",
    _WEBSOCKET_VERSION: b"sec-websocket-version",
    _WEBSOCKET_PROTOCOL: b"sec-websocket-protocol",
    _WEBSOCKET_EXTENSIONS: b"sec-websocket-extensions",
}
_PLACES: Final = {
    spelling: place
    for name, place in (
        (b"Host", _HOST),
        (b"Content-Type", _CONTENT_TYPE),
        (b"Content-Length", _CONTENT_LENGTH),
        (b"Idempotency-Key", _IDEMPOTENCY_KEY),
        (b"Authorization", _AUTHORIZATION),
        (b"Accept", _ACCEPT),
        (b"Traceparent", _TRACEPARENT),
        (b"Transfer-Encoding", _TRANSFER_ENCODING),
        (b"Connection", _CONNECTION),
        (b"Expect", _EXPECT),
        (b"Upgrade", _UPGRADE),
        (b"X-Forwarded-For", _FORWARDED_FOR),
        (b"Origin", _ORIGIN),
        *((name, place) for place, name in _HANDSHAKE.items()),
    )
    for spelling in (name, name.lower())
}
"""Where the values are of the headers that anybody here looks at, by the spellings that clients use most; others are
looked up in lower case."""

_NO_VALUES: Final[list[tuple[bytes, ...]]] = [()] * (max(_PLACES.values()) + 1)


class Upgrade(msgspec.Struct, frozen=True):
    """A request that wants to leave HTTP, and the bytes that came behind it."""

    request: Request
    protocols: tuple[bytes, ...]
    """The values of its ``Upgrade`` headers; none for CONNECT."""
    headers: tuple[tuple[bytes, bytes], ...]
    """Those that a websocket handshake is made of, with their names in lower case."""
    rest: bytes


class _Stop(Exception):
    """Ends parsing from within a callback."""


class RequestParser:
    """Parses one connection's bytes.

    Attributes:
        requests: those that are whole; whoever handles them takes them out.
        refused: why nothing more can be read; the connection ends with this answer, behind those to ``requests``.
        upgrade: the request that left HTTP; it is not among ``requests``.
        closes: the last of ``requests`` is the connection's last.
        is_between: nothing of a further request has come.
        is_in_body: the head of a request has come, its body not yet.
        awaits_continue: and its client wants to be told to send it.
    """

    _target: bytes
    _query: bytes
    _method: bytes
    _values: list[tuple[bytes, ...]]
    _body: list[bytes]
    _headers: int
    _headers_bytes: int
    _body_bytes: int
    _unfinished_bytes: int

    def __init__(self, peer: str, usual_bytes_most: int, bytes_most: Callable[[str], int]) -> None:
        """Begin; ``bytes_most`` tells how large a body may be at a path: ``usual_bytes_most``, or more."""
        self.requests: list[Request] = []
        self.refused: Rejected | None = None
        self.upgrade: Upgrade | None = None
        self.closes = False
        self.is_between = True
        self.is_in_body = False
        self.awaits_continue = False
        self._peer = peer
        self._usual_bytes_most = usual_bytes_most
        self._bytes_most = bytes_most
        self._begin()
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)

    @property
    def unfinished(self) -> Request:
        """What is known of the request under way."""
        return self._request(b"")

    def close(self) -> None:
        """Let the parser go: it and this object hold each other."""
        self._parser = None

    def feed(self, data: bytes) -> None:
        """Parse at most :data:`FEED_BYTES_MOST` more bytes; the attributes say what has become of them."""
        body_bytes = self._body_bytes
        try:
            if self._parser is not None:
                self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._leave(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if self.refused is None and not self.closes:  # behind the last request anything may follow
                self.refused = _malformed(
                    str(error) if not isinstance(error, httptools.HttpParserCallbackError) else ""
                )
        if self.is_between or self.refused is not None:
            return
        if self._body_bytes > body_bytes:
            self._unfinished_bytes = 0
            return
        self._unfinished_bytes += len(data)
        if self._unfinished_bytes > _UNFINISHED_BYTES_MOST:
            self.refused = Rejected(ProblemCode.HEAD_TOO_LARGE, _HEAD_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Something has come."""
        self.is_between = False

    def on_url(self, part: bytes) -> None:
        """Take a part of the target."""
        self._target = self._target + part if self._target else part
        if len(self._target) > TARGET_BYTES_MOST:
            self._refuse(ProblemCode.TARGET_TOO_LONG, f"the target is longer than {TARGET_BYTES_MOST} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; of a trailer only its size matters."""
        self._headers += 1
        self._headers_bytes += len(name) + len(value) + _LINE_BYTES
        place = _PLACES.get(name) or _PLACES.get(name.lower())
        if place is None or self.is_in_body:
            if self._headers_bytes > HEADERS_BYTES_MOST or self._headers > HEADERS_MOST:
                self._refuse_head()
            return
        if value[-1:] in _BLANKS:
            value = value.rstrip(_BLANKS)
        self._values[place] += (value,)

    def on_headers_complete(self) -> None:
        """Check the head: whatever is wrong with it ends the connection."""
        parser = self._parser
        if parser is None:  # closed meanwhile
            raise _Stop
        self._method = parser.get_method()
        values = self._values
        if self._headers_bytes > HEADERS_BYTES_MOST or self._headers > HEADERS_MOST:
            self._refuse_head()
        is_1_1 = True
        if values[_CONNECTION] or not parser.should_keep_alive():
            version = parser.get_http_version()
            if version not in {"1.0", "1.1"}:
                self._refuse(ProblemCode.MALFORMED_REQUEST, "the version is none of HTTP/1.1 and HTTP/1.0")
            is_1_1 = version == "1.1"
            self._is_last = not is_1_1 or not parser.should_keep_alive()
        hosts = len(values[_HOST])
        if hosts != 1 and (is_1_1 or hosts):
            fault = "stands there twice" if hosts else "is missing"
            self._refuse(ProblemCode.MALFORMED_REQUEST, f"the header Host {fault}: send one")
        try:
            self._path, self._query = split_target(self._target)
        except UnicodeDecodeError:
            self._refuse(ProblemCode.MALFORMED_REQUEST, "the target is not ASCII: percent-encode it")
        # httptools has refused lengths that are no numbers, doubled, or beside a transfer encoding.
        length = int(values[_CONTENT_LENGTH][0]) if values[_CONTENT_LENGTH] else 0
        codings = values[_TRANSFER_ENCODING]
        if codings and (len(codings) > 1 or codings[0].lower() != b"chunked" or not is_1_1):
            self._refuse(ProblemCode.MALFORMED_REQUEST, "the transfer encoding is not chunked alone")
        if parser.should_upgrade():
            if length or codings:
                self._refuse(ProblemCode.MALFORMED_REQUEST, "a body and Upgrade together are not taken: leave one out")
            self._upgrades = True
            return
        if codings or length > self._usual_bytes_most:
            self._body_bytes_most = self._bytes_most(self._path)
            if length > self._body_bytes_most:
                self._refuse_body()
        self.is_in_body = True
        if values[_EXPECT]:
            self.awaits_continue = is_1_1 and bool(length or codings) and values[_EXPECT][0].lower() == b"100-continue"

    def on_body(self, part: bytes) -> None:
        """Take a part of the body."""
        self.awaits_continue = False
        self._body_bytes += len(part)
        if self._body_bytes > self._body_bytes_most:
            self._refuse_body()
        self._body.append(part)

    def on_message_complete(self) -> None:
        """Take the request: it is whole."""
        body = self._body
        self.requests.append(self._request(body[0] if len(body) == 1 else b"".join(body)))
        if self._upgrades:
            return
        self.is_between = True
        self.is_in_body = self.awaits_continue = False
        self.closes = self._is_last
        self._begin()

    def _begin(self) -> None:
        self._target = self._query = self._method = b""
        self._path = ""
        self._values = _NO_VALUES.copy()
        self._body = []
        self._headers = self._headers_bytes = self._body_bytes = self._unfinished_bytes = 0
        self._body_bytes_most = self._usual_bytes_most
        self._upgrades = self._is_last = False

    def _request(self, body: bytes) -> Request:
        values = self._values
        traces = values[_TRACEPARENT]
        return Request(
            self._method.decode("ascii"),
            self._path,
            body,
            _last(values[_CONTENT_TYPE]),
            values[_IDEMPOTENCY_KEY],
            self._query,
            _last(values[_ACCEPT]),
            values[_AUTHORIZATION],
            b"doubled" if len(traces) > 1 else _last(traces),
            self._peer,
            values[_FORWARDED_FOR],
            _last(values[_HOST]),
            _last(values[_ORIGIN]),
        )

    def _leave(self, rest: bytes) -> None:
        request = self.requests.pop()
        headers = tuple((name, value) for place, name in _HANDSHAKE.items() for value in self._values[place])
        self.upgrade = Upgrade(request, self._values[_UPGRADE], headers, rest)

    def _refuse(self, code: ProblemCode, detail: str) -> NoReturn:
        self.refused = Rejected(code, detail)
        raise _Stop

    def _refuse_head(self) -> NoReturn:
        self._refuse(ProblemCode.HEAD_TOO_LARGE, _HEAD_TOO_LARGE)

    def _refuse_body(self) -> NoReturn:
        self._refuse(ProblemCode.BODY_TOO_LARGE, f"the body is larger than {self._body_bytes_most} bytes")


def _last(values: tuple[bytes, ...]) -> bytes:
    return values[-1] if values else b""


def _malformed(reason: str) -> Rejected:
    return Rejected(ProblemCode.MALFORMED_REQUEST, f"this is not HTTP/1.1: {reason}" if reason else "not HTTP/1.1")
