"""Websockets on a trio stream that a door hands over: the handshake's answer, and wsproto's frames.

One task receives and one sends; nothing else runs for a connection. A client's library may have a reader of its own
and an event for each message; with thousands of connections the server can't afford that.
"""

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


class StreamConnection:
    """A websocket after its handshake.

    Args:
        stream: what the frames travel through; its owner closes it.
        message_bytes_most: the largest message that is taken.
        rest: what came behind the handshake's head.
    """

    __slots__ = (
        "_fault",
        "_frames",
        "_is_pinging",
        "_message_bytes_most",
        "_part_bytes",
        "_parts",
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
        self._frames = FrameConnection(ConnectionType.SERVER, trailing_data=rest)
        self._parts: list[Message] = []
        self._part_bytes = 0
        self._pong: bytes | None = None
        self._is_pinging = False
        self._fault: Exception | None = None

    async def receive(self) -> Sequence[Message]:
        """Return the messages that have come; see :class:`~transfer_engine.http.websocket_connection.Connection`."""
        messages = self._messages()
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
            self._frames.receive_data(bytes(data))
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

    def _take_part(self, part: Message, *, is_last: bool) -> Message | None:
        """Take a part of a message; return the message with its last part."""
        self._part_bytes += len(part)
        if self._part_bytes > self._message_bytes_most:
            reason = f"a message is larger than {self._message_bytes_most} bytes"
            self._fault = MessageRefused(CloseCode.TOO_LARGE, reason)
            return None
        if is_last and not self._parts:
            self._part_bytes = 0
            return part
        self._parts.append(part)
        if not is_last:
            return None
        parts, self._parts, self._part_bytes = self._parts, [], 0
        return part[:0].join(parts)  # type: ignore[arg-type]

    def _end(self, event: CloseConnection) -> Exception:
        if self._frames.state is ConnectionState.REMOTE_CLOSING:
            return ClosedByClient(event.code)
        return MessageRefused(CODE_OF_FAULT.get(event.code, CloseCode.PROTOCOL_ERROR), event.reason or "")


def _nothing() -> None:
    pass
