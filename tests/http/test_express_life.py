"""The express door in this process: what it says of itself, and how it ends."""

import contextlib
import select
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from transfer_engine.http.express import ExpressDoor, ServeWebSocket
from transfer_engine.http.express_requests import Upgrade
from transfer_engine.http.handlers import Api
from transfer_engine.http.settings import ServerSettings

from .test_doors import get, post

HANDSHAKE = get(b"/api/v1/ws", b"Upgrade: WebSocket", b"Connection: upgrade", b"Sec-WebSocket-Key: x")


class Rig:
    """A door on a free port, without an engine."""

    def __init__(self, door: ExpressDoor, listeners: list[trio.SocketListener], stopping: trio.Event) -> None:
        self.door = door
        self.stopping = stopping
        self.port = listeners[0].socket.getsockname()[1]
        self.ended = trio.Event()

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)


@asynccontextmanager
async def opened(door: ExpressDoor, *, graceful_s: float = 5) -> AsyncIterator[Rig]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    rig = Rig(door, listeners, trio.Event())

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        await door.serve(listeners, rig.stopping, graceful_s=graceful_s, task_status=task_status)
        rig.ended.set()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            yield rig
            nursery.cancel_scope.cancel()


def new_door(
    *, connections_most: int = 10, serve_websocket: ServeWebSocket | None = None, **settings: int
) -> ExpressDoor:
    server_settings = ServerSettings(connections_most=connections_most, **settings)
    return ExpressDoor(Api(server_settings, version="0"), server_settings, serve_websocket)


async def answered(stream: trio.SocketStream) -> bytes:
    """Return the answer's status line, once it is whole."""
    data = b""
    while b"}" not in data:
        data += await stream.receive_some()
    return data.partition(b"\r\n")[0]


async def test_it_says_what_it_is_doing() -> None:
    async with opened(new_door(connections_most=2)) as rig:
        streams = [await rig.connect() for _ in range(2)]
        for stream in streams:
            await stream.send_all(get(b"/health"))
            assert await answered(stream) == b"HTTP/1.1 200 OK"
        assert rig.door.statistics().connections == 2
        assert "2 connections" in repr(rig.door)
        async with await rig.connect() as one_more:
            assert await one_more.receive_some() == b""
        assert rig.door.statistics().refused_connections == 1
        for stream in streams:
            await stream.aclose()
        while rig.door.statistics().connections:
            await trio.testing.wait_all_tasks_blocked()
        rig.stopping.set()
        await rig.ended.wait()


async def test_what_needs_the_engine_is_refused_until_it_has_opened() -> None:
    async with opened(new_door()) as rig, await rig.connect() as stream:
        await stream.send_all(get(b"/api/v1/balances/1"))
        assert await answered(stream) == b"HTTP/1.1 503 Service Unavailable"


async def test_a_websocket_is_handed_over_with_its_socket_and_told_of_the_stop() -> None:
    taken: list[Upgrade] = []

    async def echo(upgrade: Upgrade, stream: trio.SocketStream, stopping: trio.Event) -> None:
        taken.append(upgrade)
        await stream.send_all(b"first: " + upgrade.rest + b", then: " + await stream.receive_some())
        await stopping.wait()
        await stream.send_all(b"stopping")

    async with opened(new_door(serve_websocket=echo)) as rig, await rig.connect() as stream:
        await stream.send_all(HANDSHAKE + b"early")
        while not taken:
            await trio.testing.wait_all_tasks_blocked()
        assert rig.door.statistics().connections == 0
        assert rig.door.statistics().websockets == 1
        await stream.send_all(b"late")
        assert await stream.receive_some() == b"first: early, then: late"
        rig.stopping.set()
        assert await stream.receive_some() == b"stopping"
        await rig.ended.wait()
    assert taken[0].headers == ((b"sec-websocket-key", b"x"),)


async def test_without_anybody_to_take_websockets_they_are_requests_and_the_last() -> None:
    async with opened(new_door()) as rig, await rig.connect() as stream:
        await stream.send_all(HANDSHAKE)
        assert await answered(stream) == b"HTTP/1.1 426 Upgrade Required"
        assert await stream.receive_some() == b""


async def test_what_is_under_way_too_long_is_cut_off_at_the_stop() -> None:
    async def never(_upgrade: Upgrade, _stream: trio.SocketStream, _stopping: trio.Event) -> None:
        await trio.sleep_forever()

    async with opened(new_door(serve_websocket=never), graceful_s=0.1) as rig, await rig.connect() as stream:
        await stream.send_all(HANDSHAKE)
        while not rig.door.statistics().websockets:
            await trio.testing.wait_all_tasks_blocked()
        rig.stopping.set()
        assert await stream.receive_some() == b""
        await rig.ended.wait()


async def test_a_fault_of_one_connection_is_logged_and_ends_no_other() -> None:
    async def faulty(_upgrade: Upgrade, _stream: trio.SocketStream, _stopping: trio.Event) -> None:
        raise ValueError("a fault")

    with capture_logs() as logs:
        async with opened(new_door(serve_websocket=faulty)) as rig, await rig.connect() as other:
            async with await rig.connect() as stream:
                await stream.send_all(HANDSHAKE)
                assert await stream.receive_some() == b""
            await other.send_all(get(b"/health"))
            assert await answered(other) == b"HTTP/1.1 200 OK"
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("connection failed", "error")]


async def test_a_client_that_has_sent_its_end_with_its_request_is_answered_and_let_go() -> None:
    async with opened(new_door()) as rig:
        with socket.create_connection(("127.0.0.1", rig.port), timeout=5) as client:
            for is_last in (False, True):
                client.send(post(b"{}"))
                if is_last:
                    client.shutdown(socket.SHUT_WR)  # nobody has looked meanwhile: the door is told of both at once
                answer = b""
                while b"}" not in answer:
                    answer += await trio.to_thread.run_sync(client.recv, 4_096)
            assert await trio.to_thread.run_sync(client.recv, 4_096) == b""


async def test_without_epoll_connections_wait_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.delattr(select, "epoll")
        door = new_door(keep_alive_ms=200)
    async with opened(door) as rig, await rig.connect() as stream:
        for request, status in ((get(b"/health"), b"200 OK"), (post(b"{}"), b"422 Unprocessable Entity")) * 2:
            await stream.send_all(request[:20])
            await trio.testing.wait_all_tasks_blocked()
            await stream.send_all(request[20:])
            assert await answered(stream) == b"HTTP/1.1 " + status
        assert await stream.receive_some() == b""  # idle for too long


async def test_cancellation_cuts_every_connection() -> None:
    async with opened(new_door()) as rig:
        stream = await rig.connect()
        await stream.send_all(get(b"/health")[:-1])
        while not rig.door.statistics().connections:
            await trio.testing.wait_all_tasks_blocked()
    async with stream:
        with contextlib.suppress(trio.BrokenResourceError):  # a reset, where what it had sent was not read yet
            assert await stream.receive_some() == b""
    assert rig.door.statistics().connections == 0
