"""Either door at the level of bytes: bounds, doubled headers, clients that leave or dawdle."""

import json
import socket
from collections.abc import Iterator

import pytest

from support.server import PATIENCE_S, Server, eventually, running_server

from .conftest import CONFIG

LIMIT = 64 << 10
BODY = json.dumps({"from": "funding", "to": "trading", "user_id": 7, "asset_id": 1, "amount": 0}).encode()
HEAD = b"POST /api/v1/transfer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture
def server(door: Server) -> Server:
    """Every test runs at both doors."""
    return door


@pytest.fixture
def connection(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as stream:
        yield stream


def read_answer(stream: socket.socket) -> tuple[int, bytes, bytes]:
    """Read one answer with a Content-Length: its status, head and body."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = stream.recv(65_536)
        assert chunk, f"closed after {data!r}"
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    [length] = [
        int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    ]
    while len(body) < length:
        body += stream.recv(65_536)
    return int(head.split()[1]), head, body


def test_a_body_over_the_limit(server: Server) -> None:
    padding = b" " * (LIMIT - len(BODY))
    headers = {"Content-Type": "application/json"}
    fits = server.client.post("/api/v1/transfer", content=BODY + padding, headers=headers)
    assert fits.status_code == 422
    over = server.client.post("/api/v1/transfer", content=BODY + padding + b" ", headers=headers)
    assert over.status_code == 413
    assert over.json()["code"] == "body_too_large"
    assert over.json()["status"] == "failed"
    assert "65536 bytes" in over.json()["message"]


@pytest.mark.parametrize("path", ["/api/v1/transfer", "/api/v1/nothing", "/nothing"])
def test_a_huge_body_gets_its_answer(server: Server, path: str) -> None:
    headers = {"Content-Type": "application/json"}
    for _ in range(3):
        answer = server.client.post(path, content=b"[" * (900 << 10), headers=headers)
        assert answer.status_code == 413
        assert server.client.get("/health").status_code == 200


def test_a_body_without_end_is_cut_off(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Content-Length: 99999999999\r\n\r\n")
    assert read_answer(connection)[0] == 413
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        connection.sendall(bytes(64 << 20))


def test_a_chunked_body_over_the_limit(server: Server) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(17):
            yield b" " * 4_096

    answer = server.client.post("/api/v1/transfer", content=chunks(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_a_chunked_body_within_the_limit(server: Server) -> None:
    def chunks() -> Iterator[bytes]:
        yield from (BODY[index : index + 1] for index in range(len(BODY)))

    answer = server.client.post("/api/v1/transfer", content=chunks(), headers={"Content-Type": "application/json"})
    assert answer.json()["message"] == "Amount must be positive"


def test_a_body_that_is_announced_too_large_is_refused_at_once(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Content-Length: 99999999999\r\n\r\n")
    assert read_answer(connection)[0] == 413


def test_pipelined_requests_are_answered_in_order(connection: socket.socket) -> None:
    transfer = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    connection.sendall(transfer + b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" + transfer)
    stream = connection.makefile("rb")
    statuses = []
    for _ in range(3):
        statuses.append(int(stream.readline().split()[1]))
        length = 0
        while (line := stream.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length"):
                length = int(line.partition(b":")[2])
        stream.read(length)
    stream.close()
    assert statuses == [422, 200, 422]


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: x\r\n",
        b"Content-Length: -1\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"X: " + b"x" * 70_000 + b"\r\n",
        b"no colon\r\n",
    ],
)
def test_malformed_heads_are_refused(connection: socket.socket, head: bytes) -> None:
    connection.sendall(HEAD + head + b"\r\nhello")
    answer = connection.recv(65_536)
    assert answer.split()[1] in {b"400", b"431", b"501"}
    assert b"Traceback" not in answer


def test_a_target_in_absolute_form(connection: socket.socket) -> None:
    connection.sendall(b"GET http://somewhere:80/health?x=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert read_answer(connection)[0] == 200


def test_http_1_0(connection: socket.socket) -> None:
    connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
    assert read_answer(connection)[0] == 200


def test_expect_100_continue(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
    assert connection.recv(65_536).startswith(b"HTTP/1.1 100")
    connection.sendall(BODY)
    assert read_answer(connection)[0] == 422


@pytest.mark.parametrize("path", ["/api/v1/transfer", "/nothing"])
def test_a_websocket_is_refused_without_a_traceback(server: Server, connection: socket.socket, path: str) -> None:
    upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    connection.sendall(
        b"GET " + path.encode() + b" HTTP/1.1\r\nHost: localhost\r\nSec-WebSocket-Version: 13\r\n" + upgrade + b"\r\n"
    )
    assert connection.recv(65_536).split()[1] in {b"403", b"404"}
    assert server.faults == []


def test_a_client_that_leaves_at_once_has_its_transfer_made(server: Server) -> None:
    server.credit(70, 1_000)
    body = json.dumps({"from": "funding", "to": "trading", "user_id": 70, "asset_id": 1, "amount": 1_000}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as stream:
        stream.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    eventually(lambda: server.balance(70, "trading"), lambda balance: balance == (1_000, 0))


def test_clients_that_leave_within_a_request_leave_nothing(server: Server) -> None:
    for cut in (10, len(HEAD), len(HEAD) + 30):
        request = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
        with socket.create_connection(("127.0.0.1", server.port)) as stream:
            stream.sendall(request[:cut])
    assert server.client.get("/health").status_code == 200
    assert server.faults == []


def test_a_body_that_does_not_come_is_given_up(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("dawdler")
    with running_server(directory, config={**CONFIG, "body_timeout_ms": 100}) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as stream:
            stream.sendall(HEAD + b"Content-Length: 10\r\n\r\nhalf")
            status, _, body = read_answer(stream)
        assert status == 408
        assert json.loads(body)["code"] == "body_too_slow"
        assert json.loads(body)["retryable"] is True
        assert server.stop() == 0
