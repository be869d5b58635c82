"""A real HTTP server of keys, which can be told to misbehave."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import h11
import trio

Misbehaviour = Callable[[trio.abc.Stream], Awaitable[None]]


class KeyServer:
    """Answers every request with ``status``, ``headers`` and ``body``, or as ``misbehave`` says."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.headers: list[tuple[str, str]] = []
        self.body = b""
        self.misbehave: Misbehaviour | None = None
        self.requests: list[h11.Request] = []

    async def handle(self, stream: trio.abc.Stream) -> None:
        """Serve one connection of one request."""
        connection = h11.Connection(h11.SERVER)
        try:
            while (event := connection.next_event()) is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some())
            if not isinstance(event, h11.Request):
                return
            self.requests.append(event)
            if self.misbehave is not None:
                await self.misbehave(stream)
                return
            headers = [("content-length", str(len(self.body))), ("connection", "close"), *self.headers]
            answer = h11.Response(status_code=self.status, headers=headers)
            await stream.send_all(connection.send(answer) or b"")
            await stream.send_all(self.body)
        except trio.BrokenResourceError:
            pass


@asynccontextmanager
async def key_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[KeyServer]:
    """Serve on a free port of loopback."""
    server = KeyServer()

    async def handle(stream: trio.SocketStream) -> None:
        if tls is None:
            await server.handle(stream)
            return
        wrapped = trio.SSLStream(stream, tls, server_side=True)
        with suppress(trio.BrokenResourceError, ssl.SSLError):
            await server.handle(wrapped)

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, host="127.0.0.1"), handle, 0)
        port = listener.socket.getsockname()[1]
        server.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{port}/keys"
        yield server
        nursery.cancel_scope.cancel()
