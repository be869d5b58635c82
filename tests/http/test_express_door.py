"""The express door at the level of bytes: what it refuses, how long it waits, and in what order it answers."""

import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.server import PATIENCE_S, Server, eventually, run_command, running_server

from .conftest import CONFIG
from .test_doors import HOST, JSON, TRANSFER, get, post, read_answer, transfer

SLOW = {"ops": ["deposit"], "latency_ms": 300}
BEHAVIOUR = "/api/v1/admin/simulated-cores/core/behaviour"


@pytest.fixture
def connection(served: Server) -> Iterator[socket.socket]:
    with connect(served) as stream:
        yield stream


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.express_port), timeout=PATIENCE_S)


def ended(connection: socket.socket) -> list[tuple[int, Any]]:
    """Return the statuses and bodies of all that is answered until the connection ends."""
    answers = []
    with connection.makefile("rb") as stream:
        while stream.peek(1):
            answer = read_answer(stream)
            answers.append((answer.status, json.loads(answer.body)))
    return answers


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"GET /health HTTP/1.1\r\n\r\n", "Host is missing"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", "Host stands there twice"),
        (b"GET /health HTTP/1.0\r\nHost: localhost\r\nhost: elsewhere\r\n\r\n", "Host stands there twice"),
        (get(b"/health", version=b"2.0"), "version"),
        (get(b"/health", version=b"0.9"), "version"),
        (b"GET /health\r\n\r\n", "version"),
        (get(b"/health", version=b"1.2"), "HTTP/1.1"),
        (get(b"/health").replace(b"\r\n", b"\n"), "CRLF"),
        (get(b"/health", b"X: a\r\n folded"), "whitespace"),
        (get(b"/health", b"X : a"), "header"),
        (get(b"/health", b"no colon"), "header"),
        (get(b"/health", b"X: a\x00b"), "header"),
        (get(b"/health", b"X: a\rb"), "HTTP/1.1"),
        (get(b"/caf\xc3\xa9"), "url"),
        (get(b"/a b"), "HTTP/1.1"),
        (get(b"health"), "url"),
        (get(b"/health", method=b"BREW"), "method"),
        (get(b"/health", method=b"get"), "method"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "method"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1"),
    ],
)
def test_what_is_not_http(served: Server, connection: socket.socket, data: bytes, word: str) -> None:
    connection.sendall(data)
    [(status, problem)] = ended(connection)
    assert status == problem["status"] == 400
    assert problem["code"] == "malformed_request"
    assert word in problem["detail"]


SMUGGLED = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: 0x5\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: 5 5\r\n",
        b"Content-Length:\r\n",
        b"Content-Length: 99999999999999999999999999\r\n",
        b"Content-Length: \xb2\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked, gzip\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding:\r\nContent-Length: 5\r\n",
    ],
)
def test_no_request_hides_behind_another_one(connection: socket.socket, lines: bytes) -> None:
    """Whatever two parsers could take for different lengths ends the connection."""
    connection.sendall(TRANSFER + b" HTTP/1.1\r\n" + HOST + JSON + lines + b"\r\n0\r\n\r\n" + SMUGGLED)
    [(status, problem)] = ended(connection)
    assert (status, problem["code"]) in {(400, "malformed_request"), (413, "body_too_large")}


