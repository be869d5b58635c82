"""The main door's connections: hypercorn's protocols on trio streams, under an accept loop of our own.

What hypercorn's own loop lacks: a fault in one connection ends that connection, not the server (one misplaced HTTP/2
frame is enough); a client that does not read can't hold up the stop; a connection whose client has left is closed at
once, not after the keep-alive time; there is a bound on connections. And an answer's head and body leave together: one
packet and one system call less a request.
"""

import math
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, cast

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ASGIFramework, ConnectionState, LifespanState, TaskGroup

_log: Final = structlog.stdlib.get_logger("transfer_engine.http")

_HEAD: Final = b"HTTP/1.1 "
_INFORMATIONAL: Final = b"HTTP/1.1 1"


class Limits:
    """Bounds of the connections: how many, and how long one may take to read what it is sent (s)."""

    def __init__(self, *, connections_most: int, send_timeout_s: float, graceful_s: float) -> None:
        self.connections_most = connections_most
        self.send_timeout_s = send_timeout_s
        self.graceful_s = graceful_s


async def serve_connections(
    app: ASGIFramework,
    config: Config,
    listeners: Sequence[trio.SocketListener],
    limits: Limits,
    stopping: trio.Event,
    *,
    tls: ssl.SSLContext | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accept and serve connections until ``stopping``; then let the answers under way out for ``graceful_s``.

    Plain ones, or those of ``tls``. The listeners are closed when it returns. Cancellation cuts every connection.
    """
    wrapped = ASGIWrapper(app)
    context = WorkerContext(None)
    state = LifespanState({})
    lifespan = Lifespan(wrapped, config, state)
    async with trio.open_nursery(strict_exception_groups=True) as lifespan_nursery:
        await lifespan_nursery.start(lifespan.handle_lifespan)
        await lifespan.wait_for_startup()
        async with trio.open_nursery(strict_exception_groups=True) as connections:

            async def handle(stream: trio.SocketStream) -> None:
                if len(connections.child_tasks) > limits.connections_most:
                    return  # trio closes it
                served = stream if tls is None else _encrypted(stream, tls)
                await Connection(wrapped, config, context, ConnectionState(state.copy()), served, limits).run()

            async with trio.open_nursery(strict_exception_groups=True) as accepting:
                accept = partial(trio.serve_listeners, handle, list(listeners), handler_nursery=connections)
                await accepting.start(accept)
                task_status.started()
                await stopping.wait()
                accepting.cancel_scope.cancel()
            await context.terminated.set()
            connections.cancel_scope.deadline = trio.current_time() + limits.graceful_s
        await lifespan.wait_for_shutdown()
        lifespan_nursery.cancel_scope.cancel()


def _encrypted(stream: trio.SocketStream, tls: ssl.SSLContext) -> "trio.SSLStream[trio.SocketStream]":
    """Return the stream under TLS; HTTP knows its own ends, so nobody waits for the other side's last words."""
    return trio.SSLStream(stream, tls, server_side=True, https_compatible=True)


class Connection(TCPServer):
    """One client's connection."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        state: ConnectionState,
        stream: "trio.SocketStream | trio.SSLStream[trio.SocketStream]",
        limits: Limits,
    ) -> None:
        super().__init__(app, config, context, LifespanState(state), cast("trio.SSLStream[trio.SocketStream]", stream))
        self._idle_timer = _IdleTimer(context, config.keep_alive_timeout, self._initiate_server_close)
        self.idle_task = cast("Any", self._idle_timer)
        self._send_timeout_s = limits.send_timeout_s
        self._held = b""
        self._reading = trio.CancelScope()

    async def run(self) -> None:
        """Serve the connection to its end. A fault of it is logged, and ends nothing else."""
        try:
            await super().run()
        except Exception:  # noqa: BLE001 - whatever a client can provoke must not reach the other connections
            _log.exception("connection failed")
        except BaseExceptionGroup as group:
            cancelled, faults = group.split(trio.Cancelled)
            if faults is not None:
                _log.error("connection failed", exc_info=faults)
            if cancelled is not None:
                raise cancelled from None

    async def protocol_send(self, event: Event) -> None:
        """Send bytes, or pass on what the protocol says about the connection.

        An answer's head waits for what follows it: its body, or nothing. Interim answers do not wait.
        """
        if isinstance(event, RawData):
            data = self._held + event.data if self._held else event.data
            if event.data.startswith(_HEAD) and not event.data.startswith(_INFORMATIONAL):
                self._held = data
                return
            self._held = b""
            if data:
                await self._send(data)
            return
        if self._held:
            held, self._held = self._held, b""
            await self._send(held)
        await super().protocol_send(event)
        if isinstance(event, Closed):
            # It may have read a request behind the last answer, and wait for a turn that will never come.
            self._reading.cancel()

    async def _send(self, data: bytes) -> None:
        async with self.send_lock:
            # Shielded: half an answer would spoil the connection. Bounded: its client may never read.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self._send_timeout_s):
                try:
                    await self.stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
                else:
                    return
        await trio.aclose_forcefully(self.stream)
        await self.protocol.handle(Closed())

    async def _close(self) -> None:
        # A plain socket closes at once; TLS says goodbye first, to somebody who may not listen.
        with trio.move_on_after(self._send_timeout_s):
            await super()._close()

    async def _initiate_server_close(self) -> None:
        with trio.move_on_after(self._send_timeout_s):
            await super()._initiate_server_close()

    async def _read_data(self) -> None:
        try:
            with self._reading:
                await super()._read_data()
            if self._reading.cancelled_caught:
                await self.protocol.handle(Closed())
        finally:
            self._idle_timer.end()


class _IdleTimer:
    """Closes a connection that has been idle for too long, or is idle when the server stops.

    One task for the connection's life and a deadline that moves; hypercorn's own starts a task after every request.
    """

    def __init__(self, context: WorkerContext, keep_alive_s: float, close: Callable[[], Awaitable[None]]) -> None:
        self._context = context
        self._keep_alive_s = keep_alive_s
        self._close = close
        self._scope = trio.CancelScope()
        self._is_watching = False
        self._is_idle = False
        self._has_ended = False

    async def restart(self, task_group: TaskGroup, _action: object) -> None:
        """The connection is idle from now on."""
        self._is_idle = True
        self._scope.deadline = trio.current_time() + self._keep_alive_s
        if not self._is_watching:
            self._is_watching = True
            task_group.spawn(self._watch)

    async def stop(self) -> None:
        """The connection is in use."""
        self._is_idle = False
        self._scope.deadline = math.inf

    def end(self) -> None:
        """The client has left: there is nothing to watch."""
        self._is_idle = False
        self._has_ended = True
        self._scope.cancel()

    async def _watch(self) -> None:
        while not self._has_ended:
            with self._scope:
                await self._context.terminated.wait()
            if self._is_idle or self._context.terminated.is_set():
                break
            self._scope = trio.CancelScope()  # its time was up just when a request came
        if self._is_idle:
            with trio.CancelScope(shield=True):  # it is bounded
                await self._close()
