"""Websockets on a trio stream that a door hands over: the handshake's answer, and wsproto's frames.

One task receives and one sends; nothing else runs for a connection. A client's library may have a reader of its own
and an event for each message; with thousands of connections the server can't afford that.
"""

import io
from collections.abc import Callable, Sequence
from typing import Final

import trio
from wsproto import ConnectionType
from wsproto.connection import Connection as FrameConnection
from wsproto.connection import ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.utilities import LocalProtocolError

from transfer_engine.http.websocket_connection import (
    CODE_OF_FAULT,
    CloseCode,
    ClosedByClient,
    ConnectionEnded,
    Message,
    MessageRefused,
    reason_that_fits,
)

RECEIVE_BYTES: Final = 16 << 10
_CLOSE_S: Final = 2.0
"""How long a client may take to answer that the connection is closed."""
_TEXT: Final = 0x81
_BINARY: Final = 0x82
_PING: Final = 0x89
_PONG: Final = 0x8A
_PLAIN: Final = frozenset({_TEXT, _BINARY, _PING, _PONG})
"""First bytes of frames that are the last of their message, without extensions."""
_MASKED: Final = 0x80
_SIZE_IN_TWO_BYTES: Final = 126
_CONTROL_BYTES_MOST: Final = 125
_HEAD_BYTES_LEAST: Final = 2
_PLAIN_HEAD_BYTES: Final = 6
_NO_KEY: Final = b"\0\0\0\0"


