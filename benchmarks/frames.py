"""A websocket as lean as can be: binary frames over a trio stream, many in one write, for loads alone.

Frames are masked, as a client's must be, by a key of zeros: the server takes the mask off all the same, and the load
saves the time of putting one on. A client of people must take random keys (RFC 6455, 5.3).
"""

import base64
import os
import socket
import ssl
from collections.abc import Iterator
from typing import Final

import trio

PATH: Final = "/api/v1/ws"
_BINARY: Final = 0x82
_MASKED: Final = 0x80
_NO_MASK: Final = bytes(4)
_RECEIVE_BYTES: Final = 256 << 10
_CLOSE: Final = 0x8
_PING: Final = 0x9
_DATA: Final = (0x1, 0x2)


class Refused(Exception):
    """The server did not open the websocket; the message is what it said."""


class Socket:
    """One open websocket."""

    def __init__(self, stream: trio.abc.Stream, transport: trio.SocketStream, rest: bytes) -> None:
        self._stream = stream
        self._transport = transport
        self._rest = rest
        self._is_ended = False

    async def send(self, messages: bytes) -> None:
        """Send frames, as :func:`frame` makes them."""
        await self._stream.send_all(messages)

    async def receive(self) -> list[bytes]:
        """Return the messages that have come, at least one; pings are answered, an empty list is the end."""
        messages: list[bytes] = []
        while not messages and not self._is_ended:
            for code, payload in self._frames():
                if code in _DATA:
                    messages.append(payload)
                elif code == _CLOSE:
                    self._is_ended = True
                elif code == _PING:
                    await self._stream.send_all(bytes((0x8A, _MASKED | len(payload))) + _NO_MASK + payload)
            if messages or self._is_ended:
                break
            data = await self._stream.receive_some(_RECEIVE_BYTES)
            if not data:
                return messages
            self._rest += data
        return messages

    async def aclose(self) -> None:
        """Close the stream, without a farewell."""
        await trio.aclose_forcefully(self._stream)

    def cut(self) -> None:
        """Close the connection now; whoever waits for it gets :exc:`trio.ClosedResourceError`."""
        self._transport.socket.close()

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        """Yield whole frames, and keep the rest."""
        data, at = self._rest, 0
        while len(data) - at >= 2:
            size, start = data[at + 1] & 0x7F, at + 2
            if size >= 126:
                width = 2 if size == 126 else 8
                size, start = int.from_bytes(data[start : start + width]), start + width
            if len(data) < start + size:
                break
            yield data[at] & 0x0F, data[start : start + size]
            at = start + size
        self._rest = data[at:]


def frame(payload: bytes) -> bytes:
    """Return a message as a frame that can be sent."""
    size = len(payload)
    if size < 126:
        return bytes((_BINARY, _MASKED | size)) + _NO_MASK + payload
    if size < 1 << 16:
        return bytes((_BINARY, _MASKED | 126)) + size.to_bytes(2) + _NO_MASK + payload
    return bytes((_BINARY, _MASKED | 127)) + size.to_bytes(8) + _NO_MASK + payload


async def open_socket(
    port: int,
    headers: str = "",
    *,
    host: str = "127.0.0.1",
    path: str = PATH,
    trusted: ssl.SSLContext | None = None,
    send_buffer_bytes: int | None = None,
) -> Socket:
    """Open a websocket. Cancellation leaves nothing open.

    Args:
        port: where the server listens.
        headers: lines that end with CRLF.
        host: the server's name or address.
        path: where its websocket is.
        trusted: speak TLS, and trust these certificates; None speaks in the clear.
        send_buffer_bytes: what may wait in the system to be sent; by default that grows to megabytes.

    Raises:
        Refused: the server did not.
        OSError: there is none, or the connection broke.
    """
    transport = await trio.open_tcp_stream(host, port)
    stream: trio.abc.Stream = transport
    if send_buffer_bytes is not None:
        transport.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    if trusted is not None:
        stream = trio.SSLStream(transport, trusted, server_hostname=host, https_compatible=True)
    try:
        answer = await _shake_hands(stream, f"[{host}]" if ":" in host else host, port, path, headers)
    except trio.BrokenResourceError as error:
        transport.socket.close()
        raise ConnectionAbortedError(f"the connection to {host}:{port} broke: {error.__cause__ or error}") from None
    except BaseException:
        transport.socket.close()
        raise
    head, _, rest = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101"):
        transport.socket.close()
        raise Refused(answer[:300].decode(errors="replace"))
    return Socket(stream, transport, rest)


async def _shake_hands(stream: trio.abc.Stream, host: str, port: int, path: str, headers: str) -> bytes:
    """Ask for a websocket; return the answer, and what came behind it."""
    key = base64.b64encode(os.urandom(16)).decode()
    await stream.send_all(
        f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n".encode()
    )
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = await stream.receive_some(_RECEIVE_BYTES)
        if not data:
            break
        answer += data
    return answer
