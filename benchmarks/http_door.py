"""The main door under load, one transfer a request, against an empty quart-trio POST in the same run."""

import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import msgspec
import trio

from transfer_engine.benchmarks.load import LoadResult, http_load, request_bytes

USERS: Final = 1_000
STARTUP_S: Final = 20


class DoorResult(msgspec.Struct, frozen=True):
    """The rounds of both servers; ``ratio`` is between the medians of their rates."""

    floor: list[LoadResult]
    door: list[LoadResult]

    @property
    def ratio(self) -> float:
        """The door's rate as a share of the floor's."""
        return statistics.median(r.rate for r in self.door) / statistics.median(r.rate for r in self.floor)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@asynccontextmanager
async def _server(arguments: list[str], port: int) -> AsyncIterator[None]:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with trio.fail_after(STARTUP_S):
            while True:
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    if process.poll() is not None:
                        raise RuntimeError(f"{arguments[0]} ended with {process.returncode}") from None
                    await trio.sleep(0.05)
        yield
    finally:
        process.terminate()
        with trio.CancelScope(shield=True), trio.move_on_after(15):
            await process.wait()


async def _fund(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for user_id in range(1, USERS + 1):
            body = {"user_id": user_id, "account": "funding", "asset_id": 1, "amount": 10**12}
            (await client.post("/api/v1/admin/credits", json=body)).raise_for_status()


def _transfer(number: int) -> bytes:
    body = f'{{"from":"funding","to":"trading","user_id":{1 + number % USERS},"asset_id":1,"amount":1000000}}'
    return request_bytes("/api/v1/transfer", body.encode(), f"Idempotency-Key: bench-{number}\r\n")


async def run_http(*, connections: int, seconds: float, rounds: int) -> DoorResult:
    """Measure floor and door in turn, ``rounds`` times each, every server alone with the load."""
    floor: list[LoadResult] = []
    door: list[LoadResult] = []
    empty = request_bytes("/empty", b"{}")
    sent = 0

    def build(_: int) -> bytes:
        nonlocal sent
        sent += 1
        return _transfer(sent)

    with tempfile.TemporaryDirectory() as folder:
        floor_port, door_port = _free_port(), _free_port()
        serve = [
            "transfer_engine.http.command_line", "serve",
            "--port", str(door_port), "--data-dir", str(Path(folder) / "data"),
        ]  # fmt: skip
        async with (
            _server(["transfer_engine.benchmarks.empty_door", str(floor_port)], floor_port),
            _server(serve, door_port),
        ):
            await _fund(door_port)
            for port, building in ((floor_port, lambda _: empty), (door_port, build)):
                await http_load(port, build=building, connections=connections, seconds=1)
            for _ in range(rounds):
                floor.append(
                    await http_load(floor_port, build=lambda _: empty, connections=connections, seconds=seconds)
                )
                door.append(await http_load(door_port, build=build, connections=connections, seconds=seconds))
    return DoorResult(floor=floor, door=door)
