"""What an idle websocket costs the server in memory: its resident set before and after thousands of them."""

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from transfer_engine.benchmarks.frames import Socket, frame, open_socket
from transfer_engine.benchmarks.measures import Meter
from transfer_engine.benchmarks.server_processes import USERS, Books, EngineServer, engine_server

_AT_ONCE: Final = 64
_SETTLE_S: Final = 2.0
_FILES_OTHERWISE: Final = 256

_encode: Final = msgspec.msgpack.Encoder().encode


class IdleResult(msgspec.Struct, frozen=True):
    """What so many idle connections cost the server."""

    connections: int
    before_kib: int
    after_kib: int
    cpu_share: float
    """Of one core, while all of them were idle."""
    is_subscribed: bool
    books: Books

    @property
    def each_kib(self) -> float:
        """Resident memory of each, in KiB."""
        return (self.after_kib - self.before_kib) / max(self.connections, 1)


async def run_idle(
    *, door: str, connections: int, subscribe: bool, watch_s: float, tell: Callable[[str], None]
) -> IdleResult:
    """Open so many websockets, ask each once for a sign of life (or for a user's events), and leave them alone.

    Raises:
        RuntimeError: this process may not have so many files open.
    """
    _allow_files(connections + _FILES_OTHERWISE)
    settings = {"connections_most": connections + _FILES_OTHERWISE}
    async with engine_server(settings=settings) as (server, books):
        sockets = await _open(server, door, min(connections, _AT_ONCE), 0, subscribe=subscribe)
        for socket in sockets:  # what the first ones load is no connection's
            await socket.aclose()
        await trio.sleep(_SETTLE_S)
        before = _rss_kib(server.pid)
        tell(f"the server before: {before:,} KiB")
        sockets = []
        try:
            for start in range(0, connections, _AT_ONCE):
                count = min(_AT_ONCE, connections - start)
                sockets += await _open(server, door, count, start, subscribe=subscribe)
            await trio.sleep(_SETTLE_S)
            after = _rss_kib(server.pid)
            meter = Meter((server.pid,))
            async with trio.open_nursery() as nursery:
                for socket in sockets:
                    nursery.start_soon(_listen, socket)
                await trio.sleep(watch_s)
                nursery.cancel_scope.cancel()
            usage = meter.read()
        finally:
            for socket in sockets:
                await socket.aclose()
    return IdleResult(
        connections=connections,
        before_kib=before,
        after_kib=after,
        cpu_share=usage.servers_s / usage.seconds,
        is_subscribed=subscribe,
        books=books[0],
    )


async def _open(server: EngineServer, door: str, count: int, start: int, *, subscribe: bool) -> list[Socket]:
    """Open some websockets at once, and wait until each is answered."""
    sockets: list[Socket] = []

    async def open_one(number: int) -> None:
        socket = await open_socket(server.port_of(door), server.headers)
        request: dict[str, Any] = {"op": "ping", "id": 1}
        if subscribe:
            request = {"op": "subscribe", "id": 1, "user_id": USERS[number % len(USERS)]}
        await socket.send(frame(_encode(request)))
        await socket.receive()
        sockets.append(socket)

    async with trio.open_nursery() as nursery:
        for number in range(start, start + count):
            nursery.start_soon(open_one, number)
    return sockets


async def _listen(socket: Socket) -> None:
    """Answer the server's pings."""
    while await socket.receive():
        pass


def _rss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError("resident memory of another process is known on Linux alone")


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise RuntimeError(f"this process may have {hard} files open, and needs {count}: raise the limit (ulimit -Hn)")
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
