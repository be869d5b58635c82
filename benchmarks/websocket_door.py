"""The websocket under load: transfers or batches, pipelined over a few connections, against trio-websocket's echo.

A client library in Python costs more than the server does: the load writes frames of its own (``frames.py``), encoded
as MessagePack, and gets the answers by their ids.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
import trio

from transfer_engine.benchmarks.frames import PATH, Socket, frame, open_socket
from transfer_engine.benchmarks.measures import Latencies, Meter
from transfer_engine.benchmarks.server_processes import (
    AMOUNT,
    ASSET_ID,
    USERS,
    Books,
    EngineServer,
    engine_server,
    floor_server,
)

IN_FLIGHT: Final = 64
"""Frames of each connection that are unanswered."""

BATCHES_IN_FLIGHT: Final = 4
"""The same for batches: each counts as its transfers against the server's bound."""

_WARMUP_S: Final = 1.0
_encode: Final = msgspec.msgpack.Encoder().encode


class _Result(msgspec.Struct, frozen=True, gc=False):
    status: str | None = None
    results: list["_Entry"] | None = None


class _Entry(msgspec.Struct, frozen=True, gc=False):
    data: _Result | None = None


class _Answer(msgspec.Struct, frozen=True, gc=False):
    id: int
    ok: bool = False
    data: _Result | None = None


_decode: Final = msgspec.msgpack.Decoder(_Answer).decode


class SocketRound(msgspec.Struct, frozen=True):
    """What one round over one server got."""

    name: str
    frames_rate: float
    transfers_rate: float
    p50_ms: float
    p99_ms: float
    server_us: float
    """The server's CPU for each transfer (the floor's: for each frame), in µs."""
    others: int
    """Transfers that were answered otherwise than committed."""


class SocketResult(msgspec.Struct, frozen=True):
    """The rounds of both servers; ``ratio`` is between the medians of their frames a second."""

    floor: list[SocketRound]
    door: list[SocketRound]
    books: Books

    @property
    def ratio(self) -> float:
        """The websocket's rate of frames as a share of the floor's."""
        return statistics.median(each.frames_rate for each in self.door) / statistics.median(
            each.frames_rate for each in self.floor
        )


class Frames:
    """Makes frames of keyed transfers: many users in turn, there and back again, so that nobody's money runs out."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._run = f"{time.time_ns()}-"
        self._made = 0
        self.frames = 0

    def build(self) -> tuple[int, bytes]:
        """Return the next frame's id and the frame."""
        self.frames += 1
        if self._batch:
            body = {"op": "batch", "id": self.frames, "transfers": [self._item() for _ in range(self._batch)]}
        else:
            body = {"op": "transfer", "id": self.frames, **self._item()}
        return self.frames, frame(_encode(body))

    def _item(self) -> dict[str, Any]:
        number = self._made
        self._made += 1
        turn, index = divmod(number, len(USERS))
        source, target = ("trading", "funding") if turn % 2 else ("funding", "trading")
        return {
            "from": source,
            "to": target,
            "user_id": USERS[index],
            "asset_id": ASSET_ID,
            "amount": AMOUNT,
            "idempotency_key": f"{self._run}{number}",
        }


class Counts:
    """What a load's answers said."""

    def __init__(self) -> None:
        self.answers = 0
        self.committed = 0
        self.others = 0
        self.latencies = Latencies()


async def closed_loop(
    sockets: list[Socket], make: Callable[[], tuple[int, bytes]], *, seconds: float, in_flight: int, is_echo: bool
) -> Counts:
    """Keep ``in_flight`` frames unanswered on each connection for some seconds; then wait for the last answers.

    Raises:
        OSError: a connection ended.
    """
    counts = Counts()
    end = time.perf_counter() + seconds

    async def drive(socket: Socket) -> None:
        sent_at: dict[int, float] = {}
        first = []
        for _ in range(in_flight):
            number, data = make()
            sent_at[number] = time.perf_counter()
            first.append(data)
        await socket.send(b"".join(first))
        while sent_at:
            messages = await socket.receive()
            if not messages:
                raise OSError("the server closed the connection")
            now = time.perf_counter()
            again = []
            for message in messages:
                number = _take(message, counts, is_echo=is_echo)
                counts.latencies.add(now - sent_at.pop(number))
                if now < end:
                    number, data = make()
                    sent_at[number] = now
                    again.append(data)
            if again:
                await socket.send(b"".join(again))

    async with trio.open_nursery() as nursery:
        for socket in sockets:
            nursery.start_soon(drive, socket)
    return counts


def _take(message: bytes, counts: Counts, *, is_echo: bool) -> int:
    """Count what an answer says; return its id."""
    answer = _decode(message)
    counts.answers += 1
    if is_echo:
        return answer.id
    data = answer.data
    if data is None:
        counts.others += 1
    elif data.results is not None:
        committed = sum(each.data is not None and each.data.status == "committed" for each in data.results)
        counts.committed += committed
        counts.others += len(data.results) - committed
    elif data.status == "committed":
        counts.committed += 1
    else:
        counts.others += 1
    return answer.id


async def run_websocket(
    *,
    door: str,
    batch: int,
    connections: int,
    in_flight: int,
    seconds: float,
    rounds: int,
    token: bool,
    limits: bool,
    access_log: bool,
    tell: Callable[[SocketRound], None] = lambda _: None,
) -> SocketResult:
    """Measure floor and door in turn, ``rounds`` times each, every server alone with the load."""
    name = f"websocket, {door} door, {f'batches of {batch}' if batch else 'single transfers'}"
    make = Frames(batch)
    floor: list[SocketRound] = []
    measured: list[SocketRound] = []

    async def measure(label: str, port: int, pid: int, server: EngineServer | None, length_s: float) -> SocketRound:
        path = PATH if server is not None else "/"
        headers = server.headers if server is not None else ""
        sockets = [await open_socket(port, headers, path=path) for _ in range(connections)]
        meter = Meter((pid,))
        try:
            counts = await closed_loop(
                sockets, make.build, seconds=length_s, in_flight=in_flight, is_echo=server is None
            )
        finally:
            usage = meter.read()
            for socket in sockets:
                await socket.aclose()
        latencies = counts.latencies.summary()
        each = counts.committed + counts.others if server is not None else counts.answers
        return SocketRound(
            name=label,
            frames_rate=counts.answers / usage.seconds,
            transfers_rate=counts.committed / usage.seconds,
            p50_ms=latencies.p50_ms,
            p99_ms=latencies.p99_ms,
            server_us=usage.servers_s / max(each, 1) * 1e6,
            others=counts.others,
        )

    async with (
        floor_server("transfer_engine.benchmarks.bare_websocket") as (floor_port, floor_pid),
        engine_server(token=token, limits=limits, access_log=access_log) as (server, books),
    ):
        port = server.port_of(door)
        await measure("trio-websocket echo", floor_port, floor_pid, None, _WARMUP_S)
        await measure(name, port, server.pid, server, _WARMUP_S)
        for _ in range(rounds):
            floor.append(await measure("trio-websocket echo", floor_port, floor_pid, None, seconds))
            tell(floor[-1])
            measured.append(await measure(name, port, server.pid, server, seconds))
            tell(measured[-1])
    return SocketResult(floor=floor, door=measured, books=books[0])
