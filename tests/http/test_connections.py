"""What a connection may do to the others and to the server: nothing."""

import json
import signal
import socket
from pathlib import Path

import httpx
import pytest

from support.server import PATIENCE_S, Server, eventually, running_server

from .conftest import CONFIG, DOORS

GET_HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def server(door: Server) -> Server:
    """Every test runs at both doors."""
    return door


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)


def open_sockets(server: Server) -> int:
    """How many sockets the server's process has open."""
    links = Path(f"/proc/{server.process.pid}/fd").iterdir()
    found = 0
    for link in links:
        try:
            found += str(link.readlink()).startswith("socket:")
        except FileNotFoundError:
            continue
    return found


def test_a_faulty_connection_ends_alone(tmp_path: Path) -> None:
    """Hypercorn falls over HTTP/2 data for a stream that it has answered; only that connection may feel it."""
    with running_server(tmp_path) as server:
        _provoke(server)
        assert server.client.get("/health").json()["status"] == "healthy"
        assert "Traceback" not in server.logged
        assert server.stop() == 0


def _provoke(server: Server) -> None:
    with httpx.Client(base_url=server.url, http1=False, http2=True, trust_env=False) as http2:
        assert http2.get("/health").http_version == "HTTP/2"
        for size in (100_000, 3_000_000):
            try:
                answer = http2.post("/api/v1/transfer", content=bytes(size), headers=JSON)
            except httpx.TransportError:  # that connection is over
                continue
            assert answer.status_code == 413
    for junk in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100, b"\x16\x03\x01\x02\x00", b"\x00" * 100_000):
        with connect(server) as stream:
            stream.sendall(junk)
            stream.shutdown(socket.SHUT_WR)
            while True:
                try:
                    if not stream.recv(65_536):
                        break
                except ConnectionResetError:
                    break


def test_an_answer_is_one_packet(server: Server) -> None:
    with connect(server) as stream:
        stream.sendall(GET_HEALTH)
        answer = stream.recv(65_536)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert json.loads(body)["status"] == "healthy"


def test_a_head_without_body_is_sent_too(server: Server) -> None:
    with connect(server) as stream:
        for _ in range(2):
            stream.sendall(GET_HEALTH.replace(b"GET", b"HEAD"))
            assert stream.recv(65_536).startswith(b"HTTP/1.1 200")


def test_connections_whose_clients_have_left_are_closed(server: Server) -> None:
    before = open_sockets(server)
    for _ in range(50):
        with connect(server) as stream:
            stream.sendall(GET_HEALTH)
            assert stream.recv(65_536)
    eventually(lambda: open_sockets(server), lambda now: now <= before + 1, patience_s=5)


@pytest.mark.parametrize("name", DOORS)
def test_idle_connections_are_closed_and_busy_ones_are_not(tmp_path: Path, name: str) -> None:
    config = {**CONFIG, "keep_alive_ms": 100, "deadline_ms": 600}
    with running_server(tmp_path, config=config, door=name) as server:
        server.credit(1, 1_000)
        server.client.put("/api/v1/admin/simulated-cores/core/behaviour", json={"ops": ["deposit"], "latency_ms": 400})
        with connect(server) as idle:
            assert idle.recv(1) == b""
        body = json.dumps({"from": "funding", "to": "core", "user_id": 1, "asset_id": 1, "amount": 1}).encode()
        head = b"POST /api/v1/transfer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with connect(server) as busy:
            busy.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert b"HTTP/1.1 20" in busy.recv(65_536)
            assert busy.recv(1) == b""
        assert server.stop() == 0


@pytest.mark.parametrize("name", DOORS)
def test_connections_beyond_the_bound_are_closed_at_once(tmp_path: Path, name: str) -> None:
    with running_server(tmp_path, config={**CONFIG, "connections_most": 3}, door=name) as server:
        streams = [connect(server) for _ in range(3)]
        for stream in streams:
            stream.sendall(GET_HEALTH)
            assert stream.recv(65_536).startswith(b"HTTP/1.1 200")
        with connect(server) as one_more:
            assert one_more.recv(1) == b""
        for stream in streams:
            stream.close()
        eventually(lambda: _answers(server), lambda answers: answers)
        assert server.stop() == 0


def _answers(server: Server) -> bool:
    try:
        with connect(server) as stream:
            stream.sendall(GET_HEALTH)
            return stream.recv(65_536).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


@pytest.mark.parametrize("name", DOORS)
def test_a_client_that_never_reads_does_not_hold_up_the_stop(tmp_path: Path, name: str) -> None:
    with (
        running_server(tmp_path, config={**CONFIG, "send_timeout_ms": 300}, door=name) as server,
        connect(server) as greedy,
    ):
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        greedy.setblocking(False)
        requests = GET_HEALTH * 1_000
        sent = 0
        while sent < 50_000_000:
            try:
                sent += greedy.send(requests)
            except BlockingIOError:
                if server.client.get("/health").status_code == 200:
                    break
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.parametrize("name", DOORS)
def test_a_client_that_never_reads_is_cut_off(tmp_path: Path, name: str) -> None:
    with running_server(tmp_path, config={**CONFIG, "send_timeout_ms": 100}, door=name) as server:
        before = open_sockets(server)
        with connect(server) as greedy:
            greedy.settimeout(PATIENCE_S)
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                greedy.sendall(GET_HEALTH * 2_000_000)
        eventually(lambda: open_sockets(server), lambda now: now <= before)
        assert "Traceback" not in server.logged
        assert server.stop() == 0
