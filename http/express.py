"""The express door: the API's handlers over HTTP/1.1 and the websocket, without a framework between.

What it is for is speed: a request costs a fraction of what the main door takes for it. What a request means is decided
where the main door has it decided too, in :class:`~transfer_engine.http.handlers.Api`; here it is only read, within
bounds, and its answer written. Pages, TLS and HTTP/2 are the main door's.
"""

import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import msgspec
import structlog
import trio

from transfer_engine.http.express_answers import Answers
from transfer_engine.http.express_connection import ExpressConnection
from transfer_engine.http.express_readiness import Readiness
from transfer_engine.http.express_requests import Upgrade
from transfer_engine.http.express_socket import Phase
from transfer_engine.http.handlers import Api
from transfer_engine.http.settings import ServerSettings

_log: Final = structlog.stdlib.get_logger("transfer_engine.http")

_LOOK_S_MOST: Final = 1.0
_LOOK_S_LEAST: Final = 0.01
_LOOKS_A_DEADLINE: Final = 4
"""How often the watch looks within the shortest time-out: deadlines are late by at most half of it."""

RECEIVE_BUFFER_BYTES: Final = 64 << 10
"""What a connection's client can send ahead of being read from: some 400 transfers. The system would let it grow to
megabytes, where requests wait that nobody has seen yet: a refusal that is minutes late. It doubles the figure for its
own needs."""

_LINGER_STOPPING_S: Final = 0.5
"""How long a client that was refused may go on to send while the server stops."""

ServeWebSocket = Callable[[Upgrade, trio.SocketStream, trio.Event], Awaitable[None]]
"""Serves a websocket from its handshake on, until the client leaves or the event says that the server stops."""


class ExpressStatistics(msgspec.Struct, frozen=True):
    """What the door is doing."""

    connections: int
    websockets: int
    refused_connections: int
    """Those that were closed at once because there were too many."""


class ExpressDoor:
    """The door; connections find what they share in it.

    Attributes:
        readiness: says which connections have something to read.
        now: trio's clock as the watch has last read it (s).
        is_stopping: no connection waits for another request any more.
    """

    def __init__(self, api: Api, settings: ServerSettings, serve_websocket: ServeWebSocket | None = None) -> None:
        self.api = api
        self.answers = Answers()
        self.readiness = Readiness()
        self.is_stopping = False
        self.now = 0.0
        times_s = [
            time_ms / 1_000 for time_ms in (settings.keep_alive_ms, settings.body_timeout_ms, settings.send_timeout_ms)
        ]
        self._look_s = min(max(min(times_s) / _LOOKS_A_DEADLINE, _LOOK_S_LEAST), _LOOK_S_MOST)
        self.linger_s = settings.body_timeout_ms / 1_000
        self.keep_alive_s, self.body_timeout_s, self.send_timeout_s = times_s
        self.usual_body_bytes_most = settings.body_bytes_most
        self._settings = settings
        self._serve_websocket = serve_websocket
        self._connections: set[ExpressConnection] = set()
        self._stopping = trio.Event()
        self._websockets = 0
        self._refused_connections = 0

    def __repr__(self) -> str:
        return f"<ExpressDoor {len(self._connections)} connections, {self._websockets} websockets>"

    def statistics(self) -> ExpressStatistics:
        """Return what it is doing."""
        return ExpressStatistics(
            connections=len(self._connections),
            websockets=self._websockets,
            refused_connections=self._refused_connections,
        )

    def body_bytes_most(self, path: str) -> int:
        """Return how large a body may be at a path."""
        return self.api.body_bytes_most(path, self._settings.body_bytes_most)

    def takes(self, upgrade: Upgrade) -> bool:
        """Whether a request that leaves HTTP is one for the websocket."""
        names = (name.strip().lower() for value in upgrade.protocols for name in value.split(b","))
        return self._serve_websocket is not None and b"websocket" in names

    async def serve(
        self,
        listeners: Sequence[trio.SocketListener],
        stopping: trio.Event,
        *,
        graceful_s: float,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve connections until ``stopping``; then let the answers under way out for ``graceful_s``.

        The listeners are closed when it returns. Cancellation cuts every connection.
        """
        self.now = trio.current_time()
        async with trio.open_nursery(strict_exception_groups=True) as watching:
            watching.start_soon(self._watch)
            watching.start_soon(self.readiness.run)
            async with trio.open_nursery(strict_exception_groups=True) as connections:
                async with trio.open_nursery(strict_exception_groups=True) as accepting:
                    handle = partial(self._handle, connections)
                    accept = partial(trio.serve_listeners, handle, list(listeners), handler_nursery=connections)
                    await accepting.start(accept)
                    task_status.started()
                    await stopping.wait()
                    accepting.cancel_scope.cancel()
                self.is_stopping = True
                self.linger_s = min(self.body_timeout_s, _LINGER_STOPPING_S)
                self._stopping.set()
                for connection in self._connections:
                    if connection.phase is Phase.IDLE:
                        connection.expire()
                    elif connection.phase is Phase.LINGERING:
                        connection.deadline = self.now + self.linger_s
                connections.cancel_scope.deadline = trio.current_time() + graceful_s
            watching.cancel_scope.cancel()

    async def _watch(self) -> None:
        """End what its client has been too slow with."""
        while True:
            await trio.sleep(self._look_s)
            # A deadline was set by the last look's time: one more look's time, and none is early.
            self.now = trio.current_time()
            overdue = self.now - self._look_s
            for connection in tuple(self._connections):
                if connection.deadline < overdue:
                    connection.expire()

    async def _handle(self, connections: trio.Nursery, stream: trio.SocketStream) -> None:
        if len(connections.child_tasks) > self._settings.connections_most:
            self._refused_connections += 1
            return  # trio closes it
        try:
            peer = str(stream.socket.getpeername()[0])
        except OSError:  # it has left already
            return
        with socket.socket(fileno=stream.socket.detach()) as connected:
            connected.setblocking(False)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            try:
                upgrade = await self._serve_http(connected, peer)
                if upgrade is not None and self._serve_websocket is not None:
                    self._websockets += 1
                    try:
                        websocket = trio.SocketStream(trio.socket.from_stdlib_socket(connected))
                        await self._serve_websocket(upgrade, websocket, self._stopping)
                    finally:
                        self._websockets -= 1
            except Exception:  # noqa: BLE001 - whatever a client can provoke must not reach the other connections
                _log.exception("connection failed")
            except BaseExceptionGroup as group:
                cancelled, faults = group.split(trio.Cancelled)
                if faults is not None:
                    _log.error("connection failed", exc_info=faults)
                if cancelled is not None:
                    raise cancelled from None

    async def _serve_http(self, connected: socket.socket, peer: str) -> Upgrade | None:
        connection = ExpressConnection(self, connected, peer)
        self._connections.add(connection)
        try:
            return await connection.run()
        finally:
            self._connections.discard(connection)
            trio.lowlevel.notify_closing(connected)
