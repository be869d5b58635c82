"""A door under load over HTTP, one transfer or a batch a request, against the door's floor in the same run.

The floor of the main door is an empty quart-trio POST; the express door's is an answer by httptools on bare trio. Both
get the same load by the same generator: wrk for single transfers over the express door, where it is on PATH; else the
loop of ``load.py``, whose own CPU is of the same order as the express door's.
"""

import statistics
import time
from collections.abc import Callable
from typing import Final

import msgspec

from transfer_engine.benchmarks.load import http_load, request_bytes
from transfer_engine.benchmarks.measures import Meter
from transfer_engine.benchmarks.server_processes import (
    AMOUNT,
    ASSET_ID,
    USERS,
    Books,
    EngineServer,
    engine_server,
    floor_server,
)
from transfer_engine.benchmarks.wrk import find_wrk, run_wrk

_WARMUP_S: Final = 1.0
_encode: Final = msgspec.json.Encoder().encode


class Round(msgspec.Struct, frozen=True):
    """What one round over one server got."""

    name: str
    requests_rate: float
    transfers_rate: float
    p50_ms: float
    p99_ms: float
    server_us: float
    """The server's CPU for each transfer (the floor's: for each request), in µs."""
    others: str
    """What was answered otherwise than committed; empty for nothing."""


class DoorResult(msgspec.Struct, frozen=True):
    """The rounds of both servers; ``ratio`` is between the medians of their requests a second."""

    generator: str
    floor: list[Round]
    door: list[Round]
    books: Books

    @property
    def ratio(self) -> float:
        """The door's rate of requests as a share of the floor's."""
        return statistics.median(each.requests_rate for each in self.door) / statistics.median(
            each.requests_rate for each in self.floor
        )


class Transfers:
    """Makes requests of keyed transfers: many users in turn, there and back again, so that nobody's money runs out."""

    def __init__(self, server: EngineServer | None, batch: int) -> None:
        self._headers = server.headers if server is not None else ""
        self._batch = batch
        self._run = f"{time.time_ns()}-"
        self._made = 0

    def build(self, _: int) -> bytes:
        """Return the next request."""
        if not self._batch:
            number = self._next()
            body = _encode(self._body(number))
            return request_bytes("/api/v1/transfer", body, f"Idempotency-Key: {self._run}{number}\r\n{self._headers}")
        items = []
        for _ in range(self._batch):
            number = self._next()
            items.append({**self._body(number), "idempotency_key": f"{self._run}{number}"})
        return request_bytes("/api/v1/transfers/batch", _encode({"transfers": items}), self._headers)

    def _next(self) -> int:
        self._made += 1
        return self._made

    @staticmethod
    def _body(number: int) -> dict[str, str | int]:
        turn, index = divmod(number, len(USERS))
        source, target = ("trading", "funding") if turn % 2 else ("funding", "trading")
        return {"from": source, "to": target, "user_id": USERS[index], "asset_id": ASSET_ID, "amount": AMOUNT}


async def run_http(
    *,
    door: str,
    batch: int,
    connections: int,
    seconds: float,
    rounds: int,
    token: bool,
    limits: bool,
    access_log: bool,
    tell: Callable[[Round], None] = lambda _: None,
) -> DoorResult:
    """Measure floor and door in turn, ``rounds`` times each, every server alone with the load."""
    floor_name = "bare trio + httptools" if door == "express" else "empty quart-trio POST"
    door_name = f"{door} door, {f'batches of {batch}' if batch else 'single transfers'}"
    module = "bare_express" if door == "express" else "empty_door"
    wrk = find_wrk() if door == "express" and not batch else None
    floor: list[Round] = []
    measured: list[Round] = []

    async def measure(name: str, port: int, pid: int, server: EngineServer | None, length_s: float) -> Round:
        meter = Meter((pid,))
        if wrk is not None:
            got = await run_wrk(
                wrk,
                port,
                connections=connections,
                seconds=length_s,
                token=server.token if server is not None else None,
                users=len(USERS),
            )
            usage = meter.read()
            others = f"{got.others} answers were no committed transfers" if got.others else ""
            return Round(
                name,
                got.requests / got.seconds,
                got.rate if server is not None else 0.0,
                got.p50_ms,
                got.p99_ms,
                usage.servers_s / max(got.requests, 1) * 1e6,
                others,
            )
        if server is None and door == "main":
            empty = request_bytes("/empty", b"{}")
            load = await http_load(port, build=lambda _: empty, connections=connections, seconds=length_s)
        else:
            build = Transfers(server, batch).build
            load = await http_load(port, build=build, connections=connections, seconds=length_s)
        usage = meter.read()
        asked = load.requests * (batch or 1)
        count = asked if server is not None else load.requests
        is_off = server is not None and load.committed != asked
        return Round(
            name,
            load.rate,
            load.transfers_rate if server is not None else 0.0,
            load.p50_ms,
            load.p99_ms,
            usage.servers_s / max(count, 1) * 1e6,
            f"{load.committed} of {asked} were committed, {load.statuses}" if is_off else "",
        )

    async with (
        floor_server(f"transfer_engine.benchmarks.{module}") as (floor_port, floor_pid),
        engine_server(token=token, limits=limits, access_log=access_log) as (server, books),
    ):
        port = server.port_of(door)
        await measure(floor_name, floor_port, floor_pid, None, _WARMUP_S)
        await measure(door_name, port, server.pid, server, _WARMUP_S)
        for _ in range(rounds):
            floor.append(await measure(floor_name, floor_port, floor_pid, None, seconds))
            tell(floor[-1])
            measured.append(await measure(door_name, port, server.pid, server, seconds))
            tell(measured[-1])
    return DoorResult(generator="wrk" if wrk else "a loop of trio streams", floor=floor, door=measured, books=books[0])
