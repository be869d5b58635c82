"""The websocket of both doors of a real server, asked by a real client, and by one that breaks its rules."""

import base64
import itertools
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url
from wsproto import ConnectionType
from wsproto.connection import Connection as FrameConnection
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from support.server import Server, eventually, running_server
from transfer_engine.http.websocket_sessions import PATH

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USERS = itertools.count(100)


def url_of(server: Server) -> str:
    return server.url.replace("http://", "ws://") + PATH


@asynccontextmanager
async def connected(server: Server, **headers: str) -> AsyncIterator[WebSocketConnection]:
    extra = [(name.encode(), value.encode()) for name, value in headers.items()]
    with trio.fail_after(30):
        async with open_websocket_url(url_of(server), extra_headers=extra) as websocket:
            try:
                yield websocket
            finally:
                if websocket.closed:  # where the server was first it leaves its socket open
                    await trio.aclose_forcefully(websocket._stream)


async def ask(websocket: WebSocketConnection, op: str, **members: Any) -> Any:
    """Send a request and return the next message."""
    await websocket.send_message(json.dumps({"op": op, **members}))
    return json.loads(await websocket.get_message())


def order(user_id: int, **other: Any) -> dict[str, Any]:
    return {"from": "funding", "to": "trading", "user_id": user_id, "asset_id": 1, "amount": 1, **other}


def new_user(server: Server) -> int:
    user_id = server.users_from + next(USERS)
    server.credit(user_id, 1_000_000)
    return user_id


async def test_transfers_are_pipelined(door: Server) -> None:
    user_id = new_user(door)
    async with connected(door) as websocket:
        for call_id in range(300):
            await websocket.send_message(json.dumps({"op": "transfer", "id": call_id, **order(user_id)}))
        answers = [json.loads(await websocket.get_message()) for _ in range(300)]
        assert sorted(answer["id"] for answer in answers) == list(range(300))
        assert {answer["data"]["status"] for answer in answers} == {"committed"}
        answer = await ask(websocket, "balances", id="b", user_id=user_id)
        held = {one["account"]: one["available"] for one in answer["data"]["balances"]}
        assert (held["funding"], held["trading"]) == (999_700, 300)


async def test_text_and_binary_frames_are_mixed(door: Server) -> None:
    user_id = new_user(door)
    async with connected(door) as websocket:
        await websocket.send_message(msgspec.msgpack.encode({"op": "transfer", "id": 1, **order(user_id)}))
        binary = await websocket.get_message()
        assert isinstance(binary, bytes)
        assert msgspec.msgpack.decode(binary)["data"]["status"] == "committed"
        assert (await ask(websocket, "ping", id=2)) == {"id": 2, "op": "ping", "ok": True}


async def test_a_batch_of_a_thousand(door: Server) -> None:
    user_id = new_user(door)
    async with connected(door) as websocket:
        transfers = [order(user_id, idempotency_key=f"{user_id}-{number}") for number in range(1_000)]
        answer = await ask(websocket, "batch", id=1, transfers=transfers)
        first = [result["data"]["req_id"] for result in answer["data"]["results"]]
        assert len(set(first)) == 1_000
        again = await ask(websocket, "batch", id=2, transfers=transfers)
        assert [result["data"]["req_id"] for result in again["data"]["results"]] == first
    eventually(lambda: door.balance(user_id, "trading"), lambda held: held == (1_000, 0))


async def test_a_subscription_sees_what_others_do(door: Server) -> None:
    user_id = new_user(door)
    async with connected(door) as websocket:
        subscribed = await ask(websocket, "subscribe", id=1, user_id=user_id)
        snapshot = json.loads(await websocket.get_message())
        assert snapshot["balances"] == [{"account": "funding", "asset_id": 1, "available": 1_000_000, "frozen": 0}]
        other = {key: value for key, value in order(user_id).items() if key != "id"}
        response = door.client.post("/api/v1/transfer", json=other)
        events = [json.loads(await websocket.get_message()) for _ in range(3)]
        assert [event["seq"] for event in events] == [snapshot["seq"] + n for n in (1, 2, 3)]
        assert {event["req_id"] for event in events} == {response.json()["req_id"]}
        stream = subscribed["data"]["stream"]
    async with connected(door) as websocket:
        seen = events[0]["seq"]
        resumed = await ask(websocket, "subscribe", id=1, user_id=user_id, stream=stream, after=seen)
        assert resumed["data"]["resumed"] is True
        assert [json.loads(await websocket.get_message()) for _ in range(2)] == events[1:]


