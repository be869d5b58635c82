"""From bytes to requests: HTTP/1.1 as `httptools` parses it, with the bounds and refusals that it leaves to its user.

No sockets and no clock live here, and nothing of what a request means: only what it is, whether it is one, and whether
another may follow it on the connection.
"""

from collections.abc import Callable
from typing import Final

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
_SEC_WEBSOCKET: Final = 12
_FORWARDED_FOR: Final = 13
_ORIGIN: Final = 14

_MEANINGS: Final = {
    spelling: meaning
    for name, meaning in (
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
        (b"Sec-Websocket-Key", _SEC_WEBSOCKET),
        (b"Sec-Websocket-Version", _SEC_WEBSOCKET),
        (b"Sec-Websocket-Protocol", _SEC_WEBSOCKET),
        (b"Sec-Websocket-Extensions", _SEC_WEBSOCKET),
        (b"Origin", _ORIGIN),
        (b"X-Forwarded-For", _FORWARDED_FOR),
    )
    for spelling in (name, name.lower())
}
"""The headers that anybody here looks at, in the spellings that clients use; others are looked up in lower case."""


class Upgrade(msgspec.Struct, frozen=True):
    """A request that wants to leave HTTP, and the bytes that came behind it."""

    request: Request
    target: bytes
    protocols: tuple[bytes, ...]
    """The values of its ``Upgrade`` headers; none for CONNECT."""
    headers: tuple[tuple[bytes, bytes], ...]
    """Those that a websocket handshake is made of, with their names in lower case."""
    rest: bytes