@pytest.mark.parametrize(
    "body", [b"5\nhello\n0\n\n", b"5\r\nhello0\r\n\r\n", b"-5\r\nhello\r\n", b"5 5\r\nhello\r\n", b"f" * 20 + b"\r\n"]
)
def test_chunks_that_are_none(connection: socket.socket, body: bytes) -> None:
    connection.sendall(TRANSFER + b" HTTP/1.1\r\n" + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    [(status, problem)] = ended(connection)
    assert (status, problem["code"]) == (400, "malformed_request")
    # What is known of the path decides how it is told.
    assert (problem["req_id"], problem.get("message")) == ("", problem["detail"])


def test_chunks_are_none_of_http_1_0(connection: socket.socket) -> None:
    head = b"POST /api/v1/transfer HTTP/1.0\r\n" + HOST + JSON
    connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    [(status, _)] = ended(connection)
    assert status == 400


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (get(b"/" + b"a" * 8_191), 404, "no_such_path"),
        (get(b"/" + b"a" * 8_192), 414, "target_too_long"),
        (get(b"/health?" + b"a" * 100_000), 414, "target_too_long"),
        (b"GET /" + b"a" * 100_000, 414, "target_too_long"),
        (get(b"/health", b"X: " + b"x" * 16_000), 200, None),
        (get(b"/health", b"X: " + b"x" * 17_000), 431, "head_too_large"),
        (get(b"/health", b"X: " + b"x" * 100_000), 431, "head_too_large"),
        (get(b"/health")[:-2] + b"X: " + b"x" * 100_000, 431, "head_too_large"),
        (get(b"/health")[:-2] + b"x" * 100_000, 431, "head_too_large"),
        (get(b"/health", *[b"X: y"] * 63), 200, None),
        (get(b"/health", *[b"X: y"] * 64), 431, "head_too_large"),
        (get(b"/health", *[b"X: y"] * 10_000), 431, "head_too_large"),
    ],
)
def test_bounds_of_the_head(connection: socket.socket, data: bytes, status: int, code: str | None) -> None:
    connection.sendall(data)
    with connection.makefile("rb") as stream:
        answer = read_answer(stream)
    assert answer.status == status
    assert json.loads(answer.body).get("code") == code


def test_trailers_and_chunk_extensions_are_bounded(served: Server) -> None:
    head = TRANSFER + b" HTTP/1.1\r\n" + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\n"
    for tail in (b"0\r\n" + b"X: y\r\n" * 100, b"0\r\nX: " + b"y" * 100_000, b"5;" + b"x" * 100_000):
        with connect(served) as connection:
            connection.sendall(head + tail)
            [(status, _)] = ended(connection)
            assert status == 431


def test_pipelined_requests_are_answered_in_order(connection: socket.socket) -> None:
    targets = [b"/api/v1/balances/%d" % user if user % 3 else b"/nothing/%d" % user for user in range(1, 500)]
    connection.sendall(b"".join(get(target) for target in targets))
    with connection.makefile("rb") as stream:
        statuses = [read_answer(stream).status for _ in targets]
    assert statuses == [200 if user % 3 else 404 for user in range(1, 500)]


def test_pipelined_transfers_are_taken_in_their_order_and_beside_each_other(tmp_path: Path) -> None:
    config = {**CONFIG, "deadline_ms": 10_000, "service_timeout_ms": 10_000}
    with running_server(tmp_path, config=config) as server, connect(server) as connection:
        count = 20
        for user_id in range(1, count + 1):
            server.credit(user_id, 1_000_000)
        server.client.put(BEHAVIOUR, json=SLOW)
        began = time.monotonic()
        # The money comes with the first and is sent on with the second: only in this order can both succeed.
        connection.sendall(
            b"".join(
                post(transfer(user_id=user_id, **fields))
                for user_id in range(1, count + 1)
                for fields in ({}, {"from": "trading", "to": "core"})
            )
        )
        with connection.makefile("rb") as stream:
            told = [json.loads(read_answer(stream).body)["status"] for _ in range(2 * count)]
        assert told == ["committed"] * 2 * count
        assert time.monotonic() - began < count * SLOW["latency_ms"] / 1_000, "they were answered one after the other"
        assert server.stop() == 0


def test_an_answer_does_not_wait_for_those_behind_it(tmp_path: Path) -> None:
    config = {**CONFIG, "deadline_ms": 20_000, "service_timeout_ms": 20_000}
    with running_server(tmp_path, config=config) as server, connect(server) as connection:
        server.credit(1, 1_000_000)
        server.client.put(BEHAVIOUR, json={**SLOW, "latency_ms": 15_000})
        connection.sendall(get(b"/health") + post(transfer(to="core"), b"Idempotency-Key: a") + get(b"/health"))
        connection.settimeout(10)
        with connection.makefile("rb") as stream:
            assert read_answer(stream).status == 200
        server.kill()


