"""Which connections have something to read: one epoll for all of them, asked by one task.

Trio arms a socket anew for every wait, and wakes a task for every request: as much CPU as it takes to parse one. Here
a connection is registered once, edge-triggered, and its callback is called from the one task that waits. A system
without epoll has no such thing; its connections wait by trio, one by one.
"""

import select
import socket
from collections.abc import Callable
from typing import Final

import structlog
import trio

_log: Final = structlog.stdlib.get_logger("transfer_engine.http")
_EVENTS_MOST: Final = 128
"""Connections that are called in a row, before other tasks have their turn."""


class Readiness:
    """Calls back whose socket has become readable, or has been closed by its peer."""

    def __init__(self) -> None:
        self._epoll: Final = select.epoll() if hasattr(select, "epoll") else None
        self._callbacks: dict[int, Callable[[bool], None]] = {}

    def __repr__(self) -> str:
        return f"<Readiness of {len(self._callbacks)} sockets>"

    def watch(self, watched: socket.socket, on_ready: Callable[[bool], None]) -> bool:
        """Have ``on_ready`` called at each change, the first one as soon as there is something.

        It gets whether the peer's end, or a fault, is part of what has come. That is not told again: it stands behind
        the bytes, and has to be read by who was told. What the callback raises is logged, and ends nothing.

        Returns:
            False where this system can't.
        """
        if self._epoll is None:
            return False
        self._callbacks[watched.fileno()] = on_ready
        self._epoll.register(watched, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        return True

    def forget(self, watched: socket.socket) -> None:
        """Call it back no more; before the socket is closed."""
        is_watched = self._callbacks.pop(watched.fileno(), None) is not None
        if is_watched and self._epoll is not None and not self._epoll.closed:
            self._epoll.unregister(watched)

    async def run(self) -> None:
        """Call back until cancelled."""
        if self._epoll is None:
            return
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                for number, events in self._epoll.poll(0, _EVENTS_MOST):
                    on_ready = self._callbacks.get(number)
                    if on_ready is None:  # another callback has just ended that connection
                        continue
                    try:
                        on_ready(events != select.EPOLLIN)
                    except Exception:  # noqa: BLE001 - whatever a client can provoke must not reach the others
                        _log.exception("connection failed")
        finally:
            self._epoll.close()