_EMPTY: Final = b""
_NONE: Final[tuple[bytes, ...]] = ()


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
        path: of the request under way, once its head is known.
    """

    _target: bytes
    _query: bytes
    _host: bytes
    _origin: bytes
    _method: bytes
    _content_type: bytes
    _accept: bytes
    _traceparent: bytes
    _expect: bytes
    _keys: tuple[bytes, ...]
    _authorization: tuple[bytes, ...]
    _forwarded_for: tuple[bytes, ...]
    _transfer_encodings: tuple[bytes, ...]
    _upgrade: tuple[bytes, ...]
    _handshake: tuple[tuple[bytes, bytes], ...]
    _body: list[bytes]
    _body_bytes: int
    _hosts: int
    _headers: int
    _headers_bytes: int

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
        return Request(
            self._method.decode("ascii"), self.path, traceparent=self._traceparent, peer=self._peer, host=self._host
        )

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
            self.refused = _head_too_large()

    def on_message_begin(self) -> None:
        """Something has come."""
        self.is_between = False

    def on_url(self, part: bytes) -> None:
        """Take a part of the target."""
        self._target = self._target + part if self._target else part
        if len(self._target) > TARGET_BYTES_MOST:
            self._refuse(ProblemCode.TARGET_TOO_LONG, f"the target is longer than {TARGET_BYTES_MOST} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: C901, PLR0912 - one flat table
        """Take a header; of a trailer only its size matters."""
        self._headers += 1
        self._headers_bytes += len(name) + len(value) + 4
        if self._headers_bytes > HEADERS_BYTES_MOST or self._headers > HEADERS_MOST:
            self.refused = _head_too_large()
            raise _Stop
        meaning = _MEANINGS.get(name) or _MEANINGS.get(name.lower())
        if meaning is None or self.is_in_body:
            return
        if value[-1:] in b" \t":
            value = value.rstrip(b" \t")
        if meaning == _HOST:
            self._hosts += 1
            self._host = value
        elif meaning == _CONTENT_TYPE:
            self._content_type = value
        elif meaning == _CONTENT_LENGTH:
            self._content_length = int(value)  # httptools has refused what is no number
        elif meaning == _IDEMPOTENCY_KEY:
            self._keys = (*self._keys, value)
        elif meaning == _AUTHORIZATION:
            self._authorization = (*self._authorization, value)
        elif meaning == _ACCEPT:
            self._accept = value
        elif meaning == _TRACEPARENT:
            self._traceparent = value if not self._traceparent else b"doubled"
        elif meaning == _FORWARDED_FOR:
            self._forwarded_for = (*self._forwarded_for, value)
        elif meaning == _TRANSFER_ENCODING:
            self._transfer_encodings = (*self._transfer_encodings, value.lower())
        elif meaning == _CONNECTION:
            self._has_connection = True
        elif meaning == _EXPECT:
            self._expect = value.lower()
        elif meaning == _ORIGIN:
            self._origin = value
        elif meaning == _UPGRADE:
            self._upgrade = (*self._upgrade, value)
        else:
            self._handshake = (*self._handshake, (name.lower(), value))

    def on_headers_complete(self) -> None:
        """Check the head: whatever is wrong with it ends the connection."""
        parser = self._parser
        if parser is None:  # closed meanwhile
            raise _Stop
        self._method = parser.get_method()
        is_1_1 = True
        if not parser.should_keep_alive() or self._has_connection:
            version = parser.get_http_version()
            if version not in {"1.0", "1.1"}:
                self._refuse(ProblemCode.MALFORMED_REQUEST, "the version is none of HTTP/1.1 and HTTP/1.0")
            is_1_1 = version == "1.1"
            self._is_last = not is_1_1 or not parser.should_keep_alive()
        if self._hosts != 1 and (is_1_1 or self._hosts):
            fault = "stands there twice" if self._hosts else "is missing"
            self._refuse(ProblemCode.MALFORMED_REQUEST, f"the header Host {fault}: send one")
        try:
            self.path, self._query = split_target(self._target)
        except UnicodeDecodeError:
            self._refuse(ProblemCode.MALFORMED_REQUEST, "the target is not ASCII: percent-encode it")
        has_body = self._content_length > 0
        if self._transfer_encodings:
            has_body = True
            if self._transfer_encodings != (b"chunked",) or not is_1_1:
                self._refuse(ProblemCode.MALFORMED_REQUEST, "the transfer encoding is not chunked alone")
        if parser.should_upgrade():
            if has_body:
                self._refuse(ProblemCode.MALFORMED_REQUEST, "a body and Upgrade together are not taken: leave one out")
            self._upgrades = True
            return
        if has_body:
            if self._transfer_encodings or self._content_length > self._usual_bytes_most:
                self._body_bytes_most = self._bytes_most(self.path)
            if self._content_length > self._body_bytes_most:
                self.refused = body_too_large(self._body_bytes_most)
                raise _Stop
        self.is_in_body = True
        self.awaits_continue = has_body and is_1_1 and self._expect == b"100-continue"

    def on_body(self, part: bytes) -> None:
        """Take a part of the body."""
        self.awaits_continue = False
        self._body_bytes += len(part)
        if self._body_bytes > self._body_bytes_most:
            self.refused = body_too_large(self._body_bytes_most)
            raise _Stop
        self._body.append(part)

    def on_message_complete(self) -> None:
        """Take the request: it is whole."""
        body = self._body
        self.requests.append(
            Request(
                self._method.decode("ascii"),
                self.path,
                body[0] if len(body) == 1 else b"".join(body),
                self._content_type,
                self._keys,
                self._query,
                self._accept,
                self._authorization,
                self._traceparent,
                self._peer,
                self._forwarded_for,
                self._host,
                self._origin,
            )
        )
        if self._upgrades:
            return
        self.is_between = True
        self.is_in_body = self.awaits_continue = False
        self.closes = self._is_last
        self._begin()

    def _begin(self) -> None:
        self._target = self._query = self._host = self._origin = self._method = _EMPTY
        self._content_type = self._accept = self._traceparent = self._expect = _EMPTY
        self._keys = self._authorization = self._forwarded_for = _NONE
        self._transfer_encodings = self._upgrade = _NONE
        self._handshake = ()
        self._body = []
        self._hosts = self._headers = self._headers_bytes = self._content_length = 0
        self._body_bytes = self._unfinished_bytes = 0
        self._body_bytes_most = self._usual_bytes_most
        self._has_connection = self._upgrades = self._is_last = False
        self.path = ""

    def _leave(self, rest: bytes) -> None:
        request = self.requests.pop()
        self.upgrade = Upgrade(request, self._target, self._upgrade, self._handshake, rest)
        self.closes = True

    def _refuse(self, code: ProblemCode, detail: str) -> None:
        self.refused = Rejected(code, detail)
        raise _Stop


def body_too_large(body_bytes_most: int) -> Rejected:
    """Return the refusal of a body that is too large."""
    return Rejected(ProblemCode.BODY_TOO_LARGE, f"the body is larger than {body_bytes_most} bytes")


def _head_too_large() -> Rejected:
    return Rejected(
        ProblemCode.HEAD_TOO_LARGE,
        f"the headers are too large: at most {HEADERS_MOST} with {HEADERS_BYTES_MOST} bytes are taken",
    )


def _malformed(reason: str) -> Rejected:
    return Rejected(ProblemCode.MALFORMED_REQUEST, f"this is not HTTP/1.1: {reason}" if reason else "not HTTP/1.1")