async def test_the_same_key_from_64_connections_is_one_transfer(door: Server) -> None:
    user_id = new_user(door)
    answers = []

    async def one(number: int) -> None:
        async with connected(door) as websocket:
            body = order(user_id, idempotency_key=f"same {user_id}", amount=1 if number else 2)
            answers.append(await ask(websocket, "transfer", id=number, **body))

    async with trio.open_nursery() as nursery:
        for number in range(64):
            nursery.start_soon(one, number)
    taken = [answer for answer in answers if answer["ok"]]
    assert len({answer["data"]["req_id"] for answer in taken}) == 1
    assert sum(not answer["data"]["replayed"] for answer in taken) == 1
    assert {answer["error"]["code"] for answer in answers if not answer["ok"]} == {"key_reused"}
    assert door.balance(user_id, "trading")[0] in {1, 2}


def handshake(server: Server, path: bytes, *headers: bytes) -> tuple[int, bytes]:
    """Ask for a websocket, and return the answer's status, and what follows its head."""
    head, body = answer_of(server, path, *headers)
    return int(head.split(b" ", 2)[1]), body


def answer_of(server: Server, path: bytes, *headers: bytes) -> tuple[bytes, bytes]:
    """Ask for a websocket, and return the answer's head, in lower case, and what follows it."""
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=20) as connection:
        lines = [
            b"GET " + path + b" HTTP/1.1",
            b"Host: 127.0.0.1",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: " + base64.b64encode(os.urandom(16)),
            *headers,
        ]
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
        heard = connection.recv(65_536)
        while b" 101 " not in heard[:16] and (data := connection.recv(65_536)):
            heard += data
        head, _, body = heard.partition(b"\r\n\r\n")
        return head.lower(), body


def test_other_paths_have_no_websocket(door: Server) -> None:
    status, body = handshake(door, b"/api/v1/ws/other")
    assert (status, json.loads(body)["code"]) == (404, "no_such_path")


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_who_does_not_upgrade_is_told_to(door: Server, method: str) -> None:
    answer = door.client.request(method, PATH)
    assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
    assert method == "HEAD" or answer.json()["code"] == "upgrade_required"


def test_a_refused_handshake_has_the_headers_of_the_rate_limits(tmp_path: "Path") -> None:
    with running_server(tmp_path, config={"rate_limits": {"per_address_per_minute": 3}}) as server:
        for door in (server, server.through("express")):
            head, _ = answer_of(door, b"/api/v1/ws/other")
            assert head.startswith(b"http/1.1 404 ")
            assert b'\r\nratelimit: "address";r=' in head
        assert handshake(server, b"/api/v1/ws")[0] == 101
        for door in (server, server.through("express")):
            head, _ = answer_of(door, b"/api/v1/ws")
            assert head.startswith(b"http/1.1 429 ")
            assert b'\r\nratelimit: "address";r=0;t=' in head
            assert b"\r\nretry-after: " in head


def test_pages_of_other_sites_are_refused(door: Server) -> None:
    status, body = handshake(door, b"/api/v1/ws", b"Origin: https://example.com")
    assert (status, json.loads(body)["code"]) == (421, "wrong_host")
    assert handshake(door, b"/api/v1/ws", b"Origin: http://localhost:3000")[0] == 101


