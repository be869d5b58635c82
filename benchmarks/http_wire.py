"""HTTP/1.1 as lean as a load needs it: requests that are bytes already, answers split by hand, one at a time.

A plain connection is a bare socket and trio's wait for it: one task switch a request. What lives here: connections,
and where an answer ends. What never does: what it means.
"""

import socket
import ssl
from typing import Final, Protocol
from urllib.parse import urlsplit

import msgspec
import trio

RECEIVE_BYTES: Final = 256 << 10
_HEAD_MOST: Final = 64 << 10


class Address(msgspec.Struct, frozen=True):
    """Where a server's API is."""

    host: str
    port: int
    is_tls: bool = False
    path: str = ""
    """What comes before ``/api/v1``."""

    @property
    def authority(self) -> str:
        """What the ``Host`` header says."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_url(url: str) -> Address:
    """Return the address that ``http://…`` or ``https://…`` names.

    Raises:
        ValueError: it names none, or more than one (a query, a user).
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or parts.hostname is None:
        raise ValueError(f"{url!r} is no http:// or https:// address")
    if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        raise ValueError("the address has more than a host, a port and a path")
    is_tls = parts.scheme == "https"
    return Address(parts.hostname, parts.port or (443 if is_tls else 80), is_tls, parts.path.rstrip("/"))


class Wire(Protocol):
    """A connection's bytes."""

    async def send(self, data: bytes) -> None:
        """Send all of it.

        Raises:
            OSError: the connection is broken.
        """
        ...

    async def receive(self) -> bytes:
        """Return what has come, at least a byte; none at the end.

        Raises:
            OSError: the connection is broken, or was cut by :meth:`cut`.
        """
        ...

    def cut(self) -> None:
        """Close it now, and wake whoever waits for it. May be called again."""
        ...


class _PlainWire:
    """A socket that doesn't block."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._socket.setblocking(False)

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent != len(data):
            await self._send_rest(memoryview(data)[sent:])

    async def receive(self) -> bytes:
        """Return what has come: an answer is never there yet, so the wait comes first."""
        while True:
            try:
                await trio.lowlevel.wait_readable(self._socket)
                return self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except trio.ClosedResourceError:
                raise ConnectionAbortedError("cut") from None

    def cut(self) -> None:
        """Close it now."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    async def _send_rest(self, rest: memoryview) -> None:
        while rest:
            try:
                await trio.lowlevel.wait_writable(self._socket)
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                continue
            except trio.ClosedResourceError:
                raise ConnectionAbortedError("cut") from None


class _TlsWire:
    """A connection in TLS."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self._stream = stream

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionAbortedError(str(error)) from None

    async def receive(self) -> bytes:
        """Return what has come."""
        try:
            return bytes(await self._stream.receive_some(RECEIVE_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionAbortedError(str(error)) from None

    def cut(self) -> None:
        """Close the socket beneath, without a farewell."""
        self._stream.transport_stream.socket.close()


async def connect(address: Address, trusted: ssl.SSLContext | None = None) -> Wire:
    """Connect to a server. Cancellation leaves nothing open.

    Raises:
        OSError: there is none, or it shows no certificate that can be trusted.
    """
    stream = await trio.open_tcp_stream(address.host, address.port)
    if not address.is_tls:
        return _PlainWire(socket.socket(fileno=stream.socket.detach()))
    secure = trio.SSLStream(
        stream, trusted or ssl.create_default_context(), server_hostname=address.host, https_compatible=True
    )
    try:
        await secure.do_handshake()
    except BaseException as error:
        stream.socket.close()
        if isinstance(error, trio.BrokenResourceError):
            raise ConnectionAbortedError(f"no TLS with {address.authority}: {error.__cause__ or error}") from None
        raise
    return _TlsWire(secure)


class Answer(msgspec.Struct, frozen=True, gc=False):
    """One answer: its status, its head in small letters without the last line's end, and its body."""

    status: int
    head: bytes
    body: bytes

    @property
    def is_last(self) -> bool:
        """Whether the server closes the connection after it."""
        return b"\r\nconnection: close" in self.head


class Unreadable(Exception):
    """What came is no answer with a ``Content-Length``."""


async def read_answer(wire: Wire) -> Answer:
    """Read one answer; nothing else may be under way on the connection.

    Raises:
        OSError: the connection ended before that.
        Unreadable: it is none. The connection is of no more use.
    """
    data = await wire.receive()
    while (end := data.find(b"\r\n\r\n")) < 0:
        if not data or len(data) > _HEAD_MOST:
            break
        more = await wire.receive()
        if not more:
            break
        data += more
    if end < 0:
        raise ConnectionAbortedError("the server closed the connection before its answer")
    head = data[:end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0 or not head.startswith(b"http/1."):
        raise Unreadable("an answer without a length")
    line_end = head.find(b"\r\n", at + 2)
    try:
        length = int(head[at + 17 : line_end if line_end > 0 else end])
        status = int(head[9:12])
    except ValueError:
        raise Unreadable("an answer without a status, or a length") from None
    body = data[end + 4 :]
    if len(body) < length:
        parts, missing = [body], length - len(body)
        while missing > 0:
            part = await wire.receive()
            if not part:
                raise ConnectionAbortedError("the server closed the connection in the middle of an answer")
            parts.append(part)
            missing -= len(part)
        body = b"".join(parts)
    return Answer(status, head, body)
