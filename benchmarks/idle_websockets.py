"""`transfer-engine bench idle-websockets`: what idle websockets cost the server in memory, and in CPU."""

import resource
from typing import Any, Final, get_args

import click
import msgspec
import trio

from transfer_engine.benchmarks.frames import Socket, frame, open_socket
from transfer_engine.benchmarks.measures import Meter, rss_mib
from transfer_engine.benchmarks.output import Output, output_options
from transfer_engine.benchmarks.plan import Door
from transfer_engine.benchmarks.progress import Progress
from transfer_engine.benchmarks.reporting import report_on
from transfer_engine.benchmarks.result import IdleWebsockets, Report
from transfer_engine.benchmarks.served_engine import ServedEngine, audit, served_engine
from transfer_engine.benchmarks.side_tasks import side_tasks
from transfer_engine.engine import Settings

_AT_ONCE: Final = 64
_SETTLE_S: Final = 2.0
_FILES_OTHERWISE: Final = 256
_USERS: Final = 1_000

_encode: Final = msgspec.msgpack.Encoder().encode


@click.command("idle-websockets")
@click.option("--door", type=click.Choice(get_args(Door)), default="express", show_default=True)
@click.option("--connections", default=5_000, show_default=True, type=click.IntRange(1))
@click.option("--subscribe/--no-subscribe", default=False, help="Each is told of one user's transfers and balances.")
@click.option(
    "--watch", "watch_s", default=10.0, show_default=True, type=click.FloatRange(0.1), help="Seconds of being idle."
)
@output_options
def idle_websockets(door: Door, connections: int, subscribe: bool, watch_s: float, output: Output) -> None:
    """Measure the server's memory for each idle websocket, on embedded backends."""

    async def work(progress: Progress, report: Report) -> Report:
        idle = await measure_idle(
            door=door, connections=connections, subscribe=subscribe, watch_s=watch_s, progress=progress
        )
        return msgspec.structs.replace(report, idle_websockets=(idle,))

    report_on(work, output)


async def measure_idle(
    *, door: Door, connections: int, subscribe: bool, watch_s: float, progress: Progress
) -> IdleWebsockets:
    """Open so many websockets, ask each once for a sign of life (or for a user's events), and leave them alone.

    Raises:
        RuntimeError: this process may not have so many files open, or the server did not start.
    """
    _allow_files(connections + _FILES_OTHERWISE)
    progress.step("a server with fresh books")
    async with served_engine(Settings(), others={"connections_most": connections + _FILES_OTHERWISE}) as server:
        for socket in await _open(server, door, min(connections, _AT_ONCE), 0, subscribe=subscribe):
            await socket.aclose()  # what the first ones load is no connection's
        await trio.sleep(_SETTLE_S)
        before = rss_mib(server.pid)
        sockets: list[Socket] = []
        try:
            progress.step(f"{connections:,} websockets are opened")
            for start in range(0, connections, _AT_ONCE):
                count = min(_AT_ONCE, connections - start)
                sockets += await _open(server, door, count, start, subscribe=subscribe)
            await trio.sleep(_SETTLE_S)
            after = rss_mib(server.pid)
            progress.step(f"they are idle for {watch_s:g} s")
            meter = Meter(engine=server.pid)
            async with side_tasks(*(lambda socket=socket: _listen(socket) for socket in sockets)):
                await trio.sleep(watch_s)
            usage = meter.read(server.pid)
        finally:
            for socket in sockets:
                socket.cut()
        await server.stop()
        books = await audit(server.settings)
    return IdleWebsockets(
        name=f"{connections:,} idle websockets, {door} door{', subscribed' if subscribe else ''}",
        connections=connections,
        is_subscribed=subscribe,
        before_mib=before,
        after_mib=after,
        cpu_share=usage.engine_s / usage.seconds,
        books=books,
    )


async def _open(server: ServedEngine, door: Door, count: int, start: int, *, subscribe: bool) -> list[Socket]:
    """Open some websockets at once, and wait until each is answered."""
    sockets: list[Socket] = []

    async def open_one(number: int) -> None:
        socket = await open_socket(server.address(door).port)
        request: dict[str, Any] = {"op": "ping", "id": 1}
        if subscribe:
            request = {"op": "subscribe", "id": 1, "user_id": number % _USERS + 1}
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


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise RuntimeError(f"this process may have {hard} files open, and needs {count}: raise the limit (ulimit -Hn)")
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