class RawClient:
    """A client that sends what it likes."""

    def __init__(self, server: Server, *headers: bytes) -> None:
        port = int(server.url.rpartition(":")[2])
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        lines = [
            b"GET /api/v1/ws HTTP/1.1",
            b"Host: 127.0.0.1",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: " + base64.b64encode(os.urandom(16)),
            *headers,
        ]
        self.socket.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
        self.head = b""
        while b"\r\n\r\n" not in self.head:
            self.head += self.socket.recv(4_096)
        assert self.head.startswith(b"HTTP/1.1 101"), self.head
        self.frames = FrameConnection(ConnectionType.CLIENT)
        self.pongs: list[bytes] = []

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def hear_one(self) -> Any:
        """Return the next message."""
        while True:
            for event in self.frames.events():
                if isinstance(event, Pong):
                    self.pongs.append(bytes(event.payload))
                else:
                    assert isinstance(event, TextMessage | BytesMessage), event
                    is_text = isinstance(event, TextMessage)
                    return json.loads(event.data) if is_text else msgspec.msgpack.decode(bytes(event.data))
            self.frames.receive_data(self.socket.recv(65_536) or None)

    def hear(self) -> tuple[list[Any], int | None]:
        """Return all messages up to the close frame, and its code; None where there is none."""
        messages = []
        while True:
            data = self.socket.recv(65_536)
            self.frames.receive_data(data or None)
            for event in self.frames.events():
                if isinstance(event, TextMessage):
                    messages.append(json.loads(event.data))
                elif isinstance(event, BytesMessage):
                    messages.append(msgspec.msgpack.decode(bytes(event.data)))
                elif isinstance(event, Pong):
                    self.pongs.append(bytes(event.payload))
                elif isinstance(event, CloseConnection):
                    return messages, event.code if event.code != 1006 else None


@contextmanager
def raw(server: Server, *headers: bytes) -> "Iterator[RawClient]":
    client = RawClient(server, *headers)
    with client.socket:
        yield client


def frame(opcode: int, payload: bytes, *, is_last: bool = True, is_masked: bool = True, reserved: int = 0) -> bytes:
    head = bytes([(0x80 if is_last else 0) | reserved | opcode])
    mask_bit = 0x80 if is_masked else 0
    size = len(payload)
    if size < 126:
        head += bytes([mask_bit | size])
    elif size < 1 << 16:
        head += bytes([mask_bit | 126]) + size.to_bytes(2)
    else:
        head += bytes([mask_bit | 127]) + size.to_bytes(8)
    return head + (b"\0\0\0\0" if is_masked else b"") + payload


TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9
PING_CALL = b'{"op":"ping","id":1}'


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([frame(TEXT, b"\xff")], 1007),
        ([frame(TEXT, b'{"op":"ping","id":"\xc3')], 1007),
        ([frame(TEXT, b"{}", is_masked=False)], 1002),
        ([frame(TEXT, b"{}", reserved=0x40)], 1002),
        ([frame(3, b"")], 1002),
        ([frame(0, b"no beginning")], 1002),
        ([frame(PING, b"x" * 126)], 1002),
        ([frame(PING, b"", is_last=False)], 1002),
        ([frame(TEXT, b" " * (600 << 10))], 1009),
        ([frame(TEXT, b" " * 1_000, is_last=False)] + [frame(0, b" " * 60_000, is_last=False)] * 10, 1009),
    ],
)
def test_frames_that_are_wrong_have_their_code(door: Server, frames: list[bytes], code: int) -> None:
    with raw(door) as client:
        client.send(frame(TEXT, PING_CALL), *frames)
        messages, closed = client.hear()
        assert closed == code
        assert [message["op"] for message in messages] == ["ping", "closing"]
        assert messages[1]["code"] == code


def test_messages_may_come_in_parts_with_pings_between(door: Server) -> None:
    with raw(door) as client:
        parts = [frame(TEXT, PING_CALL[:7], is_last=False), frame(PING, b"there?"), frame(0, PING_CALL[7:])]
        for byte in b"".join(parts):
            client.send(bytes([byte]))
        assert client.hear_one() == {"id": 1, "op": "ping", "ok": True}
        assert client.pongs == [b"there?"]
        client.send(frame(CLOSE, (1000).to_bytes(2)))
        assert client.hear() == ([], 1000)


