"""A user's endpoint as a real HTTP server on a free loopback port; what it answers is the test's to say."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import NamedTuple

import h11
import trio

Header = tuple[str, str]


class Received(NamedTuple):
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes
    peer_port: int


class Reply(NamedTuple):
    """What to answer; ``chunks`` of the body follow one another after ``pause_s`` each."""

    status: int = 204
    headers: tuple[Header, ...] = ()
    chunks: Iterable[bytes] = ()
    pause_s: float = 0.0


class EndpointServer:
    """Answers by ``answer``; keeps what it got."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.port = 0
        self.scheme = "http"
        self.replies: list[Reply] = []
        """Given one after the other; then ``answer`` is asked."""
        self.answer: Callable[[Received], Awaitable[Reply]] = self._no_content
        self.most_at_once = 0
        self._at_once = 0

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    async def _no_content(self, _received: Received) -> Reply:
        await trio.lowlevel.checkpoint()
        return Reply()

    async def handle(self, stream: trio.abc.Stream) -> None:
        try:
            connection = h11.Connection(h11.SERVER)
            while await self._serve_one(stream, connection):
                connection.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            pass  # the client has had enough
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await trio.aclose_forcefully(stream)

    async def _serve_one(self, stream: trio.abc.Stream, connection: h11.Connection) -> bool:
        request, body = None, b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some(65_536))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        assert request is not None
        headers = {name.decode(): value.decode() for name, value in request.headers}
        tcp = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        received = Received(request.target.decode(), headers, bytes(body), tcp.socket.getpeername()[1])
        self.received.append(received)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            reply = self.replies.pop(0) if self.replies else await self.answer(received)
        finally:
            self._at_once -= 1
        await self._send(stream, connection, reply)
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    async def _send(self, stream: trio.abc.Stream, connection: h11.Connection, reply: Reply) -> None:
        framing = () if reply.status in {204, 304} else (("transfer-encoding", "chunked"),)
        head = h11.Response(status_code=reply.status, headers=[*reply.headers, *framing])
        await stream.send_all(connection.send(head) or b"")
        for chunk in reply.chunks:
            await trio.sleep(reply.pause_s)
            await stream.send_all(connection.send(h11.Data(data=chunk)) or b"")
        await stream.send_all(connection.send(h11.EndOfMessage()) or b"")


@asynccontextmanager
async def endpoint_server(ssl_context: ssl.SSLContext | None = None) -> AsyncIterator[EndpointServer]:
    """Serve on a free loopback port for as long as the context lasts."""
    server = EndpointServer()

    async def handle(stream: trio.SocketStream) -> None:
        if ssl_context is None:
            await server.handle(stream)
        else:
            await server.handle(trio.SSLStream(stream, ssl_context, server_side=True))

    async with trio.open_nursery() as nursery:
        [listener, *_] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server.port = listener.socket.getsockname()[1]
        server.scheme = "http" if ssl_context is None else "https"
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        yield server
        nursery.cancel_scope.cancel()
