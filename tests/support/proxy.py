"""A wire that can be spoilt, between an engine and a server: it drops replies, delays, cuts and refuses."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

_CHUNK_BYTES = 1 << 16


class _Link:
    """One connection: the client's end and the server's."""

    def __init__(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        self.client = client
        self.server = server
        self.is_deaf = False
        self.scope = trio.CancelScope()


class Proxy:
    """Forwards connections to one server. What it does to them is told by its methods, at any time."""

    def __init__(self, target: str, listener: trio.SocketListener) -> None:
        self.target = target
        self.replies_dropped = 0
        """Bytes of the server's that never reached the client."""
        self._listener = listener
        self._links: set[_Link] = set()
        self._drops_replies = False
        self._refuses = False
        self._delay_s = 0.0

    def __repr__(self) -> str:
        return f"<Proxy {self.address} to {self.target}: {len(self._links)} connections>"

    @property
    def address(self) -> str:
        """Where it listens: ``host:port``."""
        host, port = self._listener.socket.getsockname()
        return f"{host}:{port}"

    def drop_replies(self) -> None:
        """From now on requests get through and no reply does, on each connection that there is or will be."""
        self._drops_replies = True
        for link in self._links:
            link.is_deaf = True

    def delay(self, seconds: float) -> None:
        """Hold everything back for so long, both ways."""
        self._delay_s = seconds

    def cut(self) -> None:
        """End all connections in the middle of whatever they say; others may be made."""
        for link in self._links:
            link.scope.cancel()

    def refuse(self) -> None:
        """End all connections, and each that is made from now on."""
        self._refuses = True
        self.cut()

    def heal(self) -> None:
        """Forward everything again, over connections that are made from now on: a reply that was lost stays lost."""
        self._drops_replies = self._refuses = False
        self._delay_s = 0.0
        self.cut()

    async def serve(self) -> None:
        """Forward until cancelled; cancellation ends all connections."""
        await trio.serve_listeners(self._forward, [self._listener])

    async def _forward(self, client: trio.SocketStream) -> None:
        host, _, port = self.target.rpartition(":")
        async with client:
            if self._refuses:
                return
            try:
                server = await trio.open_tcp_stream(host, int(port))
            except OSError:
                return  # the server is not there: nor are we
            async with server:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                link = _Link(client, server)
                link.is_deaf = self._drops_replies
                self._links.add(link)
                try:
                    with link.scope:
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(self._pump, link, client, server)
                            nursery.start_soon(self._pump, link, server, client)
                finally:
                    self._links.discard(link)

    async def _pump(self, link: _Link, origin: trio.SocketStream, destination: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while chunk := await origin.receive_some(_CHUNK_BYTES):
                await trio.sleep(self._delay_s)
                if origin is link.server and link.is_deaf:
                    self.replies_dropped += len(chunk)
                else:
                    await destination.send_all(chunk)
        link.scope.cancel()


@asynccontextmanager
async def running_proxy(target: str) -> AsyncIterator[Proxy]:
    """Listen on a free port before ``target`` (``host:port``); leaving the context ends all connections."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy = Proxy(target, listener)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(proxy.serve)
        try:
            yield proxy
        finally:
            nursery.cancel_scope.cancel()