def test_compression_is_not_taken(door: Server) -> None:
    with raw(door, b"Sec-WebSocket-Extensions: permessage-deflate") as client:
        assert b"sec-websocket-extensions" not in client.head.lower()
        client.send(frame(CLOSE, (1000).to_bytes(2)))
        assert client.hear() == ([], 1000)


def test_a_message_right_behind_the_handshake_is_answered(door: Server) -> None:
    key = base64.b64encode(os.urandom(16))
    with socket.create_connection(("127.0.0.1", int(door.url.rpartition(":")[2])), timeout=20) as connection:
        connection.sendall(
            b"GET /api/v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n" + frame(TEXT, PING_CALL)
        )
        heard = b""
        while b'"ok":true' not in heard:
            data = connection.recv(4_096)
            assert data, heard
            heard += data


@pytest.mark.parametrize(
    "change",
    [
        (b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 12"),
        (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""),
        (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Key: short"),
    ],
)
def test_handshakes_that_are_none(door: Server, change: tuple[bytes, bytes]) -> None:
    head = (
        b"GET /api/v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert change[0] in head
    with socket.create_connection(("127.0.0.1", int(door.url.rpartition(":")[2])), timeout=20) as connection:
        connection.sendall(head.replace(*change))
        status = int(connection.recv(4_096).split(b" ", 2)[1])
        assert status in {400, 426} or (status == 101 and not door.users_from), "hypercorn looks at no key's length"


def test_a_client_that_is_gone_after_sending_has_sent(door: Server) -> None:
    user_id = new_user(door)
    with raw(door) as client:
        for number in range(50):
            body = {"op": "transfer", "id": number, **order(user_id, idempotency_key=f"gone {user_id} {number}")}
            client.send(frame(TEXT, json.dumps(body).encode()))
    with raw(door) as client:
        for number in range(50):
            body = {"op": "transfer", "id": number, **order(user_id, idempotency_key=f"gone {user_id} {number}")}
            client.send(frame(TEXT, json.dumps(body).encode()))
        client.send(frame(TEXT, b'{"op":"ping","id":-1}'))
        for _ in range(51):
            client.hear_one()
    assert door.balance(user_id, "trading")[0] == 50


@given(
    messages=st.lists(
        st.one_of(
            st.tuples(st.just(TEXT), st.text(max_size=60).map(lambda text: text.encode(errors="ignore"))),
            st.tuples(st.just(BINARY), st.binary(max_size=60)),
            st.tuples(
                st.just(TEXT),
                st.recursive(
                    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda inner: (
                        st.lists(inner, max_size=3)
                        | st.dictionaries(st.sampled_from(["op", "id", "from", "transfers", "x"]), inner, max_size=4)
                    ),
                    max_leaves=8,
                ).map(lambda value: json.dumps(value).encode()),
            ),
            st.tuples(
                st.just(BINARY),
                st.dictionaries(
                    st.sampled_from(["op", "id", "from", "transfers", "user_id", "token"]),
                    st.sampled_from(["transfer", "batch", "get", "ping", "subscribe", "auth"])
                    | st.integers(-(1 << 63), (1 << 64) - 1)
                    | st.binary(max_size=4)
                    | st.lists(st.integers(0, 3), max_size=3),
                    max_size=5,
                ).map(msgspec.msgpack.encode),
            ),
        ),
        max_size=12,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_sent_has_an_answer(door: Server, messages: list[tuple[int, bytes]]) -> None:
    with raw(door) as client:
        client.send(*(frame(opcode, payload) for opcode, payload in messages))
        client.send(frame(TEXT, b'{"op":"ping","id":"the last"}'))
        heard: list[Any] = []
        while not (heard and heard[-1].get("id") == "the last"):
            message = client.hear_one()
            if message["op"] not in {"snapshot", "event"}:
                heard.append(message)
        assert len(heard) <= len(messages) + 1


@given(data=st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_bytes_come_the_server_lives(door: Server, data: bytes) -> None:
    with raw(door) as client:
        client.send(data)
        client.socket.shutdown(socket.SHUT_WR)
        while client.socket.recv(65_536):
            pass
    assert door.client.get("/health").status_code == 200


async def test_a_slow_reader_is_cut_off_and_others_go_on(tmp_path: "Path") -> None:
    config = {"websocket": {"waiting_bytes_most": 65_536}, "send_timeout_ms": 1_000}
    with running_server(tmp_path, config=config) as server:
        for door in (server, server.through("express")):
            user_id = new_user(door)
            with raw(door) as client:
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                # A small question with a large answer: a thousand times what is wrong.
                batch = json.dumps({"op": "batch", "id": 1, "transfers": [0] * 1_000}).encode()
                calls = frame(TEXT, batch) * 5
                with trio.move_on_after(40) as sending:
                    while not await _is_cut(client, calls):
                        await trio.lowlevel.checkpoint()
                assert not sending.cancelled_caught, "it could go on for ever"
            async with connected(door) as websocket:
                assert (await ask(websocket, "transfer", id=1, **order(user_id)))["ok"]


async def _is_cut(client: RawClient, calls: bytes) -> bool:
    """Send more, as far as the server takes it; True once it has cut the connection."""

    def send() -> bool:
        client.socket.settimeout(0.5)
        try:
            client.socket.sendall(calls)
        except TimeoutError:
            return False
        except OSError:
            return True
        return False

    return await trio.to_thread.run_sync(send)


async def test_after_a_kill_there_is_a_new_stream_and_a_snapshot(tmp_path: "Path") -> None:
    stream = ""
    for life in range(2):
        with running_server(tmp_path) as server:
            if not life:
                server.credit(1, 1_000)
            for door in (server, server.through("express")):
                async with connected(door) as websocket:
                    resume = {"stream": stream, "after": 0} if stream else {}
                    subscribed = await ask(websocket, "subscribe", id=1, user_id=1, **resume)
                    snapshot = json.loads(await websocket.get_message())
                    if life:
                        assert subscribed["data"]["resumed"] is False
                        assert subscribed["data"]["stream"] != stream
                    held = {one["account"]: one["available"] for one in snapshot["balances"]}
                    assert held.get("trading", 0) == server.balance(1, "trading")[0]
                    answer = await ask(websocket, "transfer", id=2, **order(1))
                    assert answer["data"]["status"] == "committed"
            stream = subscribed["data"]["stream"]
            server.process.kill()


async def test_a_stop_closes_connections_when_all_is_answered(tmp_path: "Path") -> None:
    with running_server(tmp_path) as server:
        server.credit(1, 1_000)
        async with connected(server) as one, connected(server.through("express")) as other:
            for websocket in (one, other):
                await websocket.send_message(json.dumps({"op": "transfer", "id": 1, **order(1)}))
                assert json.loads(await websocket.get_message())["ok"]
            code = trio.Event()

            async def stop() -> None:
                assert await trio.to_thread.run_sync(server.stop) == 0
                code.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(stop)
                for websocket in (one, other):
                    assert json.loads(await websocket.get_message())["op"] == "closing"
                    with pytest.raises(ConnectionClosed) as closed:
                        await websocket.get_message()
                    assert closed.value.reason is not None
                    assert closed.value.reason.code == 1001
                await code.wait()
        assert server.faults == []


async def test_pings_are_answered_and_who_answers_none_is_cut_off(tmp_path: "Path") -> None:
    with running_server(tmp_path, config={"websocket": {"ping_interval_ms": 200}}) as server:
        for door in (server, server.through("express")):
            with raw(door) as client:
                pings = 0
                while True:
                    data = client.socket.recv(4_096)
                    if not data:
                        break
                    client.frames.receive_data(data)
                    pings += sum(isinstance(event, Ping) for event in client.frames.events())
                assert pings == 1
            async with connected(door) as websocket:
                await trio.sleep(1.5)
                assert (await ask(websocket, "ping", id=1))["ok"]