class StreamConnection:
    """A websocket after its handshake.

    Args:
        stream: what the frames travel through; its owner closes it.
        message_bytes_most: the largest message that is taken.
        rest: what came behind the handshake's head.
    """

    __slots__ = (
        "_ahead",
        "_fault",
        "_frames",
        "_is_pinging",
        "_is_plain",
        "_message_bytes_most",
        "_part_bytes",
        "_partial",
        "_pong",
        "_stream",
        "last_heard_at",
        "on_control",
    )

    def __init__(self, stream: trio.abc.Stream, *, message_bytes_most: int, rest: bytes = b"") -> None:
        self.last_heard_at = trio.current_time()
        self.on_control: Callable[[], None] = _nothing
        self._stream = stream
        self._message_bytes_most = message_bytes_most
        self._frames = FrameConnection(ConnectionType.SERVER)
        self._partial: io.BytesIO | None = None
        """A message that is not whole; in one piece, for a client may make its parts as small as he likes."""
        self._part_bytes = 0
        self._pong: bytes | None = None
        self._is_pinging = False
        self._fault: Exception | None = None
        self._ahead = rest
        """What has come and is not taken yet, from the beginning of a frame on."""
        self._is_plain = True
        """Whether no frame but plain ones has come: see :meth:`_take_plain`."""

    async def receive(self) -> Sequence[Message]:
        """Return the messages that have come; see :class:`~transfer_engine.http.websocket_connection.Connection`."""
        # Behind what is wrong nothing can be read any more.
        messages = self._messages() if self._fault is None else []
        while not messages:
            if self._fault is not None:
                raise self._fault
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise ConnectionEnded from None
            if not data:
                raise ConnectionEnded
            self.last_heard_at = trio.current_time()
            self._ahead = self._ahead + data if self._ahead else bytes(data)
            messages = self._messages()
        return messages

    async def send(self, messages: Sequence[Message]) -> None:
        """Send control frames that wait, and messages, in one write."""
        frames = []
        if self._is_pinging:
            self._is_pinging = False
            frames.append(b"\x89\x00")
        if self._pong is not None:
            frames.append(bytes((0x8A, len(self._pong))) + self._pong)
            self._pong = None
        for message in messages:
            if isinstance(message, str):
                payload, kind = message.encode(), _TEXT
            else:
                payload, kind = message, _BINARY
            size = len(payload)
            if size < 126:
                frames.append(bytes((kind, size)))
            elif size < 1 << 16:
                frames.append(bytes((kind, 126, size >> 8, size & 0xFF)))
            else:
                frames.append(bytes((kind, 127)) + size.to_bytes(8))
            frames.append(payload)
        try:
            await self._stream.send_all(b"".join(frames))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ConnectionEnded from None

    def ping(self) -> None:
        """Have the client asked for a sign of life by the next :meth:`send`."""
        self._is_pinging = True
        self.on_control()

    async def close(self, code: int, reason: str) -> None:
        """Close, and wait for the client to do so for a moment; nobody may be receiving."""
        farewell = CloseConnection(code=code, reason=reason_that_fits(reason))
        try:
            with trio.move_on_after(_CLOSE_S):
                await self._stream.send_all(self._frames.send(farewell))
                self._frames.receive_data(self._ahead)
                while self._frames.state is not ConnectionState.CLOSED:
                    for _ in self._frames.events():
                        pass
                    data = await self._stream.receive_some(RECEIVE_BYTES)
                    if not data:
                        return
                    self._frames.receive_data(bytes(data))
                    for _ in self._frames.events():
                        pass
        except (trio.BrokenResourceError, trio.ClosedResourceError, LocalProtocolError):
            pass  # the client has left, or has broken the protocol before

    def _messages(self) -> list[Message]:
        """Return what the frames that have come make whole; keep the rest, and what is wrong, for later."""
        messages: list[Message] = []
        if self._is_plain and self._take_plain(messages):
            return messages
        self._is_plain = False
        ahead, self._ahead = self._ahead, b""
        self._frames.receive_data(ahead)
        for event in self._frames.events():
            if isinstance(event, TextMessage | BytesMessage):
                part: Message = event.data if isinstance(event, TextMessage) else bytes(event.data)
                message = self._take_part(part, is_last=event.message_finished)
                if message is not None:
                    messages.append(message)
                elif self._fault is not None:
                    break
            elif isinstance(event, Ping):
                self._pong = bytes(event.payload)
                self.on_control()
            elif isinstance(event, CloseConnection):
                self._fault = self._end(event)
                break
        return messages

    def _take_plain(self, messages: list[Message]) -> bool:
        """Take whole messages of one frame each, pings and pongs: nearly all that ever comes, at a fifth of the cost.

        False where anything else begins: all from there on is wsproto's.
        """
        data, start, end = self._ahead, 0, len(self._ahead)
        is_plain = True
        while end - start >= _HEAD_BYTES_LEAST:
            kind, size = data[start], data[start + 1] - _MASKED
            if kind not in _PLAIN or not 0 <= size <= (_SIZE_IN_TWO_BYTES if kind <= _BINARY else _CONTROL_BYTES_MOST):
                is_plain = False
                break
            begin = start + _PLAIN_HEAD_BYTES
            if end < begin:
                break
            if size == _SIZE_IN_TWO_BYTES:
                size = data[start + 2] << 8 | data[start + 3]
                begin += 2
            if size > self._message_bytes_most:
                self._fault = self._too_large()
                break
            if end < begin + size:
                break
            payload = _unmasked(data[begin : begin + size], data[begin - 4 : begin])
            start = begin + size
            if kind == _TEXT:
                try:
                    messages.append(payload.decode())
                except UnicodeDecodeError:
                    self._fault = MessageRefused(CloseCode.BAD_UTF8, "a text message is not UTF-8")
                    break
            elif kind == _BINARY:
                messages.append(payload)
            elif kind == _PING:
                self._pong = payload
                self.on_control()
        self._ahead = data[start:] if start else data
        return is_plain

    def _take_part(self, part: Message, *, is_last: bool) -> Message | None:
        """Take a part of a message; return the message with its last part."""
        self._part_bytes += len(part)
        if self._part_bytes > self._message_bytes_most:
            self._fault = self._too_large()
            return None
        if self._partial is None:
            if is_last:
                self._part_bytes = 0
                return part
            self._partial = io.BytesIO()
        self._partial.write(part.encode() if isinstance(part, str) else part)
        if not is_last:
            return None
        whole = self._partial.getvalue()
        self._partial, self._part_bytes = None, 0
        return whole.decode() if isinstance(part, str) else whole

    def _too_large(self) -> MessageRefused:
        return MessageRefused(CloseCode.TOO_LARGE, f"a message is larger than {self._message_bytes_most} bytes")

    def _end(self, event: CloseConnection) -> Exception:
        if self._frames.state is ConnectionState.REMOTE_CLOSING:
            return ClosedByClient(event.code)
        return MessageRefused(CODE_OF_FAULT.get(event.code, CloseCode.PROTOCOL_ERROR), event.reason or "")


def _unmasked(payload: bytes, key: bytes) -> bytes:
    """Return what a client has masked (RFC 6455, 5.3), by one operation on two long integers."""
    if key == _NO_KEY or not payload:
        return payload
    size = len(payload)
    stretched = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(stretched, "little")).to_bytes(size, "little")


def _nothing() -> None:
    pass
