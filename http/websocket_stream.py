"""Websockets on a trio stream that a door hands over: the handshake's answer, and wsproto's frames.

One task receives and one sends, many messages at a time; nothing else runs for a connection. trio-websocket was tried
in this place, behind a stream that replays the handshake and gathers writes. What it lacks can't be had through its
public interface:

- It keeps a message in many parts as a list of them, and bounds their content alone. Empty parts take memory for as
  long as they come; those of one byte take fifty times their size, 26 MiB a connection with the bound at 512 KiB.
- It ends at the first wrong frame, without a close frame where that is no UTF-8 or breaks the protocol. Nothing can be
  said any more then: no answer to what is in flight, no `closing` message.
- Each message waits for its reader's channel and each answer for its lock: 164 µs of the server's CPU a single transfer
  (16 connections, pipelined, embedded ledger), where this takes 113. That is a core for 6,000 transfers/s.

Memory was no reason: 28 KiB for an idle connection, where this takes 17.
"""

import io
from collections.abc import Callable, Sequence
from typing import Final

import trio
from wsproto import ConnectionType
from wsproto.connection import Connection as FrameConnection
from wsproto.connection import ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
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
        "_partial",
        "_pong",
        "_rest",
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
        self._rest = rest

    async def receive(self) -> Sequence[Message]:
        """Return the messages that have come; see :class:`~transfer_engine.http.websocket_connection.Connection`."""
        messages: list[Message] = []
        if self._rest:
            rest, self._rest = self._rest, b""
            messages = self._messages(rest)
        while not messages:
            if self._fault is not None:  # behind what is wrong nothing can be read any more
                raise self._fault
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise ConnectionEnded from None
            if not data:
                raise ConnectionEnded
            self.last_heard_at = trio.current_time()
            messages = self._messages(bytes(data))
        return messages

    async def send(self, messages: Sequence[Message]) -> None:
        """Send control frames that wait, and messages, in one write."""
        events: list[Event] = []
        if self._is_pinging:
            self._is_pinging = False
            events.append(Ping())
        if self._pong is not None:
            events.append(Pong(payload=self._pong))
            self._pong = None
        events += (
            TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message)
            for message in messages
        )
        frames = self._frames
        if frames.state is not ConnectionState.OPEN:
            return  # the client has said goodbye meanwhile: it is owed the same, and nothing else
        try:
            await self._stream.send_all(b"".join(map(frames.send, events)))
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

    def _messages(self, data: bytes) -> list[Message]:
        """Return what the frames that have come make whole; keep the rest, and what is wrong, for later."""
        messages: list[Message] = []
        self._frames.receive_data(data)
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


def _nothing() -> None:
    pass
