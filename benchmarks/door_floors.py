"""Floors of the doors, each a server process of its own under the load that the door gets.

Of the express door: an answer of the same size by httptools on bare trio streams. Of the main door: an empty POST on
quart-trio and hypercorn. Of the websocket: trio-websocket sending every frame back.
"""

import time
from typing import Final

import trio

from transfer_engine.benchmarks.floor_server import floor_server
from transfer_engine.benchmarks.frames import Socket, frame, open_socket
from transfer_engine.benchmarks.http_sender import HttpSender, http_sender
from transfer_engine.benchmarks.http_wire import Address
from transfer_engine.benchmarks.measures import Meter
from transfer_engine.benchmarks.plan import AMOUNT, ASSET_ID, Target
from transfer_engine.benchmarks.result import Floor
from transfer_engine.benchmarks.wrk import find_wrk, run_wrk

_HOST: Final = "127.0.0.1"
_WARM_UP_S: Final = 0.3
_ITEM: Final = b'{"from":"funding","to":"trading","user_id":1,"asset_id":%d,"amount":%d,"idempotency_key":"%020d"}' % (
    ASSET_ID,
    AMOUNT,
    0,
)
"""A transfer as a batch or a frame carries it."""


async def http_floor(target: Target, *, seconds: float) -> Floor:
    """Ask the floor of a door over as many connections; counts requests. wrk sends them where it would for the door.

    Raises:
        RuntimeError: the floor did not start.
    """
    is_express = target.door == "express"
    module = "bare_express" if is_express else "empty_door"
    name = "bare trio + httptools POST" if is_express else "empty quart-trio POST"
    wrk = find_wrk() if target.generator == "wrk" else None
    body = b'{"transfers":[%s]}' % b",".join([_ITEM] * target.batch) if target.batch > 1 else _ITEM
    async with (
        floor_server(f"transfer_engine.benchmarks.{module}") as (port, pid),
        http_sender(Address(_HOST, port), connections=target.connections) as sender,
    ):
        request = sender.request("POST", "/api/v1/transfer", body)
        await _requests(sender, request, _WARM_UP_S)
        meter = Meter((pid,))
        if wrk is not None:
            got = await run_wrk(wrk, sender.address, connections=target.connections, seconds=seconds)
            count = got.requests
        else:
            count = await _requests(sender, request, seconds)
        usage = meter.read()
    return Floor(
        name=f"{name}, by wrk" if wrk is not None else name,
        rate=count / usage.seconds,
        unit="requests",
        cpu_us=usage.servers_s / max(count, 1) * 1e6,
        things_a_transfer=1 / target.batch,
        kind="http",
        door=target.door,
    )


async def _requests(sender: HttpSender, request: bytes, seconds: float) -> int:
    """Ask for some seconds, one request at a time on each connection; return how many were answered."""
    end = time.perf_counter() + seconds
    count = 0

    async def drive(index: int) -> None:
        nonlocal count
        async with sender.caller(index) as caller:
            while time.perf_counter() < end:
                answer = await caller.ask(request)
                if isinstance(answer, str):
                    raise OSError(f"the floor does not answer: {answer}")
                count += 1

    async with trio.open_nursery() as nursery:
        for index in range(sender.callers_most or 1):
            nursery.start_soon(drive, index)
    return count


async def websocket_floor(target: Target, *, in_flight: int, seconds: float) -> Floor:
    """Have frames sent back, as many under way as the load has; counts messages.

    Raises:
        RuntimeError: the floor did not start.
        OSError: a connection ended.
    """
    frames = max(in_flight // target.batch // target.connections, 1)
    data = frame(b"[%s]" % b",".join([_ITEM] * target.batch) if target.batch > 1 else _ITEM)
    async with floor_server("transfer_engine.benchmarks.bare_websocket") as (port, pid):
        sockets = [await open_socket(port, path="/") for _ in range(target.connections)]
        try:
            await _echoes(sockets, data, frames, _WARM_UP_S)
            meter = Meter((pid,))
            count = await _echoes(sockets, data, frames, seconds)
            usage = meter.read()
        finally:
            for socket in sockets:
                await socket.aclose()
    return Floor(
        name="trio-websocket echo",
        rate=count / usage.seconds,
        unit="messages",
        cpu_us=usage.servers_s / max(count, 1) * 1e6,
        things_a_transfer=1 / target.batch,
        kind="websocket",
    )


async def _echoes(sockets: list[Socket], data: bytes, in_flight: int, seconds: float) -> int:
    """Keep so many frames unanswered on each connection for some seconds; return how many came back."""
    end = time.perf_counter() + seconds
    count = 0

    async def drive(socket: Socket) -> None:
        nonlocal count
        waiting = in_flight
        await socket.send(data * in_flight)
        while waiting:
            messages = len(await socket.receive())
            if not messages:
                raise OSError("the floor closed the connection")
            count += messages
            if time.perf_counter() < end:
                await socket.send(data * messages)
            else:
                waiting -= messages

    async with trio.open_nursery() as nursery:
        for socket in sockets:
            nursery.start_soon(drive, socket)
    return count