def test_what_waits_behind_the_last_request_is_left_out(connection: socket.socket) -> None:
    connection.sendall(get(b"/health", b"Connection: close") + get(b"/nothing") * 3)
    assert [status for status, _ in ended(connection)] == [200]


def test_what_stands_before_a_fault_is_answered(connection: socket.socket) -> None:
    connection.sendall(get(b"/health") + get(b"/nothing") + b"no request\r\n\r\n" + get(b"/health"))
    assert [status for status, _ in ended(connection)] == [200, 404, 400]


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        (get(b"/health", b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABk"), [200]),
        (get(b"/health", b"Upgrade: h2c", b"Connection: Upgrade") + get(b"/health"), [200]),
        (b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n" + get(b"/health"), [404]),
        (post(transfer(), b"Upgrade: h2c", b"Connection: Upgrade"), [400]),
        (get(b"/health", b"Upgrade: h2c"), [200]),
    ],
)
def test_other_protocols_are_not_spoken(connection: socket.socket, data: bytes, statuses: list[int]) -> None:
    connection.sendall(data)
    if b"Connection" not in data and not data.startswith(b"CONNECT"):
        connection.shutdown(socket.SHUT_WR)
    assert [status for status, _ in ended(connection)] == statuses


def test_a_websocket_behind_another_request(connection: socket.socket) -> None:
    handshake = (b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13")
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    ping = b'{"op":"ping","id":7}'
    frame = bytes((0x81, 0x80 | len(ping))) + bytes(4) + ping
    connection.sendall(get(b"/health") + get(b"/api/v1/ws", *handshake, key) + frame)
    with connection.makefile("rb") as stream:
        answer = read_answer(stream)
        assert answer.status == 200
        assert b"connection" not in answer.headers
        assert stream.readline().startswith(b"HTTP/1.1 101")
        while line := stream.readline().strip():
            if line.lower().startswith(b"sec-websocket-accept"):
                assert line.endswith(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        kind, size = stream.read(2)
        assert kind == 0x81
        assert json.loads(stream.read(size))["id"] == 7


def test_expect_100_continue(served: Server) -> None:
    body = transfer(amount=0)
    head = TRANSFER + b" HTTP/1.1\r\n" + HOST + JSON + b"Expect: 100-Continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    with connect(served) as connection, connection.makefile("rb") as stream:
        for _ in range(2):
            connection.sendall(head)
            assert stream.readline() + stream.readline() == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(body)
            assert read_answer(stream).status == 422
        connection.sendall(head + body)  # who does not wait is not asked to go on
        assert read_answer(stream).status == 422
        connection.sendall(head.replace(b"Content-Length: ", b"Content-Length: 999999"))
        assert read_answer(stream).status == 413


def open_connections(server: Server) -> int:
    """How many sockets the server's process has open."""
    found = 0
    for link in Path(f"/proc/{server.process.pid}/fd").iterdir():
        try:
            found += str(link.readlink()).startswith("socket:")
        except FileNotFoundError:
            continue
    return found


def test_slow_heads_and_bodies_are_given_up(tmp_path: Path) -> None:
    config = {**CONFIG, "body_timeout_ms": 200, "keep_alive_ms": 60_000}
    with running_server(tmp_path, config=config) as server:
        before = open_connections(server)
        requests = {b"GET /hea": "head_too_slow", post(transfer())[:-10]: "body_too_slow"}
        for data, code in requests.items():
            for drip in (b"", b"l"):
                with connect(server) as connection:
                    connection.sendall(data)
                    connection.settimeout(0.05)
                    answer = b""
                    while not answer:
                        try:
                            answer = connection.recv(65_536)
                        except TimeoutError:
                            connection.sendall(drip)
                    assert answer.startswith(b"HTTP/1.1 408")
                    assert f'"code":"{code}"'.encode() in answer
                    assert b'"retryable":true' in answer
        eventually(lambda: open_connections(server), lambda now: now <= before, patience_s=10)
        assert server.faults == []
        assert server.stop() == 0


def test_many_dripping_clients_do_not_keep_others_from_being_served(tmp_path: Path) -> None:
    with running_server(tmp_path, config={**CONFIG, "body_timeout_ms": 2_000}) as server:
        drips = [connect(server) for _ in range(200)]
        for index, drip in enumerate(drips):
            drip.sendall(post(transfer())[: 1 + index])
        with connect(server) as connection, connection.makefile("rb") as stream:
            for _ in range(100):
                connection.sendall(get(b"/health"))
                assert read_answer(stream).status == 200
        for drip in drips:
            drip.close()
        assert server.faults == []
        assert server.stop() == 0


def test_blank_lines_do_not_keep_a_connection(tmp_path: Path) -> None:
    with running_server(tmp_path, config={**CONFIG, "keep_alive_ms": 300}) as server, connect(server) as connection:
        eventually(lambda: takes_blank_lines(connection), lambda takes: not takes)
        assert server.stop() == 0


def takes_blank_lines(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"\r\n")
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


@pytest.mark.parametrize("at_once", [1, 10])
def test_a_stop_lets_answers_out_and_says_that_they_are_the_last(tmp_path: Path, at_once: int) -> None:
    config = {**CONFIG, "deadline_ms": 10_000, "service_timeout_ms": 10_000}
    with running_server(tmp_path, config=config) as server, connect(server) as connection, connect(server) as idle:
        server.credit(1, 1_000_000)
        server.client.put(BEHAVIOUR, json={**SLOW, "latency_ms": 700})
        connection.sendall(get(b"/health") * (at_once - 1) + post(transfer(to="core")))
        while server.client.get("/api/v1/admin/statistics").json()["open_transfers"] == 0:
            pass
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert idle.recv(1) == b""
        with connection.makefile("rb") as stream:
            answers = [read_answer(stream) for _ in range(at_once)]
            assert stream.read() == b""
        assert json.loads(answers[-1].body)["status"] == "committed"
        assert [answer.headers.get(b"connection") for answer in answers] == [None] * (at_once - 1) + [b"close"]
        assert server.wait() == 0
        assert time.monotonic() - began < 8, "it waited for its deadline"
        assert server.faults == []


def test_a_stop_waits_for_no_half_request_for_ever(tmp_path: Path) -> None:
    config = {**CONFIG, "body_timeout_ms": 600_000}
    with running_server(tmp_path, config=config) as server, connect(server) as connection:
        connection.sendall(post(transfer())[:-1])
        assert server.client.get("/health").status_code == 200
        assert server.stop() == 0
        assert connection.recv(1) == b""


def test_the_port_after_the_main_doors_is_in_use(tmp_path: Path) -> None:
    for _ in range(20):  # until there are two free ports, one after the other
        with socket.create_server(("127.0.0.1", 0)) as found:
            port = found.getsockname()[1] - 1
        try:
            with socket.create_server(("127.0.0.1", port)):
                pass
            taken = socket.create_server(("127.0.0.1", port + 1))
            break
        except OSError:
            continue
    with taken:
        ended = run_command("serve", "--port", str(port), "--data-dir", str(tmp_path / "data"))
    assert ended.returncode == 1
    assert re.search(rf"port {port + 1} .* is in use: .*express_port", ended.stderr)
    assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "data").exists()


def test_no_port_comes_after_the_last(tmp_path: Path) -> None:
    ended = run_command("serve", "--port", "65535", "--data-dir", str(tmp_path / "data"))
    assert ended.returncode == 1
    assert "express_port" in ended.stderr


def test_the_door_can_stay_closed(tmp_path: Path) -> None:
    with running_server(tmp_path, config={"express": False}) as server:
        assert server.client.get("/health").status_code == 200
        assert server.stop() == 0
        assert server.process.stdout is not None
        assert server.process.stdout.read() == b""
